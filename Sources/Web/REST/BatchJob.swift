import Core

/// `POST /events`: many events in one body, a few at a time so that the lane's other clients are not kept waiting, and
/// one answer that says what became of each. Confined to its lane.
final class BatchJob: HTTPWaiter, ReceiptWaiter {
    /// Events that are published at once.
    private static let portion = 64
    /// Bytes of the body that are read at once, but for the event that goes beyond.
    private static let portionBytes = 64 << 10

    /// What became of an event.
    private enum Outcome {
        case accepted(id: [UInt8], matched: Int)
        case refused(Problem)
    }

    private let body: [UInt8]
    private let batch: Batch
    private let fallback: [UInt8]?
    private let qos: UInt8?
    private let principal: Principal
    private let state: WebLane
    private let ticket: IdempotencyTicket?
    private var connection: HTTPConversation?
    private var outcomes: [Outcome] = []
    /// Guaranteed events that other lanes have still to take.
    private var pending = 0

    /// - Parameters:
    ///   - fallback: the topic of a CloudEvent that names none.
    ///   - qos: delivery mode of all events; nil leaves it to each.
    init(
        _ body: UnsafeRawBufferPointer, _ batch: Batch, fallback: [UInt8]?, qos: UInt8?, _ ticket: IdempotencyTicket?,
        _ principal: Principal, _ state: WebLane, _ connection: HTTPConversation
    ) {
        self.body = Array(body)
        self.batch = batch
        self.fallback = fallback
        self.qos = qos
        self.ticket = ticket
        self.principal = principal
        self.state = state
        self.connection = connection
        outcomes.reserveCapacity(batch.items.count)
    }

    /// Whether the answer has been given.
    private(set) var isAnswered = false

    /// Publishes the next portion. A client that goes away before the last leaves the rest unpublished.
    func goOn(on lane: Lane) {
        let end = min(batch.items.count, outcomes.count + Self.portion)
        var bytes = 0
        body.withUnsafeBytes { body in
            while outcomes.count < end, bytes < Self.portionBytes {
                let item = batch.items[outcomes.count]
                bytes += item.count
                do throws(Problem) {
                    try publish(try batch.event(item, in: body, fallback: fallback), on: lane)
                } catch { outcomes.append(.refused(error)) }
            }
        }
        guard outcomes.count == batch.items.count else {
            let next = connection?.link.callback { (conversation: Conversation, _: Bool, lane: Lane) in
                ((conversation as? HTTPConversation)?.waiter as? BatchJob)?.goOn(on: lane)
            }
            next?(true)
            return
        }
        if pending == 0 { finish() }
    }

    private func publish(_ event: NewEvent, on lane: Lane) throws(Problem) {
        guard event.topic.withUnsafeBytes({ Topic.isValid($0, limits: lane.limits) }) else { throw WebSite.noTopic }
        var event = event
        if let qos { event.qos = qos }
        let (made, id) = state.makeEvent(event, on: lane)
        let port = made.qos > 0 ? PublisherPort.of(principal.router, state, on: lane) : nil
        if let port, !port.hasRoom() {
            throw .later(503, "Too many events are on their way to other lanes.", seconds: 1)
        }
        let outcome = principal.router.publish(made, as: principal, publisher: port?.address ?? .none, on: lane)
        state.traffic.received(1, bytes: made.cost, qos: made.qos)
        if let problem = WebSite.problem(outcome, principal, state.context) { throw problem }
        if let port {
            if port.expect(outcome, tag: outcomes.count, for: self) {
                pending += 1
            } else if outcome.refused > 0 {
                throw Self.refused(Int(outcome.refused))
            }
        }
        outcomes.append(.accepted(id: id, matched: Int(outcome.matched)))
    }

    func settled(_ tag: Int, refused: Int, on lane: Lane) {
        pending -= 1
        if refused > 0 {
            outcomes[tag] = .refused(Self.refused(refused))
        }
        if pending == 0, outcomes.count == batch.items.count { finish() }
    }

    private static func refused(_ count: Int) -> Problem {
        .later(503, "\(count) sessions could not take the event.", seconds: 1)
    }

    // MARK: The answer

    private func finish() {
        let response = response()
        ticket?.settle(response)
        isAnswered = true
        let waiting = connection
        connection = nil
        waiting?.respond(response)
    }

    private func response() -> HTTPResponse {
        var json = JSONWriter()
        var accepted = 0
        for outcome in outcomes { if case .accepted = outcome { accepted += 1 } }
        json.beginObject()
        json.key("accepted")
        json.number(accepted)
        json.key("refused")
        json.number(outcomes.count - accepted)
        json.key("items")
        json.beginArray()
        for outcome in outcomes {
            json.beginObject()
            switch outcome {
            case .accepted(let id, let matched):
                json.key("id")
                json.string(id)
                json.key("matched")
                json.number(matched)
            case .refused(let problem):
                json.key("status")
                json.number(problem.status)
                json.key("detail")
                json.string(problem.detail)
            }
            json.endObject()
        }
        json.endArray()
        json.endObject()
        return HTTPResponse(type: "application/json", body: json.bytes)
    }

    // MARK: HTTPWaiter

    func gone(on lane: Lane) {
        connection = nil
        guard let ticket, outcomes.count < batch.items.count else { return }
        guard !outcomes.isEmpty else { return ticket.abandon() }
        // What has been published must not be published again with the same key.
        let problem = Problem.later(503, "The connection ended before this event was published.", seconds: 1)
        while outcomes.count < batch.items.count { outcomes.append(.refused(problem)) }
        if pending == 0 { finish() }
    }

    func timedOut(on lane: Lane) -> Bool {
        gone(on: lane)
        return false
    }
}

extension WebSite {
    /// Publishes many events.
    /// - Parameter topic: where all CloudEvents go that do not say it themselves; nil takes `?topic=`.
    func publishBatch(
        _ head: RequestHead, _ body: UnsafeRawBufferPointer, _ principal: Principal, _ connection: HTTPConversation,
        _ lane: Lane, topic: UnsafeRawBufferPointer? = nil
    ) throws(Problem) -> RequestVerdict {
        try checkEncoding(head)
        guard let form = head.value("content-type").flatMap({ Batch.Form(contentType: $0) }) else {
            throw Problem(
                415,
                "Content-Type is application/x-ndjson, application/cloudevents+json or "
                    + "application/cloudevents-batch+json.")
        }
        let headers = try EventHeaders(head)
        guard headers.replyWaitMilliseconds == nil else { throw Problem(400, "A batch cannot wait for replies.") }
        let request = try HTTPRequest(head, body: UnsafeRawBufferPointer(start: nil, count: 0), link: connection.link)
        let fallback = topic.map { Array($0) } ?? request.query("topic").map { Array($0.utf8) }
        let batch = try Batch(body, form: form)
        let ticket: IdempotencyTicket?
        switch try claim(headers.idempotencyKey, head, body, principal, on: lane) {
        case .proceed(let claimed): ticket = claimed
        case .repeated(let response):
            connection.respond(response)
            return .answered
        }
        let job = BatchJob(
            body, batch, fallback: fallback, qos: headers.qos > 0 ? headers.qos : nil, ticket, principal,
            context.state(of: lane), connection)
        connection.waiter = job
        job.goOn(on: lane)
        return job.isAnswered ? .answered : .later
    }
}
