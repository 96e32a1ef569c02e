import Core

/// The hot path: PUBLISH packets to runs of borrowed events (MQTT 5 §3.3).
extension MQTTConversation {
    /// Takes PUBLISH packets as long as they come one after another.
    /// - Returns: a verdict when the turn must be routed or the connection ends; nil when the next bytes are no
    ///   complete PUBLISH.
    func receivePublishes(
        _ bytes: UnsafeRawBufferPointer, _ offset: inout Int, _ turn: Turn, _ lane: Lane
    ) -> Verdict? {
        guard let base = bytes.baseAddress, let session else { return nil }
        let isVersion5 = version == .v5
        let metered = principal.flatMap { $0.isMetered ? $0 : nil }
        while true {
            let frame: PublishFrame
            switch PublishFrame.read(
                base + offset, bytes.count &- offset, maxBytes: lane.limits.maxPacketBytes, isVersion5: isVersion5)
            {
            case .frame(let found): frame = found
            case .somethingElse: return nil
            case .malformed: return .close(.malformedPacket)
            case .protocolError: return .close(.protocolError)
            }
            if turn.isFull { return .routeFirst }
            if let metered, let verdict = pace(frame, metered, offset, turn, lane) {
                guard verdict == .waiting else { return verdict }
                offset &+= frame.length
                continue
            }
            var beginning = Beginning(frame, isVersion5: isVersion5)
            if frame.propertiesLength > 0 || frame.topicLength == 0 {
                if let verdict = begin(frame, &beginning, turn, lane) { return verdict }
            }
            if frame.qos > 0 || beginning.isText {
                switch admit(frame, isText: beginning.isText, turn, session, lane) {
                case .some(.waiting):
                    // It has been answered and is not published.
                    offset &+= frame.length
                    continue
                case .some(let verdict): return verdict
                case nil: break
                }
            }
            let run = turn.runs + turn.runCount
            run.initialize(
                to: EventRun(
                    topic: beginning.topic, topicLength: beginning.topicLength, events: turn.events + turn.eventCount,
                    count: 1, wire: base + offset, wireLength: frame.length, properties: beginning.properties,
                    propertiesLength: beginning.propertiesLength, publisher: session.address,
                    layout: beginning.layout, qos: frame.qos, isRetained: frame.first & 1 == 1,
                    expiresAt: beginning.expiresAt))
            turn.runCount &+= 1
            turn.events[turn.eventCount] = EventView(
                payload: frame.payload, payloadLength: frame.payloadLength, reference: frame.identifier)
            turn.eventCount &+= 1
            offset &+= frame.length
            if frame.qos == 0, !beginning.isText {
                extend(run, frame, base, bytes.count, &offset, turn, lane)
            } else {
                extendOneByOne(run, frame, isText: beginning.isText, bytes, &offset, turn, lane)
            }
        }
    }

    /// Adds direct events to a run as long as packets follow that differ from its first in their payload alone.
    @inline(__always)
    private func extend(
        _ run: UnsafeMutablePointer<EventRun>, _ head: PublishFrame, _ base: UnsafeRawPointer, _ end: Int,
        _ offset: inout Int, _ turn: Turn, _ lane: Lane
    ) {
        let first = UInt16(head.first)
        // Topic and properties with their lengths, which at QoS 0 follow one another up to the payload.
        let like = head.topic - 2
        let likeLength = head.payload - like
        let start = turn.eventCount
        var count = start
        var place = offset
        let last = min(end &- 2, turn.room.end)
        let (mostEvents, longest) = (
            turn.room.events, min(lane.limits.maxPacketBytes, likeLength &+ 2 &+ turn.room.payload)
        )
        while place <= last, count < mostEvents {
            let frame = base + place
            let two = frame.loadUnaligned(as: UInt16.self)
            guard two & 0xFF == first else { break }
            var header = 2
            var remaining = Int(two >> 8)
            if remaining >= 0x80 {
                let rest = UnsafeRawBufferPointer(start: frame, count: end &- place)
                guard case .packet(let length, let value) = Framing.of(rest) else { break }
                (header, remaining) = (length, value)
            }
            let length = header &+ remaining
            guard end &- place >= length, remaining >= likeLength, length <= longest,
                bytesEqual(frame + header, like, likeLength)
            else { break }
            turn.events[count] = EventView(
                payload: frame + header + likeLength, payloadLength: remaining &- likeLength)
            count &+= 1
            place &+= length
        }
        run.pointee.count &+= count &- start
        run.pointee.wireLength &+= place &- offset
        turn.eventCount = count
        offset = place
    }

