import CProton
import Core
import Testing

@testable import AMQP

/// Messages as receivers get them.
@Suite struct OutgoingMessageTests {
    private let stand = MessageStand()

    private static let annotated = "00 53 72 c1 16 04 a3 01 'a' a1 01 'b' a3 0c 'x-opt-retain' 41"
    private static let bareText = "00 53 73 c0 06 03 a1 01 'i' 40 40 00 53 75 a0 01 'x'"

    // MARK: Messages as received

    @Test func aMessageGoesOnAsItIs() throws {
        for text in [
            "00 53 75 a0 01 'x'", "00 53 77 a1 01 'x'", "00 53 70 c0 02 01 41 00 53 75 b0 00000001 'x'", "00 53 77 40",
            "00 53 72 c1 05 02 a3 01 'a' 40 \(Self.bareText)", "00 53 70 45 00 53 72 c1 01 00 \(Self.bareText)",
            "00 53 70 c0 04 02 40 50 09 00 80 0000000000000075 a0 00", "",
        ] {
            #expect(try stand.passed(hex(text)) == hex(text), "\(text)")
        }
    }

    @Test func whatIsOfTheHopIsNotPassedOn() throws {
        let kept = "00 53 72 c1 07 02 a3 01 'a' a1 01 'b'"
        let cases: [(String, String)] = [
            ("00 53 71 c1 05 02 a3 01 'd' 40", ""),
            ("00 53 70 c0 05 04 41 40 40 41", "00 53 70 c0 02 01 41"),
            ("00 53 70 c0 08 05 41 50 07 40 42 52 02", "00 53 70 c0 04 02 41 50 07"),
            ("00 53 70 c0 06 05 40 40 40 41 43", ""),
            (Self.annotated, kept),
            ("00 53 72 c1 14 04 a3 0b 'x-opt-topic' a1 01 't' 53 01 40", "00 53 72 c1 04 02 53 01 40"),
            ("00 53 72 c1 10 02 a3 0c 'x-opt-retain' 42", ""),
        ]
        for (text, wanted) in cases {
            let message = try stand.passed(hex(text + Self.bareText))
            #expect(message == hex(wanted + Self.bareText), "\(text)")
        }
    }

    @Test func optionsAreWrittenInFront() throws {
        let message = hex("00 53 70 c0 04 02 41 50 07 \(Self.annotated) \(Self.bareText)")
        var options = MessageOptions(needsTopic: true, deliveryCount: 3, isRetained: true)
        let all = """
            00 53 70 c0 08 05 41 50 07 40 40 52 03
            00 53 72 c1 28 06 a3 01 'a' a1 01 'b' a3 0c 'x-opt-retain' 41 a3 0b 'x-opt-topic' a1 03 'a/b'
            """
        #expect(try stand.passed(message, options, topic: "a/b") == hex(all + Self.bareText))
        #expect(stand.sent(try stand.event(message, topic: "a/b"), options) == hex(all + Self.bareText))
        options = MessageOptions(deliveryCount: 300)
        let some = "00 53 70 c0 0b 05 41 50 07 40 40 70 0000012c 00 53 72 c1 07 02 a3 01 'a' a1 01 'b'"
        #expect(try stand.passed(message, options) == hex(some + Self.bareText))
    }

    @Test func whatIsLeftOfTheTimeIsSaid() throws {
        stand.lane.now = 10_000
        let message = hex("00 53 70 c0 05 03 41 40 52 64 00 53 75 a0 01 'x'")
        let left = { (header: String) in hex("00 53 70 \(header) 00 53 75 a0 01 'x'") }
        // Not a millisecond has gone by: as received.
        #expect(try stand.passed(message, expiresAt: 10_100) == message)
        #expect(try stand.passed(message, expiresAt: 10_099) == left("c0 05 03 41 40 52 63"))
        #expect(try stand.passed(message, expiresAt: 11_000) == left("c0 08 03 41 40 70 000003e8"))
        #expect(try stand.passed(message, expiresAt: 9_000) == left("c0 05 03 41 40 52 01"))
        #expect(try stand.passed(message, expiresAt: .max) == left("c0 08 03 41 40 70 ffffffff"))
        let event = try stand.event(message, expiresAt: 10_050)
        #expect(stand.sent(event) == left("c0 05 03 41 40 52 32"))
        stand.lane.now = 10_020
        #expect(stand.sent(event) == left("c0 05 03 41 40 52 1e"))
    }

