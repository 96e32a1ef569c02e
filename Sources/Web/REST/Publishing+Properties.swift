import Core

/// Publishes that say more of their event than its content type. Events are owned here, and published one by one.
extension WebSite {
    /// Publishes the body of a request with what the header fields say.
    func publishWithProperties(
        _ topic: UnsafeRawBufferPointer, _ head: RequestHead, _ body: UnsafeRawBufferPointer, _ principal: Principal,
        _ connection: HTTPConversation, _ turn: Turn, _ lane: Lane
    ) throws(Problem) -> RequestVerdict {
        try checkEncoding(head)
        try refuseLoop(head)
        let headers = try EventHeaders(head)
        if headers.mode == .batch { return try publishBatch(head, body, principal, connection, lane, topic: topic) }
        let ticket: IdempotencyTicket?
        switch try claim(headers.idempotencyKey, head, body, principal, on: lane) {
        case .proceed(let claimed): ticket = claimed
        case .repeated(let response):
            connection.respond(response)
            return .answered
        }
        do throws(Problem) {
            if let wait = headers.replyWaitMilliseconds {
                return try ask(topic, body, headers, wait, ticket, principal, connection, lane)
            }
            let event = try event(topic, body, headers)
            return try publish(event, ticket, principal, connection, lane)
        } catch {
            ticket?.abandon()
            throw error
        }
    }

    /// What becomes of a request that may have an idempotency key.
    enum Claim {
        case proceed(IdempotencyTicket?)
        case repeated(HTTPResponse)
    }

    /// Claims the idempotency key of a request, if it has one.
    func claim(
        _ key: [UInt8]?, _ head: RequestHead, _ body: UnsafeRawBufferPointer, _ principal: Principal, on lane: Lane
    ) throws(Problem) -> Claim {
        guard let key else { return .proceed(nil) }
        let verdict = try Idempotency.judge(
            key: key, method: head.method, target: head.target, body: body, principal, context.idempotency,
            now: lane.now)
        return switch verdict {
        case .proceed(let ticket): .proceed(ticket)
        case .repeated(let response): .repeated(response)
        }
    }

    /// What is compressed cannot be told from what is not once it is on its way.
    func checkEncoding(_ head: RequestHead) throws(Problem) {
        guard let encoding = head.value("content-encoding"), !encoding.isSame(as: "identity") else { return }
        throw Problem(415, "Content-Encoding: events have none; send the bytes that receivers are to get.")
    }

    /// A webhook that leads back here would publish for ever.
    private func refuseLoop(_ head: RequestHead) throws(Problem) {
        guard let hook = head.value("apus-webhook") else { return }
        let own = context.instance.utf8
        if hook.starts(with: own), hook.dropFirst(own.count).first == UInt8(ascii: "/") {
            throw Problem(508, "Apus-Webhook: this event comes from a webhook of this very node.")
        }
    }

    private func event(
        _ topic: UnsafeRawBufferPointer, _ body: UnsafeRawBufferPointer, _ headers: EventHeaders
    ) throws(Problem) -> NewEvent {
        var event: NewEvent
        if headers.mode == .structured {
            event = try CloudEvents.read(body, topic: Array(topic), list: headers.list)
        } else {
            event = NewEvent(properties: headers.list)
            event.topic = Array(topic)
            event.payload = Array(body)
            if headers.saysText, Topic.isUTF8(body) { event.properties.addTextFormat() }
        }
        event.qos = headers.qos
        event.isRetained = headers.isRetained
        event.ttlMilliseconds = headers.ttlMilliseconds
        return event
    }

    private func ask(
        _ topic: UnsafeRawBufferPointer, _ body: UnsafeRawBufferPointer, _ headers: EventHeaders, _ wait: Int,
        _ ticket: IdempotencyTicket?, _ principal: Principal, _ connection: HTTPConversation, _ lane: Lane
    ) throws(Problem) -> RequestVerdict {
        let event = try event(topic, body, headers)
        let request = event.payload.withUnsafeBytes { payload in
            Result { () throws(Problem) in
                try Replies.ask(
                    ReplyRequest(
                        topic: topic, payload: payload, properties: event.properties.writer, qos: event.qos,
                        isRetained: event.isRetained,
                        expiresAt: event.ttlMilliseconds.map { lane.now &+ $0 } ?? 0, waitMilliseconds: wait,
                        ticket: ticket),
                    principal, context.state(of: lane), connection, on: lane)
            }
        }
        return try request.get()
    }

    /// Publishes one event and answers, at once or when other lanes have taken it.
    private func publish(
        _ event: NewEvent, _ ticket: IdempotencyTicket?, _ principal: Principal, _ connection: HTTPConversation,
        _ lane: Lane
    ) throws(Problem) -> RequestVerdict {
        let state = context.state(of: lane)
        let (made, id) = state.makeEvent(event, on: lane)
        let port = made.qos > 0 ? PublisherPort.of(principal.router, state, on: lane) : nil
        if let port, !port.hasRoom() {
            throw .later(503, "Too many events are on their way to other lanes.", seconds: 1)
        }
        let outcome = principal.router.publish(
            made, as: principal, publisher: port?.address ?? .none, on: lane)
        state.traffic.received(1, bytes: made.cost, qos: made.qos)
        if let problem = Self.problem(outcome, principal, context) { throw problem }
        if let port {
            return StoredAnswer.answer(outcome, id: id, port, connection, ticket: ticket, on: lane)
        }
        let response = StoredAnswer.directResponse(id, matched: Int(outcome.matched))
        ticket?.settle(response)
        connection.respond(response)
        return .answered
    }

    /// What a publisher is told whose event was not routed.
    static func problem(_ outcome: PublishOutcome, _ principal: Principal, _ context: WebContext) -> Problem? {
        switch outcome.verdict {
        case .routed: nil
        case .notAuthorized: .forbidden("Publishing to this topic is not allowed.", principal, context)
        case .quotaExceeded: .later(429, "More events a second than this node takes.", seconds: 1)
        case .payloadTooLarge: .payloadTooLarge
        case .malformedTopic: noTopic
        }
    }

    /// A path or member that is no topic.
    static var noTopic: Problem {
        Problem(400, "This is no topic: levels of text between slashes, without the wildcards + and #.")
    }
}
