import Testing
import TestSupport

@testable import Core

/// Look-ups of retained events in steps, while the store changes between them.
@Suite("Retained events in steps")
struct RetainedCursorTests {
    /// A look-up under way, and what the oracle knows of it.
    private final class Lookup {
        let filter: NaiveFilter
        var walk: RetainedWalk
        /// Topics that match and have had a value since the first step; each must be found.
        var stable: Set<String> = []
        /// Topics that match and had a value at some time since the first step.
        var possible: Set<String> = []
        var found: [String: Int] = [:]

        init(_ filter: NaiveFilter, values: some Sequence<String>) throws {
            self.filter = filter
            walk = RetainedWalk(try TopicFilter(filter.text, grammar: filter.grammar))
            stable = Set(values.filter { filter.matches(NaiveFilter.split($0)) })
            possible = stable
        }
    }

    /// The store, its oracle, and look-ups under way.
    private struct Play: ~Copyable {
        var random: Seeded
        var store = RetainedEvents(key: 5, limits: Limits())
        var values: [String: UInt64] = [:]
        var lookups: [Lookup] = []
        var now: UInt64 = 1

        init(_ stream: UInt64) { random = Seeded(stream) }

        mutating func change() {
            if random.once(in: 8) { pass(milliseconds: UInt64(random.below(4))) }
            let topic = Words.topic(&random)
            guard !random.once(in: 2) else {
                store.put(topic, "", now: now)
                return forget(topic)
            }
            let expiresAt = random.once(in: 3) ? now + 1 + UInt64(random.below(40)) : 0
            store.put(topic, "value", expiresAt: expiresAt, now: now)
            values[topic] = expiresAt
            for lookup in lookups where lookup.filter.matches(NaiveFilter.split(topic)) {
                lookup.possible.insert(topic)
            }
        }

        mutating func pass(milliseconds: UInt64) {
            now += milliseconds
            for (topic, expiresAt) in values where expiresAt != 0 && expiresAt <= now { forget(topic) }
            if random.once(in: 4) { _ = store.sweepExpired(now: now, max: random.below(30)) }
        }

        mutating func forget(_ topic: String) {
            values[topic] = nil
            for lookup in lookups { lookup.stable.remove(topic) }
        }

        mutating func begin() throws { lookups.append(try Lookup(Words.filter(&random), values: values.keys)) }

        mutating func step() {
            guard !lookups.isEmpty else { return }
            let index = random.below(lookups.count)
            let lookup = lookups[index]
            if random.once(in: 40) {
                store.abandon(&lookup.walk)
                lookups.remove(at: index)
                return
            }
            let nodes = 1 + random.below(12)
            let most = 1 + random.below(5)
            store.advance(&lookup.walk, nodes: nodes, events: most, now: now)
            if lookup.walk.visited > nodes || lookup.walk.found.count > most { Issue.record("too much in one step") }
            for event in lookup.walk.found {
                lookup.found[event.topicText, default: 0] += 1
                // What is found has a value now, whatever was promised.
                if values[event.topicText] == nil { Issue.record("\(event.topicText) is gone, \(random.note)") }
            }
            guard lookup.walk.state == .finished else { return }
            lookups.remove(at: index)
            judge(lookup)
        }

        /// A topic that was removed and set again may be found twice; one that stayed may not.
        func judge(_ lookup: Lookup) {
            for topic in lookup.stable where lookup.found[topic] != 1 {
                Issue.record("\(lookup.filter.text) found \(topic) \(lookup.found[topic] ?? 0) times, \(random.note)")
            }
            for topic in lookup.found.keys where !lookup.possible.contains(topic) {
                Issue.record("\(lookup.filter.text) found \(topic), \(random.note)")
            }
        }

        mutating func expectEmptyAfterRemovingAll() {
            while !lookups.isEmpty { step() }
            for topic in values.keys { store.put(topic, "", now: now) }
            while store.expiring > 0, store.sweepExpired(now: .max, max: 10_000) > 0 {}
            let (count, bytes, size) = (store.count, store.bytes, store.treeSize)
            #expect(count == 0 && bytes == 0 && size == (0, 0), "\(random.note)")
        }
    }

    @Test("What stays is found exactly once, whatever comes and goes between steps", arguments: 0..<12)
    func interleaved(_ round: Int) throws {
        var play = Play(600 + UInt64(round))
        for _ in 0..<300 { play.change() }
        for _ in 0..<4_000 {
            if play.lookups.count < 12 { try play.begin() }
            for _ in 0..<play.random.below(4) { play.change() }
            play.step()
        }
        play.expectEmptyAfterRemovingAll()
    }

