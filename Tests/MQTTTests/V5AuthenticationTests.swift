import Core
import Testing

/// MQTT 5: enhanced authentication (§4.12, §3.15), and the end of a proof.
@Suite struct V5AuthenticationTests {
    private static let scram = Property5.authenticationMethod("SCRAM-SHA-256")

    private static func data(_ text: String) -> Property5 { .authenticationData(Array(text.utf8)) }

    private static func auth(_ text: String?) -> [UInt8] { auth(0x18, text) }

    private static func auth(_ reason: UInt8, _ text: String?) -> [UInt8] {
        Frame5.auth(reason, [scram] + (text.map { [data($0)] } ?? []))
    }

    private static func connect(_ text: String?, clean: Bool = true, _ others: [Property5] = []) -> [UInt8] {
        Frame5.connect("c", clean: clean, properties: [scram] + (text.map { [data($0)] } ?? []) + others)
    }

    /// A node whose exchanges take two messages: `user:lifetime` first, then `right`.
    private static func node(lanes: Int = 1, limits: Limits = Limits(), rules: [AccessRule] = []) throws -> TestNode {
        let node = try TestNode(lanes: lanes, limits: limits, rules: rules)
        node.authenticator.answers { _ in .refused(.anonymousNotAllowed) }
        node.authenticator.offers([.scramSHA256], script)
        return node
    }

    private static let script: TestAuthenticator.Script = { _, messages in
        guard messages.count > 1 else { return .challenge(Array("prove it".utf8)) }
        guard messages[1].elementsEqual("right".utf8) else { return .finished(.refused(.badCredentials), [9]) }
        return .finished(.accepted(identity(messages[0])), Array("proven".utf8))
    }

    /// `user:lifetime:group`, all but the first as it likes.
    private static func identity(_ message: [UInt8]) -> Identity {
        let parts = String(decoding: message, as: UTF8.self).split(separator: ":").map(String.init)
        var identity = Identity(user: parts.first, groups: Array(parts.dropFirst(2)))
        identity.lifetimeMilliseconds = parts.count > 1 ? UInt64(parts[1]) : nil
        return identity
    }

    /// A client that has been let in.
    private static func client(_ node: TestNode, _ text: String = "anna") -> TestClient5 {
        let client = TestClient5(node)
        let answers = client.ask(connect(text), auth("right"))
        guard case .connack(_, 0, _)? = answers.last else {
            Issue.record("\(answers)")
            return client
        }
        return client
    }

    // MARK: Before CONNACK

    @Test func letsInWhoProvesIt() throws {
        let node = try Self.node()
        let client = TestClient5(node)
        #expect(client.ask(Self.connect("anna")) == [.auth(0x18, [Self.scram, Self.data("prove it")])])
        #expect(node.router.sessionCount == 0, "nothing is kept before")
        // What comes behind the proof waits for nothing but the proof.
        let answers = client.ask(Self.auth("right"), Frame.pingreq)
        guard case .connack(false, 0, let properties)? = answers.first else {
            Issue.record("\(answers)")
            return
        }
        #expect(properties.contains(Self.scram) && properties.contains(Self.data("proven")))
        #expect(Array(answers.dropFirst()) == [.pingresp])
        #expect(client.closing == nil)
    }

    /// Without data a client is asked for its first message; an empty one is a message.
    @Test func beginsWithoutData() throws {
        let node = try Self.node()
        let client = TestClient5(node)
        #expect(client.ask(Self.connect(nil)) == [.auth(0x18, [Self.scram])])
        #expect(client.ask(Self.auth("anna")) == [.auth(0x18, [Self.scram, Self.data("prove it")])])
        guard case .connack(false, 0, _)? = client.ask(Self.auth("right")).first else {
            Issue.record("not let in")
            return
        }
        node.authenticator.offers([.scramSHA256]) { _, messages in
            .finished(messages == [[]] ? .refused(.badCredentials) : .accepted(Identity()), [])
        }
        for frames in [[Self.connect("")], [Self.connect(nil), Self.auth(nil)]] {
            let other = TestClient5(node)
            #expect(other.ask(frames.flatMap { $0 }).last == .connack(present: false, reason: 0x86))
        }
    }

