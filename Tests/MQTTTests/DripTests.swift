import Core
import Testing

/// How bytes are cut into reads must not matter.
@Suite struct DripTests {
    /// A conversation with one of everything.
    private static let frames: [[UInt8]] = [
        Frame.connect("drip", will: Frame.Will(qos: 1, isRetained: true), user: "u", password: "p"),
        Frame.subscribe(1, [("a/#", 2), ("b", 1), ("#/bad", 0)]),
        Frame.publish("a/0", "direct"),
        Frame.publish("a/1", "once", qos: 1, id: 10, retain: true),
        Frame.publish("a/2", "exactly", qos: 2, id: 11),
        Frame.publish("a/2", "exactly", qos: 2, id: 11, dup: true),
        Frame.pubrel(11),
        Frame.publish("a/big", [UInt8](repeating: 0x5A, count: 300)),
        Frame.puback(1), Frame.pubrec(2), Frame.pubcomp(2),
        Frame.pingreq,
        Frame.subscribe(2, [("a/+", 0)]),
        Frame.unsubscribe(3, ["a/#", "c"]),
        Frame.publish("a/0", "to the second filter"),
        Frame.disconnect,
    ]

    private static let bytes = Array(frames.joined())

    /// Answers by kind. A PINGRESP may overtake the events of publishes of the same read, and an event its publisher's
    /// acknowledgement; within a kind the order is fixed.
    private struct Outcome: Equatable {
        var events: [Answer] = []
        var acknowledgements: [Answer] = []
        var rest: [Answer] = []
        var pingresps = 0
        var closing: CloseReason?
        var count: Int { events.count + acknowledgements.count + rest.count + pingresps }

        init(_ answers: [Answer], _ closing: CloseReason?) {
            for answer in answers {
                switch answer {
                case .publish: events.append(answer)
                case .pingresp: pingresps += 1
                case .puback, .pubrec, .pubrel, .pubcomp: acknowledgements.append(answer)
                default: rest.append(answer)
                }
            }
            self.closing = closing
        }
    }

    private func run(_ pieces: [[UInt8]]) throws -> Outcome {
        let client = TestClient(try TestNode())
        var answers: [Answer] = []
        for piece in pieces { answers += client.ask(piece) }
        #expect(client.incomplete.isEmpty)
        return Outcome(answers, client.closing)
    }

    @Test func byteByByteIsTheSame() throws {
        let whole = try run([Self.bytes])
        #expect(whole.closing == .clientDisconnected)
        // CONNACK, SUBACK, 3 of QoS 0, 2 above, PUBACK, 2 PUBREC, PUBREL, PUBCOMP, PINGRESP, SUBACK with the retained
        // event, UNSUBACK.
        #expect(whole.count == 16)
        #expect(try run(Self.bytes.map { [$0] }) == whole)
    }

    @Test func cutAnywhereIsTheSame() throws {
        let whole = try run([Self.bytes])
        for cut in 1..<Self.bytes.count {
            let parts = try run([Array(Self.bytes[..<cut]), Array(Self.bytes[cut...])])
            #expect(parts == whole, "cut at \(cut)")
        }
    }

    /// Every packet, truncated at every offset: no answer, no event, no close; it waits. Then the rest arrives.
    @Test func truncatedPacketsWait() throws {
        let subjects: [[UInt8]] = [
            Frame.subscribe(1, [("x", 1), ("y", 2)]), Frame.publish("t", "direct"),
            Frame.publish("t", "x", qos: 1, id: 300), Frame.publish("t", "x", qos: 2, id: 301),
            Frame.publish("t", [UInt8](repeating: 1, count: 140)), Frame.unsubscribe(2, ["x", "y"]), Frame.pubrel(9),
            Frame.pubrec(9), Frame.pingreq, Frame.disconnect,
        ]
        for subject in subjects {
            for cut in 1..<subject.count {
                let node = try TestNode()
                let client = TestClient(node, "c")
                let witness = TestClient(node, "w")
                witness.subscribe("#")
                #expect(client.ask(Array(subject[..<cut])).isEmpty)
                #expect(client.closing == nil)
                #expect(witness.answers().isEmpty)
                let isEvent = subject[0] & 0xF0 == 0x30
                let rest = client.ask(Array(subject[cut...]))
                #expect(witness.events().count == (isEvent ? 1 : 0))
                #expect(rest.isEmpty == (subject[0] == 0xE0 || subject[0] == 0x30))
            }
        }
    }

    @Test func truncatedConnectWaits() throws {
        let subject = Frame.connect("c", clean: false, will: Frame.Will(), user: "u", password: "p")
        for cut in 1..<subject.count {
            let node = try TestNode()
            let client = TestClient(node)
            #expect(client.ask(Array(subject[..<cut])).isEmpty)
            #expect(client.closing == nil)
            #expect(node.router.sessionCount == 0)
            #expect(client.ask(Array(subject[cut...])) == [.connack(present: false, code: 0)])
        }
    }

    /// More runs and events than a turn holds, in one read.
    @Test func moreThanOneTurn() throws {
        let client = TestClient(try TestNode(), "c")
        client.subscribe("#")
        let topics = (0..<3_000).map { "t/\($0)" }
        let answers = client.ask(topics.flatMap { Frame.publish($0, "x") })
        #expect(answers == topics.map { .event($0, "x") })
        let many = (0..<10_000).flatMap { Frame.publish("one", "\($0)") }
        #expect(client.ask(many) == (0..<10_000).map { .event("one", "\($0)") })
    }

    /// A good client may send everything at once, before it has been answered (§3.1.4).
    @Test func publishBehindConnect() throws {
        let node = try TestNode()
        let witness = TestClient(node, "w")
        witness.subscribe("#", qos: 2)
        let client = TestClient(node)
        let answers = client.ask(
            Frame.connect("c"), Frame.publish("a", "0"), Frame.publish("a", "1", qos: 1, id: 1),
            Frame.publish("a", "2", qos: 2, id: 2), Frame.disconnect)
        #expect(answers == [.connack(present: false, code: 0), .puback(1), .pubrec(2)])
        #expect(witness.events().map(\.text) == ["0", "1", "2"])
    }
}
