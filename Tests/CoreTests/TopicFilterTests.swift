import Testing
import TestSupport

@testable import Core

@Suite("Topic filters")
struct TopicFilterTests {
    typealias Kind = TopicFilter.Kind

    @Test(
        "MQTT filters",
        arguments: [
            ("a", [Kind.literal]), ("a/b", [.literal, .literal]), ("+", [.single]), ("#", [.rest]),
            ("/", [.literal, .literal]),
            ("+/a/#", [.single, .literal, .rest]), ("/+", [.literal, .single]), ("/#", [.literal, .rest]),
            ("a*/b>/*/>", [.literal, .literal, .literal, .literal]), ("$SYS/#", [.literal, .rest]), ("$", [.literal]),
            ("$sharex/a", [.literal, .literal]), ("$local", [.literal]), ("$localx/a", [.literal, .literal]),
        ])
    func mqtt(_ text: String, _ kinds: [Kind]) throws {
        let filter = try TopicFilter(text, grammar: .mqtt)
        #expect(filter.levels.map(\.kind) == kinds)
        #expect(filter.text == text)
        #expect(filter.group == nil && !filter.isLocalOnly)
    }

    @Test(
        "SMF filters",
        arguments: [
            ("a", [Kind.literal]), ("*", [.single]), (">", [.more]), ("red*/b", [.prefix, .literal]),
            ("*ed", [.literal]),
            ("r*d", [.literal]), ("a/>", [.literal, .more]), (">/a", [.literal, .literal]),
            ("a/b>", [.literal, .literal]),
            ("+/#", [.literal, .literal]), ("a+", [.literal]), ("**", [.prefix]), ("*/>", [.single, .more]),
            ("/*", [.literal, .single]), ("a/>/b", [.literal, .literal, .literal]),
        ])
    func smf(_ text: String, _ kinds: [Kind]) throws {
        #expect(try TopicFilter(text, grammar: .smf).levels.map(\.kind) == kinds)
    }

    @Test(
        "Either grammar, decided by the whole filter",
        arguments: [
            ("a/+", [Kind.literal, .single]), ("a/*", [.literal, .single]), ("a/*/#", [.literal, .literal, .rest]),
            ("+/>", [.single, .literal]), ("*/>", [.single, .more]), ("a", [.literal]),
        ])
    func either(_ text: String, _ kinds: [Kind]) throws {
        #expect(try TopicFilter(text, grammar: .either).levels.map(\.kind) == kinds)
    }

    @Test(
        "Misplaced wildcards",
        arguments: ["a+", "+a", "a/+b", "++", "a#", "#a", "#/a", "a/#/b", "##", "+#", "a/b#", "#/", "a/+/#/", "a#/b"])
    func misplaced(_ text: String) {
        #expect(throws: TopicFilter.Failure.misplacedWildcard) { try TopicFilter(text, grammar: .mqtt) }
        #expect(throws: TopicFilter.Failure.misplacedWildcard) { try TopicFilter(text, grammar: .either) }
        #expect(throws: Never.self) { try TopicFilter(text, grammar: .smf) }
    }

    @Test("Refused in both grammars", arguments: [TopicFilter.Grammar.mqtt, .smf, .either])
    func refused(_ grammar: TopicFilter.Grammar) {
        func failure(_ text: String) -> TopicFilter.Failure? {
            do {
                _ = try TopicFilter(text, grammar: grammar)
                return nil
            } catch { return error }
        }
        #expect(failure("") == .empty)
        #expect(failure("$local/") == .empty)
        #expect(failure("a\0") == .notText)
        #expect(failure("\0") == .notText)
        for text in [
            "$share", "$share/", "$share/g", "$share/g/", "$share//a", "$share//", "$share/g+/a", "$share/g#/a",
        ] {
            #expect(failure(text) == .malformedShare, "\(text)")
        }
        #expect(failure("$share/+/a") == .malformedShare)
        #expect(failure(String(repeating: "/", count: 127)) == nil)
        #expect(failure(String(repeating: "/", count: 128)) == .tooManyLevels)
        #expect(failure(String(repeating: "a", count: 65_535)) == nil)
        #expect(failure(String(repeating: "a", count: 65_536)) == .tooLong)
    }

