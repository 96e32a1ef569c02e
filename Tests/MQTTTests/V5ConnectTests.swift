import Core
import Testing

/// MQTT 5: who is let in, under which name, and what the old connection is told (§3.1, §3.1.4).
@Suite struct V5ConnectTests {
    @Test func connectWithEveryPropertyIsTaken() throws {
        let ids: [UInt8] = [17, 23, 25, 33, 34, 38, 39]
        let all = ids.map { Property5.sample($0) } + [.user("k", "v")]
        let client = TestClient5(try TestNode(), "c", properties: all)
        #expect(client.closing == nil)
        #expect(client.ask(Frame.pingreq) == [.pingresp])
    }

    @Test func fieldsArriveInTheSpecifiedOrder() throws {
        let node = try TestNode()
        node.authenticator.answers { credentials in
            let isRight =
                credentials.user == "ü" && credentials.password == [0, 255] && credentials.clientID == "id"
            return isRight ? .accepted(Identity(user: "ü")) : .refused(.badCredentials)
        }
        let will = Frame5.Will(topic: "will/topic", payload: [1, 0, 2], properties: [.contentType("c")])
        var body = Frame.text("MQTT") + [5, 0xC6, 0, 0] + Property5.block([.user("a", "b")]) + Frame.text("id")
        body += Property5.block(will.properties) + Frame.text(will.topic) + Frame.binary(will.payload)
        body += Frame.text("ü") + Frame.binary([0, 255])
        let client = TestClient5(node)
        client.send(Frame.packet(0x10, body))
        guard case .connack(false, 0, _) = client.answers().first else {
            Issue.record("not let in")
            return
        }
        node.authenticator.answers { _ in .accepted(Identity()) }
        let witness = TestClient5(node, "w")
        witness.subscribe("will/#")
        client.cut()
        #expect(
            witness.events() == [
                Answer5.Publish(topic: "will/topic", payload: [1, 0, 2], properties: [.contentType("c")])
            ])
    }

    /// MQTT 5 allows a password without a user name (§3.1.2.9).
    @Test func passwordWithoutUserNameIsTaken() throws {
        let node = try TestNode()
        node.authenticator.answers { credentials in
            credentials.user == nil && credentials.password == Array("token".utf8)
                ? .accepted(Identity()) : .refused(.badCredentials)
        }
        let client = TestClient5(node)
        client.send(Frame5.connect("c", password: "token"))
        guard case .connack(false, 0, _) = client.answers().first else {
            Issue.record("not let in")
            return
        }
    }

    // MARK: Client identifiers

    @Test(arguments: [false, true]) func emptyClientIDIsReplacedByAnAssignedOne(clean: Bool) throws {
        let node = try TestNode()
        let clients = (0..<20).map { _ in TestClient5(node, "", clean: clean, expiry: 60) }
        let names = clients.compactMap { client -> String? in
            #expect(!client.isSessionPresent)
            let assigned = client.connack.filter { $0.id == 18 }
            guard assigned.count == 1, case .text(let name) = assigned[0].value else { return nil }
            return name
        }
        #expect(Set(names).count == 20, "each has its own")
        #expect(node.router.sessionCount == 20)
        // It is an identifier like any other: the session is found under it again.
        clients[3].subscribe("a", qos: 1)
        clients[3].cut()
        let back = TestClient5(node, names[3], clean: false, expiry: 60)
        #expect(back.isSessionPresent)
        #expect(!back.connack.contains { $0.id == 18 })
    }

    /// An identifier that somebody chose for itself is not assigned to anybody else ([MQTT-3.2.2-16]).
    @Test(arguments: [false, true]) func anAssignedClientIDIsNobodyElses(isPresent: Bool) throws {
        let probe = TestClient5(try TestNode(), "")
        guard case .text(let next)? = probe.connack.first(where: { $0.id == 18 })?.value else {
            Issue.record("no identifier assigned")
            return
        }
        // A node like the first one would assign the same name next.
        let node = try TestNode()
        let owner = TestClient5(node, next, expiry: 60)
        owner.subscribe("t", qos: 1)
        if !isPresent { owner.cut() }
        let client = TestClient5(node, "", clean: false, expiry: 60)
        #expect(!client.isSessionPresent)
        #expect(!client.connack.contains(.assignedClientID(next)))
        #expect(owner.closing == (isPresent ? nil : .connectionLost))
        #expect(node.router.sessionCount == 2)
    }

    @Test func clientIDsOf1To23CharactersAreAllowed() throws {
        let node = try TestNode()
        let alphabet = Array("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
        for length in 1...23 {
            let name = String((0..<length).map { alphabet[($0 * 7 + length * 11) % alphabet.count] })
            #expect(TestClient5(node, name).closing == nil)
            #expect(TestClient(node, "3" + name.dropFirst()).closing == nil)
        }
        for character in alphabet { #expect(TestClient5(node, "\(character)").closing == nil) }
    }

    @Test func theClientIDIsTheSessionsName() throws {
        let node = try TestNode()
        let first = TestClient5(node, "a", expiry: 60)
        let second = TestClient5(node, "b", expiry: 60)
        first.subscribe("t", qos: 1)
        first.cut()
        second.cut()
        TestClient5(node, "s").send(Frame5.publish("t", "x", qos: 1, id: 1))
        #expect(TestClient5(node, "b", clean: false).returned.isEmpty)
        #expect(!TestClient5(node, "A", clean: false).isSessionPresent, "identifiers are compared byte by byte")
        #expect(TestClient5(node, "a", clean: false).returnedEvents.map(\.text) == ["x"])
    }

    // MARK: Refusals

    @Test(arguments: [
        (AuthenticationRefusal.badCredentials, UInt8(0x86)), (.anonymousNotAllowed, 0x87), (.busy, 0x89),
    ])
    func refusalsHaveTheirReason(refusal: AuthenticationRefusal, reason: UInt8) throws {
        for isDeferred in [false, true] {
            let node = try TestNode()
            let witness = TestClient5(node, "w")
            witness.subscribe("#")
            node.authenticator.answers { _ in isDeferred ? nil : .refused(refusal) }
            let client = TestClient5(node)
            client.send(
                Frame5.connect("c", will: .init(topic: "t"), user: "u", password: "p"),
                Frame5.publish("t", "x", qos: 1, id: 1), Frame.pingreq)
            if isDeferred {
                node.authenticator.answer(.refused(refusal))
                node.settle()
            }
            #expect(client.answers() == [.connack(present: false, reason: reason)])
            #expect(client.closing != nil)
            #expect(witness.answers().isEmpty, "nothing behind a refused CONNECT is looked at, and its will is nothing")
            #expect(node.router.sessionCount == 1)
        }
    }

    @Test func anotherUsersSessionIsNotGivenAway() throws {
        let node = try TestNode()
        let owner = TestClient5(node, "c", expiry: 60, user: "anna")
        for user in ["bert", nil] {
            let thief = TestClient5(node)
            #expect(thief.ask(Frame5.connect("c", user: user)) == [.connack(present: false, reason: 0x87)])
            #expect(thief.closing != nil)
        }
        #expect(owner.closing == nil)
        #expect(owner.answers().isEmpty)
    }

    @Test func tooManySessionsAreRefused() throws {
        var limits = Limits()
        limits.maxSessions = 1
        let node = try TestNode(limits: limits)
        _ = TestClient5(node, "1")
        let second = TestClient5(node)
        #expect(second.ask(Frame5.connect("2")) == [.connack(present: false, reason: 0x97)])
        #expect(second.closing != nil)
    }

    @Test func secondConnectIsAProtocolError() throws {
        let client = TestClient5(try TestNode(), "c")
        #expect(client.ask(Frame5.connect("c"), Frame.pingreq) == [.disconnect(0x82)])
        #expect(client.closing == .protocolError)
    }

    /// What follows CONNECT in the same segment waits for the answer, and is then taken in order.
    @Test func bytesBehindConnectWaitForTheAnswer() throws {
        let node = try TestNode()
        node.authenticator.answers { _ in nil }
        let client = TestClient5(node)
        client.send(Frame5.connect("c"), Frame5.subscribe(1, [.init("t")]), Frame5.publish("t", "x", qos: 1, id: 7))
        #expect(client.answers().isEmpty)
        node.authenticator.answer(.accepted(Identity()))
        node.settle()
        let answers = client.answers()
        guard answers.count == 4, case .connack(false, 0, _) = answers[0] else {
            Issue.record("\(answers)")
            return
        }
        #expect(answers[1] == .suback(1, [0]))
        #expect(answers.contains(.event("t", "x")) && answers.contains(.puback(7)))
    }

    // MARK: Takeover (§3.1.4)

    @Test(arguments: [0, 1], [false, true]) func theOldConnectionIsToldThatItWasTakenOver(lane: Int, clean: Bool) throws
    {
        let node = try TestNode(lanes: 2)
        let old = TestClient5(node, "c", expiry: 60)
        let new = TestClient5(node, "c", clean: clean, lane: lane)
        #expect(old.answers() == [.disconnect(0x8E)])
        #expect(old.closing == .takenOver)
        #expect(new.closing == nil)
        #expect(new.isSessionPresent == !clean)
        #expect(node.router.sessionCount == 1)
    }

    /// The old connection's end is the end of such a session, though the new one would resume it.
    @Test(arguments: [0, 1]) func aSessionThatEndsWithItsConnectionIsNotTakenOver(lane: Int) throws {
        let node = try TestNode(lanes: 2)
        let old = TestClient5(node, "c", expiry: 0)
        old.subscribe("t", qos: 1)
        let new = TestClient5(node, "c", clean: false, expiry: 60, lane: lane)
        #expect(old.answers() == [.disconnect(0x8E)])
        #expect(!new.isSessionPresent)
        #expect(node.router.subscriptionCount == 0)
        #expect(node.router.sessionCount == 1)
    }

    @Test func takeoversBetweenVersions() throws {
        let node = try TestNode()
        let five = TestClient5(node, "c", expiry: 60)
        five.subscribe("t", qos: 1, id: 9)
        let three = TestClient(node, "c", clean: false)
        #expect(five.answers() == [.disconnect(0x8E)])
        #expect(three.isSessionPresent)
        let sender = TestClient5(node, "s")
        sender.send(Frame5.publish("t", "1", qos: 1, id: 1, [.contentType("c")]))
        #expect(three.answers() == [.event("t", "1", qos: 1, id: 1)], "an older client sees no properties")
        let again = TestClient5(node, "c", clean: false, expiry: 60)
        #expect(three.answers().isEmpty, "and is closed without a word")
        #expect(three.closing == .takenOver)
        #expect(again.isSessionPresent)
        #expect(
            again.returned == [
                .event("t", "1", qos: 1, id: 1, dup: true, [.contentType("c"), .subscriptionID(9)])
            ]
                || again.returned == [
                    .event("t", "1", qos: 1, id: 1, dup: true, [.subscriptionID(9), .contentType("c")])
                ])
    }

    // MARK: Keep-alive (§3.1.2.10)

    @Test func keepAliveTimesOutAfterOneAndAHalf() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", keepAlive: 10)
        #expect(!client.connack.contains { $0.id == 19 }, "the client's own value holds")
        node.advance(milliseconds: 14_999)
        #expect(client.ask(Frame.pingreq) == [.pingresp])
        node.advance(milliseconds: 14_999)
        #expect(client.closing == nil)
        node.advance(milliseconds: 1)
        #expect(client.answers() == [.disconnect(0x8D)])
        #expect(client.closing == .keepAliveTimeout)
    }

    @Test func withoutKeepAliveNothingTimesOut() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", keepAlive: 0)
        node.advance(milliseconds: 100_000_000)
        #expect(client.closing == nil)
    }

    @Test(arguments: [(UInt16(0), true), (100, true), (31, true), (30, false), (10, false)])
    func theServersKeepAliveHoldsWhereItIsShorter(asked: UInt16, isTold: Bool) throws {
        var limits = Limits()
        limits.maxKeepAliveSeconds = 30
        let node = try TestNode(limits: limits)
        let client = TestClient5(node, "c", keepAlive: asked)
        #expect(client.connack.filter { $0.id == 19 } == (isTold ? [.serverKeepAlive(30)] : []))
        let seconds = UInt64(isTold ? 30 : asked)
        node.advance(milliseconds: seconds * 1_500 - 1)
        #expect(client.closing == nil)
        node.advance(milliseconds: 1)
        #expect(client.answers() == [.disconnect(0x8D)])
    }
}
