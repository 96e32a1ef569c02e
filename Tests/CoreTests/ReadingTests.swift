import Testing
import TestSupport

@testable import Core

@Suite("Reading without subscribing")
struct ReadingTests {
    private func read(_ field: Field, _ topic: String, _ principal: Principal, now: UInt64 = 0) -> String {
        switch Array(topic.utf8).withUnsafeBytes({ field.router.retained($0, as: principal, now: now) }) {
        case .found(let event): String(decoding: event.payload, as: UTF8.self)
        case .nothing: "nothing"
        case .notAuthorized: "not authorized"
        case .malformedTopic: "malformed"
        }
    }

    @Test("A retained event is read by those who may subscribe to its topic")
    func retained() throws {
        let rules = try AccessRules([
            AccessRule(effect: .deny, action: .subscribe, topics: ["a/secret/#"], users: ["anonymous"]),
            AccessRule(effect: .allow, action: .all, topics: ["a/#"]),
            AccessRule(effect: .allow, action: .publish, topics: ["b"]),
        ])
        let field = Field(rules: rules)
        for topic in ["a/x", "a/secret/x", "b"] { field.publish(topic, [topic], isRetained: true) }
        let (anybody, user) = (field.principal(), field.principal("u"))
        #expect(read(field, "a/x", anybody) == "a/x")
        #expect(read(field, "a/secret/x", anybody) == "not authorized")
        #expect(read(field, "a/secret/x", user) == "a/secret/x")
        #expect(read(field, "a/y", anybody) == "nothing")
        #expect(read(field, "b", user) == "not authorized")
        for topic in ["", "a/+", "#", "a/\u{0}"] { #expect(read(field, topic, user) == "malformed", "\(topic)") }
        field.router.reload(.none)
        #expect(read(field, "b", anybody) == "b")
    }

    @Test("Reading a topic is judged as a subscription to it is")
    func judgedAlike() throws {
        var random = Seeded(77)
        for _ in 0..<2_000 {
            var rules: [AccessRule] = []
            for _ in 0...random.below(3) {
                rules.append(
                    AccessRule(
                        effect: random.once(in: 2) ? .allow : .deny,
                        action: AccessRule.Action.allCases[random.below(3)],
                        topics: [Words.filter(&random).text]))
            }
            // A filter of the one grammar need not be one in the rules' way of telling them apart.
            guard let checked = try? AccessRules(rules) else { continue }
            let field = Field(rules: checked)
            let principal = field.principal()
            for _ in 0..<10 {
                let topic = Words.topic(&random)
                // These two begin no filter's topic.
                guard !topic.hasPrefix("$share"), !topic.hasPrefix("$local") else { continue }
                let filter = try TopicFilter(topic, grammar: .mqtt)
                let mayRead = Array(topic.utf8).withUnsafeBytes { field.router.mayRead($0, as: principal) }
                if mayRead != (principal.reach(filter).reach == .everything) {
                    Issue.record("\(topic), \(rules), \(random.note)")
                }
            }
        }
    }

    @Test("The topics of a lane are listed a few places at a time, each once while nothing changes")
    func recentTopics() throws {
        let field = Field(lanes: 2)
        let port = field.recorder(on: 1)
        try field.subscribe(port, "a/7/#")
        for number in 0..<5_000 { field.publish("a/\(number)") }
        field.publish("b/1", on: 1)
        field.publish("$SYS/x")
        var found: [String: Int] = [:]
        var next: Int? = 0
        var calls = 0
        let filter = try TopicFilter("a/#", grammar: .mqtt)
        while let start = next {
            let part = field.all[0].recentTopics(of: field.router, matching: filter, from: start, places: 100)
            #expect(part.topics.count <= 100)
            for topic in part.topics {
                let text = String(decoding: topic.bytes, as: UTF8.self)
                #expect(found.updateValue(topic.matched, forKey: text) == nil, "\(text) came twice")
            }
            next = part.next
            calls += 1
        }
        // A set of four places may have had to give one up, hence not all of them.
        #expect(found.count > 4_500 && found.keys.allSatisfy { $0.hasPrefix("a/") })
        #expect(found["a/7"] ?? 1 == 1 && found["a/8"] ?? 0 == 0)
        #expect(calls >= found.count / 100)
        let all = try TopicFilter("#", grammar: .mqtt)
        let others = field.all[1].recentTopics(of: field.router, matching: all)
        #expect(others.topics.map { String(decoding: $0.bytes, as: UTF8.self) } == ["b/1"])
        let behind = field.all[1].recentTopics(of: field.router, matching: all, from: 1 << 20)
        #expect(behind.topics.isEmpty && behind.next == nil)
    }
}
