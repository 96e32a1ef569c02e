import Core

/// A claim that a client of this node has made, and what follows from it. Confined to the mesh's lane.
final class SessionArrival {
    enum Phase {
        /// The home has been asked who has the session.
        case asking
        /// There are too many moves.
        case queued
        /// The node that has it has been told.
        case taking
        /// It is being made and subscribed here.
        case making
        /// The other nodes are learning that this one is subscribed.
        case settling
        /// The old node has been asked for what is in it.
        case fetching
        /// That is being put into the session here.
        case unpacking
        /// The session is here; the old node has been told.
        case finishing
        /// The old node has heard it, and may still send what came late.
        case following
        case ended
    }

    var request: UInt64
    let client: ClientHash
    var claim: SessionClaim
    /// The lane of the connection.
    let place: Int
    var mode: SurrenderMode
    var phase = Phase.asking
    var waiters: [@Sendable (SessionClaimAnswer) -> Void] = []
    /// The claim's number; 0 until it has been granted.
    var count: UInt64 = 0
    /// Who has the session.
    var source: NodeIndex = NodeTable.own
    /// Nodes that said it was elsewhere.
    var hops = 0
    /// The session here, once it has been made.
    var address: PortAddress?
    var incoming: IncomingTransfer?
    /// Which transfer has arrived last.
    var taken: (part: UInt8, serial: UInt32)?
    /// When something is to be done again, and when not any more.
    var dueAt: UInt64
    /// Until then the client waits.
    let deadline: UInt64
    var giveUpAt: UInt64
    /// When the client came.
    let cameAt: UInt64

    init(
        request: UInt64, client: ClientHash, claim: SessionClaim, place: Int, mode: SurrenderMode, now: UInt64
    ) {
        self.request = request
        self.client = client
        self.claim = claim
        self.place = place
        self.mode = mode
        cameAt = now
        dueAt = now
        deadline = now + SessionMoves.waitMilliseconds
        giveUpAt = now + SessionMoves.giveUpMilliseconds
    }

    /// Whether a session is on its way.
    var isMoving: Bool {
        switch phase {
        case .taking, .making, .settling, .fetching, .unpacking: mode == .move
        case .asking, .queued, .finishing, .following, .ended: false
        }
    }

    func answer(_ answer: SessionClaimAnswer) {
        let all = waiters
        waiters = []
        for waiter in all { waiter(answer) }
    }
}

/// The node that claims.
extension SessionMoves {
    // MARK: Claiming

    /// A client of this node claims its id.
    /// - Parameter place: the number of its connection's lane.
    func claim(_ claim: SessionClaim, place: Int, answer: (@Sendable (SessionClaimAnswer) -> Void)?) {
        defer { finish() }
        let client = ClientHash(claim.clientID, namespace: router.name)
        if let known = claiming[client] { return join(known, claim, answer) }
        if held[client] != nil, claim.isClean || router.session(of: claim.clientID) != nil {
            answer?(.proceed)
            return
        }
        guard claiming.count < lane.limits.maxConnections else {
            counters.unclaimed &+= 1
            answer?(.proceed)
            return
        }
        let arrival = SessionArrival(
            request: plane.random(), client: client, claim: claim, place: place,
            mode: claim.isClean ? .clean : .move, now: plane.now)
        if let answer { arrival.waiters.append(answer) }
        arrivals.append(arrival)
        arrivalsByRequest[arrival.request] = arrival
        claiming[client] = arrival
        ask(arrival)
    }

    /// Another connection of the same client, at this node, while the claim of the first is being decided.
    private func join(
        _ arrival: SessionArrival, _ claim: SessionClaim, _ answer: (@Sendable (SessionClaimAnswer) -> Void)?
    ) {
        guard claim.identity.user == arrival.claim.identity.user else {
            counters.refused &+= 1
            answer?(.refused)
            return
        }
        if let answer {
            // Who would wait for a move that throws everything away, or has been given up, goes on at once.
            guard arrival.mode == .move, arrival.waiters.count < Self.maxWaiters else { return answer(.proceed) }
            arrival.waiters.append(answer)
            return
        }
        guard arrival.mode == .move else { return arrival.mode = .clean }
        counters.lost &+= UInt64(arrival.waiters.count)
        restart(arrival, as: .clean)
        arrival.answer(.lost)
    }

    private func ask(_ arrival: SessionArrival) {
        arrival.phase = .asking
        var writer = WireWriter.session(.claim)
        writer.u64(arrival.request)
        writer.client(arrival.client)
        writer.u64(held[arrival.client]?.count ?? 0)
        writer.u32(UInt32(clamping: plane.now - arrival.cameAt))
        send(writer.finish(), to: home(of: arrival.client))
        wait(arrival, Self.retryMilliseconds)
    }

