import Testing
import TestSupport

@testable import Core

@Suite("Tables and arenas")
struct NumberTableTests {
    @Test("The number table against a dictionary, through several growths", arguments: [4, 10, 32])
    func numberTable(_ hashBits: Int) {
        // Few hash bits make long runs and equal hashes, which is where deletion by shifting back can go wrong.
        var random = Seeded(UInt64(10 + hashBits))
        var table = NumberTable()
        var known: [UInt32: UInt32] = [:]
        var numbers: [UInt32] = []
        let size = hashBits == 32 ? 30_000 : 900
        for phase in 0..<4 {
            for _ in 0..<size * 2 {
                let grows = phase % 2 == 0 ? !random.once(in: 4) : random.once(in: 4)
                if grows, numbers.count < size {
                    let number = UInt32(truncatingIfNeeded: random.next()) | 1
                    guard known[number] == nil else { continue }
                    let hash = UInt32(truncatingIfNeeded: random.next() >> (64 - UInt64(hashBits)))
                    known[number] = hash
                    numbers.append(number)
                    table.insert(number, hash: hash)
                } else if !numbers.isEmpty {
                    numbers.swapAt(random.below(numbers.count), numbers.count - 1)
                    let number = numbers.removeLast()
                    table.remove(number, hash: known.removeValue(forKey: number)!)
                    #expect(table.find(0, where: { $0 == number }) == 0)
                }
            }
            #expect(table.count == known.count, "\(random.note)")
            for (number, hash) in known where table.find(hash, where: { $0 == number }) != number {
                Issue.record("\(number) is lost, \(random.note)")
            }
            for _ in 0..<1_000 {
                let number = UInt32(truncatingIfNeeded: random.next()) & ~1
                #expect(table.find(UInt32(truncatingIfNeeded: random.next()), where: { $0 == number }) == 0)
            }
        }
        for number in numbers { table.remove(number, hash: known[number]!) }
        #expect(table.count == 0)
    }

    @Test("Removing what is not there changes nothing")
    func removeUnknown() {
        var table = NumberTable()
        table.insert(7, hash: 1)
        table.remove(8, hash: 1)
        #expect(table.count == 1)
        #expect(table.find(1, where: { $0 == 7 }) == 7)
    }

    @Test("The arena against a dictionary: numbers are used again, records stay where they are")
    func arena() {
        var random = Seeded(20)
        var arena = Arena<UInt64>()
        var known: [UInt32: UInt64] = [:]
        var numbers: [UInt32] = []
        for step in 0..<200_000 {
            if step < 90_000 || random.once(in: 2) || numbers.isEmpty {
                let value = random.next()
                let number = arena.allocate(value)
                if number == 0 || known[number] != nil { Issue.record("\(number) given out twice, \(random.note)") }
                known[number] = value
                numbers.append(number)
            } else {
                numbers.swapAt(random.below(numbers.count), numbers.count - 1)
                let number = numbers.removeLast()
                if arena[number] != known.removeValue(forKey: number) { Issue.record("\(number), \(random.note)") }
                arena.release(number)
            }
        }
        #expect(arena.count == known.count)
        for (number, value) in known where arena[number] != value { Issue.record("\(number), \(random.note)") }
        arena[numbers[0]] = 5
        #expect(arena[numbers[0]] == 5)
    }

    @Test("An arena that gives back holds no more blocks than its records need, and one to spare")
    func givesBack() {
        var random = Seeded(22)
        var arena = Arena<UInt64>(givesBack: true)
        var known: [UInt32: UInt64] = [:]
        for round in 0..<6 {
            while known.count < 30_000 {
                let value = random.next()
                let number = arena.allocate(value)
                if number == 0 || known[number] != nil { Issue.record("\(number) given out twice, \(random.note)") }
                known[number] = value
            }
            // In the order of numbers, whole blocks become empty on the way; in any order, at the end.
            let order = round % 2 == 0 ? known.keys.sorted() : known.keys.shuffled(using: &random)
            for number in order.dropLast(round % 3 == 0 ? 0 : 100) {
                if arena[number] != known.removeValue(forKey: number) { Issue.record("\(number), \(random.note)") }
                arena.release(number)
            }
            let (count, held, highest) = (arena.count, arena.blocksHeld, arena.highest)
            #expect(count == known.count && highest < 32_768)
            if round % 3 == 0 { #expect(held <= 2, "the first block and the spare one") }
            if round % 2 == 0 { #expect(held <= 3) }
        }
        for (number, value) in known where arena[number] != value { Issue.record("\(number), \(random.note)") }
    }

    @Test("The byte arena keeps what it is given, up to 65,535 bytes")
    func byteArena() {
        var random = Seeded(21)
        var arena = ByteArena()
        var known: [(place: UInt32, bytes: [UInt8])] = []
        for _ in 0..<3_000 {
            if random.once(in: 3), !known.isEmpty {
                known.swapAt(random.below(known.count), known.count - 1)
                let (place, bytes) = known.removeLast()
                arena.release(place, count: bytes.count)
            } else {
                let count = random.once(in: 50) ? 65_535 - random.below(9) : random.below(40)
                let bytes = [UInt8](repeating: UInt8(random.below(256)), count: count)
                known.append((bytes.withUnsafeBytes { arena.store($0) }, bytes))
            }
        }
        for (place, bytes) in known {
            let stored = Array(UnsafeRawBufferPointer(start: arena.address(place), count: bytes.count))
            if stored != bytes { Issue.record("place \(place), \(random.note)") }
        }
    }
}
