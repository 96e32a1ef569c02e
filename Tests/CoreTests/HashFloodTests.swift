import Testing
import TestSupport

@testable import Core

/// Names that somebody has chosen: their places in tables depend on a random key, so no choice is better than chance.
@Suite("Hash flooding")
struct HashFloodTests {
    /// Names as an attacker would choose them, who knows the hash but not the key.
    enum Choice: String, CaseIterable {
        /// Collisions under another key, found by trying.
        case otherKey
        /// One long prefix, the difference in the last byte that counts.
        case sameEnds
        /// Differences only where few bytes of a short name are read.
        case short
        /// A block that makes the hash's product as small as text can.
        case weakBlock
        /// As they come.
        case random
    }

    static let count = 100_000

    static func names(_ choice: Choice) -> [[UInt8]] {
        var random = Seeded(6_600)
        func text(_ number: Int) -> [UInt8] { Array(String(number, radix: 36).utf8) }
        switch choice {
        case .random:
            return (0..<count).map { number in text(Int(random.next() >> 2)) + text(number) }
        case .otherKey:
            // All of them have 12 equal bits under a key that is not the node's.
            var found: [[UInt8]] = []
            var number = 0
            while found.count < count / 50 {
                let name = Array("dev-\(number)".utf8)
                if hash(name, key: 1) & 0xFF == 0x77 { found.append(name) }
                number += 1
            }
            return found
        case .sameEnds:
            let ends = Array("-the-same-end-of-all".utf8)
            return (0..<count).map { Array("the-same-beginning-of-all-".utf8) + text($0) + ends }
        case .short: return (0..<count / 4).map { text($0 + 1) }
        case .weakBlock:
            // The constant's bytes as far as UTF-8 goes, then what differs, then the same end.
            let block: [UInt8] = [0x2D, 0x64, 0x3D, 0x78, 0x64, 0x1D, 0x76, 0x20]
            return (0..<count).map { block + (text($0) + Array("________".utf8)).prefix(8) + Array("same-end".utf8) }
        }
    }

    static func hash(_ name: [UInt8], key: UInt64) -> UInt64 {
        name.withUnsafeBytes { bytes in bytes.baseAddress.map { hashBytes($0, bytes.count, key: key) } ?? 0 }
    }

    @Test("Chosen topics spread like random ones over a table's places", arguments: Choice.allCases)
    func spread(_ choice: Choice) {
        var random = Seeded(6_601)
        let key = random.next()
        let names = Self.names(choice)
        var size = 1
        while size < names.count { size *= 2 }
        // Both ends of the hash are used for places.
        for shift in [0, 32, 64 - size.trailingZeroBitCount] {
            var places = [Int](repeating: 0, count: size)
            for name in names {
                let hash = Self.hash(name, key: key) >> UInt64(shift)
                places[Int(truncatingIfNeeded: hash) & (size - 1)] += 1
            }
            // Poisson with a mean of at most 1: fourteen in one of 2^17 places is a chance of less than one in 10^6.
            #expect((places.max() ?? 0) < 14, "\(choice) \(shift), \(random.note)")
        }
    }

    @Test("Probes of the tree's table: chosen levels need as many as random ones", arguments: Choice.allCases)
    func probes(_ choice: Choice) {
        var random = Seeded(6_602)
        let key = random.next()
        let names = Self.names(choice)
        var size = 64
        while size < names.count * 2 { size *= 2 }
        var table = [Bool](repeating: false, count: size)
        var (most, sum) = (0, 0)
        for name in names {
            // As `TopicTree` makes the places of edges: level's hash and parent.
            let hash = foldedProduct(Self.hash(name, key: key), 3 &* 0x9E37_79B9_7F4A_7C15)
            var place = Int(UInt32(truncatingIfNeeded: hash)) & (size - 1)
            var probes = 1
            while table[place] {
                place = (place + 1) & (size - 1)
                probes += 1
            }
            table[place] = true
            most = max(most, probes)
            sum += probes
        }
        // Linear probing at a load of at most one half: 1.25 on average while filling, 1.5 for the last.
        #expect(Double(sum) / Double(names.count) < 1.6, "\(choice): \(sum), \(random.note)")
        #expect(most < 80, "\(choice), \(random.note)")
    }

    @Test("100,000 chosen topics through the router: the cache and the index stay as they are for random ones")
    func router() throws {
        func work(_ choice: Choice) throws -> (misses: UInt64, work: Int) {
            let field = Field()
            for name in Self.names(choice).prefix(20_000) {
                let topic = String(decoding: name, as: UTF8.self)
                try field.subscribe(field.recorder(), topic)
            }
            for name in Self.names(choice).prefix(20_000) {
                #expect(field.publish(String(decoding: name, as: UTF8.self)).matched == 1)
            }
            return (field.all[0].counters.cacheMisses, field.all[0].matchingWork)
        }
        let (random, chosen) = (try work(.random), try work(.sameEnds))
        #expect(chosen.misses <= random.misses * 11 / 10 && chosen.work <= random.work * 11 / 10)
    }
}