    /// Answers that take their time, and packets that wait for them.
    @Test(arguments: [1, 2]) func answersThatComeLater(lanes: Int) throws {
        let node = try Self.node(lanes: lanes)
        node.authenticator.offers([.scramSHA256]) { _, _ in nil }
        let client = TestClient5(node, lane: lanes - 1)
        client.send(Self.connect("anna"), Self.auth("right"), Frame.pingreq)
        #expect(client.answers().isEmpty)
        node.authenticator.step(.challenge([1]))
        node.settle()
        #expect(client.answers() == [.auth(0x18, [Self.scram, .authenticationData([1])])])
        node.authenticator.step(.finished(.accepted(Identity(user: "anna")), []))
        node.settle()
        let answers = client.answers()
        guard case .connack(false, 0, let properties)? = answers.first else {
            Issue.record("\(answers)")
            return
        }
        #expect(properties.contains(Self.scram) && !properties.contains { $0.id == 22 })
        #expect(answers.last == .pingresp)
        // Nobody is there any more when the answer comes.
        let gone = TestClient5(node)
        gone.send(Self.connect("bert"))
        gone.cut()
        node.authenticator.step(.finished(.accepted(Identity(user: "bert")), []))
        node.settle()
        #expect(node.router.sessionCount == 1)
    }

    @Test(arguments: [
        (AuthenticationRefusal.badCredentials, UInt8(0x86), CloseReason.notAuthenticated),
        (.anonymousNotAllowed, 0x87, .notAuthenticated), (.busy, 0x89, .overLimit),
        (.tooManyFailures, 0x9F, .notAuthenticated),
    ])
    func refused(refusal: AuthenticationRefusal, code: UInt8, reason: CloseReason) throws {
        for isLate in [false, true] {
            let node = try Self.node()
            node.authenticator.offers([.scramSHA256]) { _, _ in
                isLate ? nil : .finished(.refused(refusal), Array("secret".utf8))
            }
            let client = TestClient5(node)
            client.send(Self.connect("anna"), Frame.pingreq)
            node.authenticator.step(.finished(.refused(refusal), Array("secret".utf8)))
            node.settle()
            #expect(client.answers() == [.connack(present: false, reason: code)])
            #expect(client.closing == reason)
            #expect(node.router.sessionCount == 0)
        }
    }

    /// A wrong proof is refused with the words for an unknown user.
    @Test func aWrongProofIsRefused() throws {
        let node = try Self.node()
        let client = TestClient5(node)
        let answers = client.ask(Self.connect("anna"), Self.auth("wrong"), Frame.pingreq)
        #expect(answers.last == .connack(present: false, reason: 0x86))
        #expect(client.closing == .notAuthenticated)
    }

    @Test(arguments: ["SCRAM-SHA-1", "OAUTHBEARER", "scram-sha-256", "PLAIN", "ANONYMOUS", ""])
    func anyOtherMethodIsNotOffered(method: String) throws {
        let client = TestClient5(try Self.node())
        let frame = Frame5.connect("c", properties: [.authenticationMethod(method), Self.data("anna")])
        #expect(client.ask(frame, Self.auth("right")) == [.connack(present: false, reason: 0x8C)])
        #expect(client.closing == .badAuthenticationMethod)
    }

