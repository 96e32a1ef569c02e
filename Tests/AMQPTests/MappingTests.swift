import CProton
import Core
import Testing
import TestSupport

@testable import AMQP

/// What maps to what, both ways: the tables of `docs/mapping.md`.
@Suite struct MappingTests {
    private let stand = MessageStand()

    // MARK: AMQP to others

    @Test(arguments: [
        ("a1 01 'i'", "i"), ("80 ffffffffffffffff", "18446744073709551615"), ("53 07", "7"), ("44", "0"),
        ("98 00112233445566778899aabbccddeeff", "00112233-4455-6677-8899-aabbccddeeff"), ("a0 01 'b'", "b"),
    ])
    func everyTypeOfName(_ field: String, _ text: String) throws {
        let value = hex(field)
        let message =
            hex("00 53 73 c0") + [UInt8(value.count * 2 + 5), 6] + value + hex("40 40 40 40") + value
            + hex("00 53 75 a0 00")
        #expect(try stand.unpacked(message).properties == ["correlationData \(text)", "messageID \(text)"])
        #expect(stand.sent(try stand.event(message)) == message)
    }

    @Test func bytesThatAreNoText() throws {
        let message = hex("00 53 73 c0 0d 06 a0 02 00ff 40 40 40 40 a0 02 00ff 00 53 75 a0 00")
        let event = try stand.event(message)
        let found = EventProperties(event.properties).filter { $0.identifier != .foreign }
        #expect(found.count == 2)
        #expect(Array(found[0].bytes) == [0, 0xFF] && found[0].identifier == .correlationData)
        #expect(Array(found[1].bytes) == Array("00ff".utf8) && found[1].identifier == .messageID)
    }

    @Test(arguments: [
        ("a/b", "a/b"), ("topic://a/b", "a/b"), ("TOPIC://a", "a"), ("temp-topic://a", "a"),
        ("amqp://host:5672/a/b", "a/b"), ("amqps://u@h/topic://a", "a"), ("queue://q", nil), ("temp-queue://q", nil),
        ("/queues/q", nil), ("/queue/q", nil), ("/exchanges/e/k", nil), ("amqp://host", nil), ("", nil), ("a/#", nil),
        ("topic://", nil), ("a\u{0}", nil),
    ])
    func addressesToAnswerTo(_ address: String, _ topic: String?) throws {
        let text = Array(address.utf8)
        let message =
            hex("00 53 73 c0") + [UInt8(text.count + 7), 5] + hex("40 40 40 40 a1") + [UInt8(text.count)] + text
            + hex("00 53 75 a0 00")
        #expect(try stand.unpacked(message).properties == (topic.map { ["responseTopic \($0)"] } ?? []))
        #expect(stand.sent(try stand.event(message)) == message)
    }

    @Test func applicationPropertiesBecomeText() throws {
        let entries: [(String, String, String?)] = [
            ("s", "a1 01 'v'", "v"), ("", "a1 00", ""), ("n", "40", nil), ("t", "41", "true"),
            ("i", "71 fffffffe", "-2"),
            ("d", "82 3fb999999999999a", "0.1"), ("ts", "83 0000000000000000", "1970-01-01T00:00:00.000Z"),
            ("b", "a0 02 fbff", "+/8="), ("y", "a3 01 'y'", "y"), ("l", "45", nil), ("m", "c1 01 00", nil),
            ("nul", "a1 01 00", nil), ("c", "73 00000000", nil), ("x", "00 53 01 40", nil), ("s", "a1 01 'w'", "w"),
        ]
        var map: [UInt8] = []
        for entry in entries {
            map += [0xA1, UInt8(entry.0.utf8.count)] + Array(entry.0.utf8)
            map += hex(entry.1)
        }
        let message =
            hex("00 53 74 c1") + [UInt8(map.count + 1), UInt8(entries.count * 2)] + map + hex("00 53 75 a0 00")
        let wanted = entries.compactMap { entry in entry.2.map { "user \(entry.0) = \($0)" } }
        #expect(try stand.unpacked(message).properties == wanted)
        #expect(stand.sent(try stand.event(message)) == message)
    }

