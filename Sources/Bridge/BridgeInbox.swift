/// A bridge as the router knows it: a port whose events wait until the broker has them, and a publisher of what the
/// broker sends.
import Core
import Logging

/// Confined to its lane, as every port. The ``BridgeThread`` talks to the broker.
final class BridgeInbox: Inbox {
    /// What it is to be; while ``isExchanging`` the thread is still that of a former one.
    private(set) var definition: BridgeDefinition
    private(set) var map: BridgeMap
    private var broker: [UInt8]
    /// To its thread; set once there is one.
    private(set) var wire: BridgeWire?
    /// Whether events may be handed to the thread.
    private var isConnected = false
    /// Whether the thread ends, and another one is started then.
    private var isExchanging = false
    /// What the next thread has to think of the session, see ``BridgeWire/hasForeignSession``: nothing is known of what
    /// was before this process.
    private(set) var hasForeignSession = true
    /// What echoes are waited for; nil before the first thread, and when the broker is another one.
    var echoes: Echoes?
    /// Starts a thread, and tells the inbox its wire by ``begin(_:)``.
    private let startThread: (BridgeInbox) -> Void
    private var nextSequence: UInt64 = 1
    /// Events that the thread has, by their numbers.
    private var sent: [UInt64: EventQueue.Entry] = [:]
    private var sentBytes = 0
    /// What is to be handed to the thread at the end of a delivery.
    private var departures: [BridgeWire.Departure] = []
    private var retained: RetainedDelivery?
    /// Set when the node stops: until when it may go on, in the lane's milliseconds.
    private var leavingUntil: UInt64?

    /// Arrivals that are being settled.
    private struct Batch {
        /// To the thread that they come from.
        let wire: BridgeWire
        let number: UInt64
        /// Receipts that are awaited for its events, by token.
        var unsettled: [UInt32: Int] = [:]
    }

    /// At most one for each thread.
    private var batches: [Batch] = []

    init(
        _ definition: BridgeDefinition, map: BridgeMap, principal: Principal,
        startThread: @escaping (BridgeInbox) -> Void
    ) {
        self.definition = definition
        self.map = map
        self.startThread = startThread
        broker = Array(definition.broker.utf8)
        super.init(principal: principal)
    }

    private var router: Router { principal.router }

    // MARK: Life

    /// Registers it and subscribes to what goes out.
    /// - Returns: the filter that was refused, if one was; then it is not registered.
    func register(on lane: Lane) -> String? {
        router.register(self, on: lane)
        if let refused = subscribe(to: filters(definition, map), besides: [], on: lane) {
            router.unregister(self, on: lane)
            return refused
        }
        // Nobody is at the other end yet.
        router.setPresence(self, false)
        beginRetained(after: nil)
        return nil
    }

    /// There is a thread, or at least a wire to one.
    func begin(_ wire: BridgeWire) {
        self.wire = wire
        noteQueue()
    }

    /// What a bridge subscribes to here.
    private func filters(_ definition: BridgeDefinition, _ map: BridgeMap) -> [TopicFilter] {
        map.entries.filter(\.isOut).compactMap { entry in
            guard let group = definition.group else { return entry.local }
            // The filter has been compiled without the group, and the group's name checked.
            return try? TopicFilter("$share/\(group)/\(entry.local.text)", grammar: .mqtt, limits: router.limits)
        }
    }

    /// Subscribes to all of these filters, or to none but those that it has.
    /// - Returns: the filter that was refused, if one was.
    private func subscribe(to filters: [TopicFilter], besides known: [TopicFilter], on lane: Lane) -> String? {
        for (index, filter) in filters.enumerated() {
            var options = DeliveryOptions.qos(2).union(.retainAsPublished)
            // A member of a group takes what others have published, and what it has as well.
            if filter.group == nil { options.insert(.noLocal) }
            let outcome = router.subscribe(
                self, Subscription(filter: filter, options: options), as: principal, on: lane)
            if case .granted = outcome { continue }
            for granted in filters[..<index] where !known.contains(granted) { router.unsubscribe(self, granted) }
            return filter.wholeText
        }
        return nil
    }

    /// It is removed: what others of its group can take goes to them, the rest is forgotten.
    func end(_ stop: BridgeWire.Stop, on lane: Lane) { _ = endNow(stop, on: lane) }

