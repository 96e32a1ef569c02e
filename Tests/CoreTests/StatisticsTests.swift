import Testing

@testable import Core

/// What lanes count about themselves: traffic, queues, passes, latencies.
@Suite struct StatisticsTests {
    @Test func trafficIsKeptByProtocolAndQoS() {
        let lane = Field().all[0]
        let mqtt = lane.traffic(of: "mqtt")
        #expect(lane.traffic(of: "mqtt") === mqtt)
        mqtt.counter.received(3, bytes: 30, qos: 0)
        mqtt.counter.received(1, bytes: 7, qos: 2)
        mqtt.counter.sent(5, bytes: 50, qos: 1)
        mqtt.connections = 2
        lane.traffic(of: "amqp").counter.sent(1, bytes: 9, qos: 0)
        let statistics = lane.statistics()
        #expect(statistics.traffic.map(\.protocolName) == ["mqtt", "amqp"])
        #expect(statistics.traffic[0].eventsIn == [3, 0, 1] && statistics.traffic[0].bytesIn == [30, 0, 7])
        #expect(statistics.traffic[0].eventsOut == [0, 5, 0] && statistics.traffic[0].bytesOut == [0, 50, 0])
        #expect(statistics.traffic[1].eventsOut == [1, 0, 0] && statistics.traffic[1].bytesOut == [9, 0, 0])
        #expect(statistics.connections == 2)
        var sum = statistics.traffic[0]
        sum.add(statistics.traffic[1])
        #expect(sum.eventsOut == [1, 5, 0] && sum.connections == 2)
    }

    @Test func aQoSThatDoesNotExistHarmsNobody() {
        let traffic = Field().all[0].traffic(of: "mqtt")
        traffic.counter.received(1, bytes: 1, qos: 255)
        #expect(traffic.statistics.eventsIn == [0, 0, 0] && traffic.statistics.bytesIn == [0, 0, 0])
        #expect(traffic.statistics.eventsOut == [0, 0, 0] && traffic.statistics.bytesOut == [0, 0, 0])
    }

    // MARK: Queues

    private func event(_ payload: String) -> Event {
        Array("t".utf8).withUnsafeBytes { topic in
            Array(payload.utf8).withUnsafeBytes { payload in
                Event(
                    topic: topic, properties: UnsafeRawBufferPointer(start: nil, count: 0), payload: payload, qos: 1,
                    isRetained: false)
            }
        }
    }

    private func entry(_ payload: String) -> EventQueue.Entry {
        EventQueue.Entry(event: event(payload), qos: 1, isRetained: false)
    }

    /// The lane's sums are what a walk over its inboxes finds.
    private func check(_ lane: Lane, _ inboxes: [Inbox], _ what: Comment) {
        #expect(lane.queuedEvents == inboxes.reduce(0) { $0 + $1.waiting.count }, what)
        #expect(lane.queuedBytes == inboxes.reduce(0) { $0 + $1.waiting.bytes }, what)
    }

    @Test(arguments: [Limits.QueueFull.dropNewest, .dropOldest])
    func queuesAreSummedAsTheyChange(policy: Limits.QueueFull) {
        var limits = Limits()
        limits.maxQueuedEvents = 3
        limits.queueFull = policy
        let field = Field(limits: limits)
        let lane = field.all[0]
        let inboxes = (0..<2).map { Inbox(principal: field.principal(clientID: "\($0)")) }
        for inbox in inboxes { field.router.register(inbox, on: lane) }
        for number in 0..<5 {
            _ = inboxes[0].wait(entry("event \(number)"), on: lane)
            check(lane, inboxes, "one waits, or makes room")
        }
        #expect(lane.queuedEvents == 3 && lane.counters.dropped[DropReason.queueFull.rawValue] == 2)
        _ = inboxes[1].wait(entry("another"), on: lane)
        check(lane, inboxes, "of two inboxes")
        _ = inboxes[0].nextWaiting(on: lane)
        check(lane, inboxes, "one leaves")
        let taken = inboxes[0].takeWaiting(on: lane)
        check(lane, inboxes, "all leave")
        inboxes[0].putBack(taken, on: lane)
        check(lane, inboxes, "and come back")
        #expect(lane.statistics().queuedEvents == 3)
        field.router.unregister(inboxes[0], on: lane)
        check(lane, [inboxes[1]], "an inbox that has ended is not counted")
        _ = inboxes[0].takeWaiting(on: lane)
        check(lane, [inboxes[1]], "nor when it gives away what it had")
        field.router.unregister(inboxes[1], on: lane)
        #expect(lane.queuedEvents == 0 && lane.queuedBytes == 0 && lane.statistics().ports == 0)
    }

