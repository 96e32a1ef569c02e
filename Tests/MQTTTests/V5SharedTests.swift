import Core
import Testing

/// MQTT 5: shared subscriptions (§4.8.2). Names that are none are in `V5SubscriptionTests.filtersThatAreNone`.
@Suite struct V5SharedTests {
    private func member(
        _ node: TestNode, _ name: String, qos: UInt8 = 1, lane: Int = 0, properties: [Property5] = []
    ) -> TestClient5 {
        let client = TestClient5(node, name, clean: false, expiry: 1_000, lane: lane, properties: properties)
        client.subscribe("$share/g/t/#", qos: qos)
        return client
    }

    private func publish(_ node: TestNode, _ numbers: ClosedRange<Int>, qos: UInt8 = 1) {
        let sender = TestClient5(node, "s")
        for number in numbers {
            sender.send(
                Frame5.publish("t/x", "\(number)", qos: qos, id: UInt16(number)), Frame5.pubrel(UInt16(number)))
        }
    }

    @Test(arguments: [UInt8(0), 1, 2]) func eachEventGoesToOneMember(qos: UInt8) throws {
        let node = try TestNode(lanes: 2)
        let members = (0..<3).map { member(node, "m\($0)", qos: qos, lane: $0 % 2) }
        let other = TestClient5(node, "o")
        other.subscribe("$share/h/t/#", qos: qos)
        let plain = TestClient5(node, "p")
        plain.subscribe("t/#", qos: qos)
        publish(node, 1...60, qos: qos)
        let received = members.map { $0.events().map(\.text) }
        #expect(received.flatMap { $0 }.sorted() == (1...60).map { "\($0)" }.sorted())
        #expect(received.allSatisfy { !$0.isEmpty })
        #expect(other.events().count == 60)
        #expect(plain.events().count == 60)
    }

