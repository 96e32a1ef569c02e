import Core

/// A session of this node that another one has claimed. Confined to the mesh's lane.
final class SessionDeparture {
    enum Phase {
        /// Its connection is being closed.
        case surrendering
        /// The new node gets what it needs to subscribe.
        case offered
        /// What is in it is being packed.
        case packing
        /// That is on its way. The session stays here until the new node says that it has it.
        case sending
        /// The new node has the session; what comes here late follows.
        case ghost
        /// Nothing more comes here; the last of it is on its way.
        case closing
        case ended
    }

    let request: UInt64
    let client: ClientHash
    let count: UInt64
    let target: NodeIndex
    let address: PortAddress
    let mode: SurrenderMode
    var phase = Phase.surrendering
    var transfer: OutgoingTransfer?
    /// Tails sent so far.
    var tails: UInt32 = 0
    /// Whether the session's lane has been asked for a tail.
    var isAsked = false
    /// When it is given up if nothing is heard; for a ghost, when it ends.
    var endsAt: UInt64

    init(
        request: UInt64, client: ClientHash, count: UInt64, target: NodeIndex, address: PortAddress,
        mode: SurrenderMode, now: UInt64
    ) {
        self.request = request
        self.client = client
        self.count = count
        self.target = target
        self.address = address
        self.mode = mode
        endsAt = now + SessionMoves.giveUpMilliseconds
    }

    /// Whether the session is still this node's if nothing comes of it.
    var isHere: Bool {
        switch phase {
        case .surrendering, .offered, .packing, .sending: true
        case .ghost, .closing, .ended: false
        }
    }
}

/// The node that has the session.
extension SessionMoves {
    func receiveTake(_ reader: inout WireReader, from node: NodeIndex) {
        let request = reader.u64()
        let count = reader.claimCount()
        let mode = SurrenderMode(rawValue: reader.u8())
        let user = reader.optionalText(max: 1 << 16)
        let clientID = reader.text(max: 1 << 16)
        guard let mode, mode != .superseded else { return reader.refuse() }
        guard reader.isWhole else { return }
        if let known = departuresByRequest[request] {
            // It is being done; what was said about it may have got lost.
            if known.target == node, known.phase == .offered { pump(known) }
            return
        }
        guard !isClosed else { return answer(request, .nothing, nil, to: node) }
        let client = ClientHash(clientID, namespace: router.name)
        guard clear(client, for: count, request, node) else { return }
        guard let address = router.session(of: clientID) else {
            let ghost = ghosts[client]
            return answer(request, ghost == nil ? .nothing : .elsewhere, ghost?.target, to: node)
        }
        guard departing < maxDepartures else {
            counters.delayed &+= 1
            return answer(request, .busy, nil, to: node)
        }
        held.remove(client)
        let departure = SessionDeparture(
            request: request, client: client, count: count, target: node, address: address, mode: mode,
            now: plane.now)
        departures.append(departure)
        departuresByRequest[request] = departure
        leaving[client] = departure
        departing += 1
        schedule(departure.endsAt)
        let mesh = lane.number
        lane.callLater(address.lane) { lane in
            let result = (lane.port(at: address) as? Inbox)?.surrender(mode, to: user, on: lane) ?? .nothing
            lane.callLater(mesh) { $0.sessionMoves?.surrendered(request, result, clientID) }
        }
    }

    /// Whether a claim with this number is later than all that this node knows of; if so, what was under way for others
    /// ends.
    private func clear(_ client: ClientHash, for count: UInt64, _ request: UInt64, _ node: NodeIndex) -> Bool {
        if let earlier = leaving[client] {
            guard count >= earlier.count else {
                answer(request, .stale, nil, to: node)
                return false
            }
            keep(earlier)
        }
        if let arrival = claiming[client], arrival.count != 0 {
            guard isLater(count, node, than: arrival.count) else {
                answer(request, .stale, nil, to: node)
                return false
            }
            if arrival.mode == .move {
                let source = arrival.source
                held.remove(client)
                lose(arrival)
                // Nothing has been given up there yet.
                answer(request, .elsewhere, source, to: node)
                return false
            }
        }
        guard let own = held[client], !isLater(count, node, than: own.count) else { return true }
        answer(request, .stale, nil, to: node)
        return false
    }

    private func isLater(_ count: UInt64, _ node: NodeIndex, than own: UInt64) -> Bool {
        count != own ? count > own : plane.nodes[node].id > plane.nodes[NodeTable.own].id
    }

