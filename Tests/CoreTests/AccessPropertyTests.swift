import Testing
import TestSupport

@testable import Core

/// Random rules against an oracle that asks topic by topic, on split strings.
@Suite("Access rules against an oracle")
struct AccessPropertyTests {
    /// Rules of few words, so that they meet.
    private struct Play {
        var random: Seeded
        static let words = ["a", "b", "ab", ""]
        /// Words that no filter has, so that what a filter does not cover has a witness.
        static let others = ["z", "aby", "bz"]

        mutating func filter() -> NaiveFilter {
            while true {
                let smf = random.once(in: 2)
                let wild = smf ? ["*", "a*", "ab*"] : ["+"]
                var parts = (0..<random.below(3)).map { _ in random.pick(random.once(in: 3) ? wild : Self.words) }
                if random.once(in: 3) || parts.isEmpty { parts.append(smf ? ">" : "#") }
                let filter = NaiveFilter(parts.joined(separator: "/"), smf: smf)
                if !filter.text.isEmpty { return filter }
            }
        }
    }

    /// Every topic of up to four levels out of the words.
    private static let topics: [String] = {
        var all: [[String]] = [[]]
        var found: [String] = []
        for _ in 0..<4 {
            all = all.flatMap { topic in (Play.words + Play.others).map { topic + [$0] } }
            found += all.map { $0.joined(separator: "/") }.filter { !$0.isEmpty }
        }
        return found
    }()

    @Test("A topic is readable if the first rule that matches it allows it; asking once gives the same answer")
    func topics() throws {
        var play = Play(random: Seeded(7_001))
        for _ in 0..<150 {
            let list = (0...play.random.below(4)).map { _ in
                (filter: play.filter(), effect: play.random.pick(AccessRule.Effect.allCases))
            }
            let rules = try AccessRules(
                list.map { AccessRule(effect: $0.effect, action: .subscribe, topics: [$0.filter.text]) })
            let reader = Reader(identity: Identity(user: "ann"), clientID: "c")
            let access = try #require(rules.resolve(for: reader.identity, clientID: "c"))
            for _ in 0..<60 {
                let topic = play.random.pick(Self.topics)
                let levels = NaiveFilter.split(topic)
                let expected = list.first { $0.filter.matches(levels) }?.effect == .allow
                let (found, once) = Array(topic.utf8).withUnsafeBytes {
                    (access.mayRead($0), rules.mayRead($0, reader))
                }
                if found != expected || once != expected {
                    Issue.record("\(topic): \(found), \(once), not \(expected), \(rules.rules), \(play.random.note)")
                }
            }
        }
    }

    /// Sound, whatever the rules: nothing that is granted as a whole has an unreadable topic. Complete where one rule
    /// allows; with several, or with denials, a subscription may be refused although they leave all of it together.
    @Test(
        "A subscription is granted as a whole only if all its topics are readable; with one allow rule, if and only if")
    func subscriptions() throws {
        var play = Play(random: Seeded(7_002))
        var granted = 0
        for round in 0..<400 {
            let isSingle = round % 2 == 0
            let list = (0...(isSingle ? 0 : play.random.below(4))).map { _ in
                (filter: play.filter(), effect: isSingle ? .allow : play.random.pick(AccessRule.Effect.allCases))
            }
            let rules = try AccessRules(
                list.map { AccessRule(effect: $0.effect, action: .subscribe, topics: [$0.filter.text]) },
                broadSubscriptions: .filter)
            let access = try #require(rules.resolve(for: Identity(), clientID: "c"))
            let wanted = play.filter()
            let filter = try TopicFilter(wanted.text, grammar: wanted.grammar)
            var (all, some) = (true, false)
            // Filters do not know that a topic has at least one character: `/#` stands for its parent, too.
            for topic in Self.topics + [""] where wanted.matches(NaiveFilter.split(topic)) {
                let isReadable = list.first { $0.filter.matches(NaiveFilter.split(topic)) }?.effect == .allow
                if isReadable { some = true } else { all = false }
            }
            let reach = access.reach(filter)
            let note = "\(wanted.text), \(rules.rules), \(play.random.note)"
            if reach == .everything, !all { Issue.record("too much: \(note)") }
            if reach == .nothing, some { Issue.record("something is allowed: \(note)") }
            if isSingle, (reach == .everything) != all { Issue.record("\(reach), not \(all): \(note)") }
            if reach == .everything { granted += 1 }
        }
        #expect(granted > 20, "the rules meet the filters")
    }
}