    /// The same for events that have to be admitted. What is not admitted is left for the next look at it.
    private func extendOneByOne(
        _ run: UnsafeMutablePointer<EventRun>, _ head: PublishFrame, isText: Bool, _ bytes: UnsafeRawBufferPointer,
        _ offset: inout Int, _ turn: Turn, _ lane: Lane
    ) {
        guard let base = bytes.baseAddress, let session else { return }
        while turn.eventCount < turn.room.events, offset <= turn.room.end,
            case .frame(let frame) = PublishFrame.read(
                base + offset, bytes.count &- offset, maxBytes: lane.limits.maxPacketBytes,
                isVersion5: version == .v5),
            frame.isLike(head), frame.payloadLength <= turn.room.payload,
            admit(frame, isText: isText, turn, session, lane) == nil
        {
            turn.events[turn.eventCount] = EventView(
                payload: frame.payload, payloadLength: frame.payloadLength, reference: frame.identifier)
            turn.eventCount &+= 1
            run.pointee.count &+= 1
            run.pointee.wireLength &+= frame.length
            offset &+= frame.length
        }
    }

    /// What a run begins with, when its first packet has been understood.
    private struct Beginning {
        var topic: UnsafeRawPointer
        var topicLength: Int
        var properties: UnsafeRawPointer
        var propertiesLength: Int
        var layout: WireLayout
        var expiresAt: UInt64 = 0
        var isText = false

        @inline(__always)
        init(_ frame: PublishFrame, isVersion5: Bool) {
            topic = frame.topic
            topicLength = frame.topicLength
            properties = frame.properties
            propertiesLength = frame.propertiesLength
            layout = frame.first != 0x30 ? .none : isVersion5 ? .mqtt5Direct : .mqtt3Direct
        }
    }

    /// Understands the properties of a run's first packet.
    /// - Returns: a verdict when the turn must be routed or the connection ends.
    @inline(never)
    private func begin(
        _ frame: PublishFrame, _ beginning: inout Beginning, _ turn: Turn, _ lane: Lane
    ) -> Verdict? {
        let properties: PublishProperties
        do throws(MQTTFailure) {
            properties = try PublishProperties(
                UnsafeRawBufferPointer(start: frame.properties, count: frame.propertiesLength), turn)
        } catch {
            return .close(CloseReason(error))
        }
        beginning.isText = properties.isText
        if let seconds = properties.expirySeconds { beginning.expiresAt = lane.now + UInt64(seconds) * 1_000 }
        if !properties.isVerbatim { beginning.layout = .none }
        beginning.properties = properties.forwarded.baseAddress ?? frame.properties
        beginning.propertiesLength = properties.forwarded.count
        guard let alias = properties.alias else {
            return frame.topicLength == 0 ? .close(.protocolError) : nil
        }
        return resolve(alias, frame, &beginning, turn, lane)
    }

    /// A topic alias: learnt with a topic, looked up without (§3.3.2.3.4).
    private func resolve(
        _ alias: UInt16, _ frame: PublishFrame, _ beginning: inout Beginning, _ turn: Turn, _ lane: Lane
    ) -> Verdict? {
        guard alias > 0, alias <= lane.limits.maxTopicAliases else { return .close(.topicAliasInvalid) }
        let aliases = self.aliases ?? IncomingAliases(limits: lane.limits)
        self.aliases = aliases
        guard frame.topicLength > 0 else {
            guard let topic = aliases.topic(alias), let start = topic.baseAddress else { return .close(.protocolError) }
            beginning.topic = UnsafeRawPointer(start)
            beginning.topicLength = topic.count
            return nil
        }
        let topic = UnsafeRawBufferPointer(start: frame.topic, count: frame.topicLength)
        guard aliases.isChanged(alias, by: topic) else { return nil }
        // Runs of this turn may refer to what the alias stood for.
        guard turn.isEmpty else { return .routeFirst }
        return aliases.set(alias, topic) ? nil : .close(.overLimit)
    }

