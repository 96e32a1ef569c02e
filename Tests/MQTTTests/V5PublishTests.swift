import Core
import Testing

/// MQTT 5: guaranteed events from a client, their acknowledgements and reasons (§3.3.4, §3.4 to §3.7, §4.3).
@Suite struct V5PublishTests {
    private static let rules = [
        AccessRule(effect: .deny, action: .all, topics: ["secret/#"]),
        AccessRule(effect: .allow, action: .all, topics: ["#"]),
    ]

    private func pair(rules: [AccessRule] = []) throws -> (TestNode, TestClient5, TestClient5) {
        let node = try TestNode(rules: rules)
        let receiver = TestClient5(node, "r")
        receiver.subscribe("t/#", qos: 2)
        return (node, receiver, TestClient5(node, "s"))
    }

    @Test func everyQoSIsAnsweredAsItShould() throws {
        let (_, receiver, sender) = try pair()
        #expect(sender.ask(Frame5.publish("t/0", "x")).isEmpty)
        #expect(sender.ask(Frame5.publish("t/1", "x", qos: 1, id: 65_535)) == [.puback(65_535)])
        #expect(sender.ask(Frame5.publish("t/2", "x", qos: 2, id: 7)) == [.pubrec(7)])
        #expect(sender.ask(Frame5.pubrel(7)) == [.pubcomp(7)])
        #expect(receiver.events().map(\.topic) == ["t/0", "t/1", "t/2"])
    }

    /// Success needs no reason code (§3.4.2.1): four bytes.
    @Test func successIsAnsweredInTheShortForm() throws {
        let (_, _, sender) = try pair()
        sender.send(Frame5.publish("t/1", "x", qos: 1, id: 1), Frame5.publish("t/1", "x", qos: 2, id: 2))
        sender.send(Frame5.pubrel(2))
        #expect(sender.bytes() == [0x40, 2, 0, 1, 0x50, 2, 0, 2, 0x70, 2, 0, 2])
    }

    @Test func nobodyMatchedIsSaid() throws {
        let (_, _, sender) = try pair()
        #expect(sender.ask(Frame5.publish("other", "x", qos: 1, id: 1)) == [.puback(1, 0x10)])
        #expect(sender.ask(Frame5.publish("other", "x", qos: 2, id: 2)) == [.pubrec(2, 0x10)])
        #expect(sender.ask(Frame5.publish("other", "x", qos: 2, id: 2, dup: true)).count == 1)
        #expect(sender.ask(Frame5.pubrel(2)) == [.pubcomp(2)], "a reason below 0x80 is a success")
    }

    // MARK: Refusals

    @Test func refusedByRulesIsSaid() throws {
        let (node, _, sender) = try pair(rules: Self.rules)
        #expect(sender.ask(Frame5.publish("secret/a", "0")).isEmpty, "nothing can be said at QoS 0")
        #expect(sender.ask(Frame5.publish("secret/a", "1", qos: 1, id: 1)) == [.puback(1, 0x87)])
        #expect(sender.ask(Frame5.publish("secret/a", "2", qos: 2, id: 2)) == [.pubrec(2, 0x87)])
        #expect(node.dropped(.notAuthorized) == 3)
        // No PUBREL follows; the identifier is free, and a PUBREL for it finds nothing.
        #expect(sender.ask(Frame5.pubrel(2)) == [.pubcomp(2, 0x92)])
        #expect(sender.closing == nil)
    }

    /// What begins with `$` is the node's (§4.7.2).
    @Test func publishingToTheNodesOwnTopicsIsRefused() throws {
        let (node, _, sender) = try pair()
        for (number, topic) in ["$SYS/x", "$", "$share/g/t", "$local/t"].enumerated() {
            let id = UInt16(number + 1)
            #expect(sender.ask(Frame5.publish(topic, "x", qos: 1, id: id, retain: true)) == [.puback(id, 0x87)])
        }
        #expect(node.router.retainedCount == 0)
        #expect(sender.closing == nil)
    }

    /// A PUBREC with an error ends the exchange: the same identifier is a new event (§4.3.3).
    @Test func aPubrecWithAnErrorFreesTheIdentifier() throws {
        let (_, receiver, sender) = try pair(rules: Self.rules)
        #expect(sender.ask(Frame5.publish("secret/a", "1", qos: 2, id: 5)) == [.pubrec(5, 0x87)])
        #expect(sender.ask(Frame5.publish("t/a", "2", qos: 2, id: 5)) == [.pubrec(5)])
        #expect(receiver.events().map(\.text) == ["2"])
        #expect(sender.ask(Frame5.pubrel(5)) == [.pubcomp(5)])
    }

