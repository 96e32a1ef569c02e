// The router's retained events: kept by publishing, looked up by subscribing, listed and removed by management.

import Synchronization

/// Threading: any lane. The retained lock is held for one event or one bounded step; events are copied before it is
/// taken and freed after it has been given back.
extension Router {
    /// Keeps each event of a run, in order; called when the run has been routed, with its properties unpacked. In a
    /// mesh every node keeps them, whoever subscribes there.
    func keep(
        _ run: UnsafePointer<EventRun>, as principal: Principal, on lane: Lane, _ outcome: inout PublishOutcome
    ) {
        let owner = run.pointee.isFromMesh ? nil : principal.allowance
        guard keepsVersions.load(ordering: .relaxed), RetainedEvents.isShared(run.pointee.topicBytes) else {
            return retain(run, for: owner, on: lane, &outcome)
        }
        let version = retainNewer(run, for: owner, on: lane, &outcome)
        guard !run.pointee.isFromMesh else { return }
        var run = run.pointee
        run.version = version
        // Another run as far as ports can see: the same events, but now they have a version.
        lane.runSerial &+= 1
        deliverToMesh(&run, .everywhere, on: lane, &outcome)
    }

    /// Gives a run to the mesh's port, whatever has matched.
    func deliverToMesh(
        _ run: UnsafePointer<EventRun>, _ options: DeliveryOptions, on lane: Lane, _ outcome: inout PublishOutcome
    ) {
        let address = meshPort
        guard address != .none else { return }
        var target = Target(address: address, options: options)
        if address.lane == lane.number {
            outcome.refused &+= Int32(truncatingIfNeeded: lane.deliver(run, &target))
        } else {
            stage(run, &target, 1, to: address.lane, on: lane, &outcome)
        }
    }

    private func retain(
        _ run: UnsafePointer<EventRun>, for owner: Allowance?, on lane: Lane, _ outcome: inout PublishOutcome
    ) {
        for index in 0..<run.pointee.count {
            let event = run.pointee.event(index)
            let kept = retainedLock.withLock { _ in
                retainedEvents.set(run.pointee.topicBytes, event, for: owner, now: lane.now)
            }
            if !kept.isStored {
                lane.counters.drop(.retainedFull)
                outcome.isKept = false
            }
        }
    }

    /// Whether a run that is to be retained does not lead over its user's quota; else that is counted and recorded.
    /// Asked before the run is delivered, because other nodes are not to keep it either. Two lanes that ask at the same
    /// moment may both be told yes.
    func mayKeep(_ run: UnsafePointer<EventRun>, as principal: Principal, on lane: Lane) -> Bool {
        guard let owner = principal.allowance, owner.limitsRetained, run.pointee.count > 0 else { return true }
        let view = run.pointee.events[run.pointee.count - 1]
        guard view.payloadLength > 0 else { return true }
        let cost = Event.cost(run.pointee.topicLength + run.pointee.propertiesLength + Int(view.payloadLength))
        let over = retainedLock.withLock { _ in
            retainedEvents.usedUp(by: owner, cost: cost, at: run.pointee.topicBytes)
        }
        guard let (resource, usage) = over else { return true }
        lane.counters.drop(.retainedFull, run.pointee.count)
        principal.refuse(resource, usage, "retain", on: lane)
        return false
    }

    // MARK: Looking up

    /// Begins to look for the retained events that a filter matches; nothing is looked at before the first
    /// ``advance(_:nodes:events:now:)``.
    public func retainedCursor(matching filter: TopicFilter) -> RetainedCursor {
        RetainedCursor(filter, router: self)
    }

    /// One step of a look-up. Afterwards `cursor.events` are what it found, and `cursor.isFinished` says whether there
    /// is more to look at. Most look-ups are finished with their first step.
    /// - Parameters:
    ///   - nodes: nodes of the tree to visit at most; at least 1.
    ///   - events: events to find at most; at least 1.
    ///   - now: the lane's time; expired events are not found, and removed.
    public func advance(
        _ cursor: RetainedCursor, nodes: Int = RetainedCursor.nodesPerStep,
        events: Int = RetainedCursor.eventsPerStep, now: UInt64
    ) {
        precondition(cursor.router === self, "a cursor belongs to the router that made it")
        cursor.walk.forgetFound()
        retainedLock.withLock { _ in retainedEvents.advance(&cursor.walk, nodes: nodes, events: events, now: now) }
    }

