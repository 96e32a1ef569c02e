import Testing

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
}
