import Testing
import TestSupport

@testable import Core

/// `covers` decides allow rules, `intersects` deny rules: both against every topic of a small world.
@Suite("What filters cover and where they meet, by brute force")
struct FilterAlgebraTests {
    /// Every topic of one to four levels. The words are such that each kind of level can be told from each other. The
    /// empty topic is among them: nobody can publish it, but it is the parent that `/#` speaks of.
    private static let topics: [[String]] = {
        let words = ["", "a", "ab", "abc", "b", "$", "$s", "$st"]
        var all: [[String]] = [[]]
        var last: [[String]] = [[]]
        for _ in 0..<4 {
            last = last.flatMap { head in words.map { head + [$0] } }
            all += last
        }
        return Array(all.dropFirst())
    }()

    private struct Case {
        var naive: NaiveFilter
        var filter: TopicFilter
        var matches: [UInt64]
    }

    private static func makeCase(_ text: String, smf: Bool) throws -> Case {
        let naive = NaiveFilter(text, smf: smf)
        var matches = [UInt64](repeating: 0, count: (topics.count + 63) / 64)
        for (number, topic) in topics.enumerated() where naive.matches(topic) {
            matches[number / 64] |= 1 << UInt64(number % 64)
        }
        return Case(naive: naive, filter: try TopicFilter(text, grammar: naive.grammar), matches: matches)
    }

    private static func randomCases(_ random: inout Seeded) throws -> [Case] {
        var texts: Set<String> = ["#", ">", "+", "*", "+/#", "*/>", "+/+/#", "$s/#", "$*/>", "a/#", "a/>", "a/+/#"]
        while texts.count < 260 {
            let smf = random.once(in: 2)
            let words =
                ["", "a", "ab", "abc", "b", "$s"] + (smf ? ["*", "*", "a*", "ab*", "$*", "$s*"] : ["+", "+", "+"])
            var parts = (0..<1 + random.below(3)).map { _ in random.pick(words) }
            if random.once(in: 3) { parts[parts.count - 1] = smf ? ">" : "#" }
            if parts != [""] { texts.insert(parts.joined(separator: "/")) }
        }
        return try texts.map { try makeCase($0, smf: !$0.contains("#") && !$0.contains("+")) }
    }

    @Test("Every pair of 260 filters")
    func everyPair() throws {
        var random = Seeded(600)
        let cases = try Self.randomCases(&random)
        var (covering, meeting) = (0, 0)
        for one in cases {
            for other in cases {
                let covers = zip(one.matches, other.matches).allSatisfy { $1 & ~$0 == 0 }
                let meets = zip(one.matches, other.matches).contains { $0 & $1 != 0 }
                let texts = "\(one.naive.text) and \(other.naive.text), \(random.note)"
                if one.filter.covers(other.filter) != covers { Issue.record("covers should be \(covers): \(texts)") }
                if one.filter.intersects(other.filter) != meets { Issue.record("meets should be \(meets): \(texts)") }
                covering += covers ? 1 : 0
                meeting += meets ? 1 : 0
            }
        }
        #expect(covering > 500 && meeting > covering)
    }
}