    // MARK: Events of other protocols

    @Test func anEventWithoutPropertiesHasItsTopic() {
        let event = stand.event(EventPropertiesWriter(), Array("x".utf8), topic: "a/b")
        #expect(stand.sent(event) == hex("00 53 73 c0 08 03 40 40 a1 03 'a/b' 00 53 75 a0 01 'x'"))
        let prefixed = MessageStand(usesTopicPrefix: true)
        #expect(prefixed.sent(event) == hex("00 53 73 c0 10 03 40 40 a1 0b 'topic://a/b' 00 53 75 a0 01 'x'"))
    }

    @Test func everyPropertyHasItsPlace() {
        var writer = EventPropertiesWriter()
        writer.add(.contentType, Array("a/b".utf8))
        writer.add(.responseTopic, Array("r".utf8))
        writer.add(.correlationData, [1, 2])
        writer.addUser(Array("partitionkey".utf8), Array("k".utf8))
        writer.addUser(Array("n".utf8), Array("v".utf8))
        writer.add(.messageID, Array("m".utf8))
        writer.add(.priority, byte: 7)
        let event = stand.event(writer, Array("x".utf8), qos: 1)
        let wanted = """
            00 53 70 c0 04 02 41 50 07
            00 53 73 c0 1b 0b a1 01 'm' 40 a1 01 't' 40 a1 01 'r' a0 02 0102 a3 03 'a/b' 40 40 40 a1 01 'k'
            00 53 74 c1 07 02 a1 01 'n' a1 01 'v' 00 53 75 a0 01 'x'
            """
        #expect(stand.sent(event) == hex(wanted))
    }

    @Test(arguments: [
        ("a/b", true, "a/b"), ("", true, ""), (nil, true, "text/plain; charset=utf-8"), (nil, false, nil),
        ("ä", false, nil), ("ä", true, "text/plain; charset=utf-8"),
    ])
    func contentTypes(_ type: String?, _ isText: Bool, _ wanted: String?) throws {
        var writer = EventPropertiesWriter()
        if let type { writer.add(.contentType, Array(type.utf8)) }
        if isText { writer.add(.payloadFormat, byte: 1) }
        let proton = try #require(ProtonMessage(stand.sent(stand.event(writer, []))))
        #expect(ProtonMessage.text(pn_message_get_content_type(proton.message)) == wanted)
    }

