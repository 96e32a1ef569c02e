/// What a lane remembers of look-ups: topic to targets, ready to deliver. It survives churn, because an entry that is
/// older than the index is first compared with the filters that changed since, and only then looked up again.
/// Confined to its lane.
final class MatchCache {
    /// A remembered match: one cache line. The topic's bytes and the arrays follow one another in its block.
    struct Entry: BitwiseCopyable {
        /// The index's generation this is true for.
        var generation: UInt64
        /// Never used twice on a lane; access decisions are remembered under it.
        var serial: UInt64
        /// The topic's bytes, then targets, members, group ends and numbers, identifiers, and weights.
        var block: UnsafeMutableRawPointer
        /// In units of 16 bytes.
        private var blockUnits: UInt32
        /// Where the block has the weights, in units of 8 bytes; 0 when no group is shared out by weight.
        var weightsAt: UInt32 = 0
        /// Bytes of the topic; negative for an empty place.
        var topicLength: Int32
        var targetCount: Int32
        /// Targets of this lane; they come first.
        var localCount: Int32
        var memberCount: Int32
        var groupCount: Int32
        /// Subscriptions that matched, a group counted once.
        var matched: Int32
        /// Whose turn it is in every group.
        var cursor: UInt32
        /// Whether it was looked up for a publisher of this node (1), for another node (2), or both; above that the
        /// subscriptions that matched but may not be given the topic (``unreadable``).
        var sources: UInt32 = 0

        /// The bits of ``sources`` that count subscriptions.
        static let unreadable: UInt32 = ~3

        /// Bytes of the block; a multiple of 16.
        var blockCapacity: Int {
            get { Int(blockUnits) << 4 }
            set { blockUnits = UInt32(newValue >> 4) }
        }

        init(block: UnsafeMutableRawPointer, capacity: Int) {
            generation = 0
            serial = 0
            self.block = block
            blockUnits = UInt32(capacity >> 4)
            (topicLength, targetCount, localCount, memberCount, groupCount, matched) = (-1, 0, 0, 0, 0, 0)
            cursor = 0
        }

        /// Notes for whom it was looked up.
        /// - Returns: the subscriptions that may not be given the topic.
        @inline(never)
        mutating func note(source: UInt32) -> Int {
            sources |= source
            return Int(sources >> 2)
        }

        /// Own lane's targets first, then the others', lane by lane.
        @inline(__always) var targets: UnsafeMutablePointer<Target> {
            (block + (Int(topicLength) &+ 15) & ~15).assumingMemoryBound(to: Target.self)
        }
        /// Members of shared groups, group after group.
        @inline(__always) var members: UnsafeMutablePointer<Target> { targets + Int(targetCount) }
        /// Where each group's members end.
        @inline(__always) var groupEnds: UnsafeMutablePointer<Int32> {
            UnsafeMutableRawPointer(members + Int(memberCount)).assumingMemoryBound(to: Int32.self)
        }
        /// The groups' numbers.
        @inline(__always) var groupNumbers: UnsafeMutablePointer<UInt32> {
            UnsafeMutableRawPointer(groupEnds + Int(groupCount)).assumingMemoryBound(to: UInt32.self)
        }
        /// Subscription identifiers of targets and members.
        @inline(__always) var identifiers: UnsafeMutablePointer<UInt32> { groupNumbers + Int(groupCount) }

        /// Whether a group is shared out by weight.
        @inline(__always) var isWeighted: Bool { weightsAt != 0 }
        /// Member by member the sum of its group's weights up to it; 0 for a group without weights.
        var weights: UnsafeMutablePointer<UInt64> {
            (block + Int(weightsAt) << 3).assumingMemoryBound(to: UInt64.self)
        }

        /// Whose turn it is among the members of one group. Takes where the entry is: a copy of it would cost those
        /// groups as well that have no weights.
        @inline(never)
        static func weightedMember(_ entry: UnsafeMutablePointer<Entry>, _ start: Int, _ end: Int) -> Int {
            let (weights, cursor) = (entry.pointee.weights, entry.pointee.cursor)
            let total = weights[end - 1]
            guard total > 0 else { return start + Int(cursor) % (end - start) }
            let share = MemberWeight.share(of: total, turn: cursor)
            // The first whose sum is larger: those of weight 0 never are.
            var (low, high) = (start, end - 1)
            while low < high {
                let middle = (low + high) / 2
                if weights[middle] > share { high = middle } else { low = middle + 1 }
            }
            return low
        }
    }

    private static let ways = 4
    private static let maxSets = 4_096
    /// Bytes of all blocks; beyond it everything is forgotten at once. Topics with very many subscribers fill it.
    private static let maxBytes = 64 << 20

    private var entries: UnsafeMutablePointer<Entry>
    /// The hashes of the entries, apart: a set is searched within one cache line.
    private var hashes: UnsafeMutablePointer<UInt64>
    private var setMask: Int
    private var replace = 0
    /// Also counts the entries that were placed: while it stands still, no entry moves or changes its topic.
    private(set) var nextSerial: UInt64 = 1
    private let key: UInt64
    private let lane: Int
    /// Bytes of the entries' blocks.
    private(set) var bytes = 0
    /// Topics remembered.
    private(set) var count = 0
    private var raw = RawMatch()
    private var scratch = MatchScratch()
    private var targets: [Target] = []
    private var members: [Target] = []
    private var groupEnds: [Int32] = []
    private var identifiers: [UInt32] = []
    private var weights: [UInt64] = []

