import Core
import Testing

/// MQTT 5: what travels with an event (§3.3.2.3), and what becomes of it between versions.
@Suite struct V5PropertiesTests {
    /// Everything that the node has to pass on unaltered, in an order of the client's own.
    private static let all: [Property5] = [
        .user("z", "1"), .correlationData([0, 1, 255]), .contentType("text/plain; ö"), .user("a", "2"),
        .responseTopic("answers/c"), .user("z", "1"), .payloadFormat(1), .user("", ""),
    ]

    private func pair(_ qos: UInt8 = 0) throws -> (TestNode, TestClient5, TestClient5) {
        let node = try TestNode(lanes: 2)
        let receiver = TestClient5(node, "r", lane: 1)
        receiver.subscribe("#", qos: qos)
        return (node, receiver, TestClient5(node, "s"))
    }

    @Test(arguments: [UInt8(0), 1, 2]) func propertiesAreForwardedUnalteredInTheirOrder(qos: UInt8) throws {
        let (_, receiver, sender) = try pair(qos)
        sender.send(Frame5.publish("t", "x", qos: qos, id: 1, Self.all))
        #expect(receiver.events().map(\.properties) == [Self.all])
    }

    /// Without properties there is a length of 0 (§2.2.2.1), to the byte.
    @Test func anEmptyPropertyLengthIsWritten() throws {
        let (_, receiver, sender) = try pair(1)
        sender.send(Frame5.publish("t", "x"), Frame5.publish("t", "y", qos: 1, id: 3))
        #expect(receiver.bytes() == [0x30, 5, 0, 1, 0x74, 0, 0x78, 0x32, 7, 0, 1, 0x74, 0, 1, 0, 0x79])
        #expect(receiver.ask(Frame5.subscribe(9, [.init("a")])) == [.suback(9, [0])])
        receiver.send(Frame5.subscribe(9, [.init("a")]), Frame5.unsubscribe(10, ["a"]))
        #expect(receiver.bytes() == [0x90, 4, 0, 9, 0, 0, 0xB0, 4, 0, 10, 0, 0])
    }

