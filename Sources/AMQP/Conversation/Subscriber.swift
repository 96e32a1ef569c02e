import Core

/// The inbox of a receiving link (§3.5.3): what its source names, as a subscription. A durable one outlives the link.
///
/// What cannot be sent now waits; of what was sent and can come back, the events are kept in ``window``.
final class Subscriber: Inbox {
    let key: LinkKey
    let filter: TopicFilter
    let isNoLocal: Bool
    /// Whether its messages say which topic they came by: the filter has wildcards.
    let needsTopic: Bool
    /// Seconds that it outlives its link; 0 ends it with the link.
    let keepSeconds: Int
    /// What its clients are told that it is.
    let source: Terminus
    /// What it has said of its weight in its shared group; nil for nothing.
    private(set) var weight: UInt16?
    private unowned(unsafe) let state: AMQPLane
    private unowned(unsafe) var engine: Engine?
    private(set) var outgoing: OutgoingLink?
    /// The connection's address as a publisher, for no-local.
    private var publisher = PortAddress.none
    /// Events sent and not settled that may come back, by the number that their deliveries carry.
    private var window = SentWindow()
    /// Events that came back; they go before all others.
    private var returned = ReturnedEvents()
    /// Receipts of runs that were taken although the queue was full, oldest first.
    private var heldReceipts = HeldReceipts()
    /// The name that it is listed under, among the clients of all protocols.
    private var sessionName = ""
    private(set) var retained: RetainedDelivery?
    /// When it ends if nobody comes back, in the lane's milliseconds.
    private(set) var endsAt: UInt64 = 0

    /// Whether it outlives its link.
    var isDurable: Bool { keepSeconds > 0 }

    init(
        _ key: LinkKey, _ filter: TopicFilter, isNoLocal: Bool, keepSeconds: Int, weight: UInt16?, source: Terminus,
        principal: Principal, state: AMQPLane
    ) {
        self.key = key
        self.filter = filter
        self.isNoLocal = isNoLocal
        self.keepSeconds = keepSeconds
        self.weight = weight
        self.source = source
        self.state = state
        needsTopic = filter.hasWildcards
        super.init(principal: principal, takesPacked: true)
    }

    // MARK: Attaching

    /// Its client says anew what it is to have of its group's events; nil for nothing.
    func setWeight(_ weight: UInt16?, as principal: Principal, on lane: Lane) {
        guard weight != self.weight else { return }
        let subscription = Subscription(filter: filter, options: .qos(1), weight: weight)
        // Its client may have it, as was asked just before; else it stays as it was.
        guard case .granted = principal.router.subscribe(self, subscription, as: principal, on: lane) else { return }
        self.weight = weight
    }

    /// A link takes the subscription over; ``pump(on:)`` is called when it has credit.
    func begin(_ outgoing: OutgoingLink, principal: Principal, on lane: Lane) {
        let conversation = outgoing.conversation
        if let former = self.outgoing {
            former.steal()
            // What its client has not settled it cannot settle any more.
            takeBack()
        }
        if link == nil, address != .none { principal.router.setPresence(self, true) }
        self.outgoing = outgoing
        engine = conversation.engine
        publisher = conversation.port?.address ?? .none
        state.absent.remove(self)
        attach(conversation.link, principal: principal)
        outgoing.begin(self)
    }

    /// Its link is gone.
    /// - Parameter isClosing: whether the client wants the subscription no more (§2.6.3).
    func left(isClosing: Bool, on lane: Lane) {
        outgoing = nil
        engine = nil
        detach()
        takeBack()
        guard isDurable, !isClosing else { return end(on: lane) }
        principal.router.setPresence(self, false)
        shareOut(isEnding: false, on: lane)
        releaseHeld(lane)
        endsAt = lane.now + UInt64(keepSeconds) * 1_000
        state.absent.add(self, dueAt: endsAt)
    }

    /// Ends the subscription with everything in it.
    func end(on lane: Lane) {
        state.absent.remove(self)
        if state.subscribers[key] === self { state.subscribers[key] = nil }
        let router = principal.router
        router.releaseSession(sessionName, at: address)
        router.unregister(self, on: lane)
        takeBack()
        shareOut(isEnding: true, on: lane)
        while let receipt = heldReceipts.next() { lane.answer(receipt) }
    }

    /// Claims the name that it is listed under: the one asked for, or what makes it another one's.
    /// - Returns: false when the node, or its user, has as many sessions as it may.
    func claimName(_ wanted: String, on lane: Lane) -> Bool {
        let name = principal.router.claimSession(like: wanted, for: address, as: principal, on: lane)
        guard let name else { return false }
        sessionName = name
        return true
    }

    /// Gives what its client has not taken to others of its group: while it lives only to members that are present,
    /// when it ends to any.
    private func shareOut(isEnding: Bool, on lane: Lane) {
        guard filter.group != nil else { return }
        shareOut(isEnding: isEnding, on: lane) { mayLeave in
            var leaving: [(Event, UInt32)] = []
            for entry in returned.takeAll() {
                if mayLeave(entry.group) { leaving.append((entry.event, entry.group)) } else { returned.add(entry) }
            }
            return leaving
        }
    }

