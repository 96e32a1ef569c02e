import Core

/// What a session has while it moves to another node, and for a while afterwards. Confined to the session's lane.
final class SessionMove {
    /// For how long an event may come a second time after a move: by way of the other node, and directly.
    static let recentMilliseconds: UInt64 = 5_000

    /// At the old node: what has been packed and waited. It comes back if the new node does not take it.
    var packed: EventQueue?
    /// At the old node: whether the new one has the contents.
    var isGhost = false
    /// At the old node, when the new one has gone on without the session: what it was subscribed to. It takes nothing
    /// meanwhile, because the client gets that where it is.
    var suspended: [Subscription]?
    /// At the new node, when an earlier move has left a session behind here: the events in it, older than all others.
    var leftBehind: EventQueue?
    /// From when on nothing can come twice any more, in the lane's milliseconds.
    var endsAt = UInt64.max
    private var recent = RecentIdentities()

    /// Notes an event.
    /// - Returns: whether it comes for the first time.
    func isFirst(_ identity: UInt64) -> Bool { identity == 0 || recent.insert(identity) }
}

/// Identities of the events that came last: the newest 32,768 at least, twice as many at most.
struct RecentIdentities {
    static let half = 32_768
    private var young: Set<UInt64> = []
    private var old: Set<UInt64> = []

    /// - Returns: whether it was not there.
    mutating func insert(_ identity: UInt64) -> Bool {
        guard !old.contains(identity), young.insert(identity).inserted else { return false }
        if young.count == Self.half { (old, young) = (young, []) }
        return true
    }
}

/// Moving to another node, `docs/decisions/0015`. At the old node: ``surrender(_:to:on:)``, ``packContents(on:)``,
/// ``handOver(on:)``, ``packTail(on:)``, ``retire(on:)``, or ``keep(on:)`` if nothing comes of it.
extension Session {
    func surrenderSession(_ mode: SurrenderMode, to user: String?, on lane: Lane) -> Surrender {
        guard mode == .superseded || principal.identity.user == user else { return .refused }
        displace(on: lane)
        // A session without a future ended with its connection.
        guard lane.port(at: address) === self else { return .nothing }
        switch mode {
        case .clean:
            context(on: lane)?.discard(self, on: lane)
            return .nothing
        case .move, .yield, .superseded: break
        }
        let move = self.move ?? SessionMove()
        move.endsAt = .max
        self.move = move
        guard mode == .move else {
            suspend(move)
            return .nothing
        }
        let wanted = retained?.filters ?? []
        let subscriptions = (move.suspended ?? principal.router.subscriptions(of: self)).map { subscription in
            SessionBytes.Subscribed(
                filter: Array(subscription.filter.wholeText.utf8), options: subscription.options,
                identifier: subscription.identifier,
                wantsRetained: !wanted.isEmpty && wanted.contains(subscription.filter), weight: subscription.weight)
        }
        let left = endsAt - min(lane.now, endsAt)
        return .outline(
            SessionBytes.Outline(
                expirySeconds: expirySeconds, millisecondsLeft: left, subscriptions: subscriptions
            ).bytes)
    }

    /// The session is left behind.
    private func suspend(_ move: SessionMove) {
        guard move.suspended == nil, !move.isGhost else { return }
        let subscriptions = principal.router.subscriptions(of: self)
        for subscription in subscriptions { principal.router.unsubscribe(self, subscription.filter) }
        move.suspended = subscriptions
    }

    func packSession(on lane: Lane) -> [UInt8]? {
        guard let move, link == nil, !move.isGhost else { return nil }
        keep(on: lane)
        move.endsAt = .max
        var contents = SessionBytes.Contents()
        if let will {
            contents.will = will.packet
            contents.willMillisecondsLeft = will.dueAt - min(lane.now, will.dueAt)
        }
        contents.received = received.sorted()
        contents.first = inFlight.first
        contents.slots = (inFlight.first..<inFlight.next).map { inFlight.slot($0) }
        let queue = takeWaiting(on: lane)
        contents.waiting = queue.unexpired(on: lane)
        move.packed = queue
        return contents.bytes(now: lane.now)
    }

