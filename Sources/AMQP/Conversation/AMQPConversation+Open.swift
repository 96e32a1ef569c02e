import Core

/// From the first byte to an open connection: protocol headers, SASL, credentials, open, the container's lane.
extension AMQPConversation {
    private static let header: [UInt8] = Array("AMQP".utf8) + [0, 1, 0, 0]
    private static let saslHeader: [UInt8] = Array("AMQP".utf8) + [3, 1, 0, 0]

    /// The mechanisms that are offered: EXTERNAL where the transport has proven who the client is, and what carries a
    /// secret as it is where nobody can read along, or may.
    private var mechanisms: [SASLServer.Mechanism] {
        let isSafe = link.isLocal || link.isEncrypted || context.settings.allowsRemotePlain
        let exchanges = context.authenticator.mechanisms
        return SASLServer.Mechanism.allCases.filter { mechanism in
            switch mechanism {
            case .external: link.provenUser != nil
            case .scramSHA256: exchanges.contains(.scramSHA256)
            case .oauthBearer: isSafe && exchanges.contains(.oauthBearer)
            case .plain: isSafe
            case .anonymous: true
            }
        }
    }

    // MARK: Headers

    /// Takes a protocol header (§2.2), or answers with the one that would be right and closes.
    func takeHeader(_ bytes: UnsafeRawBufferPointer, on lane: Lane) -> Step {
        var isSecond = false
        if case .awaitingSecondHeader = state { isSecond = true }
        let known = bytes.prefix(8)
        let isPlain = known.elementsEqual(Self.header.prefix(known.count))
        let isSASL = !isSecond && known.elementsEqual(Self.saslHeader.prefix(known.count))
        guard isPlain || isSASL else {
            // What this node speaks (§2.2): a client that wants less is told, everybody else sees no protocol of his.
            Self.saslHeader.withUnsafeBytes { if let base = $0.baseAddress { link.append(base, $0.count) } }
            state = .ended
            link.finish(.unsupportedVersion)
            return Step(consumed: bytes.count, verdict: .waiting)
        }
        guard known.count == 8 else { return Step(consumed: 0, verdict: .waiting) }
        if isSASL {
            sasl = SASLServer(mechanisms: mechanisms)
            sasl.writeGreeting(to: link)
            state = .awaitingInit
            return Step(consumed: 8, verdict: nil)
        }
        if isSecond { return begin(bytes, on: lane) }
        guard context.settings.allowsNoSASL else {
            Self.saslHeader.withUnsafeBytes { if let base = $0.baseAddress { link.append(base, $0.count) } }
            state = .ended
            link.finish(.notAuthenticated)
            return Step(consumed: bytes.count, verdict: .waiting)
        }
        state = .authenticating(isSASL: false)
        // The header is left for the engine.
        return Step(consumed: 0, verdict: authenticate(user: nil, password: nil, on: lane))
    }

    /// The engine begins with the header.
    private func begin(_ bytes: UnsafeRawBufferPointer, on lane: Lane) -> Step {
        let made = Engine(
            EngineSettings(
                containerID: context.nodeName, maxFrameBytes: lane.limits.maxAMQPFrameBytes,
                channelMax: lane.limits.maxAMQPSessions - 1, handleMax: lane.limits.maxAMQPLinks - 1,
                idleMilliseconds: context.settings.idleMilliseconds))
        made.take(UnsafeRawBufferPointer(rebasing: bytes[..<8]))
        engine = made
        state = .awaitingOpen
        touch()
        return Step(consumed: 8, verdict: nil)
    }

    // MARK: SASL

    /// Takes sasl-init (§5.3.3.2), and sasl-response (§5.3.3.4) once a challenge has been sent.
    func takeSASL(_ bytes: UnsafeRawBufferPointer, on lane: Lane) -> Step {
        let frame: Frame
        // Nobody is known yet: what is kept until a frame is complete is less than later.
        let scanner = FrameScanner(maxFrameBytes: min(lane.limits.maxAMQPFrameBytes, SASLServer.maxFrameBytes))
        switch scanner.scan(bytes) {
        case .incomplete: return Step(consumed: 0, verdict: .waiting)
        case .failure: return refuse(.auth, .malformedPacket, bytes.count)
        case .frame(let found): frame = found
        }
        lane.counters.packetsIn &+= 1
        do throws(AMQPError) {
            if case .awaitingResponse = state {
                return Step(consumed: frame.length, verdict: respond(to: try sasl.takeResponse(frame), on: lane))
            }
            lane.counters.connects &+= 1
            return take(try sasl.take(frame), frame.length, bytes.count, on: lane)
        } catch {
            return refuse(
                .auth, error.condition == .unauthorizedAccess ? .badAuthenticationMethod : .malformedPacket,
                bytes.count)
        }
    }

