import Core
import Testing

/// Bytes that must end a connection, and for which reason. Nothing here may be answered, crash, or cost memory.
@Suite struct MalformedTests {
    struct Case: CustomTestStringConvertible {
        let name: String
        let bytes: [UInt8]
        let reason: CloseReason
        var testDescription: String { name }

        init(_ name: String, _ bytes: [UInt8], _ reason: CloseReason = .malformedPacket) {
            self.name = name
            self.bytes = bytes
            self.reason = reason
        }
    }

    // MARK: Before CONNECT

    private static func connect(
        _ rest: [UInt8], name: [UInt8] = Frame.text("MQTT"), flags: UInt8 = 2
    ) -> [UInt8] {
        Frame.packet(0x10, name + [4, flags, 0, 0] + rest)
    }

    static let first: [Case] = [
        Case("type 0", [0, 0]),
        Case("type 0 with flags", [0x0F, 0]),
        Case("type 15", [0xF0, 0], .protocolError),
        Case("type 15 with flags", [0xF1, 0]),
        Case(
            "HTTP",
            Array("GET / HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n".utf8) + .init(repeating: 10, count: 99)),
        Case("TLS", [0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3] + .init(repeating: 7, count: 600)),
        Case("length of five bytes", [0x10, 0x80, 0x80, 0x80, 0x80, 1]),
        Case("CONNECT of 256 MB", [0x10, 0xFF, 0xFF, 0xFF, 0x7F], .packetTooLarge),
        Case("CONNECT of 1 MB", [0x10] + Frame.length(1 << 20), .packetTooLarge),
        Case("PUBLISH of 256 MB", [0x30, 0xFF, 0xFF, 0xFF, 0x7F], .protocolError),
        Case("CONNECT with flags", [0x11] + Frame.connect("a").dropFirst()),
        Case("CONNECT of nothing", [0x10, 0]),
        Case("CONNECT without the end of its name", [0x10, 4, 0, 4, 0x4D, 0x51]),
        Case("CONNECT without a level", [0x10, 6] + Frame.text("MQTT")),
        Case("CONNECT without flags", [0x10, 7] + Frame.text("MQTT") + [4]),
        Case("CONNECT without keep-alive", [0x10, 9] + Frame.text("MQTT") + [4, 2, 0]),
        Case("CONNECT without client id", [0x10, 10] + Frame.text("MQTT") + [4, 2, 0, 0]),
        Case("protocol name of another case", connect(Frame.text("a"), name: Frame.text("mqtt"))),
        Case("protocol name of another protocol", connect(Frame.text("a"), name: Frame.text("AMQP"))),
        Case("empty protocol name", connect(Frame.text("a"), name: Frame.text(""))),
        Case("protocol name with NUL", connect(Frame.text("a"), name: Frame.binary([0x4D, 0x51, 0x54, 0]))),
        Case("reserved flag", connect(Frame.text("a"), flags: 3)),
        Case("will QoS without will", connect(Frame.text("a"), flags: 0x0A)),
        Case("will retain without will", connect(Frame.text("a"), flags: 0x22)),
        Case("will QoS 3", connect(Frame.text("a") + Frame.text("t") + Frame.text("p"), flags: 0x1E)),
        Case("password without user", connect(Frame.text("a") + Frame.text("p"), flags: 0x42)),
        Case("will without topic", connect(Frame.text("a"), flags: 6)),
        Case("will without payload", connect(Frame.text("a") + Frame.text("t"), flags: 6)),
        Case("will with an empty topic", connect(Frame.text("a") + Frame.text("") + Frame.text("p"), flags: 6)),
        Case("will with a wildcard", connect(Frame.text("a") + Frame.text("t/#") + Frame.text("p"), flags: 6)),
        Case("will with NUL", connect(Frame.text("a") + Frame.binary([0]) + Frame.text("p"), flags: 6)),
        Case("user flag without user", connect(Frame.text("a"), flags: 0x82)),
        Case("password flag without password", connect(Frame.text("a") + Frame.text("u"), flags: 0xC2)),
        Case("user that is longer than the packet", connect(Frame.text("a") + [0xFF, 0xFF, 1], flags: 0x82)),
        Case("user with NUL", connect(Frame.text("a") + Frame.binary([0]), flags: 0x82)),
        Case("bytes after the payload", connect([0, 1, 0x61, 0])),
        Case("PUBLISH", Frame.publish("a", "x"), .protocolError),
        Case("PUBACK", Frame.puback(1), .protocolError),
        Case("PUBREL", Frame.pubrel(1), .protocolError),
        Case("SUBSCRIBE", Frame.subscribe(1, [("a", 0)]), .protocolError),
        Case("UNSUBSCRIBE", Frame.unsubscribe(1, ["a"]), .protocolError),
        Case("PINGREQ", Frame.pingreq, .protocolError),
        Case("DISCONNECT", Frame.disconnect, .protocolError),
    ]

