import Testing
import TestSupport

@testable import Core

@Suite("The canonical form of filters, and the laws of covering")
struct RemoteCanonicalTests {
    @Test("Filters have the same form exactly if they are written with the same levels, and come back as they were")
    func roundTrip() throws {
        var random = Seeded(811)
        var meanings: [[UInt8]: String] = [:]
        for _ in 0..<3_000 {
            let naive = Words.filter(&random)
            let group = random.once(in: 4) ? random.pick(["g", "h", "a/b"].dropLast()) : nil
            let text = (group.map { "$share/\($0)/" } ?? "") + naive.text
            let filter = try TopicFilter(text, grammar: naive.grammar)
            let canonical = filter.canonical
            let meaning = (filter.group.map { "\($0)|" } ?? "") + naive.meaning
            #expect(meanings[canonical] == nil || meanings[canonical] == meaning, "\(text)")
            meanings[canonical] = meaning
            let back = try #require(canonical.withUnsafeBytes { TopicFilter(canonical: $0) }, "\(text)")
            #expect(back.canonical == canonical && back.group == filter.group)
            let topic = Words.topic(&random)
            #expect(back.matches(topic) == filter.matches(topic), "\(text) and \(topic), \(random.note)")
        }
        #expect(Set(meanings.values).count == meanings.count)
    }

    @Test("Whatever is no canonical form is refused")
    func malformed() {
        let cases: [[UInt8]] = [
            [], [0], [0, 0x41], [0x61, 0, 0x2B], [0, 0x23, 0x2F, 0x61], [0, 0x3E, 0x2F], [0, 0x2A], [0x61, 0],
            [0, 0x67, 0, 0x61], [0, 0x67, 0x61], [0, 0x67, 0x61, 0], [0, 0x67, 0x2F, 0, 0x61],
            [0, 0x67, 0x2B, 0, 0x61],
            [0xFF], [0x61, 0, 0x2A, 0x61], Array(repeating: 0x2F, count: 128), Array(repeating: 0x61, count: 65_536),
        ]
        for bytes in cases {
            #expect(bytes.withUnsafeBytes { TopicFilter(canonical: $0) } == nil, "\(bytes.prefix(9))")
        }
        var random = Seeded(812)
        for _ in 0..<20_000 {
            let bytes = (0..<1 + random.below(9)).map { _ in
                random.pick([0, 0x2B, 0x23, 0x2A, 0x3E, 0x67, 0x2F, 0x61] as [UInt8])
            }
            guard let filter = bytes.withUnsafeBytes({ TopicFilter(canonical: $0) }) else { continue }
            #expect(filter.canonical == bytes, "there is one form only: \(bytes)")
        }
    }

    @Test("Covering is reflexive and transitive; what is covered meets whatever it meets")
    func laws() throws {
        var random = Seeded(813)
        let filters = try (0..<120).map { _ in
            let naive = Words.filter(&random)
            return try TopicFilter(naive.text, grammar: naive.grammar)
        }
        var chains = 0
        for a in filters {
            #expect(a.covers(a) && a.intersects(a))
            for b in filters where a.covers(b) {
                #expect(a.intersects(b) && b.intersects(a))
                for c in filters where b.covers(c) {
                    chains += 1
                    #expect(a.covers(c), "\(a.text), \(b.text), \(c.text), \(random.note)")
                }
                for c in filters where b.intersects(c) { #expect(a.intersects(c), "\(a.text), \(b.text), \(c.text)") }
            }
        }
        #expect(chains > 200)
    }
}
