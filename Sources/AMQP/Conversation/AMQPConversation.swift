import Core

/// One AMQP connection: the state machine between its bytes and the router. Sans-IO; confined to its lane.
///
/// This file has the states, the framing and the engine's events; `+Open` leads to an open connection, `+Links` answers
/// sessions and links, `+Publish` takes deliveries, `+Claims` is the node at `$cbs`.
final class AMQPConversation: Conversation {
    enum State {
        /// Nothing but a protocol header is allowed.
        case awaitingHeader
        /// The header of SASL has been answered; sasl-init is to come.
        case awaitingInit
        /// A challenge has been sent; the client's next message is to come.
        case awaitingResponse
        /// Credentials are being checked.
        case authenticating(isSASL: Bool)
        /// SASL is over; the header of AMQP is to come.
        case awaitingSecondHeader
        /// The engine works; open is to come.
        case awaitingOpen
        /// The connection is on its way to its container's lane.
        case moving
        case established
        /// close has been sent, or the connection is gone.
        case ended
    }

    let context: AMQPContext
    /// The connection outlives the conversation it carries.
    unowned(unsafe) let link: Link
    var state = State.awaitingHeader
    /// Made when the header of AMQP has come.
    var engine: Engine?
    var identity: Identity?
    /// The exchange of SASL under way, and what the client has said in it.
    var exchange: (any AuthenticationExchange)?
    var exchangeMessages = 0
    /// When the proof of who the client is ends; `max` for never.
    var proofEndsAt = UInt64.max
    /// Set while established.
    var principal: Principal?
    /// What the adapter keeps for the lane; set while established.
    unowned(unsafe) var laneState: AMQPLane?
    /// What the router knows of the connection: the publisher of its events.
    var port: ConnectionPort?
    let connectDeadline: UInt64
    /// What it offers is known when the client asks for it: a transport may prove who the client is before.
    var sasl = SASLServer(mechanisms: [])
    let scanner: FrameScanner
    var guardian: FrameGuard
    /// What was judged of the frame behind those that the engine has been given.
    private var judged: FrameGuard.Verdict?
    /// An event that waits until the turn has been routed.
    private var heldEvent: EngineEvent?
    /// The deliveries of the turn's guaranteed events, by their place in it.
    var turnDeliveries: [Engine.Delivery?] = []
    /// Links of the turn's runs.
    var turnLinks: [IncomingLink] = []
    /// The link of the turn's last run.
    var lastLink: ObjectIdentifier?
    /// Guaranteed runs whose receipts have not all come, by token.
    var unsettled: [UInt32: UnsettledRun] = [:]
    /// The links that are attached, in both directions.
    var incomingLinks: [Engine.Link: IncomingLink] = [:]
    var outgoingLinks: [Engine.Link: OutgoingLink] = [:]
    /// Those of them that belong to a session.
    var sessionLinks: [Engine.Session: Set<Engine.Link>] = [:]
    /// Those of them that come from `$cbs`.
    var claimsLinks: [OutgoingLink] = []
    /// Bytes of messages that have not arrived completely.
    var partialBytes = 0
    /// Links that go on when there is room.
    private var blocked: [OutgoingLink] = []

    /// Links that give up their credit when the engine has sent everything.
    private var giving: [Engine.Link: OutgoingLink] = [:]

    /// Bytes at the beginning of the next call that have been taken already.
    private var heldBytes = 0

    /// Bytes of frames that the engine is given before its events are looked at.
    private static let batchBytes = 1 << 16
    /// Work that these frames may mean, as the lane measures it.
    private static let batchWork = 8_192
    /// Bytes of messages that the engine may hold before they are produced in the middle of a pass.
    static let engineBytes = 1 << 16

    init(context: AMQPContext, link: Link, on lane: Lane) {
        self.context = context
        self.link = link
        connectDeadline = lane.now + UInt64(lane.limits.connectTimeoutSeconds) * 1_000
        scanner = FrameScanner(maxFrameBytes: lane.limits.maxAMQPFrameBytes)
        guardian = FrameGuard(
            channelMax: lane.limits.maxAMQPSessions - 1, handleMax: lane.limits.maxAMQPLinks - 1)
        super.init()
        link.tick(at: connectDeadline)
    }

