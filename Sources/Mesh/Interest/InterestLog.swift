/// The last deltas of a set as they were sent, for neighbours that are a little behind.
struct InterestLog {
    /// A delta.
    private struct Item {
        var frame: [UInt8]
        var count: Int
    }

    /// How much more is kept while somebody is being sent the whole set.
    static let longer = 10

    private var items: [Item] = []
    private var first = 0
    /// The version that the next delta makes a newer one of.
    private(set) var last: UInt64 = 0
    /// Changes in all of them.
    private(set) var changes = 0
    /// Bytes of all of them.
    private(set) var bytes = 0

    /// Forgets everything: the set is at this version.
    mutating func restart(at version: UInt64) {
        items = []
        first = 0
        (changes, bytes) = (0, 0)
        last = version
    }

    mutating func append(_ frame: [UInt8], version: UInt64, count: Int, maxChanges: Int, maxBytes: Int) {
        if version != last + 1 { restart(at: version - 1) }
        items.append(Item(frame: frame, count: count))
        changes += count
        bytes += frame.count
        last = version
        while first < items.count, changes > maxChanges || bytes > maxBytes {
            changes -= items[first].count
            bytes -= items[first].frame.count
            items[first].frame = []
            first += 1
        }
        if first > 64, first * 2 > items.count {
            items.removeSubrange(..<first)
            first = 0
        }
    }

    /// Whether whoever has a version gets to the last one by deltas.
    func reaches(_ version: UInt64) -> Bool {
        version <= last && last - version <= UInt64(items.count - first)
    }

    /// The deltas after a version, oldest first: at least one, and no more once they have `maxBytes` bytes.
    func frames(after version: UInt64, maxBytes: Int) -> [[UInt8]] {
        guard reaches(version) else { return [] }
        var left = maxBytes
        var frames: [[UInt8]] = []
        for item in items[(items.count - Int(last - version))...] {
            if left <= 0 { break }
            frames.append(item.frame)
            left -= item.frame.count
        }
        return frames
    }
}
