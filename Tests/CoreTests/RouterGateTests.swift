import Testing
import TestSupport

@testable import Core

@Suite("The router is the only gate")
struct RouterGateTests {
    @Test("What a publish comes to, by rule and topic")
    func publish() throws {
        let rules = try AccessRules([
            AccessRule(effect: .deny, action: .publish, topics: ["a/no"]),
            AccessRule(effect: .allow, action: .all, topics: ["a/#", "$SYS/#"]),
        ])
        let field = Field(rules: rules)
        let port = field.recorder()
        try field.subscribe(port, "a/#")
        #expect(field.publish("a/x").verdict == .routed)
        #expect(field.publish("a/no", ["1", "2"]).verdict == .notAuthorized)
        #expect(field.publish("b").verdict == .notAuthorized)
        #expect(field.publish("$SYS/x").verdict == .notAuthorized, "not even where a rule says so")
        #expect(field.publish("a/+").verdict == .malformedTopic)
        #expect(field.publish("").verdict == .malformedTopic)
        #expect(port.topics == ["a/x"])
        #expect(field.dropped(.notAuthorized) == 4)
    }

    @Test("Topics under `$` are the node's, with or without rules")
    func dollar() throws {
        let field = Field()
        let port = field.recorder()
        try field.subscribe(port, "$SYS/#")
        try field.subscribe(port, "#")
        for topic in ["$SYS/x", "$", "$share/g/a", "$local/a"] {
            #expect(field.publish(topic, isRetained: true).verdict == .notAuthorized)
        }
        #expect(field.publish("a/$SYS").verdict == .routed)
        #expect(port.topics == ["a/$SYS"] && field.router.retainedCount == 0)
    }

    @Test("Decisions are remembered by topic and principal, never mixed up")
    func decisions() throws {
        let rules = try AccessRules([AccessRule(effect: .allow, action: .publish, topics: ["dev/${clientid}/#"])])
        let field = Field(rules: rules)
        let principals = (0..<5).map { field.principal(clientID: "c\($0)") }
        var random = Seeded(400)
        for _ in 0..<20_000 {
            let (owner, publisher) = (random.below(5), random.below(5))
            let verdict = field.publish("dev/c\(owner)/\(random.below(100))", as: principals[publisher]).verdict
            if verdict != (owner == publisher ? .routed : .notAuthorized) {
                Issue.record("c\(publisher) in dev/c\(owner): \(verdict), \(random.note)")
            }
        }
    }

    @Test("Reloaded rules judge the next publish and subscribe; what was granted stays")
    func reload() throws {
        let field = Field()
        let port = field.recorder()
        let principal = field.principal()
        #expect(try field.subscribe(port, "a/#", as: principal) == .granted(isNew: true))
        #expect(field.publish("a/x", as: principal).verdict == .routed)
        field.router.reload(try AccessRules([AccessRule(effect: .allow, action: .publish, topics: ["b"])]))
        #expect(field.publish("a/x", as: principal).verdict == .notAuthorized)
        #expect(try field.subscribe(port, "b", as: principal) == .notAuthorized)
        #expect(field.publish("b", as: principal).verdict == .routed)
        field.router.reload(try AccessRules([AccessRule(effect: .allow, action: .all, topics: ["a/x"])]))
        #expect(field.publish("a/x", as: principal).verdict == .routed)
        #expect(field.publish("b", as: principal).verdict == .notAuthorized)
        field.router.reload(.none)
        #expect(field.publish("b", as: principal).verdict == .routed)
        #expect(port.topics == ["a/x", "a/x"])
        #expect(field.all[0].counters.subscriptionsRefused == 1)
    }

