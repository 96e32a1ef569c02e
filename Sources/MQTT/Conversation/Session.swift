import Core

/// The inbox of an MQTT client (MQTT 5 §4.1): adds the in-flight windows of both directions, the will, and how events
/// are written for the client that is attached. A conversation attaches to it.
///
/// This file has the attachment and the way to the client; `+Settling` what the client answers, and what becomes of
/// its events when it leaves.
final class Session: Inbox {
    var clientID: String { principal.clientID }
    /// How long the session waits for its client; 0 ends it with its connection.
    var expirySeconds: UInt32
    // Small fields stand together: there are very many sessions.
    private(set) var client = ClientLimits()
    /// What bytes the client takes as they are.
    private var layout = WireLayout.mqtt3Direct
    private(set) var isVersion5 = false
    /// Whether it has ever been given a shared group's event.
    var hasShared = false
    /// When it ends if nobody comes back, in the lane's milliseconds.
    var endsAt: UInt64 = 0
    /// What is published if the client does not say goodbye.
    var will: Will?

    private(set) unowned(unsafe) var conversation: MQTTConversation?
    var inFlight = InFlight()
    /// The next of the window to be sent; behind ``InFlight/next`` only after a reconnect.
    var unsent: UInt64 = 0
    /// Packet identifiers of QoS 2 publishes received and not yet released (§4.3.3).
    var received: Set<UInt16> = []
    /// Set while it moves between nodes, and for a while afterwards.
    var move: SessionMove?

    /// Where its lane counts the events of MQTT.
    let traffic: TrafficCounter
    private var aliases: OutgoingAliases?
    var retained: RetainedDelivery?

    /// A will that waits for its moment.
    final class Will {
        let packet: ConnectPacket.Will
        /// When it is due, in the lane's milliseconds; counts from the connection's end.
        var dueAt: UInt64 = 0

        init(_ packet: ConnectPacket.Will) { self.packet = packet }
    }

    init(expirySeconds: UInt32, principal: Principal, traffic: TrafficCounter) {
        self.expirySeconds = expirySeconds
        self.traffic = traffic
        super.init(principal: principal)
    }

    // MARK: Attaching

    /// A connection takes the session over. Unsettled events are sent again once the caller calls ``pump(on:)``.
    func begin(_ conversation: MQTTConversation, link: Link, principal: Principal, _ connect: ConnectPacket) {
        self.conversation = conversation
        attach(link, principal: principal)
        unsent = inFlight.first
        isVersion5 = connect.version == .v5
        client = connect.client
        will = connect.will.map { Will($0) }
        let aliasCount = min(Int(client.topicAliasMaximum), principal.router.limits.maxTopicAliases)
        aliases = aliasCount > 0 ? OutgoingAliases(count: aliasCount, key: principal.router.hashSeed) : nil
        // Where every event gets an alias none goes out as it came.
        layout = isVersion5 ? (aliases == nil ? .mqtt5Direct : .none) : .mqtt3Direct
    }

    /// The connection is gone.
    func end() {
        conversation = nil
        aliases = nil
        detach()
    }

    /// Whether it goes on when the connection that has it now, if any, is gone.
    var outlivesConnection: Bool { conversation == nil || expirySeconds > 0 }

    /// Ends the connection that has the session now, because another one takes over (§3.1.4-3).
    func displace(on lane: Lane) {
        guard let conversation, let link else { return }
        conversation.abandon(.takenOver, on: lane)
        link.close(.takenOver)
    }

