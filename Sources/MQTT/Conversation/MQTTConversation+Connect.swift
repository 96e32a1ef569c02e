import Core

/// From CONNECT to an established session: credentials, the client id's lane, the session.
extension MQTTConversation {
    /// Takes CONNECT and asks the authenticator (§3.1).
    func takeConnect(_ body: UnsafeRawBufferPointer, on lane: Lane) throws(MQTTFailure) -> Verdict {
        let level = try ConnectPacket.level(body)
        var connect: ConnectPacket
        do throws(MQTTFailure) {
            connect = try ConnectPacket(body, limits: lane.limits)
        } catch {
            return refuse(error, level: level)
        }
        version = connect.version
        if connect.clientID.isEmpty {
            guard connect.isClean || version == .v5 else {
                return refuse(.identifierRejected, .clientIdentifierNotValid, .badClientID)
            }
            connect.isClientIDAssigned = true
        }
        state = .connecting(connect)
        if connect.authenticationMethod != nil { return beginExchange(connect, on: lane) }
        // Who says nothing of itself is whom the request has let in that led here.
        if connect.user == nil, connect.password == nil, let identity = link.admitted {
            return decide(.accepted(identity), on: lane)
        }
        let credentials = Credentials(
            link, "mqtt", clientID: connect.clientID, user: connect.user, password: connect.password)
        let reply = link.callback { (conversation: Conversation, result: AuthenticationResult, lane: Lane) in
            (conversation as? MQTTConversation)?.authenticated(result, on: lane)
        }
        if let result = context.authenticator.authenticate(credentials, reply: reply) {
            return decide(result, on: lane)
        }
        return .paused
    }

    /// A CONNECT that cannot be taken, answered as far as its sender understands (MQTT 5 §4.13.1).
    private func refuse(_ failure: MQTTFailure, level: UInt8) -> Verdict {
        let reason = CloseReason(failure)
        if failure == .unsupportedVersion, level & 0x7F < 5 {
            PacketWriter.connack(.unacceptableProtocolVersion, sessionPresent: false, to: link)
        } else if failure == .unsupportedVersion {
            // Neither a reason string nor anything else that this version may not know.
            _ = PacketWriter.connack5(
                .unsupportedProtocolVersion, sessionPresent: false, PacketWriter.Properties(), client, to: link)
        } else if level == 5, let code = ReasonCode(reason) {
            refuse5(code)
        }
        return .close(reason)
    }

    func refuse5(_ code: ReasonCode) {
        var properties = PacketWriter.Properties()
        properties.add(.reasonString, text: code.text)
        if !PacketWriter.connack5(code, sessionPresent: false, properties, client, to: link) {
            _ = PacketWriter.connack5(code, sessionPresent: false, PacketWriter.Properties(), client, to: link)
        }
    }

    /// The answer that took its time.
    private func authenticated(_ result: AuthenticationResult, on lane: Lane) {
        resume(after: decide(result, on: lane))
    }

    func resume(after verdict: Verdict) {
        switch verdict {
        case .close(let reason): link.close(reason)
        case .paused: break
        case .waiting, .routeFirst: link.resume()
        }
    }

    func decide(_ result: AuthenticationResult, on lane: Lane) -> Verdict {
        guard case .connecting(let connect) = state else { return .close(.protocolError) }
        switch result {
        case .accepted(let identity):
            guard let router = context.routers[identity.namespace] else {
                return refuse(.serverUnavailable, .serverUnavailable, .notAuthenticated)
            }
            proofEndsAt = identity.end(from: lane.now)
            var named = connect
            if connect.isClientIDAssigned { named.clientID = context.makeClientID(in: router) }
            state = .connecting(named)
            let principal = Principal(identity: identity, clientID: named.clientID, router: router, link: link)
            (principal.peer, principal.protocolName) = (link.peer, "mqtt")
            principal.pacing = version == .v5 ? .direct : .all
            self.principal = principal
            hasJoined = false
            guard mayPublishWill(named, as: principal, on: lane) else {
                return refuse(.notAuthorized, .notAuthorized, .notAuthenticated)
            }
            return claim(named, on: lane)
        case .refused(.badCredentials):
            return refuse(.badUserNameOrPassword, .badUserNameOrPassword, .notAuthenticated)
        case .refused(.anonymousNotAllowed): return refuse(.notAuthorized, .notAuthorized, .notAuthenticated)
        case .refused(.busy): return refuse(.serverUnavailable, .serverBusy, .overLimit)
        case .refused(.tooManyFailures):
            return refuse(.serverUnavailable, .connectionRateExceeded, .notAuthenticated)
        }
    }