    init(key: UInt64, lane: Int) {
        self.key = key
        self.lane = lane
        setMask = 63
        (entries, hashes) = Self.makeEntries(sets: 64)
    }

    deinit {
        for index in 0..<(setMask + 1) * Self.ways { entries[index].block.deallocate() }
        entries.deallocate()
        hashes.deallocate()
    }

    private static func makeEntries(sets: Int) -> (UnsafeMutablePointer<Entry>, UnsafeMutablePointer<UInt64>) {
        let count = sets * ways
        let size = MemoryLayout<Entry>.stride
        let made = UnsafeMutableRawPointer.allocate(byteCount: count * size, alignment: 64)
            .bindMemory(to: Entry.self, capacity: count)
        let hashes = UnsafeMutableRawPointer.allocate(byteCount: count * 8, alignment: 64)
            .bindMemory(to: UInt64.self, capacity: count)
        hashes.initialize(repeating: 0, count: count)
        for index in 0..<count {
            // An empty block keeps the pointer non-optional, hence the data path without a check.
            (made + index).initialize(to: Entry(block: .allocate(byteCount: 16, alignment: 16), capacity: 16))
        }
        return (made, hashes)
    }

    /// The hash under which a topic is found.
    @inline(__always)
    func hash(_ topic: UnsafeRawPointer, _ count: Int) -> UInt64 { hashBytes(topic, count, key: key) }

    /// The entry of a topic, whatever its generation.
    @inline(__always)
    func find(_ topic: UnsafeRawPointer, _ count: Int, hash: UInt64) -> UnsafeMutablePointer<Entry>? {
        let first = (Int(truncatingIfNeeded: hash) & setMask) &* Self.ways
        for index in first..<first &+ Self.ways where hashes[index] == hash {
            let entry = entries + index
            if Int(entry.pointee.topicLength) == count, bytesEqual(entry.pointee.block, topic, count) { return entry }
        }
        return nil
    }

    /// The place for a topic that is not there: an empty one of its set, or one that is given up.
    func place(_ topic: UnsafeRawPointer, _ count: Int, hash: UInt64) -> UnsafeMutablePointer<Entry> {
        let first = (Int(truncatingIfNeeded: hash) & setMask) * Self.ways
        if bytes > Self.maxBytes { forgetAll() }
        for index in first..<first + Self.ways where entries[index].topicLength < 0 {
            return claim(index, topic, count, hash)
        }
        if setMask + 1 < Self.maxSets {
            grow()
            return place(topic, count, hash: hash)
        }
        replace = (replace + 1) % Self.ways
        return claim(first + replace, topic, count, hash)
    }

    /// Looks at `count` places from `start` on, and calls `body` with the entries there that have a topic, until it
    /// says that this is enough.
    /// - Returns: the next place to look at, or nil after the last.
    func forEachEntry(
        from start: Int, count: Int, _ body: (UnsafeRawBufferPointer, Entry) -> Bool
    ) -> Int? {
        let all = (setMask + 1) * Self.ways
        let end = min(all, start + count)
        var index = start
        while index < end {
            let entry = entries[index]
            index += 1
            guard entry.topicLength >= 0 else { continue }
            guard body(UnsafeRawBufferPointer(start: entry.block, count: Int(entry.topicLength)), entry) else { break }
        }
        return index < all ? index : nil
    }

    private func claim(
        _ index: Int, _ topic: UnsafeRawPointer, _ count: Int, _ hash: UInt64
    ) -> UnsafeMutablePointer<Entry> {
        let entry = entries + index
        if entry.pointee.topicLength < 0 { self.count += 1 }
        reserve(entry, (count + 15) & ~15)
        entry.pointee.block.copyMemory(from: topic, byteCount: count)
        hashes[index] = hash
        entry.pointee.topicLength = Int32(count)
        entry.pointee.generation = 0
        entry.pointee.serial = nextSerial
        entry.pointee.sources = 0
        // Each topic begins with another member, so that groups of many topics are in balance as well.
        entry.pointee.cursor = UInt32(truncatingIfNeeded: hash >> 32)
        nextSerial += 1
        return entry
    }

