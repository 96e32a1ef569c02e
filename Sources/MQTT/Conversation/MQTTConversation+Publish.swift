import Core

/// The hot path: PUBLISH packets to runs of borrowed events (MQTT 3.1.1 §3.3).
extension MQTTConversation {
    /// Takes PUBLISH packets as long as they come one after another.
    ///
    /// Bounds: every pointer below `end` was checked when the packet's end was; the wrapping operators rely on that.
    /// - Returns: a verdict when the turn must be routed or the connection ends; nil when the next bytes are no
    ///   complete PUBLISH.
    func receivePublishes(
        _ bytes: UnsafeRawBufferPointer, _ offset: inout Int, _ turn: Turn, _ lane: Lane
    ) -> Verdict? {
        guard let base = bytes.baseAddress, let session else { return nil }
        let end = bytes.count
        let publisher = session.address
        // Frames of another first byte, or after a gap, begin a new run.
        var runFirst: UInt8 = 0
        while offset &+ 2 <= end {
            let frame = base + offset
            let first = frame.load(as: UInt8.self)
            guard first & 0xF0 == 0x30 else { return nil }
            var header = 2
            var remaining = Int(frame.load(fromByteOffset: 1, as: UInt8.self))
            if remaining >= 0x80 {
                let rest = UnsafeRawBufferPointer(start: frame, count: end &- offset)
                guard case .packet(let length, let value) = Framing.of(rest) else { return nil }
                (header, remaining) = (length, value)
            }
            // What is incomplete or too large is for the general path to judge.
            guard end &- offset >= header &+ remaining, header &+ remaining <= lane.limits.maxPacketBytes else {
                return nil
            }
            if turn.isFull { return .routeFirst }
            guard remaining >= 2 else { return .close(.malformedPacket) }
            let topic = frame + header + 2
            let topicLength = Int(
                UInt16(bigEndian: frame.loadUnaligned(fromByteOffset: header, as: UInt16.self)))
            let qos = first >> 1 & 3
            let payloadStart = 2 &+ topicLength &+ (qos > 0 ? 2 : 0)
            guard payloadStart <= remaining, topicLength > 0, first & 0x0F <= 1 || qos > 0, qos < 3 else {
                return .close(.malformedPacket)
            }
            var identifier: UInt16 = 0
            if qos > 0 {
                identifier = UInt16(bigEndian: (topic + topicLength).loadUnaligned(as: UInt16.self))
                guard identifier != 0 else { return .close(.malformedPacket) }
                switch admit(identifier, qos, turn, session, lane) {
                case .some(.waiting):
                    // A duplicate has been answered; it is not published again.
                    offset &+= header &+ remaining
                    runFirst = 0
                    continue
                case .some(let verdict): return verdict
                case nil: break
                }
            }
            turn.events[turn.eventCount] = EventView(
                payload: frame + header + payloadStart, payloadLength: remaining &- payloadStart, reference: identifier)
            turn.eventCount &+= 1
            let run = turn.runs + (turn.runCount &- 1)
            if first == runFirst, run.pointee.topicLength == topicLength,
                bytesEqual(run.pointee.topic, topic, topicLength)
            {
                run.pointee.count &+= 1
                run.pointee.wireLength &+= header &+ remaining
            } else {
                turn.runs[turn.runCount] = EventRun(
                    topic: topic, topicLength: topicLength, events: turn.events + (turn.eventCount &- 1), count: 1,
                    wire: frame, wireLength: header &+ remaining, properties: topic, propertiesLength: 0,
                    publisher: publisher, layout: first == 0x30 ? .mqtt3Direct : .none, qos: qos,
                    isRetained: first & 1 == 1)
                turn.runCount &+= 1
                runFirst = first
            }
            offset &+= header &+ remaining
        }
        return nil
    }

    /// Whether a publish at QoS 1 or 2 may be taken now.
    /// - Returns: nil to take it, `waiting` when it is a duplicate that has been answered, else why the turn ends.
    private func admit(
        _ identifier: UInt16, _ qos: UInt8, _ turn: Turn, _ session: Session, _ lane: Lane
    ) -> Verdict? {
        if holds(lane) { return turn.isEmpty ? .paused : .routeFirst }
        guard qos == 2 else { return nil }
        if !session.hasReceived(identifier) {
            guard session.receivedCount < lane.limits.maxUnsettled else { return .close(.protocolError) }
            session.noteReceived(identifier)
            return nil
        }
        guard turn.isEmpty else { return .routeFirst }
        if pendingAcknowledgements.isEmpty {
            PacketWriter.acknowledge(0x50, identifier, to: link)
        } else {
            pendingAcknowledgements.append([identifier], qos: 2, token: 0, pending: 0)
        }
        return .waiting
    }
}
