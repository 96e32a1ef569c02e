/// Storage of the topic trees: records are numbered, never moved, and freed numbers are used again. Growing never
/// copies what is there, so a writer that holds a lock never stalls others for long.

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
