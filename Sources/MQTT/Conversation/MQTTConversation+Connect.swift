import Core

/// From CONNECT to an established session: credentials, the client id's lane, the session.
extension MQTTConversation {
    /// Takes CONNECT and asks the authenticator (§3.1).
    func takeConnect(_ body: UnsafeRawBufferPointer, on lane: Lane) throws(MQTTFailure) -> Verdict {
        let level = try ConnectPacket.level(body)
        guard level == 3 || level == 4 else {
            if level == 5 {
                PacketWriter.connackUnsupportedV5(to: link)
            } else {
                PacketWriter.connack(.unacceptableProtocolVersion, sessionPresent: false, to: link)
            }
            return .close(.unsupportedVersion)
        }
        var connect = try ConnectPacket(body, limits: lane.limits)
        version = connect.version
        if connect.clientID.isEmpty {
            guard connect.isClean else {
                PacketWriter.connack(.identifierRejected, sessionPresent: false, to: link)
                return .close(.badClientID)
            }
            connect.clientID = context.makeClientID()
        }
        state = .connecting(connect)
        let credentials = Credentials(
            clientID: connect.clientID, user: connect.user, password: connect.password, isLocal: link.isLocal,
            peer: connect.user == nil ? "" : link.peer)
        let reply = link.callback { (conversation: Conversation, result: AuthenticationResult, lane: Lane) in
            (conversation as? MQTTConversation)?.authenticated(result, on: lane)
        }
        if let result = context.authenticator.authenticate(credentials, reply: reply) {
            return decide(result, on: lane)
        }
        return .paused
    }

    /// The answer that took its time.
    private func authenticated(_ result: AuthenticationResult, on lane: Lane) {
        resume(after: decide(result, on: lane))
    }

    private func resume(after verdict: Verdict) {
        switch verdict {
        case .close(let reason): link.close(reason)
        case .paused: break
        case .waiting, .routeFirst: link.resume()
        }
    }

    private func decide(_ result: AuthenticationResult, on lane: Lane) -> Verdict {
        guard case .connecting(let connect) = state else { return .close(.protocolError) }
        switch result {
        case .accepted(let identity):
            guard let router = context.routers[identity.namespace] else {
                return refuse(.serverUnavailable, .notAuthenticated)
            }
            principal = Principal(identity: identity, clientID: connect.clientID, router: router)
            return establish(connect, on: lane)
        case .refused(.badCredentials): return refuse(.badUserNameOrPassword, .notAuthenticated)
        case .refused(.anonymousNotAllowed): return refuse(.notAuthorized, .notAuthenticated)
        case .refused(.busy): return refuse(.serverUnavailable, .overLimit)
        }
    }

    private func refuse(_ code: ConnectReturnCode, _ reason: CloseReason) -> Verdict {
        PacketWriter.connack(code, sessionPresent: false, to: link)
        return .close(reason)
    }

    /// Finds or makes the session. Sessions stay on their lane: a connection whose client id has a session elsewhere
    /// moves there, so that nothing on its way to the session is overtaken.
    private func establish(_ connect: ConnectPacket, on lane: Lane) -> Verdict {
        guard let principal else { return .close(.protocolError) }
        while true {
            if let known = principal.router.session(of: connect.clientID) {
                guard known.lane == lane.number else { return move(to: known.lane) }
                guard let old = lane.port(at: known) as? Session else { return refuse(.serverUnavailable, .overLimit) }
                guard old.principal.identity.user == principal.identity.user else {
                    return refuse(.notAuthorized, .notAuthenticated)
                }
                old.displace(on: lane)
                // A session without a future ended with its connection.
                if let kept = lane.port(at: known) as? Session {
                    if !connect.isClean { return begin(kept, isPresent: true, connect, on: lane) }
                    context.discard(kept, on: lane)
                }
            }
            let session = Session(isClean: connect.isClean, principal: principal)
            principal.router.register(session, on: lane)
            switch principal.router.claimSession(connect.clientID, for: session.address) {
            case .held: return begin(session, isPresent: false, connect, on: lane)
            case .taken: principal.router.unregister(session, on: lane)
            case .overLimit:
                principal.router.unregister(session, on: lane)
                return refuse(.serverUnavailable, .overLimit)
            }
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
        if isPresent { principal.router.setPresence(session, true) }
        session.begin(self, link: link, principal: principal)
        self.session = session
        state = .established
        if let will = connect.will {
            self.will = will.topic.withUnsafeBytes { topic in
                will.payload.withUnsafeBytes { payload in
                    Event(
                        topic: topic, properties: UnsafeRawBufferPointer(start: nil, count: 0), payload: payload,
                        qos: will.qos, isRetained: will.isRetained)
                }
            }
        }
        silenceMilliseconds = UInt64(connect.keepAliveSeconds) * 1_500
        // Without a keep-alive the tick that was asked for at accept finds nothing to do.
        if silenceMilliseconds > 0 { link.tick(at: lane.now + silenceMilliseconds) }
        PacketWriter.connack(.accepted, sessionPresent: isPresent, to: link)
        session.pump(on: lane)
        return .waiting
    }
}
