/// What a principal may use: its connection, what it publishes, and how fast its client is read.

/// Threading: on the lane of its connection.
extension Principal {
    // MARK: Connecting

    /// Counts the connection for as long as the link lives, in place of what it was counted for before. Called once the
    /// client has been let in, and before it is told.
    /// - Returns: what is used up: ``QuotaResource/connections`` or ``QuotaResource/connectionRate``; nil for nothing.
    public func join(_ link: Link, on lane: Lane) -> QuotaResource? {
        guard let allowance else {
            link.stay = nil
            return nil
        }
        // Who has proven anew who it is, on the same connection, is not one more.
        if let stay = link.stay, stay.counts(on: allowance.connections) { return nil }
        if let (resource, usage) = Quotas.enter(allowance.connectionRate, allowance.connections, lane.now) {
            lane.counters.refuse(resource)
            allowance.quotas.note(resource, usage, lane.now) { record("connect") }
            return resource
        }
        link.stay = QuotaStay(counted: allowance.connections, allowance: allowance)
        return nil
    }

    func record(_ action: String) -> AuditRecord {
        var record = AuditRecord(.quota, action)
        record.user = identity.user
        record.clientID = clientID
        (record.peer, record.protocolName) = (peer, protocolName)
        return record
    }

    /// Counts and records that something was refused.
    func refuse(_ resource: QuotaResource, _ usage: Usage, _ action: String, on lane: Lane) {
        lane.counters.refuse(resource)
        allowance?.quotas.note(resource, usage, lane.now) { record(action) }
    }

    // MARK: Publishing

    /// Judges a run of a principal whose publishing is limited.
    /// - Returns: why it is not routed; nil when it is.
    @inline(never)
    func meter(_ run: UnsafePointer<EventRun>, on lane: Lane) -> PublishOutcome.Verdict? {
        let count = run.pointee.count
        let isPaced = pacing.paces(run.pointee.qos)
        if let payload = allowance?.payload, !fits(run, payload.limits[.payload]) {
            refuse(.payload, payload, "publish", on: lane)
            return .payloadTooLarge
        }
        let rate = router.limits.maxPublishRate
        guard takeOwn(count, rate: rate, now: lane.now, inAnyCase: isPaced) || isPaced else { return .quotaExceeded }
        guard let allowance else { return nil }
        if let usage = allowance.publishRate, !usage.take(count, .publishRate, lane.now, inAnyCase: isPaced), !isPaced {
            refuse(.publishRate, usage, "publish", on: lane)
            return .quotaExceeded
        }
        if let usage = allowance.publishBytes,
            !usage.take(bytes(of: run), .publishBytes, lane.now, inAnyCase: isPaced), !isPaced
        {
            refuse(.publishBytes, usage, "publish", on: lane)
            return .quotaExceeded
        }
        return nil
    }

    private func fits(_ run: UnsafePointer<EventRun>, _ limit: Int) -> Bool {
        for index in 0..<run.pointee.count where Int(run.pointee.events[index].payloadLength) > limit { return false }
        return true
    }

    /// As received; of an event that came in no packet of its own, its parts.
    private func bytes(of run: UnsafePointer<EventRun>) -> Int {
        if run.pointee.wireLength > 0 { return run.pointee.wireLength }
        var bytes = (run.pointee.topicLength + run.pointee.propertiesLength) * run.pointee.count
        for index in 0..<run.pointee.count { bytes += Int(run.pointee.events[index].payloadLength) }
        return bytes
    }

    // MARK: Pace

    /// How a client is slowed down that publishes faster than it may.
    public enum Pacing: Int, Sendable {
        /// Not at all: what is over the rate is refused.
        case none = -1
        /// Direct events are taken, and the connection is read more slowly instead.
        case direct = 0
        /// All events are.
        case all = 2

        /// Whether events of a quality of service are taken in any case, because their connection is read more slowly.
        @inline(__always)
        public func paces(_ qos: UInt8) -> Bool { Int(qos) <= rawValue }
    }

    /// What may be published now without waiting.
    public struct Room: Sendable, Equatable {
        /// Events.
        public var events: Int
        /// Bytes, as they are received.
        public var bytes: Int
    }

    /// What may be published now; nothing when ``waitToPublish(_:)`` is more than 0.
    public func room(_ now: UInt64) -> Room {
        var room = Room(events: .max, bytes: .max)
        let rate = router.limits.maxPublishRate
        if rate > 0 { room.events = ownTokens(rate: rate, now: now) }
        if let usage = allowance?.publishRate { room.events = min(room.events, usage.left(.publishRate, now)) }
        if let usage = allowance?.publishBytes { room.bytes = usage.left(.publishBytes, now) }
        return room
    }

    /// Milliseconds until it may publish again; 0 when it may now. At most ten seconds, give or take a few tokens.
    public func waitToPublish(_ now: UInt64) -> UInt64 {
        let room = room(now)
        guard room.events < 1 || room.bytes < 1 else { return 0 }
        var wait: UInt64 = 1
        let rate = router.limits.maxPublishRate
        if rate > 0 { wait = max(wait, ownWait(rate: rate, now: now)) }
        if let usage = allowance?.publishRate { wait = max(wait, usage.wait(.publishRate, now)) }
        if let usage = allowance?.publishBytes { wait = max(wait, usage.wait(.publishBytes, now)) }
        return wait
    }

    /// Bytes of the largest payload that it may publish.
    public var maxPayload: Int { allowance?.payload.map { $0.limits[.payload] } ?? .max }

    /// Counts and records a payload that its conversation has refused, in the words of its protocol.
    public func refusePayload(on lane: Lane) {
        lane.counters.drop(.quotaExceeded)
        guard let usage = allowance?.payload else { return }
        refuse(.payload, usage, "publish", on: lane)
    }
}
