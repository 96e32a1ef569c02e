/// Storage of the topic trees: records are numbered, never moved, and freed numbers are used again. Growing never
/// copies what is there, so a writer that holds a lock never stalls others for long.

/// Numbered records of a trivial type, of at least 4 bytes, in blocks of 4,096. Number 0 is never given out: it means
/// none. A free record's first bytes hold the number of the next free one of its block.
struct Arena<Record: BitwiseCopyable>: ~Copyable {
    private static var blockShift: UInt32 { 12 }
    private static var blockSize: Int { 1 << 12 }

    /// What is known of a block. 16 bytes.
    private struct Block {
        /// Records in use.
        var live: UInt16 = 0
        /// Records that were in use at some time.
        var used: UInt16 = 0
        var isOpen = false
        var hasMemory = true
        /// Free record; 0 for none.
        var firstFree: UInt32 = 0
        /// The next block with free records; -1 for none.
        var nextOpen: Int32 = -1
    }

    private var addresses: UnsafeMutablePointer<UnsafeMutablePointer<Record>>
    private var capacity = 16
    private var blocks: [Block] = []
    /// The first block with free records; -1 for none.
    private var firstOpen: Int32 = -1
    /// The memory of a block that became empty, so that one record more or less does not cost a block each time.
    private var spare: UnsafeMutablePointer<Record>?
    private let givesBack: Bool

    /// Records in use.
    private(set) var count = 0

    /// - Parameter givesBack: whether the memory of empty blocks is given back. Then a record that has been released
    ///   must not even be read.
    init(givesBack: Bool = false) {
        precondition(MemoryLayout<Record>.size >= MemoryLayout<UInt32>.size)
        self.givesBack = givesBack
        addresses = .allocate(capacity: capacity)
    }

    deinit {
        for index in blocks.indices where blocks[index].hasMemory { addresses[index].deallocate() }
        spare?.deallocate()
        addresses.deallocate()
    }

    /// No record has a higher number.
    var highest: UInt32 {
        blocks.isEmpty ? 0 : UInt32(blocks.count - 1) << Self.blockShift + UInt32(blocks[blocks.count - 1].used) - 1
    }

    /// Blocks whose memory is held.
    var blocksHeld: Int { blocks.count { $0.hasMemory } + (spare == nil ? 0 : 1) }

    /// Bytes of the blocks held.
    var bytesHeld: Int { blocksHeld * Self.blockSize * MemoryLayout<Record>.stride }

    subscript(number: UInt32) -> Record {
        @inline(__always) _read { yield addresses[Int(number >> Self.blockShift)][Int(number) & (Self.blockSize - 1)] }
        @inline(__always) nonmutating _modify {
            yield &addresses[Int(number >> Self.blockShift)][Int(number) & (Self.blockSize - 1)]
        }
    }

    mutating func allocate(_ record: Record) -> UInt32 {
        if firstOpen < 0 { addBlock() }
        let index = Int(firstOpen)
        var block = blocks[index]
        if !block.hasMemory {
            (addresses + index).initialize(to: spare ?? .allocate(capacity: Self.blockSize))
            spare = nil
            block.hasMemory = true
        }
        let number: UInt32
        if block.firstFree != 0 {
            number = block.firstFree
            block.firstFree = rawAddress(number).load(as: UInt32.self)
        } else {
            number = UInt32(index) << Self.blockShift + UInt32(block.used)
            block.used += 1
        }
        block.live += 1
        if Int(block.live) == Self.blockSize {
            block.isOpen = false
            firstOpen = block.nextOpen
        }
        blocks[index] = block
        count += 1
        address(number).initialize(to: record)
        return number
    }

    mutating func release(_ number: UInt32) {
        let index = Int(number >> Self.blockShift)
        var block = blocks[index]
        rawAddress(number).storeBytes(of: block.firstFree, as: UInt32.self)
        block.firstFree = number
        block.live -= 1
        if !block.isOpen {
            block.isOpen = true
            block.nextOpen = firstOpen
            firstOpen = Int32(index)
        }
        if block.live == 0, givesBack {
            if spare == nil { spare = addresses[index] } else { addresses[index].deallocate() }
            block.hasMemory = false
            block.used = 0
            block.firstFree = 0
        }
        blocks[index] = block
        count -= 1
    }

    /// Where a record lies for as long as it is in use.
    @inline(__always)
    func rawAddress(_ number: UInt32) -> UnsafeMutableRawPointer { UnsafeMutableRawPointer(address(number)) }

    @inline(__always)
    private func address(_ number: UInt32) -> UnsafeMutablePointer<Record> {
        addresses[Int(number >> Self.blockShift)] + (Int(number) & (Self.blockSize - 1))
    }

    private mutating func addBlock() {
        if blocks.count == capacity {
            let larger = UnsafeMutablePointer<UnsafeMutablePointer<Record>>.allocate(capacity: capacity * 2)
            larger.moveInitialize(from: addresses, count: capacity)
            addresses.deallocate()
            addresses = larger
            capacity *= 2
        }
        (addresses + blocks.count).initialize(to: .allocate(capacity: Self.blockSize))
        firstOpen = Int32(blocks.count)
        // Number 0 counts as in use, for ever.
        let reserved: UInt16 = blocks.isEmpty ? 1 : 0
        blocks.append(Block(live: reserved, used: reserved, isOpen: true))
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

    /// Bytes of the blocks held.
    var bytesHeld: Int { blocks.count * Self.blockBytes }

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
