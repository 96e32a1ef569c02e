import Core
import Testing

@testable import Bridge

@Suite("Events on their way out") struct DepartureQueueTests {
    private static func departure(_ sequence: UInt64, qos: UInt8 = 1) -> BridgeWire.Departure {
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        let event = Array("a".utf8).withUnsafeBytes {
            Event(topic: $0, properties: nothing, payload: nothing, qos: qos, isRetained: false)
        }
        return BridgeWire.Departure(sequence: sequence, event: event, qos: qos, isRetained: false)
    }

    private static func drain(_ queue: inout DepartureQueue) -> [UInt64] {
        var found: [UInt64] = []
        while let departure = queue.popFirst() { found.append(departure.sequence) }
        return found
    }

    @Test("Those that are put back go in the order that they had, whatever they are put back in")
    func putsBack() {
        for returns: [UInt64] in [[1, 2, 3], [3, 2, 1], [2, 5, 1], [5]] {
            var queue = DepartureQueue()
            queue.append((1...8).map { Self.departure($0) })
            for _ in 0..<5 { _ = queue.popFirst() }
            for sequence in returns { queue.putBack(Self.departure(sequence)) }
            #expect(Self.drain(&queue) == returns.sorted() + [6, 7, 8])
        }
        var empty = DepartureQueue()
        for sequence: UInt64 in [4, 2, 3] { empty.putBack(Self.departure(sequence)) }
        #expect(Self.drain(&empty) == [2, 3, 4])
    }

    @Test("One that always has more to come lets go of what has left")
    func forgets() {
        var queue = DepartureQueue()
        var (added, taken, most): (UInt64, UInt64, Int) = (0, 0, 0)
        for _ in 0..<2_000 {
            // Never empty: 256 wait, 20 go.
            while added - taken < 256 {
                added += 1
                queue.append([Self.departure(added)])
            }
            for _ in 0..<20 {
                taken += 1
                #expect(queue.popFirst()?.sequence == taken)
            }
            most = max(most, queue.keptCount)
        }
        #expect(most <= 2 * 256 + 128, "\(most) are kept")
    }

    @Test("Like a sorted list, in any order of things")
    func likeAList() {
        var random = Seeded(state: 21)
        var queue = DepartureQueue()
        var (model, gone): ([UInt64], [UInt64]) = ([], [])
        var last: UInt64 = 0
        for _ in 0..<20_000 {
            switch Int.random(in: 0...9, using: &random) {
            case 0...3:
                let more = (0..<UInt64.random(in: 0...5, using: &random)).map { last + 1 + $0 }
                last += UInt64(more.count)
                // An even number stands for QoS 1, an odd one for QoS 0.
                queue.append(more.map { Self.departure($0, qos: $0 % 2 == 0 ? 1 : 0) })
                model += more
            case 4...7:
                let taken = queue.popFirst()?.sequence
                #expect(taken == model.first)
                if let taken {
                    model.removeFirst()
                    if taken % 2 == 0 { gone.append(taken) }
                }
            case 8:
                guard let place = gone.indices.randomElement(using: &random) else { continue }
                let sequence = gone.remove(at: place)
                queue.putBack(Self.departure(sequence))
                model = (model + [sequence]).sorted()
            default:
                guard Int.random(in: 0...20, using: &random) == 0 else { continue }
                #expect(queue.takeDirect().map(\.sequence) == model.filter { $0 % 2 == 1 })
                model.removeAll { $0 % 2 == 1 }
            }
            #expect(queue.isEmpty == model.isEmpty && queue.next?.sequence == model.first)
        }
        #expect(Self.drain(&queue) == model)
    }
}