    /// Everything that was sent and not settled is to be sent again.
    private func takeBack() { for entry in window.takeAll() { giveBack(entry, hasFailed: true) } }

    private func giveBack(_ entry: SentWindow.Entry, hasFailed: Bool) {
        var entry = entry
        if hasFailed { entry.deliveryCount &+= 1 }
        returned.add(entry)
    }

    // MARK: Delivery

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        if isNoLocal, run.pointee.publisher == publisher, publisher != .none { return 0 }
        var index = 0
        if waiting.isEmpty, returned.isEmpty, let outgoing, let engine {
            index = sendAtOnce(run, target, outgoing, engine, lane)
        }
        guard index < run.pointee.count else { return 0 }
        return keep(lane.unpacked(run), from: index, target, on: lane)
    }

    /// Sends events of a run as they are.
    /// - Returns: how many.
    private func sendAtOnce(
        _ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, _ outgoing: OutgoingLink, _ engine: Engine,
        _ lane: Lane
    ) -> Int {
        let isSettled = outgoing.sendsSettled || (run.pointee.qos == 0 && !outgoing.sendsUnsettled)
        let canComeBack = !isSettled && run.pointee.qos > 0 && (isDurable || lane.group != 0)
        let options = MessageOptions(needsTopic: needsTopic)
        var index = 0
        var sent = 0
        var bytes = 0
        while index < run.pointee.count, hasRoom(outgoing, engine, lane) {
            let parts = state.outgoing.message(run, index, options, on: lane)
            guard outgoing.takes(parts, lane) else {
                index += 1
                continue
            }
            var number = 0
            if canComeBack {
                number = window.add(
                    SentWindow.Entry(event: lane.unpacked(run).pointee.event(index), group: lane.group))
            }
            outgoing.send(parts, isSettled: isSettled, context: number, engine)
            bytes += parts.count
            index += 1
            sent += 1
        }
        guard sent > 0 else { return index }
        lane.counters.eventsOut &+= UInt64(truncatingIfNeeded: sent)
        state.traffic.sent(sent, bytes: bytes, qos: isSettled ? 0 : 1)
        outgoing.conversation.touch()
        return index
    }

    /// Lets events wait that cannot be sent now.
    /// - Returns: how many guaranteed ones were refused.
    private func keep(
        _ run: UnsafePointer<EventRun>, from first: Int, _ target: UnsafePointer<Target>, on lane: Lane
    ) -> Int {
        let isGuaranteed = run.pointee.qos > 0
        guard isGuaranteed || outgoing != nil else { return 0 }
        var refused = 0
        var isHeld = false
        for index in first..<run.pointee.count {
            let entry = EventQueue.Entry(
                event: run.pointee.event(index), qos: min(run.pointee.qos, 1), isRetained: false, group: lane.group)
            if isGuaranteed, isDurable, !hasRoom(for: entry.event, lane.limits), isHeld || hold(run, on: lane) {
                isHeld = true
                waitBeyondLimits(entry, on: lane)
            } else if !wait(entry, on: lane), isGuaranteed {
                refused += 1
            }
        }
        return refused
    }

    /// Takes a run although the queue is full: its publisher waits, and has no credit for more than it has sent. What
    /// it has sent has a bound, too.
    private func hold(_ run: UnsafePointer<EventRun>, on lane: Lane) -> Bool {
        guard waiting.bytes < 2 * lane.limits.maxQueuedBytes, let receipt = lane.hold(run) else { return false }
        heldReceipts.add(receipt)
        return true
    }

    // MARK: Going on

    /// Events that wait to be sent, retained ones not counted.
    var waitingCount: Int { returned.count + waiting.count }

    /// Whether everything has been sent.
    var hasNothingToSend: Bool { returned.isEmpty && waiting.isEmpty && retained == nil }

    /// Whether one more event may be sent: what may come back is kept, and has a bound in bytes, too.
    @inline(__always)
    private func hasRoom(_ outgoing: OutgoingLink, _ engine: Engine, _ lane: Lane) -> Bool {
        window.bytes < lane.limits.maxQueuedBytes && outgoing.hasRoom(engine, lane)
    }

    /// Sends what may be sent.
    func pump(on lane: Lane) {
        if hasNothingToSend, heldReceipts.isEmpty { return }
        guard let outgoing, let engine else { return }
        while hasRoom(outgoing, engine, lane) {
            if let entry = nextReturned(on: lane) {
                send(entry, isRetained: false, outgoing, engine, lane)
            } else if let entry = nextWaiting(on: lane) {
                send(
                    SentWindow.Entry(event: entry.event, group: entry.group), isRetained: entry.isRetained, outgoing,
                    engine, lane)
            } else {
                break
            }
        }
        releaseHeld(lane)
        if retained != nil, hasNothingWaiting, outgoing.credit > 0 { lane.workLater(self) }
    }

    /// Takes the oldest event that came back; those whose time is over are dropped and counted.
    private func nextReturned(on lane: Lane) -> SentWindow.Entry? {
        while let entry = returned.next() {
            if entry.event.isExpired(at: lane.now) {
                lane.counters.drop(.expired)
            } else if maySendAgain(entry.event, group: entry.group) {
                return entry
            } else {
                lane.counters.drop(.notReadable)
            }
        }
        return nil
    }

    private var hasNothingWaiting: Bool { returned.isEmpty && waiting.isEmpty }

    private func send(
        _ entry: SentWindow.Entry, isRetained: Bool, _ outgoing: OutgoingLink, _ engine: Engine, _ lane: Lane
    ) {
        let event = entry.event
        let isSettled = outgoing.sendsSettled || (event.qos == 0 && !outgoing.sendsUnsettled)
        let options = MessageOptions(
            needsTopic: needsTopic, deliveryCount: entry.deliveryCount, isRetained: isRetained)
        let parts = state.outgoing.message(event, options, on: lane)
        guard outgoing.takes(parts, lane) else { return }
        let canComeBack = !isSettled && event.qos > 0 && (isDurable || entry.group != 0)
        outgoing.send(parts, isSettled: isSettled, context: canComeBack ? window.add(entry) : 0, engine)
        lane.counters.eventsOut &+= 1
        state.traffic.sent(1, bytes: parts.count, qos: isSettled ? 0 : 1)
        outgoing.conversation.touch()
    }

    /// Publishers whose events were taken beyond the bound go on, one after another.
    private func releaseHeld(_ lane: Lane) {
        guard !heldReceipts.isEmpty else { return }
        let room = lane.limits.maxQueuedEvents - waiting.count
        guard room > 0, waiting.bytes < lane.limits.maxQueuedBytes else { return }
        for _ in 0..<room {
            guard let receipt = heldReceipts.next() else { return }
            lane.answer(receipt)
        }
    }

    // MARK: Settlement

    /// The client has settled a delivery, or said what became of it (§3.4).
    /// - Parameter number: of the event in the window; 0 when it cannot come back.
    func settled(_ number: Int, _ outcome: Outcome?, on lane: Lane) {
        let entry = window.take(number)
        switch outcome {
        case .accepted: break
        case .rejected: lane.counters.drop(.rejected)
        // Settled without a word counts as the source's default outcome (§3.5.3), which is this one here.
        case .released, nil: comeBack(entry, hasFailed: false, lane)
        case .modified(let isFailed, false): comeBack(entry, hasFailed: isFailed, lane)
        case .modified(_, true): lane.counters.drop(.rejected)
        }
        pump(on: lane)
    }

    /// The client gives an event back: whoever can be sent it again is.
    private func comeBack(_ entry: SentWindow.Entry?, hasFailed: Bool, _ lane: Lane) {
        guard let entry else { return lane.counters.drop(.released) }
        giveBack(entry, hasFailed: hasFailed)
    }

    // MARK: Access rules

    /// The subscription of the link is not allowed any more: it ends, and its link with it (§2.6.5).
    override func revoked(_ filter: TopicFilter, on lane: Lane) {
        outgoing?.revoke(filter)
        end(on: lane)
    }

    // MARK: Retained events

    /// A new subscription begins with the retained events that it matches.
    func startRetained(on lane: Lane) {
        let retained = RetainedDelivery()
        retained.add(RetainedDelivery.Start(filter: filter, qos: 1, identifier: 0))
        self.retained = retained
    }

    override func work(_ budget: inout Int, on lane: Lane) -> Bool {
        guard let retained, let outgoing, let engine else { return false }
        let progress = retained.work(&budget, as: principal, on: lane) { event, _ in
            guard hasNothingWaiting, hasRoom(outgoing, engine, lane) else { return false }
            send(SentWindow.Entry(event: event, group: 0), isRetained: true, outgoing, engine, lane)
            return true
        }
        if progress == .done {
            self.retained = nil
            outgoing.flow(on: lane)
        }
        return progress == .more
    }

    // MARK: Management

    override func describe(on lane: Lane, maxSubscriptions: Int) -> InboxDescription {
        var description = InboxDescription(of: self, on: lane, maxSubscriptions: maxSubscriptions)
        description.clientID = sessionName
        description.protocolName = "AMQP 1.0"
        description.isClean = !isDurable
        description.expirySeconds = keepSeconds
        description.inFlight = outgoing?.unsettledCount ?? 0
        if outgoing == nil { description.endsInMilliseconds = endsAt - min(lane.now, endsAt) }
        return description
    }

    override func kick(endsSession: Bool, on lane: Lane) {
        if let link { link.close(.administrative) }
        guard endsSession, lane.port(at: address) === self else { return }
        outgoing?.detach(isClosing: true, on: lane)
        if lane.port(at: address) === self { end(on: lane) }
    }
}
