import Testing
import TestSupport

@testable import Core

@Suite("What others are told of a node's filters")
struct CoverTests {
    /// A set, what others know of it, and what there is to compare with.
    final class Pair {
        let cover = CoverSet(key: 99)
        var wanted: [String: NaiveFilter] = [:]
        /// Wanted since before all that begins was last told.
        var settled: [String: NaiveFilter] = [:]
        var told: [[UInt8]: TopicFilter] = [:]
        var random: Seeded
        var topics: [String] = []

        init(_ stream: UInt64) {
            random = Seeded(stream)
            topics = (0..<150).map { _ in Words.topic(&random) }
        }

        func filter() -> NaiveFilter {
            while true {
                let naive = Words.filter(&random)
                if !naive.text.hasPrefix("$"), !naive.text.hasPrefix("*$") { return naive }
            }
        }

        func change() throws {
            if random.once(in: 2) {
                let naive = filter()
                cover.insert(try TopicFilter(naive.text, grammar: naive.grammar))
                wanted[naive.meaning] = naive
            } else if let (key, naive) = wanted.sorted(by: { $0.key < $1.key }).randomElement(using: &random) {
                cover.remove(try TopicFilter(naive.text, grammar: naive.grammar))
                wanted[key] = nil
                settled[key] = nil
            }
        }

        /// Tells a few changes; at no moment may others miss what has been settled.
        func tell(_ max: Int) {
            cover.takeChanges(max: max) { filter, begins in
                if begins {
                    #expect(told[filter.canonical] == nil)
                    told[filter.canonical] = filter
                } else {
                    let known = told.removeValue(forKey: filter.canonical)
                    #expect(known != nil)
                }
                check()
            }
            #expect(cover.toldCount == told.count)
        }

        func check() {
            for topic in topics {
                let levels = NaiveFilter.split(topic)
                guard settled.values.contains(where: { $0.matches(levels) }) else { continue }
                #expect(told.values.contains { $0.matches(topic) }, "\(topic) is missed, \(random.note)")
            }
        }

        func finish() {
            while cover.hasWork || cover.hasChanges {
                cover.work(3)
                tell(4)
            }
            settled = wanted
            check()
        }
    }

    @Test("Others never miss a topic, and in the end are told nothing that another filter says", arguments: 1...6)
    func againstNaive(_ stream: UInt64) throws {
        let pair = Pair(stream)
        for round in 0..<120 {
            for _ in 0..<1 + pair.random.below(8) { try pair.change() }
            pair.cover.work(pair.random.below(6))
            pair.tell(1 + pair.random.below(6))
            guard round % 4 == 3 else { continue }
            pair.finish()
            #expect(pair.cover.count == pair.wanted.count)
            let told = pair.told.values.sorted { $0.text < $1.text }
            let wanted = Set(try pair.wanted.values.map { try TopicFilter($0.text, grammar: $0.grammar).canonical })
            for one in told {
                #expect(wanted.contains(one.canonical), "\(one.text) is told, but not wanted, \(pair.random.note)")
                for other in told where one != other {
                    #expect(!one.covers(other), "\(one.text) and \(other.text) are both told, \(pair.random.note)")
                }
            }
        }
    }

    @Test("A broad filter stands for narrow ones until it goes; they are told before it is forgotten")
    func makeBeforeBreak() throws {
        let cover = CoverSet(key: 1)
        var log: [String] = []
        func tell() {
            while cover.hasWork || cover.hasChanges {
                cover.work(100)
                cover.takeChanges(max: 100) { log.append(($1 ? "+" : "-") + $0.text) }
            }
        }
        for number in 0..<3 { cover.insert(try TopicFilter("a/\(number)", grammar: .mqtt)) }
        tell()
        cover.insert(try TopicFilter("a/#", grammar: .mqtt))
        tell()
        #expect(log.prefix(4) == ["+a/0", "+a/1", "+a/2", "+a/#"])
        #expect(log.dropFirst(4).sorted() == ["-a/0", "-a/1", "-a/2"])
        log = []
        cover.insert(try TopicFilter("a/x", grammar: .mqtt))
        tell()
        #expect(log.isEmpty, "it is covered already")
        cover.remove(try TopicFilter("a/#", grammar: .mqtt))
        tell()
        #expect(log.last == "-a/#" && log.dropLast().sorted() == ["+a/0", "+a/1", "+a/2", "+a/x"])
    }

    @Test("Filters that match the same topics do not hide each other")
    func sameMeaning() throws {
        let cover = CoverSet(key: 1)
        let texts = ["a/+/#", "a/>", "#", ">", "+/#"]
        for first in texts {
            for second in texts where first != second {
                for text in [first, second] { cover.insert(try TopicFilter(text, grammar: .either)) }
                var told = Set<String>()
                while cover.hasWork || cover.hasChanges {
                    cover.work(10)
                    cover.takeChanges(max: 10) { if $1 { told.insert($0.text) } else { told.remove($0.text) } }
                }
                #expect(told.count == 1, "\(first) and \(second): \(told)")
                for text in [first, second] { cover.remove(try TopicFilter(text, grammar: .either)) }
                while cover.hasWork || cover.hasChanges {
                    cover.work(10)
                    cover.takeChanges(max: 10) { if $1 { told.insert($0.text) } else { told.remove($0.text) } }
                }
                #expect(told.isEmpty && cover.count == 0 && cover.toldCount == 0)
            }
        }
    }

    @Test("A search that takes too long ends with the filter told")
    func searchesEnd() throws {
        let cover = CoverSet(key: 1)
        // Every way through these looks promising up to the last level.
        for number in 0..<1 << 9 {
            let levels = (0..<9).map { number >> $0 & 1 == 0 ? "+" : "x" }
            cover.insert(try TopicFilter((levels + ["end"]).joined(separator: "/"), grammar: .mqtt))
        }
        cover.work(1 << 20)
        cover.insert(try TopicFilter("x/x/x/x/x/x/x/x/x/other", grammar: .mqtt))
        #expect(cover.searchesGivenUp > 0)
        cover.work(1 << 20)
        var told: [String] = []
        while cover.hasChanges { cover.takeChanges(max: 100) { if $1 { told.append($0.text) } } }
        #expect(told.contains("x/x/x/x/x/x/x/x/x/other"))
    }
}
