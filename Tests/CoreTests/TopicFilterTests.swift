import Testing

@testable import Core

@Suite struct TopicFilterTests {
    @Test(arguments: ["a", "/", "a//b", "/a/", "$x/y", "a/b+c*>", "ä/日本"])
    func ordinaryTopicsAreValid(_ topic: String) {
        // `+` is a wildcard in the MQTT grammar and therefore no part of any topic.
        #expect(isValid(topic) == !topic.contains("+"))
    }

    @Test(arguments: ["", "a/#", "+", "a\0b"])
    func topicsThatCannotBePublishedTo(_ topic: String) { #expect(!isValid(topic)) }

    @Test func boundsOfTopics() {
        #expect(isValid(String(repeating: "a/", count: 127) + "a"))
        #expect(!isValid(String(repeating: "a/", count: 128) + "a"))
        #expect(isValid(String(repeating: "x", count: 65_535)))
        #expect(!isValid(String(repeating: "x", count: 65_536)))
    }

    @Test(
        arguments: [
            [0x80], [0xC0, 0x80], [0xC1, 0xBF], [0xE0, 0x9F, 0x80], [0xED, 0xA0, 0x80], [0xF0, 0x8F, 0x80, 0x80],
            [0xF4, 0x90, 0x80, 0x80], [0xF5, 0x80, 0x80, 0x80], [0xE2, 0x82], [0xE2, 0x28, 0xA1], [0xFF],
        ] as [[UInt8]])
    func malformedUTF8IsRefused(_ bytes: [UInt8]) { #expect(!bytes.withUnsafeBytes(Topic.isUTF8)) }

    @Test func utf8AgreesWithTheStandardLibrary() {
        var random = Seeded(1)
        for _ in 0..<20_000 {
            let bytes = (0..<random.below(6)).map { _ in
                random.below(2) == 0 ? UInt8(random.below(256)) : random.pick([0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x41])
            }
            let expected = String(validating: bytes, as: UTF8.self) != nil
            #expect(bytes.withUnsafeBytes(Topic.isUTF8) == expected, "\(bytes)")
        }
    }

    @Test(arguments: [
        ("", TopicFilter.Failure.empty), ("a+", .misplacedWildcard), ("+a/b", .misplacedWildcard),
        ("a/#/b", .misplacedWildcard), ("a#", .misplacedWildcard), ("$share", .malformedShare),
        ("$share/", .malformedShare), ("$share/g", .malformedShare), ("$share//a", .malformedShare),
        ("$share/g+/a", .malformedShare), ("$share/g/", .malformedShare), ("a\0", .notText),
        ("$local/", .empty),
    ])
    func malformedFilters(_ text: String, _ failure: TopicFilter.Failure) {
        #expect(throws: failure) { try TopicFilter(text, grammar: .mqtt) }
    }

    @Test func optionsInFront() throws {
        let shared = try TopicFilter("$share/g/a/+", grammar: .mqtt)
        #expect(shared.group == Array("g".utf8) && shared.text == "a/+")
        let local = try TopicFilter("$local/a", grammar: .mqtt)
        #expect(local.isLocalOnly && local.text == "a" && local.group == nil)
        // Only the exact words mean something.
        #expect(try TopicFilter("$shared/g/a", grammar: .mqtt).group == nil)
    }

    @Test func matchesLikeTheOracle() throws {
        var random = Seeded(2)
        for _ in 0..<100_000 {
            let grammar: TopicFilter.Grammar = random.below(2) == 0 ? .mqtt : .smf
            let (text, topic) = (random.filter(grammar), random.topic())
            guard let filter = try? TopicFilter(text, grammar: grammar) else { continue }
            let found = Array(topic.utf8).withUnsafeBytes { filter.matches($0) }
            #expect(found == Oracle.matches(text, grammar, topic), "\(text) \(grammar) \(topic)")
        }
    }

    @Test func coveringAndIntersectingMeanWhatTheySay() throws {
        let topics = Self.smallTopics()
        var random = Seeded(3)
        for _ in 0..<3_000 {
            let grammar: TopicFilter.Grammar = random.below(2) == 0 ? .mqtt : .smf
            guard let one = try? TopicFilter(random.filter(grammar), grammar: grammar),
                let two = try? TopicFilter(random.filter(grammar), grammar: grammar)
            else { continue }
            let matchedByOne = topics.map { one.matches(UnsafeRawBufferPointer($0)) }
            let matchedByTwo = topics.map { two.matches(UnsafeRawBufferPointer($0)) }
            let both = zip(matchedByOne, matchedByTwo)
            // What it claims must hold for every topic; it may be more careful than necessary.
            if one.covers(two) { #expect(both.allSatisfy { $0 || !$1 }, "\(one.text) covers \(two.text)") }
            if both.contains(where: { $0 && $1 }) { #expect(one.intersects(two), "\(one.text) meets \(two.text)") }
        }
        topics.forEach { $0.deallocate() }
    }

    /// Every topic of up to four levels over the levels that random filters use.
    private static func smallTopics() -> [UnsafeMutableRawBufferPointer] {
        let names = ["a", "ab", "abc", "", "$x", "long-level-name-of-some-length", "z"]
        var all = names
        var last = names
        for _ in 0..<3 {
            last = last.flatMap { head in names.map { head + "/" + $0 } }
            all += last
        }
        return all.filter { !$0.isEmpty }.map { topic in
            let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: topic.utf8.count, alignment: 1)
            copy.copyBytes(from: topic.utf8)
            return copy
        }
    }

    private func isValid(_ topic: String) -> Bool {
        Array(topic.utf8).withUnsafeBytes { Topic.isValid($0, limits: Limits()) }
    }
}
