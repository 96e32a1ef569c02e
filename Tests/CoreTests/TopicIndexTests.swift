import Testing
import TestSupport

@testable import Core

@Suite("The subscription index against the naive matcher")
struct TopicIndexTests {
    struct Found: Hashable, Comparable {
        var port: Int
        var options: DeliveryOptions
        var identifier: UInt32

        /// Whole: two subscriptions of a port may have the same identifier by chance.
        static func < (a: Found, b: Found) -> Bool {
            (a.port, a.identifier, a.options.rawValue) < (b.port, b.identifier, b.options.rawValue)
        }
    }

    /// One subscription as the oracle keeps it.
    struct Held {
        var filter: NaiveFilter
        var group: String?
        var found: Found
    }

    /// An index and the plain dictionary that it must agree with.
    final class Pair {
        var index = TopicIndex(key: 77)
        var held: [String: Held] = [:]
        var ports: [UInt32] = []
        var raw = RawMatch()
        var scratch = MatchScratch()

        init(ports count: Int) {
            for port in 0..<count {
                ports.append(index.addPort(PortAddress(lane: port % 3, slot: port, generation: 9)))
            }
        }

        private func key(_ port: Int, _ filter: NaiveFilter, _ group: String?) -> String {
            "\(port)|\(group ?? "-")|\(filter.meaning)"
        }

        func subscribe(_ random: inout Seeded) throws {
            let port = random.below(ports.count)
            let naive = Words.filter(&random)
            let group = random.once(in: 5) ? random.pick(["g", "h", "a group"]) : nil
            let found = Found(
                port: port, options: DeliveryOptions(rawValue: UInt8(random.below(16))),
                identifier: UInt32(random.below(1_000_000)))
            let text = (group.map { "$share/\($0)/" } ?? "") + naive.text
            // Text that begins with an option by chance would say something else.
            let filter = try TopicFilter(text, grammar: naive.grammar)
            let isNew = index.subscribe(
                ports[port], Subscription(filter: filter, options: found.options, identifier: found.identifier))
            let key = key(port, naive, group)
            #expect(isNew == (held[key] == nil), "\(text), \(random.note)")
            held[key] = Held(filter: naive, group: group, found: found)
        }

        func unsubscribe(_ random: inout Seeded) throws {
            guard let (key, gone) = held.randomElement(using: &random) else { return }
            let text = (gone.group.map { "$share/\($0)/" } ?? "") + gone.filter.text
            let filter = try TopicFilter(text, grammar: gone.filter.grammar)
            let wasThere = index.unsubscribe(ports[gone.found.port], filter)
            #expect(wasThere, "\(text), \(random.note)")
            let isThere = index.unsubscribe(ports[gone.found.port], filter)
            #expect(!isThere)
            held[key] = nil
        }

        func check(_ topic: String, _ note: String) {
            let levels = NaiveFilter.split(topic)
            var direct: [Found] = []
            var groups: [String: [Found]] = [:]
            for held in held.values where held.filter.matches(levels) {
                if let group = held.group {
                    groups["\(group)|\(held.filter.meaning)", default: []].append(held.found)
                } else {
                    direct.append(held.found)
                }
            }
            Array(topic.utf8).withUnsafeBytes { index.match($0, into: &raw, scratch: &scratch) }
            var start = 0
            var members: [[Found]] = []
            for end in raw.groupEnds {
                members.append(raw.members[start..<end].map(found).sorted())
                start = end
            }
            if raw.hits.map(found).sorted() != direct.sorted() { Issue.record("\(topic), \(note)") }
            let expected = groups.values.map { $0.sorted() }.sorted { "\($0)" < "\($1)" }
            if members.sorted(by: { "\($0)" < "\($1)" }) != expected { Issue.record("groups of \(topic), \(note)") }
        }

        private func found(_ hit: RawMatch.Hit) -> Found {
            let address = PortAddress(packed: hit.address)
            #expect(address.lane == address.slot % 3 && address.generation == 9)
            return Found(port: address.slot, options: hit.options, identifier: hit.identifier)
        }
    }

    @Test("A million pairs of topic and filter, with churn between", arguments: 0..<10)
    func millionPairs(_ round: Int) throws {
        var random = Seeded(100 + UInt64(round))
        let pair = Pair(ports: 12)
        while pair.held.count < 200 { try pair.subscribe(&random) }
        for _ in 0..<500 {
            pair.check(Words.topic(&random), random.note)
            try pair.unsubscribe(&random)
            while pair.held.count < 200 { try pair.subscribe(&random) }
        }
        #expect(pair.index.subscriptionCount == pair.held.count)
        for port in pair.ports { pair.index.removePort(port) { _ in } }
        pair.expectEmpty()
    }

    @Test("Unsubscribing everything prunes everything")
    func prunes() throws {
        var random = Seeded(120)
        let pair = Pair(ports: 5)
        for _ in 0..<2_000 { try pair.subscribe(&random) }
        while !pair.held.isEmpty { try pair.unsubscribe(&random) }
        pair.expectEmpty()
    }

    @Test("A filter read back from the tree means what was put in")
    func roundTrip() throws {
        var random = Seeded(121)
        let topics = (0..<200).map { _ in Words.topic(&random) }
        for _ in 0..<500 {
            var index = TopicIndex(key: 3)
            let port = index.addPort(PortAddress(lane: 0, slot: 1, generation: 1))
            let naive = Words.filter(&random)
            let option = random.pick(["", "$share/some group/", "$local/"])
            let filter = try TopicFilter(option + naive.text, grammar: naive.grammar)
            _ = index.subscribe(port, Subscription(filter: filter, options: .qos(2), identifier: 4))
            var again: [Subscription] = []
            index.forEachSubscription(of: port) { again.append($0) }
            #expect(again.count == 1 && again[0].identifier == 4 && again[0].options == .qos(2))
            let back = again[0].filter
            #expect(back.levels.map(\.kind) == filter.levels.map(\.kind), "\(naive.text), \(random.note)")
            #expect(back.group == filter.group && back.isLocalOnly == filter.isLocalOnly)
            for topic in topics where back.matches(topic) != filter.matches(topic) {
                Issue.record("\(naive.text) came back as \(back.text): \(topic), \(random.note)")
            }
            let isGone = index.unsubscribe(port, back)
            #expect(isGone)
        }
    }

    @Test("A removed port names every filter it had, once")
    func removedPort() throws {
        var index = TopicIndex(key: 3)
        let port = index.addPort(PortAddress(lane: 0, slot: 1, generation: 1))
        let other = index.addPort(PortAddress(lane: 0, slot: 2, generation: 1))
        let texts = ["a/+/#", "a/b", "+", "#", "$share/g/a"]
        for text in texts {
            let filter = try TopicFilter(text, grammar: .mqtt)
            _ = index.subscribe(port, Subscription(filter: filter, options: .qos(0)))
            _ = index.subscribe(other, Subscription(filter: filter, options: .qos(0)))
        }
        var told: [String] = []
        index.removePort(port) { filter in
            if let filter { told.append((filter.group == nil ? "" : "$share/g/") + filter.text) }
        }
        #expect(told.sorted() == texts.sorted())
        #expect(index.subscriptionCount == texts.count)
    }
}

extension TopicIndexTests.Pair {
    func expectEmpty() {
        let (nodes, records, groups) = (index.tree.count, index.records.count, index.groups.count)
        #expect(nodes == 0 && records == 0 && groups == 0 && index.subscriptionCount == 0)
    }
}
