import Core
import Testing

/// MQTT 5: guaranteed events to a client, and what a reconnect sends again (§4.3, §4.4, §4.6).
@Suite struct V5DeliveryTests {
    private func persistent(_ node: TestNode, _ filter: String, qos: UInt8) -> TestClient5 {
        let client = TestClient5(node, "c", clean: false, expiry: 60)
        client.subscribe(filter, qos: qos)
        return client
    }

    private func back(_ node: TestNode) -> TestClient5 { TestClient5(node, "c", clean: false, expiry: 60) }

    private func publish(_ node: TestNode, _ numbers: ClosedRange<Int>, qos: UInt8 = 1) {
        let sender = TestClient5(node, "s")
        for number in numbers {
            sender.send(Frame5.publish("a", "\(number)", qos: qos, id: UInt16(number)), Frame5.pubrel(UInt16(number)))
        }
    }

    @Test func eventsHaveFreshIdentifiersAndNoDup() throws {
        let node = try TestNode()
        let client = persistent(node, "a", qos: 2)
        publish(node, 1...3, qos: 1)
        publish(node, 4...6, qos: 2)
        publish(node, 7...7, qos: 0)
        let events = client.events()
        #expect(events.map(\.qos) == [1, 1, 1, 2, 2, 2, 0])
        #expect(events.allSatisfy { !$0.dup })
        let ids = events.dropLast().map(\.id)
        #expect(Set(ids).count == 6 && !ids.contains(0))
    }

    /// Only a reconnect sends again, with DUP, the same identifiers and in the same order (§4.4).
    @Test func whatIsNotAcknowledgedIsSentAgainAfterAReconnectOnly() throws {
        let node = try TestNode()
        let client = persistent(node, "a", qos: 2)
        publish(node, 1...4, qos: 1)
        publish(node, 5...6, qos: 2)
        let first = client.events()
        #expect(first.count == 6)
        node.advance(milliseconds: 1_000_000)
        #expect(client.answers().isEmpty, "time alone sends nothing again")
        client.send(Frame5.puback(first[1].id))
        #expect(client.ask(Frame5.pubrec(first[4].id)) == [.pubrel(first[4].id)])
        client.cut()
        let again = back(node)
        var wanted = [0, 2, 3].map {
            Answer5.event("a", first[$0].text, qos: 1, id: first[$0].id, dup: true)
        }
        wanted += [.pubrel(first[4].id), .event("a", "6", qos: 2, id: first[5].id, dup: true)]
        #expect(again.returned == wanted)
    }

    @Test func qoS2ThroughCutsAtEveryStep() throws {
        let node = try TestNode()
        var client = persistent(node, "a", qos: 2)
        publish(node, 1...1, qos: 2)
        let id = try #require(client.events().first?.id)
        client.cut()
        client = back(node)
        #expect(client.returned == [.event("a", "1", qos: 2, id: id, dup: true)])
        #expect(client.ask(Frame5.pubrec(id)) == [.pubrel(id)])
        for _ in 0..<2 {
            client.cut()
            client = back(node)
            #expect(client.returned == [.pubrel(id)], "the event never again")
        }
        #expect(client.ask(Frame5.pubcomp(id)).isEmpty)
        client.cut()
        #expect(back(node).returned.isEmpty)
    }

    /// The client refuses: the event is settled, is not sent again and needs no PUBREL (§4.4).
    @Test(arguments: [UInt8(0x80), 0x83, 0x87, 0x90, 0x91, 0x97, 0x99])
    func refusedByTheClientIsSettled(reason: UInt8) throws {
        let node = try TestNode()
        let client = persistent(node, "a", qos: 2)
        publish(node, 1...1, qos: 1)
        publish(node, 2...2, qos: 2)
        let ids = client.events().map(\.id)
        #expect(client.ask(Frame5.puback(ids[0], reason), Frame5.pubrec(ids[1], reason, [.reasonString("no")])).isEmpty)
        client.cut()
        let again = back(node)
        #expect(again.returned.isEmpty)
        #expect(again.ask(Frame5.pubcomp(ids[1])).isEmpty)
    }

    @Test func pubcompNotFoundSettlesToo() throws {
        let node = try TestNode()
        let client = persistent(node, "a", qos: 2)
        publish(node, 1...1, qos: 2)
        let id = try #require(client.events().first?.id)
        #expect(client.ask(Frame5.pubrec(id)) == [.pubrel(id)])
        #expect(client.ask(Frame5.pubcomp(id, 0x92)).isEmpty)
        client.cut()
        #expect(back(node).returned.isEmpty)
    }

    @Test func theLowerQoSHolds() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c")
        for granted in UInt8(0)...2 { client.subscribe("q/\(granted)", qos: granted) }
        let sender = TestClient5(node, "s")
        for granted in 0...2 {
            for qos in UInt8(0)...2 {
                sender.send(Frame5.publish("q/\(granted)", "x", qos: qos, id: 1), Frame5.pubrel(1))
            }
        }
        #expect(client.events().map(\.qos) == [0, 0, 0, 0, 1, 1, 0, 1, 2])
    }

    @Test(arguments: [UInt8(0), 1, 2]) func theOrderOfAPublisherIsKept(qos: UInt8) throws {
        let node = try TestNode(lanes: 2)
        let near = TestClient5(node, "n")
        let far = TestClient5(node, "f", lane: 1)
        near.subscribe("a/#", qos: qos)
        far.subscribe("a/#", qos: qos)
        let sender = TestClient5(node, "s")
        for number in 1...200 {
            sender.send(
                Frame5.publish("a/\(number % 3)", "\(number)", qos: qos, id: UInt16(number)),
                Frame5.pubrel(UInt16(number)))
        }
        #expect(near.events().map(\.text) == (1...200).map { "\($0)" })
        #expect(far.events().map(\.text) == (1...200).map { "\($0)" })
    }

    /// An event is in the sessions of all who match, there or away (§4.5).
    @Test func everyMatchingSessionGetsIt() throws {
        let node = try TestNode(lanes: 2)
        let clients = (0..<6).map { TestClient5(node, "c\($0)", expiry: 60, lane: $0 % 2) }
        for (number, client) in clients.enumerated() { client.subscribe(number % 2 == 0 ? "a/+" : "a/#", qos: 1) }
        clients[0].cut()
        clients[1].cut()
        #expect(TestClient5(node, "s").ask(Frame5.publish("a/b", "x", qos: 1, id: 1)) == [.puback(1)])
        for number in 2..<6 { #expect(clients[number].events().map(\.text) == ["x"]) }
        for number in 0..<2 {
            #expect(
                TestClient5(node, "c\(number)", clean: false, lane: number).returnedEvents.map(\.text) == ["x"])
        }
    }

    /// A topic that the client did not ask for never comes.
    @Test func onlyWhatMatchesIsDelivered() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c")
        _ = client.ask(Frame5.subscribe(1, [.init("a/+"), .init("b/#"), .init("c"), .init("/d")]))
        let sender = TestClient5(node, "s")
        for topic in ["a", "a/1", "a/1/2", "b", "b/1/2", "c", "C", "c/", "/d", "d", "//d", "a/"] {
            sender.send(Frame5.publish(topic, topic))
        }
        #expect(client.events().map(\.text) == ["a/1", "b", "b/1/2", "c", "/d", "a/"])
    }
}
