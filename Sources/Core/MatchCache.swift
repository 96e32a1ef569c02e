/// What a lane remembers of look-ups: topic to targets, ready to deliver. It survives churn, because an entry that is
/// older than the index is first compared with the filters that changed since, and only then looked up again.
/// Confined to its lane.
final class MatchCache {
    /// A remembered match. Its arrays share one block of memory with the topic's bytes.
    struct Entry: BitwiseCopyable {
        var hash: UInt64
        /// The index's generation this is true for.
        var generation: UInt64
        /// Never used twice on a lane; access decisions are remembered under it.
        var serial: UInt64
        var topicLength: Int
        /// Own lane's targets first, then the others', lane by lane.
        var targets: UnsafeMutablePointer<Target>
        var targetCount: Int
        var localCount: Int
        /// Members of shared groups, group after group, and where each group ends.
        var members: UnsafeMutablePointer<Target>
        var groupEnds: UnsafeMutablePointer<Int>
        var groupCount: Int
        /// Whose turn it is in every group.
        var cursor: Int
        var identifiers: UnsafeMutablePointer<UInt32>
        /// Subscriptions that matched, a group counted once.
        var matched: Int
        /// The topic's bytes, and everything above.
        var block: UnsafeMutableRawPointer
        var blockCapacity: Int
    }

    private static let ways = 4
    private static let maxSets = 4_096

    private var entries: UnsafeMutablePointer<Entry>
    private var setMask: Int
    private var replace = 0
    private var nextSerial: UInt64 = 1
    private let key: UInt64
    private let lane: Int
    private var raw = RawMatch()
    private var scratch = MatchScratch()
    private var targets: [Target] = []
    private var members: [Target] = []
    private var groupEnds: [Int] = []
    private var identifiers: [UInt32] = []

    init(key: UInt64, lane: Int) {
        self.key = key
        self.lane = lane
        setMask = 63
        entries = Self.makeEntries(sets: 64)
    }

    deinit {
        for index in 0..<(setMask + 1) * Self.ways { entries[index].block.deallocate() }
        entries.deallocate()
    }

    private static func makeEntries(sets: Int) -> UnsafeMutablePointer<Entry> {
        let made = UnsafeMutablePointer<Entry>.allocate(capacity: sets * ways)
        for index in 0..<sets * ways {
            // An empty block keeps the pointers non-optional, hence the data path without a check.
            let block = UnsafeMutableRawPointer.allocate(byteCount: 8, alignment: 8)
            (made + index).initialize(
                to: Entry(
                    hash: 0, generation: 0, serial: 0, topicLength: -1,
                    targets: block.assumingMemoryBound(to: Target.self), targetCount: 0, localCount: 0, members: block.assumingMemoryBound(to: Target.self),
                    groupEnds: block.assumingMemoryBound(to: Int.self), groupCount: 0, cursor: 0,
                    identifiers: block.assumingMemoryBound(to: UInt32.self), matched: 0, block: block,
                    blockCapacity: 8))
        }
        return made
    }

    /// The hash under which a topic is found.
    @inline(__always)
    func hash(_ topic: UnsafeRawPointer, _ count: Int) -> UInt64 { hashBytes(topic, count, key: key) }

    /// The entry of a topic, whatever its generation.
    @inline(__always)
    func find(_ topic: UnsafeRawPointer, _ count: Int, hash: UInt64) -> UnsafeMutablePointer<Entry>? {
        var entry = entries + (Int(truncatingIfNeeded: hash) & setMask) &* Self.ways
        for _ in 0..<Self.ways {
            if entry.pointee.hash == hash, entry.pointee.topicLength == count,
                bytesEqual(entry.pointee.block, topic, count)
            {
                return entry
            }
            entry += 1
        }
        return nil
    }

    /// The place for a topic that is not there: an empty one of its set, or one that is given up.
    func place(_ topic: UnsafeRawPointer, _ count: Int, hash: UInt64) -> UnsafeMutablePointer<Entry> {
        let set = entries + (Int(truncatingIfNeeded: hash) & setMask) * Self.ways
        for way in 0..<Self.ways where set[way].topicLength < 0 { return claim(set + way, topic, count, hash) }
        if setMask + 1 < Self.maxSets {
            grow()
            return place(topic, count, hash: hash)
        }
        replace = (replace + 1) % Self.ways
        return claim(set + replace, topic, count, hash)
    }

    private func claim(
        _ entry: UnsafeMutablePointer<Entry>, _ topic: UnsafeRawPointer, _ count: Int, _ hash: UInt64
    ) -> UnsafeMutablePointer<Entry> {
        reserve(entry, (count + 15) & ~15)
        entry.pointee.block.copyMemory(from: topic, byteCount: count)
        entry.pointee.hash = hash
        entry.pointee.topicLength = count
        entry.pointee.generation = 0
        entry.pointee.serial = nextSerial
        nextSerial += 1
        return entry
    }