    // MARK: Delivery

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        let options = target.pointee.options
        if options.contains(.noLocal), run.pointee.publisher == address { return 0 }
        let qos = min(run.pointee.qos, options.qos)
        if qos == 0, waiting.isEmpty {
            attachedLink?._withUnsafeGuaranteedRef { deliverDirect(run, target, $0, lane) }
            return 0
        }
        return deliverOwned(run, target, qos, on: lane)
    }

    @inline(__always)
    private func deliverDirect(
        _ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, _ link: Link, _ lane: Lane
    ) {
        let count = run.pointee.count
        guard !link.isCongested else { return lane.counters.drop(.outputFull, count) }
        // What came in is, byte for byte, what goes out.
        if run.pointee.layout == layout, layout != .none, target.pointee.identifierCount == 0,
            run.pointee.wireLength <= Int(client.maxPacketBytes)
        {
            lane.counters.eventsOut &+= UInt64(truncatingIfNeeded: count)
            traffic.sent(count, bytes: run.pointee.wireLength, qos: 0)
            return link.append(run.pointee.wire, run.pointee.wireLength)
        }
        translate(run, target, link, lane)
    }

    /// Writes a run in another form than it came in.
    @inline(never)
    private func translate(
        _ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, _ link: Link, _ lane: Lane
    ) {
        let flags: UInt8 = run.pointee.isRetained && target.pointee.options.contains(.retainAsPublished) ? 1 : 0
        let identifiers = identifiers(of: target, on: lane)
        if flags == 0, identifiers.isEmpty, layout != .none, client.maxPacketBytes == .max,
            run.pointee.expiresAt == 0 || !isVersion5,
            let block = conversation?.context.state(of: lane).translation(of: run, isVersion5: isVersion5, on: lane)
        {
            lane.counters.eventsOut &+= UInt64(truncatingIfNeeded: run.pointee.count)
            traffic.sent(run.pointee.count, bytes: block.count, qos: 0)
            return link.append(block.start, block.count)
        }
        for index in 0..<run.pointee.count {
            _ = write(PublishParts(run, run.pointee.events[index]), flags, 0, identifiers, to: link, lane)
        }
    }

    private func identifiers(
        of target: UnsafePointer<Target>, on lane: Lane
    ) -> UnsafeBufferPointer<UInt32> {
        UnsafeBufferPointer(
            start: lane.identifiers + Int(target.pointee.identifierStart), count: Int(target.pointee.identifierCount))
    }

    /// Guaranteed events, and direct ones behind guaranteed ones that wait: overtaking would turn one publisher's
    /// events around.
    private func deliverOwned(
        _ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, _ qos: UInt8, on lane: Lane
    ) -> Int {
        if qos == 0 {
            guard let link else { return 0 }
            guard !link.isCongested else {
                lane.counters.drop(.outputFull, run.pointee.count)
                return 0
            }
        }
        if lane.group != 0 { hasShared = true }
        let isRetained = run.pointee.isRetained && target.pointee.options.contains(.retainAsPublished)
        let identifiers = Array(identifiers(of: target, on: lane))
        var refused = 0
        for index in 0..<run.pointee.count {
            let event = run.pointee.event(index)
            // A member's share goes one way at a time; it may come back.
            if qos > 0, lane.group == 0, let move, !move.isFirst(event.identity) { continue }
            let entry = EventQueue.Entry(
                event: event, qos: qos, isRetained: isRetained, group: lane.group,
                identifiers: identifiers)
            if !send(entry, on: lane), qos > 0 { refused += 1 }
        }
        return refused
    }

    /// Sends an event, or lets it wait.
    /// - Returns: false when it was dropped, which has been counted.
    func send(_ entry: EventQueue.Entry, on lane: Lane) -> Bool {
        if let link, waiting.isEmpty, hasRoom(link, lane) {
            put(entry, on: link, lane)
            return true
        }
        guard !entry.event.isExpired(at: lane.now) else {
            lane.counters.drop(.expired)
            return false
        }
        return wait(entry, on: lane)
    }

    private func hasRoom(_ link: Link, _ lane: Lane) -> Bool {
        inFlight.count < lane.limits.maxInFlight && inFlight.outstanding < Int(client.receiveMaximum)
            && inFlight.bytes < lane.limits.maxQueuedBytes && !link.isCongested && unsent == inFlight.next
    }

    /// Writes an event for the first time; at a QoS above 0 it enters the window.
    private func put(_ entry: EventQueue.Entry, on link: Link, _ lane: Lane) {
        let parts = PublishParts(entry.event)
        let flags = entry.qos << 1 | (entry.isRetained ? 1 : 0)
        entry.identifiers.withUnsafeBufferPointer { identifiers in
            guard fits(parts, flags, identifiers, lane) else { return }
            var identifier: UInt16 = 0
            if entry.qos > 0 {
                identifier = inFlight.add(entry)
                unsent = inFlight.next
            }
            _ = write(parts, flags, identifier, identifiers, to: link, lane)
        }
    }

    /// Whether the client takes packets of this size; if not, the event is dropped for it and counted, as if it had
    /// been sent (MQTT 5 §3.1.2-25).
    private func fits(
        _ parts: PublishParts, _ flags: UInt8, _ identifiers: UnsafeBufferPointer<UInt32>, _ lane: Lane
    ) -> Bool {
        guard client.maxPacketBytes != .max else { return true }
        let extras = extras(parts, identifiers, lane)
        guard PacketWriter.publishLength5(0x30 | flags, parts, extras) <= Int(client.maxPacketBytes) else {
            lane.counters.drop(.clientLimit)
            return false
        }
        return true
    }

    private func extras(
        _ parts: PublishParts, _ identifiers: UnsafeBufferPointer<UInt32>, _ lane: Lane
    ) -> PacketWriter.Extras {
        var extras = PacketWriter.Extras(identifiers: identifiers)
        if parts.expiresAt != 0 {
            let left = parts.expiresAt > lane.now ? parts.expiresAt - lane.now : 0
            extras.expirySeconds = UInt32(clamping: (left + 999) / 1_000)
        }
        return extras
    }

    /// Writes a PUBLISH in the client's version.
    private func write(
        _ parts: PublishParts, _ flags: UInt8, _ identifier: UInt16, _ identifiers: UnsafeBufferPointer<UInt32>,
        to link: Link, _ lane: Lane
    ) -> Bool {
        guard isVersion5 else {
            lane.counters.eventsOut &+= 1
            let bytes = PacketWriter.publish(0x30 | flags, parts, identifier: identifier, to: link)
            traffic.sent(1, bytes: bytes, qos: flags >> 1)
            return true
        }
        guard fits(parts, flags, identifiers, lane) else { return false }
        var extras = extras(parts, identifiers, lane)
        if let aliases {
            extras.alias = 1
            let length = PacketWriter.publishLength5(0x30 | flags, parts, extras)
            extras.alias = 0
            if length <= Int(client.maxPacketBytes) {
                (extras.alias, extras.isAliasKnown) = aliases.use(parts.topic, parts.topicLength)
            }
        }
        lane.counters.eventsOut &+= 1
        let bytes = PacketWriter.publish5(0x30 | flags, parts, identifier: identifier, extras, to: link)
        traffic.sent(1, bytes: bytes, qos: flags >> 1)
        return true
    }

    // MARK: Retained events

    /// Subscriptions that have not had all of their retained events.
    var retainedStarts: Int { retained?.count ?? 0 }

    /// New subscriptions begin with the retained events that they match: a few at once, very many little by little.
    func startRetained(_ starts: [RetainedDelivery.Start], on lane: Lane) {
        guard !starts.isEmpty else { return }
        let retained = self.retained ?? RetainedDelivery()
        self.retained = retained
        for start in starts { retained.add(start) }
        var budget = RetainedDelivery.firstBudget
        if work(&budget, on: lane) { lane.workLater(self) }
    }

    /// A subscription is gone.
    func stopRetained(_ filter: TopicFilter) { retained?.remove(filter) }

    override func revoked(_ filter: TopicFilter, on lane: Lane) { stopRetained(filter) }

    override func work(_ budget: inout Int, on lane: Lane) -> Bool {
        // Whoever comes back, or has room again, goes on in `pump`.
        guard let retained, let link else { return false }
        let progress = retained.work(&budget, as: principal, on: lane) { event, start in
            guard waiting.isEmpty, hasRoom(link, lane) else { return false }
            let entry = EventQueue.Entry(
                event: event, qos: min(event.qos, start.qos), isRetained: true,
                identifiers: start.identifier == 0 ? [] : [start.identifier])
            put(entry, on: link, lane)
            return true
        }
        if progress == .done { self.retained = nil }
        return progress == .more
    }

    // MARK: Going on

    /// Sends what may be sent: first what a reconnect left unsettled, in order, then what waits.
    func pump(on lane: Lane) {
        guard let link else { return }
        while unsent < inFlight.next, !link.isCongested, unsent - inFlight.first < UInt64(client.receiveMaximum) {
            sendAgain(unsent, on: link, lane)
            // What is done because it may not be sent again may end a row of those that the client has settled.
            unsent = max(unsent + 1, inFlight.first)
        }
        while hasRoom(link, lane), let entry = nextWaiting(on: lane) { put(entry, on: link, lane) }
        if retained != nil { lane.workLater(self) }
    }

    /// Everything in the window has been sent before: DUP (§3.3.1.1).
    private func sendAgain(_ sequence: UInt64, on link: Link, _ lane: Lane) {
        let slot = inFlight.slot(sequence)
        let identifier = InFlight.identifier(sequence)
        if slot.state == .awaitingPubcomp { return PacketWriter.acknowledge(0x62, identifier, to: link) }
        guard let event = slot.event else { return }
        let qos: UInt8 = slot.state == .awaitingPuback ? 1 : 2
        guard maySendAgain(event, group: slot.group) else {
            lane.counters.drop(.notReadable)
            _ = inFlight.advance(identifier, from: slot.state, to: .settled)
            return
        }
        let isSent = slot.identifiers.withUnsafeBufferPointer {
            write(PublishParts(event), 8 | qos << 1 | (slot.isRetained ? 1 : 0), identifier, $0, to: link, lane)
        }
        // The client has become smaller than it was: for it the event is done.
        if !isSent { _ = inFlight.advance(identifier, from: slot.state, to: .settled) }
    }

    // MARK: QoS 2 from the client

    /// Whether a QoS 2 publish with this identifier was taken and not released: another one is a duplicate.
    func hasReceived(_ identifier: UInt16) -> Bool { received.contains(identifier) }

    /// Notes a QoS 2 publish.
    func noteReceived(_ identifier: UInt16) { received.insert(identifier) }

    /// PUBREL: the identifier may be used again.
    /// - Returns: whether it was in use.
    @discardableResult
    func release(_ identifier: UInt16) -> Bool { received.remove(identifier) != nil }

    /// QoS 2 publishes not yet released.
    var receivedCount: Int { received.count }

    // MARK: Moving to another node; see Session+Moving.swift

    override func surrender(_ mode: SurrenderMode, to user: String?, on lane: Lane) -> Surrender {
        surrenderSession(mode, to: user, on: lane)
    }
    override func packContents(on lane: Lane) -> [UInt8]? { packSession(on: lane) }
    override func handOver(on lane: Lane) { handOverSession(on: lane) }
    override func packTail(on lane: Lane) -> [UInt8]? { packTailOfSession(on: lane) }
    override func keep(on lane: Lane) { keepSession(on: lane) }
    override func retire(on lane: Lane) { retireSession(on: lane) }
    override func unpackContents(_ bytes: [UInt8], on lane: Lane) -> Bool { unpackSession(bytes, on: lane) }
    override func unpackTail(_ bytes: [UInt8], on lane: Lane) -> Bool { unpackTailOfSession(bytes, on: lane) }

    // MARK: Management; see Session+Inspection.swift

    override func describe(on lane: Lane, maxSubscriptions: Int) -> InboxDescription {
        describeSession(on: lane, maxSubscriptions: maxSubscriptions)
    }

    override func kick(endsSession: Bool, on lane: Lane) { kickSession(endsSession: endsSession, on: lane) }

    override func setTrace(_ isOn: Bool, on lane: Lane) -> Bool {
        changeTrace(isOn, on: lane)
        return true
    }

    override func receiptArrived(token: UInt32, refused: Int, more: Int, on lane: Lane) {
        conversation?.receiptArrived(token: token, more: more, on: lane)
    }
}

extension WireLayout {
    /// A PUBLISH of MQTT 3.1 or 3.1.1 at QoS 0 without DUP and RETAIN: bytes any such subscriber takes as they are.
    static let mqtt3Direct = WireLayout(rawValue: 1)
    /// The same of MQTT 5, without topic alias and expiry.
    static let mqtt5Direct = WireLayout(rawValue: 2)
}
