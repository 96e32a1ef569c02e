import Core
import Testing

/// Guaranteed events from a client: acknowledgements and duplicates (§4.3).
@Suite struct ReceivedTests {
    @Test func acknowledgements() throws {
        let node = try TestNode()
        let client = TestClient(node, "c")
        #expect(client.ask(Frame.publish("a", "x")).isEmpty)
        #expect(client.ask(Frame.publish("a", "x", qos: 1, id: 65_535)) == [.puback(65_535)])
        #expect(client.ask(Frame.publish("a", "x", qos: 1, id: 7, dup: true)) == [.puback(7)])
        #expect(client.ask(Frame.publish("a", "x", qos: 2, id: 7)) == [.pubrec(7)])
        #expect(client.ask(Frame.pubrel(7)) == [.pubcomp(7)])
        #expect(client.ask(Frame.pubrel(7)) == [.pubcomp(7)], "a PUBREL of nothing is answered (§4.3.3)")
    }

    @Test func acknowledgementsInOrder() throws {
        let client = TestClient(try TestNode(), "c")
        let answers = client.ask(
            Frame.publish("a", "1", qos: 1, id: 3), Frame.publish("b", "2", qos: 2, id: 9),
            Frame.publish("a", "3", qos: 1, id: 1), Frame.publish("a", "4", qos: 1, id: 2), Frame.pubrel(9))
        #expect(answers == [.puback(3), .pubrec(9), .puback(1), .puback(2), .pubcomp(9)])
    }

    /// Duplicates of QoS 2 are answered and not published, whatever the DUP flag says.
    @Test func exactlyOnceThroughCuts() throws {
        let node = try TestNode()
        let witness = TestClient(node, "w")
        witness.subscribe("a", qos: 2)
        var client = TestClient(node, "c", clean: false)
        let publish = Frame.publish("a", "x", qos: 2, id: 5)
        let again = Frame.publish("a", "x", qos: 2, id: 5, dup: true)
        // Cut in the middle of the publish: it has not arrived.
        client.send(Array(publish.dropLast()))
        client.cut()
        #expect(witness.answers().isEmpty)
        client = TestClient(node, "c", clean: false)
        #expect(client.ask(again) == [.pubrec(5)])
        #expect(witness.events().count == 1)
        // PUBREC lost, twice; and a client that forgets DUP.
        for frame in [again, publish] {
            client.cut()
            client = TestClient(node, "c", clean: false)
            #expect(client.ask(frame) == [.pubrec(5)])
        }
        #expect(client.ask(again, again) == [.pubrec(5), .pubrec(5)])
        #expect(witness.answers().isEmpty)
        // PUBREL arrives, PUBCOMP is lost.
        #expect(client.ask(Frame.pubrel(5)) == [.pubcomp(5)])
        client.cut()
        client = TestClient(node, "c", clean: false)
        #expect(client.ask(Frame.pubrel(5)) == [.pubcomp(5)])
        // The identifier is free: a new event.
        #expect(client.ask(publish) == [.pubrec(5)])
        #expect(witness.events().count == 1)
    }

    /// A duplicate between others in one read: everything is answered in order and published once.
    @Test func duplicateInTheMiddle() throws {
        let node = try TestNode()
        let witness = TestClient(node, "w")
        witness.subscribe("#")
        let client = TestClient(node, "c")
        let answers = client.ask(
            Frame.publish("a", "1", qos: 2, id: 1), Frame.publish("a", "1", qos: 2, id: 1, dup: true),
            Frame.publish("a", "2", qos: 2, id: 2), Frame.publish("a", "3", qos: 1, id: 3),
            Frame.publish("a", "1", qos: 2, id: 1, dup: true), Frame.publish("a", "4"))
        #expect(answers == [.pubrec(1), .pubrec(1), .pubrec(2), .puback(3), .pubrec(1)])
        #expect(witness.events().map(\.text) == ["1", "2", "3", "4"])
    }