    func handOverSession(on lane: Lane) {
        guard let move, move.packed != nil else { return }
        move.packed = nil
        move.isGhost = true
        will = nil
        retained = nil
        inFlight = InFlight()
        received = []
        context(on: lane)?.state(of: lane).absent.remove(self)
        principal.router.releaseSession(clientID, at: address)
    }

    func packTailOfSession(on lane: Lane) -> [UInt8]? {
        guard move?.isGhost == true, !waiting.isEmpty else { return nil }
        var contents = SessionBytes.Contents()
        contents.waiting = takeWaiting(on: lane).unexpired(on: lane)
        return contents.bytes(now: lane.now)
    }

    func keepSession(on lane: Lane) {
        guard let move, !move.isGhost else { return }
        move.endsAt = lane.now + SessionMove.recentMilliseconds
        context(on: lane)?.state(of: lane).moved.append(self)
        for subscription in move.suspended ?? [] {
            _ = principal.router.subscribe(self, subscription, as: principal, on: lane)
        }
        move.suspended = nil
        guard var queue = move.packed else { return }
        move.packed = nil
        var later = takeWaiting(on: lane)
        while let entry = later.popFirst() { queue.append(entry) }
        putBack(queue, on: lane)
    }

    /// Every event that its client has not settled, in order, to begin with at another session.
    fileprivate func takeAll(on lane: Lane) -> EventQueue {
        var queue = move?.leftBehind ?? EventQueue()
        move?.leftBehind = nil
        for sequence in inFlight.first..<inFlight.next {
            let slot = inFlight.slot(sequence)
            guard let event = slot.event else { continue }
            queue.append(
                EventQueue.Entry(
                    event: event, qos: slot.state == .awaitingPuback ? 1 : 2, isRetained: slot.isRetained,
                    identifiers: slot.identifiers))
        }
        inFlight = InFlight()
        var later = takeWaiting(on: lane)
        while let entry = later.popFirst() { queue.append(entry) }
        return queue
    }

    func retireSession(on lane: Lane) {
        will = nil
        displace(on: lane)
        guard lane.port(at: address) === self else { return }
        if let move, let older = move.leftBehind {
            // Nothing newer has come: what was here before is what there is.
            move.leftBehind = nil
            move.packed = older
            return keepSession(on: lane)
        }
        context(on: lane)?.state(of: lane).absent.remove(self)
        principal.router.releaseSession(clientID, at: address)
        principal.router.unregister(self, on: lane)
        // What came with the move is still where it came from; members' shares that were given to it here are not.
        if move?.isGhost != true { shareOut(isEnding: true, on: lane) }
        move = nil
    }

    // MARK: At the new node

    func unpackSession(_ bytes: [UInt8], on lane: Lane) -> Bool {
        guard let move, link == nil, inFlight.count == 0, let context = context(on: lane),
            let contents = try? SessionBytes.Contents(bytes, now: lane.now, limits: lane.limits)
        else { return false }
        inFlight.restore(first: contents.first, contents.slots)
        received = Set(contents.received)
        if let packet = contents.will {
            let will = Will(packet)
            will.dueAt = lane.now + contents.willMillisecondsLeft
            self.will = will
        }
        // What was left behind here comes first, what has come here meanwhile last; both without what the other node
        // has sent.
        var later = takeWaiting(on: lane)
        var brought: Set<UInt64> = []
        for identity in contents.identities where identity != 0 {
            brought.insert(identity)
            _ = move.isFirst(identity)
        }
        while let entry = move.leftBehind?.popFirst() {
            if !brought.contains(entry.event.identity) { _ = wait(entry, on: lane) }
        }
        move.leftBehind = nil
        for entry in contents.waiting { _ = wait(entry, on: lane) }
        while let entry = later.popFirst() {
            if !brought.contains(entry.event.identity) { _ = wait(entry, on: lane) }
        }
        // Its own node may have had other rules.
        judgeKept()
        move.endsAt = lane.now + SessionMove.recentMilliseconds
        context.state(of: lane).moved.append(self)
        context.wait(self, on: lane)
        return true
    }

