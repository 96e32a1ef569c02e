import Core
import Testing

/// Who is let in, and when connections end by themselves.
@Suite struct ConnectTests {
    @Test(arguments: [UInt8(6), 7, 127, 255]) func laterVersionsAreToldSo(level: UInt8) throws {
        let client = TestClient(try TestNode())
        #expect(client.ask(Frame.connect("c", level: level)) == [.other([0x20, 3, 0, 0x84, 0])])
        #expect(client.closing == .unsupportedVersion)
    }

    @Test(arguments: [UInt8(0), 1, 2, 0x84]) func otherVersionsAreToldSo(level: UInt8) throws {
        let client = TestClient(try TestNode())
        #expect(client.ask(Frame.connect("c", level: level)) == [.connack(present: false, code: 1)])
        #expect(client.closing == .unsupportedVersion)
    }

    @Test func version31WithAnotherLevel() throws {
        let client = TestClient(try TestNode())
        #expect(client.ask(Frame.connect("c", name: "MQIsdp", level: 4)) == [.connack(present: false, code: 1)])
        let good = TestClient(try TestNode())
        #expect(good.ask(Frame.connect("c", name: "MQIsdp", level: 3)) == [.connack(present: false, code: 0)])
    }

    @Test func emptyClientID() throws {
        let node = try TestNode()
        let refused = TestClient(node)
        #expect(refused.ask(Frame.connect("", clean: false)) == [.connack(present: false, code: 2)])
        #expect(refused.closing == .badClientID)
        let first = TestClient(node, "")
        let second = TestClient(node, "")
        #expect(node.router.sessionCount == 2)
        #expect(first.closing == nil && second.closing == nil)
    }

    @Test func longClientID() throws {
        let node = try TestNode()
        let name = String(repeating: "ж", count: 30_000)
        let client = TestClient(node, name)
        #expect(client.closing == nil)
        #expect(node.router.session(of: name) != nil)
    }

    // MARK: Credentials

    @Test(arguments: [
        (AuthenticationRefusal.badCredentials, UInt8(4), CloseReason.notAuthenticated),
        (.anonymousNotAllowed, 5, .notAuthenticated), (.busy, 3, .overLimit),
    ])
    func refused(refusal: AuthenticationRefusal, code: UInt8, reason: CloseReason) throws {
        for isDeferred in [false, true] {
            let node = try TestNode()
            node.authenticator.answers { _ in isDeferred ? nil : .refused(refusal) }
            let client = TestClient(node)
            client.send(Frame.connect("c", user: "u", password: "p"), Frame.publish("a", "x"))
            if isDeferred {
                #expect(client.answers().isEmpty)
                node.authenticator.answer(.refused(refusal))
                node.settle()
            }
            #expect(client.answers() == [.connack(present: false, code: code)])
            #expect(client.closing == reason)
            #expect(node.router.sessionCount == 0)
        }
    }

    @Test func unknownNamespace() throws {
        let node = try TestNode()
        node.authenticator.answers { _ in .accepted(Identity(namespace: "elsewhere")) }
        let client = TestClient(node)
        #expect(client.ask(Frame.connect("c")) == [.connack(present: false, code: 3)])
        #expect(client.closing == .notAuthenticated)
    }

    @Test func credentialsArrive() throws {
        let node = try TestNode()
        node.authenticator.answers { credentials in
            let isRight =
                credentials.user == "ü" && credentials.password == Array("geheim".utf8)
                && credentials.clientID == "c" && credentials.isLocal
            return isRight ? .accepted(Identity(user: "ü")) : .refused(.badCredentials)
        }
        let client = TestClient(node)
        #expect(client.ask(Frame.connect("c", user: "ü", password: "geheim")) == [.connack(present: false, code: 0)])
    }

