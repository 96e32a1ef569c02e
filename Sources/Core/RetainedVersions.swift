/// What the store of retained events knows of their versions: one for each topic, digests over all of them, and which
/// topics have been deleted. Only there when the node is part of a mesh.
///
/// Threading: guarded by the router's retained lock, like the store it belongs to.

/// A topic as nodes compare it: without its name.
public struct RetainedEntry: Sendable, BitwiseCopyable, Equatable {
    /// The topic's hash, the same on every node. The upper ten bits are the bucket.
    public var hash: UInt64
    /// The version of its value, or of its deletion.
    public var version: EventVersion
    /// Where the store has it; of no meaning to others, but given back by them it saves a search.
    public var place: UInt32

    /// Makes an entry.
    public init(hash: UInt64, version: EventVersion, place: UInt32) {
        self.hash = hash
        self.version = version
        self.place = place
    }
}

/// The versions beside the events' slots, by the same numbers.
final class RetainedVersions {
    /// What is known of a topic: 40 bytes.
    struct Mark: BitwiseCopyable {
        var hash: UInt64 = 0
        /// None while the number is not in use.
        var version = EventVersion.none
        /// The neighbours in the bucket.
        var next: UInt32 = 0
        var previous: UInt32 = 0
        /// The neighbours among the tombstones, by age.
        var older: UInt32 = 0
        var newer: UInt32 = 0
    }

    static let bucketCount = 1_024
    /// Not secret: all nodes must agree. Hence nothing is found by this hash alone.
    private static let hashKey: UInt64 = 0x41_7075_7352_6574

    private var marks = Arena<Mark>()
    private var heads = [UInt32](repeating: 0, count: bucketCount)
    /// Of each bucket: the sum of its entries' mixtures.
    private(set) var digests = [UInt64](repeating: 0, count: bucketCount)
    /// Over all buckets.
    private(set) var digest: UInt64 = 0
    var clock: RetainedClock
    /// Milliseconds that a deletion is remembered.
    let tombstoneLife: UInt64
    /// The latest time that the store was told.
    var now: UInt64 = 0
    /// The tombstones by age; 0 for none.
    private(set) var oldest: UInt32 = 0
    private var newest: UInt32 = 0
    /// Tombstones forgotten before their time, because there were too many.
    var givenUp: UInt64 = 0
    /// Versions refused that no clock can have made.
    var implausible: UInt64 = 0

    init(clock: RetainedClock, tombstoneLife: UInt64) {
        self.clock = clock
        self.tombstoneLife = tombstoneLife
    }

    static func hash(_ topic: UnsafeRawBufferPointer) -> UInt64 {
        guard let base = topic.baseAddress else { return 0 }
        return hashBytes(base, topic.count, key: hashKey)
    }

    @inline(__always)
    static func bucket(_ hash: UInt64) -> Int { Int(hash >> 54) }

    static func mixture(_ hash: UInt64, _ version: EventVersion) -> UInt64 {
        let inner = foldedProduct(hash ^ 0xA076_1D64_78BD_642F, version.time ^ 0xE703_7ED1_A0B4_28DB)
        return foldedProduct(inner ^ 0x8EBC_6AF0_9C88_C6E3, version.writer ^ 0x9E37_79B9_7F4A_7C15)
    }

    /// The version of a number; none when it is not in use.
    func version(_ number: UInt32) -> EventVersion {
        number > 0 && number <= marks.highest ? marks[number].version : .none
    }

    /// What is known of a number, if it is still this topic's.
    func entry(_ number: UInt32, hash: UInt64) -> RetainedEntry? {
        guard number > 0, number <= marks.highest else { return nil }
        let mark = marks[number]
        guard mark.version != .none, mark.hash == hash else { return nil }
        return RetainedEntry(hash: hash, version: mark.version, place: number)
    }

    /// A topic has got a number.
    func add(_ number: UInt32, _ topic: UnsafeRawBufferPointer, _ version: EventVersion) {
        // Numbers are given out one after another, so this is one more at most, but for those without a version.
        while marks.highest < number { _ = marks.allocate(Mark()) }
        let hash = Self.hash(topic)
        let bucket = Self.bucket(hash)
        marks[number] = Mark(hash: hash, version: version, next: heads[bucket])
        if heads[bucket] != 0 { marks[heads[bucket]].previous = number }
        heads[bucket] = number
        count(hash, version, &+)
    }

    /// A topic has another version.
    func change(_ number: UInt32, _ version: EventVersion) {
        count(marks[number].hash, marks[number].version, &-)
        marks[number].version = version
        count(marks[number].hash, version, &+)
    }

    /// A number is no longer in use. Its tombstone must have been unlisted.
    func remove(_ number: UInt32) {
        guard version(number) != .none else { return }
        let mark = marks[number]
        if mark.previous != 0 {
            marks[mark.previous].next = mark.next
        } else {
            heads[Self.bucket(mark.hash)] = mark.next
        }
        if mark.next != 0 { marks[mark.next].previous = mark.previous }
        count(mark.hash, mark.version, &-)
        marks[number] = Mark()
    }

    private func count(_ hash: UInt64, _ version: EventVersion, _ operation: (UInt64, UInt64) -> UInt64) {
        let mixture = Self.mixture(hash, version)
        let bucket = Self.bucket(hash)
        digests[bucket] = operation(digests[bucket], mixture)
        digest = operation(digest, mixture)
    }

    // MARK: Tombstones

    /// A number's topic has been deleted.
    func listTombstone(_ number: UInt32) {
        marks[number].older = newest
        marks[number].newer = 0
        if newest != 0 { marks[newest].newer = number } else { oldest = number }
        newest = number
    }

    /// It has a value again, or is forgotten.
    func unlistTombstone(_ number: UInt32) {
        let mark = marks[number]
        if mark.older != 0 { marks[mark.older].newer = mark.newer } else { oldest = mark.newer }
        if mark.newer != 0 { marks[mark.newer].older = mark.older } else { newest = mark.older }
        marks[number].older = 0
        marks[number].newer = 0
    }

    // MARK: Reading

    /// A portion of a bucket: at most `max` entries after a place, 0 for the beginning.
    /// - Returns: where to go on; 0 at the end; nil when the place has left the bucket, and one has to begin again.
    func list(_ bucket: Int, after place: UInt32, max: Int, into entries: inout [RetainedEntry]) -> UInt32? {
        var number = heads[bucket]
        var last = place
        if place != 0 {
            guard version(place) != .none, Self.bucket(marks[place].hash) == bucket else { return nil }
            number = marks[place].next
        }
        var left = max
        while number != 0, left > 0 {
            entries.append(RetainedEntry(hash: marks[number].hash, version: marks[number].version, place: number))
            last = number
            number = marks[number].next
            left -= 1
        }
        return number == 0 ? 0 : last
    }
}
