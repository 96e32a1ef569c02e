import Core
import Testing

/// MQTT 5: UNSUBSCRIBE and UNSUBACK (§3.10, §3.11), and PINGREQ (§3.12).
@Suite struct V5UnsubscribeTests {
    @Test func everyFilterIsAnsweredInItsPlace() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c")
        _ = client.ask(Frame5.subscribe(1, [.init("a"), .init("b/#"), .init("$share/g/c")]))
        #expect(
            client.ask(
                Frame5.unsubscribe(
                    0xABCD, ["a", "b", "b/#", "a#", "$share/g/c", "$share/g", "a", "b/+"], [.user("k", "v")]))
                == [.unsuback(0xABCD, [0, 0x11, 0, 0x8F, 0, 0x8F, 0x11, 0x11])])
        #expect(node.router.subscriptionCount == 0)
    }

    /// Character by character: wildcards are letters here ([MQTT-3.10.4-1]).
    @Test func filtersAreComparedByTheirCharacters() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c")
        _ = client.ask(Frame5.subscribe(1, [.init("a/b"), .init("a/+"), .init("A/B"), .init("a/b/")]))
        #expect(
            client.ask(Frame5.unsubscribe(2, ["#", "a/#", "+/b", "a/c", "a/B"])).last
                == .unsuback(
                    2, [0x11, 0x11, 0x11, 0x11, 0x11]))
        #expect(node.router.subscriptionCount == 4)
        #expect(client.ask(Frame5.unsubscribe(3, ["a/+"])) == [.unsuback(3, [0])])
        #expect(node.router.subscriptionCount == 3)
    }

    @Test func anotherClientsSubscriptionsAreItsOwn() throws {
        let node = try TestNode()
        let first = TestClient5(node, "1")
        first.subscribe("t")
        #expect(TestClient5(node, "2").ask(Frame5.unsubscribe(1, ["t"])) == [.unsuback(1, [0x11])])
        TestClient5(node, "s").send(Frame5.publish("t", "x"))
        #expect(first.events().count == 1)
    }

    /// Nothing new comes, what was begun is finished ([MQTT-3.10.4-2], [MQTT-3.10.4-3]).
    @Test func whatWasBegunIsFinished() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", expiry: 60)
        client.subscribe("t", qos: 2)
        let sender = TestClient5(node, "s")
        sender.send(Frame5.publish("t", "1", qos: 1, id: 1), Frame5.publish("t", "2", qos: 2, id: 2))
        sender.send(Frame5.publish("t", "3", qos: 2, id: 3))
        let ids = client.events().map(\.id)
        #expect(ids.count == 3)
        #expect(client.ask(Frame5.unsubscribe(1, ["t"])) == [.unsuback(1, [0])])
        for qos in UInt8(0)...2 { sender.send(Frame5.publish("t", "new", qos: qos, id: 9)) }
        #expect(client.answers().isEmpty)
        #expect(client.ask(Frame5.puback(ids[0])).isEmpty)
        #expect(client.ask(Frame5.pubrec(ids[1])) == [.pubrel(ids[1])])
        client.cut()
        let back = TestClient5(node, "c", clean: false)
        #expect(back.returned == [.pubrel(ids[1]), .event("t", "3", qos: 2, id: ids[2], dup: true)])
        #expect(back.ask(Frame5.pubcomp(ids[1]), Frame5.pubrec(ids[2])) == [.pubrel(ids[2])])
    }

    @Test func pingIsAnswered() throws {
        let client = TestClient5(try TestNode(), "c")
        #expect(client.ask(Frame.pingreq, Frame.pingreq) == [.pingresp, .pingresp])
        let older = TestClient(try TestNode(), "c")
        #expect(older.ask(Frame.pingreq) == [.pingresp])
    }
}
