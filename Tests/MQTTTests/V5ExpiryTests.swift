import Core
import Testing

/// MQTT 5: events with a time to live (§3.3.2.3.3).
@Suite struct V5ExpiryTests {
    private func keeper(_ node: TestNode, qos: UInt8 = 1, properties: [Property5] = []) -> TestClient5 {
        let client = TestClient5(node, "k", clean: false, expiry: 10_000, properties: properties)
        client.subscribe("t/#", qos: qos)
        return client
    }

    private func back(_ node: TestNode) -> TestClient5 { TestClient5(node, "k", clean: false, expiry: 10_000) }

    @Test func aLiveEventHasItsWholeTime() throws {
        let node = try TestNode(lanes: 2)
        let receiver = TestClient5(node, "r", lane: 1)
        receiver.subscribe("t", qos: 2)
        let sender = TestClient5(node, "s")
        for qos in UInt8(0)...2 { sender.send(Frame5.publish("t", "x", qos: qos, id: 1, [.messageExpiry(30)])) }
        #expect(receiver.events().map(\.expiry) == [30, 30, 30])
        sender.send(Frame5.publish("t", "x", [.messageExpiry(0xFFFF_FFFF)]))
        #expect(receiver.events().map(\.expiry) == [0xFFFF_FFFF])
    }

    @Test(arguments: [UInt8(1), 2]) func whatWaitedHasTheSecondsThatAreLeft(qos: UInt8) throws {
        let node = try TestNode()
        keeper(node, qos: 2).cut()
        let sender = TestClient5(node, "s")
        for (number, seconds) in [UInt32(5), 10, 100].enumerated() {
            sender.send(
                Frame5.publish("t/\(number)", "x", qos: qos, id: UInt16(number + 1), [.messageExpiry(seconds)]))
        }
        sender.send(Frame5.publish("t/3", "x", qos: qos, id: 9))
        node.advance(milliseconds: 7_000)
        let events = back(node).returnedEvents
        #expect(events.map(\.topic) == ["t/1", "t/2", "t/3"])
        #expect(events.map(\.expiry) == [3, 93, nil])
        #expect(node.dropped(.expired) == 1)
    }

    /// The order of properties is the publisher's; the interval is at its place.
    @Test func theIntervalStaysAmongTheOtherProperties() throws {
        let node = try TestNode()
        keeper(node).cut()
        let properties: [Property5] = [.user("a", "1"), .messageExpiry(100), .user("b", "2"), .contentType("c")]
        TestClient5(node, "s").send(Frame5.publish("t/1", "x", qos: 1, id: 1, properties))
        node.advance(milliseconds: 40_000)
        let event = try #require(back(node).returnedEvents.first)
        #expect(event.expiry == 60)
        #expect(event.properties.filter { $0.id != 2 } == properties.filter { $0.id != 2 })
    }

    /// Never 0 for an event that is still alive: parts of a second are rounded up.
    @Test func partsOfASecondAreRoundedUp() throws {
        let node = try TestNode()
        keeper(node).cut()
        let sender = TestClient5(node, "s")
        sender.send(Frame5.publish("t/1", "x", qos: 1, id: 1, [.messageExpiry(2)]))
        node.advance(milliseconds: 1_999)
        #expect(back(node).returnedEvents.map(\.expiry) == [1])
    }

    @Test func itEndsToTheMillisecond() throws {
        let node = try TestNode()
        keeper(node).cut()
        TestClient5(node, "s").send(Frame5.publish("t/1", "x", qos: 1, id: 1, [.messageExpiry(2)]))
        node.advance(milliseconds: 2_000)
        #expect(back(node).returned.isEmpty)
        #expect(node.dropped(.expired) == 1)
    }

    /// What waits for the quota expires there, too; what has been sent does not (§4.3.3).
    @Test(arguments: [UInt8(1), 2]) func whatWasSentIsSentAgainThoughItsTimeIsOver(qos: UInt8) throws {
        let node = try TestNode()
        let client = keeper(node, qos: 2, properties: [.receiveMaximum(1)])
        let sender = TestClient5(node, "s")
        for number in 1...3 {
            sender.send(Frame5.publish("t/\(number)", "x", qos: qos, id: UInt16(number), [.messageExpiry(5)]))
        }
        let sent = client.events()
        #expect(sent.map(\.topic) == ["t/1"])
        node.advance(milliseconds: 60_000)
        client.cut()
        let again = back(node)
        #expect(again.returnedEvents.map(\.topic) == ["t/1"], "the others' time was over before they were sent")
        #expect(again.returnedEvents.allSatisfy { $0.dup })
        let id = try #require(sent.first?.id)
        if qos == 1 {
            #expect(again.ask(Frame5.puback(id)).isEmpty)
        } else {
            #expect(again.ask(Frame5.pubrec(id)) == [.pubrel(id)])
            #expect(again.ask(Frame5.pubcomp(id)).isEmpty)
        }
        #expect(node.dropped(.expired) == 2)
    }