    private func reserve(_ entry: UnsafeMutablePointer<Entry>, _ bytes: Int) {
        guard entry.pointee.blockCapacity < bytes else { return }
        let capacity = max(bytes, 64)
        let block = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 16)
        block.copyMemory(from: entry.pointee.block, byteCount: entry.pointee.blockCapacity)
        entry.pointee.block.deallocate()
        entry.pointee.block = block
        entry.pointee.blockCapacity = capacity
    }

    private func grow() {
        let oldCount = (setMask + 1) * Self.ways
        let old = entries
        setMask = (setMask + 1) * 4 - 1
        entries = Self.makeEntries(sets: setMask + 1)
        for index in 0..<oldCount {
            let entry = old[index]
            // Four times the sets and at most four entries of an old set: each finds an empty place.
            let set = entries + (Int(truncatingIfNeeded: entry.hash) & setMask) * Self.ways
            let way = (0..<Self.ways).first { set[$0].topicLength < 0 }
            guard entry.topicLength >= 0, let way else {
                entry.block.deallocate()
                continue
            }
            set[way].block.deallocate()
            set[way] = entry
        }
        old.deallocate()
    }

    /// Fills an entry from the index. The caller holds the index's lock.
    func fill(_ entry: UnsafeMutablePointer<Entry>, from index: borrowing TopicIndex, generation: UInt64) {
        let topic = UnsafeRawBufferPointer(start: entry.pointee.block, count: entry.pointee.topicLength)
        index.match(topic, into: &raw, scratch: &scratch)
        entry.pointee.generation = generation
        entry.pointee.matched = raw.hits.count + raw.groupEnds.count
        sortOut()
        store(entry)
    }

    /// One target for each port, own lane first, with the strongest options and all identifiers.
    private func sortOut() {
        targets.removeAll(keepingCapacity: true)
        identifiers.removeAll(keepingCapacity: true)
        members.removeAll(keepingCapacity: true)
        groupEnds.removeAll(keepingCapacity: true)
        let own = UInt64(lane) << 56
        // With its own lane's bits cleared to zero, a lane's own targets come first.
        if raw.hits.count > 1 { raw.hits.sort { $0.address ^ own < $1.address ^ own } }
        for hit in raw.hits { merge(hit) }
        var start = 0
        for end in raw.groupEnds {
            for hit in raw.members[start..<end] {
                members.append(target(hit))
                if hit.identifier != 0 { identify(&members[members.count - 1], hit.identifier) }
            }
            groupEnds.append(members.count)
            start = end
        }
    }

    private func target(_ hit: RawMatch.Hit) -> Target {
        Target(address: PortAddress(packed: hit.address), options: hit.options)
    }

    private func identify(_ target: inout Target, _ identifier: UInt32) {
        // A session may hold more matching subscriptions than can be counted: further identifiers are left out.
        guard target.identifierCount < .max else { return }
        if target.identifierCount == 0 { target.identifierStart = UInt32(identifiers.count) }
        identifiers.append(identifier)
        target.identifierCount += 1
    }

    private func merge(_ hit: RawMatch.Hit) {
        if let last = targets.indices.last, targets[last].address.packed == hit.address {
            let known = targets[last].options
            let qos = max(known.qos, hit.options.qos)
            // The publisher is left out only if every matching subscription says so.
            let noLocal = known.intersection(hit.options).intersection(.noLocal)
            let asPublished = known.union(hit.options).intersection(.retainAsPublished)
            targets[last].options = DeliveryOptions.qos(qos).union(noLocal).union(asPublished)
        } else {
            targets.append(target(hit))
        }
        if hit.identifier != 0 { identify(&targets[targets.count - 1], hit.identifier) }
    }

    private func store(_ entry: UnsafeMutablePointer<Entry>) {
        let topicBytes = (entry.pointee.topicLength + 15) & ~15
        let stride = MemoryLayout<Target>.stride
        let all = targets.count + members.count
        reserve(entry, topicBytes + all * stride + groupEnds.count * 8 + identifiers.count * 4)
        var place = entry.pointee.block + topicBytes
        func copy<Element: BitwiseCopyable>(_ array: [Element]) -> UnsafeMutablePointer<Element> {
            let base = place.bindMemory(to: Element.self, capacity: array.count)
            array.withUnsafeBufferPointer { source in
                if let first = source.baseAddress { base.update(from: first, count: array.count) }
            }
            place += array.count * MemoryLayout<Element>.stride
            return base
        }
        entry.pointee.targets = copy(targets)
        entry.pointee.members = copy(members)
        entry.pointee.groupEnds = copy(groupEnds)
        entry.pointee.identifiers = copy(identifiers)
        entry.pointee.targetCount = targets.count
        entry.pointee.localCount = targets.firstIndex { $0.address.lane != lane } ?? targets.count
        entry.pointee.groupCount = groupEnds.count
    }
}
