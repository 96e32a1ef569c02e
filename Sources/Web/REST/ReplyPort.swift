import Core

/// Where the replies to a lane's requests arrive: subscribed once, by the node itself, to all reply topics of the lane.
/// One for each namespace that has asked; it lives as long as the lane. Confined to the lane.
final class ReplyPort: Port {
    private unowned let state: WebLane
    private let router: Router
    /// `apus/reply/<run>/<lane>/`
    private let prefix: [UInt8]
    private var waiting: [UInt64: PendingReply] = [:]
    /// Those whose client has gone, but may ask again. No connection's timer ends them.
    private var orphans: Set<UInt64> = []
    /// Requests that came while other nodes of the mesh learn where replies go: whoever answers there may be faster.
    private var early: [EarlyRequest] = []
    /// When those are published, in the lane's milliseconds.
    private let opensAt: UInt64

    /// A request that has not been published yet.
    private struct EarlyRequest {
        let event: Event
        let principal: Principal
        let token: UInt64
    }

    /// For how long the first requests of a lane wait on a node of a mesh: as long as a subscription may take to spread
    /// (`docs/decisions/0015`).
    private static let spreadMilliseconds: UInt64 = 100

    private init(_ router: Router, _ state: WebLane, on lane: Lane) {
        self.router = router
        self.state = state
        prefix = Array("\(Replies.topicPrefix)/\(state.context.instance)/\(lane.number)/".utf8)
        opensAt = router.meshAddress == .none ? lane.now : lane.now + Self.spreadMilliseconds
        super.init()
    }

    /// The lane's port in a namespace.
    /// - Throws: 503 when the namespace's limits leave no room for reply topics.
    static func of(_ router: Router, _ state: WebLane, on lane: Lane) throws(Problem) -> ReplyPort {
        if let known = state.replyPorts.first(where: { $0.router === router }) { return known }
        let made = ReplyPort(router, state, on: lane)
        guard let filter = try? TopicFilter(made.prefix + [UInt8(ascii: "+")], grammar: .mqtt, limits: router.limits)
        else { throw Problem(503, "The limits of topics leave no room for reply topics.") }
        router.register(made, on: lane)
        let subscription = Subscription(filter: filter, options: .qos(1))
        guard case .granted = router.subscribe(made, subscription, as: .node(router), on: lane) else {
            router.unregister(made, on: lane)
            throw Problem(503, "Reply topics cannot be subscribed to.")
        }
        state.replyPorts.append(made)
        lane.chores.append { [unowned made] lane in made.forgetOrphans(on: lane) }
        if made.opensAt > lane.now {
            let opening = Alarm { [unowned made] lane in made.publishEarly(on: lane) }
            opening.at = made.opensAt
            lane.alarms.append(opening)
        }
        return made
    }

    /// Requests without a reply yet.
    var count: Int { waiting.count }
    /// Those among them whose client has gone.
    var orphanCount: Int { orphans.count }

    // MARK: Asking

    func ask(
        _ request: ReplyRequest, _ principal: Principal, _ connection: HTTPConversation, on lane: Lane
    ) throws(Problem) -> RequestVerdict {
        let most = max(1, lane.limits.maxOutstandingRequests / lane.lanes.count)
        guard state.replyPorts.reduce(0, { $0 + $1.count }) < most else {
            throw .later(429, "\(most) requests wait for replies already.", seconds: 1)
        }
        let token = makeToken()
        let text = Array(String(token, radix: 36).utf8)
        let event = try request.event(replyTo: prefix + text, correlation: text, state)
        let pending = PendingReply(
            token, self, connection, until: lane.now + UInt64(request.waitMilliseconds), request.ticket)
        waiting[token] = pending
        connection.waiter = pending
        connection.setAnswerTime(milliseconds: request.waitMilliseconds, on: lane)
        // Whoever waits less than that is asked at once: better no reply than a request that is never published.
        guard lane.now >= opensAt || pending.until <= opensAt else {
            early.append(EarlyRequest(event: event, principal: principal, token: token))
            return .later
        }
        do throws(Problem) {
            pending.isPublished = true
            try publish(event, principal, on: lane)
        } catch {
            waiting[token] = nil
            pending.cancel()
            throw error
        }
        return .later
    }