    private func wait(_ arrival: SessionArrival, _ milliseconds: UInt64) {
        arrival.dueAt = plane.now + milliseconds
        schedule(min(arrival.dueAt, arrival.deadline > plane.now ? arrival.deadline : .max))
    }

    func receiveGrant(_ reader: inout WireReader, from node: NodeIndex) {
        let request = reader.u64()
        let count = reader.claimCount()
        let previous = reader.optionalNode()
        guard reader.isWhole, let arrival = arrivalsByRequest[request], arrival.phase == .asking else { return }
        counters.claims &+= 1
        arrival.count = count
        held.set(arrival.client, Holding(clientID: arrival.claim.clientID, count: count, home: node))
        guard let previous, let source = plane.nodes.known(previous), source != NodeTable.own,
            plane.isReachable(source)
        else { return end(arrival, .proceed) }
        arrival.source = source
        take(arrival)
    }

    private func take(_ arrival: SessionArrival) {
        if arrival.mode == .move, !arrival.isMoving {
            guard movesIn < maxArrivals else {
                if arrival.phase != .queued { counters.delayed &+= 1 }
                arrival.phase = .queued
                return wait(arrival, 20)
            }
            movesIn += 1
        }
        arrival.phase = .taking
        var writer = WireWriter.session(.take, capacity: 128)
        writer.u64(arrival.request)
        writer.u64(arrival.count)
        writer.u8(arrival.mode.rawValue)
        writer.u8(arrival.claim.identity.user == nil ? 0 : 1)
        if let user = arrival.claim.identity.user { writer.text(user) }
        writer.text(arrival.claim.clientID)
        send(writer.finish(), to: arrival.source)
        wait(arrival, Self.retryMilliseconds)
    }

    // MARK: How it ends

    /// The claim is decided, and nothing comes.
    func end(_ arrival: SessionArrival, _ answer: SessionClaimAnswer) {
        undo(arrival)
        remove(arrival)
        arrival.answer(answer)
    }

    /// The session that was made for a move goes, and the old node keeps its own.
    private func undo(_ arrival: SessionArrival) {
        if arrival.isMoving { movesIn -= 1 }
        forgetIncoming(arrival)
        arrival.taken = nil
        guard let address = arrival.address else { return }
        arrival.address = nil
        lane.lanes.call(address.lane) { lane in (lane.port(at: address) as? Inbox)?.retire(on: lane) }
    }

    private func remove(_ arrival: SessionArrival) {
        arrival.phase = .ended
        arrivalsByRequest[arrival.request] = nil
        guard claiming[arrival.client] === arrival else { return }
        claiming[arrival.client] = nil
        doubt(arrival.client)
    }

    /// The move is given up. Whatever the old node has is thrown away there, or left behind.
    private func restart(_ arrival: SessionArrival, as mode: SurrenderMode) {
        let (phase, wasMoving) = (arrival.phase, arrival.isMoving)
        undo(arrival)
        if wasMoving { send(frame(.abort, arrival.request), to: arrival.source) }
        arrival.mode = mode
        arrival.giveUpAt = plane.now + Self.giveUpMilliseconds
        guard phase != .asking else { return }
        arrivalsByRequest[arrival.request] = nil
        arrival.request = plane.random()
        arrivalsByRequest[arrival.request] = arrival
        take(arrival)
    }

    /// The client goes on without its session, which is left behind at the other node.
    private func goOn(_ arrival: SessionArrival) {
        restart(arrival, as: .yield)
        arrival.answer(.proceed)
    }

    /// Another node has claimed the client id later.
    func lose(_ arrival: SessionArrival) {
        counters.lost &+= 1
        if arrival.isMoving { send(frame(.abort, arrival.request), to: arrival.source) }
        end(arrival, .lost)
    }

    func receiveAnswer(_ reader: inout WireReader, from node: NodeIndex) {
        let request = reader.u64()
        let status = SessionStatus(rawValue: reader.u8())
        let next = reader.optionalNode()
        guard let status else { return reader.refuse() }
        guard reader.isWhole, let arrival = arrivalsByRequest[request] else { return }
        if arrival.phase == .asking, status == .stale { return cameTooLate(arrival) }
        guard arrival.source == node else { return }
        switch arrival.phase {
        case .taking, .settling, .fetching: break
        case .asking, .queued, .making, .unpacking, .finishing, .following, .ended: return
        }
        switch status {
        case .nothing, .tooLarge: end(arrival, .proceed)
        case .refused: refuse(arrival)
        case .stale:
            forgetHolding(arrival)
            counters.lost &+= 1
            end(arrival, .lost)
        case .busy: wait(arrival, Self.retryMilliseconds / 4)
        case .elsewhere:
            arrival.hops += 1
            guard let next, let source = plane.nodes.known(next), source != NodeTable.own, arrival.hops <= 4,
                arrival.phase == .taking, plane.isReachable(source)
            else { return end(arrival, .proceed) }
            arrival.source = source
            take(arrival)
        }
    }

