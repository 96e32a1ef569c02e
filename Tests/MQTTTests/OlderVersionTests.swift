import Core
import TestSupport
import Testing

/// MQTT 3.1.1: single statements of the specification that no other suite proves by the way.
/// `docs/conformance-mqtt.md` says which is proved where.
@Suite struct OlderVersionTests {
    private func pair(_ filter: String = "#", qos: UInt8 = 2) throws -> (TestNode, TestClient, TestClient) {
        let node = try TestNode()
        let receiver = TestClient(node, "r", clean: false)
        receiver.subscribe(filter, qos: qos)
        return (node, receiver, TestClient(node, "s"))
    }

    /// U+FEFF is a character like any other (§1.5.3).
    @Test func theByteOrderMarkIsKept() throws {
        let mark = "\u{FEFF}"
        let (node, receiver, sender) = try pair()
        sender.send(Frame.publish(mark + "t", mark + "x"))
        #expect(receiver.connection.link.takeSent() == Frame.publish(mark + "t", mark + "x"))
        _ = receiver.ask(Frame.unsubscribe(1, ["#"]), Frame.subscribe(2, [("t", 0), (mark + "u", 0)]))
        sender.send(Frame.publish(mark + "t", "1"), Frame.publish(mark + "u", "2"), Frame.publish("u", "3"))
        #expect(receiver.events().map(\.text) == ["2"])
        #expect(TestClient(node, mark + "s").closing == nil)
        #expect(node.router.sessionCount == 3, "and another identifier than without it")
    }

