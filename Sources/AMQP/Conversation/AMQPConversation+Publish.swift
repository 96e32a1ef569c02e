import Core

/// Deliveries from the client: to runs of borrowed events, to their outcomes, to new credit.
extension AMQPConversation {
    /// A guaranteed run that waits for receipts.
    struct UnsettledRun {
        var pending: Int
        var link: IncomingLink
        var deliveries: [Engine.Delivery?]
    }

    /// Takes a delivery, or as much of it as is there.
    /// - Returns: false when the turn must be routed first; then it has not been touched.
    func takeDelivery(
        _ delivery: Engine.Delivery, _ incoming: IncomingLink, _ engine: Engine, _ turn: Turn, _ lane: Lane
    ) -> Bool {
        // Taken before: the client has settled on its side what is still under way here.
        guard engine.context(delivery) == 0 else { return true }
        let state = engine.state(delivery)
        guard incoming.refusal == nil, !state.isAborted else {
            engine.settle(delivery, nil)
            incoming.forgetPartial(self)
            if state.isAborted { incoming.used(1, engine) }
            return true
        }
        guard state.pendingBytes <= lane.limits.maxPacketBytes else {
            refuse(
                incoming, delivery,
                AMQPError(.messageSizeExceeded, "a message may have \(lane.limits.maxPacketBytes) bytes"), lane)
            return true
        }
        if state.isPartial {
            notePartial(delivery, incoming, state.pendingBytes, lane)
            return true
        }
        guard !turn.isFull, let place = laneState?.room(state.pendingBytes, turn) else { return false }
        incoming.forgetPartial(self)
        guard engine.credit(incoming.handle) >= 0 else {
            refuse(incoming, delivery, AMQPError(.transferLimitExceeded, "a transfer without credit"), lane)
            return true
        }
        let count = engine.read(incoming.handle, into: place, count: state.pendingBytes)
        engine.advance(incoming.handle)
        let bytes = UnsafeRawBufferPointer(start: place, count: count)
        if extendAsBefore(bytes, delivery, state.isSettled, incoming, engine, turn) { return true }
        do throws(AMQPError) {
            try append(bytes, delivery, state.isSettled, incoming, engine, turn, lane)
        } catch {
            reject(delivery, state.isSettled, error, incoming, engine, lane)
        }
        return true
    }

    /// A message that has not arrived completely: all of them together have a bound.
    private func notePartial(_ delivery: Engine.Delivery, _ incoming: IncomingLink, _ bytes: Int, _ lane: Lane) {
        partialBytes += bytes - incoming.partialBytes
        incoming.partialBytes = bytes
        guard partialBytes > 2 * lane.limits.maxPacketBytes else { return }
        refuse(
            incoming, delivery,
            AMQPError(.resourceLimitExceeded, "too many messages of this connection are incomplete"), lane)
    }

    /// The link ends because of a delivery; what else comes on it is thrown away.
    private func refuse(_ incoming: IncomingLink, _ delivery: Engine.Delivery, _ error: AMQPError, _ lane: Lane) {
        guard let engine else { return }
        lane.counters.framesRefused &+= 1
        incoming.forgetPartial(self)
        incoming.refusal = error
        engine.settle(delivery, nil)
        engine.detach(incoming.handle, isClosing: true, error)
        touch()
    }

    private static var payloadTooLarge: AMQPError {
        AMQPError(.messageSizeExceeded, "the payload is larger than this user may publish")
    }

    /// The link ends because of what came on it settled: there is no other way to tell.
    private func refuse(_ incoming: IncomingLink, _ error: AMQPError, _ lane: Lane) {
        guard let engine, incoming.refusal == nil, !incoming.isGone else { return }
        lane.counters.framesRefused &+= 1
        incoming.refusal = error
        engine.detach(incoming.handle, isClosing: true, error)
    }

    /// A message that is none, or has no topic: its sender is told in the way it can be (§3.4.2).
    private func reject(
        _ delivery: Engine.Delivery, _ isSettled: Bool, _ error: AMQPError, _ incoming: IncomingLink, _ engine: Engine,
        _ lane: Lane
    ) {
        lane.counters.framesRefused &+= 1
        guard !isSettled else {
            engine.settle(delivery, nil)
            incoming.refusal = error
            return engine.detach(incoming.handle, isClosing: true, error)
        }
        engine.settle(delivery, .rejected(error))
        incoming.used(1, engine)
    }

