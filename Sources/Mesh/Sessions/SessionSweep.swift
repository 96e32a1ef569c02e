import Core

/// A claim that a home has not decided yet, because it may hear of the session in a moment.
struct DeferredClaim {
    let node: NodeIndex
    let request: UInt64
    let known: UInt64
    /// When its client came, by this node's clock.
    let cameAt: UInt64
}

/// Where this node is in going through its tables.
struct SessionSweep {
    /// Entries looked at in one tick: some tenths of a millisecond.
    static let portion = 512
    /// From one portion to the next, in milliseconds: when homes have changed, and in quiet times.
    static let (fastMilliseconds, slowMilliseconds): (UInt64, UInt64) = (5, 40)
    /// From one quiet round to the next.
    static let roundMilliseconds: UInt64 = 60_000

    /// Places below it have not been looked at.
    var heldPlace = 0, homePlace = 0
    /// Whether homes have changed.
    var isFast = false
    var dueAt: UInt64 = 0
    /// The home table is gone through in quiet rounds alone.
    var isUnderWay: Bool { heldPlace > 0 || homePlace > 0 }
}

/// Homes: deciding claims, and telling new homes what there is.
extension SessionMoves {
    // MARK: As a home

    func receiveClaim(_ reader: inout WireReader, from node: NodeIndex) {
        let request = reader.u64()
        let client = reader.client()
        let known = reader.claimCount()
        let age = UInt64(reader.u32())
        guard reader.isWhole else { return }
        let asked = DeferredClaim(
            node: node, request: request, known: known, cameAt: plane.now - min(age, plane.now))
        if plane.now < certainAt, !home.knows(client), deferredOrder.count < Self.maxDeferred {
            if deferred[client] == nil { deferredOrder.append(client) }
            var claims = deferred[client] ?? []
            // Asked again by the same, or by too many: one answer is enough.
            guard !claims.contains(where: { $0.request == request }), claims.count < Self.maxWaiters else { return }
            // Whoever came last is decided last, and holds.
            let place = claims.firstIndex { $0.cameAt > asked.cameAt } ?? claims.count
            claims.insert(asked, at: place)
            deferred[client] = claims
            return
        }
        decide(client, asked)
    }

    private func decide(_ client: ClientHash, _ asked: DeferredClaim) {
        let clock = plane.wallClock()
        let grant = home.claim(
            client, request: asked.request, known: asked.known, by: asked.node, cameAt: asked.cameAt,
            clock: clock - min(plane.now - asked.cameAt, clock), plane.nodes)
        guard let grant else { return self.answer(asked.request, .stale, nil, to: asked.node) }
        var writer = WireWriter.session(.granted)
        writer.u64(asked.request)
        writer.u64(grant.count)
        writer.optional(grant.previous.map { plane.nodes[$0].id })
        send(writer.finish(), to: asked.node)
    }

    private func decideDeferred(_ client: ClientHash) {
        for asked in deferred.removeValue(forKey: client) ?? [] { decide(client, asked) }
    }

    func tickHome() {
        guard !deferredOrder.isEmpty else { return }
        guard plane.now >= certainAt else { return schedule(certainAt) }
        let all = deferredOrder
        deferredOrder = []
        for client in all { decideDeferred(client) }
    }

    func receiveAnnouncements(_ reader: inout WireReader, from node: NodeIndex) {
        var later: [(client: ClientHash, count: UInt64, by: NodeIndex)] = []
        let clock = plane.wallClock()
        while reader.count > 0, !reader.isBroken {
            let client = reader.client()
            let count = reader.claimCount()
            guard !reader.isBroken else { return }
            // A count is the moment at which its client came, unless clocks differ: then nothing is known of that.
            let age = clock >= count ? clock - count : .max
            let cameAt = age <= plane.now ? plane.now - age : 0
            switch home.announce(client, count: count, cameAt: cameAt, by: node, plane.nodes) {
            case .noted: break
            case .superseded(let count, let by): later.append((client, count, by))
            case .replaced(let former): tell([(client, count, node)], to: former)
            }
            if !deferred.isEmpty { decideDeferred(client) }
        }
        tell(later, to: node)
    }

    private func tell(_ later: [(client: ClientHash, count: UInt64, by: NodeIndex)], to node: NodeIndex) {
        guard !later.isEmpty, plane.isReachable(node) || node == NodeTable.own else { return }
        var writer = WireWriter.session(.superseded, capacity: 16 + later.count * 40)
        for entry in later {
            writer.client(entry.client)
            writer.u64(entry.count)
            writer.nodeID(plane.nodes[entry.by].id)
        }
        send(writer.finish(), to: node)
    }

    func receiveReleases(_ reader: inout WireReader, from node: NodeIndex) {
        while reader.count > 0, !reader.isBroken {
            let client = reader.client()
            let count = reader.claimCount()
            if !reader.isBroken { home.release(client, count: count, by: node) }
        }
    }

    // MARK: As a holder

