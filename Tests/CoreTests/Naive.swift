import TestSupport

@testable import Core

/// A filter as the text of the standard reads, on split strings: the oracle for everything that is faster.
struct NaiveFilter {
    let text: String
    let levels: [String]
    let isSMF: Bool

    init(_ text: String, smf: Bool) {
        self.text = text
        levels = Self.split(text)
        isSMF = smf
    }

    var grammar: TopicFilter.Grammar { isSMF ? .smf : .mqtt }

    static func split(_ text: String) -> [String] {
        text.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
    }

    /// The same for filters of both grammars that mean the same.
    var meaning: String {
        levels.enumerated().map { index, level in
            if level == (isSMF ? "*" : "+") { return "one" }
            if level == "#", !isSMF { return "rest" }
            if level == ">", isSMF, index == levels.count - 1 { return "more" }
            if isSMF, level.hasSuffix("*") { return "prefix \(level)" }
            return "literal \(level)"
        }.joined(separator: "/")
    }

    func matches(_ topic: [String]) -> Bool {
        let one = isSMF ? "*" : "+"
        let rest = isSMF ? ">" : "#"
        if topic[0].hasPrefix("$"), levels[0] == one || levels[0] == rest && (levels.count == 1) { return false }
        for (index, level) in levels.enumerated() {
            if level == rest, index == levels.count - 1 { return isSMF ? topic.count > index : topic.count >= index }
            guard index < topic.count else { return false }
            if level == one { continue }
            if isSMF, level.hasSuffix("*") {
                guard topic[index].hasPrefix(level.dropLast()) else { return false }
            } else if level != topic[index] {
                return false
            }
        }
        return topic.count == levels.count
    }
}

/// Random topics and filters from few words, so that they meet often.
enum Words {
    static let levels = [
        "", "a", "b", "c", "ab", "abc", "red", "reddish", "sensor-number-17", "sensor-number-18", "ü", "$SYS", "*", ">",
    ]

    static func topic(_ random: inout Seeded) -> String {
        while true {
            let text = (0...random.below(5)).map { _ in random.pick(levels) }.joined(separator: "/")
            if !text.isEmpty { return text }
        }
    }

    static func filter(_ random: inout Seeded) -> NaiveFilter {
        while true {
            let smf = random.once(in: 2)
            let wild = smf ? ["*", "*", "a*", "re*", "sensor-number-1*", "$*", "+", "#"] : ["+", "+"]
            var parts = (0...random.below(4)).map { _ in random.pick(random.once(in: 3) ? wild : levels) }
            if random.once(in: 3) { parts.append(smf ? ">" : "#") }
            if random.once(in: 25) { parts = [smf ? ">" : "#"] }
            let text = parts.joined(separator: "/")
            if !text.isEmpty { return NaiveFilter(text, smf: smf) }
        }
    }
}

extension TopicFilter {
    func matches(_ topic: String) -> Bool { Array(topic.utf8).withUnsafeBytes { matches($0) } }
}