    /// Adds a message to the turn.
    private func append(
        _ bytes: UnsafeRawBufferPointer, _ delivery: Engine.Delivery, _ isSettled: Bool, _ incoming: IncomingLink,
        _ engine: Engine, _ turn: Turn, _ lane: Lane
    ) throws(AMQPError) {
        let message = try IncomingMessage(bytes)
        if incoming.isClaims {
            answerClaim(message, on: lane)
            engine.settle(delivery, isSettled ? nil : .accepted)
            return incoming.used(1, engine)
        }
        let topic = try topic(of: message, incoming, turn, lane)
        let event = turn.events + turn.eventCount
        note(delivery, isSettled, engine)
        var run = EventRun(
            topic: topic.start, topicLength: topic.count, events: event, count: 1, wire: message.head.start,
            wireLength: bytes.count, properties: message.head.start, propertiesLength: message.head.count,
            publisher: port?.address ?? .none, layout: .amqp, qos: isSettled ? 0 : 1, isRetained: message.isRetained,
            expiresAt: expiry(of: message, lane))
        run.isPatient = !isSettled
        if message.isPlain {
            run.packing = Unmanaged.passUnretained(AMQPPacking.shared)
            event.pointee = EventView(payload: message.payloadStart, payloadLength: message.payload.count)
        } else {
            unpack(message, &run, event, turn)
        }
        turn.runs[turn.runCount] = run
        turn.runCount += 1
        turn.eventCount += 1
        turnLinks.append(incoming)
        lastLink = ObjectIdentifier(incoming)
    }

    /// When nobody wants a message any more, in the lane's milliseconds: by its ttl (§3.2.1) or its absolute expiry
    /// time (§3.2.4), whichever is earlier; 0 for never.
    private func expiry(of message: IncomingMessage, _ lane: Lane) -> UInt64 {
        var left = message.ttlMilliseconds
        if let absolute = message.absoluteExpiryTime, absolute > 0 {
            let now = context.wallClock()
            left = min(left ?? .max, absolute > now ? absolute - now : 0)
        }
        return left.map { max(lane.now &+ min($0, 1 << 53), 1) } ?? 0
    }

    /// A message whose payload is not in one piece is taken apart at once.
    private func unpack(
        _ message: IncomingMessage, _ run: inout EventRun, _ event: UnsafeMutablePointer<EventView>, _ turn: Turn
    ) {
        var writer = EventPropertiesWriter()
        let payload = message.unpack(into: &writer)
        let (properties, extensionLength) = writer.finish()
        let place = turn.makeScratch(properties.count + payload.count)
        properties.withUnsafeBytes {
            if let base = $0.baseAddress { place.copyMemory(from: base, byteCount: $0.count) }
        }
        payload.withUnsafeBytes {
            if let base = $0.baseAddress { (place + properties.count).copyMemory(from: base, byteCount: $0.count) }
        }
        run.layout = .none
        run.properties = UnsafeRawPointer(place)
        run.propertiesLength = properties.count
        run.extensionLength = extensionLength
        event.pointee = EventView(payload: place + properties.count, payloadLength: payload.count)
    }

    /// Adds a message to the turn's last run if it has the same head and as many bytes as the run's last one: then it
    /// need not be understood. Its head says all but the payload, the body's size included.
    @inline(__always)
    private func extendAsBefore(
        _ bytes: UnsafeRawBufferPointer, _ delivery: Engine.Delivery, _ isSettled: Bool, _ incoming: IncomingLink,
        _ engine: Engine, _ turn: Turn
    ) -> Bool {
        guard turn.runCount > 0, lastLink == ObjectIdentifier(incoming) else { return false }
        let run = turn.runs + (turn.runCount - 1)
        let head = run.pointee.propertiesLength
        let payload = bytes.count - head
        guard run.pointee.packing != nil, run.pointee.qos == (isSettled ? 0 : 1), run.pointee.expiresAt == 0,
            payload == Int(turn.events[turn.eventCount - 1].payloadLength),
            run.pointee.wire + run.pointee.wireLength == bytes.start,
            bytesEqual(run.pointee.properties, bytes.start, head)
        else { return false }
        note(delivery, isSettled, engine)
        turn.events[turn.eventCount] = EventView(payload: bytes.start + head, payloadLength: payload)
        turn.eventCount += 1
        run.pointee.count += 1
        run.pointee.wireLength += bytes.count
        return true
    }

    /// A delivery has become an event of the turn.
    @inline(__always)
    private func note(_ delivery: Engine.Delivery, _ isSettled: Bool, _ engine: Engine) {
        if isSettled {
            engine.settle(delivery, nil)
        } else {
            engine.setContext(delivery, 1)
        }
        turnDeliveries.append(isSettled ? nil : delivery)
    }

    /// Where a message goes: the link's topic, or its own `to` (§3.2.4).
    private func topic(
        of message: IncomingMessage, _ incoming: IncomingLink, _ turn: Turn, _ lane: Lane
    ) throws(AMQPError) -> UnsafeRawBufferPointer {
        if let topic = incoming.topic { return UnsafeRawBufferPointer(topic) }
        guard let to = message.to, let topic = Address.topic(ofTo: to, context.settings) else {
            return try unusualTopic(message, turn, lane)
        }
        guard Topic.isValid(topic, limits: lane.limits) else {
            throw AMQPError(.invalidField, "`to` is no topic: levels of text between slashes, without wildcards")
        }
        return topic
    }

