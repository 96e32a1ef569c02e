import CProton
import Testing

@testable import AMQP

/// Messages as they come: their parts, and those that are none.
@Suite struct IncomingMessageTests {
    @Test func theTableIsLargeEnough() { #expect(MessageCases.malformed.count >= 80) }

    @Test(arguments: MessageCases.malformed) func whatIsNoMessageIsRefused(_ bytes: String, _ error: String) {
        let found = failure(hex(bytes))
        #expect(found?.text == error)
        let isLimit = error.hasSuffix("too many values")
        #expect(found?.condition == (isLimit ? .resourceLimitExceeded : .decodeError))
    }

    /// A message with everything in it, in three encodings of its descriptors.
    private static let whole = [
        "00 53 70 c0 09 05 41 50 07 52 64 41 52 02", "00 53 71 c1 05 02 a3 01 'd' 40",
        "00 53 72 c1 12 04 a3 01 'a' 40 a3 0c 'x-opt-retain' 41",
        "00 53 73 c0 16 09 a1 01 'i' 40 a1 01 't' 40 40 40 40 40 83 0000000000000065",
        "00 53 74 c1 07 02 a1 01 'k' a1 01 'v'", "00 53 75 a0 03 'abc'",
        "00 53 78 c1 05 02 a3 01 'f' 40",
    ]

    @Test func allSectionsAreFound() throws {
        var text = Self.whole
        text[2] = "00 53 72 c1 14 04 a3 01 'a' 40 a3 0c 'x-opt-retain' 41"
        let bytes = text.flatMap { hex($0) }
        try sections(bytes) { found in
            #expect(found.isDurable && found.priority == 7 && found.ttlMilliseconds == 100)
            #expect(found.isFirstAcquirer && found.deliveryCount == 2)
            #expect(found.hasDeliveryAnnotations && found.isRetained && found.hasHopAnnotations)
            #expect(Array(bytes[found.annotations]) == hex(text[2]))
            #expect(found.to.map { Array($0) } == hex("'t'") && found.absoluteExpiryTime == 101)
            #expect(Array(bytes[found.bareStart..<found.bodyStart]) == hex(text[3]) + hex(text[4]))
            #expect(found.body == .data && found.bodySections == 1 && !found.isPlain)
            #expect(Array(bytes[found.footerStart...]) == hex(text[6]))
        }
        let plain = text.dropLast().flatMap { hex($0) }
        try plain.withUnsafeBytes { buffer in
            let message = try IncomingMessage(buffer)
            #expect(message.isPlain && Array(message.payload) == hex("'abc'"))
            #expect(message.head.count == plain.count - 3)
        }
        // Each prefix of it is a message only where a section ends.
        var ends: Set<Int> = [0]
        for section in text { ends.insert((ends.max() ?? 0) + hex(section).count) }
        for count in 0...bytes.count { #expect((failure(Array(bytes[..<count])) == nil) == ends.contains(count)) }
    }

    @Test(arguments: [
        ("00 80 0000000000000070 45 00 80 0000000000000075 b0 00000001 'x'", "x"),
        ("00 a3 10 'amqp:header:list' 45 00 a3 10 'amqp:data:binary' a0 01 'x'", "x"),
        ("00 b3 00000010 'amqp:header:list' 45 00 b3 00000010 'amqp:data:binary' a0 01 'x'", "x"),
        ("00 a3 11 'amqp:amqp-value:*' a1 01 'x'", "x"), ("00 53 77 b1 00000001 'x'", "x"),
        ("00 53 77 a0 01 'x'", "x"), ("00 53 77 b0 00000001 'x'", "x"), ("00 53 77 40", ""), ("00 53 77 a1 00", ""),
        ("00 53 75 a0 00", ""), ("", ""), ("00 53 70 45", ""), ("00 53 73 45 00 53 74 c1 01 00", ""),
        ("00 53 73 d0 00000004 00000000 00 53 74 d1 00000004 00000000 00 53 75 a0 01 'x'", "x"),
        ("00 53 71 c1 01 00 00 53 72 c1 01 00 00 53 75 a0 01 'x'", "x"),
    ])
    func plainMessages(_ text: String, _ payload: String) throws {
        let bytes = hex(text)
        try bytes.withUnsafeBytes { buffer in
            let message = try IncomingMessage(buffer)
            #expect(message.isPlain)
            #expect(Array(message.payload) == Array(payload.utf8))
            #expect(message.head.count + message.payload.count == bytes.count)
        }
    }

    @Test(arguments: [
        ("00 53 75 a0 01 'x' 00 53 75 b0 00000002 'yz' 00 53 75 a0 00", "'xyz'", nil),
        ("00 53 75 a0 01 'x' 00 53 78 c1 01 00", "'x'", nil),
        ("00 53 77 a1 01 'x' 00 53 78 c1 01 00", "00 53 77 a1 01 'x'", "message/vnd.amqp"),
        ("00 53 78 c1 01 00", "", nil),
        ("00 53 77 54 05", "00 53 77 54 05", "message/vnd.amqp"),
        ("00 53 77 41", "00 53 77 41", "message/vnd.amqp"),
        ("00 53 77 c1 06 02 a1 01 'k' 54 05", "00 53 77 c1 06 02 a1 01 'k' 54 05", "message/vnd.amqp"),
        ("00 53 77 00 53 01 40", "00 53 77 00 53 01 40", "message/vnd.amqp"),
        ("00 53 76 c0 02 01 40 00 53 76 45", "00 53 76 c0 02 01 40 00 53 76 45", "message/vnd.amqp"),
    ])
    func otherBodies(_ text: String, _ payload: String, _ type: String?) throws {
        let (properties, found) = try MessageStand().unpacked(
            hex("00 53 73 c0 0a 07 40 40 40 40 40 40 a3 01 'c'" + text))
        #expect(found == hex(payload))
        #expect(properties == ["contentType \(type ?? "c")"])
    }

    @Test func limitsHold() {
        func message(_ value: Int) -> [UInt8] {
            // A map of one annotation of so many bytes: 20 bytes more in front of the body, and 8 of it.
            let value = hex("a3 00 b0") + Self.four(value) + [UInt8](repeating: 0, count: value)
            let map = Self.four(value.count + 4) + Self.four(2) + value
            return hex("00 53 72 d1") + map + hex("00 53 75 b0 00000001 'x'")
        }
        let around = message(0).count - 1
        #expect(failure(message(MessageSections.maxHeadBytes - around)) == nil)
        let error = AMQPError(
            .resourceLimitExceeded, "data: what is not payload is longer than 49152 bytes")
        #expect(failure(message(MessageSections.maxHeadBytes - around + 1)) == error)
        #expect(
            failure(message(1 << 20))?.text == "message-annotations: what is not payload is longer than 49152 bytes")
        // A payload may be as large as it likes.
        #expect(failure(hex("00 53 75 b0 00200000") + [UInt8](repeating: 0, count: 0x20_0000)) == nil)

        func pieces(_ count: Int) -> [UInt8] { (0..<count).flatMap { _ in hex("00 53 75 a0 01 'x'") } }
        #expect(failure(pieces(1_024)) == nil)
        #expect(failure(pieces(1_025)) == AMQPError(.resourceLimitExceeded, "data: there are too many values"))
        // What stands between the pieces counts with the head.
        let long = (0..<1_024).flatMap { _ in hex("00 b3 00000010 'amqp:data:binary' b0 00000001 'x'") }
        #expect(failure(long) == nil)
        let header = hex("00 53 72 d1 00005a0b 00000002 a3 00 b0 00005a00") + [UInt8](repeating: 0, count: 0x5A00)
        #expect(failure(header + long)?.condition == .resourceLimitExceeded)
        let footer = hex("00 53 78 d1 0000c00b 00000002 a3 00 b0 0000c000") + [UInt8](repeating: 0, count: 0xC000)
        #expect(failure(hex("00 53 75 a0 00") + footer)?.condition == .resourceLimitExceeded)
        // Values in the head, and as many in a body as it has bytes.
        func nulls(_ count: Int) -> [UInt8] {
            Self.four(count + 4) + Self.four(count) + [UInt8](repeating: 0x40, count: count)
        }
        let body = hex("00 53 77 d0") + nulls(100_000)
        #expect(failure(body) == nil)
        let list = hex("a3 00 d0") + nulls(16_383)
        let head = hex("00 53 72 d1") + Self.four(list.count + 4) + Self.four(2) + list
        #expect(failure(head + hex("00 53 75 a0 00"))?.text == "message-annotations: there are too many values")
    }

    static func four(_ number: Int) -> [UInt8] { withUnsafeBytes(of: UInt32(number).bigEndian) { Array($0) } }

    @Test func ourAnnotationsAreKnownByTheirNames() throws {
        for (text, isRetained, isOfHop) in [
            ("a3 0c 'x-opt-retain' 41", true, true), ("b3 0000000c 'x-opt-retain' 56 01", true, true),
            ("a3 0c 'x-opt-retain' 42", false, true), ("a3 0c 'x-opt-retain' 53 01", false, true),
            ("a3 0c 'x-opt-retaim' 41", false, false), ("a3 0b 'x-opt-topic' a1 01 't'", false, true),
            ("53 0c 41", false, false), ("a3 15 'x-opt-user-properties' 45", false, false),
        ] {
            let entries = hex(text)
            let map = [0xC1, UInt8(entries.count + 1), 2] + entries
            try sections(hex("00 53 72") + map + hex("00 53 75 a0 00")) {
                #expect($0.isRetained == isRetained && $0.hasHopAnnotations == isOfHop, "\(text)")
            }
        }
    }

    @Test func protonsMessagesAreRead() throws {
        let proton = ProtonMessage()
        let message = proton.message
        pn_message_set_durable(message, true)
        pn_message_set_priority(message, 9)
        pn_message_set_ttl(message, 5_000)
        pn_message_set_address(message, "topic://a/b")
        pn_message_set_expiry_time(message, 1_234)
        proton.putMap(
            pn_message_annotations(message), symbols: true, [("x-opt-retain", { pn_data_put_bool($0, true) })])
        ProtonMessage.with("body") { _ = pn_data_put_binary(pn_message_body(message), $0) }
        pn_message_set_inferred(message, true)
        try proton.bytes.withUnsafeBytes { buffer in
            let message = try IncomingMessage(buffer)
            #expect(message.isPlain && Array(message.payload) == Array("body".utf8) && message.isRetained)
            #expect(message.to.map { Array($0) } == Array("topic://a/b".utf8))
            #expect(message.ttlMilliseconds == 5_000 && message.absoluteExpiryTime == 1_234)
            #expect(message.sections.isDurable && message.sections.priority == 9)
        }
        #expect(failure(ProtonMessage().bytes) == nil)
    }
}
