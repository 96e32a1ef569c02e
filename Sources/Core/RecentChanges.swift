/// The filters that were subscribed to or given up last. A match cache asks it whether what it knows of a topic still
/// holds, instead of walking the index after every change. Guarded by the lock of the router's index.
struct RecentChanges {
    /// How many are kept: a power of two.
    private static let kept = 256
    /// A longer filter is not kept, and stands for any.
    private static let longest = 1_024

    /// By generation; nil stands for any filter.
    private var filters = [TopicFilter?](repeating: nil, count: Self.kept)

    private static func place(_ generation: UInt64) -> Int { Int(truncatingIfNeeded: generation) & (kept - 1) }

    /// Notes the change that has led to a generation.
    /// - Parameter filter: nil for any.
    mutating func note(_ filter: TopicFilter?, generation: UInt64) {
        let isShort = filter.map { $0.bytes.count <= Self.longest } ?? false
        filters[Self.place(generation)] = isShort ? filter : nil
    }

    /// Whether no filter that changed after the generation `since` (0 for never) matches a topic. No, when it was too
    /// long ago to be known.
    func isUntouched(_ topic: UnsafeRawBufferPointer, since: UInt64, until current: UInt64) -> Bool {
        guard since != 0, current - since <= UInt64(Self.kept) else { return false }
        var generation = since + 1
        while generation <= current {
            if filters[Self.place(generation)]?.matches(topic) ?? true { return false }
            generation += 1
        }
        return true
    }
}
