import Core
import Testing

/// MQTT 5: Receive Maximum in both directions, and Maximum Packet Size (§3.1.2.11.3, §3.1.2.11.4, §4.9).
@Suite struct V5FlowTests {
    // MARK: Receive Maximum of the client

    @Test(arguments: [UInt16(1), 2, 5, 100], [UInt8(1), 2]) func theClientsReceiveMaximumIsKept(
        maximum: UInt16, qos: UInt8
    ) throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", properties: [.receiveMaximum(maximum)])
        client.subscribe("t", qos: qos)
        let sender = TestClient5(node, "s")
        for number in 1...250 {
            sender.send(Frame5.publish("t", "\(number)", qos: qos, id: 1), Frame5.pubrel(1))
        }
        var texts: [String] = []
        while true {
            let events = client.events()
            guard !events.isEmpty else { break }
            #expect(events.count <= Int(maximum))
            texts += events.map(\.text)
            for event in events where qos == 2 {
                // A PUBREC that says yes frees nothing: only PUBCOMP does.
                #expect(client.ask(Frame5.pubrec(event.id)) == [.pubrel(event.id)])
            }
            client.send(events.flatMap { qos == 1 ? Frame5.puback($0.id) : Frame5.pubcomp($0.id) })
        }
        #expect(texts == (1...250).map { "\($0)" })
    }

    @Test func theQuotaIsGivenBackByEveryEndOfAnExchange() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", properties: [.receiveMaximum(1)])
        client.subscribe("t", qos: 2)
        let sender = TestClient5(node, "s")
        for number in 1...5 {
            sender.send(Frame5.publish("t", "\(number)", qos: number == 1 ? 1 : 2, id: 1), Frame5.pubrel(1))
        }
        func next(_ text: String) throws -> UInt16 {
            let events = client.events()
            #expect(events.map(\.text) == [text])
            return try #require(events.first?.id)
        }
        client.send(Frame5.puback(try next("1"), 0x97))
        client.send(Frame5.pubrec(try next("2"), 0x80))
        let third = try next("3")
        #expect(client.ask(Frame5.pubrec(third)) == [.pubrel(third)])
        client.send(Frame5.pubcomp(third))
        let fourth = try next("4")
        _ = client.ask(Frame5.pubrec(fourth))
        client.send(Frame5.pubcomp(fourth, 0x92))
        _ = try next("5")
    }

    /// With no quota left everything else goes on (§4.9).
    @Test func otherPacketsAreAnsweredWithoutQuota() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", properties: [.receiveMaximum(1)])
        client.subscribe("t", qos: 1)
        let witness = TestClient5(node, "w")
        witness.subscribe("from/c")
        let sender = TestClient5(node, "s")
        for _ in 0..<10 { sender.send(Frame5.publish("t", "x", qos: 1, id: 1)) }
        #expect(client.events().count == 1)
        #expect(
            client.ask(
                Frame.pingreq, Frame5.subscribe(2, [.init("u")]), Frame5.unsubscribe(3, ["u"]),
                Frame5.publish("from/c", "1", qos: 1, id: 4), Frame5.publish("from/c", "2", qos: 2, id: 5),
                Frame5.pubrel(5)
            ).filter { $0 != .pingresp } == [
                .suback(2, [0]), .unsuback(3, [0]), .puback(4), .pubrec(5), .pubcomp(5),
            ])
        #expect(witness.events().count == 2)
    }

    /// What is sent again after a reconnect counts, too: against the new connection's maximum.
    @Test func theReceiveMaximumHoldsAfterAReconnect() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", expiry: 60)
        client.subscribe("t", qos: 1)
        let sender = TestClient5(node, "s")
        for number in 1...10 { sender.send(Frame5.publish("t", "\(number)", qos: 1, id: 1)) }
        #expect(client.events().count == 10)
        client.cut()
        let back = TestClient5(node, "c", clean: false, properties: [.receiveMaximum(3)])
        var events = back.returnedEvents
        var texts: [String] = []
        while !events.isEmpty {
            #expect(events.count <= 3)
            texts += events.map(\.text)
            back.send(events.flatMap { Frame5.puback($0.id) })
            events = back.events()
        }
        #expect(texts == (1...10).map { "\($0)" })
    }

    @Test func aReceiveMaximumOfZeroIsAProtocolError() throws {
        let client = TestClient5(try TestNode())
        #expect(
            client.ask(Frame5.connect("c", properties: [.receiveMaximum(0)]))
                == [.connack(present: false, reason: 0x82)])
        #expect(client.closing != nil)
    }

    // MARK: Receive Maximum of the node

    @Test func moreThanTheNodesReceiveMaximumEndsTheConnection() throws {
        var limits = Limits()
        limits.maxUnsettled = 5
        let node = try TestNode(limits: limits)
        let receiver = TestClient5(node, "r")
        receiver.subscribe("t")
        let client = TestClient5(node, "c")
        #expect(client.connack.contains(.receiveMaximum(5)))
        // Those that are settled at once may be any number.
        for _ in 0..<20 { #expect(client.ask(Frame5.publish("t", "x", qos: 1, id: 1)) == [.puback(1)]) }
        for _ in 0..<20 {
            #expect(client.ask(Frame5.publish("t", "x", qos: 2, id: 1), Frame5.pubrel(1)).count == 2)
        }
        _ = receiver.answers()
        for id in UInt16(1)...5 { #expect(client.ask(Frame5.publish("t", "x", qos: 2, id: id)) == [.pubrec(id)]) }
        #expect(client.ask(Frame5.publish("t", "x", qos: 2, id: 6)) == [.disconnect(0x93)])
        #expect(client.closing != nil)
        #expect(receiver.events().count == 5)
    }

    /// Those on their way to another lane are not settled either.
    @Test func publishesThatWaitForAnotherLaneCount() throws {
        var limits = Limits()
        limits.maxUnsettled = 5
        let node = try TestNode(lanes: 2, limits: limits)
        let receiver = TestClient5(node, "r", lane: 1)
        receiver.subscribe("t", qos: 1)
        let client = TestClient5(node, "c")
        for id in UInt16(1)...5 { client.step(Frame5.publish("t", "x", qos: 1, id: id)) }
        #expect(client.answers().isEmpty)
        #expect(client.closing == nil)
        client.step(Frame5.publish("t", "x", qos: 1, id: 6))
        node.settle()
        #expect(client.answers().last == .disconnect(0x93))
        #expect(client.closing != nil)
    }

    // MARK: Maximum Packet Size of the client

    @Test(arguments: [UInt8(0), 1, 2]) func eventsThatAreTooLargeAreLeftOut(qos: UInt8) throws {
        let node = try TestNode()
        let small = TestClient5(node, "c", properties: [.maximumPacketSize(100)])
        let large = TestClient5(node, "l")
        small.subscribe("t", qos: qos)
        large.subscribe("t", qos: qos)
        let sender = TestClient5(node, "s")
        // Header 2, topic 3, identifier 2 or none, property length 1.
        let room = 100 - 6 - (qos > 0 ? 2 : 0)
        for size in [10, room, room + 1, 5_000, 20] {
            sender.send(Frame5.publish("t", [UInt8](repeating: 7, count: size), qos: qos, id: 1), Frame5.pubrel(1))
        }
        #expect(small.events().map(\.payload.count) == [10, room, 20])
        #expect(large.events().map(\.payload.count) == [10, room, room + 1, 5_000, 20])
        #expect(node.dropped(.clientLimit) == 2)
        #expect(small.closing == nil)
    }

    /// Properties count, and it is as if the event had been sent: it comes never again and holds up nothing.
    @Test func whatIsTooLargeCountsAsSent() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", expiry: 60, properties: [.maximumPacketSize(60), .receiveMaximum(2)])
        client.subscribe("t", qos: 1)
        let sender = TestClient5(node, "s")
        for number in 1...8 {
            let padding = [Property5.user("key", String(repeating: "x", count: number % 2 == 0 ? 60 : 5))]
            sender.send(Frame5.publish("t", "\(number)", qos: 1, id: 1, padding))
        }
        var texts: [String] = []
        var events = client.events()
        while !events.isEmpty {
            texts += events.map(\.text)
            client.send(events.flatMap { Frame5.puback($0.id) })
            events = client.events()
        }
        #expect(texts == ["1", "3", "5", "7"])
        client.cut()
        #expect(TestClient5(node, "c", clean: false).returned.isEmpty)
        #expect(node.dropped(.clientLimit) == 4)
    }

    /// Waiting and retained events meet the maximum of the connection that they are sent to.
    @Test func theMaximumOfTheConnectionHoldsForWhatWaitedAndWhatIsRetained() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", expiry: 60)
        client.subscribe("t", qos: 1)
        client.cut()
        let sender = TestClient5(node, "s")
        let large = [UInt8](repeating: 7, count: 500)
        sender.send(Frame5.publish("t", large, qos: 1, id: 1), Frame5.publish("t", "2", qos: 1, id: 2))
        sender.send(Frame5.publish("r/1", large, retain: true), Frame5.publish("r/2", "x", retain: true))
        let back = TestClient5(node, "c", clean: false, expiry: 60, properties: [.maximumPacketSize(200)])
        #expect(back.returnedEvents.map(\.text) == ["2"])
        back.send(Frame5.subscribe(2, [.init("r/#")]))
        #expect(back.events().map(\.topic) == ["r/2"])
    }

    @Test func aMaximumPacketSizeOfZeroIsAProtocolError() throws {
        let client = TestClient5(try TestNode())
        #expect(
            client.ask(Frame5.connect("c", properties: [.maximumPacketSize(0)]))
                == [.connack(present: false, reason: 0x82)])
    }

    /// Nothing the node says of itself is larger than the client takes either.
    @Test func everyAnswerFitsTheClientsMaximumPacketSize() throws {
        let node = try TestNode()
        let client = TestClient5(node)
        client.send(Frame5.connect("c", properties: [.maximumPacketSize(30), .topicAliasMaximum(3)]))
        client.send(
            Frame5.subscribe(1, (0..<40).map { .init("t/\($0)") }, [.subscriptionID(268_435_455)]), Frame.pingreq,
            Frame5.publish("t/1", "x", qos: 1, id: 1), Frame5.publish("t/1", "xxxxxxxxxxxxxxxxxxxxxxxx"),
            Frame5.pubrel(5), [0x30, 1, 0])
        for answer in client.wholeAnswers() { #expect(size(answer) <= 30, "\(answer)") }
        #expect(client.closing != nil)
    }

    /// Not even the CONNACK: a client that cannot be told what it has to know is not let in.
    @Test func aConnackThatIsTooLargeIsNotSent() throws {
        for size in UInt32(2)...40 {
            let client = TestClient5(try TestNode())
            client.send(Frame5.connect("", properties: [.maximumPacketSize(size)]))
            let answers = client.wholeAnswers()
            for answer in answers { #expect(self.size(answer) <= size, "\(answer)") }
            guard case .connack(false, 0, let properties)? = answers.first else {
                #expect(client.closing != nil, "at \(size)")
                continue
            }
            #expect(Set(properties.map(\.id)).isSuperset(of: [18, 33, 39]), "at \(size)")
        }
    }

    private func size(_ answer: Answer5) -> Int {
        func all(_ fixed: Int, _ properties: [Property5]) -> Int { fixed + Property5.block(properties).count }
        return switch answer {
        case .connack(_, _, let properties): all(4, properties)
        case .publish(let event):
            all(4 + event.topic.utf8.count + event.payload.count + (event.qos > 0 ? 2 : 0), event.properties)
        case .puback(_, _, let properties), .pubrec(_, _, let properties), .pubrel(_, _, let properties),
            .pubcomp(_, _, let properties):
            all(5, properties)
        case .suback(_, let list, let properties), .unsuback(_, let list, let properties):
            all(4 + list.count, properties)
        case .disconnect(_, let properties), .auth(_, let properties): all(3, properties)
        case .pingresp: 2
        case .other(let bytes): bytes.count
        }
    }

    /// A client that has acknowledged out of order comes back smaller than it was: what it does not take any more is
    /// done, and what follows goes on.
    @Test func whatDoesNotFitAnyMoreIsDone() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", clean: false, expiry: 100)
        client.subscribe("t", qos: 1)
        let publisher = TestClient5(node, "p")
        let large = String(repeating: "x", count: 200)
        for payload in [large, large, large, "small"] {
            publisher.send(Frame5.publish("t", payload, qos: 1, id: 1))
        }
        #expect(client.events().map(\.id) == [1, 2, 3, 4])
        client.send(Frame5.puback(2))
        client.cut()
        let back = TestClient5(node, "c", clean: false, expiry: 100, properties: [.maximumPacketSize(100)])
        #expect(back.returnedEvents.map(\.id) == [4] && back.returnedEvents.allSatisfy(\.dup))
        back.send(Frame5.puback(4))
        publisher.send(Frame5.publish("t", "next", qos: 1, id: 1))
        #expect(back.events().map(\.id) == [5])
    }

    // MARK: Maximum Packet Size of the node

    @Test func whatIsTooLargeForTheNodeEndsTheConnection() throws {
        var limits = Limits()
        limits.maxPacketBytes = 1_000
        let node = try TestNode(limits: limits)
        let client = TestClient5(node, "c")
        client.subscribe("t")
        let fitting = Frame5.publish("t", [UInt8](repeating: 7, count: 1_000 - 7))
        #expect(fitting.count == 1_000)
        #expect(client.ask(fitting).count == 1)
        #expect(
            client.ask(Frame5.publish("t", [UInt8](repeating: 7, count: 1_000 - 6))) == [.disconnect(0x95)])
        #expect(client.closing == .packetTooLarge)
    }
}
