import Core
import Testing

/// MQTT 5: what the CONNACK says (§3.2).
@Suite struct V5ConnackTests {
    private func limits(_ change: (inout Limits) -> Void) -> Limits {
        var limits = Limits()
        change(&limits)
        return limits
    }

    @Test func theLimitsAreTold() throws {
        let client = TestClient5(try TestNode(), "c")
        #expect(
            client.connack.sorted { $0.id < $1.id } == [
                .receiveMaximum(1_024), .topicAliasMaximum(64), .maximumPacketSize(16 << 20),
            ])
    }

    @Test func otherLimitsAreTold() throws {
        let node = try TestNode(
            limits: limits {
                $0.maxUnsettled = 7
                $0.maxTopicAliases = 0
                $0.maxPacketBytes = 5_000
            })
        let client = TestClient5(node, "c")
        #expect(client.connack.sorted { $0.id < $1.id } == [.receiveMaximum(7), .maximumPacketSize(5_000)])
    }

    /// QoS 2, retained events, wildcards, subscription identifiers and shared subscriptions are all there, which is
    /// said by not saying anything (§3.2.2.3).
    @Test func nothingIsDeclaredUnavailableAndAllOfItWorks() throws {
        let client = TestClient5(
            try TestNode(), "c", will: .init(topic: "w", qos: 2, isRetained: true))
        #expect(client.connack.allSatisfy { ![36, 37, 40, 41, 42].contains($0.id) })
        #expect(
            client.ask(
                Frame5.subscribe(1, [.init("a/#", qos: 2), .init("$share/g/b", qos: 2)], [.subscriptionID(3)]))
                == [.suback(1, [2, 2])])
        #expect(
            client.ask(Frame5.publish("a/b", "x", qos: 2, id: 1, retain: true))
                == [.event("a/b", "x", qos: 2, id: 1, [.subscriptionID(3)]), .pubrec(1)])
    }

    @Test(arguments: [
        (UInt32?.none, UInt32?.none), (0, nil), (1, nil), (3_600, nil), (3_601, 3_600), (0xFFFF_FFFF, 3_600),
    ])
    func theSessionExpiryIsToldWhenItDiffers(asked: UInt32?, told: UInt32?) throws {
        let node = try TestNode(limits: limits { $0.sessionExpirySeconds = 3_600 })
        let client = TestClient5(node, "c", expiry: asked)
        let wanted: [Property5] = told.map { [.sessionExpiry($0)] } ?? []
        #expect(client.connack.filter { $0.id == 17 } == wanted)
    }

    @Test func responseInformationIsGivenToThoseWhoAsk() throws {
        let node = try TestNode()
        let asked = TestClient5(node, "c1", properties: [.requestResponse(1)])
        #expect(asked.connack.filter { $0.id == 26 } == [.responseInformation("replies/c1")])
        #expect(!TestClient5(node, "c2", properties: [.requestResponse(0)]).connack.contains { $0.id == 26 })
        #expect(!TestClient5(node, "c3").connack.contains { $0.id == 26 })
        for name in ["a/b", "a+", "#", "a*b", ">", "$c"] {
            let client = TestClient5(node, name, properties: [.requestResponse(1)])
            #expect(!client.connack.contains { $0.id == 26 }, "no topic for all: \(name)")
        }
    }

    @Test func sessionPresentSaysWhetherThereWasOne() throws {
        let node = try TestNode()
        #expect(!TestClient5(node, "c", clean: false, expiry: 60).isSessionPresent, "there was none")
        #expect(TestClient5(node, "c", clean: false, expiry: 60).isSessionPresent)
        #expect(!TestClient5(node, "c", clean: true, expiry: 60).isSessionPresent, "clean start forgets it")
        #expect(TestClient5(node, "c", clean: false, expiry: 60).isSessionPresent)
    }

    /// Flags, and the whole of a small CONNACK, byte for byte.
    @Test func theBytesOfAConnack() throws {
        let node = try TestNode(limits: limits { $0.maxTopicAliases = 0 })
        let client = TestClient5(node)
        client.send(Frame5.connect("c"))
        let bytes = client.bytes()
        #expect(bytes.count == 13)
        #expect(Array(bytes.prefix(5)) == [0x20, 11, 0, 0, 8])
        #expect(bytes.dropFirst(5).sorted() == [0x21, 4, 0, 0x27, 1, 0, 0, 0].sorted())
    }

    @Test func oneConnackAndItComesFirst() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", clean: false, expiry: 60)
        client.subscribe("t", qos: 1)
        client.cut()
        TestClient5(node, "s").send(Frame5.publish("t", "x", qos: 1, id: 1))
        let back = TestClient5(node)
        back.send(Frame5.connect("c", clean: false), Frame.pingreq, Frame5.publish("t", "y"))
        let answers = back.answers()
        guard case .connack(true, 0, _) = answers.first else {
            Issue.record("\(answers)")
            return
        }
        let others = answers.dropFirst().filter { if case .connack = $0 { true } else { false } }
        #expect(others.isEmpty)
        #expect(answers.contains(.pingresp))
    }

    @Test func aRefusalHasNoSessionAndClosesTheConnection() throws {
        let node = try TestNode()
        TestClient5(node, "c", expiry: 60).cut()
        node.authenticator.answers { _ in .refused(.badCredentials) }
        let client = TestClient5(node)
        #expect(client.ask(Frame5.connect("c", clean: false)) == [.connack(present: false, reason: 0x86)])
        #expect(client.closing != nil)
    }

    /// A refusal explains itself, unless the client could not take that (§3.2.2.3.9).
    @Test func theReasonStringFitsTheClientsMaximumPacketSize() throws {
        let node = try TestNode()
        node.authenticator.answers { _ in .refused(.badCredentials) }
        let talkative = TestClient5(node)
        talkative.send(Frame5.connect("c"))
        guard case .connack(false, 0x86, let properties) = talkative.wholeAnswers().first else {
            Issue.record("no refusal")
            return
        }
        #expect(properties.map(\.id) == [31])
        for size in UInt32(5)...80 {
            let client = TestClient5(node)
            client.send(Frame5.connect("c", properties: [.maximumPacketSize(size)]))
            let bytes = client.bytes()
            #expect(bytes.count <= Int(size))
            #expect(bytes.count >= 5)
        }
    }
}