    override var provenIdentity: Identity? { principal?.identity }
    override var label: String { principal?.clientID ?? engine?.remoteOpen.containerID ?? "" }

    // MARK: Bytes in

    override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        let start = heldBytes
        heldBytes = 0
        var offset = start
        while true {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[offset...])
            let step: Step
            switch state {
            case .awaitingHeader, .awaitingSecondHeader: step = takeHeader(rest, on: lane)
            case .awaitingInit, .awaitingResponse: step = takeSASL(rest, on: lane)
            case .authenticating, .moving: return Progress(consumed: offset, verdict: .paused)
            case .awaitingOpen, .established: step = takeFrames(rest, turn, lane, mayYield: offset > start)
            case .ended: return Progress(consumed: bytes.count, verdict: .waiting)
            }
            offset += step.consumed
            guard let verdict = step.verdict else { continue }
            // Were all bytes taken, the connection would have none to come back with.
            if offset > 0, offset == bytes.count, holdsSomething(verdict) { heldBytes = 1 }
            return Progress(consumed: offset - heldBytes, verdict: verdict)
        }
    }

    /// Whether something that has been read waits for the next call.
    private func holdsSomething(_ verdict: Verdict) -> Bool {
        verdict == .routeFirst || verdict == .paused && (heldEvent != nil || judged != nil)
    }

    /// What became of some bytes; without a verdict the next ones are looked at.
    struct Step {
        var consumed: Int
        var verdict: Verdict?
    }

    /// Judges frames, gives the engine those that it may have, and sees what came of them.
    /// - Parameter mayYield: whether others may have their turn first; not before something has been taken.
    private func takeFrames(
        _ bytes: UnsafeRawBufferPointer, _ turn: Turn, _ lane: Lane, mayYield: Bool
    ) -> Step {
        guard let engine else { return Step(consumed: 0, verdict: .close(.protocolError)) }
        turn.principal = principal
        if let verdict = takeEvents(engine, turn, lane) { return Step(consumed: 0, verdict: verdict) }
        if let judged {
            // What came before it is routed first: what refers to it may be gone afterwards.
            guard turn.isEmpty else { return Step(consumed: 0, verdict: .routeFirst) }
            self.judged = nil
            if let verdict = act(on: judged, engine, lane) { return Step(consumed: 0, verdict: verdict) }
        }
        if mayYield, !bytes.isEmpty, lane.isMatchingCostly { return Step(consumed: 0, verdict: .routeFirst) }
        var end = 0
        var skipped = 0
        var work = 0
        var isIncomplete = false
        guardian.flowCount = engine.flowCount
        scan: while end < Self.batchBytes, work < Self.batchWork, judged == nil {
            switch scanner.scan(UnsafeRawBufferPointer(rebasing: bytes[end...])) {
            case .incomplete:
                isIncomplete = true
                break scan
            case .failure(let error): judged = .close(error)
            case .frame(let frame):
                if frame.performative != .transfer {
                    lane.counters.packetsIn &+= 1
                    work += Self.work(frame.performative)
                }
                let verdict = guardian.admit(frame)
                guard case .pass = verdict else {
                    judged = verdict
                    skipped = frame.length
                    break
                }
                end += frame.length
                // What comes after open is for the container's lane.
                if frame.performative == .open { break scan }
            }
        }
        lane.note(work: work)
        if end > 0 {
            engine.take(UnsafeRawBufferPointer(rebasing: bytes[..<end]))
            touch()
        }
        let isDone = end + skipped == 0 && isIncomplete
        return Step(consumed: end + skipped, verdict: isDone ? .waiting : nil)
    }

    /// What a frame means at most, other than a transfer.
    private static func work(_ performative: Frame.Performative?) -> Int {
        switch performative {
        case .attach, .detach, .begin, .end: 128
        default: 8
        }
    }

    /// What a frame deserves that the engine was not given.
    private func act(on verdict: FrameGuard.Verdict, _ engine: Engine, _ lane: Lane) -> Verdict? {
        switch verdict {
        case .pass, .discard: return nil
        case .end(let channel, let error):
            lane.counters.framesRefused &+= 1
            guard let session = guardian.session(on: channel) else { return fail(error, .protocolError, on: lane) }
            endSession(session, error, on: lane)
            guardian.endedByUs(channel: channel)
            return nil
        case .close(let error): return fail(error, .malformedPacket, on: lane)
        }
    }

    /// Closes the connection with an error; the client is told if it can be.
    func fail(_ error: AMQPError, _ reason: CloseReason, on lane: Lane) -> Verdict {
        closeEngine(error)
        state = .ended
        leave(on: lane)
        link.finish(reason)
        return .waiting
    }

    override func routed(_ turn: Turn, on lane: Lane) { settle(turn, on: lane) }

    // MARK: Events

    /// Sees what the engine has to say.
    /// - Returns: a verdict when the turn must be routed, or the connection pauses or ends.
    private func takeEvents(_ engine: Engine, _ turn: Turn, _ lane: Lane) -> Verdict? {
        while true {
            guard let event = heldEvent ?? engine.nextEvent() else { return nil }
            if heldEvent != nil { heldEvent = nil }
            switch event {
            case .delivery(let delivery, let handle):
                guard let context = engine.context(handle) else {
                    discard(delivery, handle, engine, lane)
                    continue
                }
                let isTaken = Unmanaged<LinkEnd>.fromOpaque(context)._withUnsafeGuaranteedRef { end in
                    if end.isIncoming {
                        let incoming = unsafeDowncast(end, to: IncomingLink.self)
                        return takeDelivery(delivery, incoming, engine, turn, lane)
                    }
                    unsafeDowncast(end, to: OutgoingLink.self).settled(delivery, on: lane)
                    return true
                }
                if isTaken { continue }
                heldEvent = event
                return .routeFirst
            case .flow(let handle): outgoingLinks[handle]?.flow(on: lane)
            default:
                // The turn may refer to what now changes.
                guard turn.isEmpty else {
                    heldEvent = event
                    return .routeFirst
                }
                if let verdict = handle(event, engine, lane) { return verdict }
            }
        }
    }

    /// A delivery on a link that was refused, or whose session this end has ended: the client may not know yet, and the
    /// engine would keep it.
    private func discard(_ delivery: Engine.Delivery, _ handle: Engine.Link, _ engine: Engine, _ lane: Lane) {
        guard engine.isIncoming(handle) else { return }
        lane.counters.framesRefused &+= 1
        engine.settle(delivery, nil)
    }

    private func handle(_ event: EngineEvent, _ engine: Engine, _ lane: Lane) -> Verdict? {
        switch event {
        case .opened: return opened(engine, on: lane)
        case .closed:
            engine.close(nil)
            engine.produce(into: link)
            state = .ended
            leave(on: lane)
            link.finish(.clientDisconnected)
            return .waiting
        case .begun(let session):
            guardian.begun(session)
            engine.begin(session)
        case .ended(let session, _): sessionEnded(session, engine, on: lane)
        case .attached(let handle):
            let most = mostLinks(lane)
            guard guardian.linkCount <= most else {
                return fail(
                    AMQPError(.resourceLimitExceeded, "a connection may have \(most) links"), .overLimit, on: lane)
            }
            attached(handle, engine, on: lane)
        case .detached(let handle, let isClosing, _): detached(handle, isClosing: isClosing, engine, on: lane)
        case .failed(let error):
            let isSilent = error.condition == .resourceLimitExceeded
            return fail(error, isSilent ? .keepAliveTimeout : .protocolError, on: lane)
        case .delivery, .flow: break
        }
        return nil
    }

    // MARK: Bytes out

    /// The engine has something to say: it is asked at the end of the pass.
    func touch() { _ = link.reserve(1) }

    /// A link is gone.
    func forgetWaiting(_ outgoing: OutgoingLink) { giving[outgoing.handle] = nil }

    override func produce(on lane: Lane) {
        guard let engine else { return }
        if case .ended = state { return }
        engine.produce(into: link)
        // Nothing goes on while the peer's session window is shut, either: its flow brings the connection here again.
        while !blocked.isEmpty, !link.isCongested, engine.bufferedBytes < Self.engineBytes {
            let turn = blocked
            blocked = []
            for outgoing in turn { outgoing.unblocked(on: lane) }
            engine.produce(into: link)
        }
        if !giving.isEmpty, engine.bufferedBytes == 0 {
            let turn = giving
            giving = [:]
            for outgoing in turn.values { outgoing.giveUpDrained() }
            engine.produce(into: link)
        }
        if guardian.hasEchoes { answerEchoes(engine) }
    }

    /// Tells a peer that asks for it our flow state (§2.7.4): once in a pass for each session and link, whatever it
    /// has asked.
    private func answerEchoes(_ engine: Engine) {
        for var request in guardian.takeEchoes() {
            if let handle = request.link?.engine {
                request.link?.available = outgoingLinks[handle]?.subscriber.map { UInt32(clamping: $0.waitingCount) }
            }
            engine.answer(request, into: link)
        }
    }

    override func outputDrained(on lane: Lane) { touch() }

    /// A link that is drained has sent everything, but the engine has not.
    func waitToGiveUp(_ outgoing: OutgoingLink) { giving[outgoing.handle] = outgoing }

    /// A link has something to send and credit for it, but neither the engine nor the connection has room.
    func wait(_ outgoing: OutgoingLink) {
        blocked.append(outgoing)
        touch()
    }

    // MARK: Time and the end

    /// Both idle time-outs are known: from here on the engine says when it wants to be called.
    func startTicking(_ engine: Engine, on lane: Lane) {
        if let next = earlier(engine.tick(now: lane.now)) { link.tick(at: next) }
    }

    /// The connection has one timer: for the engine, and for the end of the proof.
    private func earlier(_ next: UInt64?) -> UInt64? {
        let next = min(next ?? .max, proofEndsAt)
        return next == .max ? nil : next
    }

    override func tick(on lane: Lane) -> Result<UInt64?, CloseReason> {
        guard case .established = state, let engine else {
            return lane.now >= connectDeadline ? .failure(.connectTimeout) : .success(connectDeadline)
        }
        guard lane.now < proofEndsAt else {
            principal?.proofHasEnded()
            _ = fail(.proofEnded, .proofEnded, on: lane)
            return .success(nil)
        }
        let next = earlier(engine.tick(now: lane.now))
        touch()
        // While events wait for their turn the peer is not silent, and the turn is not ours to fill.
        guard heldEvent == nil else { return .success(next) }
        // The engine may have given up its peer: then the connection's last moments have a time of their own.
        _ = takeEvents(engine, lane.turn, lane)
        if case .ended = state { return .success(nil) }
        return .success(next)
    }

    override func close(_ reason: CloseReason, on lane: Lane) {
        if case .ended = state { return }
        closeEngine(reason.error)
        state = .ended
        leave(on: lane)
    }

    /// Sends close, behind an open if that has not been sent (§2.4.1): nobody understands it otherwise.
    private func closeEngine(_ error: AMQPError?) {
        guard let engine else { return }
        // A connection that is ending takes what it has room for, and nothing behind it.
        touch()
        // An engine that has given up has its close frame ready.
        if !engine.isClosed {
            switch state {
            case .awaitingOpen, .moving:
                open(engine)
                engine.produce(into: link)
            default: break
            }
            engine.close(error)
        }
        engine.produce(into: link)
    }

    /// The connection no longer takes part: subscriptions end or wait, and what is unsettled stays so.
    func leave(on lane: Lane) {
        for outgoing in outgoingLinks.values { outgoing.detach(isClosing: false, on: lane) }
        for link in incomingLinks.values { link.release() }
        for link in outgoingLinks.values { link.release() }
        outgoingLinks = [:]
        incomingLinks = [:]
        sessionLinks = [:]
        claimsLinks = []
        unsettled = [:]
        blocked = []
        giving = [:]
        heldEvent = nil
        exchange = nil
        port?.end(on: lane)
        port = nil
    }
}

extension AMQPError {
    /// The token or certificate of the connection has ended.
    static var proofEnded: AMQPError { AMQPError(.unauthorizedAccess, "the token or certificate has ended") }
}

extension CloseReason {
    /// What the client is told.
    var error: AMQPError? {
        switch self {
        case .shutdown: AMQPError(.connectionForced, "the node is stopping")
        case .administrative: AMQPError(.connectionForced, "ended by an administrator")
        case .keepAliveTimeout: AMQPError(.resourceLimitExceeded, "nothing was heard for the idle time-out")
        case .connectTimeout: AMQPError(.resourceLimitExceeded, "no open in time")
        case .proofEnded: .proofEnded
        default: nil
        }
    }
}