    @Test("Shared and local-only filters")
    func options() throws {
        let shared = try TopicFilter("$share/group one/a/+/#", grammar: .mqtt)
        #expect(shared.group == Array("group one".utf8))
        #expect(shared.text == "a/+/#")
        #expect(shared.levels.map(\.kind) == [.literal, .single, .rest])
        #expect(try TopicFilter("$share/g//", grammar: .mqtt).text == "/")
        #expect(try TopicFilter("$share/g/$SYS/a", grammar: .mqtt).matches("$SYS/a"))
        #expect(throws: TopicFilter.Failure.misplacedWildcard) { try TopicFilter("$share/g/a+", grammar: .mqtt) }
        let local = try TopicFilter("$local/a/>", grammar: .smf)
        #expect(local.isLocalOnly && local.group == nil && local.text == "a/>")
        #expect(local.levels.map(\.kind) == [.literal, .more])
    }

    @Test("An option in front counts once: a filter of nothing but options costs no more than another")
    func repeatedOptions() throws {
        let twice = try TopicFilter("$local/$local/a", grammar: .mqtt)
        #expect(twice.isLocalOnly && twice.text == "$local/a" && twice.wholeText == "$local/$local/a")
        // Read one in the other, this many would need a stack of megabytes and hundreds of megabytes of copies.
        let many = String(repeating: "$local/", count: 9_000) + "a"
        #expect(throws: TopicFilter.Failure.tooManyLevels) { try TopicFilter(many, grammar: .mqtt) }
        #expect(try TopicFilter("$share/g/$share/h/a", grammar: .mqtt).text == "$share/h/a")
    }

    @Test(
        "The standard's own examples (MQTT 3.1.1 section 4.7)",
        arguments: [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/#", "sport", true), ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true), ("+/+", "/finance", true), ("/+", "/finance", true), ("+", "/finance", false),
            ("#", "$SYS/x", false), ("+/monitor/Clients", "$SYS/monitor/Clients", false), ("$SYS/#", "$SYS/x", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true), ("$SYS/#", "$SYS", true), ("a", "A", false),
        ])
    func examples(_ filter: String, _ topic: String, _ isMatch: Bool) throws {
        #expect(try TopicFilter(filter, grammar: .mqtt).matches(topic) == isMatch)
        #expect(NaiveFilter(filter, smf: false).matches(NaiveFilter.split(topic)) == isMatch)
    }

    @Test(
        "SMF wildcards",
        arguments: [
            ("a/>", "a", false), ("a/>", "a/", true), ("a/>", "a/b/c", true), ("red*", "red", true),
            ("red*", "reddish", true),
            ("red*", "re", false), ("*", "a", true), ("*", "a/b", false), (">", "$x", false), ("$*/a", "$x/a", true),
            ("*ed", "red", false), ("*ed", "*ed", true), ("r*d", "r*d", true), (">/a", ">/a", true),
            ("a/*/c", "a//c", true),
        ])
    func smfExamples(_ filter: String, _ topic: String, _ isMatch: Bool) throws {
        #expect(try TopicFilter(filter, grammar: .smf).matches(topic) == isMatch)
        #expect(NaiveFilter(filter, smf: true).matches(NaiveFilter.split(topic)) == isMatch)
    }

    @Test("`*` and `>` of an MQTT client stay ordinary characters")
    func noWildcardLeak() throws {
        #expect(try !TopicFilter("a/*", grammar: .mqtt).matches("a/b"))
        #expect(try !TopicFilter("a/>", grammar: .mqtt).matches("a/b"))
        #expect(try !TopicFilter("a*", grammar: .mqtt).matches("ab"))
        #expect(try TopicFilter("a/*", grammar: .mqtt).matches("a/*"))
    }

    @Test("Matching against the naive matcher on random pairs")
    func oracle() throws {
        var random = Seeded(3)
        let topics = (0..<300).map { _ in Words.topic(&random) }.map { ($0, NaiveFilter.split($0)) }
        var matched = 0
        for _ in 0..<300 {
            let naive = Words.filter(&random)
            let filter = try TopicFilter(naive.text, grammar: naive.grammar)
            for (topic, levels) in topics where filter.matches(topic) != naive.matches(levels) {
                Issue.record("\(naive.text) (\(naive.grammar)) and \(topic), \(random.note)")
            }
            matched += topics.count { naive.matches($0.1) }
        }
        #expect(matched > 1_000, "the words must meet often enough to prove something")
    }
}
