/// One login by SCRAM-SHA-256. Takes microseconds in all, so it happens on the lane.
import Core
import Synchronization

/// Confined to the lane of its connection.
final class SCRAMExchange: AuthenticationExchange {
    private enum Stage {
        case first
        case challenged(SCRAMServer)
        case ended
    }

    private let queue: CheckQueue
    private var who: Credentials
    private let address: String
    private let nonce: () throws(ScryptError) -> [UInt8]
    private var stage = Stage.first

    /// - Parameter nonce: our part; random unless a test brings one.
    init(
        _ queue: CheckQueue, _ who: Credentials,
        nonce: @escaping () throws(ScryptError) -> [UInt8] = { () throws(ScryptError) in
            try secureRandomBytes(SCRAMServer.nonceBytes)
        }
    ) {
        self.queue = queue
        self.who = who
        self.nonce = nonce
        address = PeerAddress.network(of: who.peer)
    }

    func respond(
        to message: [UInt8], reply: @escaping @Sendable (AuthenticationStep) -> Void
    ) -> AuthenticationStep? {
        let stage = self.stage
        // Whatever happens here, the same stage does not come again.
        self.stage = .ended
        do throws(SASLFailure) {
            switch stage {
            case .first: return try begin(message)
            case .challenged(let server): return try end(server, message)
            case .ended: return refuse("the exchange is over", word: "other-error")
            }
        } catch {
            return refuse("SCRAM: \(error.reason)", word: error.word)
        }
    }

    private func begin(_ message: [UInt8]) throws(SASLFailure) -> AuthenticationStep {
        let first = try SCRAMClientFirst(parsing: message)
        // A name of the connection's own (MQTT) must not be another one.
        if let name = who.user, !name.isEmpty, name != first.user {
            throw SASLFailure("it is about another user than the connection", word: "other-error")
        }
        who.user = first.user
        if let wanted = first.header.authorizationID, wanted != first.user {
            throw SASLFailure("the user wants to act as another one", word: "other-error")
        }
        do throws(ScryptError) {
            switch try queue.scramVerifier(for: first.user, address) {
            case .failure(let refusal):
                return .finished(queue.conclude(.refused(.tooManyFailures, refusal.reason), who), [])
            case .success(let verifier):
                let server = SCRAMServer(first, verifier, nonce: Base64.encode(try nonce(), .padded))
                stage = .challenged(server)
                return .challenge(Array(server.challenge.utf8))
            }
        } catch {
            return .finished(queue.conclude(.refused(.busy, "libcrypto: \(error)"), who), [])
        }
    }

    private func end(_ server: SCRAMServer, _ message: [UInt8]) throws(SASLFailure) -> AuthenticationStep {
        let signature = try server.signature(for: SCRAMClientFinal(parsing: message))
        let answer = queue.scramAnswer(server.first.user, server.verifier, isProven: signature != nil, who, address)
        let result = queue.conclude(answer, who)
        guard case .accepted = result, let signature else {
            return .finished(result, Array("e=invalid-proof".utf8))
        }
        return .finished(result, Array("v=\(signature)".utf8))
    }

    /// What no client in its right mind sends counts as a failure, too.
    private func refuse(_ reason: String, word: String) -> AuthenticationStep {
        .finished(queue.refuseImpossible(reason, who), Array("e=\(word)".utf8))
    }
}

extension CheckQueue {
    /// The verifier of a user, or a fake, or why nobody is served now.
    func scramVerifier(
        for name: String, _ address: String
    ) throws(ScryptError) -> Result<SCRAMVerifier, SASLFailure> {
        let now = now()
        let (reason, fakes, user) = state.withLock { state in
            (state.limits.reasonAgainst(name: name, address: address, now: now), state.fakes, state.scramUser(name))
        }
        // Made in any case, so that it takes the same time.
        let fake = try fakes.verifier(for: name)
        if let reason { return .failure(SASLFailure(reason)) }
        return .success(user?.scram ?? fake)
    }

    /// Whom the end of an exchange lets in.
    func scramAnswer(
        _ name: String, _ verifier: SCRAMVerifier, isProven: Bool, _ who: Credentials, _ address: String
    ) -> LoginAnswer {
        let (now, wall) = (now(), wall())
        return state.withLock { state in
            // Many exchanges may have begun before the first one failed: those that end beyond the limit are refused,
            // right or wrong.
            if let reason = state.limits.reasonAgainst(name: name, address: address, now: now) {
                return .refused(.tooManyFailures, reason)
            }
            // A reload may have changed the user meanwhile. A fake's proof cannot be made, nor does a user have it.
            guard isProven, let user = state.scramUser(name), user.scram == verifier else {
                state.limits.failed(name: name, address: address, now: now)
                return .wrongPassword
            }
            state.limits.succeeded(name: name, address: address)
            return .accept(user.name, user, who, wall: wall)
        }
    }
}

extension CheckQueue.State {
    /// The user who is called just so. To a dictionary a name in other bytes may be the same: then the salt, which
    /// would be another one for each of two fakes, would tell that somebody is there.
    fileprivate func scramUser(_ name: String) -> User? {
        users[name].flatMap { $0.name.utf8.elementsEqual(name.utf8) ? $0 : nil }
    }
}