    /// In the midst of an exchange nothing but its next message may come ([MQTT-3.1.2-30]).
    @Test func onlyTheNextMessageMayCome() throws {
        let cases: [([UInt8], UInt8, CloseReason)] = [
            (Frame.pingreq, 0x82, .protocolError), (Self.connect("anna"), 0x82, .protocolError),
            (Frame5.publish("a", "x"), 0x82, .protocolError),
            (Frame5.publish("a", "x", qos: 1, id: 1), 0x82, .protocolError),
            (Frame5.subscribe(1, [.init("#")]), 0x82, .protocolError),
            (Frame5.auth(), 0x82, .protocolError), (Frame5.auth(0x18), 0x82, .protocolError),
            (Self.auth(0x19, "anna"), 0x82, .protocolError), (Self.auth(0, "right"), 0x82, .protocolError),
            (Self.auth(0x17, "right"), 0x82, .protocolError),
            (Frame5.auth(0x18, [.authenticationMethod("OAUTHBEARER")]), 0x82, .protocolError),
            (Frame5.auth(0x18, [Self.scram, .sessionExpiry(1)]), 0x81, .malformedPacket),
            (Frame5.auth(0x18, [Self.scram, Self.data("a"), Self.data("b")]), 0x82, .protocolError),
            ([0xF1, 0], 0x81, .malformedPacket), ([0x90, 3, 0, 1, 0], 0x82, .protocolError),
            ([0xF0, 0xFF, 0xFF, 0x3F], 0x95, .packetTooLarge),
            (
                Frame5.auth(0x18, [Self.scram, .authenticationData([UInt8](repeating: 97, count: 20_481))]), 0x95,
                .packetTooLarge
            ),
        ]
        for (frame, code, reason) in cases {
            let node = try Self.node()
            let client = TestClient5(node)
            _ = client.ask(Self.connect("anna"))
            #expect(client.ask(frame, Self.auth("right")) == [.connack(present: false, reason: code)], "\(frame)")
            #expect(client.closing == reason, "\(frame)")
            #expect(node.router.sessionCount == 0 && node.router.retainedCount == 0)
        }
        let client = TestClient5(try Self.node())
        #expect(client.ask(Self.connect("anna"), Frame5.disconnect()).count == 1)
        #expect(client.closing == .clientDisconnected)
    }

    @Test func anExchangeEndsSometime() throws {
        let node = try Self.node()
        node.authenticator.offers([.scramSHA256]) { _, _ in .challenge([]) }
        let client = TestClient5(node)
        #expect(client.ask(Self.connect("1"), Self.auth("2"), Self.auth("3"), Self.auth("4")).count == 4)
        #expect(client.ask(Self.auth("5")) == [.connack(present: false, reason: 0x82)])
        // The time to connect covers all of it, whoever is waited for.
        node.authenticator.offers([.scramSHA256]) { _, messages in messages.count > 1 ? nil : .challenge([]) }
        let silent = TestClient5(node)
        silent.send(Self.connect("anna"))
        let waiting = TestClient5(node)
        waiting.send(Self.connect("anna"), Self.auth("right"))
        node.advance(milliseconds: 4_999)
        #expect(silent.closing == nil && waiting.closing == nil)
        node.advance(milliseconds: 1)
        #expect(silent.closing == .connectTimeout && waiting.closing == .connectTimeout)
        node.authenticator.step(.finished(.accepted(Identity()), []))
        node.settle()
        #expect(node.router.sessionCount == 0)
    }

    /// A challenge that the client does not take ends it; so does a CONNACK.
    @Test func answersFitTheClientsMaximumPacketSize() throws {
        let unlimited = TestClient5(try Self.node())
        unlimited.send(Self.connect("anna"))
        let challenge = unlimited.bytes().count
        unlimited.send(Self.auth("right"))
        let largest = max(challenge, unlimited.bytes().count)
        for size in 5...largest + 2 {
            let client = TestClient5(try Self.node())
            for frame in [Self.connect("anna", [.maximumPacketSize(UInt32(size))]), Self.auth("right")] {
                client.send(frame)
                #expect(client.bytes().count <= size, "\(size)")
            }
            #expect((client.closing == nil) == (size >= largest), "\(size)")
        }
    }

