import Core

/// Enhanced authentication (MQTT 5 §4.12): who the client is comes out of an exchange of AUTH packets, before CONNACK
/// and, if the client wants, again later.
extension MQTTConversation {
    /// Whether the next packet is to answer a challenge, so that a connection that is not established is read.
    var isAwaitingAuth: Bool { authentication.map { $0.exchange != nil && !$0.isPending } ?? false }

    /// CONNECT has named a method (§4.12).
    func beginExchange(_ connect: ConnectPacket, on lane: Lane) -> Verdict {
        guard let method = connect.authenticationMethod.flatMap(SASLMechanism.init),
            let exchange = begin(method, connect.clientID)
        else { return refuse(.badUserNameOrPassword, .badAuthenticationMethod, .badAuthenticationMethod) }
        authentication = EnhancedAuthentication(method, exchange)
        return proceed(connect.authenticationData, on: lane)
    }

    private func begin(_ method: SASLMechanism, _ clientID: String) -> (any AuthenticationExchange)? {
        guard context.authenticator.mechanisms.contains(method) else { return nil }
        // A user name or password beside the method says nothing.
        return context.authenticator.begin(
            method, Credentials(link, "mqtt", clientID: clientID, user: nil, password: nil))
    }

    /// Takes AUTH (§3.15).
    func takeAuth(_ body: UnsafeRawBufferPointer, on lane: Lane) throws(MQTTFailure) -> Verdict {
        let packet = try AuthPacket(body)
        guard let authentication, packet.method == authentication.method.rawValue, !authentication.isPending else {
            throw .protocolError
        }
        guard packet.isRenewal else {
            guard authentication.exchange != nil else { throw .protocolError }
            return respond(to: packet.data ?? [], authentication, on: lane)
        }
        guard case .established = state, authentication.exchange == nil else { throw .protocolError }
        guard let exchange = begin(authentication.method, principal?.clientID ?? "") else {
            // DISCONNECT knows no reason of that name (§3.14.2.1).
            return leave(.notAuthorized, .badAuthenticationMethod, on: lane)
        }
        authentication.restart(exchange)
        return proceed(packet.data, on: lane)
    }

    /// An exchange begins with the client's message; if there is none yet it is asked for one (RFC 4422 §3).
    private func proceed(_ data: [UInt8]?, on lane: Lane) -> Verdict {
        guard let authentication else { return .close(.protocolError) }
        guard let data else { return challenge(nil, authentication, on: lane) }
        return respond(to: data, authentication, on: lane)
    }

    private func challenge(_ data: [UInt8]?, _ authentication: EnhancedAuthentication, on lane: Lane) -> Verdict {
        let method = authentication.method.rawValue
        guard PacketWriter.auth5(.continueAuthentication, method, data, client, to: link) else {
            return fail(.packetTooLarge, .packetTooLarge, on: lane)
        }
        return .waiting
    }

    private func respond(
        to message: [UInt8], _ authentication: EnhancedAuthentication, on lane: Lane
    ) -> Verdict {
        guard let exchange = authentication.exchange else { return .close(.protocolError) }
        authentication.messages += 1
        guard authentication.messages <= EnhancedAuthentication.maxMessages else {
            return fail(.protocolError, .protocolError, on: lane)
        }
        guard message.count <= EnhancedAuthentication.maxMessageBytes else {
            return fail(.packetTooLarge, .packetTooLarge, on: lane)
        }
        let reply = link.callback { (conversation: Conversation, step: AuthenticationStep, lane: Lane) in
            (conversation as? MQTTConversation)?.answered(step, on: lane)
        }
        guard let step = exchange.respond(to: message, reply: reply) else {
            authentication.isPending = true
            // With a session the client goes on as whoever it was (§4.12.1).
            if case .established = state { return .waiting }
            return .paused
        }
        return take(step, authentication, on: lane)
    }