    /// - Parameters:
    ///   - count: bytes of the frame.
    ///   - all: bytes there are.
    private func take(_ initial: SASLServer.Initial, _ count: Int, _ all: Int, on lane: Lane) -> Step {
        if let mechanism = initial.mechanism.exchange {
            return Step(consumed: count, verdict: begin(mechanism, initial.message, on: lane))
        }
        let isExternal = initial.mechanism == .external
        // Nobody may act for another one (RFC 4422 appendix A, RFC 4616 §2).
        let own = isExternal ? link.provenUser : initial.user
        guard initial.authorizationID == nil || initial.authorizationID == own else {
            return refuse(.auth, .notAuthenticated, all)
        }
        state = .authenticating(isSASL: true)
        return Step(
            consumed: count,
            verdict: authenticate(
                user: initial.user, password: initial.password, proven: isExternal ? link.provenUser : nil, on: lane))
    }

    private func refuse(_ code: SASLServer.Code, _ reason: CloseReason, _ consumed: Int) -> Step {
        Step(consumed: consumed, verdict: refuse(code, reason))
    }

    private func refuse(_ code: SASLServer.Code, _ reason: CloseReason, _ data: [UInt8] = []) -> Verdict {
        sasl.writeOutcome(code, data, to: link)
        exchange = nil
        state = .ended
        link.finish(reason)
        return .waiting
    }

    // MARK: Exchanges

    /// An exchange begins with the client's message; if there is none yet it is asked for one (RFC 4422 §3).
    private func begin(_ mechanism: SASLMechanism, _ message: [UInt8]?, on lane: Lane) -> Verdict? {
        let credentials = Credentials(link, "amqp", user: nil, password: nil)
        guard let made = context.authenticator.begin(mechanism, credentials) else {
            return refuse(.auth, .badAuthenticationMethod)
        }
        exchange = made
        guard let message else {
            challenge([])
            return nil
        }
        return respond(to: message, on: lane)
    }

    private func challenge(_ bytes: [UInt8]) {
        sasl.writeChallenge(bytes, to: link)
        state = .awaitingResponse
    }

    /// - Returns: nil to go on with the next bytes.
    private func respond(to message: [UInt8], on lane: Lane) -> Verdict? {
        exchangeMessages += 1
        guard let exchange, exchangeMessages <= SASLServer.maxMessages else { return refuse(.auth, .protocolError) }
        state = .authenticating(isSASL: true)
        let reply = link.callback { (conversation: Conversation, step: AuthenticationStep, lane: Lane) in
            guard let conversation = conversation as? AMQPConversation,
                case .authenticating(isSASL: true) = conversation.state
            else { return }
            if conversation.take(step, on: lane) == nil { conversation.link.resume() }
        }
        guard let step = exchange.respond(to: message, reply: reply) else { return .paused }
        return take(step, on: lane)
    }

    private func take(_ step: AuthenticationStep, on lane: Lane) -> Verdict? {
        switch step {
        case .challenge(let bytes):
            challenge(bytes)
            return nil
        case .finished(let result, let data):
            exchange = nil
            return decide(result, data, on: lane)
        }
    }

    // MARK: Credentials

    /// - Returns: nil to go on with the next bytes.
    private func authenticate(
        user: String?, password: [UInt8]?, proven: String? = nil, on lane: Lane
    ) -> Verdict? {
        // Who says nothing of itself is whom the request has let in that led here.
        if user == nil, password == nil, proven == nil, let identity = link.admitted {
            return decide(.accepted(identity), on: lane)
        }
        var credentials = Credentials(link, "amqp", user: user, password: password)
        credentials.provenUser = proven
        let reply = link.callback { (conversation: Conversation, result: AuthenticationResult, lane: Lane) in
            guard let conversation = conversation as? AMQPConversation else { return }
            if conversation.decide(result, on: lane) == nil { conversation.link.resume() }
        }
        guard let result = context.authenticator.authenticate(credentials, reply: reply) else { return .paused }
        return decide(result, on: lane)
    }

