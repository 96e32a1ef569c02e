import Testing

@testable import Core

@Suite struct RouterTests {
    @Test func overlappingSubscriptionsGiveOneCopyWithTheHighestQoSAndAllIdentifiers() {
        let bench = Bench()
        let port = bench.port()
        bench.subscribe(port, "a/+", .qos(0), identifier: 1)
        bench.subscribe(port, "a/#", .qos(2), identifier: 2)
        bench.subscribe(port, "a/b", .qos(1))
        let outcome = bench.publish("a/b", qos: 1)
        #expect(outcome.matched == 3)
        #expect(port.deliveries.count == 1)
        #expect(port.deliveries.first?.options.qos == 2)
        #expect(Set(port.deliveries.first?.identifiers ?? []) == [1, 2])
    }

    @Test func theCacheSurvivesChurnAndIsNeverStale() throws {
        var random = Seeded(20)
        let bench = Bench()
        let ports = (0..<6).map { _ in bench.port() }
        var known: [(port: Int, filter: String)] = []
        for round in 0..<6_000 {
            // Now and then more changes than the router remembers.
            for _ in 0..<(round % 500 == 0 ? 400 : random.below(3)) {
                let entry = (port: random.below(6), filter: random.filter(.mqtt))
                guard let filter = try? TopicFilter(entry.filter, grammar: .mqtt) else { continue }
                if random.below(2) == 0 {
                    bench.subscribe(ports[entry.port], entry.filter)
                    if !known.contains(where: { $0 == entry }) { known.append(entry) }
                } else {
                    bench.router.unsubscribe(ports[entry.port], filter)
                    known.removeAll { $0 == entry }
                }
            }
            let topic = random.topic()
            guard !topic.contains("+"), !topic.hasPrefix("$") else { continue }
            bench.publish(topic)
            for (number, port) in ports.enumerated() {
                let expected = known.contains { $0.port == number && Oracle.matches($0.filter, .mqtt, topic) }
                #expect(port.deliveries.count == (expected ? 1 : 0), "seed \(Seeded.seed) round \(round) \(topic)")
                port.deliveries = []
            }
        }
        #expect(bench.all[0].counters.cacheMisses < 6_000, "some look-ups were answered by the cache")
    }

    @Test func moreTopicsThanTheCacheHolds() {
        let bench = Bench()
        let port = bench.port()
        bench.subscribe(port, "t/+")
        for round in 0..<2 {
            for number in 0..<20_000 { bench.publish("t/\(number)", "\(round)") }
        }
        #expect(port.deliveries.count == 40_000)
        #expect(
            port.deliveries[39_999] == .init(topic: "t/19999", payload: "1", qos: 0, options: .qos(2), identifiers: []))
    }

    @Test func malformedAndSystemTopicsAreNotRouted() {
        let bench = Bench()
        let port = bench.port()
        bench.subscribe(port, "#")
        bench.subscribe(port, "$SYS/#")
        #expect(bench.publish("a/#").verdict == .malformedTopic)
        #expect(bench.publish("").verdict == .malformedTopic)
        #expect(bench.publish("$SYS/load").verdict == .notAuthorized)
        #expect(port.deliveries.isEmpty)
        #expect(bench.all[0].counters.dropped[DropReason.notAuthorized.rawValue] == 1)
    }

    @Test func groupsGiveEachEventToOneMember() {
        let bench = Bench(lanes: 2)
        let members = [bench.port(), bench.port(), bench.port(on: 1)]
        for member in members { bench.subscribe(member, "$share/g/a") }
        let other = bench.port()
        bench.subscribe(other, "a")
        for number in 0..<30 { bench.publish("a", "\(number)") }
        bench.pass()
        #expect(members.map { $0.deliveries.count } == [10, 10, 10])
        #expect(Set(members.flatMap { $0.deliveries.map(\.payload) }).count == 30)
        #expect(other.deliveries.count == 30)
    }

    @Test func staleAddressesAreHarmless() {
        let bench = Bench(lanes: 2)
        let port = bench.port(on: 1)
        bench.subscribe(port, "a")
        bench.publish("a")
        bench.router.unregister(port, on: bench.all[1])
        let next = bench.port(on: 1)
        bench.pass()
        #expect(port.deliveries.isEmpty && next.deliveries.isEmpty, "the place has a new tenant")
        #expect(bench.all[1].port(at: port.address) == nil)
        #expect(bench.publish("a").matched == 0)
    }

    @Test func limitOfSubscriptions() throws {
        var limits = Limits()
        limits.maxSubscriptionsPerSession = 2
        let bench = Bench(limits: limits)
        let port = bench.port()
        #expect(bench.subscribe(port, "a") == .granted(isNew: true))
        #expect(bench.subscribe(port, "b") == .granted(isNew: true))
        #expect(bench.subscribe(port, "c") == .overLimit)
        #expect(bench.subscribe(port, "a") == .granted(isNew: false), "replacing takes no place")
        #expect(bench.router.subscriptionCount == 2)
    }

    @Test func publishRate() {
        var limits = Limits()
        limits.maxPublishRate = 10
        let bench = Bench(limits: limits)
        let principal = bench.principal()
        bench.all[0].now = 1_000
        let verdicts = (0..<12).map { _ in bench.publish("a", as: principal).verdict }
        #expect(verdicts.filter { $0 == .routed }.count == 10)
        bench.all[0].now = 1_500
        #expect((0..<10).filter { _ in bench.publish("a", as: principal).verdict == .routed }.count == 5)
        #expect(bench.all[0].counters.dropped[DropReason.quotaExceeded.rawValue] == 7)
    }

    @Test func retainedEventsAgreeWithADictionary() throws {
        var random = Seeded(21)
        let bench = Bench()
        var known: [String: String] = [:]
        for round in 0..<3_000 {
            let topic = random.topic()
            guard !topic.contains("+"), !topic.hasPrefix("$") else { continue }
            let payload = random.below(3) == 0 ? "" : "\(round)"
            bench.publish(topic, payload, retain: true)
            known[topic] = payload.isEmpty ? nil : payload
            let grammar: TopicFilter.Grammar = random.below(2) == 0 ? .mqtt : .smf
            let text = random.filter(grammar)
            guard let filter = try? TopicFilter(text, grammar: grammar) else { continue }
            let found = bench.router.retained(matching: filter)
                .map { String(decoding: $0.topic, as: UTF8.self) + "=" + String(decoding: $0.payload, as: UTF8.self) }
            let expected = known.filter { Oracle.matches(text, grammar, $0.key) }.map { "\($0.key)=\($0.value)" }
            #expect(found.sorted() == expected.sorted(), "\(text)")
            #expect(bench.router.retainedCount == known.count)
        }
    }

    @Test func limitOfRetainedEvents() {
        var limits = Limits()
        limits.maxRetainedEvents = 1
        let bench = Bench(limits: limits)
        let port = bench.port()
        bench.subscribe(port, "#")
        bench.publish("a", retain: true)
        bench.publish("b", retain: true)
        bench.publish("a", "new", retain: true)
        #expect(port.deliveries.count == 3, "what cannot be kept is delivered all the same")
        #expect(bench.router.retainedCount == 1)
        #expect(bench.all[0].counters.dropped[DropReason.retainedFull.rawValue] == 1)
    }
}