    @Test(arguments: [("MQTT", UInt8(4)), ("MQIsdp", 3)]) func fieldsArriveInTheSpecifiedOrder(
        name: String, level: UInt8
    ) throws {
        let node = try TestNode()
        node.authenticator.answers { credentials in
            let isRight =
                credentials.user == "u" && credentials.password == Array("p".utf8) && credentials.clientID == "id"
            return isRight || credentials.clientID == "w" ? .accepted(Identity()) : .refused(.badCredentials)
        }
        let witness = TestClient(node, "w")
        witness.subscribe("will/#")
        let client = TestClient(node)
        let will = Frame.Will(topic: "will/topic", payload: Array("message".utf8))
        #expect(
            client.ask(Frame.connect("id", will: will, user: "u", password: "p", name: name, level: level))
                == [.connack(present: false, code: 0)])
        client.cut()
        #expect(witness.answers() == [.event("will/topic", "message")])
    }

    @Test func withoutAWillNothingIsPublished() throws {
        let (node, receiver, _) = try pair()
        TestClient(node, "c").cut()
        TestClient(node, "c").send([0, 0])
        #expect(receiver.answers().isEmpty)
    }

    @Test func retainedEventsOutliveTheirPublisher() throws {
        let node = try TestNode()
        let sender = TestClient(node, "s")
        sender.send(Frame.publish("t", "r", retain: true))
        sender.cut()
        #expect(node.router.sessionCount == 0)
        #expect(
            TestClient(node, "c").ask(Frame.subscribe(1, [("t", 0)]))
                == [.suback(1, [0]), .event("t", "r", retain: true)])
    }

    @Test func withoutTheRetainFlagNothingIsKeptOrReplaced() throws {
        let (node, _, sender) = try pair()
        sender.send(Frame.publish("t", "r", retain: true))
        sender.send(Frame.publish("t", "live"), Frame.publish("t", ""), Frame.publish("u", "live", qos: 1, id: 1))
        #expect(node.router.retainedCount == 1)
        #expect(TestClient(node, "c").ask(Frame.subscribe(1, [("#", 0)])).last == .event("t", "r", retain: true))
    }

    /// DUP says something about one hop only (§3.3.1.1).
    @Test func dupIsNotPassedOn() throws {
        let (_, receiver, sender) = try pair()
        #expect(sender.ask(Frame.publish("t", "1", qos: 1, id: 1, dup: true)) == [.puback(1)])
        #expect(sender.ask(Frame.publish("t", "1", qos: 1, id: 1, dup: true)) == [.puback(1)])
        #expect(sender.ask(Frame.publish("t", "2", qos: 2, id: 2, dup: true)) == [.pubrec(2)])
        let events = receiver.events()
        #expect(events.map(\.text) == ["1", "1", "2"], "after PUBACK the identifier is a new event's")
        #expect(events.allSatisfy { !$0.dup })
    }

    @Test func onlyWhatMatchesIsDelivered() throws {
        let node = try TestNode()
        let client = TestClient(node, "c")
        _ = client.ask(Frame.subscribe(1, [("a/+", 0), ("b/#", 0), ("c", 0), ("/d", 0)]))
        let sender = TestClient(node, "s")
        for topic in ["a", "a/1", "a/1/2", "b", "b/1/2", "c", "C", "c/", "/d", "d", "//d", "a/"] {
            sender.send(Frame.publish(topic, topic))
        }
        #expect(client.events().map(\.text) == ["a/1", "b", "b/1/2", "c", "/d", "a/"])
    }

    /// No normalisation, no case folding (§4.7.3).
    @Test func nothingIsNormalised() throws {
        let composed = "caf\u{E9}"
        let decomposed = "cafe\u{301}"
        let (_, receiver, sender) = try pair(decomposed)
        for topic in [composed, "CAFE\u{301}", decomposed + "/", decomposed] { sender.send(Frame.publish(topic, "x")) }
        #expect(receiver.events().map { Array($0.topic.utf8) } == [Array(decomposed.utf8)])
    }

    @Test func filtersAreComparedByTheirCharacters() throws {
        let (node, receiver, _) = try pair("a/+")
        _ = receiver.ask(Frame.subscribe(2, [("a/b", 0), ("A/B", 0)]))
        #expect(receiver.ask(Frame.unsubscribe(3, ["#", "a/#", "+/b", "a/B"])) == [.unsuback(3)])
        #expect(node.router.subscriptionCount == 3)
        #expect(receiver.ask(Frame.unsubscribe(4, ["a/+", "nothing"])) == [.unsuback(4)])
        #expect(node.router.subscriptionCount == 2)
    }

    /// Nothing new comes, what was begun is finished (§3.10.4).
    @Test func whatWasBegunIsFinishedAfterUnsubscribe() throws {
        let (node, receiver, sender) = try pair("t")
        sender.send(Frame.publish("t", "1", qos: 1, id: 1), Frame.publish("t", "2", qos: 2, id: 2))
        #expect(receiver.events().map(\.id) == [1, 2])
        #expect(receiver.ask(Frame.unsubscribe(3, ["t"])) == [.unsuback(3)])
        for qos in UInt8(0)...2 { sender.send(Frame.publish("t", "new", qos: qos, id: 9)) }
        #expect(receiver.answers().isEmpty)
        receiver.cut()
        let back = TestClient(node, "r", clean: false)
        #expect(
            back.returned == [.event("t", "1", qos: 1, id: 1, dup: true), .event("t", "2", qos: 2, id: 2, dup: true)])
        #expect(back.ask(Frame.puback(1), Frame.pubrec(2)) == [.pubrel(2)])
        #expect(back.ask(Frame.pubcomp(2)).isEmpty)
    }

    /// A subscription that replaces another one interrupts nothing (§3.8.4).
    @Test func replacingASubscriptionLosesNothing() throws {
        let node = try TestNode(lanes: 2)
        let client = TestClient(node, "c")
        client.subscribe("t/#", qos: 1)
        let sender = TestClient(node, "s", lane: 1)
        var texts: [String] = []
        for number in 1...100 {
            sender.step(Frame.publish("t/\(number)", "\(number)", qos: 1, id: UInt16(number)))
            client.step(Frame.subscribe(UInt16(number), [("t/#", 1)]))
            node.settle()
            let events = client.events()
            texts += events.map(\.text)
            client.send(events.flatMap { Frame.puback($0.id) })
        }
        #expect(texts == (1...100).map { "\($0)" })
    }

    /// No Session Present without a session, and none with a refusal (§3.2.2.2).
    @Test func sessionPresent() throws {
        let node = try TestNode()
        #expect(!TestClient(node, "c", clean: false).isSessionPresent)
        #expect(TestClient(node, "c", clean: false).isSessionPresent)
        #expect(!TestClient(node, "c", clean: true).isSessionPresent)
        #expect(!TestClient(node, "c", clean: false).isSessionPresent, "a clean session leaves nothing")
        node.authenticator.answers { _ in .refused(.badCredentials) }
        #expect(
            TestClient(node).ask(Frame.connect("c", clean: false)) == [.connack(present: false, code: 4)])
    }
}
