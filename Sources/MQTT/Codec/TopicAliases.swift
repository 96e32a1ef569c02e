import Core

/// Topic aliases of one connection (MQTT 5 §3.3.2.3.4), from the client and to it. Both are bounded in number by
/// ``Limits/maxTopicAliases``; those from the client in bytes by ``Limits/maxTopicAliasBytes``, those to it by giving
/// numbers to short topics only.

/// What the client has given numbers to.
final class IncomingAliases {
    private var topics: [UnsafeMutableRawBufferPointer?]
    private var bytes = 0
    private let maxBytes: Int

    init(limits: Limits) {
        topics = Array(repeating: nil, count: limits.maxTopicAliases)
        maxBytes = limits.maxTopicAliasBytes
    }

    deinit { for topic in topics { topic?.deallocate() } }

    /// The topic of an alias; nil when there is none. Valid until the alias is set again.
    func topic(_ alias: UInt16) -> UnsafeRawBufferPointer? {
        topics[Int(alias) - 1].map { UnsafeRawBufferPointer($0) }
    }

    /// Whether the alias stands for another topic, or for none.
    func isChanged(_ alias: UInt16, by topic: UnsafeRawBufferPointer) -> Bool {
        guard let known = self.topic(alias) else { return true }
        return !known.elementsEqual(topic)
    }

    /// Gives a topic a number.
    /// - Returns: false when the topics would take too much memory.
    func set(_ alias: UInt16, _ topic: UnsafeRawBufferPointer) -> Bool {
        let index = Int(alias) - 1
        let grown = bytes + topic.count - (topics[index]?.count ?? 0)
        guard grown <= maxBytes else { return false }
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: topic.count, alignment: 1)
        copy.copyMemory(from: topic)
        topics[index]?.deallocate()
        topics[index] = copy
        bytes = grown
        return true
    }
}

/// Numbers the node gives to topics. Every topic has four possible numbers, by its hash: looking for one is four
/// comparisons at most, and when all four are taken the first is given up.
final class OutgoingAliases {
    private var topics: [[UInt8]]
    private let key: UInt64
    private static let longestTopic = 1_024

    /// - Parameter count: at least 1.
    init(count: Int, key: UInt64) {
        topics = Array(repeating: [], count: count)
        self.key = key
    }

    /// The alias to send with a topic (0 for none), and whether the client knows it already. From then on it does.
    func use(_ topic: UnsafeRawPointer, _ count: Int) -> (alias: UInt16, isKnown: Bool) {
        guard count <= Self.longestTopic else { return (0, false) }
        let first = Int(hashBytes(topic, count, key: key) % UInt64(topics.count))
        var chosen = first
        for offset in (0..<min(4, topics.count)).reversed() {
            let place = (first + offset) % topics.count
            if isTopic(place, topic, count) { return (UInt16(truncatingIfNeeded: place + 1), true) }
            if topics[place].isEmpty { chosen = place }
        }
        topics[chosen] = Array(UnsafeRawBufferPointer(start: topic, count: count))
        return (UInt16(truncatingIfNeeded: chosen + 1), false)
    }

    private func isTopic(_ place: Int, _ topic: UnsafeRawPointer, _ count: Int) -> Bool {
        topics[place].withUnsafeBytes { known in
            guard known.count == count, let base = known.baseAddress else { return false }
            return bytesEqual(base, topic, count)
        }
    }
}
