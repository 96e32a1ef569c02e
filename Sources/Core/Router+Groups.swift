import Synchronization

/// Shared groups: each event goes to one of a group's members.
extension Router {
    /// Each event of the run to one member of each group, in turn or by weight.
    @inline(never)
    func deliverToGroups(
        _ run: UnsafePointer<EventRun>, _ entry: UnsafeMutablePointer<MatchCache.Entry>, on lane: Lane,
        _ outcome: inout PublishOutcome
    ) {
        let isWeighted = entry.pointee.isWeighted
        lane.groupRouter = UInt32(truncatingIfNeeded: number)
        for index in 0..<run.pointee.count {
            var single = run.pointee
            single.events += index
            single.owned = single.owned.map { $0 + index }
            single.count = 1
            if single.identity != 0 { single.identity &+= UInt64(truncatingIfNeeded: index) }
            if run.pointee.count > 1 {
                // Where one event's bytes end is the adapter's knowledge: without them a port encodes anew.
                single.layout = .none
                single.wireLength = 0
            }
            var start = 0
            for group in 0..<Int(entry.pointee.groupCount) {
                let end = Int(entry.pointee.groupEnds[group])
                let place =
                    isWeighted
                    ? MatchCache.Entry.weightedMember(entry, start, end)
                    : start + Int(entry.pointee.cursor) % (end - start)
                let member = entry.pointee.members + place
                start = end
                lane.group = entry.pointee.groupNumbers[group]
                lane.runSerial &+= 1
                withUnsafePointer(to: single) { single in
                    if member.pointee.address.lane == lane.number {
                        outcome.refused &+= Int32(truncatingIfNeeded: lane.deliver(single, member))
                    } else {
                        stage(single, member, 1, to: member.pointee.address.lane, on: lane, &outcome)
                    }
                }
            }
            entry.pointee.cursor &+= 1
        }
        lane.group = 0
    }

    /// Gives an event of a shared group to another member, because the one it was chosen for has left: to one that is
    /// present if there is one. Without a member it is dropped and counted.
    func redistribute(_ event: Event, group: UInt32, on lane: Lane) {
        guard !event.isExpired(at: lane.now) else { return lane.counters.drop(.expired) }
        let found = indexLock.withLock { _ -> (Target, UInt32)? in
            let turn = index.takeTurn(of: group)
            return index.member(of: group, turn: turn, orAbsent: true)
                .flatMap { index.isReadable(event.topic, $0) ? $0.target : nil }
        }
        guard var (target, identifier) = found else { return lane.counters.drop(.noMember) }
        if identifier != 0 { target.identifierCount = 1 }
        var run = EventRun(event: event, view: lane.singleEvent, publisher: .none)
        run.owned = lane.singleOwned
        lane.singleOwned.pointee = Unmanaged.passRetained(event.storage)
        defer {
            lane.singleOwned.pointee?.release()
            lane.singleOwned.pointee = nil
        }
        var outcome = PublishOutcome(verdict: .routed, matched: 0, refused: 0, pending: 0, token: 0)
        lane.group = group
        lane.groupRouter = UInt32(truncatingIfNeeded: number)
        lane.runSerial &+= 1
        withUnsafePointer(to: &identifier) { identifiers in
            lane.identifiers = identifiers
            if target.address.lane == lane.number {
                _ = lane.deliver(&run, &target)
            } else {
                stage(&run, &target, 1, to: target.address.lane, on: lane, &outcome)
            }
        }
        lane.group = 0
    }

    /// Whether a shared group has a member that is there to take events.
    public func hasPresentMember(_ group: UInt32) -> Bool {
        indexLock.withLock { _ in index.member(of: group, turn: 0, orAbsent: false) != nil }
    }
}
