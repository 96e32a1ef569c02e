import Core
import Testing

/// MQTT 5: topic aliases, both ways (§3.3.2.3.4).
@Suite struct V5AliasTests {
    private func pair() throws -> (TestNode, TestClient5, TestClient5) {
        let node = try TestNode()
        let receiver = TestClient5(node, "r")
        receiver.subscribe("#", qos: 2)
        return (node, receiver, TestClient5(node, "s"))
    }

    // MARK: From the client

    @Test(arguments: [UInt8(0), 1, 2]) func anAliasStandsForItsTopic(qos: UInt8) throws {
        let (_, receiver, sender) = try pair()
        sender.send(Frame5.publish("long/topic", "1", qos: qos, id: 1, [.topicAlias(5)]))
        sender.send(Frame5.publish("", "2", qos: qos, id: 2, [.topicAlias(5)]))
        sender.send(Frame5.publish("other", "3", qos: qos, id: 3, [.topicAlias(5)]))
        sender.send(Frame5.publish("", "4", qos: qos, id: 4, [.user("k", "v"), .topicAlias(5)]))
        let events = receiver.events()
        #expect(events.map(\.topic) == ["long/topic", "long/topic", "other", "other"])
        #expect(events.map(\.properties) == [[], [], [], [.user("k", "v")]], "an alias is not passed on")
        #expect(sender.closing == nil)
    }

    @Test func everyAliasUpToTheMaximumIsTaken() throws {
        let (_, receiver, sender) = try pair()
        for alias in UInt16(1)...64 { sender.send(Frame5.publish("t/\(alias)", "a", [.topicAlias(alias)])) }
        for alias in (UInt16(1)...64).reversed() { sender.send(Frame5.publish("", "b", [.topicAlias(alias)])) }
        let topics = receiver.events().map(\.topic)
        #expect(topics == (1...64).map { "t/\($0)" } + (1...64).reversed().map { "t/\($0)" })
    }

    /// Long topics are topics, as long as they fit the node's limit together; beyond it the client is told so. A limit
    /// of memory: the specification knows only one of number ([MQTT-3.3.2-12]).
    @Test func aliasesOfLongTopicsAreTakenUpToTheLimitInBytes() throws {
        let (_, receiver, sender) = try pair()
        let topics = (1...3).map { String(repeating: "\($0)", count: 21_000) }
        for (number, topic) in topics.enumerated() {
            sender.send(Frame5.publish(topic, "a", [.topicAlias(UInt16(number + 1))]))
        }
        for number in UInt16(1)...3 { sender.send(Frame5.publish("", "b", [.topicAlias(number)])) }
        // A topic takes the room of the one before it.
        for _ in 0..<3 { for topic in topics { sender.send(Frame5.publish(topic, "c", [.topicAlias(2)])) } }
        #expect(receiver.events().map(\.topic) == topics + topics + topics + topics + topics)
        #expect(sender.closing == nil)
        #expect(sender.ask(Frame5.publish(topics[0], "d", [.topicAlias(4)])) == [.disconnect(0x97)])
        #expect(receiver.answers().isEmpty)
    }

    /// A whole read of them: what an alias means changes in the middle.
    @Test func aliasesChangeWithinOneRead() throws {
        let (_, receiver, sender) = try pair()
        let frames = (0..<50).flatMap { number in
            Frame5.publish("t/\(number)", "a", [.topicAlias(1)]) + Frame5.publish("", "b", [.topicAlias(1)])
        }
        sender.send(frames)
        #expect(receiver.events().map(\.topic) == (0..<50).flatMap { ["t/\($0)", "t/\($0)"] })
    }

