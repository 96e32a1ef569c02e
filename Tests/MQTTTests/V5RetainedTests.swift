import Core
import Testing

/// MQTT 5: retained events, retain handling, retain as published (§3.3.1.3, §3.8.3.1).
@Suite struct V5RetainedTests {
    private func node(_ topics: String...) throws -> (TestNode, TestClient5) {
        let node = try TestNode()
        let sender = TestClient5(node, "s")
        for topic in topics { sender.send(Frame5.publish(topic, "r", qos: 1, id: 1, retain: true)) }
        _ = sender.answers()
        return (node, sender)
    }

    @Test func theLastRetainedEventReplacesTheOneBefore() throws {
        let (node, sender) = try node("t")
        sender.send(Frame5.publish("t", "new", qos: 2, id: 2, retain: true), Frame5.publish("t", "live"))
        #expect(node.router.retainedCount == 1)
        let client = TestClient5(node, "c")
        #expect(
            client.ask(Frame5.subscribe(1, [.init("t", qos: 2)]))
                == [.suback(1, [2]), .event("t", "new", qos: 2, id: 1, retain: true)])
    }

    @Test func anEmptyRetainedEventDeletesAndIsNotKept() throws {
        let (node, sender) = try node("t")
        let live = TestClient5(node, "l")
        _ = live.ask(Frame5.subscribe(1, [.init("t", retainHandling: 2)]))
        sender.send(Frame5.publish("t", "", qos: 1, id: 2, retain: true), Frame5.publish("none", "", retain: true))
        #expect(node.router.retainedCount == 0)
        #expect(live.events().map(\.payload) == [[]], "it is an event all the same")
        #expect(TestClient5(node, "c").ask(Frame5.subscribe(1, [.init("t")])) == [.suback(1, [0])])
    }

    @Test func withoutTheFlagNothingIsKeptOrReplaced() throws {
        let (node, sender) = try node("t")
        sender.send(Frame5.publish("t", "live"), Frame5.publish("t", ""), Frame5.publish("u", "live", qos: 1, id: 2))
        #expect(node.router.retainedCount == 1)
        let client = TestClient5(node, "c")
        client.send(Frame5.subscribe(1, [.init("#")]))
        #expect(client.events().map(\.text) == ["r"])
    }

    /// What is retained belongs to no session.
    @Test func retainedEventsOutliveTheirPublisher() throws {
        let (node, sender) = try node("t")
        sender.cut()
        #expect(node.router.sessionCount == 0)
        let client = TestClient5(node, "c")
        #expect(client.ask(Frame5.subscribe(1, [.init("t")])) == [.suback(1, [0]), .event("t", "r", retain: true)])
    }

    // MARK: Retain handling

    @Test func handling0SendsThemWithEverySubscribe() throws {
        let (node, _) = try node("t/1", "t/2")
        let client = TestClient5(node, "c")
        for _ in 0..<3 {
            client.send(Frame5.subscribe(1, [.init("t/+")]))
            #expect(client.events().map(\.topic).sorted() == ["t/1", "t/2"])
        }
    }

    @Test func handling1SendsThemWithNewSubscriptionsOnly() throws {
        let (node, _) = try node("t/1", "t/2")
        let client = TestClient5(node, "c", expiry: 60)
        let subscribe = Frame5.subscribe(1, [.init("t/+", retainHandling: 1)])
        client.send(subscribe)
        #expect(client.events().count == 2)
        #expect(client.ask(subscribe) == [.suback(1, [0])])
        client.cut()
        let back = TestClient5(node, "c", clean: false, expiry: 60)
        #expect(back.ask(subscribe) == [.suback(1, [0])], "the subscription was still there")
        back.send(Frame5.unsubscribe(2, ["t/+"]), subscribe)
        #expect(back.events().count == 2, "after UNSUBSCRIBE it is a new one")
        back.send(Frame5.subscribe(3, [.init("t/#", retainHandling: 1)]))
        #expect(back.events().count == 2, "another filter is another subscription")
    }

    @Test func handling2NeverSendsThem() throws {
        let (node, sender) = try node("t/1")
        let client = TestClient5(node, "c")
        #expect(client.ask(Frame5.subscribe(1, [.init("t/+", retainHandling: 2)])) == [.suback(1, [0])])
        sender.send(Frame5.publish("t/1", "live", retain: true))
        #expect(client.events().map(\.text) == ["live"])
    }

    @Test func sharedSubscriptionsBringNoRetainedEvents() throws {
        let (node, sender) = try node("t")
        for handling in UInt8(0)...2 {
            let client = TestClient5(node, "c\(handling)")
            #expect(
                client.ask(Frame5.subscribe(1, [.init("$share/g\(handling)/t", retainHandling: handling)]))
                    == [.suback(1, [0])])
            sender.send(Frame5.publish("t", "live", retain: true))
            #expect(client.events().map(\.retain) == [false])
        }
    }

    /// Retained events are publishes like others: no more at once than the client takes, all of them in the end.
    @Test(arguments: [UInt8(0), 1, 2]) func retainedEventsKeepTheReceiveMaximum(qos: UInt8) throws {
        let node = try TestNode()
        let sender = TestClient5(node, "s")
        for number in 0..<50 {
            sender.send(Frame5.publish("t/\(number)", "r", qos: 2, id: 1, retain: true), Frame5.pubrel(1))
        }
        let client = TestClient5(node, "c", properties: [.receiveMaximum(3)])
        client.send(Frame5.subscribe(1, [.init("t/+", qos: qos)], [.subscriptionID(8)]))
        var topics: [String] = []
        var events = client.events()
        while !events.isEmpty {
            #expect(qos == 0 || events.count <= 3)
            #expect(events.allSatisfy { $0.retain && $0.qos == qos && $0.subscriptionIDs == [8] })
            topics += events.map(\.topic)
            for event in events where qos == 2 { client.send(Frame5.pubrec(event.id)) }
            client.send(events.flatMap { qos == 0 ? [] : qos == 1 ? Frame5.puback($0.id) : Frame5.pubcomp($0.id) })
            events = client.events()
        }
        #expect(topics.sorted() == (0..<50).map { "t/\($0)" }.sorted())
    }

    /// Those not yet sent are new to who unsubscribes ([MQTT-3.10.4-2]).
    @Test func unsubscribingStopsRetainedEvents() throws {
        let node = try TestNode()
        let sender = TestClient5(node, "s")
        for number in 0..<50 { sender.send(Frame5.publish("t/\(number)", "r", qos: 1, id: 1, retain: true)) }
        let client = TestClient5(node, "c", expiry: 60, properties: [.receiveMaximum(3)])
        client.send(Frame5.subscribe(1, [.init("t/+", qos: 1)]))
        let first = client.events()
        #expect(first.count == 3)
        #expect(client.ask(Frame5.unsubscribe(2, ["t/+"])) == [.unsuback(2, [0])])
        client.send(first.flatMap { Frame5.puback($0.id) })
        // What the window held already may still come; the other forty do not.
        var rest = 0
        var events = client.events()
        while !events.isEmpty {
            rest += events.count
            client.send(events.flatMap { Frame5.puback($0.id) })
            events = client.events()
        }
        #expect(rest <= 3, "\(rest) more")
    }

    // MARK: The flag on the way out

    /// With a new subscription always; with a live event only as published, where that is asked for.
    @Test(arguments: [UInt8(0), 1, 2]) func theRetainFlag(qos: UInt8) throws {
        let node = try TestNode(lanes: 2)
        let plain = TestClient5(node, "p")
        let asPublished = TestClient5(node, "a", lane: 1)
        plain.subscribe("t", qos: 2)
        _ = asPublished.ask(Frame5.subscribe(1, [.init("t", qos: 2, retainAsPublished: true)]))
        let sender = TestClient5(node, "s")
        for retain in [true, false, true] {
            sender.send(Frame5.publish("t", "x", qos: qos, id: 1, retain: retain), Frame5.pubrel(1))
        }
        #expect(plain.events().map(\.retain) == [false, false, false])
        #expect(asPublished.events().map(\.retain) == [true, false, true])
        for option in [false, true] {
            let late = TestClient5(node, "late")
            late.send(Frame5.subscribe(1, [.init("t", qos: qos, retainAsPublished: option)]))
            #expect(late.events().map(\.retain) == [true])
        }
    }

    @Test func theFlagSurvivesWaitingAndAReconnect() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", expiry: 60)
        _ = client.ask(Frame5.subscribe(1, [.init("t", qos: 1, retainAsPublished: true)]))
        client.cut()
        let sender = TestClient5(node, "s")
        sender.send(Frame5.publish("t", "1", qos: 1, id: 1, retain: true), Frame5.publish("t", "2", qos: 1, id: 2))
        let back = TestClient5(node, "c", clean: false, expiry: 60)
        #expect(back.returnedEvents.map(\.retain) == [true, false])
        back.cut()
        #expect(TestClient5(node, "c", clean: false).returnedEvents.map(\.retain) == [true, false])
    }

    /// One copy for overlapping subscriptions: it has the flag if one of them wants it.
    @Test func retainAsPublishedOfOverlappingSubscriptions() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c")
        _ = client.ask(Frame5.subscribe(1, [.init("t/#"), .init("t/1", retainAsPublished: true)]))
        TestClient5(node, "s").send(Frame5.publish("t/1", "x", retain: true))
        #expect(client.answers() == [.event("t/1", "x", retain: true)])
    }
}