    @Test(arguments: [
        ("'text'", "a1 04 'text'"), ("c3a4", "a1 02 c3a4"), ("", "a1 00"), ("00", "a0 01 00"),
        ("'a' 09", "a0 02 'a' 09"),
        ("7f", "a0 01 7f"), ("c3", "a0 01 c3"),
        ("00112233445566778899aabbccddeeff", "a0 10 00112233445566778899aabbccddeeff"),
    ])
    func namesAreStringsWhenTheyAreText(_ name: String, _ wanted: String) throws {
        var writer = EventPropertiesWriter()
        writer.add(.correlationData, hex(name))
        let sent = stand.sent(stand.event(writer, []))
        let field = hex(wanted)
        #expect(
            sent == hex("00 53 73 c0") + [UInt8(field.count + 8), 6] + hex("40 40 a1 01 't' 40 40") + field
                + hex("00 53 75 a0 00"))
        #expect(try stand.unpacked(sent).properties == lines(of: writer))
    }

    @Test func protonReadsWhatWeWrite() throws {
        var writer = EventPropertiesWriter()
        writer.add(.responseTopic, Array("r/ä".utf8))
        writer.add(.correlationData, Array("c".utf8))
        for (name, value) in [("a", "1"), ("b", ""), ("ä", "ö"), ("a", "2"), ("partitionkey", "p")] {
            writer.addUser(Array(name.utf8), Array(value.utf8))
        }
        writer.add(.messageID, Array("m".utf8))
        stand.lane.now = 5
        let event = stand.event(writer, [UInt8](repeating: 0x61, count: 300), topic: "a/ä", qos: 1, expiresAt: 1_005)
        let bytes = stand.sent(event, MessageOptions(needsTopic: true, deliveryCount: 2, isRetained: true))
        let proton = try #require(ProtonMessage(bytes))
        let message = proton.message
        #expect(pn_message_is_durable(message) && pn_message_get_ttl(message) == 1_000)
        #expect(pn_message_get_delivery_count(message) == 2 && !pn_message_is_first_acquirer(message))
        #expect(ProtonMessage.text(pn_message_get_address(message)) == "a/ä")
        #expect(ProtonMessage.text(pn_message_get_reply_to(message)) == "r/ä")
        #expect(ProtonMessage.text(pn_message_get_group_id(message)) == "p")
        #expect(proton.strings(pn_message_properties(message)) == ["b=", "ä=ö", "a=2"])
        #expect(
            proton.strings(pn_message_annotations(message))
                == ["x-opt-retain=true", "x-opt-topic=a/ä", "x-opt-user-properties=?"])
        let body = pn_message_body(message)
        #expect(pn_data_next(body) && pn_data_type(body) == PN_BINARY && pn_data_get_binary(body).size == 300)
    }

    private func lines(of writer: EventPropertiesWriter) -> [String] {
        writer.finish().bytes.withUnsafeBytes { AMQPTests.lines($0) }
    }

    // MARK: Once for all

    @Test func aRunIsEncodedOnceForAllReceivers() throws {
        let messages = ["x", "y", "z"].map { hex("\(Self.annotated) 00 53 75 a0 01 '\($0)'") }
        try stand.packed(messages, topic: "a") { run in
            for options in [MessageOptions(), MessageOptions(needsTopic: true), MessageOptions(isRetained: true)] {
                let first = stand.outgoing.message(run, 0, options, on: stand.lane)
                let (start, bytes) = (first.first.baseAddress, first.bytes)
                for index in 0..<3 {
                    // Another receiver, for which it is not the same, comes in between; so does an event that waited.
                    if options != MessageOptions(isRetained: true) {
                        let other = MessageOptions(needsTopic: !options.needsTopic)
                        _ = stand.outgoing.message(run, index, other, on: stand.lane)
                    }
                    _ = stand.sent(stand.event(EventPropertiesWriter(), [1, 2, 3]))
                    let parts = stand.outgoing.message(run, index, options, on: stand.lane)
                    #expect(parts.first.baseAddress == start, "it is the same memory")
                    #expect(parts.bytes == bytes.dropLast() + [messages[index].last ?? 0])
                    let payload = run.pointee.events[index].payload
                    #expect(parts.second.baseAddress.map { $0 + parts.second.count == payload + 1 } ?? false)
                }
            }
        }
        // What was kept is not taken for the next run.
        let next = hex("00 53 75 a0 01 'n'")
        #expect(try stand.passed(next) == next)
        #expect(try stand.passed(next, MessageOptions(isRetained: true)).count > next.count)
    }

    @Test func runsOfOtherProtocolsAreEncodedOnceToo() {
        var writer = EventPropertiesWriter()
        writer.addUser(Array("k".utf8), Array("v".utf8))
        let (properties, _) = writer.finish()
        let bytes = Array("topic".utf8) + properties + Array(repeating: 0x61, count: 256)
        bytes.withUnsafeBytes { buffer in
            let base = buffer.baseAddress.unsafelyUnwrapped
            let payload = base + 5 + properties.count
            var views = [0, 1, 255, 256].map { EventView(payload: payload, payloadLength: $0) }
            views.withUnsafeMutableBufferPointer { views in
                var run = EventRun(
                    topic: base, topicLength: 5, events: views.baseAddress.unsafelyUnwrapped, count: 4, wire: base,
                    wireLength: 0, properties: base + 5, propertiesLength: properties.count, publisher: .none,
                    layout: .none, qos: 0, isRetained: false)
                let head = "00 53 73 c0 0a 03 40 40 a1 05 'topic' 00 53 74 c1 07 02 a1 01 'k' a1 01 'v' 00 53 75"
                let starts = ["a0 00", "a0 01", "a0 ff", "b0 00000100"]
                withUnsafePointer(to: &run) { run in
                    for _ in 0..<2 {
                        for (index, start) in starts.enumerated() {
                            let parts = stand.outgoing.message(run, index, MessageOptions(), on: stand.lane)
                            let count = Int(run.pointee.events[index].payloadLength)
                            #expect(parts.bytes == hex("\(head) \(start)") + Array(repeating: 0x61, count: count))
                            #expect(parts.fourth.baseAddress == payload, "the payload is not copied")
                        }
                    }
                }
            }
        }
    }
}
