import Core
import Testing

/// MQTT 3.1 and 3.1.1: every packet cut at every byte, with every wrong flag, with lengths that lie. Closed without a
/// word, as these versions want it (§4.8). ``MalformedTests`` has what needs a name of its own.
@Suite struct MalformedTableTests {
    struct Case: CustomTestStringConvertible, Sendable {
        let name: String
        let bytes: [UInt8]
        var testDescription: String { name }
    }

    /// A good packet of each kind.
    static let examples: [(name: String, bytes: [UInt8])] = [
        ("PUBLISH", Frame.publish("ab", "")), ("PUBLISH at QoS 1", Frame.publish("ab", "", qos: 1, id: 1)),
        ("PUBLISH at QoS 2", Frame.publish("ab", "", qos: 2, id: 1)), ("PUBACK", Frame.puback(1)),
        ("PUBREC", Frame.pubrec(1)), ("PUBREL", Frame.pubrel(1)), ("PUBCOMP", Frame.pubcomp(1)),
        ("SUBSCRIBE", Frame.subscribe(1, [("ab", 1)])), ("UNSUBSCRIBE", Frame.unsubscribe(1, ["ab"])),
        ("PINGREQ", Frame.pingreq), ("DISCONNECT", Frame.disconnect),
    ]

    private static let types = examples.filter { !$0.name.hasPrefix("PUBLISH at") }

    static let truncated: [Case] = examples.flatMap { example in
        let body = Array(example.bytes.dropFirst(2))
        return (0..<body.count).map {
            Case(
                name: "\(example.name) of \($0) bytes",
                bytes: Frame.packet(example.bytes[0], Array(body.prefix($0))))
        }
    }

    static let trailing: [Case] = types.filter { $0.name != "PUBLISH" }.map {
        Case(name: "\($0.name) with more", bytes: Frame.packet($0.bytes[0], $0.bytes.dropFirst(2) + [0]))
    }

    static let flags: [Case] = types.filter { $0.name != "PUBLISH" }.flatMap { example in
        (UInt8(0)...15).filter { $0 != example.bytes[0] & 0x0F }.map {
            Case(
                name: "\(example.name) with flags \($0)",
                bytes: [example.bytes[0] & 0xF0 | $0] + example.bytes.dropFirst())
        }
    }

    static let lengths: [Case] = types.flatMap { example in
        [
            Case(name: "\(example.name), five-byte length", bytes: [example.bytes[0], 0x80, 0x80, 0x80, 0x80, 1]),
            Case(name: "\(example.name), ones", bytes: [example.bytes[0], 0xFF, 0xFF, 0xFF, 0xFF, 0x7F]),
            Case(name: "\(example.name) of 256 MB", bytes: [example.bytes[0], 0xFF, 0xFF, 0xFF, 0x7F]),
        ]
    }

    static let notAClients: [Case] = [UInt8(0x20), 0x90, 0xB0, 0xD0, 0xF0].flatMap { first in
        [[UInt8](), [0, 1], [0, 1, 0]].map {
            Case(name: "type \(first >> 4) with \($0.count) bytes", bytes: Frame.packet(first, $0))
        }
    }

    @Test(arguments: truncated + trailing + flags + lengths + notAClients)
    func endsItsConnectionAndHarmsNobody(_ example: Case) throws {
        let node = try TestNode()
        let witness = TestClient(node, "witness")
        witness.subscribe("#")
        let client = TestClient(node, "c")
        client.subscribe("own", qos: 1)
        let answers = client.ask(Frame.publish("own", "x", qos: 1, id: 9), example.bytes)
        #expect(answers == [.event("own", "x", qos: 1, id: 1), .puback(9)], "what came before is done, nothing else")
        #expect(client.closing != nil)
        #expect(witness.events().map(\.topic) == ["own"])
        #expect(witness.closing == nil)
        #expect(node.router.sessionCount == 1)
    }

    /// CONNECT of both versions, cut at every byte.
    @Test(arguments: [("MQTT", UInt8(4)), ("MQIsdp", 3)]) func connectCutAtEveryByte(name: String, level: UInt8) throws
    {
        let whole = Frame.connect("id", will: Frame.Will(), user: "u", password: "p", name: name, level: level)
        let body = Array(whole.dropFirst(2))
        for count in 0..<body.count {
            let node = try TestNode()
            let client = TestClient(node)
            #expect(client.ask(Frame.packet(0x10, Array(body.prefix(count)))).isEmpty)
            #expect(client.closing == .malformedPacket)
            #expect(node.router.sessionCount == 0)
        }
        let good = TestClient(try TestNode())
        #expect(good.ask(whole) == [.connack(present: false, code: 0)])
    }

    @Test func anythingButConnectAtFirst() throws {
        for frame in Self.examples.map(\.bytes) + Self.notAClients.map(\.bytes) {
            let node = try TestNode()
            let client = TestClient(node)
            #expect(client.ask(frame, Frame.connect("c")).isEmpty)
            #expect(client.closing != nil)
            #expect(node.router.sessionCount == 0)
        }
    }

    /// What MQTT 5 brought is nothing here: its packets are malformed.
    @Test func packetsOfMQTT5AreNotTaken() throws {
        let frames: [[UInt8]] = [
            Frame5.puback(1, 0), Frame5.pubrec(1, 0, []), Frame5.pubrel(1, 0), Frame5.pubcomp(1, 0),
            Frame5.disconnect(0), Frame5.auth(0x18), Frame5.subscribe(1, [.init("a", noLocal: true)]),
        ]
        for frame in frames {
            let client = TestClient(try TestNode(), "c")
            #expect(client.ask(frame).isEmpty)
            #expect(client.closing != nil)
        }
    }

    @Test func theTableIsLongEnough() {
        let all = [Self.truncated, Self.trailing, Self.flags, Self.lengths, Self.notAClients]
        #expect(all.map(\.count).reduce(0, +) > 180)
    }
}
