// Retained events as the mesh sees them: versions, digests, and values that come from other nodes.

import Synchronization

/// Threading: as in `Router+Retained.swift`.
extension Router {
    /// Buckets that the topics are divided into for comparing.
    public static var retainedBuckets: Int { RetainedVersions.bucketCount }

    /// Where the mesh's port lives; none while there is no mesh. It gets every event that is to be retained, once, with
    /// ``DeliveryOptions/everywhere``.
    public internal(set) var meshPort: PortAddress {
        get { PortAddress(packed: packedMeshPort.load(ordering: .relaxed)) }
        set { packedMeshPort.store(newValue.packed, ordering: .relaxed) }
    }

    /// From now on retained events have versions, the newer one of a topic stays, and deleted topics are remembered.
    /// Once, and before other nodes are heard of. Takes time in proportion to what is retained already.
    /// - Parameters:
    ///   - writer: this node in versions, unlike every other.
    ///   - wallClock: milliseconds since 1970; called on any thread.
    ///   - changed: called on any thread when management has removed something: no event tells other nodes.
    public func keepRetainedVersions(
        writer: UInt64, wallClock: @escaping @Sendable () -> UInt64, changed: @escaping @Sendable () -> Void
    ) {
        let clock = RetainedClock(writer: writer, wallClock: wallClock)
        retainedLock.withLock { _ in
            guard retainedEvents.versions == nil else { return }
            let life = UInt64(max(limits.tombstoneSeconds, 0)) * 1_000
            retainedEvents.keepVersions(RetainedVersions(clock: clock, tombstoneLife: life))
            retainedChanged = changed
        }
        keepsVersions.store(true, ordering: .relaxed)
    }

    /// Keeps the last event of a run unless the store has a newer one.
    /// - Returns: the version of the run's first event.
    func retainNewer(
        _ run: UnsafePointer<EventRun>, for owner: Allowance?, on lane: Lane, _ published: inout PublishOutcome
    ) -> EventVersion {
        let last = run.pointee.count - 1
        let topic = run.pointee.topicBytes
        var event = run.pointee.event(last)
        if event.isTombstone { event = tombstone(of: topic, isTold: true, now: lane.now) }
        let outcome = retainedLock.withLock { _ -> RetainOutcome? in
            guard let versions = retainedEvents.versions else { return nil }
            return retainedEvents.merge(
                topic, event, version: run.pointee.version, ahead: last, for: owner, now: lane.now, versions)
        }
        guard let outcome else { return .none }
        if !outcome.isStored {
            lane.counters.drop(.retainedFull)
            published.isKept = false
        }
        return outcome.version
    }

    private func tombstone(of topic: UnsafeRawBufferPointer, isTold: Bool, now: UInt64) -> Event {
        let life = UInt64(max(limits.tombstoneSeconds, 0)) * 1_000
        return Event.tombstone(of: topic, until: now + life, isTold: isTold)
    }

    // MARK: Replication

    /// What became of a value from another node.
    public enum RetainedMerge: Sendable, Equatable {
        /// It is newer than what was there; `hadValue` says whether that was a value.
        case advanced(hadValue: Bool)
        /// What is there is as new or newer.
        case notNewer
        /// There is no room.
        case full
    }

    /// Takes over what another node has of a topic.
    /// - Parameter event: a value, or without payload a deletion that is remembered until ``Event/expiresAt``.
    public func mergeRetained(_ event: Event, _ version: EventVersion, now: UInt64) -> RetainedMerge {
        guard RetainedEvents.isShared(event.topic), version != .none else { return .notNewer }
        let outcome = retainedLock.withLock { _ -> RetainOutcome? in
            guard let versions = retainedEvents.versions else { return nil }
            return retainedEvents.merge(event.topic, event, version: version, ahead: 0, now: now, versions)
        }
        guard let outcome, outcome.isStored else { return .full }
        guard outcome.hasAdvanced else { return .notNewer }
        let hadValue = outcome.replaced.map { !$0.isTombstone && !$0.isExpired(at: now) } ?? false
        return .advanced(hadValue: hadValue)
    }

    /// Forgets a topic without a trace, if it still has this version: other nodes have deleted it, so long ago that
    /// nobody remembers.
    /// - Returns: what it had.
    public func forgetRetained(_ entry: RetainedEntry) -> Event? {
        retainedLock.withLock { _ in
            guard let (event, version) = retainedEvents.stored(at: entry.place, hash: entry.hash),
                version == entry.version
            else { return nil }
            return retainedEvents.remove(event.topic)
        }
    }

    /// What stands at a place, a value or, without payload, a remembered deletion; nil when the topic is not there any
    /// more.
    public func retainedEvent(at place: UInt32, hash: UInt64) -> (event: Event, version: EventVersion)? {
        retainedLock.withLock { _ in retainedEvents.stored(at: place, hash: hash) }
    }

    /// A digest of all topics and their versions: equal on nodes that have the same.
    public var retainedDigest: UInt64 { retainedLock.withLock { _ in retainedEvents.versions?.digest ?? 0 } }

    /// The same for each bucket.
    public var retainedBucketDigests: [UInt64] {
        retainedLock.withLock { _ in retainedEvents.versions?.digests ?? [] }
    }

    /// A portion of a bucket's entries, in no particular order: at most `max` after `place`, 0 for the beginning. An
    /// entry that is there from the first portion to the last is listed.
    /// - Returns: where to go on, 0 at the end; nil when that place is not there any more: begin again.
    public func retainedEntries(
        of bucket: Int, after place: UInt32, max: Int, into entries: inout [RetainedEntry]
    ) -> UInt32? {
        guard bucket >= 0, bucket < RetainedVersions.bucketCount else { return 0 }
        return retainedLock.withLock { _ in
            guard let versions = retainedEvents.versions else { return 0 }
            return versions.list(bucket, after: place, max: max, into: &entries)
        }
    }

    /// Numbers about versions.
    public struct RetainedVersionCounts: Sendable, Equatable {
        /// Deleted topics that are remembered.
        public var tombstones = 0
        /// Forgotten before their time, because there were too many.
        public var tombstonesGivenUp: UInt64 = 0
        /// Versions of other nodes that were more than a minute ahead of this node's clock.
        public var clockClamped: UInt64 = 0
        /// Versions that no clock can have made; what came with them was not kept.
        public var implausible: UInt64 = 0
    }

    /// Numbers about versions, as they are now.
    public var retainedVersionCounts: RetainedVersionCounts {
        retainedLock.withLock { _ in
            guard let versions = retainedEvents.versions else { return RetainedVersionCounts() }
            return RetainedVersionCounts(
                tombstones: retainedEvents.tombstoneCount, tombstonesGivenUp: versions.givenUp,
                clockClamped: versions.clock.clamped, implausible: versions.implausible)
        }
    }
}