    @Test func eventsThatExpireInAQueueLeaveItsSum() {
        let field = Field()
        let lane = field.all[0]
        let inbox = Inbox(principal: field.principal())
        field.router.register(inbox, on: lane)
        let old = Array("t".utf8).withUnsafeBytes {
            Event(topic: $0, properties: $0, payload: $0, qos: 1, isRetained: false, expiresAt: 5)
        }
        _ = inbox.wait(EventQueue.Entry(event: old, qos: 1, isRetained: false), on: lane)
        lane.now = 6
        #expect(inbox.nextWaiting(on: lane) == nil)
        #expect(lane.queuedEvents == 0 && lane.queuedBytes == 0)
        #expect(lane.counters.dropped[DropReason.expired.rawValue] == 1)
    }

    // MARK: Passes and latencies

    @Test func bucketsHoldTheirBounds() {
        #expect(LatencyStatistics.bounds.count == 18)
        #expect(LatencyStatistics.bounds[0] == 8_000 && LatencyStatistics.bounds[17] == 1_048_576_000)
        #expect(LatencyStatistics.bucket(0) == 0)
        for (index, bound) in LatencyStatistics.bounds.enumerated() {
            #expect(LatencyStatistics.bucket(bound - 1) == index)
            #expect(LatencyStatistics.bucket(bound) == index)
            #expect(LatencyStatistics.bucket(bound + 1) == index + 1)
        }
        #expect(LatencyStatistics.bucket(.max) == 18)
    }

    @Test func aPassIsOneEntryForAllItsEvents() {
        let lane = Field().all[0]
        lane.beginPass(at: 1_000_000_000)
        #expect(lane.now == 1_000)
        lane.counters.eventsOut += 40
        lane.endPass(at: 1_000_020_000)
        // A pass that sends nothing is time, but no latency.
        lane.beginPass(at: 1_000_120_000)
        lane.endPass(at: 1_000_121_000)
        let statistics = lane.statistics()
        #expect(statistics.passes.count == 2)
        #expect(statistics.passes.busyNanoseconds == 21_000 && statistics.passes.idleNanoseconds == 100_000)
        #expect(statistics.latency.count == 40 && statistics.latency.sumNanoseconds == 40 * 20_000)
        #expect(statistics.latency.counts[2] == 40, "20 µs is above 16 and at most 32")
    }

    /// A port that writes what it is given.
    private final class Writer: Port {
        override func deliver(
            _ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane
        ) -> Int {
            lane.counters.eventsOut &+= UInt64(run.pointee.count)
            return 0
        }
    }

    @Test func latencyAcrossLanesBeginsWithTheRead() throws {
        let field = Field(lanes: 2)
        for lane in field.all {
            let port = Writer()
            field.router.register(port, on: lane)
            let filter = try TopicFilter("t", grammar: .mqtt)
            _ = field.router.subscribe(
                port, Subscription(filter: filter, options: .qos(0)), as: field.principal(), on: lane)
        }
        field.all[0].beginPass(at: 1_000_000)
        field.publish("t", ["a", "b"], on: 0)
        field.all[0].postMail()
        field.all[0].endPass(at: 1_004_000)
        // A second pass of the sender before the receiver has looked: each block has its own beginning.
        field.all[0].beginPass(at: 2_000_000)
        field.publish("t", ["c"], on: 0)
        field.all[0].postMail()
        field.all[0].endPass(at: 2_004_000)
        // The receiver's pass also delivers an event that it has read itself.
        field.all[1].beginPass(at: 2_050_000)
        field.publish("t", ["d"], on: 1)
        field.all[1].readMail()
        field.all[1].endPass(at: 2_060_000)
        let sender = field.all[0].statistics().latency
        #expect(sender.count == 3 && sender.counts[0] == 3 && sender.sumNanoseconds == 12_000)
        let receiver = field.all[1].statistics().latency
        #expect(receiver.count == 4)
        #expect(receiver.sumNanoseconds == 2 * 1_060_000 + 60_000 + 10_000)
        #expect(receiver.counts[LatencyStatistics.bucket(1_060_000)] == 2)
        #expect(receiver.counts[LatencyStatistics.bucket(60_000)] == 1)
        #expect(receiver.counts[LatencyStatistics.bucket(10_000)] == 1)
    }

    // MARK: Router

    @Test func lookUpsAreHitsOrMisses() throws {
        let field = Field()
        try field.subscribe(field.recorder(), "a/#")
        for _ in 0..<3 { field.publish("a/b") }
        field.publish("a/c")
        let statistics = field.all[0].statistics()
        #expect(statistics.counters.cacheLookups == 4 && statistics.counters.cacheMisses == 2)
        #expect(statistics.cacheEntries == 2 && statistics.cacheBytes > 0)
        #expect(statistics.counters.eventsIn == 4 && statistics.ports == 1)
    }

