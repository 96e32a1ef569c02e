import Core
import Testing

/// MQTT 5: subscription identifiers (§3.8.2.1.2, §3.3.4).
@Suite struct V5IdentifierTests {
    private func publish(_ node: TestNode, _ topic: String, qos: UInt8 = 0) {
        let sender = TestClient5(node, "s")
        sender.send(Frame5.publish(topic, "x", qos: qos, id: 1), Frame5.pubrel(1))
    }

    @Test(arguments: [1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455], [UInt8(0), 1, 2])
    func theIdentifierComesWithTheEvent(id: Int, qos: UInt8) throws {
        let node = try TestNode()
        let client = TestClient5(node, "c")
        client.subscribe("t", qos: qos, id: id)
        publish(node, "t", qos: qos)
        #expect(client.events().map(\.subscriptionIDs) == [[id]])
    }

    @Test(arguments: [UInt8(0), 1, 2]) func oneCopyHasTheIdentifiersOfAllMatchingSubscriptions(qos: UInt8) throws {
        let node = try TestNode(lanes: 2)
        let client = TestClient5(node, "c", lane: 1)
        client.subscribe("a/b", qos: qos, id: 10)
        client.subscribe("a/+", qos: qos, id: 20)
        client.subscribe("#", qos: qos)
        client.subscribe("+/b", qos: qos, id: 300)
        client.subscribe("a/#", qos: qos, id: 10)
        client.subscribe("other", qos: qos, id: 40)
        publish(node, "a/b", qos: qos)
        let events = client.events()
        #expect(events.count == 1)
        // An identifier used twice may be named twice (§3.3.4).
        #expect(events.map { Set($0.subscriptionIDs) } == [[10, 20, 300]])
        publish(node, "x", qos: qos)
        #expect(client.events().map(\.subscriptionIDs) == [[]])
    }

    @Test func allFiltersOfOnePacketHaveIt() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c")
        _ = client.ask(Frame5.subscribe(1, [.init("a"), .init("b"), .init("$share/g/c")], [.subscriptionID(5)]))
        for topic in ["a", "b", "c"] { publish(node, topic) }
        #expect(client.events().map(\.subscriptionIDs) == [[5], [5], [5]])
    }

    @Test func everyClientHasItsOwn() throws {
        let node = try TestNode(lanes: 2)
        let clients = (0..<10).map { TestClient5(node, "c\($0)", lane: $0 % 2) }
        for (number, client) in clients.enumerated() where number != 7 { client.subscribe("t", id: number + 1) }
        clients[7].subscribe("t")
        publish(node, "t")
        let ids = clients.map { $0.events().flatMap(\.subscriptionIDs) }
        #expect(ids == (0..<10).map { $0 == 7 ? [] : [$0 + 1] })
    }

    @Test func aNewSubscriptionReplacesOrRemovesTheIdentifier() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c")
        for id in [1, 2, nil, 3] as [Int?] {
            client.subscribe("t", id: id)
            publish(node, "t")
            #expect(client.events().map(\.subscriptionIDs) == [id.map { [$0] } ?? []])
        }
    }

    @Test func retainedAndWaitingEventsHaveIt() throws {
        let node = try TestNode()
        TestClient5(node, "s").send(Frame5.publish("t", "r", retain: true))
        let client = TestClient5(node, "c", expiry: 60)
        client.send(Frame5.subscribe(1, [.init("t", qos: 1)], [.subscriptionID(7)]))
        #expect(client.events().map(\.subscriptionIDs) == [[7]])
        client.cut()
        publish(node, "t", qos: 1)
        let back = TestClient5(node, "c", clean: false, expiry: 60)
        #expect(back.returnedEvents.map(\.subscriptionIDs) == [[7]])
        back.cut()
        let again = TestClient5(node, "c", clean: false)
        #expect(again.returnedEvents.map(\.subscriptionIDs) == [[7]], "also when it is sent again")
    }

    /// A retained event of an overlapping subscription names the one that brought it.
    @Test func retainedEventsNameTheSubscriptionThatBroughtThem() throws {
        let node = try TestNode()
        TestClient5(node, "s").send(Frame5.publish("t", "r", retain: true))
        let client = TestClient5(node, "c")
        client.subscribe("#", id: 1)
        client.send(Frame5.subscribe(2, [.init("t")], [.subscriptionID(2)]))
        let ids = client.events().map(\.subscriptionIDs)
        #expect(ids.count == 1 && (ids[0] == [2] || ids[0] == [1, 2]))
    }

    @Test func aSharedAndAPlainSubscriptionEachHaveTheirOwn() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c")
        client.subscribe("t", id: 1)
        client.subscribe("$share/g/t", id: 2)
        publish(node, "t")
        #expect(client.events().map(\.subscriptionIDs).sorted { $0[0] < $1[0] } == [[1], [2]])
    }

    // MARK: Errors

    @Test func anIdentifierOfZeroIsAProtocolError() throws {
        let client = TestClient5(try TestNode(), "c")
        #expect(client.ask(Frame5.subscribe(1, [.init("t")], [.subscriptionID(0)])) == [.disconnect(0x82)])
    }

    @Test func twoIdentifiersAreAProtocolError() throws {
        let client = TestClient5(try TestNode(), "c")
        #expect(
            client.ask(Frame5.subscribe(1, [.init("t")], [.subscriptionID(1), .subscriptionID(2)]))
                == [.disconnect(0x82)])
    }

    @Test(arguments: [UInt8(0), 1, 2]) func anIdentifierInAClientsPublishIsAProtocolError(qos: UInt8) throws {
        let node = try TestNode()
        let witness = TestClient5(node, "w")
        witness.subscribe("t")
        let client = TestClient5(node, "c")
        #expect(
            client.ask(Frame5.publish("t", "x", qos: qos, id: 1, [.subscriptionID(1)])) == [.disconnect(0x82)])
        #expect(client.closing != nil)
        #expect(witness.answers().isEmpty)
    }
}
