import Core

/// From the first byte to an open connection: protocol headers, SASL, credentials, open, the container's lane.
extension AMQPConversation {
    private static let header: [UInt8] = Array("AMQP".utf8) + [0, 1, 0, 0]
    private static let saslHeader: [UInt8] = Array("AMQP".utf8) + [3, 1, 0, 0]

    /// The mechanisms that are offered: EXTERNAL where the transport has proven who the client is.
    static func mechanisms(_ settings: AMQPSettings, _ link: Link) -> [SASLServer.Mechanism] {
        let others: [SASLServer.Mechanism] =
            link.isLocal || settings.allowsRemotePlain ? [.plain, .anonymous] : [.anonymous]
        return link.provenUser == nil ? others : [.external] + others
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

    /// Takes sasl-init (§5.3.3.2).
    func takeSASL(_ bytes: UnsafeRawBufferPointer, on lane: Lane) -> Step {
        let frame: Frame
        switch scanner.scan(bytes) {
        case .incomplete: return Step(consumed: 0, verdict: .waiting)
        case .failure: return refuse(.auth, .malformedPacket, bytes.count)
        case .frame(let found): frame = found
        }
        lane.counters.packetsIn &+= 1
        lane.counters.connects &+= 1
        let initial: SASLServer.Initial
        do throws(AMQPError) {
            initial = try sasl.take(frame)
        } catch {
            return refuse(
                .auth, error.condition == .unauthorizedAccess ? .badAuthenticationMethod : .malformedPacket,
                bytes.count)
        }
        let isExternal = initial.mechanism == .external
        // Nobody may act for another one (RFC 4422 appendix A).
        guard !isExternal || initial.authorizationID == nil || initial.authorizationID == link.provenUser else {
            return refuse(.auth, .notAuthenticated, bytes.count)
        }
        state = .authenticating(isSASL: true)
        return Step(
            consumed: frame.length,
            verdict: authenticate(
                user: initial.user, password: initial.password, proven: isExternal ? link.provenUser : nil, on: lane))
    }

    private func refuse(_ code: SASLServer.Code, _ reason: CloseReason, _ consumed: Int) -> Step {
        Step(consumed: consumed, verdict: refuse(code, reason))
    }

    private func refuse(_ code: SASLServer.Code, _ reason: CloseReason) -> Verdict {
        sasl.writeOutcome(code, to: link)
        state = .ended
        link.finish(reason)
        return .waiting
    }

    // MARK: Credentials

    /// - Returns: nil to go on with the next bytes.
    private func authenticate(
        user: String?, password: [UInt8]?, proven: String? = nil, on lane: Lane
    ) -> Verdict? {
        var credentials = Credentials(link, "amqp", user: user, password: password)
        credentials.provenUser = proven
        let reply = link.callback { (conversation: Conversation, result: AuthenticationResult, lane: Lane) in
            guard let conversation = conversation as? AMQPConversation else { return }
            if conversation.decide(result, on: lane) == nil { conversation.link.resume() }
        }
        guard let result = context.authenticator.authenticate(credentials, reply: reply) else { return .paused }
        return decide(result, on: lane)
    }

    private func decide(_ result: AuthenticationResult, on lane: Lane) -> Verdict? {
        guard case .authenticating(let isSASL) = state else { return nil }
        switch result {
        case .accepted(let identity) where context.routers[identity.namespace] != nil:
            self.identity = identity
            if isSASL { sasl.writeOutcome(.ok, to: link) }
            // Without SASL the header has not been taken yet.
            state = .awaitingSecondHeader
            return nil
        case .accepted, .refused(.badCredentials), .refused(.anonymousNotAllowed):
            return turnAway(.auth, .notAuthenticated, isSASL)
        case .refused(.busy): return turnAway(.sysTemporary, .overLimit, isSASL)
        case .refused(.tooManyFailures): return turnAway(.sysTemporary, .notAuthenticated, isSASL)
        }
    }

    private func turnAway(_ code: SASLServer.Code, _ reason: CloseReason, _ isSASL: Bool) -> Verdict {
        if isSASL { return refuse(code, reason) }
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
        if let resource = principal.join(link, "amqp", on: lane) {
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