    @Test func refusedByQuotaIsSaid() throws {
        var limits = Limits()
        limits.maxPublishRate = 10
        let node = try TestNode(limits: limits)
        let receiver = TestClient5(node, "r")
        receiver.subscribe("t", qos: 2)
        let sender = TestClient5(node, "s")
        for _ in 0..<10 { sender.send(Frame5.publish("t", "x")) }
        #expect(sender.ask(Frame5.publish("t", "1", qos: 1, id: 1)) == [.puback(1, 0x97)])
        #expect(sender.ask(Frame5.publish("t", "2", qos: 2, id: 2)) == [.pubrec(2, 0x97)])
        #expect(receiver.events().count == 10)
        node.advance(milliseconds: 1_000)
        #expect(sender.ask(Frame5.publish("t", "3", qos: 2, id: 2)) == [.pubrec(2)])
    }

    private func refusal(_ properties: [Property5], _ frame: [UInt8]) throws -> [Answer5] {
        let (node, _, _) = try pair(rules: Self.rules)
        let client = TestClient5(node, "p", properties: properties)
        client.send(frame)
        return client.wholeAnswers()
    }

    @Test func aRefusalExplainsItself() throws {
        for (qos, frame) in [
            (1, Frame5.publish("secret/a", "x", qos: 1, id: 1)), (2, Frame5.publish("secret/a", "x", qos: 2, id: 1)),
        ] {
            let answers = try refusal([.requestProblem(1)], frame)
            switch answers.first {
            case .puback(1, 0x87, let properties) where qos == 1: #expect(properties.map(\.id) == [31])
            case .pubrec(1, 0x87, let properties) where qos == 2: #expect(properties.map(\.id) == [31])
            default: Issue.record("\(answers)")
            }
        }
    }