    private func reserve(_ entry: UnsafeMutablePointer<Entry>, _ bytes: Int) {
        guard entry.pointee.blockCapacity < bytes else { return }
        let capacity = max((bytes + 15) & ~15, 64)
        let block = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 64)
        block.copyMemory(from: entry.pointee.block, byteCount: entry.pointee.blockCapacity)
        self.bytes += capacity - entry.pointee.blockCapacity
        entry.pointee.block.deallocate()
        entry.pointee.block = block
        entry.pointee.blockCapacity = capacity
    }

    private func forgetAll() {
        for index in 0..<(setMask + 1) * Self.ways {
            entries[index].block.deallocate()
            entries[index] = Entry(block: .allocate(byteCount: 16, alignment: 16), capacity: 16)
            hashes[index] = 0
        }
        bytes = 0
        count = 0
    }

    private func grow() {
        let oldCount = (setMask + 1) * Self.ways
        let (old, oldHashes) = (entries, hashes)
        setMask = (setMask + 1) * 4 - 1
        (entries, hashes) = Self.makeEntries(sets: setMask + 1)
        for index in 0..<oldCount {
            let first = (Int(truncatingIfNeeded: oldHashes[index]) & setMask) * Self.ways
            // Four times the sets and at most four entries of an old set: each finds an empty place.
            let place = (first..<first + Self.ways).first { entries[$0].topicLength < 0 }
            guard old[index].topicLength >= 0, let place else {
                old[index].block.deallocate()
                continue
            }
            entries[place].block.deallocate()
            entries[place] = old[index]
            hashes[place] = oldHashes[index]
        }
        old.deallocate()
        oldHashes.deallocate()
    }

    /// Fills an entry from the index. The caller holds the index's lock.
    /// - Returns: what it took, in nodes visited and subscriptions found.
    func fill(_ entry: UnsafeMutablePointer<Entry>, from index: borrowing TopicIndex, generation: UInt64) -> Int {
        let topic = UnsafeRawBufferPointer(start: entry.pointee.block, count: Int(entry.pointee.topicLength))
        index.match(topic, into: &raw, scratch: &scratch)
        let (unreadable, asked) = index.removeUnreadable(from: &raw, topic)
        entry.pointee.sources =
            entry.pointee.sources & ~Entry.unreadable | UInt32(clamping: min(unreadable, 1 << 29)) << 2
        entry.pointee.generation = generation
        entry.pointee.matched = Int32(raw.hits.count + raw.remotes.count + raw.groupEnds.count)
        if !raw.remotes.isEmpty {
            // Other nodes are one target, the mesh's port, with a node to each identifier.
            raw.hits.append(RawMatch.Hit(address: index.remote.address.packed, identifier: 0, options: .remote))
        }
        sortOut(meshAddress: index.remote.address.packed)
        store(entry)
        // To ask a reader takes about as long as sixteen nodes.
        return scratch.visited + raw.hits.count + raw.members.count + raw.remotes.count + asked * 16
    }

    /// One target for each port, own lane first, with the strongest options and all identifiers.
    private func sortOut(meshAddress: UInt64) {
        targets.removeAll(keepingCapacity: true)
        identifiers.removeAll(keepingCapacity: true)
        members.removeAll(keepingCapacity: true)
        groupEnds.removeAll(keepingCapacity: true)
        let own = UInt64(lane) << 56
        // With its own lane's bits cleared to zero, a lane's own targets come first.
        if raw.hits.count > 1 { raw.hits.sort { $0.address ^ own < $1.address ^ own } }
        for hit in raw.hits {
            merge(hit)
            guard hit.address == meshAddress else { continue }
            for node in raw.remotes { identify(&targets[targets.count - 1], node) }
        }
        weights.removeAll(keepingCapacity: true)
        var start = 0
        var isWeighted = false
        for end in raw.groupEnds {
            var sum: UInt64 = 0
            for hit in raw.members[start..<end] {
                members.append(target(hit))
                sum += UInt64(hit.weight)
                weights.append(sum)
                if hit.identifier != 0 { identify(&members[members.count - 1], hit.identifier) }
            }
            groupEnds.append(Int32(members.count))
            if sum > 0 { isWeighted = true }
            start = end
        }
        if !isWeighted { weights.removeAll(keepingCapacity: true) }
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
        let topicBytes = (Int(entry.pointee.topicLength) + 15) & ~15
        let all = targets.count + members.count
        let words = groupEnds.count * 2 + identifiers.count
        let weightsAt = (topicBytes + all * MemoryLayout<Target>.stride + words * 4 + 7) >> 3
        reserve(entry, (weightsAt + weights.count) << 3)
        entry.pointee.weightsAt = weights.isEmpty ? 0 : UInt32(weightsAt)
        entry.pointee.targetCount = Int32(targets.count)
        entry.pointee.localCount = Int32(targets.firstIndex { $0.address.lane != lane } ?? targets.count)
        entry.pointee.memberCount = Int32(members.count)
        entry.pointee.groupCount = Int32(groupEnds.count)
        copy(targets, to: entry.pointee.targets)
        copy(members, to: entry.pointee.members)
        copy(groupEnds, to: entry.pointee.groupEnds)
        copy(raw.groupNumbers, to: entry.pointee.groupNumbers)
        copy(identifiers, to: entry.pointee.identifiers)
        if !weights.isEmpty { copy(weights, to: entry.pointee.weights) }
    }

    private func copy<Element: BitwiseCopyable>(_ array: [Element], to place: UnsafeMutablePointer<Element>) {
        array.withUnsafeBufferPointer { source in
            if let first = source.baseAddress { place.update(from: first, count: array.count) }
        }
    }
}
