// Retained events with versions: of two values of a topic the newer one stays, in whatever order they come. A deleted
// topic keeps its place as a tombstone, an event without payload that no look-up finds, until nobody can have an older
// value any more.

extension Event {
    /// A deletion that is remembered until a time.
    /// - Parameter isTold: whether it was published, so that subscribers hear of it wherever it arrives.
    static func tombstone(of topic: UnsafeRawBufferPointer, until: UInt64, isTold: Bool) -> Event {
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        return Event(
            topic: topic, properties: nothing, payload: nothing, qos: 0, isRetained: isTold, expiresAt: until)
    }

    /// Whether it stands in the store for a topic without a value.
    var isTombstone: Bool { payloadLength == 0 }
}

extension RetainedEvents {
    /// Bytes of tombstones for each that the limit allows.
    private static let bytesPerTombstone = 256

    /// Whether a topic's versions are kept: what the node says of itself stays on the node.
    static func isShared(_ topic: UnsafeRawBufferPointer) -> Bool { topic.first != UInt8(ascii: "$") }

    /// Replaces a topic's value if `event`, a value or a tombstone, is newer than what is there.
    /// - Parameters:
    ///   - given: the version of the first event of its run; none to have one made.
    ///   - ahead: how many events of the run come before it.
    mutating func merge(
        _ topic: UnsafeRawBufferPointer, _ event: Event, version given: EventVersion, ahead: Int,
        for owner: Allowance? = nil, now: UInt64, _ versions: RetainedVersions
    ) -> RetainOutcome {
        versions.now = max(versions.now, now)
        var (node, number) = place(of: topic)
        let known = versions.version(number)
        var version = given
        if given == .none {
            version = versions.clock.next(ahead + 1, after: known.time)
        } else {
            guard given.time < EventVersion.maxTime else {
                versions.implausible &+= 1
                return RetainOutcome(isStored: true, version: given)
            }
            versions.clock.heard(given.time)
        }
        let stored = version.advanced(by: ahead)
        guard known < stored else { return RetainOutcome(isStored: true, version: version) }
        if !event.isTombstone, !hasRoom(for: event, at: node) {
            _ = sweepExpired(now: now, max: Self.sweepWhenFull)
            // The sweep may have removed the topic itself.
            (node, number) = place(of: topic)
            guard hasRoom(for: event, at: node) else { return RetainOutcome(isStored: false, version: version) }
        }
        var outcome = RetainOutcome(isStored: true, version: version, hasAdvanced: true)
        if number != 0 {
            outcome.replaced = replace(number, by: event, for: owner, versions)
            versions.change(number, stored)
        } else {
            number = insert(topic, event)
            change(owner: owner, of: number, from: nil, to: event)
            versions.add(number, topic, stored)
            if event.isTombstone { versions.listTombstone(number) }
        }
        giveUpTombstones(versions)
        return outcome
    }

    private func place(of topic: UnsafeRawBufferPointer) -> (node: UInt32, number: UInt32) {
        let node = find(topic)
        return (node, node == 0 ? 0 : tree.nodes[node].first)
    }

    private mutating func replace(
        _ number: UInt32, by event: Event, for owner: Allowance? = nil, _ versions: RetainedVersions
    ) -> Event? {
        let old = slots.replace(number, by: event)
        change(owner: owner, of: number, from: old, to: event)
        if let old {
            count(old, -1)
            if old.isTombstone { versions.unlistTombstone(number) }
        }
        count(event, 1)
        if event.isTombstone { versions.listTombstone(number) }
        return old
    }

    /// Deletes a topic's value for all nodes, without telling anybody.
    /// - Returns: the value, if there was one.
    mutating func delete(_ topic: UnsafeRawBufferPointer) -> Event? {
        guard let versions, Self.isShared(topic) else { return remove(topic) }
        guard let old = value(of: topic, now: versions.now) else { return nil }
        let tombstone = Event.tombstone(of: topic, until: versions.now + versions.tombstoneLife, isTold: false)
        _ = merge(topic, tombstone, version: .none, ahead: 0, now: versions.now, versions)
        return old
    }

    /// The time of a node's value, or of its tombstone, is over. The value's version stays, with a tombstone, since
    /// other nodes may have an older value that does not expire. No other node is touched: a look-up may be under way.
    mutating func expire(_ node: UInt32, now: UInt64) -> (event: Event?, nodes: Int) {
        let number = tree.nodes[node].first
        guard let versions, let event = slots[number], !event.isTombstone, versions.version(number) != .none,
            event.expiresAt + versions.tombstoneLife > now
        else { return removeValue(of: node) }
        let tombstone = Event.tombstone(
            of: event.topic, until: event.expiresAt + versions.tombstoneLife, isTold: false)
        return (replace(number, by: tombstone, versions), 0)
    }

    /// Forgets the oldest tombstones while there are too many. Not during a step of a look-up.
    mutating func giveUpTombstones(_ versions: RetainedVersions) {
        while tombstoneCount > limits.maxTombstones || tombstoneBytes > limits.maxTombstones * Self.bytesPerTombstone {
            guard versions.oldest != 0, let event = slots[versions.oldest] else { return }
            _ = remove(event.topic)
            versions.givenUp &+= 1
        }
    }

    /// From now on versions are kept; what is there gets one each.
    mutating func keepVersions(_ versions: RetainedVersions) {
        self.versions = versions
        var number: UInt32 = 1
        while number <= slots.highest {
            if let event = slots[number], Self.isShared(event.topic) {
                versions.add(number, event.topic, versions.clock.next(1, after: 0))
            }
            number += 1
        }
    }

    /// What stands at a place: a value or a tombstone; nil when another topic does, or none.
    func stored(at place: UInt32, hash: UInt64) -> (event: Event, version: EventVersion)? {
        guard let entry = versions?.entry(place, hash: hash), let event = slots[place] else { return nil }
        return (event, entry.version)
    }
}
