import Core

/// From what clients say to events, and from events to what clients get.
extension WebLane {
    /// Adds an event to the turn.
    /// - Returns: its id, which it gets here if it has none.
    func append(
        _ event: NewEvent, publisher: PortAddress, _ principal: Principal, _ turn: Turn, on lane: Lane
    ) -> [UInt8] {
        let (properties, extensionLength, id) = finish(event)
        let count = event.topic.count + properties.count + event.payload.count
        let base = turn.makeScratch(count)
        var place = base
        for part in [event.topic, properties, event.payload] {
            part.withUnsafeBytes {
                if let start = $0.baseAddress { place.copyMemory(from: start, byteCount: $0.count) }
            }
            place += part.count
        }
        let view = turn.events + turn.eventCount
        let payload = UnsafeRawPointer(base) + event.topic.count + properties.count
        view.pointee = EventView(payload: payload, payloadLength: event.payload.count)
        var run = EventRun(
            topic: base, topicLength: event.topic.count, events: view, count: 1, wire: payload,
            wireLength: count, properties: base + event.topic.count, propertiesLength: properties.count,
            publisher: publisher, layout: .none, qos: min(event.qos, 1), isRetained: event.isRetained,
            expiresAt: event.ttlMilliseconds.map { lane.now &+ $0 } ?? 0)
        run.extensionLength = extensionLength
        turn.runs[turn.runCount] = run
        turn.runCount += 1
        turn.eventCount += 1
        turn.principal = principal
        return id
    }

    /// An owned event.
    /// - Returns: it, and its id, which it gets here if it has none.
    func makeEvent(_ event: NewEvent, on lane: Lane) -> (event: Event, id: [UInt8]) {
        let (properties, extensionLength, id) = finish(event)
        let made = event.topic.withUnsafeBytes { topic in
            event.payload.withUnsafeBytes { payload in
                properties.withUnsafeBytes { properties in
                    Event(
                        topic: topic, properties: properties, payload: payload, qos: min(event.qos, 1),
                        isRetained: event.isRetained, expiresAt: event.ttlMilliseconds.map { lane.now &+ $0 } ?? 0,
                        extensionLength: extensionLength)
                }
            }
        }
        return (made, id)
    }

    private func finish(_ event: NewEvent) -> (properties: [UInt8], extensionLength: UInt16, id: [UInt8]) {
        var writer = event.properties.writer
        let (bytes, _) = writer.finish()
        let known = bytes.withUnsafeBytes { bytes in
            EventProperties(bytes).first { $0.identifier == .messageID }.map { Array($0.bytes) }
        }
        let id = known ?? Array(UnsafeRawBufferPointer(start: eventID, count: nextEventID()))
        if known == nil { writer.add(.messageID, id) }
        let (properties, extensionLength) = writer.finish()
        return (properties, extensionLength, id)
    }

    /// Event `index` of the run being delivered as JSON members without the opening brace: made once for all clients of
    /// the lane.
    func json(of run: UnsafePointer<EventRun>, _ index: Int, on lane: Lane) -> ArraySlice<UInt8> {
        if jsonSerial != lane.runSerial {
            jsonSerial = lane.runSerial
            jsonEnds.removeAll(keepingCapacity: true)
            jsonBytes.removeAll(keepingCapacity: jsonBytes.capacity <= 1 << 20)
        }
        // To its subscribers it is an event like others: the member is for what a topic has kept.
        var live = run.pointee
        live.isRetained = false
        while jsonEnds.count <= index {
            var writer = JSONWriter(jsonBytes)
            jsonBytes = []
            JSONEvent.write(run.pointee.events[jsonEnds.count], of: live, now: lane.now, to: &writer)
            jsonBytes = writer.bytes
            jsonEnds.append(jsonBytes.count)
            jsonWrites &+= 1
        }
        let start = index == 0 ? 0 : jsonEnds[index - 1]
        return jsonBytes[(start + 1)..<jsonEnds[index]]
    }

    /// The same of an owned event.
    /// - Parameter isRetained: whether it comes out of the retained store.
    static func json(of event: Event, isRetained: Bool, now: UInt64) -> [UInt8] {
        var writer = JSONWriter()
        writer.beginObject()
        JSONEvent.writeMembers(
            topic: event.topic, payload: event.payload, properties: event.properties, qos: event.qos,
            isRetained: isRetained, expiresAt: event.expiresAt, now: now, to: &writer)
        writer.endObject()
        writer.bytes.removeFirst()
        return writer.bytes
    }
}