    @Test("A publish rate holds within a second, with a burst of one second")
    func quota() {
        var limits = Limits()
        limits.maxPublishRate = 100
        let field = Field(limits: limits)
        let (one, other) = (field.principal(), field.principal(clientID: "other"))
        field.all[0].now = 5_000
        for _ in 0..<100 { #expect(field.publish("a", as: one).verdict == .routed) }
        #expect(field.publish("a", as: one).verdict == .quotaExceeded)
        #expect(field.publish("a", as: other).verdict == .routed, "each has its own")
        field.all[0].now = 5_100
        // A run is taken whole while a token is left; what it leaves is a debt.
        #expect(field.publish("a", Array(repeating: "", count: 15), as: one).verdict == .routed)
        #expect(field.publish("a", as: one).verdict == .quotaExceeded)
        field.all[0].now = 5_150
        #expect(field.publish("a", as: one).verdict == .quotaExceeded, "the debt has just been paid")
        field.all[0].now = 1_000_000
        #expect(field.publish("a", Array(repeating: "", count: 100), as: one).verdict == .routed)
        #expect(field.publish("a", as: one).verdict == .quotaExceeded)
        #expect(field.dropped(.quotaExceeded) == 4)
    }

    @Test("A session has at most as many subscriptions as it may")
    func subscriptionLimit() throws {
        var limits = Limits()
        limits.maxSubscriptionsPerSession = 3
        let field = Field(limits: limits)
        let (port, other) = (field.recorder(), field.recorder())
        for filter in ["a", "b", "$share/g/c"] { #expect(try field.subscribe(port, filter) == .granted(isNew: true)) }
        #expect(try field.subscribe(port, "d") == .overLimit)
        #expect(try field.subscribe(other, "d") == .granted(isNew: true))
        #expect(try field.unsubscribe(port, "b"))
        #expect(try field.subscribe(port, "d") == .granted(isNew: true))
        #expect(field.all[0].counters.subscriptionsRefused == 1)
        #expect(field.router.subscriptions(of: port).map(\.filter.text).sorted() == ["a", "c", "d"])
    }

    @Test("Subscribing again replaces options and identifier")
    func replaces() throws {
        let field = Field()
        let port = field.recorder()
        #expect(try field.subscribe(port, "a/+", .qos(2), identifier: 4) == .granted(isNew: true))
        #expect(try field.subscribe(port, "a/+", .qos(1), identifier: 5) == .granted(isNew: false))
        #expect(try field.subscribe(port, "a/*", .qos(0), grammar: .smf) == .granted(isNew: false))
        field.publish("a/b")
        #expect(port.deliveries.map(\.options) == [.qos(0)] && port.deliveries[0].identifiers == [])
        #expect(field.router.subscriptionCount == 1)
        #expect(try field.unsubscribe(port, "a/+"))
        #expect(try !field.unsubscribe(port, "a/+"))
    }

    @Test("A malformed topic ends the turn; what came before it is routed")
    func malformedMidTurn() throws {
        let field = Field()
        let port = field.recorder()
        try field.subscribe(port, "#")
        let lane = field.all[0]
        let turn = lane.turn
        let text = Array("good+bad".utf8)
        text.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { return }
            for (number, range) in [0..<4, 4..<8, 0..<4].enumerated() {
                turn.events[number] = EventView(payload: base, payloadLength: 1)
                turn.runs[number] = EventRun(
                    topic: base + range.lowerBound, topicLength: range.count, events: turn.events + number, count: 1,
                    wire: base, wireLength: 0, properties: base, propertiesLength: 0, publisher: .none, layout: .none,
                    qos: 0, isRetained: false)
            }
            (turn.runCount, turn.eventCount) = (3, 3)
            turn.principal = field.principal()
            field.router.route(turn, on: lane)
        }
        #expect(turn.outcomes[0].verdict == .routed && turn.outcomes[1].verdict == .malformedTopic)
        #expect(port.topics == ["good"])
    }

    @Test("A will is routed after the turn, by the rights of its principal")
    func deferred() throws {
        let field = Field(rules: try AccessRules([AccessRule(effect: .allow, action: .all, topics: ["ok"])]))
        let port = field.recorder()
        port.keeps = true
        try field.subscribe(port, "ok", .qos(1))
        func event(_ topic: String) -> Event {
            let bytes = Array(topic.utf8)
            return bytes.withUnsafeBytes {
                Event(topic: $0, properties: $0, payload: $0, qos: 1, isRetained: true)
            }
        }
        field.all[0].publishLater(event("ok"), as: field.principal())
        field.all[0].publishLater(event("not"), as: field.principal())
        #expect(port.topics.isEmpty)
        field.all[0].routeDeferred()
        #expect(port.payloads == ["ok"] && port.owned.map(\.text) == ["ok"] && port.runs[0].properties == "ok")
        #expect(field.dropped(.notAuthorized) == 1 && field.router.retainedCount == 1)
    }

    @Test("A client id has one session; the limit refuses new ones")
    func sessions() {
        var limits = Limits()
        limits.maxSessions = 2
        let field = Field(limits: limits)
        let (a, b) = (PortAddress(lane: 0, slot: 1, generation: 1), PortAddress(lane: 1, slot: 1, generation: 1))
        #expect(field.router.claimSession("x", for: a) == .held)
        #expect(field.router.claimSession("x", for: b) == .taken(a))
        #expect(field.router.claimSession("y", for: b) == .held)
        #expect(field.router.claimSession("z", for: a) == .overLimit)
        field.router.releaseSession("x", at: b)
        #expect(field.router.session(of: "x") == a, "only who holds it can give it up")
        field.router.releaseSession("x", at: a)
        #expect(field.router.session(of: "x") == nil && field.router.sessionCount == 1)
    }

    @Test("Replacing a subscription is allowed at the limit")
    func replaceAtLimit() throws {
        var limits = Limits()
        limits.maxSubscriptionsPerSession = 2
        let field = Field(limits: limits)
        let port = field.recorder()
        for filter in ["a", "$share/g/b"] { try field.subscribe(port, filter) }
        #expect(try field.subscribe(port, "a", .qos(2)) == .granted(isNew: false))
        #expect(try field.subscribe(port, "$share/g/b", .qos(1)) == .granted(isNew: false))
        #expect(try field.subscribe(port, "$share/h/b", .qos(1)) == .overLimit)
        #expect(try field.subscribe(port, "c", .qos(2)) == .overLimit)
        field.publish("a")
        #expect(port.deliveries.map(\.options.qos) == [2])
    }

    @Test("The rate granted over time is the rate configured, however the events come", arguments: [7, 19, 33, 250])
    func rateOverTime(_ interval: Int) {
        var limits = Limits()
        limits.maxPublishRate = 100
        let field = Field(limits: limits)
        let principal = field.principal()
        var granted = 0
        for time in stride(from: 0, to: 60_000, by: interval) {
            field.all[0].now = UInt64(10_000 + time)
            while field.publish("a", as: principal).verdict == .routed { granted += 1 }
        }
        #expect((6_000...6_100).contains(granted), "\(granted) in a minute")
    }

    @Test("The latest of `$local/f` and `f` says whether other nodes learn of it")
    func localOnly() throws {
        let field = Field()
        let port = field.recorder()
        try field.subscribe(port, "a/b")
        #expect(try field.subscribe(port, "$local/a/b") == .granted(isNew: false))
        #expect(field.router.subscriptions(of: port).map(\.filter.isLocalOnly) == [true])
        try field.subscribe(port, "a/b")
        #expect(field.router.subscriptions(of: port).map(\.filter.isLocalOnly) == [false])
    }

    @Test("A port may keep direct events: each turn's are its own", arguments: [0, 1] as [UInt8])
    func keptEvents(_ qos: UInt8) throws {
        let field = Field()
        let ports = [field.recorder(), field.recorder()]
        for port in ports {
            port.keeps = true
            try field.subscribe(port, "t", .qos(1))
            try field.subscribe(port, "$share/g/t", .qos(1))
        }
        for turn in 0..<3 { field.publish("t", ["\(turn)a", "\(turn)b"], qos: qos) }
        for port in ports { #expect(port.owned.map(\.text) == port.payloads) }
        #expect(ports.flatMap(\.payloads).count == 18)
    }

    @Test("More identifiers for one event than can be counted do no harm")
    func manyIdentifiers() throws {
        let field = Field()
        let port = field.recorder()
        let principal = field.principal()
        let levels = 17
        // Every choice of `+` or the literal at each level: 131,072 filters that all match.
        for number in 0..<66_000 {
            let filter = (0..<levels).map { number >> $0 & 1 == 0 ? "+" : "l" }.joined(separator: "/")
            try field.subscribe(port, filter, identifier: UInt32(number + 1), as: principal)
        }
        let outcome = field.publish(Array(repeating: "l", count: levels).joined(separator: "/"), as: principal)
        #expect(outcome.matched == 66_000)
        #expect(port.deliveries.map(\.identifiers.count) == [65_535])
    }
}