    /// A will that could not be published is refused at once (MQTT 5 §3.1.2.5); it is judged again when its time comes.
    private func mayPublishWill(_ connect: ConnectPacket, as principal: Principal, on lane: Lane) -> Bool {
        guard let will = connect.will else { return true }
        return will.topic.withUnsafeBytes {
            principal.router.mayPublish($0, isRetained: will.isRetained, as: principal, on: lane)
        }
    }

    /// In a mesh the session may be at another node: then it comes here first. Whoever starts clean does not wait for
    /// it to be thrown away there.
    private func claim(_ connect: ConnectPacket, on lane: Lane) -> Verdict {
        guard let principal, let mover = principal.router.mover else { return establish(connect, on: lane) }
        let isClean = connect.isClean || connect.isClientIDAssigned
        let claim = SessionClaim(
            clientID: connect.clientID, identity: principal.identity, isClean: isClean, maker: context)
        guard !isClean else {
            mover.claim(claim, on: lane, answer: nil)
            return establish(connect, on: lane)
        }
        let answer = link.callback { (conversation: Conversation, answer: SessionClaimAnswer, lane: Lane) in
            (conversation as? MQTTConversation)?.claimed(answer, on: lane)
        }
        mover.claim(claim, on: lane, answer: answer)
        return .paused
    }

    private func claimed(_ answer: SessionClaimAnswer, on lane: Lane) {
        guard case .connecting(let connect) = state else { return }
        switch answer {
        case .proceed: resume(after: establish(connect, on: lane))
        case .refused: resume(after: refuse(.notAuthorized, .notAuthorized, .notAuthenticated))
        case .lost: resume(after: refuse(.serverUnavailable, .serverUnavailable, .takenOver))
        }
    }

    func refuse(_ code: ConnectReturnCode, _ code5: ReasonCode, _ reason: CloseReason) -> Verdict {
        if version == .v5 {
            refuse5(code5)
        } else {
            PacketWriter.connack(code, sessionPresent: false, to: link)
        }
        return .close(reason)
    }

    /// Finds or makes the session. Sessions stay on their lane: a connection whose client id has a session elsewhere
    /// moves there, so that nothing on its way to the session is overtaken.
    private func establish(_ connect: ConnectPacket, on lane: Lane) -> Verdict {
        guard let principal else { return .close(.protocolError) }
        let router = principal.router
        while true {
            var former: Session?
            if let known = router.session(of: connect.clientID) {
                guard known.lane == lane.number else { return move(to: known.lane) }
                guard let old = lane.port(at: known) as? Session else {
                    return refuse(.serverUnavailable, .serverUnavailable, .overLimit)
                }
                guard old.principal.identity.user == principal.identity.user else {
                    return refuse(.notAuthorized, .notAuthorized, .notAuthenticated)
                }
                if !connect.isClean, old.outlivesConnection {
                    old.displace(on: lane)
                    return join(principal, on: lane) ?? begin(old, isPresent: true, connect, on: lane)
                }
                former = old
            }
            // A connection that is taken over does not count any more: then later.
            if former == nil, let refusal = join(principal, on: lane) { return refusal }
            let session = Session(expirySeconds: 0, principal: principal, traffic: context.state(of: lane).traffic)
            router.register(session, on: lane)
            let claim = router.claimSession(
                connect.clientID, for: session.address, after: former?.address, as: principal, on: lane)
            switch claim {
            case .held: return succeed(former, session, connect, on: lane)
            case .taken: router.unregister(session, on: lane)
            case .overLimit, .overQuota:
                router.unregister(session, on: lane)
                let reason: CloseReason = claim == .overQuota ? .overQuota : .overLimit
                return refuse(.serverUnavailable, .quotaExceeded, reason)
            }
        }
    }

    /// Begins a session that has the client id now; the one that had it, if any, ends (§3.1.2.4).
    private func succeed(
        _ former: Session?, _ session: Session, _ connect: ConnectPacket, on lane: Lane
    ) -> Verdict {
        if let former {
            let address = former.address
            former.displace(on: lane)
            // One without a future has ended with its connection.
            if lane.port(at: address) === former { context.discard(former, on: lane) }
        }
        if let refusal = join(session.principal, on: lane) {
            session.principal.router.releaseSession(connect.clientID, at: session.address)
            session.principal.router.unregister(session, on: lane)
            return refusal
        }
        return begin(session, isPresent: false, connect, on: lane)
    }