    /// A home knows of later claims. Their connections hold; those here end, and what is in their sessions stays until
    /// it expires or its client comes back here.
    func receiveSuperseded(_ reader: inout WireReader) {
        while reader.count > 0, !reader.isBroken {
            let client = reader.client()
            let count = reader.claimCount()
            let later = reader.nodeID()
            guard !reader.isBroken, let holding = held[client],
                (holding.count, plane.nodes[NodeTable.own].id) < (count, later)
            else { continue }
            held.remove(client)
            if let arrival = claiming[client], arrival.mode == .move { lose(arrival) }
            counters.lost &+= 1
            supersede(holding.clientID)
        }
    }

    /// A later connection at another node holds: the one here ends.
    func supersede(_ clientID: String) {
        guard let address = router.session(of: clientID) else { return }
        lane.lanes.call(address.lane) { lane in
            _ = (lane.port(at: address) as? Inbox)?.surrender(.superseded, to: nil, on: lane)
        }
    }

    /// A session has ended here.
    func ended(_ clientID: String) {
        let client = ClientHash(clientID, namespace: router.name)
        // It may have been replaced at once, or be about to be.
        guard claiming[client] == nil, router.session(of: clientID) == nil else { return }
        release(client)
        finish()
    }

    /// A claim has been decided: a moment later its client should have a session.
    func doubt(_ client: ClientHash) {
        let time = plane.now + Self.doubtMilliseconds
        doubtful.append((time, client))
        schedule(time)
    }

    func tickDoubtful() {
        let now = plane.now
        var done = 0
        while done < doubtful.count, doubtful[done].at <= now {
            let client = doubtful[done].client
            done += 1
            guard claiming[client] == nil, let holding = held[client], router.session(of: holding.clientID) == nil
            else { continue }
            release(client)
        }
        doubtful.removeFirst(done)
        if let next = doubtful.first { schedule(next.at) }
    }

    private func release(_ client: ClientHash) {
        guard let holding = held[client] else { return }
        held.remove(client)
        released.append((client, holding.count))
    }

    /// Homes are told together of what has ended.
    func flushReleases() {
        guard !released.isEmpty else { return }
        var lists = [[(ClientHash, UInt64)]](repeating: [], count: plane.nodes.count)
        for (client, count) in released { lists[home(of: client)].append((client, count)) }
        released = []
        for node in lists.indices where !lists[node].isEmpty { list(.release, lists[node], to: node) }
    }

    @discardableResult
    func announce(_ sessions: [(ClientHash, UInt64)], to node: NodeIndex) -> Bool {
        list(.announce, sessions, to: node)
    }

    @discardableResult
    private func list(_ kind: SessionFrame, _ entries: [(ClientHash, UInt64)], to node: NodeIndex) -> Bool {
        var writer = WireWriter.session(kind, isBulk: true, capacity: 16 + entries.count * 24)
        for (client, count) in entries {
            writer.client(client)
            writer.u64(count)
        }
        return send(writer.finish(), to: node, isBulk: true)
    }

    // MARK: Going through the tables

    /// Homes have changed: they are told, in portions.
    func beginSweep() {
        sweep.heldPlace = held.count
        sweep.isFast = true
        sweep.dueAt = plane.now
        schedule(plane.now)
    }

    func tickSweep() {
        let now = plane.now
        if sweep.dueAt == 0 { sweep.dueAt = now + SessionSweep.roundMilliseconds }
        guard now >= sweep.dueAt else { return schedule(sweep.dueAt) }
        if !sweep.isUnderWay, !sweep.isFast { (sweep.heldPlace, sweep.homePlace) = (held.count, home.table.count) }
        sweepHeld()
        if !sweep.isFast { sweepHome() }
        if sweep.isFast, sweep.heldPlace == 0 { sweep.isFast = false }
        let pause = sweep.isFast ? SessionSweep.fastMilliseconds : SessionSweep.slowMilliseconds
        sweep.dueAt = now + (sweep.isUnderWay ? pause : SessionSweep.roundMilliseconds)
        schedule(sweep.dueAt)
    }

    private func sweepHeld() {
        var lists = [[(ClientHash, UInt64)]](repeating: [], count: plane.nodes.count)
        var place = min(sweep.heldPlace, held.count)
        let end = max(0, place - SessionSweep.portion)
        while place > end {
            place -= 1
            let client = held.keys[place]
            var holding = held.values[place]
            if !sweep.isFast, claiming[client] == nil, router.session(of: holding.clientID) == nil {
                // Claimed by a connection that ended before it had a session.
                release(client)
                continue
            }
            let home = home(of: client)
            if sweep.isFast, holding.home == home { continue }
            lists[home].append((client, holding.count))
            holding.home = home
            held.set(at: place, holding)
        }
        sweep.heldPlace = place
        for node in lists.indices where !lists[node].isEmpty {
            // A home that could not be told now is told in the next quiet round.
            announce(lists[node], to: node)
        }
    }

    private func sweepHome() {
        var place = min(sweep.homePlace, home.table.count)
        let end = max(0, place - SessionSweep.portion)
        while place > end {
            place -= 1
            home.tidy(at: place, plane.nodes) { home(of: $0) == NodeTable.own }
        }
        sweep.homePlace = place
    }
}