    /// The home has heard of this claim after that of a client that came later, to another node. Who has not waited for
    /// this is sent away now.
    private func cameTooLate(_ arrival: SessionArrival) {
        held.remove(arrival.client)
        counters.lost &+= 1
        if arrival.mode != .move { supersede(arrival.claim.clientID) }
        end(arrival, .lost)
    }

    private func forgetHolding(_ arrival: SessionArrival) {
        guard held[arrival.client]?.count == arrival.count else { return }
        held.remove(arrival.client)
    }

    /// The session is another user's. Who has not waited for this is sent away now.
    private func refuse(_ arrival: SessionArrival) {
        counters.refused &+= 1
        forgetHolding(arrival)
        if arrival.mode != .move, let address = router.session(of: arrival.claim.clientID) {
            let user = arrival.claim.identity.user
            lane.lanes.call(address.lane) { lane in
                guard let inbox = lane.port(at: address) as? Inbox, inbox.principal.identity.user == user else {
                    return
                }
                inbox.kick(endsSession: true, on: lane)
            }
        }
        end(arrival, .refused)
    }

    // MARK: Parts

    func receivePart(_ reader: inout WireReader, from node: NodeIndex) {
        let request = reader.u64()
        let part = SessionPart(rawValue: reader.u8())
        let serial = reader.u32()
        let total = Int(reader.u32())
        let offset = Int(reader.u32())
        let bytes = reader.rest()
        guard let part, total <= IncomingTransfer.maxBytes else { return reader.refuse() }
        guard reader.isWhole, let arrival = arrivalsByRequest[request], arrival.source == node else { return }
        let number = (part: part.rawValue, serial: serial)
        var received = total
        if let taken = arrival.taken, number <= taken {
            // It is here; what was said about it got lost.
        } else {
            guard expects(part, serial, arrival), let count = add(bytes, part, serial, total, offset, arrival) else {
                return
            }
            received = count
        }
        var writer = WireWriter.session(.partHeard)
        writer.u64(request)
        writer.u8(part.rawValue)
        writer.u32(serial)
        writer.u32(UInt32(truncatingIfNeeded: received))
        send(writer.finish(), to: node)
    }

    private func expects(_ part: SessionPart, _ serial: UInt32, _ arrival: SessionArrival) -> Bool {
        switch (part, arrival.phase) {
        case (.outline, .taking), (.contents, .fetching): return serial == 0
        case (.tail, .finishing), (.tail, .following):
            // Serial numbers of tails begin with 1.
            return serial == (arrival.taken?.part == SessionPart.tail.rawValue ? arrival.taken?.serial ?? 0 : 0) &+ 1
        default: return false
        }
    }

    /// - Returns: bytes that have arrived of the transfer; nil when there is no room for more.
    private func add(
        _ bytes: UnsafeRawBufferPointer, _ part: SessionPart, _ serial: UInt32, _ total: Int, _ offset: Int,
        _ arrival: SessionArrival
    ) -> Int? {
        guard incomingBytes + bytes.count <= maxIncomingBytes else {
            counters.delayed &+= 1
            return nil
        }
        var incoming = arrival.incoming ?? IncomingTransfer(part: part, serial: serial, total: total)
        arrival.incoming = nil
        guard incoming.part == part, incoming.serial == serial, incoming.total == total else {
            arrival.incoming = incoming
            return nil
        }
        let before = incoming.bytes.count
        incoming.take(at: offset, bytes)
        incomingBytes += incoming.bytes.count - before
        let received = incoming.bytes.count
        if arrival.phase != .following { wait(arrival, Self.retryMilliseconds) }
        guard incoming.isWhole else {
            arrival.incoming = incoming
            return received
        }
        incomingBytes -= total
        arrival.taken = (part.rawValue, serial)
        complete(part, incoming.bytes, arrival)
        return received
    }

    private func forgetIncoming(_ arrival: SessionArrival) {
        incomingBytes -= arrival.incoming?.bytes.count ?? 0
        arrival.incoming = nil
    }