    @Test(arguments: first) func beforeConnect(_ example: Case) throws {
        let node = try TestNode()
        let client = TestClient(node)
        #expect(client.ask(example.bytes).isEmpty)
        #expect(client.closing == example.reason)
        #expect(node.counters.closed[example.reason.rawValue] == 1)
        #expect(node.router.sessionCount == 0)
    }

    @Test(arguments: CodecTests.badText) func badTextInConnect(_ bad: [UInt8]) throws {
        let frames = [
            Self.connect(Frame.binary(bad)),
            Self.connect(Frame.text("a") + Frame.binary(bad) + Frame.text("p"), flags: 6),
            Self.connect(Frame.text("a") + Frame.binary(bad), flags: 0x82),
        ]
        for frame in frames {
            let client = TestClient(try TestNode())
            #expect(client.ask(frame).isEmpty)
            #expect(client.closing == .malformedPacket)
        }
    }

    // MARK: After CONNECT

    private static func publish(_ first: UInt8, _ topic: [UInt8], _ rest: [UInt8] = []) -> [UInt8] {
        Frame.packet(first, Frame.binary(topic) + rest)
    }

    private static let a = Array("a".utf8)

    static let later: [Case] = [
        Case("type 0", [0, 0]),
        Case("second CONNECT", Frame.connect("a"), .protocolError),
        Case("CONNACK", [0x20, 2, 0, 0], .protocolError),
        Case("SUBACK", [0x90, 3, 0, 1, 0], .protocolError),
        Case("UNSUBACK", [0xB0, 2, 0, 1], .protocolError),
        Case("PINGRESP", [0xD0, 0], .protocolError),
        Case("AUTH", [0xF0, 0], .protocolError),
        Case("length of five bytes", [0x30, 0x80, 0x80, 0x80, 0x80, 1]),
        Case("PUBLISH of 256 MB", [0x30, 0xFF, 0xFF, 0xFF, 0x7F], .packetTooLarge),
        Case("SUBSCRIBE of 256 MB", [0x82, 0xFF, 0xFF, 0xFF, 0x7F], .packetTooLarge),
        Case("PUBLISH just over the limit", [0x30] + Frame.length((16 << 20) - 4), .packetTooLarge),
        Case("SUBSCRIBE of 1 MB", [0x82] + Frame.length(1 << 20), .packetTooLarge),
        Case("unknown type of 1 MB", [0x0F] + Frame.length(1 << 20)),
        Case("PUBLISH at QoS 3", publish(0x36, a, [0, 1])),
        Case("PUBLISH at QoS 3 with DUP", publish(0x3E, a, [0, 1])),
        Case("PUBLISH with DUP at QoS 0", publish(0x38, a)),
        Case("PUBLISH with DUP and retain at QoS 0", publish(0x39, a)),
        Case("PUBLISH at QoS 1 with identifier 0", publish(0x32, a, [0, 0])),
        Case("PUBLISH at QoS 2 with identifier 0", publish(0x34, a, [0, 0])),
        Case("PUBLISH at QoS 1 without identifier", publish(0x32, a)),
        Case("PUBLISH at QoS 2 with half an identifier", publish(0x34, a, [1])),
        Case("PUBLISH of nothing", [0x30, 0]),
        Case("PUBLISH of one byte", [0x30, 1, 0]),
        Case("PUBLISH with an empty topic", publish(0x30, [])),
        Case("PUBLISH with a topic longer than itself", [0x30, 5, 0, 4, 0x61, 0x62, 0x63]),
        Case("PUBLISH with a topic of 64 KB in 4 bytes", [0x30, 4, 0xFF, 0xFF, 0x61, 0x61]),
        Case("PUBLISH to a/#", Frame.publish("a/#", "x")),
        Case("PUBLISH to +", Frame.publish("+", "x")),
        Case("PUBLISH to a/b+", Frame.publish("a/b+", "x")),
        Case("PUBLISH to 129 levels", Frame.publish(String(repeating: "/", count: 128), "x")),
        Case("PUBACK with flags", [0x41, 2, 0, 1]),
        Case("PUBACK with identifier 0", [0x40, 2, 0, 0]),
        Case("PUBACK without identifier", [0x40, 0]),
        Case("PUBACK with half an identifier", [0x40, 1, 1]),
        Case("PUBACK with more", [0x40, 3, 0, 1, 0]),
        Case("PUBREC with flags", [0x52, 2, 0, 1]),
        Case("PUBREC with identifier 0", [0x50, 2, 0, 0]),
        Case("PUBREC with more", [0x50, 4, 0, 1, 0, 0]),
        Case("PUBREL without flags", [0x60, 2, 0, 1]),
        Case("PUBREL with all flags", [0x6F, 2, 0, 1]),
        Case("PUBREL with identifier 0", [0x62, 2, 0, 0]),
        Case("PUBREL without identifier", [0x62, 0]),
        Case("PUBCOMP with flags", [0x72, 2, 0, 1]),
        Case("PUBCOMP with identifier 0", [0x70, 2, 0, 0]),
        Case("SUBSCRIBE without flags", [0x80] + Frame.subscribe(1, [("a", 0)]).dropFirst()),
        Case("SUBSCRIBE with other flags", [0x8A] + Frame.subscribe(1, [("a", 0)]).dropFirst()),
        Case("SUBSCRIBE with identifier 0", Frame.subscribe(0, [("a", 0)])),
        Case("SUBSCRIBE to nothing", Frame.subscribe(1, [])),
        Case("SUBSCRIBE of nothing", [0x82, 0]),
        Case("SUBSCRIBE with an empty filter", Frame.subscribe(1, [("", 0)])),
        Case("SUBSCRIBE at QoS 3", Frame.subscribe(1, [("a", 3)])),
        Case("SUBSCRIBE with the options of MQTT 5", Frame.subscribe(1, [("a", 4)])),
        Case("SUBSCRIBE without QoS", Frame.packet(0x82, [0, 1] + Frame.text("a"))),
        Case("SUBSCRIBE with half a filter", Frame.packet(0x82, [0, 1, 0, 9, 0x61])),
        Case("SUBSCRIBE that is good and then bad", Frame.subscribe(1, [("a", 0), ("b", 3)])),
        Case("UNSUBSCRIBE without flags", [0xA0] + Frame.unsubscribe(1, ["a"]).dropFirst()),
        Case("UNSUBSCRIBE with identifier 0", Frame.unsubscribe(0, ["a"])),
        Case("UNSUBSCRIBE of nothing", Frame.unsubscribe(1, [])),
        Case("UNSUBSCRIBE of an empty filter", Frame.unsubscribe(1, [""])),
        Case("PINGREQ with flags", [0xC1, 0]),
        Case("PINGREQ with a body", [0xC0, 1, 0]),
        Case("DISCONNECT with flags", [0xE2, 0]),
        Case("DISCONNECT with a reason, as in MQTT 5", [0xE0, 1, 0]),
    ]

