/// Storage of the topic trees: records are numbered, never moved, and freed numbers are used again. Growing never
/// copies what is there, so a writer that holds the index never stalls readers for long.

/// Numbered records of a trivial type, of at least 4 bytes, in blocks of 4,096. Number 0 is never given out: it means
/// none. A free record's first bytes hold the number of the next free one.
struct Arena<Record: BitwiseCopyable>: ~Copyable {
    private static var blockShift: UInt32 { 12 }
    private static var blockSize: Int { 1 << 12 }

    private var blocks: UnsafeMutablePointer<UnsafeMutablePointer<Record>>
    private var blockCapacity = 16
    private var blockCount = 0
    private var used: UInt32 = 1
    private var firstFree: UInt32 = 0
    private var freeCount = 0

    init() {
        precondition(MemoryLayout<Record>.size >= MemoryLayout<UInt32>.size)
        blocks = .allocate(capacity: blockCapacity)
    }

    deinit {
        for index in 0..<blockCount { blocks[index].deallocate() }
        blocks.deallocate()
    }

    /// Records in use.
    var count: Int { Int(used) - 1 - freeCount }
    /// The highest number that was ever given out.
    var highest: UInt32 { used - 1 }

    subscript(number: UInt32) -> Record {
        @inline(__always) _read { yield blocks[Int(number >> Self.blockShift)][Int(number) & (Self.blockSize - 1)] }
        @inline(__always) nonmutating _modify {
            yield &blocks[Int(number >> Self.blockShift)][Int(number) & (Self.blockSize - 1)]
        }
    }

    mutating func allocate(_ record: Record) -> UInt32 {
        if firstFree != 0 {
            let number = firstFree
            firstFree = UnsafeRawPointer(address(number)).load(as: UInt32.self)
            freeCount -= 1
            address(number).initialize(to: record)
            return number
        }
        if Int(used) >> Int(Self.blockShift) >= blockCount { addBlock() }
        let number = used
        used += 1
        address(number).initialize(to: record)
        return number
    }

    mutating func release(_ number: UInt32) {
        UnsafeMutableRawPointer(address(number)).storeBytes(of: firstFree, as: UInt32.self)
        firstFree = number
        freeCount += 1
    }

    @inline(__always)
    private func address(_ number: UInt32) -> UnsafeMutablePointer<Record> {
        blocks[Int(number >> Self.blockShift)] + (Int(number) & (Self.blockSize - 1))
    }

    private mutating func addBlock() {
        if blockCount == blockCapacity {
            let larger = UnsafeMutablePointer<UnsafeMutablePointer<Record>>.allocate(capacity: blockCapacity * 2)
            larger.moveInitialize(from: blocks, count: blockCount)
            blocks.deallocate()
            blocks = larger
            blockCapacity *= 2
        }
        (blocks + blockCount).initialize(to: .allocate(capacity: Self.blockSize))
        blockCount += 1
    }
}

/// Bytes of level names, addressed in units of 8 bytes, in blocks of 64 KiB with a free list for each size.
struct ByteArena: ~Copyable {
    private static let blockBytes = 1 << 16

    private var blocks: [UnsafeMutableRawPointer] = []
    private var usedInBlock = ByteArena.blockBytes
    /// The first free place of each size in units; it holds the next. A place's size is known to whoever frees it.
    private var free: [Int: UInt32] = [:]
    private static let none = UInt32.max

    deinit { for block in blocks { block.deallocate() } }

    /// The address of a place. Valid until it is released.
    @inline(__always)
    func address(_ place: UInt32) -> UnsafeMutableRawPointer {
        blocks[Int(place >> 13)] + Int(place & 8191) * 8
    }

    /// Stores a copy of at most 65,535 bytes and returns its place.
    mutating func store(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        let units = Self.units(bytes.count)
        let place = recycled(units) ?? fresh(units)
        if let source = bytes.baseAddress { address(place).copyMemory(from: source, byteCount: bytes.count) }
        return place
    }

    mutating func release(_ place: UInt32, count: Int) {
        let units = Self.units(count)
        address(place).storeBytes(of: free[units] ?? Self.none, as: UInt32.self)
        free[units] = place
    }

    private mutating func recycled(_ units: Int) -> UInt32? {
        guard let place = free[units], place != Self.none else { return nil }
        free[units] = address(place).load(as: UInt32.self)
        return place
    }

