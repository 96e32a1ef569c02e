import Testing
import TestSupport

@testable import Core

@Suite("The match cache, through the router")
struct MatchCacheTests {
    /// One subscription as the oracle keeps it.
    struct Held {
        var port: Int
        var filter: NaiveFilter
        var options: DeliveryOptions
        var identifier: UInt32
    }

    /// Subscriptions that change, and what every publish must come to.
    final class Play {
        let field = Field(lanes: 2)
        let ports: [Recorder]
        let principal: Principal
        var held: [String: Held] = [:]
        var random: Seeded

        init(_ stream: UInt64) {
            random = Seeded(stream)
            let field = self.field
            ports = (0..<6).map { field.recorder(on: $0 % 2) }
            principal = field.principal()
        }

        func change() throws {
            if random.once(in: 2), held.count > 60, let (key, gone) = held.randomElement(using: &random) {
                held[key] = nil
                let isGone = try field.unsubscribe(ports[gone.port], gone.filter.text, grammar: gone.filter.grammar)
                #expect(isGone, "\(random.note)")
            } else {
                let port = random.below(ports.count)
                let filter = Words.filter(&random)
                let options = DeliveryOptions(rawValue: UInt8(random.below(3) | random.below(4) << 2))
                let identifier = UInt32(random.below(50))
                held["\(port) \(filter.meaning)"] = Held(
                    port: port, filter: filter, options: options, identifier: identifier)
                let outcome = try field.subscribe(
                    ports[port], filter.text, options, identifier: identifier, grammar: filter.grammar, as: principal)
                if case .granted = outcome { return }
                Issue.record("\(outcome), \(random.note)")
            }
        }

        func publish(_ topic: String) {
            let levels = NaiveFilter.split(topic)
            let matching = held.values.filter { $0.filter.matches(levels) }
            let outcome = field.publish(topic, ["x"], as: principal, on: random.below(2))
            field.settle()
            #expect(outcome.verdict == .routed && outcome.matched == matching.count, "\(topic), \(random.note)")
            for (number, port) in ports.enumerated() {
                let mine = matching.filter { $0.port == number }
                let got = port.takeAll()
                guard got.count == (mine.isEmpty ? 0 : 1) else {
                    Issue.record("port \(number) got \(got.count) of \(topic), \(random.note)")
                    continue
                }
                guard let one = got.first else { continue }
                let identifiers = mine.map(\.identifier).filter { $0 != 0 }.sorted()
                if one.identifiers.sorted() != identifiers || one.options != strongest(mine) {
                    Issue.record("port \(number): \(one), \(random.note)")
                }
            }
        }

        /// MQTT 5 section 3.3.4: the highest quality of service; left out only if all say so.
        private func strongest(_ held: [Held]) -> DeliveryOptions {
            var options = DeliveryOptions.qos(held.map(\.options.qos).max() ?? 0)
            if held.allSatisfy({ $0.options.contains(.noLocal) }) { options.insert(.noLocal) }
            if held.contains(where: { $0.options.contains(.retainAsPublished) }) { options.insert(.retainAsPublished) }
            return options
        }
    }

    @Test("With random churn between publishes, targets are always those of a fresh match")
    func churn() throws {
        let play = Play(200)
        let topics = (0..<150).map { _ in Words.topic(&play.random) }.filter { !$0.hasPrefix("$") }
        for _ in 0..<100 { try play.change() }
        for step in 0..<6_000 {
            play.publish(play.random.pick(topics))
            if play.random.once(in: 3) { for _ in 0..<play.random.below(4) { try play.change() } }
            // More changes than are remembered: entries are looked up anew. Exactly as many: they are not.
            if step % 500 == 0 { for _ in 0..<255 + play.random.below(4) { try play.change() } }
        }
    }

    @Test("Entries survive changes that do not concern them, up to as many as are remembered")
    func revalidation() throws {
        let field = Field()
        let port = field.recorder()
        try field.subscribe(port, "a/b")
        field.publish("a/b")
        #expect(field.all[0].counters.cacheMisses == 1)
        for number in 0..<256 { try field.subscribe(port, "other/\(number)") }
        field.publish("a/b")
        #expect(field.all[0].counters.cacheMisses == 1)
        for number in 0..<257 { _ = try field.unsubscribe(port, "other/\(number % 256)") }
        for number in 0..<257 { try field.subscribe(port, "other/\(number)") }
        field.publish("a/b")
        #expect(field.all[0].counters.cacheMisses == 2)
        try field.subscribe(port, "+/b")
        field.publish("a/b")
        #expect(field.all[0].counters.cacheMisses == 3)
        #expect(port.deliveries.count == 4)
    }

    @Test("A change that concerns the oldest remembered place is noticed", arguments: [254, 255, 256, 257])
    func oldestChange(_ others: Int) throws {
        let field = Field()
        let port = field.recorder()
        field.publish("a/b")
        try field.subscribe(port, "a/b")
        for number in 0..<others { try field.subscribe(port, "other/\(number)") }
        field.publish("a/b")
        #expect(port.topics == ["a/b"])
    }

    @Test("A filter too long to be remembered concerns every topic")
    func longFilter() throws {
        let field = Field()
        let port = field.recorder()
        let topic = String(repeating: "long", count: 300)
        field.publish(topic)
        try field.subscribe(port, topic)
        field.publish(topic)
        #expect(port.topics == [topic])
    }

    @Test("More topics than the cache holds: all are still matched, before and after a change")
    func eviction() throws {
        let field = Field()
        let (port, wild) = (field.recorder(), field.recorder())
        let principal = field.principal()
        try field.subscribe(wild, "plant/+/machine/7")
        for number in stride(from: 0, to: 24_000, by: 100) { try field.subscribe(port, "plant/\(number)/machine/7") }
        for round in 0..<2 {
            for number in 0..<24_000 {
                let outcome = field.publish("plant/\(number)/machine/7", as: principal)
                let expected: Int32 = number % 100 == 0 && round == 0 ? 2 : 1
                if outcome.matched != expected { Issue.record("\(number): \(outcome.matched)") }
            }
            #expect(port.deliveries.count == 240)
            #expect(wild.takeAll().count == 24_000)
            field.router.unregister(port, on: field.all[0])
        }
    }

    @Test("A port that has left is not delivered to, nor is the next tenant of its place")
    func departure() throws {
        let field = Field()
        let first = field.recorder()
        try field.subscribe(first, "a/#")
        field.publish("a")
        field.router.unregister(first, on: field.all[0])
        let second = field.recorder()
        #expect(second.address.slot == first.address.slot && second.address != first.address)
        #expect(field.publish("a").matched == 0)
        #expect(first.topics == ["a"] && second.topics.isEmpty)
        #expect(field.all[0].port(at: first.address) == nil)
        #expect(field.all[0].port(at: second.address) === second)
        #expect(field.router.subscriptionCount == 0)
    }
}