    func answer(_ request: UInt64, _ status: SessionStatus, _ next: NodeIndex?, to node: NodeIndex) {
        var writer = WireWriter.session(.answer)
        writer.u64(request)
        writer.u8(status.rawValue)
        writer.optional(next.map { plane.nodes[$0].id })
        send(writer.finish(), to: node)
    }

    private func surrendered(_ request: UInt64, _ result: Surrender, _ clientID: String) {
        defer { finish() }
        guard let departure = departuresByRequest[request], departure.phase == .surrendering else { return }
        switch result {
        case .nothing:
            answer(request, .nothing, nil, to: departure.target)
            remove(departure)
        case .refused:
            answer(request, .refused, nil, to: departure.target)
            remove(departure)
            // The home believes the claim; this one is later.
            let home = home(of: departure.client)
            held.set(departure.client, Holding(clientID: clientID, count: departure.count + 1, home: home))
            announce([(departure.client, departure.count + 1)], to: home)
        case .outline(let bytes):
            guard bytes.count <= maxSessionBytes else { return refuseSize(departure) }
            departure.phase = .offered
            start(.outline, 0, bytes, departure)
        }
    }

    private func refuseSize(_ departure: SessionDeparture) {
        counters.tooLarge &+= 1
        answer(departure.request, .tooLarge, nil, to: departure.target)
        keep(departure)
        let address = departure.address
        lane.callLater(address.lane) { lane in
            _ = (lane.port(at: address) as? Inbox)?.surrender(.superseded, to: nil, on: lane)
        }
    }

    // MARK: Contents

    func fetch(_ request: UInt64, from node: NodeIndex) {
        guard let departure = departuresByRequest[request], departure.target == node else {
            return answer(request, .nothing, nil, to: node)
        }
        departure.endsAt = plane.now + Self.giveUpMilliseconds
        guard departure.phase == .offered else { return }
        departure.phase = .packing
        let (address, mesh) = (departure.address, lane.number)
        lane.callLater(address.lane) { lane in
            let bytes = (lane.port(at: address) as? Inbox)?.packContents(on: lane)
            lane.callLater(mesh) { $0.sessionMoves?.packed(request, bytes) }
        }
    }

    private func packed(_ request: UInt64, _ bytes: [UInt8]?) {
        defer { finish() }
        guard let departure = departuresByRequest[request], departure.phase == .packing else { return }
        guard let bytes else {
            answer(request, .nothing, nil, to: departure.target)
            return keep(departure)
        }
        guard bytes.count <= maxSessionBytes else { return refuseSize(departure) }
        departure.phase = .sending
        start(.contents, 0, bytes, departure)
    }

    func done(_ request: UInt64, from node: NodeIndex) {
        send(frame(.doneHeard, request), to: node)
        guard let departure = departuresByRequest[request], departure.target == node, departure.phase == .sending
        else { return }
        counters.movedOut &+= 1
        departing -= 1
        departure.phase = .ghost
        departure.transfer = nil
        departure.endsAt = plane.now + (isStopping ? Self.stoppingGhostMilliseconds : Self.ghostMilliseconds)
        if leaving[departure.client] === departure { leaving[departure.client] = nil }
        ghosts[departure.client] = departure
        let address = departure.address
        lane.callLater(address.lane) { lane in (lane.port(at: address) as? Inbox)?.handOver(on: lane) }
        if tailAt == .max { tailAt = plane.now + Self.tailMilliseconds }
        schedule(tailAt)
    }

    func aborted(_ request: UInt64, from node: NodeIndex) {
        guard let departure = departuresByRequest[request], departure.target == node, departure.isHere else { return }
        keep(departure)
    }

    /// Nothing comes of it: the session stays. Nobody is sure of it, so its client claims it again.
    private func keep(_ departure: SessionDeparture) {
        let address = departure.address
        lane.callLater(address.lane) { lane in (lane.port(at: address) as? Inbox)?.keep(on: lane) }
        remove(departure)
    }

    private func remove(_ departure: SessionDeparture) {
        if departure.isHere { departing -= 1 }
        departure.phase = .ended
        departuresByRequest[departure.request] = nil
        if leaving[departure.client] === departure { leaving[departure.client] = nil }
        if ghosts[departure.client] === departure { ghosts[departure.client] = nil }
    }

    // MARK: Stopping

    /// The node is about to stop, and its clients are sent away: sessions that they claim elsewhere still go there.
    func beginStopping() {
        isStopping = true
        for departure in departures where departure.phase == .ghost {
            departure.endsAt = min(departure.endsAt, plane.now + Self.stoppingGhostMilliseconds)
        }
    }

