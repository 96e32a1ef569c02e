import Core
import Testing

/// Subscribing, retained events, shared subscriptions, access rules.
@Suite struct SubscriptionTests {
    @Test func grantedAsAsked() throws {
        let node = try TestNode()
        let client = TestClient(node, "c")
        #expect(client.ask(Frame.subscribe(0xABCD, [("a", 0), ("b", 1), ("c", 2)])) == [.suback(0xABCD, [0, 1, 2])])
        let sender = TestClient(node, "s")
        for topic in ["a", "b", "c"] {
            for qos in UInt8(0)...2 { sender.send(Frame.publish(topic, "\(qos)", qos: qos, id: 1), Frame.pubrel(1)) }
        }
        // The lower of what was published and what was granted (§4.3).
        #expect(client.events().map(\.qos) == [0, 0, 0, 0, 1, 1, 0, 1, 2])
    }

    @Test func subscribingAgainReplaces() throws {
        let node = try TestNode()
        let client = TestClient(node, "c")
        client.subscribe("a", qos: 2)
        client.subscribe("a", qos: 0)
        let sender = TestClient(node, "s")
        sender.send(Frame.publish("a", "x", qos: 2, id: 1))
        #expect(client.answers() == [.event("a", "x")])
        #expect(node.router.subscriptionCount == 1)
        #expect(client.ask(Frame.unsubscribe(1, ["a"])) == [.unsuback(1)])
        sender.send(Frame.publish("a", "x", qos: 2, id: 2))
        #expect(client.answers().isEmpty)
    }

    @Test func overlappingSubscriptionsMakeOneCopyAtTheHighestQoS() throws {
        let node = try TestNode()
        let client = TestClient(node, "c")
        _ = client.ask(Frame.subscribe(1, [("#", 0), ("a/+", 2), ("a/b", 1), ("+/b", 0)]))
        let sender = TestClient(node, "s")
        sender.send(Frame.publish("a/b", "x", qos: 2, id: 1))
        #expect(client.answers() == [.event("a/b", "x", qos: 2, id: 1)])
        _ = client.ask(Frame.unsubscribe(1, ["a/+"]))
        sender.send(Frame.publish("a/b", "y", qos: 2, id: 2))
        #expect(client.answers() == [.event("a/b", "y", qos: 1, id: 2)])
        _ = client.ask(Frame.unsubscribe(1, ["a/b", "#"]))
        sender.send(Frame.publish("a/b", "z", qos: 2, id: 3))
        #expect(client.answers() == [.event("a/b", "z")])
    }

    @Test func unsubscribeOfNothing() throws {
        let node = try TestNode()
        let client = TestClient(node, "c")
        #expect(client.ask(Frame.unsubscribe(3, ["a", "b/#", "#/wrong"])) == [.unsuback(3)])
        client.subscribe("a")
        #expect(client.ask(Frame.unsubscribe(4, ["a", "a"])) == [.unsuback(4)])
        #expect(node.router.subscriptionCount == 0)
    }