    @Test func bytesOfATurnAreItsRuns() throws {
        let field = Field()
        field.publish("a", ["1", "22"], layout: WireLayout(rawValue: 9))
        #expect(field.all[0].counters.eventsIn == 2 && field.all[0].counters.bytesIn == 7)
    }

    // MARK: The node itself

    private func say(_ topic: String, _ field: Field, as principal: Principal) -> PublishOutcome.Verdict {
        let event = Array(topic.utf8).withUnsafeBytes {
            Event(
                topic: $0, properties: UnsafeRawBufferPointer(start: nil, count: 0), payload: $0, qos: 0,
                isRetained: true)
        }
        return field.router.publish(event, as: principal, on: field.all[0]).verdict
    }

    @Test func onlyTheNodeSpeaksUnderTheDollarSign() throws {
        var limits = Limits()
        limits.maxPublishRate = 1
        let rules = try AccessRules([
            AccessRule(effect: .allow, action: .all, topics: ["#", "$SYS/#"], users: ["anna"])
        ])
        for rules in [AccessRules.none, rules] {
            let field = Field(limits: limits, rules: rules)
            let everything = field.recorder()
            let system = field.recorder()
            try field.subscribe(everything, "#", as: field.principal("anna"))
            let granted = try field.subscribe(system, "$SYS/#", as: field.principal("anna"))
            #expect(granted == .granted(isNew: true))
            let node = Principal.node(field.router)
            for number in 0..<5 { #expect(say("$SYS/\(number)", field, as: node) == .routed) }
            #expect(say("$SYS/x", field, as: field.principal("anna")) == .notAuthorized)
            #expect(everything.deliveries.isEmpty && system.deliveries.count == 5)
            // Neither traffic of a client, nor retained events of one.
            #expect(field.all[0].counters.eventsIn == 1)
            #expect(field.router.retainedCount == 0 && field.router.retainedBytes == 0)
            #expect(field.router.retained(matching: try TopicFilter("$SYS/#", grammar: .mqtt)).count == 5)
            #expect(field.router.retained(matching: try TopicFilter("#", grammar: .mqtt)).isEmpty)
            field.router.reload(try AccessRules([AccessRule(effect: .deny, action: .all, topics: ["#"])]))
            #expect(say("$SYS/1", field, as: node) == .routed, "rules do not bind the node, new ones neither")
        }
    }

    @Test func systemTopicsNeedARuleThatCoversThem() throws {
        let rules = try AccessRules([
            AccessRule(effect: .allow, action: .all, topics: ["#"], users: ["bert"]),
            AccessRule(effect: .allow, action: .subscribe, topics: ["$SYS/broker/clients/#"], users: ["carl"]),
        ])
        let field = Field(rules: rules)
        func outcome(_ user: String, _ filter: String) throws -> Router.SubscribeOutcome {
            try field.subscribe(field.recorder(), filter, as: field.principal(user))
        }
        #expect(try outcome("bert", "$SYS/#") == .notAuthorized, "# does not cover what begins with $")
        #expect(try outcome("carl", "$SYS/#") == .notAuthorized)
        #expect(try outcome("carl", "$SYS/broker/clients/total") == .granted(isNew: true))
        #expect(try outcome("bert", "#") == .granted(isNew: true))
    }

    @Test func sharedSubscriptionsAreCounted() throws {
        let field = Field()
        let (a, b) = (field.recorder(), field.recorder())
        try field.subscribe(a, "$share/g/t")
        try field.subscribe(b, "$share/g/t")
        try field.subscribe(b, "t")
        #expect(field.router.sharedSubscriptionCount == 2 && field.router.subscriptionCount == 3)
        _ = try field.unsubscribe(a, "$share/g/t")
        field.router.unregister(b, on: field.all[0])
        #expect(field.router.sharedSubscriptionCount == 0 && field.router.subscriptionCount == 0)
    }

    @Test func tracedClientsAreFew() {
        let traced = TracedClients()
        #expect(traced.isEmpty)
        for number in 0..<TracedClients.limit { #expect(traced.insert("client \(number)")) }
        #expect(!traced.insert("one more") && traced.insert("client 5"), "one that is there may be added again")
        #expect(traced.contains("client 99") && !traced.contains("one more"))
        traced.remove("client 0")
        #expect(traced.insert("caf\u{E9}") && !traced.contains("cafe\u{301}"), "ids are bytes")
        #expect(!traced.isEmpty)
    }
}