    @Test("Hundreds of parked look-ups, and everything under them is removed and set again")
    func crowd() throws {
        var play = Play(620)
        for _ in 0..<400 { play.change() }
        for _ in 0..<600 { try play.begin() }
        for _ in 0..<3 {
            for _ in 0..<1_200 { play.step() }
            for topic in Array(play.values.keys) where !play.random.once(in: 5) {
                play.store.put(topic, "", now: play.now)
                play.forget(topic)
            }
            for _ in 0..<300 { play.change() }
        }
        play.expectEmptyAfterRemovingAll()
    }

    /// The steps of a look-up: nodes visited and topics found by each.
    private func steps(
        _ store: inout RetainedEvents, _ filter: String, _ grammar: TopicFilter.Grammar = .mqtt, nodes: Int,
        events: Int = 1_000_000
    ) throws -> [(visited: Int, topics: [String])] {
        var walk = RetainedWalk(try TopicFilter(filter, grammar: grammar))
        var all: [(visited: Int, topics: [String])] = []
        while walk.state != .finished {
            store.advance(&walk, nodes: nodes, events: events, now: 1)
            all.append((walk.visited, walk.found.map(\.topicText)))
        }
        return all
    }

    @Test("A hundred thousand siblings: each step is bounded, also where a prefix skips nearly all")
    func wide() throws {
        var store = RetainedEvents(key: 5, limits: Limits())
        for number in 0..<100_000 { store.put("wide/\(number)/x", "1") }
        for (filter, grammar, count) in [
            ("wide/+/x", TopicFilter.Grammar.mqtt, 100_000), ("#", .mqtt, 100_000), ("wide/7777*/x", .smf, 11),
            ("wide/*/y", .smf, 0), ("wide/>", .smf, 100_000),
        ] {
            let all = try steps(&store, filter, grammar, nodes: 500)
            #expect(all.allSatisfy { $0.visited <= 500 })
            #expect(all.dropLast().allSatisfy { $0.visited == 500 }, "\(filter)")
            #expect(all.count >= 200, "\(filter)")
            let topics = all.flatMap(\.topics)
            #expect(topics.count == count && Set(topics).count == count, "\(filter)")
        }
        let few = try steps(&store, "wide/#", nodes: 500, events: 7)
        #expect(few.allSatisfy { $0.topics.count <= 7 } && few.flatMap(\.topics).count == 100_000)
        let one = try steps(&store, "wide/4711/x", nodes: 500)
        #expect(one.count == 1 && one[0].visited == 3 && one[0].topics == ["wide/4711/x"])
        let size = store.treeSize
        #expect(size == (200_001, 0))
        for number in 0..<100_000 { store.put("wide/\(number)/x", "") }
        let empty = store.treeSize
        #expect(empty == (0, 0))
    }

    @Test("128 levels, one node a step, removed and set again from below while a look-up stands on each")
    func deep() throws {
        var store = RetainedEvents(key: 5, limits: Limits())
        let levels = (0..<128).map { "level \($0)" }
        let topics = (1...128).map { levels[..<$0].joined(separator: "/") }
        for topic in topics {
            store.put(topic, "1")
            store.put(topic + " and a sibling", "1")
        }
        for filter in ["#", "+/#", "level 0/#"] {
            let all = try steps(&store, filter, nodes: 1)
            #expect(all.allSatisfy { $0.visited <= 1 })
            #expect(Set(all.flatMap(\.topics)).count == (filter == "level 0/#" ? 255 : 256))
            #expect(all.flatMap(\.topics).count == Set(all.flatMap(\.topics)).count)
        }
        let longest = try steps(&store, Array(repeating: "+", count: 128).joined(separator: "/"), nodes: 3)
        #expect(longest.flatMap(\.topics).sorted() == [topics[127], topics[127] + " and a sibling"])

        let everything = try TopicFilter("#", grammar: .mqtt)
        var walks: [Lookup] = []
        for depth in 0..<128 {
            let lookup = try Lookup(NaiveFilter("#", smf: false), values: topics)
            lookup.walk = RetainedWalk(everything)
            for _ in 0..<depth { store.advance(&lookup.walk, nodes: 2, events: 2, now: 1) }
            walks.append(lookup)
        }
        for topic in topics.reversed() { store.put(topic, "") }
        for topic in topics { store.put(topic, "2") }
        for lookup in walks {
            while lookup.walk.state != .finished {
                store.advance(&lookup.walk, nodes: 2, events: 2, now: 1)
                for event in lookup.walk.found { lookup.found[event.topicText, default: 0] += 1 }
            }
        }
        #expect(walks[0].found.count == 256 && walks[0].found.values.allSatisfy { $0 == 1 })
        let stops = store.treeSize.stops
        #expect(stops == 0)
    }

