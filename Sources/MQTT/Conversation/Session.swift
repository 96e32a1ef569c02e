import Core

/// The inbox of an MQTT client (MQTT 3.1.1 §3.1.2.4): adds the in-flight windows of both directions. A conversation
/// attaches to it.
final class Session: Inbox {
    var clientID: String { principal.clientID }
    /// Whether the session ends with its connection.
    let isClean: Bool
    private(set) unowned(unsafe) var conversation: MQTTConversation?
    private var inFlight = InFlight()
    /// The next of the window to be sent; behind ``InFlight/next`` only after a reconnect.
    private var unsent: UInt64 = 0
    /// Packet identifiers of QoS 2 publishes received and not yet released (§4.3.3).
    private var received: Set<UInt16> = []

    init(isClean: Bool, principal: Principal) {
        self.isClean = isClean
        super.init(principal: principal)
    }

    // MARK: Attaching

    /// A connection takes the session over. Unsettled events are sent again once the caller calls ``pump(on:)``.
    func begin(_ conversation: MQTTConversation, link: Link, principal: Principal) {
        self.conversation = conversation
        attach(link, principal: principal)
        unsent = inFlight.first
    }

    /// The connection is gone.
    func end() {
        conversation = nil
        detach()
    }

    /// Ends the connection that has the session now, because another one takes over (§3.1.4-2).
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
        if qos == 0 {
            if waiting.isEmpty {
                attachedLink?._withUnsafeGuaranteedRef { deliverDirect(run, $0, lane) }
            } else {
                waitInLine(run, on: lane)
            }
            return 0
        }
        var refused = 0
        for index in 0..<run.pointee.count {
            if !deliverGuaranteed(run.pointee.event(index), qos: qos, isRetained: false, on: lane) { refused += 1 }
        }
        return refused
    }

    @inline(__always)
    private func deliverDirect(_ run: UnsafePointer<EventRun>, _ link: Link, _ lane: Lane) {
        let count = run.pointee.count
        guard !link.isCongested else { return lane.counters.drop(.outputFull, count) }
        lane.counters.eventsOut &+= UInt64(truncatingIfNeeded: count)
        // What came in is, byte for byte, what goes out.
        if run.pointee.layout == .mqtt3Direct { return link.append(run.pointee.wire, run.pointee.wireLength) }
        for index in 0..<count {
            let view = run.pointee.events[index]
            PacketWriter.publish(
                0x30, topic: run.pointee.topic, topicLength: run.pointee.topicLength, identifier: 0,
                payload: view.payload, payloadLength: Int(view.payloadLength), to: link)
        }
    }

    /// Direct events behind guaranteed ones that wait: overtaking would turn one publisher's events around.
    private func waitInLine(_ run: UnsafePointer<EventRun>, on lane: Lane) {
        guard let link else { return }
        guard !link.isCongested else { return lane.counters.drop(.outputFull, run.pointee.count) }
        for index in 0..<run.pointee.count {
            _ = wait(EventQueue.Entry(event: run.pointee.event(index), qos: 0, isRetained: false), on: lane)
        }
    }

    /// Sends a guaranteed event, or lets it wait.
    /// - Returns: false when the queue is full; the event is dropped and counted.
    private func deliverGuaranteed(_ event: Event, qos: UInt8, isRetained: Bool, on lane: Lane) -> Bool {
        if let link, waiting.isEmpty, hasRoom(link, lane) {
            lane.counters.eventsOut &+= 1
            let identifier = inFlight.add(event, qos: qos, isRetained: isRetained)
            unsent = inFlight.next
            write(event, qos << 1 | (isRetained ? 1 : 0), identifier, to: link)
            return true
        }
        return wait(EventQueue.Entry(event: event, qos: qos, isRetained: isRetained), on: lane)
    }

    private func hasRoom(_ link: Link, _ lane: Lane) -> Bool {
        inFlight.count < lane.limits.maxInFlight && inFlight.bytes < lane.limits.maxQueuedBytes
            && !link.isCongested && unsent == inFlight.next
    }

    private func write(_ event: Event, _ flags: UInt8, _ identifier: UInt16, to link: Link) {
        let base = event.bytes
        PacketWriter.publish(
            0x30 | flags, topic: base, topicLength: event.topicLength, identifier: identifier,
            payload: base + event.topicLength + event.propertiesLength, payloadLength: event.payloadLength, to: link)
    }

    /// A retained event that a new subscription begins with (§3.3.1.3).
    func deliverRetained(_ event: Event, granted: UInt8, on lane: Lane) {
        let qos = min(event.qos, granted)
        if qos > 0 {
            _ = deliverGuaranteed(event, qos: qos, isRetained: true, on: lane)
            return
        }
        guard let link else { return }
        guard !link.isCongested else { return lane.counters.drop(.outputFull) }
        lane.counters.eventsOut &+= 1
        write(event, 1, 0, to: link)
    }

    /// Sends what may be sent: first what a reconnect left unsettled, in order, then what waits.
    func pump(on lane: Lane) {
        guard let link else { return }
        while unsent < inFlight.next, !link.isCongested {
            let slot = inFlight.slot(unsent)
            let identifier = InFlight.identifier(unsent)
            if slot.state == .awaitingPubcomp {
                PacketWriter.acknowledge(0x62, identifier, to: link)
            } else if let event = slot.event {
                let qos: UInt8 = slot.state == .awaitingPuback ? 1 : 2
                // Everything in the window has been sent before: DUP (§3.3.1.1).
                write(event, 8 | qos << 1 | (slot.isRetained ? 1 : 0), identifier, to: link)
            }
            unsent += 1
        }
        while hasRoom(link, lane), let entry = nextWaiting() {
            lane.counters.eventsOut &+= 1
            var identifier: UInt16 = 0
            if entry.qos > 0 { identifier = inFlight.add(entry.event, qos: entry.qos, isRetained: entry.isRetained) }
            unsent = inFlight.next
            write(entry.event, entry.qos << 1 | (entry.isRetained ? 1 : 0), identifier, to: link)
        }
    }

    // MARK: Acknowledgements from the client

    /// PUBACK. An identifier that is not waiting is ignored: after a reconnect it may be an old one.
    func puback(_ identifier: UInt16, on lane: Lane) {
        if inFlight.advance(identifier, from: .awaitingPuback, to: .settled) { settled(on: lane) }
    }

    /// PUBREC: the event is the client's now; PUBREL goes out even if it went before (§4.3.3).
    func pubrec(_ identifier: UInt16, on lane: Lane) {
        _ = inFlight.advance(identifier, from: .awaitingPubrec, to: .awaitingPubcomp)
        if let link { PacketWriter.acknowledge(0x62, identifier, to: link) }
    }

    /// PUBCOMP.
    func pubcomp(_ identifier: UInt16, on lane: Lane) {
        if inFlight.advance(identifier, from: .awaitingPubcomp, to: .settled) { settled(on: lane) }
    }

    @inline(__always)
    private func settled(on lane: Lane) {
        if unsent < inFlight.first { unsent = inFlight.first }
        if !waiting.isEmpty { pump(on: lane) }
    }

    // MARK: QoS 2 from the client

    /// Whether a QoS 2 publish with this identifier was taken and not released: another one is a duplicate.
    func hasReceived(_ identifier: UInt16) -> Bool { received.contains(identifier) }

    /// Notes a QoS 2 publish.
    func noteReceived(_ identifier: UInt16) { received.insert(identifier) }

    /// PUBREL: the identifier may be used again.
    func release(_ identifier: UInt16) { received.remove(identifier) }

    /// QoS 2 publishes not yet released.
    var receivedCount: Int { received.count }

    // MARK: Management; see Session+Inspection.swift

    /// Events sent and not yet settled.
    var inFlightCount: Int { inFlight.count }

    override func describe(on lane: Lane, maxSubscriptions: Int) -> InboxDescription {
        describeSession(on: lane, maxSubscriptions: maxSubscriptions)
    }

    override func kick(endsSession: Bool, on lane: Lane) { kickSession(endsSession: endsSession, on: lane) }

    override func receiptArrived(token: UInt32, refused: Int, on lane: Lane) {
        conversation?.receiptArrived(token: token, on: lane)
    }
}

extension WireLayout {
    /// A PUBLISH of MQTT 3.1 or 3.1.1 at QoS 0 without DUP and RETAIN: bytes any such subscriber takes as they are.
    static let mqtt3Direct = WireLayout(rawValue: 1)
}