    /// Request Problem Information 0: reasons without words (§3.1.2.11.7).
    @Test func noReasonStringsForThoseWhoDoNotWantThem() throws {
        let (node, _, _) = try pair(rules: Self.rules)
        let client = TestClient5(node, "p", properties: [.requestProblem(0)])
        client.send(
            Frame5.publish("secret/a", "x", qos: 1, id: 1), Frame5.publish("secret/a", "x", qos: 2, id: 2),
            Frame5.pubrel(3), Frame5.pubrec(4), Frame5.subscribe(5, [.init("secret/a")]),
            Frame5.unsubscribe(6, ["a#"]))
        #expect(
            client.wholeAnswers() == [
                .puback(1, 0x87), .pubrec(2, 0x87), .pubcomp(3, 0x92), .pubrel(4, 0x92), .suback(5, [0x87]),
                .unsuback(6, [0x8F]),
            ])
    }

    /// No acknowledgement is larger than the client takes: the words are left out, the reason is not.
    @Test func reasonStringsFitTheClientsMaximumPacketSize() throws {
        let frames: [([UInt8], Answer5, Int)] = [
            (Frame5.publish("secret/a", "x", qos: 1, id: 1), .puback(1, 0x87), 5),
            (Frame5.publish("secret/a", "x", qos: 2, id: 1), .pubrec(1, 0x87), 5),
            (Frame5.pubrel(1), .pubcomp(1, 0x92), 5), (Frame5.pubrec(1), .pubrel(1, 0x92), 5),
            (Frame5.subscribe(1, [.init("secret/a")]), .suback(1, [0x87]), 6),
            (Frame5.unsubscribe(1, ["a#"]), .unsuback(1, [0x8F]), 6),
        ]
        for (frame, wanted, least) in frames {
            for size in max(least, 20)...90 {
                let answers = try refusal([.maximumPacketSize(UInt32(size))], frame)
                #expect(answers.map(\.bare) == [wanted], "at \(size)")
            }
            let (node, _, _) = try pair(rules: Self.rules)
            for size in [20, 24, 30, 40, 50] {
                let client = TestClient5(node, "p", properties: [.maximumPacketSize(UInt32(size))])
                _ = client.bytes()
                client.send(frame)
                #expect(client.bytes().count <= size)
            }
        }
    }

    // MARK: Stray acknowledgements

    @Test func releaseOfNothingIsAnsweredWithNotFound() throws {
        let (_, _, sender) = try pair()
        #expect(sender.ask(Frame5.pubrel(3)) == [.pubcomp(3, 0x92)])
        #expect(sender.ask(Frame5.pubrel(3, 0x92)) == [.pubcomp(3, 0x92)])
    }

    @Test func receptOfNothingIsAnsweredWithNotFound() throws {
        let (_, _, sender) = try pair()
        #expect(sender.ask(Frame5.pubrec(3)) == [.pubrel(3, 0x92)])
        #expect(sender.ask(Frame5.pubrec(4, 0x97)).isEmpty, "a refusal of nothing needs no answer")
        #expect(
            sender.ask(Frame5.puback(3), Frame5.puback(3, 0x80), Frame5.pubcomp(3), Frame5.pubcomp(3, 0x92)).isEmpty)
        #expect(sender.closing == nil)
    }

    /// Every form that a client may choose (§3.4.2.1).
    @Test func acknowledgementsInEveryForm() throws {
        let (_, receiver, sender) = try pair()
        let forms: [(UInt8?, [Property5]?)] = [
            (nil, nil), (0, nil), (0x10, nil), (0, []),
            (0x10, [.reasonString("so"), .user("k", "v"), .user("k", "v")]),
        ]
        for (number, form) in forms.enumerated() {
            sender.send(Frame5.publish("t/1", "\(number)", qos: 1, id: 1))
            sender.send(
                Frame5.publish("t/2", "\(number)", qos: 2, id: 2), Frame5.pubrel(2, form.0 == nil ? nil : 0, form.1))
            let events = receiver.events()
            #expect(events.map(\.text) == ["\(number)", "\(number)"])
            let ids = events.map(\.id)
            guard ids.count == 2 else { return }
            #expect(
                receiver.ask(Frame5.puback(ids[0], form.0, form.1), Frame5.pubrec(ids[1], form.0, form.1))
                    == [.pubrel(ids[1])])
            #expect(receiver.ask(Frame5.pubcomp(ids[1], form.0 == nil ? nil : 0, form.1)).isEmpty)
        }
        #expect(receiver.closing == nil && sender.closing == nil)
    }

    // MARK: QoS 1 and 2 from the client (§4.3.2, §4.3.3)

    @Test func qoS1WithTheSameIdentifierIsNew() throws {
        let (_, receiver, sender) = try pair()
        for dup in [false, true, false] {
            #expect(sender.ask(Frame5.publish("t/1", "x", qos: 1, id: 1, dup: dup)) == [.puback(1)])
        }
        let events = receiver.events()
        #expect(events.count == 3)
        #expect(events.allSatisfy { !$0.dup }, "a publisher's DUP is not passed on")
    }

    @Test func qoS2IsPublishedOnceUntilItIsReleased() throws {
        let (node, receiver, _) = try pair()
        var client = TestClient5(node, "p", clean: false, expiry: 60)
        let publish = Frame5.publish("t/2", "x", qos: 2, id: 5)
        #expect(client.ask(publish) == [.pubrec(5)])
        #expect(client.ask(Frame5.publish("t/2", "x", qos: 2, id: 5, dup: true), publish).count == 2)
        client.cut()
        client = TestClient5(node, "p", clean: false, expiry: 60)
        #expect(client.ask(Frame5.publish("t/2", "x", qos: 2, id: 5, dup: true)).map(\.isReceived) == [true])
        #expect(receiver.events().count == 1)
        #expect(client.ask(Frame5.pubrel(5)) == [.pubcomp(5)])
        #expect(client.ask(publish) == [.pubrec(5)])
        #expect(receiver.events().count == 1, "after PUBCOMP it is a new one")
    }

    /// The exchange is finished whatever becomes of the event (§4.3.3).
    @Test func anExpiredEventIsStillReleased() throws {
        let (node, _, sender) = try pair()
        #expect(sender.ask(Frame5.publish("t/2", "x", qos: 2, id: 5, [.messageExpiry(1)])) == [.pubrec(5)])
        node.advance(milliseconds: 10_000)
        #expect(sender.ask(Frame5.publish("t/2", "x", qos: 2, id: 5, dup: true, [.messageExpiry(1)])).count == 1)
        #expect(sender.ask(Frame5.pubrel(5)) == [.pubcomp(5)])
    }

    @Test func acknowledgementsKeepTheOrderOfThePublishes() throws {
        let (_, receiver, sender) = try pair()
        let answers = sender.ask(
            Frame5.publish("t/a", "1", qos: 1, id: 3), Frame5.publish("t/b", "2", qos: 2, id: 9),
            Frame5.publish("t/a", "3", qos: 1, id: 1), Frame5.pubrel(9), Frame5.publish("none", "4", qos: 1, id: 2))
        #expect(answers == [.puback(3), .pubrec(9), .puback(1), .pubcomp(9), .puback(2, 0x10)])
        #expect(receiver.events().map(\.text) == ["1", "2", "3"])
    }
}

extension Answer5 {
    /// A PUBREC that says yes.
    var isReceived: Bool { if case .pubrec(_, let reason, _) = self { reason < 0x80 } else { false } }
}
