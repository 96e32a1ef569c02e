public import Core

/// The way of an event from a POST to the router and back to its sender.
extension WebSite {
    /// First segments of paths that are the listener's own; every other one begins a topic.
    static let ownSegments: [StaticString] = [
        "TOPIC", "QUEUE", "events", "poll", "topics", "webhooks", "console", "openapi.json", "openapi.yaml", "mqtt",
        "amqp", "ws", "echo", "",
    ]

    /// The topic's part of a target, percent-encoded; nil when the path is one of the listener's own.
    static func topic(of target: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        guard target.first == UInt8(ascii: "/") else { return nil }
        var end = 1
        while end < target.count, target[end] != UInt8(ascii: "/"), target[end] != UInt8(ascii: "?") { end += 1 }
        let first = UnsafeRawBufferPointer(rebasing: target[1..<end])
        if first.elementsEqual("TOPIC".utf8) {
            guard end < target.count, target[end] == UInt8(ascii: "/") else { return nil }
            return UnsafeRawBufferPointer(rebasing: target[(end + 1)...])
        }
        for own in ownSegments where own.utf8CodeUnitCount == first.count {
            if first.elementsEqual(UnsafeBufferPointer(start: own.utf8Start, count: first.count)) { return nil }
        }
        return UnsafeRawBufferPointer(rebasing: target[1...])
    }

    /// Publishes the body of a request.
    func publish(
        _ topicPath: UnsafeRawBufferPointer, _ head: RequestHead, _ body: UnsafeRawBufferPointer,
        _ principal: Principal, _ connection: HTTPConversation, _ turn: Turn, _ lane: Lane
    ) throws(Problem) -> RequestVerdict {
        let state = context.state(of: lane)
        let topic: UnsafeRawBufferPointer
        switch try TopicPath.decode(topicPath, into: &state.decoded) {
        case .asWritten(let count): topic = UnsafeRawBufferPointer(rebasing: topicPath[..<count])
        case .decoded:
            let copy = turn.makeScratch(state.decoded.count)
            state.decoded.withUnsafeBytes {
                if let base = $0.baseAddress { copy.copyMemory(from: base, byteCount: $0.count) }
            }
            topic = UnsafeRawBufferPointer(start: copy, count: state.decoded.count)
        }
        guard Topic.isValid(topic, limits: principal.router.limits) else { throw Self.noTopic }
        guard let contentType = PlainHeaders.contentType(head) else {
            guard turn.isEmpty else { return .routeFirst }
            return try publishWithProperties(topic, head, body, principal, connection, turn, lane)
        }
        let isText = MediaType.isText(contentType) && Topic.isUTF8(body)
        let properties = state.properties(contentType: contentType, isText: isText, turn)
        state.append(topic, body, properties, head, principal, turn)
        return .publishing
    }

    /// Answers what was published, in order.
    public func routed(_ turn: Turn, of connection: HTTPConversation, on lane: Lane) {
        let state = context.state(of: lane)
        defer { state.forgetPublished() }
        for number in 0..<turn.runCount {
            let run = turn.runs + number
            state.traffic.received(run.pointee.count, bytes: run.pointee.wireLength, qos: run.pointee.qos)
            state.answer(turn.outcomes[number], number, connection, turn.principal)
        }
    }
}

/// Whether a publish says nothing about its event but what it contains.
enum PlainHeaders {
    /// The content type, perhaps empty; nil when there are other fields that say something about the event.
    static func contentType(_ head: RequestHead) -> UnsafeRawBufferPointer? {
        var contentType = UnsafeRawBufferPointer(start: nil, count: 0)
        for index in 0..<head.fieldCount {
            let (name, value) = head.field(index)
            switch name[0] | 0x20 {
            case UInt8(ascii: "c"):
                if name.isSame(as: "content-type") {
                    // Anything but ASCII must be looked at more closely.
                    guard value.count < 256, value.allSatisfy({ $0 < 0x80 }) else { return nil }
                    contentType = value
                } else if name.begins(with: "ce-") || name.isSame(as: "content-encoding") {
                    return nil
                }
            case UInt8(ascii: "a"): if name.begins(with: "apus-") { return nil }
            case UInt8(ascii: "s"): if name.begins(with: "solace-") { return nil }
            case UInt8(ascii: "i"): if name.isSame(as: "idempotency-key") { return nil }
            case UInt8(ascii: "t"):
                if name.isSame(as: "traceparent") || name.isSame(as: "tracestate") { return nil }
            case UInt8(ascii: "b"): if name.isSame(as: "baggage") { return nil }
            default: break
            }
        }
        // A structured event brings its own properties.
        return contentType.begins(with: "application/cloudevents") ? nil : contentType
    }
}