    @Test(arguments: [(UInt16(0), UInt8(0x94)), (65, 0x94), (65_535, 0x94)], ["t", ""])
    func aliasesOutOfRange(_ example: (alias: UInt16, reason: UInt8), topic: String) throws {
        let (_, receiver, sender) = try pair()
        #expect(
            sender.ask(Frame5.publish(topic, "x", qos: 1, id: 1, [.topicAlias(example.alias)]))
                == [.disconnect(example.reason)])
        #expect(sender.closing != nil)
        #expect(receiver.answers().isEmpty)
    }

    @Test func anUnknownAliasIsAProtocolError() throws {
        let (_, receiver, sender) = try pair()
        sender.send(Frame5.publish("t", "x", [.topicAlias(2)]))
        #expect(sender.ask(Frame5.publish("", "x", [.topicAlias(1)])) == [.disconnect(0x82)])
        #expect(receiver.events().count == 1)
    }

    @Test func noTopicAndNoAliasIsAProtocolError() throws {
        let (_, _, sender) = try pair()
        #expect(sender.ask(Frame5.publish("", "x")) == [.disconnect(0x82)])
    }

    @Test func withoutAliasesAllowedEveryAliasIsInvalid() throws {
        var limits = Limits()
        limits.maxTopicAliases = 0
        let sender = TestClient5(try TestNode(limits: limits), "s")
        #expect(sender.ask(Frame5.publish("t", "x", [.topicAlias(1)])) == [.disconnect(0x94)])
    }

    @Test func aliasesEndWithTheirConnection() throws {
        let (node, _, sender) = try pair()
        sender.send(Frame5.publish("t", "x", [.topicAlias(1)]))
        sender.cut()
        let back = TestClient5(node, "s", clean: false, expiry: 60)
        #expect(back.ask(Frame5.publish("", "x", [.topicAlias(1)])) == [.disconnect(0x82)])
        let other = TestClient5(node, "o")
        #expect(other.ask(Frame5.publish("", "x", [.topicAlias(1)])) == [.disconnect(0x82)])
    }

    /// Sent again after a cut, an event comes with its topic; the alias it set holds.
    @Test func duplicatesSetAliasesToo() throws {
        let (node, receiver, _) = try pair()
        let client = TestClient5(node, "p", clean: false, expiry: 60)
        client.send(Frame5.publish("t", "1", qos: 2, id: 1, [.topicAlias(1)]))
        client.cut()
        let back = TestClient5(node, "p", clean: false, expiry: 60)
        back.send(Frame5.publish("t", "1", qos: 2, id: 1, dup: true, [.topicAlias(1)]))
        back.send(Frame5.publish("", "2", qos: 2, id: 2, [.topicAlias(1)]))
        #expect(receiver.events().map { $0.topic + $0.text } == ["t1", "t2"])
    }

    // MARK: To the client

    /// What a client with these aliases makes of what it gets.
    private func topics(_ events: [Answer5.Publish], maximum: UInt16) -> [String] {
        var known: [UInt16: String] = [:]
        return events.map { event in
            guard let alias = event.alias else { return event.topic }
            #expect(alias > 0 && alias <= maximum)
            if !event.topic.isEmpty { known[alias] = event.topic }
            return known[alias] ?? "unknown alias"
        }
    }

    @Test(arguments: [UInt16(1), 2, 10, 64, 65_535]) func aliasesToTheClientStayInItsRange(maximum: UInt16) throws {
        let (node, _, sender) = try pair()
        let client = TestClient5(node, "c", properties: [.topicAliasMaximum(maximum)])
        client.subscribe("t/#", qos: 1)
        var wanted: [String] = []
        for round in 0..<3 {
            for number in 0..<100 {
                wanted.append("t/\(number)")
                sender.send(Frame5.publish("t/\(number)", "\(round)", qos: UInt8(number % 2), id: 1))
            }
        }
        let events = client.events()
        #expect(topics(events, maximum: maximum) == wanted)
        client.send(events.filter { $0.id > 0 }.flatMap { Frame5.puback($0.id) })
        for _ in 0..<9 { sender.send(Frame5.publish("t/again", "x")) }
        #expect(topics(client.events().suffix(1), maximum: maximum).count == 1)
    }

    @Test func noAliasesForClientsThatTakeNone() throws {
        let (node, _, sender) = try pair()
        let clients = [
            TestClient5(node, "c1"), TestClient5(node, "c2", properties: [.topicAliasMaximum(0)]),
        ]
        for client in clients { client.subscribe("t", qos: 1) }
        for number in 0..<20 { sender.send(Frame5.publish("t", "x", qos: UInt8(number % 2), id: 1)) }
        for client in clients {
            let events = client.events()
            #expect(events.count == 20)
            #expect(events.allSatisfy { $0.topic == "t" && $0.alias == nil })
        }
    }

    /// A new connection knows nothing: the topic comes first, also with what is sent again.
    @Test func aliasesToTheClientEndWithTheConnection() throws {
        let (node, _, sender) = try pair()
        let client = TestClient5(node, "c", expiry: 60, properties: [.topicAliasMaximum(5)])
        client.subscribe("t", qos: 1)
        for number in 1...6 { sender.send(Frame5.publish("t", "\(number)", qos: 1, id: 1)) }
        #expect(topics(client.events(), maximum: 5) == .init(repeating: "t", count: 6))
        client.cut()
        let back = TestClient5(node, "c", clean: false, expiry: 60, properties: [.topicAliasMaximum(5)])
        #expect(topics(back.returnedEvents, maximum: 5) == .init(repeating: "t", count: 6))
        back.cut()
        let without = TestClient5(node, "c", clean: false)
        #expect(without.returnedEvents.map(\.topic) == .init(repeating: "t", count: 6))
    }
}