    func unpackTailOfSession(_ bytes: [UInt8], on lane: Lane) -> Bool {
        guard let contents = try? SessionBytes.Contents(bytes, now: lane.now, limits: lane.limits) else {
            return false
        }
        for entry in contents.waiting where move?.isFirst(entry.event.identity) ?? true {
            // Its own node may have had other rules.
            if principal.router.mayRead(entry.event.topic, as: principal) {
                _ = send(entry, on: lane)
            } else {
                lane.counters.drop(.notReadable)
            }
        }
        return true
    }

    private func context(on lane: Lane) -> MQTTContext? { (lane.belongings["mqtt"] as? MQTTLane)?.context }
}

extension EventQueue {
    /// What is in it and still wanted; the rest is counted as dropped.
    fileprivate func unexpired(on lane: Lane) -> [Entry] {
        var queue = self
        var entries: [Entry] = []
        entries.reserveCapacity(queue.count)
        while let entry = queue.popFirst() {
            if entry.event.isExpired(at: lane.now) { lane.counters.drop(.expired) } else { entries.append(entry) }
        }
        return entries
    }
}

extension MQTTContext: SessionMaker {
    func makeSession(_ claim: SessionClaim, outline: [UInt8], in router: Router, on lane: Lane) -> Inbox? {
        guard let outline = try? SessionBytes.Outline(outline) else { return nil }
        let known = router.session(of: claim.clientID)
        var old: Session?
        if let known {
            guard known.lane == lane.number, let session = lane.port(at: known) as? Session else { return nil }
            old = session
        }
        let principal = Principal(identity: claim.identity, clientID: claim.clientID, router: router)
        let session = Session(
            expirySeconds: outline.expirySeconds, principal: principal, traffic: state(of: lane).traffic)
        router.register(session, on: lane)
        let held = router.claimSession(
            claim.clientID, for: session.address, after: known, as: principal, evenOverQuota: true, on: lane)
        guard case .held = held else {
            router.unregister(session, on: lane)
            return nil
        }
        router.setPresence(session, false)
        session.move = SessionMove()
        if let old { replace(old, by: session, on: lane) }
        subscribe(session, outline, on: lane)
        session.endsAt = lane.now + min(outline.millisecondsLeft, UInt64(lane.limits.sessionExpirySeconds) * 1_000)
        wait(session, on: lane)
        return session
    }

    /// Ends what was still here under the client id, which `session` has already. It ends before `session` subscribes,
    /// so that no quota counts its subscriptions twice: what is published in between comes with the contents, because
    /// the other node stays subscribed until it has packed them.
    private func replace(_ old: Session, by session: Session, on lane: Lane) {
        guard old.principal.identity.user == session.principal.identity.user else {
            // While the nodes could not see each other somebody else had the id here: what is left of that session is
            // not for this one.
            return discard(old, on: lane)
        }
        if old.move?.packed != nil {
            // It comes back before it was quite gone: all that was in it has gone, what has come in since is its tail.
            var tail = old.takeWaiting(on: lane)
            while let entry = tail.popFirst() {
                if session.move?.isFirst(entry.event.identity) ?? true { _ = session.wait(entry, on: lane) }
            }
        } else {
            // Left behind by an earlier move.
            session.move?.leftBehind = old.takeAll(on: lane)
        }
        old.retire(on: lane)
    }

    /// Subscribes to what the other node said; what may not be here any more is left out.
    private func subscribe(_ session: Session, _ outline: SessionBytes.Outline, on lane: Lane) {
        let (principal, router) = (session.principal, session.principal.router)
        var retained: RetainedDelivery?
        for entry in outline.subscriptions {
            guard let filter = try? TopicFilter(entry.filter, grammar: .mqtt, limits: lane.limits) else { continue }
            let subscription = Subscription(
                filter: filter, options: entry.options, identifier: entry.identifier, weight: entry.weight)
            guard case .granted = router.subscribe(session, subscription, as: principal, on: lane),
                entry.wantsRetained
            else { continue }
            let delivery = retained ?? RetainedDelivery()
            delivery.add(
                RetainedDelivery.Start(filter: filter, qos: entry.options.qos, identifier: entry.identifier))
            retained = delivery
        }
        session.retained = retained
    }
}