    /// Whether a publish at QoS 1 or 2, or one that claims to be text, may be taken now.
    /// - Parameter isText: whether the payload must be UTF-8 (MQTT 5 §3.3.2.3.2).
    /// - Returns: nil to take it, `waiting` when it has been answered and is done, else why the turn ends.
    private func admit(
        _ frame: PublishFrame, isText: Bool, _ turn: Turn, _ session: Session, _ lane: Lane
    ) -> Verdict? {
        let isDuplicate = frame.qos == 2 && session.hasReceived(frame.identifier)
        let payload = UnsafeRawBufferPointer(start: frame.payload, count: frame.payloadLength)
        guard !isText || isDuplicate || Topic.isUTF8(payload) else {
            guard turn.isEmpty else { return .routeFirst }
            lane.counters.drop(.badPayload)
            return frame.qos == 0 ? .close(.payloadFormatInvalid) : answer(frame, .payloadFormatInvalid, turn)
        }
        if frame.qos == 0 { return nil }
        if version == .v5, !isDuplicate {
            // What the client was promised in CONNACK (MQTT 5 §3.3.4-9).
            let unsettled = pendingAcknowledgements.qos1Count + session.receivedCount + Int(unsettledInTurn)
            guard unsettled < lane.limits.maxUnsettled else { return .close(.receiveMaximumExceeded) }
            if frame.qos == 1 { unsettledInTurn &+= 1 }
        } else if holds(lane) {
            return turn.isEmpty ? .paused : .routeFirst
        }
        if isDuplicate { return answer(frame, .success, turn) }
        if frame.qos == 2 {
            guard session.receivedCount < lane.limits.maxUnsettled else { return .close(.protocolError) }
            session.noteReceived(frame.identifier)
        }
        return nil
    }

    /// Looks at the quotas of a client before a run of its publishes begins: sees to it that the turn gets no more than
    /// there are tokens for, and that the client is not read while there are none.
    /// - Returns: nil to take it, `waiting` when it has been answered and is done, else why the turn ends.
    @inline(never)
    private func pace(
        _ frame: PublishFrame, _ principal: Principal, _ offset: Int, _ turn: Turn, _ lane: Lane
    ) -> Verdict? {
        let payload = min(principal.maxPayload, Turn.Room.unlimited.payload)
        guard frame.payloadLength <= payload else {
            guard turn.isEmpty else { return .routeFirst }
            principal.refusePayload(on: lane)
            return version == .v5 && frame.qos > 0 ? answer(frame, .quotaExceeded, turn) : .close(.packetTooLarge)
        }
        turn.room = Turn.Room(events: .max, end: .max, payload: payload)
        guard principal.pacing.paces(frame.qos) else { return nil }
        let room = principal.room(lane.now)
        // What the turn has already has not been paid for.
        guard room.events > turn.eventCount, room.bytes > (turn.isEmpty ? 0 : offset) else {
            guard turn.isEmpty else { return .routeFirst }
            slowedUntil = lane.now + principal.waitToPublish(lane.now)
            startTicking(on: lane)
            return .paused
        }
        // Bytes that came before in the same read cost nothing, but that is found out with the next turn.
        turn.room.events = min(room.events, Turn.eventCapacity)
        turn.room.end = room.bytes
        return nil
    }

    /// Answers a publish that is not routed, behind all that came before it.
    private func answer(_ frame: PublishFrame, _ code: ReasonCode, _ turn: Turn) -> Verdict {
        guard turn.isEmpty else { return .routeFirst }
        acknowledge(
            PendingAcknowledgements.Group(
                identifiers: [frame.identifier], qos: frame.qos, code: code, pending: 0, token: 0))
        return .waiting
    }
}