    /// - Returns: the events that went to others, and those that nobody else can take.
    private func endNow(_ stop: BridgeWire.Stop, on lane: Lane) -> (shared: Int, left: Int) {
        let count = waiting.count + sent.count
        wire?.stop(stop)
        router.unregister(self, on: lane)
        let left = shareOut(isEnding: true, on: lane) { _ in takeSent() } + sent.count
        return (count - left, left)
    }

    /// The node stops: nothing new comes, as far as others can take it. What there is has until `until` to reach the
    /// broker. Its thread ends when it has, or when the broker is not there.
    func leave(by until: UInt64, on lane: Lane) {
        leavingUntil = until
        retained = nil
        if definition.group == nil {
            // Nobody can take it: rather nobody is asked to.
            for filter in filters(definition, map) { router.unsubscribe(self, filter) }
        } else {
            router.setPresence(self, false)
        }
        judgeLeaving()
    }

    private func judgeLeaving() {
        guard let leavingUntil, !isConnected || sent.isEmpty && waiting.isEmpty else { return }
        wire?.stop(BridgeWire.Stop(at: leavingUntil, forgetsSession: false))
    }

    /// The node stops, and its thread has ended or has no more time: others of its group are given what is left; what
    /// nobody else can take is counted.
    func endWithNode(_ logger: Logger, on lane: Lane) {
        let (shared, left) = endNow(BridgeWire.Stop(at: 0, forgetsSession: false), on: lane)
        guard shared + left > 0 else { return }
        lane.counters.drop(.stopping, left)
        wire?.note { $0.counts.dropOut(.stopping, left) }
        logger.log(
            level: left > 0 ? .warning : .notice, "bridge ends with events that its broker does not have",
            metadata: ["bridge": "\(definition.name)", "to_its_group": "\(shared)", "lost": "\(left)"])
    }

    private func takeSent() -> [(Event, UInt32)] {
        let left = sent.sorted { $0.key < $1.key }.filter { $0.value.group != 0 }
        for (sequence, entry) in left {
            sent[sequence] = nil
            sentBytes -= entry.event.cost
        }
        return left.map { ($0.value.event, $0.value.group) }
    }

    // MARK: Changes

    /// Becomes another bridge of the same name. The inbox stays, and with it what waits and mail on its way: so no
    /// event is lost, and none is there twice. What the new topics do not have is dropped when it is to be sent.
    /// - Returns: the filter that was refused, if one was; then nothing has changed.
    func change(_ definition: BridgeDefinition, map: BridgeMap, on lane: Lane) -> String? {
        let (former, filters) = (filters(self.definition, self.map), filters(definition, map))
        // First what is new, so that an event of both is always asked for. And the rules may have changed.
        if let refused = subscribe(to: filters, besides: former, on: lane) { return refused }
        for filter in former where !filters.contains(filter) { router.unsubscribe(self, filter) }
        let known = (self.definition, self.map)
        if known.0.broker != definition.broker || known.0.version != definition.version { echoes = nil }
        (self.definition, self.map) = (definition, map)
        broker = Array(definition.broker.utf8)
        beginRetained(after: known)
        return nil
    }

    /// Retained events that there are, but those that a former bridge has sent to the same topics of the same broker,
    /// or goes on to send. Shared subscriptions have none (MQTT 5 §4.8.2).
    private func beginRetained(after former: (definition: BridgeDefinition, map: BridgeMap)?) {
        guard definition.group == nil else { return retained = nil }
        var known: [BridgeMap.Entry] = []
        if let former, former.definition.group == nil, former.definition.broker == definition.broker {
            known = former.map.entries.filter(\.isOut)
        }
        let entries = map.entries.filter(\.isOut)
        func isKnown(_ entry: BridgeMap.Entry) -> Bool {
            known.contains { $0.local == entry.local && $0.remote == entry.remote }
        }
        let retained = self.retained ?? RetainedDelivery()
        for filter in retained.filters where !entries.contains(where: { $0.local == filter && isKnown($0) }) {
            retained.remove(filter)
        }
        for entry in entries where !isKnown(entry) && !retained.filters.contains(entry.local) {
            retained.add(RetainedDelivery.Start(filter: entry.local, qos: 2, identifier: 0))
        }
        self.retained = retained.count > 0 ? retained : nil
    }

