/// The hash table under the topic trees. It serves look-ups under a lock, so no change of it may take long, however
/// large it is: it is allocated, filled and given back in chunks of 64 KiB, a little at every change.

/// A hash table of numbers that grows a little at every change, never all at once.
///
/// Slots hold a number and 32 bits of its hash; what the number stands for is compared by the caller. Open addressing,
/// linear probing, deletion by shifting back: no tombstones, however long the table lives.
struct NumberTable: ~Copyable {
    private struct Slots {
        static var chunkShift: Int { 13 }
        static var chunkSize: Int { 1 << chunkShift }

        /// Chunks that can be used; all of them, except in a table that is still being prepared.
        var ready = 0
        var count = 0
        let mask: Int
        private let chunks: UnsafeMutablePointer<UnsafeMutablePointer<UInt64>>
        /// Stands for every chunk that has been given back already. Never written to.
        private var blank: UnsafeMutablePointer<UInt64>?

        /// A table without chunks.
        init(capacity: Int) {
            mask = capacity - 1
            chunks = .allocate(capacity: (capacity + Self.chunkSize - 1) / Self.chunkSize)
        }

        var capacity: Int { mask + 1 }
        var chunkCount: Int { (capacity + Self.chunkSize - 1) / Self.chunkSize }
        private var slotsOfChunk: Int { min(capacity, Self.chunkSize) }

        @inline(__always)
        subscript(index: Int) -> UInt64 {
            get { chunks[index >> Self.chunkShift][index & (Self.chunkSize - 1)] }
            nonmutating set { chunks[index >> Self.chunkShift][index & (Self.chunkSize - 1)] = newValue }
        }

        mutating func addChunk() {
            let chunk = UnsafeMutablePointer<UInt64>.allocate(capacity: slotsOfChunk)
            chunk.initialize(repeating: 0, count: slotsOfChunk)
            (chunks + ready).initialize(to: chunk)
            ready += 1
        }

        /// Gives a chunk back whose slots have all been moved; it reads as empty from now on.
        mutating func returnChunk(_ number: Int) {
            guard let blank else {
                blank = chunks[number]
                return
            }
            guard chunks[number] != blank else { return }
            chunks[number].deallocate()
            chunks[number] = blank
        }

        func deallocate() {
            for number in 0..<ready where chunks[number] != blank { chunks[number].deallocate() }
            blank?.deallocate()
            chunks.deallocate()
        }

        @inline(__always)
        func find(_ hash: UInt32, where isMatch: (UInt32) -> Bool) -> Int? {
            var index = Int(hash) & mask
            while true {
                let slot = self[index]
                if slot == 0 { return nil }
                if UInt32(truncatingIfNeeded: slot >> 32) == hash, isMatch(UInt32(truncatingIfNeeded: slot)) {
                    return index
                }
                index = (index &+ 1) & mask
            }
        }

        mutating func insert(_ slot: UInt64) {
            var index = Int(slot >> 32) & mask
            while self[index] != 0 { index = (index &+ 1) & mask }
            self[index] = slot
            count += 1
        }

        mutating func remove(at hole: Int) {
            var hole = hole
            var index = hole
            while true {
                index = (index &+ 1) & mask
                let slot = self[index]
                if slot == 0 { break }
                // A slot may move back only if its own place is not between the hole and where it is now.
                if (index &- Int(slot >> 32)) & mask >= (index &- hole) & mask {
                    self[hole] = slot
                    hole = index
                }
            }
            self[hole] = 0
            count -= 1
        }
    }

    private var current: Slots
    /// The smaller table that `current` takes over from.
    private var old: Slots?
    /// The larger table that will take over, while its chunks are being allocated.
    private var next: Slots?
    /// Next slot of `old` to move; it always follows an empty one, so no run of slots is ever torn.
    private var cursor = 0
    /// The chunk of `old` that the moving began in.
    private var firstChunk = 0
    /// Insertions while `next` was being prepared.
    private var steps = 0

    init() {
        current = Slots(capacity: 64)
        current.addChunk()
    }

    deinit {
        current.deallocate()
        old?.deallocate()
        next?.deallocate()
    }

    var count: Int { current.count + (old?.count ?? 0) }

    /// Bytes of the tables held.
    var bytesHeld: Int { (current.capacity + (old?.capacity ?? 0) + (next?.capacity ?? 0)) * 8 }

    /// The number with this hash for which `isMatch` holds; 0 when there is none.
    @inline(__always)
    func find(_ hash: UInt32, where isMatch: (UInt32) -> Bool) -> UInt32 {
        if let index = current.find(hash, where: isMatch) { return UInt32(truncatingIfNeeded: current[index]) }
        guard let old, let index = old.find(hash, where: isMatch) else { return 0 }
        return UInt32(truncatingIfNeeded: old[index])
    }

    /// Adds a number (not 0) that is not there yet.
    mutating func insert(_ number: UInt32, hash: UInt32) {
        // Three quarters full at most. The last sixteenth before that is the time to prepare the next table.
        if old == nil, current.count >= current.capacity / 16 * 11 { prepare() }
        if old == nil, (current.count + 1) * 4 > current.capacity * 3 { beginGrowth() }
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

    /// Allocates a chunk of the next table now and then: twice as often as it must be.
    private mutating func prepare() {
        var larger = next ?? Slots(capacity: current.capacity * 2)
        steps += 1
        if steps % (Slots.chunkSize / 64) == 0, larger.ready < larger.chunkCount { larger.addChunk() }
        next = larger
    }

    private mutating func beginGrowth() {
        var larger = next ?? Slots(capacity: current.capacity * 2)
        while larger.ready < larger.chunkCount { larger.addChunk() }
        var start = 0
        while current[start] != 0 { start += 1 }
        cursor = (start + 1) & current.mask
        firstChunk = cursor >> Slots.chunkShift
        old = current
        current = larger
        next = nil
        steps = 0
    }

    /// Moves at least 16 slots of the old table, to the end of the run they stand in.
    private mutating func moveSome() {
        guard var old else { return }
        var looked = 0
        while old.count > 0 {
            let slot = old[cursor]
            if slot == 0, looked >= 16 { break }
            if slot != 0 {
                current.insert(slot)
                old[cursor] = 0
                old.count -= 1
            }
            cursor = (cursor + 1) & old.mask
            looked += 1
            if cursor & (Slots.chunkSize - 1) == 0 { returnChunk(before: cursor, of: &old) }
        }
        if old.count == 0 {
            old.deallocate()
            self.old = nil
        } else {
            self.old = old
        }
    }

    /// Gives back the chunk that the cursor has just left. The one it began in still has slots before the beginning.
    private func returnChunk(before cursor: Int, of old: inout Slots) {
        let passed = ((cursor - 1) & old.mask) >> Slots.chunkShift
        if passed != firstChunk { old.returnChunk(passed) }
    }
}