    @Test(arguments: [
        ("00 53 77 a1 02 c3a4", nil, true), ("00 53 77 a0 01 'a'", nil, false), ("00 53 75 a0 01 'a'", nil, false),
        ("00 53 75 a0 01 'a'", "text/plain", true), ("00 53 75 a0 01 ff", "text/plain", false),
        ("00 53 75 a0 01 'a'", "Application/JSON; x=y", true), ("00 53 75 a0 01 'a'", "a/b+json", true),
        ("00 53 75 a0 01 'a'", "a/b", false), ("00 53 75 a0 01 'a'", "text/plain;charset=latin1", false),
        ("00 53 75 a0 01 'a'", "a/b; charset=\"UTF-8\"", true), ("00 53 77 a1 01 'a'", "a/b", true),
        ("00 53 77 40", "text/plain", true),
    ])
    func textIsKnownAsText(_ body: String, _ type: String?, _ isText: Bool) throws {
        var field: [UInt8] = [0x40]
        if let type { field = [0xA3, UInt8(type.utf8.count)] + Array(type.utf8) }
        let message = hex("00 53 73 c0") + [UInt8(field.count + 7), 7] + hex("40 40 40 40 40 40") + field + hex(body)
        let wanted = (isText ? ["payloadFormat 1"] : []) + (type.map { ["contentType \($0)"] } ?? [])
        #expect(try stand.unpacked(message).properties == wanted)
    }

    @Test func everyEventOfARunMustBeText() throws {
        let head = "00 53 73 c0 11 07 40 40 40 40 40 40 a3 08 'text/xml' 00 53 75 a0 01"
        for (bytes, isText) in [("'a'", true), ("ff", false)] {
            try stand.packed([hex("\(head) 'x'"), hex("\(head) \(bytes)")]) { run in
                let unpacked = stand.lane.unpacked(run)
                let properties = UnsafeRawBufferPointer(
                    start: unpacked.pointee.properties, count: unpacked.pointee.propertiesLength)
                #expect(lines(properties).contains("payloadFormat 1") == isText)
            }
        }
    }