    @Test func theWeightIsAUserProperty() throws {
        let node = try TestNode()
        let members = (0..<2).map { TestClient5(node, "m\($0)") }
        for (client, weight) in zip(members, ["5", "95"]) {
            let properties: [Property5] = [.user("other", "x"), .user("apus-weight", weight)]
            #expect(
                client.ask(Frame5.subscribe(1, [.init("$share/g/t/#", qos: 1)], properties)) == [.suback(1, [1])])
        }
        publish(node, 1...400)
        let counts = members.map { $0.events().count }
        #expect(counts.reduce(0, +) == 400 && abs(counts[0] - 20) <= 3, "\(counts)")
        // Subscribing again without it takes it back.
        for client in members { client.subscribe("$share/g/t/#", qos: 1) }
        publish(node, 1...100)
        #expect(members.map { $0.events().count } == [50, 50])
    }

    @Test(arguments: [["1001"], ["-1"], ["x"], [""], ["5", "5"]])
    func aWeightThatIsNoneIsRefused(values: [String]) throws {
        let node = try TestNode()
        let client = TestClient5(node, "m")
        let properties = values.map { Property5.user("apus-weight", $0) }
        client.send(Frame5.subscribe(7, [.init("$share/g/t"), .init("t", qos: 1)], properties))
        // The other subscription of the packet is granted: the property says nothing of it.
        #expect(
            client.wholeAnswers() == [.suback(7, [0x83, 1], [.reasonString("apus-weight is a number from 0 to 1000")])])
        #expect(node.router.subscriptionCount == 1)
    }

    @Test func theMembersGrantedQoSHolds() throws {
        let node = try TestNode()
        let members = (UInt8(0)...2).map { member(node, "m\($0)", qos: $0) }
        publish(node, 1...30, qos: 2)
        for (qos, client) in members.enumerated() {
            let events = client.events()
            #expect(events.allSatisfy { $0.qos == UInt8(qos) })
            #expect(events.count == 10)
        }
    }

    /// A member refuses: nobody else gets it ([MQTT-4.8.2-6]).
    @Test(arguments: [UInt8(1), 2]) func aRefusedEventIsNotGivenToAnother(qos: UInt8) throws {
        let node = try TestNode()
        let first = member(node, "1", qos: qos)
        publish(node, 1...1, qos: qos)
        let id = try #require(first.events().first?.id)
        let second = member(node, "2", qos: qos)
        #expect(first.ask(qos == 1 ? Frame5.puback(id, 0x87) : Frame5.pubrec(id, 0x87)).isEmpty)
        first.cut()
        #expect(second.answers().isEmpty)
        #expect(TestClient5(node, "1", clean: false).returned.isEmpty)
    }

    @Test func whatAMemberThatLeavesHasNotAcknowledgedGoesToOthers() throws {
        let node = try TestNode(lanes: 2)
        let first = member(node, "1", properties: [.receiveMaximum(2)])
        publish(node, 1...5)
        #expect(first.events().map(\.text) == ["1", "2"])
        let second = member(node, "2", lane: 1)
        #expect(second.answers().isEmpty)
        first.cut()
        #expect(second.events().map(\.text).sorted() == ["1", "2", "3", "4", "5"])
        let back = TestClient5(node, "1", clean: false, expiry: 1_000)
        #expect(back.returned.isEmpty)
    }

    /// What is given on has its own time, flags and properties, and the new member's identifier.
    @Test func whatIsGivenOnIsStillTheSameEvent() throws {
        let node = try TestNode(lanes: 2)
        let first = member(node, "1", properties: [.receiveMaximum(1)])
        let sender = TestClient5(node, "s")
        let properties: [Property5] = [.user("k", "v"), .contentType("c")]
        sender.send(Frame5.publish("t/1", "1", qos: 1, id: 1, properties))
        sender.send(Frame5.publish("t/1", "2", qos: 1, id: 2, properties + [.messageExpiry(5)]))
        sender.send(Frame5.publish("t/1", "3", qos: 1, id: 3, properties + [.messageExpiry(50)]))
        #expect(first.events().map(\.text) == ["1"])
        let second = TestClient5(node, "2", lane: 1)
        second.subscribe("$share/g/t/#", qos: 1, id: 9)
        node.advance(milliseconds: 10_000)
        first.cut()
        let events = second.events()
        #expect(events.map(\.text).sorted() == ["1", "3"], "the second one's time is over")
        #expect(events.allSatisfy { !$0.dup && $0.subscriptionIDs == [9] }, "new to this member")
        #expect(events.allSatisfy { $0.properties.filter { ![2, 11].contains($0.id) } == properties })
        #expect(events.first { $0.text == "3" }?.expiry == 40)
    }

    /// At QoS 2 the member that has seen it keeps it, and finishes it when it is back ([MQTT-4.8.2-4]).
    @Test func whatWasSentAtQoS2StaysWithItsMember() throws {
        let node = try TestNode()
        let first = member(node, "1", qos: 2)
        publish(node, 1...2, qos: 2)
        let ids = first.events().map(\.id)
        #expect(ids.count == 2)
        _ = first.ask(Frame5.pubrec(ids[0]))
        let second = member(node, "2", qos: 2)
        first.cut()
        #expect(second.answers().isEmpty)
        let back = TestClient5(node, "1", clean: false, expiry: 1_000)
        #expect(back.returned == [.pubrel(ids[0]), .event("t/x", "2", qos: 2, id: ids[1], dup: true)])
    }

    /// And when it does not come back, it is nobody's ([MQTT-4.8.2-5]).
    @Test func whatWasSentAtQoS2EndsWithTheSession() throws {
        let node = try TestNode()
        let first = member(node, "1", qos: 2)
        publish(node, 1...1, qos: 2)
        #expect(first.events().count == 1)
        let second = member(node, "2", qos: 2)
        first.cut()
        node.advance(milliseconds: 1_001_000)
        #expect(node.router.session(of: "1") == nil)
        #expect(second.answers().isEmpty)
    }

    @Test func withNobodyThereEventsWait() throws {
        let node = try TestNode()
        let first = member(node, "1")
        first.cut()
        publish(node, 1...3)
        let back = TestClient5(node, "1", clean: false, expiry: 1_000)
        #expect(back.returnedEvents.map(\.text) == ["1", "2", "3"])
    }

    @Test func presentMembersAreChosenFirst() throws {
        let node = try TestNode()
        let away = member(node, "1")
        let here = member(node, "2")
        away.cut()
        publish(node, 1...10)
        #expect(here.events().count == 10)
        #expect(TestClient5(node, "1", clean: false).returned.isEmpty)
    }

    @Test func whoUnsubscribesIsNoMemberAnyMore() throws {
        let node = try TestNode()
        let first = member(node, "1")
        let second = member(node, "2")
        #expect(
            first.ask(Frame5.unsubscribe(1, ["t/#", "$share/h/t/#", "$share/g/t/#"])) == [
                .unsuback(1, [0x11, 0x11, 0])
            ])
        publish(node, 1...10)
        #expect(first.answers().isEmpty)
        #expect(second.events().count == 10)
    }
}