    @Test func propertiesWaitAndAreRetainedWithTheirEvent() throws {
        let node = try TestNode()
        let keeper = TestClient5(node, "k", expiry: 60)
        keeper.subscribe("t", qos: 1)
        keeper.cut()
        TestClient5(node, "s").send(Frame5.publish("t", "x", qos: 1, id: 1, retain: true, Self.all))
        #expect(TestClient5(node, "k", clean: false, expiry: 60).returnedEvents.map(\.properties) == [Self.all])
        let late = TestClient5(node, "l")
        #expect(
            late.ask(Frame5.subscribe(1, [.init("t", qos: 1)]))
                == [.suback(1, [1]), .event("t", "x", qos: 1, id: 1, retain: true, Self.all)])
        // Sent again after a cut, they are the same.
        #expect(
            TestClient5(node, "k", clean: false).returned == [.event("t", "x", qos: 1, id: 1, dup: true, Self.all)])
    }

    @Test func propertiesOfAWillAreForwarded() throws {
        let (node, receiver, _) = try pair()
        TestClient5(node, "w", will: .init(topic: "w", properties: Self.all + [.willDelay(0)])).cut()
        #expect(receiver.events().map(\.properties) == [Self.all])
    }

    @Test(arguments: [UInt8(0), 1, 2]) func propertiesAreLostOnTheWayToOlderClients(qos: UInt8) throws {
        let node = try TestNode()
        let older = TestClient(node, "o")
        older.subscribe("t", qos: qos)
        let sender = TestClient5(node, "s")
        sender.send(Frame5.publish("t", "x", qos: qos, id: 1, Self.all + [.messageExpiry(9)]))
        #expect(older.answers() == [.event("t", "x", qos: qos, id: qos == 0 ? 0 : 1)])
    }

    @Test(arguments: [UInt8(0), 1, 2]) func eventsOfOlderClientsHaveNoProperties(qos: UInt8) throws {
        let (node, receiver, _) = try pair(qos)
        TestClient(node, "o").send(Frame.publish("t", "x", qos: qos, id: 1))
        #expect(receiver.answers() == [.event("t", "x", qos: qos, id: qos == 0 ? 0 : 1)])
    }

    /// A request that names where the answer is wanted, and the answer (§4.10).
    @Test func requestAndResponse() throws {
        let node = try TestNode()
        let requester = TestClient5(node, "q", properties: [.requestResponse(1)])
        guard case .text(let base)? = requester.connack.first(where: { $0.id == 26 })?.value else {
            Issue.record("no response information")
            return
        }
        requester.subscribe("\(base)/#", qos: 1)
        let responder = TestClient5(node, "p")
        responder.subscribe("service", qos: 1)
        requester.send(
            Frame5.publish("service", "?", qos: 1, id: 1, [.responseTopic("\(base)/1"), .correlationData([7])]))
        let request = try #require(responder.events().first)
        #expect(request.properties == [.responseTopic("\(base)/1"), .correlationData([7])])
        responder.send(Frame5.publish("\(base)/1", "!", qos: 1, id: 1, [.correlationData([7])]))
        #expect(requester.events().map(\.properties) == [[.correlationData([7])]])
    }

    /// U+FEFF is a character like any other, wherever it stands (§1.5.4).
    @Test func theByteOrderMarkIsKept() throws {
        let mark = "\u{FEFF}"
        let (_, receiver, sender) = try pair()
        let properties: [Property5] = [.contentType(mark), .user(mark + "k", "v" + mark), .responseTopic(mark + "r")]
        sender.send(Frame5.publish(mark + "t", mark + "x", properties))
        #expect(receiver.bytes() == Frame5.publish(mark + "t", mark + "x", properties))
        // It is part of the topic, so another filter does not match.
        receiver.send(Frame5.unsubscribe(1, ["#"]), Frame5.subscribe(2, [.init("t"), .init(mark + "u")]))
        _ = receiver.answers()
        sender.send(Frame5.publish(mark + "t", "1"), Frame5.publish(mark + "u", "2"), Frame5.publish("u", "3"))
        #expect(receiver.events().map(\.text) == ["2"])
    }

    // MARK: Payload format (§3.3.2.3.2)

    @Test(arguments: CodecTests.badText.filter { $0.last != 0 && !$0.contains(0) })
    func payloadsThatAreNotTheTextTheyClaimToBe(_ bad: [UInt8]) throws {
        let (_, receiver, sender) = try pair(2)
        #expect(sender.ask(Frame5.publish("t", bad, qos: 1, id: 1, [.payloadFormat(1)])) == [.puback(1, 0x99)])
        #expect(sender.ask(Frame5.publish("t", bad, qos: 2, id: 2, [.payloadFormat(1)])) == [.pubrec(2, 0x99)])
        // The identifier is free again: the next one is a new event.
        #expect(sender.ask(Frame5.publish("t", "ok", qos: 2, id: 2, [.payloadFormat(1)])) == [.pubrec(2)])
        #expect(sender.ask(Frame5.publish("t", bad, qos: 1, id: 3, [.payloadFormat(0)])) == [.puback(3)])
        #expect(receiver.events().map(\.payload) == [Array("ok".utf8), bad])
        #expect(sender.ask(Frame5.publish("t", bad, [.payloadFormat(1)])) == [.disconnect(0x99)])
        #expect(sender.closing != nil)
        #expect(receiver.answers().isEmpty)
    }

    // MARK: Many

    @Test func thousandsOfUserPropertiesAreForwarded() throws {
        let (_, receiver, sender) = try pair(1)
        let many = (0..<8_000).map { Property5.user("key \($0)", "value \($0)") }
        #expect(sender.ask(Frame5.publish("t", "x", qos: 1, id: 1, many)) == [.puback(1)])
        #expect(receiver.events().map(\.properties) == [many])
        // In the packets that have no receiver they are read over.
        #expect(sender.ask(Frame5.subscribe(2, [.init("own")], many)) == [.suback(2, [0])])
        #expect(sender.ask(Frame5.unsubscribe(3, ["own"], many)) == [.unsuback(3, [0])])
        #expect(sender.ask(Frame5.pubrel(9, 0, many)) == [.pubcomp(9, 0x92)])
        sender.send(Frame5.disconnect(0, many))
        #expect(sender.closing == .clientDisconnected)
        let willing = TestClient5(sender.node, "w", properties: many, will: .init(topic: "w", properties: many))
        willing.cut()
        #expect(receiver.events().map(\.properties) == [many])
    }
}
