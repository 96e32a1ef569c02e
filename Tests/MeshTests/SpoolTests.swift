import Testing
import TestSupport

@testable import Mesh

/// The spool in memory, and the queue that streams are made of.
@Suite("Spool") struct SpoolTests {
    private func text(_ spool: MemorySpool, _ position: SpoolPosition) -> String? {
        var found: String?
        spool.read(position) { found = String(decoding: $0, as: UTF8.self) }
        return found
    }

    @Test func onePayloadForAllDestinations() {
        let spool = MemorySpool()
        let first = spool.append(Array("first".utf8), for: [1, 2, 5])
        let second = spool.append(Array("second".utf8), for: [2])
        #expect(first != second && spool.count == 2)
        #expect(spool.bytes == MemorySpool.cost(of: 5) + MemorySpool.cost(of: 6))
        #expect(spool.bytes(for: 2) == spool.bytes && spool.bytes(for: 5) == MemorySpool.cost(of: 5))
        #expect(spool.bytes(for: 3) == 0 && spool.bytes(for: 99) == 0)
        spool.trim(first, for: 1)
        spool.trim(first, for: 5)
        #expect(text(spool, first) == "first" && spool.bytes(for: 5) == 0)
        spool.trim(first, for: 2)
        #expect(text(spool, first) == nil && text(spool, second) == "second" && spool.count == 1)
        // A slot that is used again is not the former tenant's.
        let third = spool.append(Array("third".utf8), for: [1])
        spool.trim(first, for: 1)
        #expect(text(spool, first) == nil && text(spool, third) == "third")
        spool.trim(second, for: 2)
        spool.trim(third, for: 1)
        #expect(spool.bytes == 0 && spool.count == 0 && spool.bytes(for: 1) == 0)
        let fourth = spool.append([1], for: [1])
        #expect(text(spool, third) == nil && text(spool, fourth) != nil)
    }

    @Test func whatIsReadMayBeChanged() {
        let spool = MemorySpool()
        let position = spool.append([1, 2, 3], for: [1])
        spool.read(position) { $0[1] = 9 }
        var found: [UInt8] = []
        spool.read(position) { found = Array($0) }
        #expect(found == [1, 9, 3])
        spool.read(.none) { _ in #expect(Bool(false)) }
        #expect(spool.append([1], for: []) == .none)
    }

    @Test func aRingIsAQueueFromBothEnds() {
        var ring = Ring<Int>()
        var model: [Int] = []
        var random = Seeded(3)
        for step in 0..<20_000 {
            // It grows to some hundreds and empties again.
            switch (random.below(3), step / 1_000 % 2 == 0) {
            case (0, _):
                ring.prepend(step)
                model.insert(step, at: 0)
            case (1, true):
                ring.append(step)
                model.append(step)
            case (1, false): #expect(ring.popFirst() == (model.isEmpty ? nil : model.removeFirst()))
            default: #expect(ring.popLast() == model.popLast())
            }
            #expect(ring.count == model.count && ring.first == model.first, "\(random.note)")
            if let index = model.indices.randomElement(using: &random) {
                ring[index] += 1
                model[index] += 1
                #expect(ring[index] == model[index], "\(random.note)")
            }
        }
        for value in 0..<5_000 { ring.append(value) }
        while ring.popFirst() != nil {}
        #expect(ring.isEmpty && ring.capacity <= 256)
    }
}