    @Test func cleanSessionForgetsReceivedIdentifiers() throws {
        let node = try TestNode()
        let witness = TestClient(node, "w")
        witness.subscribe("a")
        for _ in 0..<2 {
            let client = TestClient(node, "c")
            client.send(Frame.publish("a", "x", qos: 2, id: 5))
            client.cut()
        }
        #expect(witness.events().count == 2)
    }

    @Test func releasedInTheSameRead() throws {
        let node = try TestNode()
        let witness = TestClient(node, "w")
        witness.subscribe("a")
        let client = TestClient(node, "c")
        let once = Frame.publish("a", "x", qos: 2, id: 5) + Frame.pubrel(5)
        #expect(client.ask(once, once, once).count == 6)
        #expect(witness.events().count == 3)
    }

    @Test func tooManyUnreleased() throws {
        let node = try TestNode()
        let witness = TestClient(node, "w")
        witness.subscribe("a", qos: 0)
        let client = TestClient(node, "c", clean: false)
        let flood = (1...5_000).flatMap { Frame.publish("a", "\($0)", qos: 2, id: UInt16($0)) }
        #expect(client.ask(flood) == (1...1_024).map { .pubrec($0) })
        #expect(client.closing == .protocolError)
        #expect(witness.events().count == 1_024)
        // What was taken can be finished: duplicates are no new ones.
        let back = TestClient(node, "c", clean: false)
        #expect(back.ask(Frame.publish("a", "1", qos: 2, id: 1, dup: true)) == [.pubrec(1)])
        #expect(back.ask(Frame.pubrel(1)) == [.pubcomp(1)])
        #expect(back.ask(Frame.publish("a", "again", qos: 2, id: 1)) == [.pubrec(1)])
        #expect(witness.events().map(\.text) == ["again"])
        #expect(back.closing == nil)
    }

    /// What stands behind a malformed topic in the same read is neither published nor taken for received.
    @Test func behindAMalformedTopic() throws {
        let node = try TestNode()
        let witness = TestClient(node, "w")
        witness.subscribe("#", qos: 2)
        let client = TestClient(node, "c", clean: false)
        let answers = client.ask(
            Frame.publish("a", "1", qos: 2, id: 1), Frame.publish("a/#", "2", qos: 2, id: 2),
            Frame.publish("a", "3", qos: 2, id: 3), Frame.publish("b", "4", qos: 2, id: 4))
        #expect(answers == [.pubrec(1)])
        #expect(client.closing == .malformedPacket)
        let back = TestClient(node, "c", clean: false)
        let again = back.ask(
            Frame.publish("a", "1", qos: 2, id: 1, dup: true), Frame.publish("a", "3", qos: 2, id: 3, dup: true),
            Frame.publish("b", "4", qos: 2, id: 4, dup: true))
        #expect(again == [.pubrec(1), .pubrec(3), .pubrec(4)])
        #expect(witness.events().map(\.text) == ["1", "3", "4"])
    }

    /// Everything a client in the middle of a flood sends again after a cut is answered, and published once.
    @Test func floodsThroughACut() throws {
        let node = try TestNode(lanes: 2)
        let witness = TestClient(node, "w", lane: 1)
        witness.subscribe("a", qos: 2)
        var client = TestClient(node, "c", clean: false)
        let ids = (1...1_000).map { UInt16($0) }
        // Cut before the other lane has answered.
        client.step(ids.flatMap { Frame.publish("a", "\($0)", qos: 2, id: $0) })
        client.cut()
        client = TestClient(node, "c", clean: false)
        #expect(
            client.ask(ids.flatMap { Frame.publish("a", "\($0)", qos: 2, id: $0, dup: true) })
                == ids.map { .pubrec($0) })
        #expect(client.ask(ids.flatMap { Frame.pubrel($0) }) == ids.map { .pubcomp($0) })
        #expect(witness.events().map(\.text) == ids.map { "\($0)" })
    }
}