    /// Direct events that wait behind guaranteed ones have no more time than those.
    @Test func directEventsThatWaitExpireToo() throws {
        let node = try TestNode()
        let client = keeper(node, properties: [.receiveMaximum(1)])
        let sender = TestClient5(node, "s")
        sender.send(Frame5.publish("t/1", "1", qos: 1, id: 1), Frame5.publish("t/1", "2", qos: 1, id: 2))
        sender.send(Frame5.publish("t/1", "3", [.messageExpiry(5)]), Frame5.publish("t/1", "4", [.messageExpiry(50)]))
        let first = client.events()
        #expect(first.map(\.text) == ["1"])
        node.advance(milliseconds: 10_000)
        client.send(first.flatMap { Frame5.puback($0.id) })
        let second = client.events()
        client.send(second.filter { $0.id > 0 }.flatMap { Frame5.puback($0.id) })
        let all = second + client.events()
        #expect(all.map(\.text) == ["2", "4"])
        #expect(all.map(\.expiry) == [nil, 40])
    }

    @Test func aRetainedEventCountsDownAndIsGone() throws {
        let node = try TestNode()
        let sender = TestClient5(node, "s")
        sender.send(Frame5.publish("t/1", "x", retain: true, [.messageExpiry(10)]))
        sender.send(Frame5.publish("t/2", "x", retain: true))
        node.advance(milliseconds: 4_000)
        let first = TestClient5(node, "1")
        first.send(Frame5.subscribe(1, [.init("t/#")]))
        let events = first.events().sorted { $0.topic < $1.topic }
        #expect(events.map(\.expiry) == [6, nil])
        #expect(events.allSatisfy { $0.retain })
        node.advance(milliseconds: 6_000)
        let second = TestClient5(node, "2")
        second.send(Frame5.subscribe(1, [.init("t/#")]))
        #expect(second.events().map(\.topic) == ["t/2"])
    }

    @Test func anIntervalOfZeroIsForThoseWhoAreThere() throws {
        let node = try TestNode()
        let live = TestClient5(node, "live")
        live.subscribe("t/#", qos: 1)
        keeper(node).cut()
        let sender = TestClient5(node, "s")
        #expect(
            sender.ask(Frame5.publish("t/1", "x", qos: 1, id: 1, retain: true, [.messageExpiry(0)])) == [.puback(1)])
        #expect(live.events().map(\.expiry) == [0])
        #expect(back(node).returned.isEmpty)
        let late = TestClient5(node, "late")
        #expect(late.ask(Frame5.subscribe(1, [.init("t/#")])) == [.suback(1, [0])])
    }

    @Test func aWillHasItsTimeFromItsPublicationOn() throws {
        let node = try TestNode()
        keeper(node).cut()
        let willing = TestClient5(
            node, "w", will: .init(topic: "t/w", qos: 1, properties: [.messageExpiry(10)]))
        node.advance(milliseconds: 100_000)
        willing.cut()
        node.advance(milliseconds: 4_000)
        let events = back(node).returnedEvents
        #expect(events.map(\.topic) == ["t/w"])
        #expect(events.map(\.expiry) == [6])
    }

    /// Older clients get events with an expiry like any other, and none that is over.
    @Test func expiryHoldsForOlderClientsToo() throws {
        let node = try TestNode()
        let older = TestClient(node, "o", clean: false)
        older.subscribe("t/#", qos: 1)
        older.cut()
        let sender = TestClient5(node, "s")
        sender.send(Frame5.publish("t/1", "1", qos: 1, id: 1, [.messageExpiry(5)]))
        sender.send(Frame5.publish("t/2", "2", qos: 1, id: 2, [.messageExpiry(50)]))
        node.advance(milliseconds: 6_000)
        #expect(TestClient(node, "o", clean: false).returned == [.event("t/2", "2", qos: 1, id: 1)])
    }
}