    /// Everything that a filter matches, at once: for small results. The lock is given back between steps.
    public func retained(matching filter: TopicFilter, now: UInt64 = 0) -> [Event] {
        let cursor = retainedCursor(matching: filter)
        var found: [Event] = []
        while !cursor.isFinished {
            advance(cursor, now: now)
            found.append(contentsOf: cursor.events)
        }
        return found
    }

    func abandon(_ walk: inout RetainedWalk) {
        retainedLock.withLock { _ in retainedEvents.abandon(&walk) }
    }

    // MARK: Management

    /// Topics with a retained event, but for the node's own under `$`. Expired events count until they are found.
    public var retainedCount: Int { retainedLock.withLock { _ in retainedEvents.count - retainedEvents.nodeCount } }

    /// Bytes of these events as the limit counts them: each event's ``Event/cost``.
    public var retainedBytes: Int { retainedLock.withLock { _ in retainedEvents.bytes - retainedEvents.nodeBytes } }

    /// Places in the tree where look-ups wait for their next step.
    var retainedStops: Int { retainedLock.withLock { _ in retainedEvents.treeSize.stops } }

    /// The retained event of one topic.
    public func retained(_ topic: UnsafeRawBufferPointer, now: UInt64) -> Event? {
        retainedLock.withLock { _ in retainedEvents.value(of: topic, now: now) }
    }

    /// A page of the retained events that a filter matches, for listings whose reader keeps nothing but a number.
    ///
    /// A topic that has a value from the first page to the last is listed exactly once. Rights are the caller's matter.
    /// - Parameters:
    ///   - next: the ``RetainedPage/next`` of the page before; 0 for the first.
    ///   - limit: events to list at most; at least 1.
    ///   - places: places to look at for this page; at least 1. The lock is held for a few of them at a time.
    public func retainedPage(
        matching filter: TopicFilter, after next: UInt32 = 0, limit: Int, places: Int = 4_096, now: UInt64
    ) -> RetainedPage {
        if filter.levels.allSatisfy({ $0.kind == .literal }) {
            let event = filter.bytes.withUnsafeBytes { retained($0, now: now) }
            return RetainedPage(events: next == 0 ? event.map { [$0] } ?? [] : [], next: nil)
        }
        var page = RetainedPage(events: [], next: next)
        var left = max(places, 1)
        while left > 0, page.events.count < max(limit, 1), let after = page.next {
            let part = min(left, RetainedCursor.nodesPerStep)
            let last = retainedLock.withLock { _ in
                retainedEvents.list(
                    filter, after: after, places: part, events: max(limit, 1), now: now, into: &page.events)
            }
            page.next = last == 0 ? nil : last
            left -= part
        }
        return page
    }

    /// Removes a topic's retained event, in a mesh from all nodes. Rights are the caller's matter; no subscriber is
    /// told.
    /// - Returns: whether there was one.
    @discardableResult
    public func removeRetained(_ topic: UnsafeRawBufferPointer) -> Bool {
        let (removed, changed) = retainedLock.withLock { _ in (retainedEvents.delete(topic), retainedChanged) }
        if removed != nil, RetainedEvents.isShared(topic) { changed?() }
        return removed != nil
    }

    /// Removes expired events, for a periodic chore: looks at `max` places at most, from where it stopped the last
    /// time. Costs nothing while no event can have expired.
    /// - Returns: how many were removed.
    @discardableResult
    public func sweepExpiredRetained(now: UInt64, max: Int = RetainedCursor.nodesPerStep) -> Int {
        retainedLock.withLock { _ in retainedEvents.sweepExpired(now: now, max: max) }
    }
}