    /// Whether a session is on its way to another node, or what comes late follows it.
    var isGivingAway: Bool { departures.contains { $0.phase != .ended } }

    /// Nothing more goes away: lanes end now, and sessions with them. Who has claimed one, or does so from now on, is
    /// told at once that there is nothing, instead of waiting for it.
    func close() {
        defer { finish() }
        isClosed = true
        for departure in departures where departure.isHere {
            answer(departure.request, .nothing, nil, to: departure.target)
            keep(departure)
        }
    }

    // MARK: Transfers

    private func start(_ part: SessionPart, _ serial: UInt32, _ bytes: [UInt8], _ departure: SessionDeparture) {
        counters.bytesOut &+= UInt64(truncatingIfNeeded: bytes.count)
        departure.transfer = OutgoingTransfer(request: departure.request, part: part, serial: serial, bytes: bytes)
        pump(departure)
    }

    private func pump(_ departure: SessionDeparture) {
        let target = departure.target
        departure.transfer?.pump(now: plane.now) { send($0, to: target, isBulk: true) }
        schedule(departure.transfer?.resendAt ?? .max)
    }

    func receivePartHeard(_ reader: inout WireReader, from node: NodeIndex) {
        let request = reader.u64()
        let part = SessionPart(rawValue: reader.u8())
        let serial = reader.u32()
        let count = Int(reader.u32())
        guard let part else { return reader.refuse() }
        guard reader.isWhole, let departure = departuresByRequest[request], departure.target == node,
            departure.transfer?.part == part, departure.transfer?.serial == serial
        else { return }
        departure.transfer?.heard(count, now: plane.now)
        if departure.isHere { departure.endsAt = plane.now + Self.giveUpMilliseconds }
        guard departure.transfer?.isDone == true else { return pump(departure) }
        if part == .tail || part == .outline { departure.transfer = nil }
        if departure.phase == .closing { remove(departure) }
    }

    // MARK: Time

    func tickDepartures() {
        let now = plane.now
        for index in departures.indices {
            let departure = departures[index]
            if let transfer = departure.transfer, !transfer.isDone, transfer.resendAt <= now { pump(departure) }
            guard now >= departure.endsAt else { continue }
            if departure.isHere {
                counters.abandoned &+= 1
                keep(departure)
            } else if departure.phase == .closing {
                counters.tailsLost &+= 1
                remove(departure)
            }
        }
        if now >= tailAt { askForTails(now) }
        departures.removeAll { $0.phase == .ended }
        for departure in departures {
            // A ghost ends with its last tail.
            if departure.phase != .ghost { schedule(departure.endsAt) }
            if let transfer = departure.transfer, !transfer.isDone { schedule(transfer.resendAt) }
        }
        if tailAt != .max { schedule(tailAt) }
    }

    /// One call for each lane that has ghosts.
    private func askForTails(_ now: UInt64) {
        var asked = [[(request: UInt64, address: PortAddress, isLast: Bool)]](repeating: [], count: lane.lanes.count)
        var hasGhosts = false
        for departure in departures where departure.phase == .ghost {
            hasGhosts = true
            guard departure.transfer == nil, !departure.isAsked else { continue }
            departure.isAsked = true
            asked[departure.address.lane].append((departure.request, departure.address, now >= departure.endsAt))
        }
        tailAt = hasGhosts ? now + Self.tailMilliseconds : .max
        let mesh = lane.number
        for place in asked.indices where !asked[place].isEmpty {
            let ghosts = asked[place]
            lane.callLater(place) { lane in
                let tails = ghosts.map { ghost in
                    let inbox = lane.port(at: ghost.address) as? Inbox
                    let bytes = inbox?.packTail(on: lane)
                    if ghost.isLast { inbox?.retire(on: lane) }
                    return (ghost.request, bytes, ghost.isLast)
                }
                lane.callLater(mesh) { $0.sessionMoves?.tails(tails) }
            }
        }
    }

    private func tails(_ tails: [(request: UInt64, bytes: [UInt8]?, isLast: Bool)]) {
        defer { finish() }
        for tail in tails {
            guard let departure = departuresByRequest[tail.request], departure.phase == .ghost else { continue }
            departure.isAsked = false
            if tail.isLast {
                departure.phase = .closing
                departure.endsAt = plane.now + 2_000
                schedule(departure.endsAt)
            }
            if let bytes = tail.bytes, bytes.count <= maxSessionBytes {
                departure.tails += 1
                start(.tail, departure.tails, bytes, departure)
            } else {
                if tail.bytes != nil { counters.tailsLost &+= 1 }
                if tail.isLast { remove(departure) }
            }
        }
    }
}