extension WebLane {
    /// The properties of an event that has a content type and an id, in the turn's memory.
    func properties(contentType: UnsafeRawBufferPointer, isText: Bool, _ turn: Turn) -> Properties {
        let idCount = nextEventID()
        var typed = contentType.isEmpty ? 0 : contentType.count + 3
        let base = turn.makeScratch(typed + 2 + 3 + idCount)
        if typed > 0, let start = contentType.baseAddress {
            writeHeader(.contentType, contentType.count, to: base)
            (base + 3).copyMemory(from: start, byteCount: contentType.count)
        }
        if isText {
            base.storeBytes(
                of: EventProperties.Identifier.payloadFormat.rawValue, toByteOffset: typed, as: UInt8.self)
            base.storeBytes(of: 1, toByteOffset: typed + 1, as: UInt8.self)
            typed += 2
        }
        writeHeader(.messageID, idCount, to: base + typed)
        (base + typed + 3).copyMemory(from: eventID, byteCount: idCount)
        return Properties(bytes: base, count: typed + 3 + idCount, idCount: idCount)
    }

    private func writeHeader(
        _ identifier: EventProperties.Identifier, _ count: Int, to place: UnsafeMutableRawPointer
    ) {
        place.storeBytes(of: identifier.rawValue, as: UInt8.self)
        place.storeBytes(of: UInt8(truncatingIfNeeded: count >> 8), toByteOffset: 1, as: UInt8.self)
        place.storeBytes(of: UInt8(truncatingIfNeeded: count), toByteOffset: 2, as: UInt8.self)
    }

    /// Adds a direct event to the turn.
    func append(
        _ topic: UnsafeRawBufferPointer, _ body: UnsafeRawBufferPointer, _ properties: Properties, _ head: RequestHead,
        _ principal: Principal, _ turn: Turn
    ) {
        guard let base = topic.baseAddress else { return }
        let payload = body.baseAddress ?? base
        let event = turn.events + turn.eventCount
        event.pointee = EventView(payload: payload, payloadLength: body.count)
        var run = EventRun(
            topic: base, topicLength: topic.count, events: event, count: 1, wire: payload,
            wireLength: head.length + body.count, properties: properties.bytes, propertiesLength: properties.count,
            publisher: .none, layout: .none, qos: 0, isRetained: false)
        run.extensionLength = UInt16(truncatingIfNeeded: properties.idCount + 3)
        turn.runs[turn.runCount] = run
        turn.runCount += 1
        turn.eventCount += 1
        turn.principal = principal
        published.append(
            Published(
                id: UnsafeRawPointer(properties.bytes) + properties.count - properties.idCount,
                idCount: properties.idCount))
    }

    /// Answers one publish.
    func answer(
        _ outcome: PublishOutcome, _ number: Int, _ connection: HTTPConversation, _ principal: Principal?
    ) {
        guard let principal, number < published.count else { return connection.respond(Problem(500, "Lost.")) }
        switch outcome.verdict {
        case .routed: answer(published[number], matched: Int(outcome.matched), connection)
        case .notAuthorized:
            connection.respond(.forbidden("Publishing to this topic is not allowed.", principal, context))
        case .quotaExceeded: connection.respond(.later(429, "More events a second than this node takes.", seconds: 1))
        case .payloadTooLarge: connection.respond(.payloadTooLarge)
        case .malformedTopic: connection.respond(Problem(400, "The path is no topic."))
        }
    }

    private func answer(_ published: Published, matched: Int, _ connection: HTTPConversation) {
        withUnsafeTemporaryAllocation(byteCount: 64 + published.idCount, alignment: 8) { room in
            guard let base = room.baseAddress else { return }
            var place = base
            func add(_ text: StaticString) {
                place.copyMemory(from: text.utf8Start, byteCount: text.utf8CodeUnitCount)
                place += text.utf8CodeUnitCount
            }
            add("{\"id\":\"")
            place.copyMemory(from: published.id, byteCount: published.idCount)
            place += published.idCount
            add("\",\"matched\":")
            place += Decimal.write(UInt64(max(matched, 0)), to: place)
            add("}")
            let body = UnsafeRawBufferPointer(start: base, count: place - base)
            connection.respond(
                status: 202, lines: "Content-Type: application/json\r\n", body: RawSpan(_unsafeBytes: body))
        }
    }
}