    @Test("A look-up between a node and its literal child that is removed finds no sibling instead")
    func literalGone() throws {
        var store = RetainedEvents(key: 5, limits: Limits())
        for topic in ["a/x", "a/y", "a/z", "b/y"] { store.put(topic, "1") }
        for steps in 0..<5 {
            var walk = RetainedWalk(try TopicFilter("+/y", grammar: .mqtt))
            var found: [String] = []
            for _ in 0..<steps {
                store.advance(&walk, nodes: 1, events: 1, now: 1)
                found += walk.found.map(\.topicText)
            }
            store.put("a/y", "")
            while walk.state != .finished {
                store.advance(&walk, nodes: 1, events: 1, now: 1)
                found += walk.found.map(\.topicText)
            }
            store.put("a/y", "1")
            #expect(found.filter { $0 == "b/y" }.count == 1)
            #expect(found.allSatisfy { $0.hasSuffix("/y") })
            #expect(found.count <= 2)
        }
    }

    @Test("Topics of the node are hidden from wildcards in front, at every step size", arguments: [1, 2, 1_000])
    func dollar(_ nodes: Int) throws {
        var store = RetainedEvents(key: 5, limits: Limits())
        for topic in ["$SYS/a", "$SYS", "a/$b", "a", "/$c"] { store.put(topic, "1") }
        func found(_ filter: String, _ grammar: TopicFilter.Grammar) throws -> [String] {
            try steps(&store, filter, grammar, nodes: nodes).flatMap(\.topics).sorted()
        }
        #expect(try found("#", .mqtt) == ["/$c", "a", "a/$b"])
        #expect(try found("+/+", .mqtt) == ["/$c", "a/$b"])
        #expect(try found("+/#", .mqtt) == ["/$c", "a", "a/$b"])
        #expect(try found("$SYS/#", .mqtt) == ["$SYS", "$SYS/a"])
        #expect(try found(">", .smf) == ["/$c", "a", "a/$b"])
        #expect(try found("*/>", .smf) == ["/$c", "a/$b"])
        #expect(try found("$S*/>", .smf) == ["$SYS/a"])
        #expect(try found("$*", .smf) == ["$SYS"])
    }
}

extension RetainedCursorTests {
    @Test("Stops: many on one node move in one go, forward along removed siblings, and leave nothing behind")
    func stops() {
        var random = Seeded(630)
        var stops = NodeStops()
        // Siblings 1…100, then the end: who stands on one that is removed is on the next that is left.
        var left = Array(UInt32(1)...100)
        var standing: [(stop: UInt32, since: UInt32)] = []
        while !left.isEmpty || !standing.isEmpty {
            if !left.isEmpty, random.once(in: 2) {
                let node = random.pick(left)
                standing.append((stops.stand(on: node), node))
            } else if !standing.isEmpty, random.once(in: 4) {
                standing.swapAt(random.below(standing.count), standing.count - 1)
                let (stop, since) = standing.removeLast()
                let node = stops.leave(stop)
                let expected = left.first { $0 >= since } ?? 0
                if node != expected { Issue.record("\(node), not \(expected), \(random.note)") }
            } else if !left.isEmpty, random.once(in: 5) {
                let index = random.below(left.count)
                let node = left.remove(at: index)
                stops.move(from: node, to: index < left.count ? left[index] : 0)
            }
        }
        let count = stops.count
        #expect(count == 0)
    }

    @Test("Through the router: cursors that wait, are dropped, or cancelled")
    func throughRouter() throws {
        let field = Field()
        for number in 0..<300 { field.publish("t/\(number)/x", ["\(number)"], isRetained: true) }
        func filter(_ text: String) throws -> TopicFilter { try TopicFilter(text, grammar: .mqtt) }
        let router = field.router
        let cursor = router.retainedCursor(matching: try filter("t/#"))
        var found: [String] = []
        var dropped: RetainedCursor? = router.retainedCursor(matching: try filter("#"))
        router.advance(try #require(dropped), nodes: 5, events: 5, now: 1)
        #expect(router.retainedStops > 0)
        while !cursor.isFinished {
            router.advance(cursor, nodes: 40, events: 10, now: 1)
            #expect(cursor.visitedNodes <= 40 && cursor.events.count <= 10)
            found += cursor.events.map(\.topicText)
        }
        #expect(found.count == 300 && Set(found).count == 300)
        dropped = nil
        #expect(router.retainedStops == 0, "a dropped cursor leaves nothing")
        let cancelled = router.retainedCursor(matching: try filter("#"))
        router.advance(cancelled, nodes: 5, events: 5, now: 1)
        cancelled.cancel()
        #expect(cancelled.isFinished && router.retainedStops == 0)
        router.advance(cancelled, now: 1)
        #expect(cancelled.events.isEmpty && cancelled.isFinished)
        let never = router.retainedCursor(matching: try filter("none/+"))
        router.advance(never, now: 1)
        #expect(never.isFinished && never.events.isEmpty && never.visitedNodes == 0)
    }
}
