import Core
import Foundation

/// A seeded generator (SplitMix64): the same seed, the same test. `APUS_SEED` replays one that failed.
struct Seeded: RandomNumberGenerator {
    private var state: UInt64

    /// The seed for this run, to be shown when a test fails.
    static let seed = ProcessInfo.processInfo.environment["APUS_SEED"].flatMap { UInt64($0) } ?? 20_261_121

    init(_ salt: UInt64 = 0) { state = Self.seed &+ salt &* 0x9E37_79B9_7F4A_7C15 }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// A number below `bound`.
    mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }

    mutating func pick<Element>(_ elements: [Element]) -> Element { elements[below(elements.count)] }

    /// A topic of few distinct levels, so that filters often match.
    mutating func topic() -> String {
        let names = ["a", "b", "ab", "abc", "", "$x", "long-level-name-of-some-length"]
        return (0...below(4)).map { _ in pick(names) }.joined(separator: "/").nonEmpty
    }

    /// A well-formed filter of the grammar.
    mutating func filter(_ grammar: TopicFilter.Grammar) -> String {
        let names = ["a", "b", "ab", "abc", "", "$x", "long-level-name-of-some-length"]
        let wild = grammar == .mqtt ? ["+", "a*", "*", ">"] : ["*", "a*", "ab*", "+", "#"]
        var levels = (0...below(4)).map { _ in below(3) == 0 ? pick(wild) : pick(names) }
        if below(4) == 0 { levels[levels.count - 1] = grammar == .mqtt ? "#" : ">" }
        return levels.joined(separator: "/").nonEmpty
    }
}

extension String {
    fileprivate var nonEmpty: String { isEmpty ? "a" : self }
}

/// The meaning of a filter, written as plainly as possible: what the compiled filter, the index and the retained
/// events are compared with.
enum Oracle {
    static func matches(_ filter: String, _ grammar: TopicFilter.Grammar, _ topic: String) -> Bool {
        let wanted = filter.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
        let levels = topic.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
        let isMQTT = grammar == .mqtt
        let wildcards = isMQTT ? ["+", "#"] : ["*", ">"]
        if levels[0].hasPrefix("$") {
            if wanted[0] == wildcards[0] || (wanted[0] == wildcards[1] && wanted.count == 1) { return false }
        }
        for (index, level) in wanted.enumerated() {
            let isLast = index == wanted.count - 1
            if isMQTT, level == "#" { return true }
            if !isMQTT, level == ">", isLast { return index < levels.count }
            guard index < levels.count else { return false }
            if level == wildcards[0] { continue }
            if !isMQTT, level.hasSuffix("*") {
                guard levels[index].hasPrefix(level.dropLast()) else { return false }
                continue
            }
            guard level == levels[index] else { return false }
        }
        return wanted.count == levels.count
    }
}