    /// The answer that took its time.
    private func answered(_ step: AuthenticationStep, on lane: Lane) {
        guard let authentication, authentication.isPending else { return }
        authentication.isPending = false
        switch state {
        case .connecting: resume(after: take(step, authentication, on: lane))
        case .established: if case .close(let reason) = take(step, authentication, on: lane) { link.close(reason) }
        case .awaitingConnect, .ended: break
        }
    }

    private func take(
        _ step: AuthenticationStep, _ authentication: EnhancedAuthentication, on lane: Lane
    ) -> Verdict {
        switch step {
        case .challenge(let data): return challenge(data, authentication, on: lane)
        case .finished(let result, let data):
            authentication.exchange = nil
            if case .established = state { return renew(result, data, authentication, on: lane) }
            authentication.finalData = data
            return decide(result, on: lane)
        }
    }

    // MARK: Again

    /// The client has authenticated anew (§4.12.1): it may have other rights now, but must be the same.
    private func renew(
        _ result: AuthenticationResult, _ data: [UInt8], _ authentication: EnhancedAuthentication, on lane: Lane
    ) -> Verdict {
        switch result {
        case .accepted(let identity):
            guard let principal, let session, identity.user == principal.identity.user,
                identity.namespace == principal.identity.namespace
            else { return leave(.notAuthorized, .notAuthenticated, on: lane) }
            proofEndsAt = identity.end(from: lane.now)
            if !identity.hasSameRights(as: principal.identity) {
                let renewed = principal.renewed(identity)
                self.principal = renewed
                session.attach(link, principal: renewed)
            }
            startTicking(on: lane)
            let data = data.isEmpty ? nil : data
            guard PacketWriter.auth5(.success, authentication.method.rawValue, data, client, to: link) else {
                return leave(.packetTooLarge, .packetTooLarge, on: lane)
            }
            return .waiting
        case .refused(.badCredentials), .refused(.anonymousNotAllowed):
            return leave(.notAuthorized, .notAuthenticated, on: lane)
        case .refused(.busy): return leave(.serverBusy, .overLimit, on: lane)
        case .refused(.tooManyFailures): return leave(.connectionRateExceeded, .notAuthenticated, on: lane)
        }
    }

    /// Ends the connection in the midst of an exchange: by CONNACK, or by DISCONNECT when there has been one.
    private func fail(_ code: ReasonCode, _ reason: CloseReason, on lane: Lane) -> Verdict {
        if case .established = state { return leave(code, reason, on: lane) }
        return refuse(.badUserNameOrPassword, code, reason)
    }

    private func leave(_ code: ReasonCode, _ reason: CloseReason, on lane: Lane) -> Verdict {
        // The words are the same for a wrong proof and for one of another user.
        abandon(reason, code, text: code == .notAuthorized ? "this proof is not accepted" : nil, on: lane)
        return .close(reason)
    }
}

/// What is known of a client that named a method in CONNECT. Confined to the connection's lane.
final class EnhancedAuthentication {
    /// The same for as long as the connection lives (§4.12.1).
    let method: SASLMechanism
    /// The exchange under way.
    var exchange: (any AuthenticationExchange)?
    /// Whether the client's last message is being looked at.
    var isPending = false
    /// What the client has said in the exchange.
    var messages = 0
    /// What CONNACK is to carry.
    var finalData: [UInt8] = []

    /// What a client may say in an exchange: the mechanisms there are need two messages.
    static let maxMessages = 4
    /// Bytes of a message: the longest token, and what stands around it.
    static let maxMessageBytes = 20_480

    init(_ method: SASLMechanism, _ exchange: any AuthenticationExchange) {
        self.method = method
        self.exchange = exchange
    }

    /// Another exchange begins.
    func restart(_ exchange: any AuthenticationExchange) {
        self.exchange = exchange
        messages = 0
    }

    /// What CONNACK is to carry; nil for nothing.
    func takeFinalData() -> [UInt8]? {
        defer { finalData = [] }
        return finalData.isEmpty || finalData.count > UInt16.max ? nil : finalData
    }
}