    /// The session of another user stays his.
    @Test func anotherUsersSession() throws {
        let node = try Self.node()
        Self.client(node).send(Frame5.disconnect())
        let owner = TestClient5(node)
        _ = owner.ask(Self.connect("anna", [.sessionExpiry(60)]), Self.auth("right"))
        owner.cut()
        let thief = TestClient5(node)
        #expect(
            thief.ask(Self.connect("bert", clean: false), Self.auth("right")).last
                == .connack(present: false, reason: 0x87))
    }

    // MARK: Again

    @Test func authenticatesAnew() throws {
        let rules = [
            AccessRule(effect: .allow, action: .publish, topics: ["t"], groups: ["g"]),
            AccessRule(effect: .allow, action: .subscribe, topics: ["#"]),
        ]
        let node = try Self.node(rules: rules)
        let client = Self.client(node)
        client.subscribe("t")
        #expect(client.ask(Frame5.publish("t", "1", qos: 1, id: 1)) == [.puback(1, 0x87)])
        // It goes on meanwhile as whoever it was.
        #expect(
            client.ask(Self.auth(0x19, "anna:1000:g"), Frame.pingreq, Frame5.publish("t", "1", qos: 1, id: 1))
                == [.auth(0x18, [Self.scram, Self.data("prove it")]), .pingresp, .puback(1, 0x87)])
        #expect(
            client.ask(Self.auth("right"), Frame5.publish("t", "2", qos: 1, id: 2))
                == [.auth(0, [Self.scram, Self.data("proven")]), .event("t", "2"), .puback(2)])
        // And the lifetime is that of the last proof.
        node.advance(milliseconds: 600)
        #expect(client.ask(Self.auth(0x19, nil)) == [.auth(0x18, [Self.scram])])
        #expect(
            client.ask(Self.auth("anna:1000"), Self.auth("right")).last == .auth(0, [Self.scram, Self.data("proven")]))
        node.advance(milliseconds: 600)
        #expect(client.closing == nil)
        #expect(client.ask(Frame5.publish("t", "3", qos: 1, id: 3)) == [.puback(3, 0x87)], "not in the group any more")
        node.advance(milliseconds: 400)
        #expect(client.closing == .proofEnded)
    }

    /// Another user, a wrong proof and too many messages end the session's connection, with the same words.
    @Test func aFailureEndsTheConnection() throws {
        for frames in [
            [Self.auth(0x19, "bert"), Self.auth("right")], [Self.auth(0x19, ""), Self.auth("right")],
            [Self.auth(0x19, "anna"), Self.auth("wrong")],
        ] {
            let client = Self.client(try Self.node())
            client.send(frames.flatMap { $0 } + Frame.pingreq)
            guard case .disconnect(0x87, let words)? = client.wholeAnswers().last else {
                Issue.record("not ended")
                continue
            }
            #expect(words == [.reasonString("this proof is not accepted")])
            #expect(client.closing == .notAuthenticated)
        }
        for (refusal, code) in [(AuthenticationRefusal.busy, UInt8(0x89)), (.tooManyFailures, 0x9F)] {
            for isLate in [false, true] {
                let node = try Self.node()
                let client = Self.client(node)
                node.authenticator.offers([.scramSHA256]) { _, _ in isLate ? nil : .finished(.refused(refusal), []) }
                client.send(Self.auth(0x19, "anna"))
                node.authenticator.step(.finished(.refused(refusal), []))
                node.settle()
                #expect(client.answers() == [.disconnect(code)])
                #expect(client.closing != nil)
            }
        }
    }

    @Test func authAtTheWrongTimeIsAProtocolError() throws {
        for frames in [
            [Self.auth("right")], [Frame5.auth()], [Self.auth(0, "right")], [Frame5.auth(0x19)],
            [Frame5.auth(0x19, [.authenticationMethod("OAUTHBEARER")])],
            [Self.auth(0x19, "anna"), Self.auth(0x19, "anna")],
            [Self.auth(0x19, "anna"), Self.auth("right"), Self.auth("right")],
        ] {
            let client = Self.client(try Self.node())
            #expect(client.ask(frames.flatMap { $0 } + Frame.pingreq).last == .disconnect(0x82), "\(frames)")
            #expect(client.closing == .protocolError)
        }
        // While its last message is being looked at.
        let node = try Self.node()
        let client = Self.client(node)
        node.authenticator.offers([.scramSHA256]) { _, _ in nil }
        #expect(client.ask(Self.auth(0x19, "anna"), Frame.pingreq) == [.pingresp])
        #expect(client.ask(Self.auth("right")) == [.disconnect(0x82)])
        node.authenticator.step(.finished(.accepted(Identity(user: "anna")), []))
        node.settle()
        #expect(client.answers().isEmpty)
        // A method that is not offered any more.
        let late = Self.client(try Self.node())
        late.node.authenticator.offers([.oauthBearer], Self.script)
        #expect(late.ask(Self.auth(0x19, "anna")) == [.disconnect(0x87)])
        #expect(late.closing == .badAuthenticationMethod)
    }

    /// The lifetime ends while the answer is under way: too late.
    @Test func anAnswerAfterTheEnd() throws {
        let node = try Self.node()
        let client = Self.client(node, "anna:1000")
        node.authenticator.offers([.scramSHA256]) { _, _ in nil }
        client.send(Self.auth(0x19, "anna"))
        node.advance(milliseconds: 1_000)
        #expect(client.answers() == [.disconnect(0x87)])
        node.authenticator.step(.finished(.accepted(Identity(user: "anna")), []))
        node.settle()
        #expect(client.answers().isEmpty)
    }

    // MARK: The end of a proof

    /// A password's or a certificate's lifetime ends the connection as well, beside a keep-alive or without.
    @Test(arguments: [UInt16(0), 2, 60], [false, true]) func ends(keepAlive: UInt16, isVersion5: Bool) throws {
        let node = try TestNode()
        node.authenticator.answers { credentials in
            var identity = Identity(user: credentials.user)
            if credentials.user == "anna" { identity.lifetimeMilliseconds = 10_000 }
            return .accepted(identity)
        }
        let frame =
            isVersion5
            ? Frame5.connect("c", keepAlive: keepAlive, will: .init(), user: "anna")
            : Frame.connect("c", keepAlive: keepAlive, user: "anna")
        let witness = TestClient5(node, "w")
        witness.subscribe("will")
        let client = TestClient5(node)
        client.send(frame)
        for _ in 0..<9 {
            node.advance(milliseconds: 1_000)
            client.send(Frame.pingreq)
        }
        node.advance(milliseconds: 999)
        #expect(client.closing == nil)
        _ = client.bytes()
        node.advance(milliseconds: 1)
        #expect(client.closing == .proofEnded)
        if isVersion5 {
            #expect(
                client.wholeAnswers() == [.disconnect(0x87, [.reasonString("the token or certificate has ended")])])
            #expect(witness.events().count == 1, "that is no normal end")
        } else {
            #expect(client.bytes().isEmpty)
        }
        #expect(witness.closing == nil)
    }

    @Test func lifetimesWithoutEnd() throws {
        for lifetime in [UInt64.max, UInt64.max - 1_000] {
            let node = try TestNode()
            node.authenticator.answers { _ in
                var identity = Identity(user: "anna")
                identity.lifetimeMilliseconds = lifetime
                return .accepted(identity)
            }
            let client = TestClient5(node, "c")
            node.advance(milliseconds: 1_000_000)
            #expect(client.closing == nil)
        }
    }

    // MARK: Who came before

    /// Whom an upgrade request has let in is who the client is, unless it says so itself.
    @Test func whoCameBefore() throws {
        let node = try TestNode()
        node.authenticator.answers {
            $0.user == nil ? .refused(.anonymousNotAllowed) : .accepted(Identity(user: "anna"))
        }
        var identity = Identity(user: "bert")
        identity.lifetimeMilliseconds = 1_000
        for (user, wanted) in [(nil, "bert"), ("anna", "anna")] as [(String?, String)] {
            let client = TestClient5(node)
            client.connection.link.letIn = identity
            client.send(Frame5.connect("c", user: user))
            let session = node.router.session(of: "c").flatMap { node.lanes[0].port(at: $0) as? Inbox }
            #expect(session?.principal.identity.user == wanted)
            node.advance(milliseconds: 1_000)
            #expect(client.closing == (user == nil ? .proofEnded : nil))
            client.send(Frame5.disconnect())
        }
    }
}