    @Test(arguments: later) func afterConnect(_ example: Case) throws {
        let node = try TestNode()
        let client = TestClient(node, "c")
        let witness = TestClient(node, "witness")
        witness.subscribe("#")
        #expect(client.ask(example.bytes).isEmpty)
        #expect(client.closing == example.reason)
        #expect(witness.answers().isEmpty, "nothing malformed is published")
        #expect(witness.closing == nil)
        #expect(node.router.sessionCount == 1)
    }

    @Test(arguments: later) func whatCameBeforeIsStillDone(_ example: Case) throws {
        let client = TestClient(try TestNode(), "c")
        client.subscribe("#", qos: 1)
        let answers = client.ask(Frame.publish("t", "x"), Frame.publish("t", "y", qos: 1, id: 9), example.bytes)
        #expect(answers == [.event("t", "x"), .event("t", "y", qos: 1, id: 1), .puback(9)])
        #expect(client.closing == example.reason)
    }

    @Test(arguments: CodecTests.badText) func badTextAfterConnect(_ bad: [UInt8]) throws {
        for frame in [
            Self.publish(0x30, bad), Self.publish(0x32, bad, [0, 1]), Self.publish(0x31, bad),
            Frame.packet(0x82, [0, 1] + Frame.binary(bad) + [0]), Frame.packet(0xA2, [0, 1] + Frame.binary(bad)),
        ] {
            let node = try TestNode()
            let client = TestClient(node, "c")
            #expect(client.ask(frame).isEmpty)
            #expect(client.closing == .malformedPacket)
            #expect(node.router.retainedCount == 0)
        }
    }

    @Test func manyFiltersInOnePacket() throws {
        let node = try TestNode()
        let client = TestClient(node, "c")
        let filters = (0..<20_000).map { (filter: "f/\($0)", qos: UInt8(1)) }
        #expect(client.ask(Frame.subscribe(1, filters)) == [.suback(1, .init(repeating: 1, count: 20_000))])
        #expect(client.ask(Frame.unsubscribe(2, filters.map(\.filter))) == [.unsuback(2)])
        #expect(node.router.subscriptionCount == 0)
    }

    /// Filters that are well-formed packets: refused one by one, the connection stays (§3.9.3).
    @Test(arguments: [
        "a/#/b", "a#", "#a", "a/+b", "b+", "++", "$share", "$share/", "$share/g", "$share/g/", "$share//a",
        "$share/g+/a",
        "$share/#/a", "$local/", "$share/g/a#", String(repeating: "/", count: 128),
    ])
    func refusedFilter(_ filter: String) throws {
        let node = try TestNode()
        let client = TestClient(node, "c")
        #expect(client.ask(Frame.subscribe(5, [("x", 1), (filter, 1), ("y", 2)])) == [.suback(5, [1, 0x80, 2])])
        #expect(client.ask(Frame.unsubscribe(6, [filter])) == [.unsuback(6)])
        #expect(client.closing == nil)
        #expect(node.router.subscriptionCount == 2)
        #expect(node.counters.subscriptionsRefused == 1)
    }
}