    /// What follows CONNECT waits for the answer, and is then taken in order.
    @Test func bytesBehindConnectWait() throws {
        let node = try TestNode()
        let witness = TestClient(node, "w")
        witness.subscribe("#", qos: 1)
        node.authenticator.answers { _ in nil }
        let client = TestClient(node)
        client.send(
            Frame.connect("c"), Frame.subscribe(1, [("own", 0)]), Frame.publish("own", "1", qos: 1, id: 1), [0x30])
        client.send(Array(Frame.publish("own", "2").dropFirst()), Frame.pingreq)
        #expect(client.answers().isEmpty)
        #expect(witness.answers().isEmpty)
        #expect(node.router.sessionCount == 1, "the witness alone")
        node.authenticator.answer(.accepted(Identity()))
        node.settle()
        let answers = client.answers()
        #expect(answers.contains(.pingresp))
        #expect(
            answers.filter { $0 != .pingresp } == [
                .connack(present: false, code: 0), .suback(1, [0]), .event("own", "1"), .event("own", "2"), .puback(1),
            ])
        #expect(witness.events().map(\.text) == ["1", "2"])
    }

    @Test func secondConnectBehindTheFirst() throws {
        let node = try TestNode()
        node.authenticator.answers { _ in nil }
        let client = TestClient(node)
        client.send(Frame.connect("c"), Frame.connect("c"))
        node.authenticator.answer(.accepted(Identity()))
        node.settle()
        #expect(client.answers() == [.connack(present: false, code: 0)])
        #expect(client.closing == .protocolError)
    }

    @Test func answerAfterTheConnectionHasGone() throws {
        let node = try TestNode()
        node.authenticator.answers { _ in nil }
        let client = TestClient(node)
        client.send(Frame.connect("c", will: Frame.Will()))
        client.cut()
        node.authenticator.answer(.accepted(Identity()))
        node.settle()
        #expect(client.answers().isEmpty)
        #expect(node.router.sessionCount == 0)
    }

    // MARK: Time

    @Test(arguments: [[], [0x10], Array(Frame.connect("c").dropLast())]) func connectTimeout(_ bytes: [UInt8]) throws {
        let node = try TestNode()
        let client = TestClient(node)
        client.send(bytes)
        node.advance(milliseconds: 4_999)
        #expect(client.closing == nil)
        node.advance(milliseconds: 1)
        #expect(client.closing == .connectTimeout)
        #expect(client.answers().isEmpty)
    }

    @Test func connectTimeoutWhileCredentialsAreChecked() throws {
        let node = try TestNode()
        node.authenticator.answers { _ in nil }
        let client = TestClient(node)
        client.send(Frame.connect("c"))
        node.advance(milliseconds: 5_000)
        #expect(client.closing == .connectTimeout)
        node.authenticator.answer(.accepted(Identity()))
        node.settle()
        #expect(node.router.sessionCount == 0)
    }

    @Test func noTimeoutAfterConnect() throws {
        let node = try TestNode()
        let client = TestClient(node, "c")
        node.advance(milliseconds: 1_000_000_000)
        #expect(client.closing == nil)
    }

    @Test func keepAlive() throws {
        let node = try TestNode()
        let client = TestClient(node, "c", keepAlive: 10)
        node.advance(milliseconds: 14_000)
        #expect(client.ask(Frame.pingreq) == [.pingresp])
        node.advance(milliseconds: 1_000)
        #expect(client.closing == nil, "heard a second ago")
        node.advance(milliseconds: 13_999)
        #expect(client.closing == nil, "a millisecond is left")
        node.advance(milliseconds: 1)
        #expect(client.closing == .keepAliveTimeout)
    }

    @Test func anyByteKeepsAlive() throws {
        let node = try TestNode()
        let client = TestClient(node, "c", keepAlive: 1)
        for byte in Frame.publish("a", "slowly") {
            node.advance(milliseconds: 1_400)
            client.send([byte])
        }
        #expect(client.closing == nil)
    }

    // MARK: Takeover

    @Test(arguments: [false, true], [false, true]) func takeover(oldClean: Bool, newClean: Bool) throws {
        let node = try TestNode()
        let old = TestClient(node, "c", clean: oldClean)
        old.subscribe("a", qos: 1)
        let new = TestClient(node, "c", clean: newClean)
        #expect(old.closing == .takenOver)
        #expect(new.closing == nil)
        #expect(new.isSessionPresent == (!oldClean && !newClean))
        #expect(node.router.sessionCount == 1)
        let sender = TestClient(node, "s")
        sender.send(Frame.publish("a", "x", qos: 1, id: 1))
        #expect(old.answers().isEmpty)
        #expect(new.events().count == (!oldClean && !newClean ? 1 : 0))
        old.cut()
        sender.send(Frame.publish("a", "y", qos: 1, id: 2))
        #expect(new.events().count == (!oldClean && !newClean ? 1 : 0), "the old one's end takes nothing along")
    }

    /// The connection taken over has bytes on their way: they are not taken any more.
    @Test func nothingFromTheOldConnection() throws {
        let node = try TestNode()
        let witness = TestClient(node, "w")
        witness.subscribe("#")
        let old = TestClient(node, "c")
        old.send([0x30, 20, 0, 1])
        _ = TestClient(node, "c")
        old.send(Array("a and then the rest.".utf8))
        #expect(witness.answers().isEmpty)
        #expect(old.answers().isEmpty)
    }

    @Test func anotherUserCannotTakeOver() throws {
        for lane in [0, 1] {
            let node = try TestNode(lanes: 2)
            let owner = TestClient(node, "c", clean: false, user: "anna")
            owner.subscribe("a", qos: 1)
            for user in ["bert", nil] {
                for clean in [false, true] {
                    let thief = TestClient(node, lane: lane)
                    let answers = thief.ask(Frame.connect("c", clean: clean, will: Frame.Will(topic: "a"), user: user))
                    #expect(answers == [.connack(present: false, code: 5)])
                    #expect(thief.closing == .notAuthenticated)
                }
            }
            #expect(owner.closing == nil)
            #expect(owner.answers().isEmpty, "and no will of somebody who was never in")
            owner.cut()
            let thief = TestClient(node, lane: lane)
            #expect(thief.ask(Frame.connect("c", user: "bert")) == [.connack(present: false, code: 5)])
            #expect(TestClient(node, "c", clean: false, lane: lane, user: "anna").isSessionPresent)
        }
    }

    @Test func sessionLimit() throws {
        var limits = Limits()
        limits.maxSessions = 2
        let node = try TestNode(limits: limits)
        let first = TestClient(node, "1")
        let second = TestClient(node, "2", clean: false)
        second.cut()
        let third = TestClient(node)
        #expect(third.ask(Frame.connect("3")) == [.connack(present: false, code: 3)])
        #expect(third.closing == .overLimit)
        #expect(TestClient(node, "2", clean: false).isSessionPresent)
        first.cut()
        #expect(TestClient(node, "3").closing == nil)
    }
}