    /// Counts the connection for its user, once.
    /// - Returns: a refusal when the quotas do not allow it.
    private func join(_ principal: Principal, on lane: Lane) -> Verdict? {
        guard !hasJoined else { return nil }
        switch principal.join(link, on: lane) {
        case nil:
            hasJoined = true
            return nil
        case .connectionRate: return refuse(.serverUnavailable, .connectionRateExceeded, .overQuota)
        default: return refuse(.serverUnavailable, .quotaExceeded, .overQuota)
        }
    }

    private func move(to lane: Int) -> Verdict {
        link.move(to: lane) { conversation, lane in (conversation as? MQTTConversation)?.arrived(on: lane) }
        return .paused
    }

    private func arrived(on lane: Lane) {
        guard case .connecting(let connect) = state else { return }
        link.tick(at: connectDeadline)
        resume(after: establish(connect, on: lane))
    }

    private func begin(_ session: Session, isPresent: Bool, _ connect: ConnectPacket, on lane: Lane) -> Verdict {
        guard let principal else { return .close(.protocolError) }
        if isPresent { context.returned(session, on: lane) }
        context.traceIfWanted(self, principal.clientID, link)
        session.begin(self, link: link, principal: principal, connect)
        self.session = session
        let longest = UInt32(clamping: lane.limits.sessionExpirySeconds)
        session.expirySeconds = min(connect.sessionExpirySeconds ?? longest, longest)
        let keepAlive = keepAlive(connect, lane.limits)
        silenceMilliseconds = UInt32(keepAlive) * 1_500
        startTicking(on: lane)
        if version == .v5 {
            let properties = properties(connect, keepAlive: keepAlive, session, lane.limits)
            guard PacketWriter.connack5(.success, sessionPresent: isPresent, properties, client, to: link) else {
                return .close(.packetTooLarge)
            }
        } else {
            PacketWriter.connack(.accepted, sessionPresent: isPresent, to: link)
        }
        state = .established
        session.pump(on: lane)
        return .waiting
    }

    /// The keep-alive that holds: only a client of MQTT 5 can be told of another than its own (§3.2.2.3.14).
    private func keepAlive(_ connect: ConnectPacket, _ limits: Limits) -> UInt16 {
        let longest = UInt16(clamping: limits.maxKeepAliveSeconds)
        guard version == .v5, longest > 0 else { return connect.keepAliveSeconds }
        return connect.keepAliveSeconds == 0 ? longest : min(connect.keepAliveSeconds, longest)
    }

    /// What the node tells a client of MQTT 5 about itself (§3.2.2.3).
    private func properties(
        _ connect: ConnectPacket, keepAlive: UInt16, _ session: Session, _ limits: Limits
    ) -> PacketWriter.Properties {
        var properties = PacketWriter.Properties()
        if session.expirySeconds != connect.sessionExpirySeconds {
            properties.add(.sessionExpiry, uint32: session.expirySeconds)
        }
        properties.add(.receiveMaximum, uint16: UInt16(clamping: limits.maxUnsettled))
        properties.add(.maximumPacketSize, uint32: UInt32(clamping: limits.maxPacketBytes))
        if limits.maxTopicAliases > 0 {
            properties.add(.topicAliasMaximum, uint16: UInt16(clamping: limits.maxTopicAliases))
        }
        if connect.isClientIDAssigned { properties.add(.assignedClientIdentifier, text: connect.clientID) }
        if keepAlive != connect.keepAliveSeconds { properties.add(.serverKeepAlive, uint16: keepAlive) }
        // A part of the topic tree for this client's answers; whether it may use it is for the access rules to say.
        if connect.wantsResponseInformation, !connect.clientID.utf8.contains(where: { "/+#*>$".utf8.contains($0) }) {
            properties.add(.responseInformation, text: "replies/\(connect.clientID)")
        }
        if let authentication {
            properties.add(.authenticationMethod, text: authentication.method.rawValue)
            if let data = authentication.takeFinalData() { properties.add(.authenticationData, binary: data) }
        }
        return properties
    }
}