    private static func units(_ count: Int) -> Int { max(1, (count + 7) / 8) }

    private mutating func fresh(_ units: Int) -> UInt32 {
        if usedInBlock + units * 8 > Self.blockBytes {
            blocks.append(.allocate(byteCount: Self.blockBytes, alignment: 8))
            usedInBlock = 0
        }
        let place = UInt32((blocks.count - 1) << 13 + usedInBlock / 8)
        usedInBlock += units * 8
        return place
    }
}

/// A hash table of numbers that grows a little at every change, never all at once.
///
/// Slots hold a number and 32 bits of its hash; what the number stands for is compared by the caller. Open addressing,
/// linear probing, deletion by shifting back: no tombstones, however long the table lives.
struct NumberTable: ~Copyable {
    private struct Slots {
        var base: UnsafeMutablePointer<UInt64>
        var mask: Int
        var count = 0

        init(capacity: Int) {
            base = .allocate(capacity: capacity)
            base.initialize(repeating: 0, count: capacity)
            mask = capacity - 1
        }

        @inline(__always)
        func find(_ hash: UInt32, where isMatch: (UInt32) -> Bool) -> Int? {
            var index = Int(hash) & mask
            while true {
                let slot = base[index]
                if slot == 0 { return nil }
                if UInt32(truncatingIfNeeded: slot >> 32) == hash, isMatch(UInt32(truncatingIfNeeded: slot)) {
                    return index
                }
                index = (index &+ 1) & mask
            }
        }

        mutating func insert(_ slot: UInt64) {
            var index = Int(slot >> 32) & mask
            while base[index] != 0 { index = (index &+ 1) & mask }
            base[index] = slot
            count += 1
        }

        mutating func remove(at hole: Int) {
            var hole = hole
            var index = hole
            while true {
                index = (index &+ 1) & mask
                let slot = base[index]
                if slot == 0 { break }
                // A slot may move back only if its own place is not between the hole and where it is now.
                if (index &- Int(slot >> 32)) & mask >= (index &- hole) & mask {
                    base[hole] = slot
                    hole = index
                }
            }
            base[hole] = 0
            count -= 1
        }
    }

    private var current = Slots(capacity: 64)
    private var old: Slots?
    /// Next slot of `old` to move; it always follows an empty one, so no run of slots is ever torn.
    private var cursor = 0

    deinit {
        current.base.deallocate()
        old?.base.deallocate()
    }

    var count: Int { current.count + (old?.count ?? 0) }

    /// The number with this hash for which `isMatch` holds; 0 when there is none.
    @inline(__always)
    func find(_ hash: UInt32, where isMatch: (UInt32) -> Bool) -> UInt32 {
        if let index = current.find(hash, where: isMatch) { return UInt32(truncatingIfNeeded: current.base[index]) }
        guard let old, let index = old.find(hash, where: isMatch) else { return 0 }
        return UInt32(truncatingIfNeeded: old.base[index])
    }

    /// Adds a number (not 0) that is not there yet.
    mutating func insert(_ number: UInt32, hash: UInt32) {
        if old == nil, (current.count + 1) * 4 > (current.mask + 1) * 3 { beginGrowth() }
        current.insert(UInt64(hash) << 32 | UInt64(number))
        moveSome()
    }

    /// Removes a number that is there.
    mutating func remove(_ number: UInt32, hash: UInt32) {
        if let index = current.find(hash, where: { $0 == number }) {
            current.remove(at: index)
        } else if let index = old?.find(hash, where: { $0 == number }) {
            old?.remove(at: index)
        }
        moveSome()
    }

    private mutating func beginGrowth() {
        var start = 0
        while current.base[start] != 0 { start += 1 }
        cursor = (start + 1) & current.mask
        old = current
        current = Slots(capacity: (current.mask + 1) * 2)
    }

    /// Moves at least 16 slots of the old table, to the end of the run they stand in.
    private mutating func moveSome() {
        guard var old else { return }
        var looked = 0
        while old.count > 0 {
            let slot = old.base[cursor]
            if slot == 0, looked >= 16 { break }
            if slot != 0 {
                current.insert(slot)
                old.base[cursor] = 0
                old.count -= 1
            }
            cursor = (cursor + 1) & old.mask
            looked += 1
        }
        if old.count == 0 {
            old.base.deallocate()
            self.old = nil
        } else {
            self.old = old
        }
    }
}