    /// Lets a thread of the present definition take the place of the one that there is, which first may bring to its
    /// end what is under way.
    func exchangeThread(until: UInt64, on lane: Lane) {
        wire?.stop(BridgeWire.Stop(at: until, forgetsSession: false, makesRoom: true))
        guard !isExchanging else { return }
        guard isConnected else { return takeAnotherThread(on: lane) }
        isConnected = false
        isExchanging = true
    }

    private func takeAnotherThread(on lane: Lane) {
        isExchanging = false
        becomeAbsent(on: lane)
        hasForeignSession = wire?.hasForeignSession ?? true || sent.values.contains { $0.qos == 2 }
        // What the broker may have goes out again, ahead of what waits.
        var queue = EventQueue()
        for (_, entry) in sent.sorted(by: { $0.key < $1.key }) { queue.append(entry) }
        sent = [:]
        sentBytes = 0
        var waiting = takeWaiting(on: lane)
        while let entry = waiting.popFirst() { queue.append(entry) }
        putBack(queue, on: lane)
        startThread(self)
    }

    private func becomeAbsent(on lane: Lane) {
        isConnected = false
        router.setPresence(self, false)
        // What the broker may have already stays: it is sent again when the broker is back.
        shareOut(isEnding: false, on: lane) { _ in [] }
    }

