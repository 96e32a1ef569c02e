import Core
import Testing

/// MQTT 5: SUBSCRIBE, its options, and SUBACK (§3.8, §3.9).
@Suite struct V5SubscriptionTests {
    private func one(_ node: TestNode, _ name: String = "c") -> TestClient5 { TestClient5(node, name) }

    // MARK: Reason codes

    @Test func everyFilterIsAnsweredInItsPlace() throws {
        let node = try TestNode(rules: [
            AccessRule(effect: .deny, action: .all, topics: ["secret/#"]),
            AccessRule(effect: .allow, action: .all, topics: ["#"]),
        ])
        let client = one(node)
        #expect(
            client.ask(
                Frame5.subscribe(
                    0xABCD,
                    [
                        .init("a", qos: 2), .init("secret/x", qos: 2), .init("a/#/b"), .init("b", qos: 1), .init("c"),
                        .init("$share/g"), .init("secret/y"), .init("a", qos: 0),
                    ]))
                == [.suback(0xABCD, [2, 0x87, 0x8F, 1, 0, 0x8F, 0x87, 0])])
        #expect(client.closing == nil)
        #expect(node.router.subscriptionCount == 3)
    }

    /// Who has all it may have can still replace one.
    @Test(arguments: [false, true]) func tooManySubscriptionsAreRefusedOneByOne(inOnePacket: Bool) throws {
        var limits = Limits()
        limits.maxSubscriptionsPerSession = 2
        let client = TestClient5(try TestNode(limits: limits), "c")
        let filters = ["a", "b", "c", "a", "d"].map { Frame5.Subscription($0, qos: 1) }
        let wanted: [UInt8] = [1, 1, 0x97, 1, 0x97]
        if inOnePacket {
            #expect(client.ask(Frame5.subscribe(1, filters)) == [.suback(1, wanted)])
        } else {
            for (filter, code) in zip(filters, wanted) {
                #expect(client.ask(Frame5.subscribe(1, [filter])) == [.suback(1, [code])])
            }
        }
        #expect(client.ask(Frame5.unsubscribe(2, ["a"]), Frame5.subscribe(3, [.init("d")])).last == .suback(3, [0]))
    }

    @Test(arguments: [
        "", "a/#/b", "a#", "#a", "a/+b", "b+", "++", "#/", "+#", "$share", "$share/", "$share/g", "$share/g/",
        "$share//a",
        "$share//", "$share/g+/a", "$share/+/a", "$share/#/a", "$share/g#/a", "$share/g/a#",
        String(repeating: "/", count: 128), String(repeating: "/", count: 65_535),
    ])
    func filtersThatAreNone(_ filter: String) throws {
        let node = try TestNode()
        let client = one(node)
        #expect(
            client.ask(Frame5.subscribe(5, [.init("x", qos: 1), .init(filter, qos: 1), .init("y", qos: 2)]))
                == [.suback(5, [1, 0x8F, 2])])
        #expect(client.ask(Frame5.unsubscribe(6, ["x", filter])) == [.unsuback(6, [0, 0x8F])])
        #expect(node.router.subscriptionCount == 1)
        #expect(client.closing == nil)
    }

    @Test(arguments: [
        "#", "+", "/", "//", "+/#", "/+", "+/+/#", " ", "a b", "$local", "$SYS/#", "a/$share/b", "$share/g/#",
        "$share/g//",
        "$Share/a", "ä/+/ö", "*", ">", "$share/ g /a",
    ])
    func filtersThatAreGood(_ filter: String) throws {
        #expect(one(try TestNode()).ask(Frame5.subscribe(5, [.init(filter, qos: 1)])) == [.suback(5, [1])])
    }

    /// Wildcards at the front do not see topics that begin with `$` (§4.7.2).
    @Test func wildcardsDoNotSeeDollarTopics() throws {
        let node = try TestNode()
        let client = one(node)
        _ = client.ask(Frame5.subscribe(1, [.init("#"), .init("+/b"), .init("+/#")]))
        let local = one(node, "l")
        local.subscribe("$other/b")
        TestClient5(node, "s").send(Frame5.publish("$other/b", "x"))
        #expect(client.answers().isEmpty)
    }

    /// Topics are compared character by character: no normalisation, no case folding (§4.7.3).
    @Test func nothingIsNormalised() throws {
        let node = try TestNode()
        let client = one(node)
        let composed = "caf\u{E9}"
        let decomposed = "cafe\u{301}"
        _ = client.ask(Frame5.subscribe(1, [.init(decomposed, qos: 1), .init("/a"), .init("A"), .init("a ")]))
        let sender = one(node, "s")
        for topic in [composed, "a", "/A", "a  ", "ａ"] { sender.send(Frame5.publish(topic, topic)) }
        #expect(client.answers().isEmpty)
        sender.send(Frame5.publish(decomposed, "1"))
        let topics = client.events().map { Array($0.topic.utf8) }
        #expect(topics == [Array(decomposed.utf8)])
        #expect(client.ask(Frame5.unsubscribe(2, [composed])) == [.unsuback(2, [0x11])])
        #expect(client.ask(Frame5.unsubscribe(2, [decomposed])) == [.unsuback(2, [0])])
    }

    /// 65,535 bytes and as many levels as the node takes.
    @Test func theLongestTopicsAndTheMostLevels() throws {
        let node = try TestNode()
        let client = one(node)
        let long = String(repeating: "a", count: 65_535)
        let deep = String(repeating: "/", count: 127)
        #expect(client.ask(Frame5.subscribe(1, [.init(long), .init(deep), .init("a/#")])) == [.suback(1, [0, 0, 0])])
        #expect(client.ask(Frame5.publish(long, "x")) == [.event(long, "x")])
        #expect(client.ask(Frame5.publish(deep, "x")) == [.event(deep, "x")])
    }

    // MARK: Replacing (§3.8.4)

    @Test func anIdenticalFilterReplacesTheSubscription() throws {
        let node = try TestNode()
        let client = one(node)
        let sender = one(node, "s")
        _ = client.ask(Frame5.subscribe(1, [.init("t", qos: 2, retainAsPublished: true)], [.subscriptionID(1)]))
        sender.send(Frame5.publish("t", "1", qos: 2, id: 1, retain: true))
        _ = client.ask(Frame5.subscribe(2, [.init("t", qos: 1)], [.subscriptionID(2)]))
        sender.send(Frame5.publish("t", "2", qos: 2, id: 2))
        _ = client.ask(Frame5.subscribe(3, [.init("t", retainHandling: 2)]))
        sender.send(Frame5.publish("t", "3", qos: 2, id: 3, retain: true))
        #expect(client.answers() == [.event("t", "3")])
        #expect(node.router.subscriptionCount == 1)
    }

    @Test func replacingLosesNothing() throws {
        let node = try TestNode(lanes: 2)
        let client = one(node)
        client.subscribe("t/#", qos: 1)
        let sender = TestClient5(node, "s", lane: 1)
        var texts: [String] = []
        for number in 1...100 {
            sender.step(Frame5.publish("t/\(number)", "\(number)", qos: 1, id: UInt16(number)))
            client.step(Frame5.subscribe(UInt16(number), [.init("t/#", qos: UInt8(number % 2 + 1), retainHandling: 2)]))
            node.settle()
            let events = client.events()
            texts += events.map(\.text)
            client.send(events.flatMap { $0.qos == 1 ? Frame5.puback($0.id) : Frame5.pubrec($0.id, 0x80) })
        }
        #expect(texts == (1...100).map { "\($0)" })
    }

    @Test func severalFiltersAreAsGoodAsSeveralPackets() throws {
        let node = try TestNode()
        TestClient5(node, "s").send(Frame5.publish("t", "r", retain: true))
        let client = one(node)
        let answers = client.ask(
            Frame5.subscribe(4, [.init("t"), .init("t", qos: 1, retainHandling: 1), .init("t", qos: 2)]))
        #expect(answers.filter { $0 == .suback(4, [0, 1, 2]) }.count == 1)
        #expect(answers.count == 3, "the first and the third bring the retained event")
        #expect(node.router.subscriptionCount == 1)
    }

    @Test func overlappingSubscriptionsMakeOneCopyAtTheHighestQoS() throws {
        let node = try TestNode()
        let client = one(node)
        _ = client.ask(Frame5.subscribe(1, [.init("#"), .init("a/+", qos: 2), .init("a/b", qos: 1)]))
        one(node, "s").send(Frame5.publish("a/b", "x", qos: 2, id: 1))
        #expect(client.answers() == [.event("a/b", "x", qos: 2, id: 1)])
    }

    // MARK: No local (§3.8.3.1)

    @Test func noLocalKeepsAClientsOwnEventsFromIt() throws {
        let node = try TestNode()
        let client = one(node)
        let other = one(node, "o")
        _ = client.ask(Frame5.subscribe(1, [.init("t", qos: 1, noLocal: true)]))
        other.subscribe("t", qos: 1)
        #expect(client.ask(Frame5.publish("t", "own", qos: 1, id: 1)) == [.puback(1)])
        #expect(other.events().map(\.text) == ["own"])
        other.send(Frame5.publish("t", "other", qos: 1, id: 1))
        #expect(client.events().map(\.text) == ["other"])
        #expect(other.events().map(\.text) == ["other"], "without the option one's own events come back")
    }

    @Test func noLocalHoldsOnlyWhereAllMatchingSubscriptionsSaySo() throws {
        let client = one(try TestNode())
        _ = client.ask(Frame5.subscribe(1, [.init("t/#", noLocal: true), .init("t/1", qos: 0, noLocal: true)]))
        #expect(client.ask(Frame5.publish("t/1", "x")).isEmpty)
        _ = client.ask(Frame5.subscribe(2, [.init("+/1")]))
        #expect(client.ask(Frame5.publish("t/1", "x")) == [.event("t/1", "x")])
    }

    /// It is the client identifier that counts, on every lane and for events that would have waited.
    @Test(arguments: [0, 1]) func noLocalHoldsForWhatWouldHaveWaited(lane: Int) throws {
        let node = try TestNode(lanes: 2)
        let client = TestClient5(node, "c", expiry: 60, lane: lane, properties: [.receiveMaximum(1)])
        _ = client.ask(Frame5.subscribe(1, [.init("t", qos: 1, noLocal: true), .init("u", qos: 1)]))
        client.send(Frame5.publish("u", "1", qos: 1, id: 1), Frame5.publish("t", "2", qos: 1, id: 2))
        client.send(Frame5.publish("u", "3", qos: 1, id: 3))
        client.cut()
        let back = TestClient5(node, "c", clean: false, expiry: 60)
        #expect(back.returnedEvents.map(\.text) == ["1", "3"])
    }

    @Test func noLocalOnASharedSubscriptionIsAProtocolError() throws {
        let node = try TestNode()
        let client = one(node)
        #expect(
            client.ask(Frame5.subscribe(1, [.init("a"), .init("$share/g/t", noLocal: true)])) == [.disconnect(0x82)])
        #expect(client.closing != nil)
    }

    // MARK: Bad options

    @Test(arguments: 0..<256) func everyOptionByte(byte: Int) throws {
        let byte = UInt8(byte)
        var subscription = Frame5.Subscription("t")
        subscription.options = byte
        let client = one(try TestNode())
        let answers = client.ask(Frame5.subscribe(1, [subscription]))
        let isReserved = byte & 0xC0 != 0
        let isBad = byte & 3 == 3 || byte >> 4 & 3 == 3
        if !isReserved && !isBad {
            #expect(answers == [.suback(1, [byte & 3])])
        } else {
            // Where both are wrong, either reason is right (§4.13).
            let reasons: Set<UInt8> = isReserved ? (isBad ? [0x81, 0x82] : [0x81]) : [0x82]
            guard case .disconnect(let reason, _)? = answers.first else {
                Issue.record("\(answers)")
                return
            }
            #expect(reasons.contains(reason))
            #expect(client.closing != nil)
        }
    }
}