    @Test func restOfTheTable() throws {
        let proton = ProtonMessage()
        let message = proton.message
        pn_message_set_priority(message, 6)
        pn_message_set_subject(message, "subject")
        pn_message_set_content_encoding(message, "gzip")
        pn_message_set_group_id(message, "g")
        pn_message_set_reply_to_group_id(message, "rg")
        pn_message_set_creation_time(message, 5)
        pn_message_set_group_sequence(message, 9)
        ProtonMessage.with("user") { _ = pn_message_set_user_id(message, $0) }
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        proton.putMap(
            pn_message_properties(message), [("traceparent", proton.putString(trace)), ("k", proton.putString("v"))])
        ProtonMessage.with("text") { _ = pn_data_put_string(pn_message_body(message), $0) }
        let bytes = proton.bytes
        let (properties, payload) = try stand.unpacked(bytes)
        #expect(payload == Array("text".utf8))
        #expect(
            properties == [
                "payloadFormat 1", "user content-encoding = gzip", "user partitionkey = g",
                "user traceparent = \(trace)",
                "user k = v", "priority 6",
            ])
        #expect(try bare(stand.sent(try stand.event(bytes))) == bare(bytes))
    }

    @Test func theGroupIsThePartitionKeyOnce() throws {
        let group = "00 53 73 c0 0e 0b 40 40 40 40 40 40 40 40 40 40 a1 01 'g'"
        let key = "00 53 74 c1 12 02 a1 0c 'partitionkey' a1 01 'k'"
        #expect(try stand.unpacked(hex(group)).properties == ["user partitionkey = g"])
        #expect(try stand.unpacked(hex(group + key)).properties == ["user partitionkey = k"])
    }

    @Test func theListOfUserPropertiesComesBeforeTheMap() throws {
        let map = "00 53 74 c1 07 02 a1 01 'm' a1 01 '1'"
        func message(_ list: String) -> [UInt8] {
            let entries = hex("a3 15 'x-opt-user-properties'") + hex(list)
            return hex("00 53 72 c1") + [UInt8(entries.count + 1), 2] + entries + hex(map) + hex("00 53 75 a0 00")
        }
        for (list, wanted) in [
            ("c0 0d 04 a1 01 'a' a1 01 '1' a1 01 'a' a1 01 '2'", ["user a = 1", "user a = 2"]), ("45", []),
            ("c0 04 01 a1 01 'a'", ["user m = 1"]), ("c0 06 02 a1 01 'a' 54 01", ["user m = 1"]),
            ("40", ["user m = 1"]),
            ("c0 07 02 a1 01 'a' a1 01 00", ["user m = 1"]),
        ] {
            #expect(try stand.unpacked(message(list)).properties == wanted, "\(list)")
            // For receivers it is an annotation like any other.
            #expect(try stand.passed(message(list)) == message(list))
        }
    }

    // MARK: CloudEvents

    @Test(arguments: ["cloudEvents:", "cloudEvents_"]) func cloudEvents(_ prefix: String) throws {
        let attributes = [("specversion", "1.0"), ("id", "1"), ("source", "/s"), ("type", "t"), ("partitionkey", "p")]
        let proton = ProtonMessage()
        var entries = attributes.map { (prefix + $0.0, proton.putString($0.1)) }
        entries.append((prefix + "time", { pn_data_put_timestamp($0, 1_000) }))
        entries.append((prefix + "Data", proton.putString("x")))
        entries.append(("plain", proton.putString("y")))
        proton.putMap(pn_message_properties(proton.message), entries)
        pn_message_set_group_id(proton.message, "p")
        pn_message_set_content_type(proton.message, "application/json")
        let (properties, _) = try stand.unpacked(proton.bytes)
        #expect(
            properties.filter { $0 != "payloadFormat 1" } == ["contentType application/json"]
                + attributes.map { "user \($0.0) = \($0.1)" }
                + ["user time = 1970-01-01T00:00:01.000Z", "user \(prefix)Data = x", "user plain = y"])
    }

    @Test func withoutAVersionNamesStayAsTheyAre() throws {
        let message = hex("00 53 74 c1 13 02 a1 0d 'cloudEvents:a' a1 01 'v'")
        #expect(try stand.unpacked(message).properties == ["user cloudEvents:a = v"])
    }

    @Test func cloudEventsOfOthersHaveThePrefix() throws {
        var writer = EventPropertiesWriter()
        for (name, value) in [
            ("specversion", "1.0"), ("id", "1"), ("source", "/s"), ("type", "t"), ("id", "2"), ("Plain", "x"),
            ("partitionkey", "p"),
        ] {
            writer.addUser(Array(name.utf8), Array(value.utf8))
        }
        let sent = stand.sent(stand.event(writer, []))
        let proton = try #require(ProtonMessage(sent))
        #expect(
            proton.strings(pn_message_properties(proton.message)) == [
                "cloudEvents_specversion=1.0", "cloudEvents_id=1", "cloudEvents_source=/s", "cloudEvents_type=t",
                "id=2",
                "Plain=x", "cloudEvents_partitionkey=p",
            ])
        #expect(ProtonMessage.text(pn_message_get_group_id(proton.message)) == "p")
        #expect(proton.strings(pn_message_annotations(proton.message)) == ["x-opt-user-properties=?"])
    }

    // MARK: There and back

    /// AMQP to AMQP: at once, and after it has waited as an event.
    @Test(arguments: Seeded.seeds) func theBareMessageStaysAsItIs(_ seed: UInt64) throws {
        var generator = RandomMessage(seed: seed)
        for number in 0..<120 {
            let message = generator.next()
            let error = failure(message)
            #expect(error == nil, "seed \(seed), message \(number): \(message)")
            guard error == nil else { continue }
            let wanted = try bare(message)
            let options = MessageOptions(needsTopic: number % 3 == 0, deliveryCount: UInt32(number % 2))
            let sent = stand.sent(try stand.event(message), options)
            #expect(try bare(sent) == wanted, "seed \(seed), message \(number): \(message)")
            #expect(try annotations(sent, without: options) == annotations(message))
            guard try sections(message, { $0.isPlain && !$0.bytes.isEmpty }) else { continue }
            let passed = try stand.passed(message, options)
            #expect(try bare(passed) == wanted, "seed \(seed), message \(number): \(message)")
            #expect(passed == sent || options == MessageOptions())
        }
    }

    /// The message annotations that are not of the hop, encoded.
    private func annotations(_ message: [UInt8], without options: MessageOptions = MessageOptions()) throws -> [[UInt8]]
    {
        try sections(message) { sections in
            var reader = ValueReader(UnsafeRawBufferPointer(rebasing: sections.bytes[sections.annotations]))
            guard !reader.isAtEnd else { return [] }
            _ = try MessageSections.Section.next(&reader)
            var members = try reader.next().members().reader
            var found: [[UInt8]] = []
            while !members.isAtEnd {
                let (key, value) = (try members.next(), try members.next())
                if Annotation(key)?.isOfHop != true {
                    found.append(Array(key.bytes) + [value.constructor] + Array(value.bytes))
                }
            }
            return found
        }
    }

    /// MQTT to AMQP and back: all properties, in order, with duplicates.
    @Test(arguments: Seeded.seeds) func userPropertiesComeBack(_ seed: UInt64) throws {
        var generator = RandomMessage(seed: seed)
        for number in 0..<50 {
            var writer = EventPropertiesWriter()
            writer.add(.contentType, Array("text/plain".utf8))
            writer.add(.responseTopic, Array("r/s".utf8))
            writer.add(.correlationData, [0, 1, 0xFF])
            for (name, value) in generator.userProperties() { writer.addUser(name, value) }
            writer.add(.messageID, Array("m".utf8))
            writer.add(.priority, byte: 3)
            let event = stand.event(writer, [0xFF])
            let sent = stand.sent(event)
            #expect(ProtonMessage(sent) != nil)
            let back = try stand.event(sent)
            #expect(lines(back.properties) == lines(event.properties), "seed \(seed), event \(number)")
            #expect(Array(back.payload) == [0xFF])
        }
    }

    @Test func theListIsThereOnlyIfItIsNeeded() throws {
        func hasList(_ names: [String]) throws -> Bool {
            var writer = EventPropertiesWriter()
            for name in names { writer.addUser(Array(name.utf8), Array("v".utf8)) }
            return try sections(stand.sent(stand.event(writer, []))) { $0.userList != nil }
        }
        #expect(try !hasList([]) && !hasList(["a", "b"]) && !hasList(["partitionkey", "a"]))
        #expect(try hasList(["a", "a"]) && hasList(["a", "partitionkey"]) && hasList(["cloudEvents_a"]))
        let many = (0..<40).map { "name \($0)" }
        #expect(try !hasList(many) && hasList(many + ["name 7"]))
    }

    @Test func manyUserPropertiesCostTimeInProportion() throws {
        var writer = EventPropertiesWriter()
        for number in 0..<100_000 { writer.addUser(Array(String(number % 60_000).utf8), []) }
        let sent = stand.sent(stand.event(writer, []))
        #expect(sent.count > 1 << 20)
        #expect(ProtonMessage(sent) != nil)
    }
}