    /// The topic that an address of another form names, such as RabbitMQ's paths.
    private func unusualTopic(
        _ message: IncomingMessage, _ turn: Turn, _ lane: Lane
    ) throws(AMQPError) -> UnsafeRawBufferPointer {
        let text = message.to.map { String(decoding: $0, as: UTF8.self) }
        guard case .topic(let topic) = try Address(text, role: .message, context.settings, limits: lane.limits) else {
            throw AMQPError(.notFound, "'\(text ?? "")' is no topic")
        }
        let place = turn.makeScratch(topic.count)
        topic.withUnsafeBytes { if let base = $0.baseAddress { place.copyMemory(from: base, byteCount: $0.count) } }
        return UnsafeRawBufferPointer(start: place, count: topic.count)
    }

    // MARK: Outcomes

    /// The turn has been routed: its deliveries are settled, and their credit is given back.
    func settle(_ turn: Turn, on lane: Lane) {
        defer {
            turnDeliveries.removeAll(keepingCapacity: true)
            turnLinks.removeAll(keepingCapacity: true)
        }
        guard let engine else { return }
        guard let traffic = laneState?.traffic else { return }
        for number in 0..<turn.runCount {
            let run = turn.runs + number
            let incoming = turnLinks[number]
            let first = run.pointee.events - turn.events
            traffic.received(run.pointee.count, bytes: run.pointee.wireLength, qos: run.pointee.qos)
            if run.pointee.qos == 0 {
                incoming.used(run.pointee.count, engine)
                if turn.outcomes[number].verdict == .payloadTooLarge { refuse(incoming, Self.payloadTooLarge, lane) }
            } else {
                settle(turnDeliveries[first..<first + run.pointee.count], turn.outcomes[number], incoming, engine)
            }
            if turn.outcomes[number].verdict == .malformedTopic {
                handBack(turn, from: number + 1, engine)
                break
            }
        }
        touch()
    }

    /// What follows a topic that is none was not routed: whoever can be told is, and may send it again.
    private func handBack(_ turn: Turn, from first: Int, _ engine: Engine) {
        for number in first..<max(first, turn.runCount) {
            let run = turn.runs + number
            let place = run.pointee.events - turn.events
            for delivery in turnDeliveries[place..<place + run.pointee.count] {
                if let delivery { engine.settle(delivery, .released) }
            }
            turnLinks[number].used(run.pointee.count, engine)
        }
    }

    private func settle(
        _ deliveries: ArraySlice<Engine.Delivery?>, _ outcome: PublishOutcome, _ incoming: IncomingLink,
        _ engine: Engine
    ) {
        switch outcome.verdict {
        case .routed where outcome.pending > 0:
            unsettled[outcome.token] = UnsettledRun(
                pending: Int(outcome.pending), link: incoming,
                deliveries: Array(deliveries))
            return
        case .routed: settle(deliveries, .accepted, incoming, engine)
        case .notAuthorized:
            settle(
                deliveries,
                .rejected(AMQPError(.unauthorizedAccess, "publishing to this topic is not allowed")), incoming, engine)
        case .quotaExceeded:
            settle(
                deliveries,
                .rejected(AMQPError(.resourceLimitExceeded, "more events a second than this node takes")), incoming,
                engine)
        case .payloadTooLarge: settle(deliveries, .rejected(Self.payloadTooLarge), incoming, engine)
        case .malformedTopic:
            settle(deliveries, .rejected(AMQPError(.invalidField, "the address is no topic")), incoming, engine)
        }
    }

    private func settle(
        _ deliveries: ArraySlice<Engine.Delivery?>, _ outcome: Outcome, _ incoming: IncomingLink, _ engine: Engine
    ) {
        for delivery in deliveries {
            if let delivery { engine.settle(delivery, outcome) }
        }
        incoming.used(deliveries.count, engine)
        touch()
    }

    /// An answer of another lane, or of a subscription that has held a run.
    func receiptArrived(token: UInt32, more: Int) {
        guard let engine, var run = unsettled[token] else { return }
        run.pending += more - 1
        guard run.pending <= 0 else { return unsettled[token] = run }
        unsettled[token] = nil
        // Of a link that is gone the deliveries are, too.
        guard !run.link.isGone else { return }
        settle(run.deliveries[...], .accepted, run.link, engine)
    }
}

extension UnsafeRawBufferPointer {
    /// The first byte, or somewhere harmless for none.
    var start: UnsafeRawPointer { baseAddress ?? UnsafeRawPointer(bitPattern: 16).unsafelyUnwrapped }
}

extension IncomingMessage {
    /// The payload's first byte.
    var payloadStart: UnsafeRawPointer { payload.start }
}
