import Core

/// What the router delivers to for a client of `apus.v1.json`: direct events go out at once, guaranteed ones in a
/// window until the client has acknowledged them. It lives as long as its connection. Confined to its lane.
final class JSONInbox: Inbox {
    private unowned let conversation: JSONConversation
    private let state: WebLane
    /// Guaranteed events sent and not acknowledged, by their number.
    private var window: [UInt64: EventQueue.Entry] = [:]
    private var windowBytes = 0
    private var nextNumber: UInt64 = 1
    private var retained: RetainedDelivery?
    /// What the client calls its subscriptions, as JSON, by the identifier that the router knows.
    private var names: [UInt32: [UInt8]] = [:]
    private var nextIdentifier: UInt32 = 1

    init(_ conversation: JSONConversation, principal: Principal, state: WebLane) {
        self.conversation = conversation
        self.state = state
        super.init(principal: principal)
    }

    // MARK: Subscriptions

    /// Subscribes, and begins with the retained events if the client wants them.
    func subscribe(
        _ filter: TopicFilter, _ options: DeliveryOptions, weight: UInt16?, name: [UInt8]?, wantsRetained: Bool,
        on lane: Lane
    ) -> Router.SubscribeOutcome {
        let identifier = nextIdentifier
        let replaced = principal.router.identifier(of: self, filter)
        let outcome = principal.router.subscribe(
            self, Subscription(filter: filter, options: options, identifier: identifier, weight: weight),
            as: principal, on: lane)
        guard case .granted = outcome else { return outcome }
        nextIdentifier = nextIdentifier == 268_435_455 ? 1 : nextIdentifier + 1
        if let replaced {
            // Whoever repeats a subscription again and again must make neither names nor look-ups grow.
            names[replaced] = nil
            retained?.remove(filter)
        }
        if let name { names[identifier] = name }
        if wantsRetained, filter.group == nil {
            let retained = self.retained ?? RetainedDelivery()
            self.retained = retained
            retained.add(RetainedDelivery.Start(filter: filter, qos: options.qos, identifier: identifier))
            lane.workLater(self)
        }
        return outcome
    }

    /// Ends a subscription.
    /// - Returns: whether there was one.
    func unsubscribe(_ filter: TopicFilter) -> Bool {
        retained?.remove(filter)
        if let identifier = principal.router.identifier(of: self, filter) { names[identifier] = nil }
        return principal.router.unsubscribe(self, filter)
    }

    override func revoked(_ filter: TopicFilter, on lane: Lane) {
        retained?.remove(filter)
        conversation.forbid(
            nil, "The access rules have changed: the subscription to \(filter.wholeText) has ended.")
    }

    override func work(_ budget: inout Int, on lane: Lane) -> Bool {
        guard let retained, let link else { return false }
        let progress = retained.work(&budget, as: principal, on: lane) { event, start in
            guard !link.isCongested, waiting.isEmpty, hasRoom(link, lane) else { return false }
            put(
                EventQueue.Entry(
                    event: event, qos: min(event.qos, start.qos), isRetained: true, identifiers: [start.identifier]),
                to: link, lane)
            return true
        }
        if progress == .done { self.retained = nil }
        return progress == .more
    }

    // MARK: Delivery

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        let options = target.pointee.options
        if options.contains(.noLocal), run.pointee.publisher == address { return 0 }
        guard let link else { return 0 }
        let qos = min(run.pointee.qos, options.qos)
        let identifiers = UnsafeBufferPointer(
            start: lane.identifiers + Int(target.pointee.identifierStart), count: Int(target.pointee.identifierCount))
        if qos == 0, waiting.isEmpty {
            guard !link.isCongested else {
                lane.counters.drop(.outputFull, run.pointee.count)
                return 0
            }
            for index in 0..<run.pointee.count {
                let json = state.json(of: run, index, on: lane)
                write(json, number: 0, identifiers, to: link, lane)
            }
            return 0
        }
        if qos == 0, link.isCongested {
            lane.counters.drop(.outputFull, run.pointee.count)
            return 0
        }
        var refused = 0
        for index in 0..<run.pointee.count {
            let entry = EventQueue.Entry(
                event: run.pointee.event(index), qos: qos, isRetained: false, group: lane.group,
                identifiers: Array(identifiers))
            if waiting.isEmpty, hasRoom(link, lane) {
                put(entry, to: link, lane)
            } else if !wait(entry, on: lane), qos > 0 {
                refused += 1
            }
        }
        return refused
    }

    private func hasRoom(_ link: Link, _ lane: Lane) -> Bool {
        window.count < lane.limits.maxInFlight && windowBytes < lane.limits.maxQueuedBytes && !link.isCongested
    }

    private func put(_ entry: EventQueue.Entry, to link: Link, _ lane: Lane) {
        var number: UInt64 = 0
        if entry.qos > 0 {
            number = nextNumber
            nextNumber += 1
            window[number] = entry
            windowBytes += entry.event.cost
        }
        let json = WebLane.json(of: entry.event, isRetained: entry.isRetained, now: lane.now)
        entry.identifiers.withUnsafeBufferPointer {
            write(json[...], number: number, $0, to: link, lane)
        }
    }

    /// Writes one message: what is the client's own in front of what all clients get.
    private func write(
        _ json: ArraySlice<UInt8>, number: UInt64, _ identifiers: UnsafeBufferPointer<UInt32>,
        to link: Link, _ lane: Lane
    ) {
        var front = JSONWriter()
        front.beginObject()
        front.key("op")
        front.string("event".utf8)
        let known = identifiers.compactMap { names[$0] }
        if !known.isEmpty {
            front.key("subscriptions")
            front.beginArray()
            for name in known { front.raw(name) }
            front.endArray()
        }
        if number > 0 {
            front.key("seq")
            front.number(Int(truncatingIfNeeded: number))
        }
        front.bytes.append(UInt8(ascii: ","))
        conversation.send(front.bytes, json)
        lane.counters.eventsOut &+= 1
        state.traffic.sent(1, bytes: front.bytes.count + json.count, qos: number > 0 ? 1 : 0)
    }

    // MARK: Settling

    /// The client has an event.
    /// - Returns: whether it was on its way.
    func acknowledge(_ number: UInt64, on lane: Lane) -> Bool {
        guard let entry = window.removeValue(forKey: number) else { return false }
        windowBytes -= entry.event.cost
        pump(on: lane)
        return true
    }

    /// Sends what waits.
    func pump(on lane: Lane) {
        guard let link else { return }
        while hasRoom(link, lane), let entry = nextWaiting(on: lane) { put(entry, to: link, lane) }
        if retained != nil { lane.workLater(self) }
    }

    /// The connection ends: what others of a shared group can take goes to them.
    func end(on lane: Lane) {
        detach()
        let router = principal.router
        var left = window.sorted { $0.key < $1.key }.map(\.value)
        var queue = takeWaiting(on: lane)
        while let entry = queue.popFirst() { left.append(entry) }
        window = [:]
        router.unregister(self, on: lane)
        // The router drops and counts those whose time is over.
        for entry in left where entry.group != 0 {
            lane.redistributeLater(entry.event, group: entry.group, in: router)
        }
    }

    override func receiptArrived(token: UInt32, refused: Int, more: Int, on lane: Lane) {
        conversation.receiptArrived(token: token, refused: refused, more: more, on: lane)
    }
}
