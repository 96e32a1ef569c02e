import Core
import Synchronization
import Testing

/// Classes of faults that brokers have had, each with what this one does. See `docs/security.md`.
@Suite struct AccessClassTests {
    private static let rules = [
        AccessRule(effect: .deny, action: .retain, topics: ["dev/#"]),
        AccessRule(effect: .allow, action: .all, topics: ["dev/${clientid}/#"]),
        AccessRule(effect: .allow, action: .subscribe, topics: ["all/#"], groups: ["readers"]),
        AccessRule(effect: .allow, action: .subscribe, topics: ["all/open"]),
        AccessRule(effect: .allow, action: .publish, topics: ["all/#"], users: ["publisher"]),
        AccessRule(effect: .allow, action: .subscribe, topics: ["$SYS/audit/#"], groups: ["auditors"]),
    ]

    /// A node where the user `anna` has the groups that a test says.
    private func node(
        lanes: Int = 1, _ rules: [AccessRule] = Self.rules, broad: BroadSubscriptions = .refuse
    ) throws -> TestNode {
        let node = try TestNode(lanes: lanes, rules: rules)
        node.router.reload(try AccessRules(rules, broadSubscriptions: broad))
        return node
    }

    private func groups(_ groups: [String], on node: TestNode) {
        node.authenticator.answers { .accepted(Identity(user: $0.user, groups: $0.user == "anna" ? groups : [])) }
    }

    // MARK: Will of a refused topic