    // MARK: Out

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        let options = target.pointee.options
        if options.contains(.noLocal), run.pointee.publisher == address { return 0 }
        let count = run.pointee.count
        let trail = BridgeTrail(
            UnsafeRawBufferPointer(start: run.pointee.properties, count: run.pointee.propertiesLength))
        guard mayLeave(trail, count) else { return 0 }
        let qos = min(run.pointee.qos, options.qos)
        if qos == 0, !isConnected {
            wire?.note { $0.counts.dropOut(.disconnected, count) }
            return 0
        }
        var refused = 0
        for index in 0..<count {
            let entry = EventQueue.Entry(
                event: run.pointee.event(index), qos: qos, isRetained: run.pointee.isRetained, group: lane.group)
            if !take(entry, on: lane), qos > 0 { refused += 1 }
        }
        dispatch(on: lane)
        return refused
    }

    private func mayLeave(_ trail: BridgeTrail, _ count: Int) -> Bool {
        switch trail.verdict(to: broker, maxHops: definition.maxHops) {
        case .goes: return true
        case .returns: wire?.note { $0.counts.loopsOut += UInt64(count) }
        case .tooFar: wire?.note { $0.counts.dropOut(.tooFar, count) }
        }
        return false
    }

    /// - Returns: false when there was no room for it, which has been counted.
    private func take(_ entry: EventQueue.Entry, on lane: Lane) -> Bool {
        if waiting.isEmpty, hasRoomInFlight(lane) {
            put(entry, on: lane)
            return true
        }
        let before = lane.counters.dropped[DropReason.queueFull.rawValue]
        let isTaken = wait(entry, on: lane)
        let dropped = lane.counters.dropped[DropReason.queueFull.rawValue] - before
        if dropped > 0 { wire?.note { $0.counts.dropOut(.queueFull, Int(clamping: dropped)) } }
        return isTaken
    }

    /// Events that the thread has, direct ones among them, so that it need not ask for each.
    private static let maxHandedOver = 256

    private func hasRoomInFlight(_ lane: Lane) -> Bool {
        isConnected && sent.count < max(definition.maxInFlight, Self.maxHandedOver)
            && sentBytes < lane.limits.maxQueuedBytes
    }

    private func put(_ entry: EventQueue.Entry, on lane: Lane) {
        let sequence = nextSequence
        nextSequence += 1
        sent[sequence] = entry
        sentBytes += entry.event.cost
        departures.append(
            BridgeWire.Departure(
                sequence: sequence, event: entry.event, qos: entry.qos, isRetained: entry.isRetained))
        lane.counters.eventsOut &+= 1
    }

    /// Hands over what may go, and notes what waits.
    private func pump(on lane: Lane) {
        let before = lane.counters.dropped[DropReason.expired.rawValue]
        while hasRoomInFlight(lane), let entry = nextWaiting(on: lane) { put(entry, on: lane) }
        let expired = lane.counters.dropped[DropReason.expired.rawValue] - before
        if expired > 0 { wire?.note { $0.counts.dropOut(.expired, Int(clamping: expired)) } }
        if retained != nil, hasRoomInFlight(lane) { lane.workLater(self) }
        dispatch(on: lane)
    }

    private func dispatch(on lane: Lane) {
        if !departures.isEmpty {
            wire?.send(departures)
            departures.removeAll(keepingCapacity: true)
        }
        noteQueue()
    }

    private func noteQueue() {
        let (count, bytes, inFlight) = (waiting.count + sent.count, waiting.bytes + sentBytes, sent.count)
        wire?.note { description in
            description.queuedEvents = count
            description.queuedBytes = bytes
            description.inFlight = inFlight
        }
    }

    /// Retained events that there were when it began.
    override func work(_ budget: inout Int, on lane: Lane) -> Bool {
        guard let retained else { return false }
        let progress = retained.work(&budget, as: principal, on: lane) { event, start in
            guard waiting.isEmpty, hasRoomInFlight(lane) else { return false }
            guard mayLeave(BridgeTrail(event.properties), 1) else { return true }
            put(EventQueue.Entry(event: event, qos: min(event.qos, start.qos), isRetained: true), on: lane)
            return true
        }
        if progress == .done { self.retained = nil }
        dispatch(on: lane)
        return progress == .more
    }

    // MARK: What the thread says

    /// Takes a report of the thread at this wire. Former threads may still have something to say.
    func take(_ report: BridgeWire.Report, from wire: BridgeWire, on lane: Lane) {
        switch report {
        case .arrived(let events, let batch): publish(events, Batch(wire: wire, number: batch), on: lane)
        case .settled(let settlements):
            for (sequence, settlement) in settlements { settle(sequence, settlement) }
            pump(on: lane)
            judgeLeaving()
        case .connected:
            guard wire === self.wire, !isExchanging else { return }
            isConnected = true
            if leavingUntil == nil { router.setPresence(self, true) }
            pump(on: lane)
        case .lost:
            guard wire === self.wire else { return }
            if isExchanging { return takeAnotherThread(on: lane) }
            becomeAbsent(on: lane)
            noteQueue()
            judgeLeaving()
        case .ended:
            if wire === self.wire, isExchanging { takeAnotherThread(on: lane) }
        }
    }

    private func settle(_ sequence: UInt64, _ settlement: BridgeWire.Settlement) {
        guard let entry = sent.removeValue(forKey: sequence) else { return }
        sentBytes -= entry.event.cost
        wire?.note { description in
            switch settlement {
            case .done: description.counts.eventsOut += 1
            case .dropped(let reason): description.counts.dropOut(reason)
            }
        }
    }

    // MARK: In

    private func publish(_ events: [Event], _ batch: Batch, on lane: Lane) {
        var batch = batch
        var counts = BridgeCounts()
        for event in events {
            let outcome = router.publish(event, as: principal, publisher: address, isPatient: true, on: lane)
            switch outcome.verdict {
            case .routed: counts.eventsIn += 1
            case .notAuthorized: counts.dropIn(.notAuthorized)
            case .quotaExceeded: counts.dropIn(.overQuota)
            case .payloadTooLarge: counts.dropIn(.tooLarge)
            case .malformedTopic: counts.dropIn(.badTopic)
            }
            if event.qos > 0, outcome.pending > 0 { batch.unsettled[outcome.token] = Int(outcome.pending) }
        }
        wire?.note { description in
            description.counts.eventsIn += counts.eventsIn
            for place in counts.droppedIn.indices { description.counts.droppedIn[place] += counts.droppedIn[place] }
        }
        if batch.unsettled.isEmpty { batch.wire.settled(batch.number) } else { batches.append(batch) }
    }

    override func receiptArrived(token: UInt32, refused: Int, more: Int, on lane: Lane) {
        guard let place = batches.firstIndex(where: { $0.unsettled[token] != nil }) else { return }
        let left = (batches[place].unsettled[token] ?? 0) + more - 1
        batches[place].unsettled[token] = left > 0 ? left : nil
        guard batches[place].unsettled.isEmpty else { return }
        let batch = batches.remove(at: place)
        batch.wire.settled(batch.number)
    }
}
