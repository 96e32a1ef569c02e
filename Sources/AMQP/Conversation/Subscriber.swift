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
    private unowned let state: AMQPLane
    private unowned(unsafe) var engine: Engine?
    private(set) var outgoing: OutgoingLink?
    /// The connection's address as a publisher, for no-local.
    private var publisher = PortAddress.none
    /// Events sent and not settled that may come back, by the number that their deliveries carry.
    private var window = SentWindow()
    /// Events that came back, oldest first; they go before all others.
    private var returned: [SentWindow.Entry] = []
    /// Receipts of runs that were taken although the queue was full.
    private var heldReceipts: [Lane.Receipt] = []
    private(set) var retained: RetainedDelivery?
    /// When it ends if nobody comes back, in the lane's milliseconds.
    private(set) var endsAt: UInt64 = 0

    /// Whether it outlives its link.
    var isDurable: Bool { keepSeconds > 0 }

    init(
        _ key: LinkKey, _ filter: TopicFilter, isNoLocal: Bool, keepSeconds: Int, source: Terminus,
        principal: Principal,
        state: AMQPLane
    ) {
        self.key = key
        self.filter = filter
        self.isNoLocal = isNoLocal
        self.keepSeconds = keepSeconds
        self.source = source
        self.state = state
        needsTopic = filter.hasWildcards
        super.init(principal: principal, takesPacked: true)
    }

    // MARK: Attaching

    /// A link takes the subscription over; ``pump(on:)`` is called when it has credit.
    func begin(_ outgoing: OutgoingLink, principal: Principal, on lane: Lane) {
        let conversation = outgoing.conversation
        self.outgoing?.steal()
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
        endsAt = lane.now + UInt64(keepSeconds) * 1_000
        state.absent.add(self, dueAt: endsAt)
    }

    /// Ends the subscription with everything in it.
    func end(on lane: Lane) {
        state.absent.remove(self)
        if state.subscribers[key] === self { state.subscribers[key] = nil }
        let router = principal.router
        router.releaseSession(key.sessionName, at: address)
        router.unregister(self, on: lane)
        shareOut(on: lane)
        for receipt in heldReceipts { lane.answer(receipt) }
        heldReceipts = []
    }

    /// Gives what others of its group may have to them.
    private func shareOut(on lane: Lane) {
        takeBack()
        let router = principal.router
        for entry in returned where entry.group != 0 {
            lane.redistributeLater(entry.event, group: entry.group, in: router)
        }
        returned = []
        var queue = takeWaiting(on: lane)
        while let entry = queue.popFirst() {
            guard entry.group != 0 else { continue }
            lane.redistributeLater(entry.event, group: entry.group, in: router)
        }
    }

    /// Everything that was sent and not settled is to be sent again, before what came back already.
    private func takeBack() { for entry in window.takeAll() { giveBack(entry, hasFailed: true) } }

    private func giveBack(_ entry: SentWindow.Entry, hasFailed: Bool) {
        var entry = entry
        if hasFailed { entry.deliveryCount &+= 1 }
        let place = returned.lastIndex { $0.serial < entry.serial }.map { $0 + 1 } ?? 0
        returned.insert(entry, at: place)
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
        while index < run.pointee.count, outgoing.hasRoom(engine, lane) {
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
        heldReceipts.append(receipt)
        return true
    }

    // MARK: Going on

    /// Whether everything has been sent.
    var hasNothingToSend: Bool { returned.isEmpty && waiting.isEmpty && retained == nil }

    /// Sends what may be sent.
    func pump(on lane: Lane) {
        guard let outgoing, let engine else { return }
        while outgoing.hasRoom(engine, lane) {
            if !returned.isEmpty {
                send(returned.removeFirst(), isRetained: false, outgoing, engine, lane)
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
        let count = min(room, heldReceipts.count)
        for receipt in heldReceipts[..<count] { lane.answer(receipt) }
        heldReceipts.removeFirst(count)
    }

    // MARK: Settlement

    /// The client has settled a delivery, or said what became of it (§3.4).
    /// - Parameter number: of the event in the window; 0 when it cannot come back.
    func settled(_ number: Int, _ outcome: Outcome?, on lane: Lane) {
        let entry = window.take(number)
        switch outcome ?? .released {
        case .accepted: break
        case .rejected: lane.counters.drop(.rejected)
        case .released:
            guard let entry else { break }
            giveBack(entry, hasFailed: false)
        case .modified(let isFailed, let isUndeliverableHere):
            if isUndeliverableHere {
                lane.counters.drop(.rejected)
            } else if let entry {
                giveBack(entry, hasFailed: isFailed)
            }
        }
        if entry == nil, case .released = outcome { lane.counters.drop(.released) }
        pump(on: lane)
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
        let progress = retained.work(&budget, principal.router, now: lane.now) { event, _ in
            guard hasNothingWaiting, outgoing.hasRoom(engine, lane) else { return false }
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
        description.clientID = key.sessionName
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

/// Events that were sent and may come back, under small numbers that are used again. Number 0 means none.
struct SentWindow {
    /// An event and how often it has been sent in vain.
    struct Entry {
        var event: Event
        var group: UInt32
        var deliveryCount: UInt32 = 0
        /// The order in which events were first sent.
        var serial: UInt64 = 0

        init(event: Event, group: UInt32) {
            self.event = event
            self.group = group
        }
    }

    private var entries: [Entry?] = []
    private var free: [Int] = []
    private var nextSerial: UInt64 = 1

    /// Notes an event that is being sent.
    /// - Returns: its number.
    mutating func add(_ entry: Entry) -> Int {
        var entry = entry
        if entry.serial == 0 {
            entry.serial = nextSerial
            nextSerial += 1
        }
        if let place = free.popLast() {
            entries[place] = entry
            return place + 1
        }
        entries.append(entry)
        return entries.count
    }

    /// Forgets an event.
    mutating func take(_ number: Int) -> Entry? {
        guard number > 0, number <= entries.count, let entry = entries[number - 1] else { return nil }
        entries[number - 1] = nil
        free.append(number - 1)
        return entry
    }

    /// Forgets all events, in the order in which they were first sent.
    mutating func takeAll() -> [Entry] {
        defer { (entries, free) = ([], []) }
        return entries.compactMap { $0 }.sorted { $0.serial < $1.serial }
    }
}