    @Test(arguments: ["all/open", "dev/other/x", "$SYS/x", "dev/c"])
    func willOfARefusedTopic(_ topic: String) throws {
        let node = try node()
        // Its own topic is refused because of the retain flag.
        let isRetained = topic == "dev/c"
        let older = TestClient(node)
        #expect(
            older.ask(Frame.connect("c", will: Frame.Will(topic: topic, isRetained: isRetained)))
                == [.connack(present: false, code: 5)])
        #expect(older.closing == .notAuthenticated)
        let newer = TestClient5(node)
        #expect(
            newer.ask(Frame5.connect("c", will: Frame5.Will(topic: topic, isRetained: isRetained)))
                == [.connack(present: false, reason: 0x87)])
        #expect(node.dropped(.notAuthorized) == 2 && node.router.sessionCount == 0)
        #expect(node.router.retainedCount == 0)
    }

    /// Rules may change between CONNECT and the connection's end.
    @Test func willThatIsRefusedLater() throws {
        let node = try TestNode()
        let witness = TestClient(node, "w")
        witness.subscribe("#", qos: 0)
        let client = TestClient(node, "c", will: Frame.Will(topic: "x", isRetained: true))
        node.router.reload(try AccessRules([AccessRule(effect: .allow, action: .subscribe, topics: ["#"])]))
        client.cut()
        #expect(witness.answers().isEmpty)
        #expect(node.dropped(.notAuthorized) == 1 && node.router.retainedCount == 0)
    }

    // MARK: Retained past the rule

    @Test func retainedPastTheRule() throws {
        let node = try node(broad: .filter)
        let publisher = TestClient(node, "p", user: "publisher")
        for topic in ["all/open", "all/closed"] {
            publisher.send(Frame.publish(topic, "1", qos: 1, id: 1, retain: true))
        }
        #expect(node.router.retainedCount == 2)
        let client = TestClient(node, "c")
        #expect(client.ask(Frame.subscribe(1, [("all/closed", 1)])) == [.suback(1, [0x80])])
        let answers = client.ask(Frame.subscribe(2, [("all/#", 0), ("#", 0)]))
        #expect(answers.first == .suback(2, [0, 0]))
        #expect(answers.dropFirst().allSatisfy { $0 == .event("all/open", "1", retain: true) } && answers.count == 3)
        client.send(Frame.publish("dev/c/state", "x", retain: true))
        #expect(node.router.retainedCount == 2, "publishing there is allowed, keeping is not")
        client.send(Frame.publish("dev/c/state", "x"))
        #expect(client.answers() == [.event("dev/c/state", "x")])
    }

    // MARK: Wildcard past the rule

    @Test func wildcardPastTheRule() throws {
        let node = try node()
        let client = TestClient5(node, "c")
        let filters = ["#", "+/c/#", "dev/#", "dev/+/x", "all/+", "$share/g/all/#", "dev/c/#", "$share/g/dev/c/x"]
        let refused: [UInt8] = [0x87, 0x87, 0x87, 0x87, 0x87, 0x87, 0, 0]
        for (filter, code) in zip(filters, refused) {
            #expect(client.ask(Frame5.subscribe(1, [.init(filter)])) == [.suback(1, [code])], "\(filter)")
        }
        #expect(node.counters.subscriptionsRefused == 6)
    }

    @Test func wildcardPastTheRuleFiltered() throws {
        let node = try node(lanes: 2, broad: .filter)
        let clients = (0..<2).map { TestClient(node, "c\($0)", lane: $0) }
        for client in clients { #expect(client.ask(Frame.subscribe(1, [("#", 1)])) == [.suback(1, [1])]) }
        let publisher = TestClient(node, "p", user: "publisher")
        publisher.send(
            Frame.publish("all/open", "1"), Frame.publish("all/closed", "2"),
            Frame.publish("all/closed", "3", qos: 1, id: 1))
        node.settle()
        _ = TestClient(node, "c0x")
        clients[1].send(Frame.publish("dev/c1/x", "4"))
        node.settle()
        #expect(clients[0].answers() == [.event("all/open", "1")])
        #expect(clients[1].answers() == [.event("all/open", "1"), .event("dev/c1/x", "4")])
        #expect(node.dropped(.notReadable) == 2 + 2 + 1)
        #expect(clients[0].ask(Frame.subscribe(1, [("$share/g/#", 1)])) == [.suback(1, [0x80])])
    }

    // MARK: $SYS for a plain user

    @Test func sysForAPlainUser() throws {
        let node = try node(broad: .filter)
        groups(["auditors"], on: node)
        let (plain, auditor) = (TestClient(node, "c", user: "bert"), TestClient(node, "a", user: "anna"))
        for filter in ["$SYS/#", "$SYS/audit/#", "$SYS/audit/access", "$SYS/+/access"] {
            #expect(plain.ask(Frame.subscribe(1, [(filter, 0)])) == [.suback(1, [0x80])], "\(filter)")
        }
        #expect(auditor.ask(Frame.subscribe(1, [("$SYS/audit/#", 0)])) == [.suback(1, [0])])
        // What begins with a wildcard stands for none of the node's topics, whatever the rules allow.
        #expect(plain.ask(Frame.subscribe(1, [("#", 0)])) == [.suback(1, [0])])
        auditor.send(Frame.publish("$SYS/audit/access", "forged"))
        let lane = node.lanes[0]
        lane.publishLater(
            Array("$SYS/audit/access".utf8).withUnsafeBytes { topic in
                Event(
                    topic: topic, properties: UnsafeRawBufferPointer(start: nil, count: 0),
                    payload: UnsafeRawBufferPointer(start: nil, count: 0), qos: 0, isRetained: false, expiresAt: 0)
            }, as: .node(node.router))
        lane.routeDeferred()
        lane.pass()
        #expect(auditor.answers() == [.event("$SYS/audit/access", "")])
        #expect(plain.answers().isEmpty)
    }

    // MARK: Another user's session

    /// Neither somebody else, nor nobody, nor somebody instead of nobody; wherever the connection comes in.
    @Test(arguments: [(owner: "anna" as String?, thief: "bert" as String?), ("anna", nil), (nil, "anna"), ("anna", "")])
    func anotherUsersSession(owner: String?, thief: String?) throws {
        let node = try TestNode(lanes: 2)
        let first = TestClient(node, "c", clean: false, user: owner)
        first.subscribe("mine", qos: 1)
        for lane in [0, 1] {
            for clean in [true, false] {
                let other = TestClient(node, lane: lane)
                #expect(
                    other.ask(Frame.connect("c", clean: clean, user: thief)) == [.connack(present: false, code: 5)])
            }
        }
        #expect(first.closing == nil)
        first.cut()
        TestClient(node, "p").send(Frame.publish("mine", "secret", qos: 1, id: 1))
        for lane in [0, 1] {
            let other = TestClient(node, lane: lane)
            #expect(other.ask(Frame.connect("c", clean: false, user: thief)) == [.connack(present: false, code: 5)])
        }
        let back = TestClient(node, "c", clean: false, user: owner)
        #expect(back.isSessionPresent && back.returned == [.event("mine", "secret", qos: 1, id: 1)])
    }

    // MARK: A session under changed rules

    /// The user is the same, but not its rights: neither live events nor those that waited come through.
    @Test(arguments: [0, 1]) func takenUpAgainWithFewerRights(_ lane: Int) throws {
        let node = try node(lanes: 2)
        groups(["readers"], on: node)
        let client = TestClient(node, "c", clean: false, user: "anna")
        #expect(client.ask(Frame.subscribe(1, [("all/#", 1), ("all/open", 1)])) == [.suback(1, [1, 1])])
        client.cut()
        let publisher = TestClient(node, "p", user: "publisher")
        func publish(_ payload: String) {
            for topic in ["all/closed", "all/open"] { publisher.send(Frame.publish(topic, payload, qos: 1, id: 1)) }
            node.settle()
        }
        publish("1")
        groups([], on: node)
        let back = TestClient(node, "c", clean: false, lane: lane, user: "anna")
        #expect(back.isSessionPresent)
        publish("2")
        let events = back.returned + back.answers()
        #expect(events == [.event("all/open", "1", qos: 1, id: 1), .event("all/open", "2", qos: 1, id: 2)])
        #expect(node.router.subscriptionCount == 1, "the broader one has ended")
    }

    @Test func rulesThatChangeWhileNobodyIsThere() throws {
        let node = try node()
        groups(["readers"], on: node)
        let client = TestClient(node, "c", clean: false, user: "anna")
        #expect(client.ask(Frame.subscribe(1, [("all/#", 1)])) == [.suback(1, [1])])
        client.cut()
        let publisher = TestClient(node, "p", user: "publisher")
        publisher.send(Frame.publish("all/closed", "1", qos: 1, id: 1))
        node.router.reload(
            try AccessRules([
                AccessRule(effect: .allow, action: .publish, topics: ["#"]),
                AccessRule(effect: .allow, action: .subscribe, topics: ["all/open"]),
            ]))
        publisher.send(Frame.publish("all/closed", "2", qos: 1, id: 1))
        node.settle()
        #expect(node.router.subscriptionCount == 0)
        let back = TestClient(node, "c", clean: false, user: "anna")
        #expect(back.isSessionPresent && back.returned.isEmpty && back.answers().isEmpty)
        #expect(node.dropped(.notReadable) == 2)
    }

    /// What was sent and not acknowledged is sent again only to a client that may still read it.
    @Test(arguments: [false, true]) func sentAgainWithFewerRights(_ isReloaded: Bool) throws {
        let node = try node()
        groups(["readers"], on: node)
        let client = TestClient(node, "c", clean: false, user: "anna")
        #expect(client.ask(Frame.subscribe(1, [("all/#", 1)])) == [.suback(1, [1])])
        let publisher = TestClient(node, "p", user: "publisher")
        for topic in ["all/closed", "all/open"] { publisher.send(Frame.publish(topic, "1", qos: 1, id: 1)) }
        #expect(client.answers().count == 2, "neither is acknowledged")
        client.cut()
        if isReloaded {
            node.router.reload(
                try AccessRules([AccessRule(effect: .allow, action: .subscribe, topics: ["all/open"])]))
            node.settle()
        } else {
            groups([], on: node)
        }
        let back = TestClient(node, "c", clean: false, user: "anna")
        #expect(back.isSessionPresent)
        #expect(back.returned == [.event("all/open", "1", qos: 1, id: 2, dup: true)])
        #expect(node.dropped(.notReadable) == 1)
        back.send(Frame.puback(1), Frame.puback(2))
        #expect(back.closing == nil)
    }

    /// What waits is judged even if nothing is subscribed to any more.
    @Test(arguments: [false, true]) func whatWaitsWithoutASubscription(_ isReloaded: Bool) throws {
        var limits = Limits()
        limits.maxInFlight = 1
        let node = try TestNode(limits: limits, rules: Self.rules)
        groups(["readers"], on: node)
        let client = TestClient(node, "c", clean: false, user: "anna")
        #expect(client.ask(Frame.subscribe(1, [("all/#", 1)])) == [.suback(1, [1])])
        let publisher = TestClient(node, "p", user: "publisher")
        for topic in ["all/open", "all/closed"] { publisher.send(Frame.publish(topic, "1", qos: 1, id: 1)) }
        client.send(Frame.unsubscribe(2, ["all/#"]))
        client.cut()
        if isReloaded {
            node.router.reload(
                try AccessRules([AccessRule(effect: .allow, action: .subscribe, topics: ["all/open"])]))
            node.settle()
        } else {
            groups([], on: node)
        }
        let back = TestClient(node, "c", clean: false, user: "anna")
        #expect(back.isSessionPresent)
        back.send(Frame.puback(1))
        let events = back.returned + back.answers()
        #expect(events == [.event("all/open", "1", qos: 1, id: 1, dup: true)])
        #expect(node.dropped(.notReadable) == 1)
    }

    // MARK: A session that another user left behind

    /// Stands for a mesh: brings the session that somebody else has begun under the same client id elsewhere, while
    /// this node did not hear of it.
    private final class Bringer: SessionMover {
        let outline: [UInt8]
        let contents: [UInt8]
        private let router: Router
        private let count = Atomic<Int>(0)
        /// How often a client id was free for somebody else on another lane.
        var stolen: Int { count.load(ordering: .relaxed) }

        init(outline: [UInt8], contents: [UInt8], _ router: Router) {
            (self.outline, self.contents, self.router) = (outline, contents, router)
        }

        func claim(_ claim: SessionClaim, on lane: Lane, answer: (@Sendable (SessionClaimAnswer) -> Void)?) {
            guard let router = (lane as? TestLane)?.node?.router else { return }
            if let known = router.session(of: claim.clientID).flatMap({ lane.port(at: $0) as? Inbox }) {
                _ = known.surrender(.superseded, to: nil, on: lane)
            }
            let made = claim.maker.makeSession(claim, outline: outline, in: router, on: lane)
            #expect(made?.unpackContents(contents, on: lane) == true)
            answer?(.proceed)
        }

        func sessionEnded(_ clientID: String) {
            let elsewhere = PortAddress(lane: 1, slot: 1, generation: 1)
            if router.claimSession(clientID, for: elsewhere) == .held { count.add(1, ordering: .relaxed) }
        }
    }

    @Test(arguments: ["anna", "bert"]) func sessionThatAnotherUserLeftBehind(_ newcomer: String) throws {
        let (here, elsewhere) = (try TestNode(), try TestNode())
        for (node, user, topic) in [(here, "anna", "annas"), (elsewhere, newcomer, "theirs")] {
            let client = TestClient(node, "c", clean: false, user: user)
            client.subscribe(topic, qos: 1)
            client.cut()
            TestClient(node, "p").send(Frame.publish(topic, "1", qos: 1, id: 1))
        }
        let lane = elsewhere.lanes[0]
        let session = try #require(elsewhere.router.session(of: "c").flatMap { lane.port(at: $0) as? Inbox })
        guard case .outline(let outline) = session.surrender(.move, to: newcomer, on: lane) else {
            Issue.record("the session does not move")
            return
        }
        let contents = try #require(session.packContents(on: lane))
        let bringer = Bringer(outline: outline, contents: contents, here.router)
        here.router.attach(bringer, identityBase: 1)
        let client = TestClient(here, "c", clean: false, user: newcomer)
        here.settle()
        let topics = (client.returned + client.answers()).compactMap { answer -> String? in
            if case .publish(let event) = answer { event.topic } else { nil }
        }
        #expect(topics == (newcomer == "anna" ? ["annas", "theirs"] : ["theirs"]))
        #expect(bringer.stolen == 0, "the client id was never without a session")
    }
}
