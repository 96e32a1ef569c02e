import Testing
import TestSupport

@testable import Core

/// Turns of many runs: they are looked up together before the first is delivered, while the cache grows, gives up
/// entries and forgets everything between one look-up and its use.
@Suite("Turns of many runs")
struct TurnTests {
    /// Publishes one event to each topic, all in one turn.
    private func publish(_ topics: [[UInt8]], as principal: Principal, in field: Field) -> [PublishOutcome] {
        let turn = field.all[0].turn
        let bytes = topics.flatMap { $0 }
        return bytes.withUnsafeBytes { bytes in
            guard var place = bytes.baseAddress else { return [] }
            for (number, topic) in topics.enumerated() {
                turn.events[number] = EventView(payload: place, payloadLength: min(topic.count, 8))
                turn.runs[number] = EventRun(
                    topic: place, topicLength: topic.count, events: turn.events + number, count: 1, wire: place,
                    wireLength: 0, properties: place, propertiesLength: 0, publisher: .none, layout: .none, qos: 0,
                    isRetained: false)
                place += topic.count
            }
            (turn.runCount, turn.eventCount) = (topics.count, topics.count)
            turn.principal = principal
            field.router.route(turn, on: field.all[0])
            defer { turn.removeAll() }
            return (0..<topics.count).map { turn.outcomes[$0] }
        }
    }

    @Test("Every run goes where its topic says, with short topics and with long ones", arguments: [0, 12_000])
    func manyRuns(_ padding: Int) throws {
        var random = Seeded(700 + UInt64(padding))
        let field = Field()
        let principal = field.principal()
        let (all, some) = (field.recorder(), field.recorder())
        try field.subscribe(all, "n/+/#")
        let tail = padding == 0 ? "" : "/" + String(repeating: "x", count: padding)
        var held: Set<Int> = []
        for round in 0..<120 {
            // Mostly nothing changes between turns, so that what was looked up first is used.
            for _ in 0..<(round % 6 == 0 ? random.below(300) : 0) {
                let number = random.below(30_000)
                if held.remove(number) == nil {
                    held.insert(number)
                    try field.subscribe(some, "n/\(number)/#", as: principal)
                } else {
                    _ = try field.unsubscribe(some, "n/\(number)/#")
                }
            }
            let numbers = (0..<random.below(Turn.runCapacity)).map { _ in
                random.once(in: 2) ? held.randomElement(using: &random) ?? 0 : random.below(30_000)
            }
            let outcomes = publish(numbers.map { Array("n/\($0)\(tail)".utf8) }, as: principal, in: field)
            for (number, outcome) in zip(numbers, outcomes)
            where outcome.verdict != .routed || outcome.matched != (held.contains(number) ? 2 : 1) {
                Issue.record("n/\(number): \(outcome.verdict), \(outcome.matched), \(random.note)")
            }
            #expect(all.takeAll().map(\.topic) == numbers.map { "n/\($0)\(tail)" }, "\(random.note)")
            #expect(some.takeAll().map(\.topic) == numbers.filter(held.contains).map { "n/\($0)\(tail)" })
        }
    }

    @Test("After a turn that was costly to match turns are smaller, and grow again little by little")
    func costlyTurns() throws {
        let field = Field()
        let (principal, recorder) = (field.principal(), field.recorder())
        let turn = field.all[0].turn
        turn.beginSlowly()
        let first = turn.runLimit
        #expect(first < Turn.runCapacity)
        for round in 0..<8 { _ = publish([Array("cheap/\(round)".utf8)], as: principal, in: field) }
        #expect(turn.runLimit == Turn.runCapacity)
        // All combinations of `+` and `a`: each topic below matches half of them.
        for number in 0..<4_096 {
            let levels = (0..<12).map { number >> $0 & 1 == 0 ? "+" : "a" }
            try field.subscribe(recorder, levels.joined(separator: "/"))
        }
        let path = String(repeating: "a/", count: 11)
        _ = publish((0..<16).map { Array("\(path)\($0)".utf8) }, as: principal, in: field)
        #expect(field.all[0].isMatchingCostly)
        #expect(turn.runLimit < 8, "\(turn.runLimit)")
        let ceiling = turn.runLimit
        for round in 0..<8 { _ = publish([Array("cheap/\(round)".utf8)], as: principal, in: field) }
        #expect(turn.runLimit == ceiling, "others' cheap turns do not bring it back")
        for _ in 0..<40 { field.all[0].forgiveCostlyTurns() }
        for round in 0..<8 { _ = publish([Array("cheap/\(round)".utf8)], as: principal, in: field) }
        #expect(turn.runLimit == Turn.runCapacity)
    }
}
