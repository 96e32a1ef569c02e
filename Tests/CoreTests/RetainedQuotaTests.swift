import Testing
import TestSupport

@testable import Core

@Suite("Quotas of retained events")
struct RetainedQuotaTests {
    @Test("What is over the quota is delivered and not kept, and its publisher is told")
    func events() throws {
        let field = Field(quotas: Quotas([QuotaRule(users: ["anna"], limits: [.retainedEvents: 2])]))
        let (anna, bert) = (field.principal("anna"), field.principal("bert"))
        let port = field.recorder()
        try field.subscribe(port, "#")
        #expect(field.publish("a", ["1"], as: anna, isRetained: true).isKept)
        #expect(field.publish("b", ["1"], as: anna, isRetained: true).isKept)
        let refused = field.publish("c", ["1"], as: anna, qos: 1, isRetained: true)
        #expect(refused.verdict == .routed && !refused.isKept && refused.matched == 1)
        #expect(port.topics == ["a", "b", "c"])
        #expect(field.router.retainedCount == 2 && field.dropped(.retainedFull) == 1)
        #expect(field.publish("a", ["2"], as: anna, isRetained: true).isKept, "in place of what is there")
        #expect(field.publish("d", ["1"], as: bert, isRetained: true).isKept)
        #expect(field.publish("a", ["3"], as: bert, isRetained: true).isKept, "now it is another one's")
        #expect(field.publish("c", ["2"], as: anna, isRetained: true).isKept)
        #expect(!field.publish("e", ["1"], as: anna, isRetained: true).isKept)
        #expect(field.publish("b", [""], as: anna, isRetained: true).isKept, "removing is always allowed")
        #expect(field.publish("e", ["1"], as: anna, isRetained: true).isKept)
        #expect(anna.allowance?.retainedEvents?.count(.retainedEvents) == 2)
    }

    @Test("Bytes: what grows must fit, what shrinks always may")
    func bytes() {
        let quotas = Quotas([QuotaRule(limits: [.retainedBytes: 1_000])])
        let field = Field(quotas: quotas)
        let anna = field.principal("anna")
        func keep(_ topic: String, _ count: Int) -> Bool {
            field.publish(topic, [String(repeating: "x", count: count)], as: anna, isRetained: true).isKept
        }
        #expect(keep("a", 500))
        #expect(!keep("b", 500))
        #expect(keep("b", 300))
        #expect(!keep("a", 600))
        #expect(keep("a", 100))
        quotas.reload([QuotaRule(limits: [.retainedBytes: 100])])
        #expect(keep("b", 200), "over already, but less than before")
        #expect(!keep("b", 201))
        #expect(anna.allowance?.retainedBytes?.count(.retainedBytes) == field.router.retainedBytes)
    }

    @Test("The count is what the store has, whatever happens", arguments: [false, true])
    func model(isVersioned: Bool) {
        var random = Seeded(isVersioned ? 501 : 502)
        let quotas = Quotas([QuotaRule(limits: [.retainedEvents: 12, .retainedBytes: 1_400])])
        let field = Field(quotas: quotas)
        let lane = field.all[0]
        lane.now = 1_000
        if isVersioned { field.router.keepRetainedVersions(writer: 1, wallClock: { 1_000_000 }, changed: {}) }
        let users = ["anna", "bert", "carl"].map { field.principal($0) }
        var owners: [String: (user: Int, cost: Int, until: UInt64)] = [:]
        func owned(_ user: Int) -> (count: Int, bytes: Int) {
            let mine = owners.values.filter { $0.user == user }
            return (mine.count, mine.reduce(0) { $0 + $1.cost })
        }
        for step in 0..<6_000 {
            lane.now += UInt64(random.below(20))
            _ = field.router.sweepExpiredRetained(now: lane.now, max: 1_000)
            owners = owners.filter { $0.value.until == 0 || $0.value.until > lane.now }
            let (user, topic) = (random.below(3), "t/\(random.below(40))")
            let payload = String(repeating: "p", count: random.below(4) == 0 ? 0 : 1 + random.below(90))
            let until = random.below(3) == 0 ? lane.now + 1 + UInt64(random.below(500)) : 0
            if random.below(20) == 0 {
                topic.utf8CString.withUnsafeBytes {
                    _ = field.router.removeRetained(UnsafeRawBufferPointer(rebasing: $0.dropLast()))
                }
                owners[topic] = nil
                continue
            }
            let event = Array(topic.utf8).withUnsafeBytes { topic in
                Array(payload.utf8).withUnsafeBytes {
                    Event(
                        topic: topic, properties: UnsafeRawBufferPointer(start: nil, count: 0), payload: $0, qos: 0,
                        isRetained: true, expiresAt: until)
                }
            }
            let outcome = field.router.publish(event, as: users[user], on: lane)
            let (had, known) = (owned(user), owners[topic])
            let isMine = known?.user == user
            let more = event.cost - (isMine ? known?.cost ?? 0 : 0)
            let fits = (isMine || had.count < 12) && (more <= 0 || had.bytes + more <= 1_400)
            if payload.isEmpty {
                owners[topic] = nil
            } else if fits {
                owners[topic] = (user, event.cost, until)
            }
            let isExpected = outcome.isKept == (payload.isEmpty || fits)
            guard isExpected else {
                Issue.record("step \(step): \(outcome) \(random.note)")
                return
            }
            for number in 0..<3 {
                let usage = users[number].allowance?.retainedEvents
                let expected = owned(number)
                guard usage?.count(.retainedEvents) == expected.count,
                    usage?.count(.retainedBytes) == expected.bytes
                else {
                    Issue.record("step \(step), user \(number): \(expected) \(random.note)")
                    return
                }
            }
        }
        #expect(!owners.isEmpty)
    }
}