    private func complete(_ part: SessionPart, _ bytes: [UInt8], _ arrival: SessionArrival) {
        let (request, mesh) = (arrival.request, lane.number)
        switch part {
        case .outline:
            arrival.phase = .making
            let (claim, router) = (arrival.claim, router)
            // What was left behind here by an earlier move is replaced on its own lane.
            let place = router.session(of: claim.clientID)?.lane ?? arrival.place
            lane.lanes.call(place) { lane in
                let address = claim.maker.makeSession(claim, outline: bytes, in: router, on: lane)?.address
                lane.callLater(mesh) { $0.sessionMoves?.made(request, address) }
            }
        case .contents:
            guard let address = arrival.address else { return }
            arrival.phase = .unpacking
            lane.lanes.call(address.lane) { lane in
                let isTaken = (lane.port(at: address) as? Inbox)?.unpackContents(bytes, on: lane) ?? false
                lane.callLater(mesh) { $0.sessionMoves?.unpacked(request, isTaken) }
            }
        case .tail:
            guard let address = arrival.address else { return }
            lane.lanes.call(address.lane) { lane in
                let isTaken = (lane.port(at: address) as? Inbox)?.unpackTail(bytes, on: lane) ?? false
                if !isTaken { lane.callLater(mesh) { $0.sessionMoves?.counters.tailsLost &+= 1 } }
            }
        }
    }

    private func made(_ request: UInt64, _ address: PortAddress?) {
        defer { finish() }
        guard let arrival = arrivalsByRequest[request], arrival.phase == .making else {
            guard let address else { return }
            return lane.lanes.call(address.lane) { lane in (lane.port(at: address) as? Inbox)?.retire(on: lane) }
        }
        guard let address else {
            return goOn(arrival)
        }
        arrival.address = address
        arrival.phase = .settling
        wait(arrival, Self.settleMilliseconds)
    }

    private func unpacked(_ request: UInt64, _ isTaken: Bool) {
        defer { finish() }
        guard let arrival = arrivalsByRequest[request], arrival.phase == .unpacking else { return }
        guard isTaken else {
            return goOn(arrival)
        }
        counters.movedIn &+= 1
        movesIn -= 1
        arrival.phase = .finishing
        arrival.giveUpAt = plane.now + Self.giveUpMilliseconds
        claiming[arrival.client] = nil
        doubt(arrival.client)
        send(frame(.done, request), to: arrival.source)
        wait(arrival, Self.retryMilliseconds)
        arrival.answer(.proceed)
    }

    func doneHeard(_ request: UInt64, from node: NodeIndex) {
        guard let arrival = arrivalsByRequest[request], arrival.phase == .finishing, arrival.source == node else {
            return
        }
        arrival.phase = .following
        wait(arrival, Self.ghostMilliseconds + 2_000)
    }

    // MARK: Time

    func tickArrivals() {
        let now = plane.now
        // What is done for one may add others, at the end.
        for index in arrivals.indices { tick(arrivals[index], now) }
        arrivals.removeAll { $0.phase == .ended }
        for arrival in arrivals {
            schedule(arrival.dueAt)
            if !arrival.waiters.isEmpty, arrival.deadline > now { schedule(arrival.deadline) }
        }
    }

    private func tick(_ arrival: SessionArrival, _ now: UInt64) {
        if now >= arrival.deadline, arrival.mode == .move {
            switch arrival.phase {
            case .asking, .queued, .taking, .settling, .fetching:
                counters.timedOut &+= 1
                return goOn(arrival)
            // The session's lane answers in a moment.
            case .making, .unpacking, .finishing, .following, .ended: break
            }
        }
        guard now >= arrival.dueAt else { return }
        switch arrival.phase {
        case .asking:
            if now >= arrival.giveUpAt { return end(arrival, .proceed) }
            ask(arrival)
        case .queued: take(arrival)
        case .taking:
            if now >= arrival.giveUpAt || !plane.isReachable(arrival.source) { return end(arrival, .proceed) }
            take(arrival)
        case .settling, .fetching:
            arrival.phase = .fetching
            send(frame(.fetch, arrival.request), to: arrival.source)
            wait(arrival, Self.retryMilliseconds)
        case .finishing:
            if now >= arrival.giveUpAt {
                arrival.phase = .following
                return wait(arrival, Self.ghostMilliseconds)
            }
            send(frame(.done, arrival.request), to: arrival.source)
            wait(arrival, Self.retryMilliseconds)
        case .following:
            forgetIncoming(arrival)
            remove(arrival)
        case .making, .unpacking: wait(arrival, Self.retryMilliseconds)
        case .ended: break
        }
    }
}
