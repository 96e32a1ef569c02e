import Testing
import TestSupport

@testable import Core

@Suite("Retained events")
struct RetainedTests {
    @Test("Against a dictionary: set, replace, delete, and every filter of both grammars")
    func oracle() throws {
        var random = Seeded(500)
        var retained = RetainedEvents(key: 6, limits: Limits())
        var known: [String: String] = [:]
        for step in 0..<4_000 {
            let topic = Words.topic(&random)
            let payload = random.once(in: 3) ? "" : "value \(step)"
            known[topic] = payload.isEmpty ? nil : payload
            let isStored = retained.put(topic, payload)
            #expect(isStored)
            guard step % 10 == 0 else { continue }
            let naive = Words.filter(&random)
            let found = retained.all(try TopicFilter(naive.text, grammar: naive.grammar))
            let expected = known.filter { naive.matches(NaiveFilter.split($0.key)) }
            var got: [String: String] = [:]
            for event in found { got[event.topicText] = event.text }
            if got != expected || found.count != expected.count { Issue.record("\(naive.text), \(random.note)") }
            let count = retained.count
            #expect(count == known.count, "\(random.note)")
        }
        for topic in known.keys { retained.put(topic, "") }
        let everything = retained.all(try TopicFilter("#", grammar: .mqtt))
        let (count, bytes, size) = (retained.count, retained.bytes, retained.treeSize)
        #expect(everything.isEmpty && count == 0 && bytes == 0 && size == (0, 0))
    }

    @Test("The last value stays, an empty payload deletes it, and subscribers still get both")
    func throughRouter() throws {
        let field = Field()
        let port = field.recorder()
        try field.subscribe(port, "t/#")
        func values(_ filter: String) throws -> [String] {
            field.router.retained(matching: try TopicFilter(filter, grammar: .mqtt)).map(\.text).sorted()
        }
        field.publish("t/a", ["1", "2"], isRetained: true)
        field.publish("t", ["parent"], qos: 1, isRetained: true)
        field.publish("t/b", ["not kept"])
        #expect(try values("t/#") == ["2", "parent"])
        #expect(try values("t/+") == ["2"])
        #expect(try values("+") == ["parent"])
        #expect(try values("t/b").isEmpty)
        field.publish("t/a", [""], isRetained: true)
        #expect(try values("#") == ["parent"])
        #expect(port.payloads == ["1", "2", "parent", "not kept", ""])
        #expect(field.router.retainedCount == 1)
    }

    @Test("A retained event outlives the turn that brought it")
    func outlives() throws {
        let field = Field()
        for number in 0..<200 { field.publish("t/\(number)", ["value \(number)"], isRetained: true) }
        let events = field.router.retained(matching: try TopicFilter("t/>", grammar: .smf))
        #expect(events.count == 200)
        #expect(events.allSatisfy { "t/" + $0.text.dropFirst(6) == $0.topicText })
    }

    @Test("Limits on number and bytes: the event is delivered, not kept, and counted")
    func limits() throws {
        var limits = Limits()
        limits.maxRetainedEvents = 3
        limits.maxRetainedBytes = 1_000
        let field = Field(limits: limits)
        let port = field.recorder()
        try field.subscribe(port, "#")
        for topic in ["a", "b", "c", "d"] { field.publish(topic, ["1"], isRetained: true) }
        #expect(field.router.retainedCount == 3 && field.dropped(.retainedFull) == 1)
        field.publish("a", ["2"], isRetained: true)
        #expect(field.dropped(.retainedFull) == 1, "replacing is not growing")
        field.publish("b", [""], isRetained: true)
        field.publish("d", ["1"], isRetained: true)
        #expect(field.router.retainedCount == 3 && field.dropped(.retainedFull) == 1)
        field.publish("a", [String(repeating: "x", count: 900)], isRetained: true)
        #expect(field.dropped(.retainedFull) == 2)
        let kept = field.router.retained(matching: try TopicFilter("a", grammar: .mqtt))
        #expect(kept.map(\.text) == ["2"], "what did not fit leaves the old value")
        field.publish("c", [""], isRetained: true)
        field.publish("a", [String(repeating: "x", count: 700)], isRetained: true)
        #expect(field.dropped(.retainedFull) == 2)
        #expect(port.deliveries.count == 10)
    }

    @Test("Who may not publish may not retain")
    func gate() throws {
        let field = Field(rules: try AccessRules([AccessRule(effect: .allow, action: .publish, topics: ["ok"])]))
        field.publish("ok", ["1"], isRetained: true)
        field.publish("no", ["1"], isRetained: true)
        field.publish("$SYS/x", ["1"], isRetained: true)
        #expect(field.router.retainedCount == 1)
    }
}

extension RetainedEvents {
    /// Sets a topic's value; an empty one removes it.
    /// - Returns: whether it was stored.
    @discardableResult
    mutating func put(_ topic: String, _ payload: String, expiresAt: UInt64 = 0, now: UInt64 = 1) -> Bool {
        let event = Event(topic, payload, expiresAt: expiresAt)
        return set(event.topic, event, now: now).isStored
    }

    /// Everything that a filter matches, in steps of the usual size.
    mutating func all(_ filter: TopicFilter, now: UInt64 = 1) -> [Event] {
        var walk = RetainedWalk(filter)
        var found: [Event] = []
        while walk.state != .finished {
            advance(&walk, nodes: RetainedCursor.nodesPerStep, events: RetainedCursor.eventsPerStep, now: now)
            found += walk.found
        }
        return found
    }
}

extension Event {
    init(_ topic: String, _ payload: String, expiresAt: UInt64 = 0) {
        let (topic, payload) = (Array(topic.utf8), Array(payload.utf8))
        self = topic.withUnsafeBytes { topic in
            payload.withUnsafeBytes { payload in
                Event(
                    topic: topic, properties: UnsafeRawBufferPointer(start: nil, count: 0), payload: payload, qos: 1,
                    isRetained: true, expiresAt: expiresAt)
            }
        }
    }
}
