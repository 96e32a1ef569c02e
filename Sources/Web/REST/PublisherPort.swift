import Core

/// Who is told that guaranteed events have been taken everywhere. Confined to its lane.
protocol ReceiptWaiter: AnyObject {
    /// All targets of a run on all lanes have taken it, or refused it.
    /// - Parameters:
    ///   - tag: what was said to ``PublisherPort/expect(_:tag:for:)``.
    ///   - refused: how many events were refused, by sessions whose queues are full.
    func settled(_ tag: Int, refused: Int, on lane: Lane)
}

/// The publisher of guaranteed events from HTTP: its address stands in their runs, so that the receipts of other lanes
/// come here. One for each lane and namespace; it lives as long as the lane. Confined to the lane.
final class PublisherPort: Port {
    private struct Expected {
        var pending: Int
        var refused: Int
        var tag: Int
        var waiter: any ReceiptWaiter
    }

    private unowned let router: Router
    private var expected: [UInt32: Expected] = [:]
    private let capacity: Int

    private init(_ router: Router, on lane: Lane) {
        self.router = router
        capacity = max(1, lane.limits.maxOutstandingRequests / lane.lanes.count)
        super.init()
    }

    /// The lane's port in a namespace.
    static func of(_ router: Router, _ state: WebLane, on lane: Lane) -> PublisherPort {
        if let known = state.publisherPorts.first(where: { $0.router === router }) { return known }
        let made = PublisherPort(router, on: lane)
        router.register(made, on: lane)
        state.publisherPorts.append(made)
        return made
    }

    /// Runs whose receipts are under way.
    var count: Int { expected.count }

    /// Whether so many more runs may be published; to be asked before. If not the answer is 503: other lanes are slow.
    func hasRoom(for count: Int = 1) -> Bool { expected.count + count <= capacity }

    /// A guaranteed run has been published with this port's address; `waiter` is told when all is known of it. Not when
    /// nothing is pending: then the outcome says it all.
    /// - Parameter tag: tells the runs of one waiter apart.
    /// - Returns: whether there is something to wait for.
    func expect(_ outcome: PublishOutcome, tag: Int = 0, for waiter: any ReceiptWaiter) -> Bool {
        guard outcome.pending > 0 else { return false }
        expected[outcome.token] = Expected(
            pending: Int(outcome.pending), refused: Int(outcome.refused), tag: tag, waiter: waiter)
        return true
    }

    override func receiptArrived(token: UInt32, refused: Int, more: Int, on lane: Lane) {
        guard let place = expected.index(forKey: token) else { return }
        expected.values[place].pending += more - 1
        expected.values[place].refused += refused
        let known = expected.values[place]
        guard known.pending <= 0 else { return }
        expected.remove(at: place)
        known.waiter.settled(known.tag, refused: known.refused, on: lane)
    }
}

/// The answer to one guaranteed publish, given when every session has taken it.
final class StoredAnswer: ReceiptWaiter, HTTPWaiter {
    private var connection: HTTPConversation?
    private let id: [UInt8]
    private let matched: Int
    private let ticket: IdempotencyTicket?

    private init(_ id: [UInt8], matched: Int, _ connection: HTTPConversation, _ ticket: IdempotencyTicket?) {
        self.id = id
        self.matched = matched
        self.connection = connection
        self.ticket = ticket
    }

    /// Answers a guaranteed publish that was routed: now, or when the receipts of other lanes have come. Nobody waits
    /// for them longer than ``HTTPLimits/handlerSeconds``.
    /// - Parameter id: the event's name.
    /// - Returns: what to say of the request, unless its turn has been routed already.
    @discardableResult
    static func answer(
        _ outcome: PublishOutcome, id: [UInt8], _ port: PublisherPort, _ connection: HTTPConversation,
        ticket: IdempotencyTicket? = nil, on lane: Lane
    ) -> RequestVerdict {
        let made = StoredAnswer(id, matched: Int(outcome.matched), connection, ticket)
        if port.expect(outcome, for: made) {
            connection.waiter = made
            return .later
        }
        made.settled(0, refused: Int(outcome.refused), on: lane)
        return .answered
    }

    func settled(_ tag: Int, refused: Int, on lane: Lane) {
        let response = Self.response(id, matched: matched, refused: refused)
        ticket?.settle(response)
        let waiting = connection
        connection = nil
        waiting?.respond(response)
    }

    func gone(on lane: Lane) { connection = nil }

    /// The client is told that nothing is known; the publish stands, and its key remembers the outcome.
    func timedOut(on lane: Lane) -> Bool {
        connection = nil
        return false
    }

    /// The answer to a direct publish.
    static func directResponse(_ id: [UInt8], matched: Int) -> HTTPResponse {
        var json = JSONWriter()
        json.beginObject()
        json.key("id")
        json.string(id)
        json.key("matched")
        json.number(matched)
        json.endObject()
        return HTTPResponse(status: 202, type: "application/json", body: json.bytes)
    }

    /// 202 with the event's name, how many subscriptions matched, and how many of their queues were full, if any.
    static func response(_ id: [UInt8], matched: Int, refused: Int) -> HTTPResponse {
        var json = JSONWriter()
        json.beginObject()
        json.key("id")
        json.string(id)
        json.key("matched")
        json.number(matched)
        if refused > 0 {
            json.key("refused")
            json.number(refused)
        }
        json.key("stored")
        json.string("memory")
        json.endObject()
        return HTTPResponse(status: 202, type: "application/json", body: json.bytes)
    }
}