    @Test func selfSubscriber() throws {
        let client = TestClient(try TestNode(), "c")
        _ = client.ask(Frame.subscribe(1, [("a", 2)]))
        #expect(
            client.ask(
                Frame.publish("a", "0"), Frame.publish("a", "1", qos: 1, id: 5), Frame.publish("a", "2", qos: 2, id: 6))
                == [
                    .event("a", "0"), .event("a", "1", qos: 1, id: 1), .event("a", "2", qos: 2, id: 2), .puback(5),
                    .pubrec(6),
                ])
    }

    /// `*` and `>` are ordinary characters of MQTT, and a wildcard does not see `$`.
    @Test func otherGrammarsAndDollar() throws {
        let node = try TestNode()
        let client = TestClient(node, "c")
        _ = client.ask(Frame.subscribe(1, [("x/*", 0), ("y/>", 0), ("#", 0), ("+/z", 0)]))
        let sender = TestClient(node, "s")
        sender.send(Frame.publish("x/1", "1"), Frame.publish("x/*", "2"), Frame.publish("$SYS/z", "3"))
        #expect(client.events().map(\.text) == ["1", "2"])
        #expect(node.dropped(.notAuthorized) == 1, "what begins with $ belongs to the node")
    }

    @Test func subscriptionLimit() throws {
        var limits = Limits()
        limits.maxSubscriptionsPerSession = 3
        let node = try TestNode(limits: limits)
        let client = TestClient(node, "c")
        let filters = ["a", "b", "c", "d", "e"].map { (filter: $0, qos: UInt8(1)) }
        #expect(client.ask(Frame.subscribe(1, filters)) == [.suback(1, [1, 1, 1, 0x80, 0x80])])
        _ = client.ask(Frame.unsubscribe(2, ["a"]))
        #expect(client.ask(Frame.subscribe(3, [("d", 1)])) == [.suback(3, [1])])
    }

    // MARK: Retained events (§3.3.1.3)

    @Test func retained() throws {
        let node = try TestNode(lanes: 2)
        let sender = TestClient(node, "s")
        let live = TestClient(node, "live", lane: 1)
        live.subscribe("#", qos: 2)
        for qos in UInt8(0)...2 {
            sender.send(Frame.publish("r/\(qos)", "old", qos: qos, id: 9, retain: true), Frame.pubrel(9))
            sender.send(Frame.publish("r/\(qos)", "\(qos)", qos: qos, id: 9, retain: true), Frame.pubrel(9))
        }
        #expect(live.events().allSatisfy { !$0.retain }, "live events have no retain flag")
        #expect(node.router.retainedCount == 3)
        for granted in UInt8(0)...2 {
            let client = TestClient(node, "c", lane: Int(granted) % 2)
            let answers = client.ask(Frame.subscribe(1, [("r/+", granted)]))
            #expect(answers.first == .suback(1, [granted]))
            let events = answers.dropFirst().compactMap { answer -> Answer.Publish? in
                if case .publish(let event) = answer { event } else { nil }
            }
            let sorted = events.sorted { $0.topic < $1.topic }
            #expect(sorted.map(\.text) == ["0", "1", "2"])
            #expect(sorted.map(\.qos) == (UInt8(0)...2).map { min($0, granted) })
            #expect(sorted.allSatisfy { $0.retain && !$0.dup })
            // Subscribing again begins again; another filter brings its own.
            #expect(client.ask(Frame.subscribe(2, [("r/0", 0)])).count == 2)
            #expect(client.ask(Frame.subscribe(3, [("none", 0)])).count == 1)
            client.cut()
        }
        sender.send(Frame.publish("r/1", "", retain: true), Frame.publish("r/none", "", retain: true))
        #expect(node.router.retainedCount == 2)
        #expect(TestClient(node, "c").ask(Frame.subscribe(1, [("r/1", 1)])) == [.suback(1, [1])])
        #expect(live.events().map(\.payload) == [[], []], "an empty one is an event, too")
    }

    @Test func retainedKeepsItsFlagAndQoSThroughAReconnect() throws {
        let node = try TestNode()
        TestClient(node, "s").send(Frame.publish("r", "x", qos: 1, id: 1, retain: true))
        let client = TestClient(node, "c", clean: false)
        let first = client.ask(Frame.subscribe(1, [("r", 1)]))
        #expect(first == [.suback(1, [1]), .event("r", "x", qos: 1, id: 1, retain: true)])
        client.cut()
        #expect(
            TestClient(node, "c", clean: false).returned == [.event("r", "x", qos: 1, id: 1, retain: true, dup: true)])
    }

    @Test func retainedIsNotSharedOrForDollar() throws {
        let node = try TestNode()
        TestClient(node, "s").send(Frame.publish("r", "x", retain: true))
        let client = TestClient(node, "c")
        #expect(client.ask(Frame.subscribe(1, [("$share/g/r", 1)])) == [.suback(1, [1])])
        #expect(client.ask(Frame.subscribe(1, [("$local/r", 1)])).count == 2)
    }

    @Test func retainedLimit() throws {
        var limits = Limits()
        limits.maxRetainedEvents = 2
        let node = try TestNode(limits: limits)
        let client = TestClient(node, "c")
        client.subscribe("#")
        client.send((1...3).flatMap { Frame.publish("r/\($0)", "x", retain: true) })
        #expect(client.events().count == 3, "delivered all the same")
        #expect(node.router.retainedCount == 2)
        #expect(node.dropped(.retainedFull) == 1)
        client.send(Frame.publish("r/1", "", retain: true), Frame.publish("r/3", "x", retain: true))
        #expect(node.router.retainedCount == 2)
        #expect(node.dropped(.retainedFull) == 1)
    }

    // MARK: Shared subscriptions

    @Test(arguments: [UInt8(0), 1, 2]) func sharedGoesToOne(qos: UInt8) throws {
        let node = try TestNode(lanes: 2)
        let members = (0..<4).map { TestClient(node, "m\($0)", lane: $0 % 2) }
        for member in members { member.subscribe("$share/g/a/#", qos: qos) }
        let other = TestClient(node, "other")
        other.subscribe("$share/h/a/#", qos: qos)
        let plain = TestClient(node, "plain", lane: 1)
        plain.subscribe("a/#", qos: qos)
        let sender = TestClient(node, "s")
        let answers = sender.ask((1...400).flatMap { Frame.publish("a/b", "\($0)", qos: qos, id: UInt16($0)) })
        #expect(answers.count == (qos == 0 ? 0 : 400))
        let received = members.map { $0.events().map(\.text) }
        #expect(received.flatMap { $0 }.sorted() == (1...400).map { "\($0)" }.sorted(), "each once")
        #expect(received.allSatisfy { $0.count == 100 }, "in turn")
        for texts in received { #expect(texts.compactMap { Int($0) } == texts.compactMap { Int($0) }.sorted()) }
        #expect(other.events().map(\.text) == (1...400).map { "\($0)" }, "another group has all")
        #expect(plain.events().count == 400)
        _ = members[0].ask(Frame.unsubscribe(1, ["$share/g/a/#"]))
        members[1].cut()
        sender.send((1...10).flatMap { Frame.publish("a/b", "\($0)") })
        #expect(members[0].events().isEmpty)
        // At QoS 1 what the member that left had not acknowledged goes to the others, too.
        #expect(members[2].events().count + members[3].events().count == (qos == 1 ? 110 : 10))
    }

    /// A share that came from another lane must not make what follows there a share.
    @Test func whatFollowsAShareFromAnotherLaneIsNone() throws {
        let node = try TestNode(lanes: 2)
        let member = TestClient(node, "member", lane: 1)
        member.subscribe("$share/g/jobs/#", qos: 1)
        let other = TestClient(node, "other", lane: 0)
        other.subscribe("$share/g/jobs/#", qos: 1)
        let owner = TestClient(node, "owner", clean: false, lane: 1)
        owner.subscribe("own/#", qos: 1)
        TestClient(node, "far", lane: 0).send((1...4).flatMap { Frame.publish("jobs/x", "\($0)", qos: 1, id: $0) })
        TestClient(node, "near", lane: 1).send(Frame.publish("own/0", "mine", qos: 1, id: 1))
        #expect(owner.events().map(\.text) == ["mine"])
        _ = (member.events(), other.events())
        owner.cut()
        #expect(member.events().isEmpty && other.events().isEmpty, "a private event is nobody else's")
        let again = TestClient(node, "owner", clean: false, lane: 1)
        #expect(
            again.returned == [.publish(.init(topic: "own/0", payload: Array("mine".utf8), qos: 1, id: 1, dup: true))])
    }

    @Test func sharedAndPlainOfOneSession() throws {
        let node = try TestNode()
        let client = TestClient(node, "c")
        _ = client.ask(Frame.subscribe(1, [("$share/g/a", 1), ("a", 1)]))
        TestClient(node, "s").send(Frame.publish("a", "x", qos: 1, id: 1))
        #expect(client.events().count == 2, "two subscriptions that do not overlap (MQTT 5 §4.8.2)")
        _ = client.ask(Frame.unsubscribe(1, ["a"]))
        TestClient(node, "s").send(Frame.publish("a", "x", qos: 1, id: 1))
        #expect(client.events().count == 1)
    }

    // MARK: Access rules

    private static let rules = [
        AccessRule(effect: .deny, action: .all, topics: ["a/secret/#"]),
        AccessRule(effect: .allow, action: .all, topics: ["a/#", "own/${clientid}/#"], users: ["anna"]),
        AccessRule(effect: .allow, action: .subscribe, topics: ["#"], users: ["witness"]),
    ]

    @Test func refusedSubscription() throws {
        let node = try TestNode(rules: Self.rules)
        let client = TestClient(node, "c", user: "anna")
        let filters = ["a/b", "#", "b", "a/+", "own/c/x", "own/d/x", "+/b", "a/b/c"].map { (filter: $0, qos: UInt8(1)) }
        #expect(
            client.ask(Frame.subscribe(1, filters)) == [.suback(1, [1, 0x80, 0x80, 0x80, 1, 0x80, 0x80, 1])])
        #expect(node.router.subscriptionCount == 3)
        #expect(node.counters.subscriptionsRefused == 5)
        #expect(client.closing == nil)
    }

    @Test func refusedPublishIsDroppedCountedAndAcknowledged() throws {
        let node = try TestNode(rules: Self.rules)
        let witness = TestClient(node, "w")
        #expect(witness.ask(Frame.subscribe(1, [("a/b", 1)])) == [.suback(1, [0x80])])
        let client = TestClient(node, "c", user: "anna")
        _ = client.ask(Frame.subscribe(1, [("a/b", 1)]))
        let answers = client.ask(
            Frame.publish("b", "1", qos: 1, id: 1), Frame.publish("b", "2", qos: 2, id: 2),
            Frame.publish("a/secret/x", "3"), Frame.publish("a/b", "4"), Frame.publish("b", "5", retain: true),
            Frame.publish("b", "6", qos: 1, id: 3), Frame.publish("b", "7", qos: 1, id: 4))
        // MQTT 3.1.1 has no way to say no to a publish (§3.3.5).
        #expect(answers.filter { $0 != .event("a/b", "4") } == [.puback(1), .pubrec(2), .puback(3), .puback(4)])
        #expect(answers.contains(.event("a/b", "4")))
        #expect(node.dropped(.notAuthorized) == 6)
        #expect(node.router.retainedCount == 0)
        #expect(client.closing == nil)
    }

    @Test func reloadedRulesHoldAtOnce() throws {
        let node = try TestNode(rules: Self.rules)
        let client = TestClient(node, "c", user: "anna")
        client.send(Frame.publish("b", "x"))
        #expect(node.dropped(.notAuthorized) == 1)
        node.router.reload(try AccessRules([AccessRule(effect: .allow, action: .all, topics: ["b"])]))
        client.send(Frame.publish("b", "x"))
        #expect(node.dropped(.notAuthorized) == 1)
        client.send(Frame.publish("a/b", "x"))
        #expect(node.dropped(.notAuthorized) == 2)
        #expect(client.ask(Frame.subscribe(1, [("a/b", 0), ("b", 0)])) == [.suback(1, [0x80, 0])])
    }

    @Test func publishRate() throws {
        var limits = Limits()
        limits.maxPublishRate = 100
        let node = try TestNode(limits: limits)
        let witness = TestClient(node, "w")
        witness.subscribe("a")
        let client = TestClient(node, "c")
        for _ in 0..<150 { client.send(Frame.publish("a", "x")) }
        // What is too much is not lost: it is not read yet.
        #expect(witness.events().count == 100)
        node.advance(milliseconds: 400)
        #expect(witness.events().count == 40)
        for _ in 0..<100 { client.send(Frame.publish("a", "x")) }
        #expect(witness.events().isEmpty)
        node.advance(milliseconds: 10_000)
        #expect(witness.events().count == 100)
        #expect(client.ask(Frame.publish("a", "x", qos: 1, id: 1)).isEmpty)
        node.advance(milliseconds: 500)
        #expect(client.answers() == [.puback(1)])
        #expect(witness.events().count == 11)
        #expect(node.dropped(.quotaExceeded) == 0)
    }
}