    /// Publishes the requests that came early and that somebody still waits for.
    private func publishEarly(on lane: Lane) {
        let requests = early
        early = []
        for request in requests {
            guard let pending = waiting[request.token] else { continue }
            do throws(Problem) {
                pending.isPublished = true
                try publish(request.event, request.principal, on: lane)
            } catch {
                forget(request.token)
                pending.fail(error.response)
            }
        }
    }

    private func publish(_ event: Event, _ principal: Principal, on lane: Lane) throws(Problem) {
        let outcome = router.publish(event, as: principal, on: lane)
        state.traffic.received(1, bytes: event.payloadLength, qos: event.qos)
        try check(outcome, UnsafeRawBufferPointer(start: event.bytes, count: event.topicLength), principal)
    }

    private func check(
        _ outcome: PublishOutcome, _ topic: UnsafeRawBufferPointer, _ principal: Principal
    ) throws(Problem) {
        switch outcome.verdict {
        case .notAuthorized: throw .forbidden("Publishing to this topic is not allowed.", principal, state.context)
        case .quotaExceeded: throw .later(429, "More events a second than this node takes.", seconds: 1)
        case .payloadTooLarge: throw .payloadTooLarge
        case .malformedTopic: throw Problem(400, "The path is no topic.")
        case .routed: break
        }
        guard outcome.matched > 0 else { throw .later(503, "Nobody is subscribed to \(topic.text).", seconds: 1) }
    }

    private func makeToken() -> UInt64 {
        while true {
            let token = state.context.random()
            if waiting[token] == nil { return token }
        }
    }

    /// Nobody waits for the reply any more.
    func forget(_ token: UInt64) {
        waiting[token] = nil
        orphans.remove(token)
    }

    /// The client has gone, but the outcome is still wanted.
    func orphan(_ token: UInt64) { if waiting[token] != nil { orphans.insert(token) } }

    private func forgetOrphans(on lane: Lane) {
        for token in orphans {
            guard let pending = waiting[token], pending.until <= lane.now else { continue }
            _ = pending.timedOut(on: lane)
        }
    }

    // MARK: Replies

    /// Only the first event at a reply topic is the reply; everything else came too late, or twice.
    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        var late = run.pointee.count
        if let token = token(run.pointee.topicBytes), let pending = waiting[token] {
            forget(token)
            late -= 1
            let view = run.pointee.events[0]
            let payload = UnsafeRawBufferPointer(start: view.payload, count: Int(view.payloadLength))
            state.traffic.sent(1, bytes: payload.count, qos: run.pointee.qos)
            lane.counters.eventsOut &+= 1
            let properties = UnsafeRawBufferPointer(
                start: run.pointee.properties, count: run.pointee.propertiesLength)
            pending.answer(
                EventAnswer.response(payload, properties, expiresAt: run.pointee.expiresAt, now: lane.now))
        }
        if late > 0 { lane.counters.drop(.lateReply, late) }
        return 0
    }

    /// The token that a reply topic ends with; only the one way of writing it counts.
    private func token(_ topic: UnsafeRawBufferPointer) -> UInt64? {
        guard topic.count > prefix.count, topic.count <= prefix.count + 13 else { return nil }
        let digits = topic[prefix.count...]
        guard digits.first != UInt8(ascii: "0") || digits.count == 1 else { return nil }
        var token: UInt64 = 0
        for byte in digits {
            let digit: UInt8
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "z"): digit = byte - UInt8(ascii: "a") + 10
            default: return nil
            }
            let (product, isTooLarge) = token.multipliedReportingOverflow(by: 36)
            let (sum, isOver) = product.addingReportingOverflow(UInt64(digit))
            guard !isTooLarge, !isOver else { return nil }
            token = sum
        }
        return token
    }
}