    /// - Parameter data: what the mechanism has to say to it.
    private func decide(_ result: AuthenticationResult, _ data: [UInt8] = [], on lane: Lane) -> Verdict? {
        guard case .authenticating(let isSASL) = state else { return nil }
        switch result {
        case .accepted(let identity) where context.routers[identity.namespace] != nil:
            self.identity = identity
            proofEndsAt = identity.end(from: lane.now)
            if isSASL { sasl.writeOutcome(.ok, data, to: link) }
            // Without SASL the header has not been taken yet.
            state = .awaitingSecondHeader
            return nil
        case .accepted, .refused(.badCredentials), .refused(.anonymousNotAllowed):
            return turnAway(.auth, .notAuthenticated, data, isSASL)
        case .refused(.busy): return turnAway(.sysTemporary, .overLimit, data, isSASL)
        case .refused(.tooManyFailures): return turnAway(.sysTemporary, .notAuthenticated, data, isSASL)
        }
    }

    private func turnAway(
        _ code: SASLServer.Code, _ reason: CloseReason, _ data: [UInt8], _ isSASL: Bool
    ) -> Verdict {
        if isSASL { return refuse(code, reason, data) }
        // A client that skipped SASL is told to use it (§2.2).
        Self.saslHeader.withUnsafeBytes { if let base = $0.baseAddress { link.append(base, $0.count) } }
        state = .ended
        link.finish(reason)
        return .waiting
    }

    // MARK: Open

    /// The shortest idle time-out that a client may ask for, in milliseconds: it is sent something twice in each
    /// (§2.4.5).
    static var leastIdleMilliseconds: Int { 100 }

    /// open has come: the connection goes to its container's lane.
    func opened(_ engine: Engine, on lane: Lane) -> Verdict? {
        guard case .awaitingOpen = state, let identity, let router = context.routers[identity.namespace] else {
            return nil
        }
        let remote = engine.remoteOpen
        guard remote.idleMilliseconds == 0 || remote.idleMilliseconds >= Self.leastIdleMilliseconds else {
            let text = "open.idle-time-out is \(remote.idleMilliseconds), and at least \(Self.leastIdleMilliseconds)"
            return fail(AMQPError(.notAllowed, text), .protocolError, on: lane)
        }
        let name = remote.containerID
        let home = context.lane(ofContainer: name, in: router, count: lane.lanes.count)
        guard home != lane.number else { return establish(name, identity, router, on: lane) }
        state = .moving
        link.move(to: home) { conversation, lane in
            guard let conversation = conversation as? AMQPConversation, case .moving = conversation.state else {
                return
            }
            conversation.link.tick(at: conversation.connectDeadline)
            if conversation.establish(name, identity, router, on: lane) == nil { conversation.link.resume() }
        }
        return .paused
    }

    private func establish(_ name: String, _ identity: Identity, _ router: Router, on lane: Lane) -> Verdict? {
        guard let engine else { return .close(.protocolError) }
        let principal = Principal(identity: identity, clientID: name, router: router, link: link)
        (principal.peer, principal.protocolName) = (link.peer, "amqp")
        if let resource = principal.join(link, on: lane) {
            let text = resource == .connectionRate ? "too many connections a second" : "too many connections"
            return fail(AMQPError(.resourceLimitExceeded, "\(text) of this user"), .overQuota, on: lane)
        }
        self.principal = principal
        laneState = context.state(of: lane)
        let port = ConnectionPort(self, principal)
        guard port.begin(on: lane) else {
            return fail(
                AMQPError(.resourceLimitExceeded, "there are as many clients as there may be"), .overLimit, on: lane)
        }
        self.port = port
        open(engine)
        state = .established
        startTicking(engine, on: lane)
        touch()
        return nil
    }

    /// Sends open.
    func open(_ engine: Engine) {
        engine.open(
            [("product", "Apus"), ("version", context.version)],
            offering: ["ANONYMOUS-RELAY", "SHARED-SUBS"])
    }
}
