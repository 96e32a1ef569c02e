/// Finds out who a client is: by a password, by SCRAM, by a token, by a certificate, or by nothing.
///
/// Threading: `authenticate` is called on lanes and does nothing there that takes long. What is known at once
/// (anonymous clients, certificates, credentials verified before) is answered at once; the rest waits in a bounded
/// queue for the threads that hash passwords and verify tokens, which answer by the reply. One lock guards all state
/// and is never held while checking or replying.
public import Core
import Synchronization

/// ``Core/Authenticator`` of a node.
public final class NodeAuthenticator: Authenticator, Sendable {
    /// No password that fits these bounds can be refused for its size; a longer one would let 10,000 waiting clients
    /// hold hundreds of megabytes.
    public static let maxPasswordBytes = 1_024

    /// What tokens need besides; there only since somebody's tokens are taken.
    private struct TokenThreads: Sendable {
        var worker: WorkerThread
        var fetcher: KeyFetcher
    }

    private let queue: CheckQueue
    private let threads: [WorkerThread]
    private let tokenThreads = Mutex<TokenThreads?>(nil)
    private let notice: @Sendable (KeyNotice) -> Void

    /// Starts the threads, and reads the files with keys; keys at URLs come later.
    /// - Parameters:
    ///   - audit: gets a record for each login that is refused.
    ///   - keyNotice: is told what becomes of keys; called on any thread, must not block.
    public convenience init(
        _ settings: IdentitySettings, bounds: IdentityBounds = IdentityBounds(), audit: (any AuditSink)? = nil,
        keyNotice: @escaping @Sendable (KeyNotice) -> Void = { _ in }
    ) throws(IdentityFailure) {
        try self.init(
            settings, bounds: bounds, audit: audit, keyNotice: keyNotice, cost: .standard, clocks: .system
        ) { hash, password throws(ScryptError) in
            try hash.matches(password)
        }
    }

    /// The same with another check, so that tests can hold it back, another time, and a cost for the dummy.
    package init(
        _ settings: IdentitySettings, bounds: IdentityBounds = IdentityBounds(), audit: (any AuditSink)? = nil,
        keyNotice: @escaping @Sendable (KeyNotice) -> Void = { _ in }, cost: ScryptCost, clocks: Clocks,
        check: @escaping @Sendable (ScryptHash, [UInt8]) throws(ScryptError) -> Bool
    ) throws(IdentityFailure) {
        let queue: CheckQueue
        do throws(ScryptError) {
            queue = CheckQueue(
                bounds, dummy: try ScryptHash(password: secureRandomBytes(16), cost: cost),
                key: try secureRandomBytes(32), clocks: clocks, audit: LoginAudit(sink: audit), check: check)
        } catch { throw IdentityFailure(description: "cannot start the password checker: \(error)") }
        self.queue = queue
        notice = keyNotice
        threads = (0..<max(1, bounds.threads)).map { _ in WorkerThread { queue.workOnPasswords() } }
        guard threads.allSatisfy({ $0.isStarted }) else {
            stop()
            throw IdentityFailure(description: "cannot start the password checker: the system has no thread for it")
        }
        do throws(IdentityFailure) { try reload(settings) } catch {
            stop()
            throw error
        }
    }

    deinit { stop() }

    /// Counters since the start.
    public var counters: IdentityCounters { queue.counters }

    /// Replaces users, policies and issuers at once. Passwords verified before stay so while their hashes are the same;
    /// tokens are verified anew. Checks under way finish against the new table. Keys are looked at again.
    /// - Throws: why nothing has changed.
    public func reload(_ settings: IdentitySettings) throws(IdentityFailure) {
        guard settings.issuers.count <= TokenVerifier.maxIssuers else {
            throw IdentityFailure(description: "tokens: more than \(TokenVerifier.maxIssuers) issuers")
        }
        let verifier = try verifier(settings.issuers)
        try startTokenThreads(unless: verifier.isEmpty)
        queue.reload(settings, verifier)
        let fetcher = tokenThreads.withLock { $0?.fetcher }
        fetcher?.look(after: verifier.stores)
    }

    /// Refuses who waits (as busy) and everyone after, and ends the threads. Not to be called from a reply.
    public func stop() {
        queue.stop(passwordThreads: threads.count)
        for thread in threads { thread.join() }
        let tokens = tokenThreads.withLock { tokens in
            defer { tokens = nil }
            return tokens
        }
        tokens?.fetcher.stop()
        tokens?.worker.join()
    }

    /// Whether a login that gave `identity` would still be given after a reload, as far as that can be told without the
    /// secret: false for a user who had a password and is not in the user file any more.
    public func isStillGood(_ identity: Identity) -> Bool {
        guard let user = identity.user else { return true }
        // Who came by a token or a certificate needs no entry.
        if identity.attributes.keys.contains(where: { $0.hasPrefix("claim.") || $0.hasPrefix("cert.") }) { return true }
        return queue.state.withLock { $0.users[user] != nil }
    }

    // MARK: Tokens

    /// The issuers with their keys: those of before where they come from the same place.
    private func verifier(_ issuers: [TokenIssuer]) throws(IdentityFailure) -> TokenVerifier {
        var stores = queue.state.withLock { $0.verifier.stores }
        var verifier = TokenVerifier()
        let now = queue.now()
        for issuer in issuers {
            let old = stores.first { $0.location == issuer.keys && $0.authorities == issuer.authorities }
            let store = old ?? KeyStore(issuer.keys, authorities: issuer.authorities)
            if old == nil { stores.append(store) }
            if !verifier.stores.contains(where: { $0 === store }) {
                if case .file(let path) = issuer.keys { try read(path, into: store) } else { store.refresh(now: now) }
            }
            verifier.entries.append(.init(issuer: issuer, store: store))
        }
        return verifier
    }

    private func read(_ path: String, into store: KeyStore) throws(IdentityFailure) {
        do throws(KeyStore.Failure) {
            let delivery = try KeyFetcher.readKeys(path)
            try KeyFetcher.check(delivery, path)
            arrived(store.end(.success(delivery), now: queue.now()))
        } catch {
            throw IdentityFailure(description: "the keys of tokens: \(error.reason)")
        }
    }

    private func arrived(_ arrival: KeyStore.Arrival) {
        queue.arrived(arrival)
        if let notice = arrival.notice { self.notice(notice) }
    }

    private func startTokenThreads(unless isEmpty: Bool) throws(IdentityFailure) {
        let queue = queue
        let notice = notice
        let isStarted = tokenThreads.withLock { threads in
            if isEmpty || threads != nil { return true }
            let fetcher = KeyFetcher(queue.clocks) { arrival in
                queue.arrived(arrival)
                if let message = arrival.notice { notice(message) }
            }
            let worker = WorkerThread { queue.workOnTokens() }
            guard let fetcher, worker.isStarted else { return false }
            queue.missedKeys.withLock { $0 = { [weak fetcher] in fetcher?.wake() } }
            threads = TokenThreads(worker: worker, fetcher: fetcher)
            return true
        }
        guard isStarted else { throw IdentityFailure(description: "tokens: the system has no thread for them") }
    }

    // MARK: Logins

    /// See ``Core/Authenticator``.
    public func authenticate(
        _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
    ) -> AuthenticationResult? {
        // The secrets go only where they are checked.
        var who = credentials
        who.password = nil
        who.token = nil
        if let proven = credentials.provenUser {
            who.user = proven
            guard let owner = credentials.certificateUser, proven == owner else {
                return queue.conclude(.refused(.badCredentials, "the certificate is another user's"), who)
            }
            return queue.admit(proven: owner, who)
        }
        if let token = credentials.token { return queue.check(token: token, who, reply: reply) }
        let password = credentials.password ?? []
        if Token.isLike(password), queue.takesTokens { return queue.check(token: password, who, reply: reply) }
        guard let user = credentials.user else { return authenticate(nameless: who, hasPassword: !password.isEmpty) }
        guard user.utf8.count <= User.maxNameBytes else {
            return queue.refuseImpossible("the user name is longer than \(User.maxNameBytes) bytes", who)
        }
        guard credentials.password != nil else {
            guard let owner = credentials.certificateUser else {
                return queue.conclude(.refused(.badCredentials, "a user name without a password"), who)
            }
            // A name that the certificate proves needs no password.
            guard user == owner else {
                return queue.conclude(.refused(.badCredentials, "the certificate is another user's"), who)
            }
            return queue.admit(proven: owner, who)
        }
        guard password.count <= Self.maxPasswordBytes else {
            return queue.refuseImpossible("the password is longer than \(Self.maxPasswordBytes) bytes", who)
        }
        return queue.check(user: user, password: password, who, reply: reply)
    }

    private func authenticate(nameless who: Credentials, hasPassword: Bool) -> AuthenticationResult {
        // Who brings a secret wants to be somebody.
        if hasPassword {
            return queue.conclude(.refused(.badCredentials, "a password without a user name, and no token"), who)
        }
        // In AMQP a client says that it wants to be the certificate's user (EXTERNAL), or that it does not (ANONYMOUS).
        if let user = who.certificateUser, who.protocolName != "amqp" { return queue.admit(proven: user, who) }
        return queue.admitAnonymous(who)
    }

    /// See ``Core/Authenticator``.
    public var mechanisms: [SASLMechanism] {
        queue.state.withLock { state in
            (state.fakes.isOffered ? [.scramSHA256] : []) + (state.verifier.isEmpty ? [] : [.oauthBearer])
        }
    }

    /// See ``Core/Authenticator``.
    public func begin(
        _ mechanism: SASLMechanism, _ credentials: Credentials
    ) -> (any AuthenticationExchange)? {
        guard mechanisms.contains(mechanism) else { return nil }
        var who = credentials
        who.password = nil
        who.token = nil
        switch mechanism {
        case .scramSHA256: return SCRAMExchange(queue, who)
        case .oauthBearer: return BearerExchange(queue, who)
        }
    }
}

extension CheckQueue {
    /// Whether there are issuers whose tokens are taken.
    var takesTokens: Bool { state.withLock { !$0.verifier.isEmpty } }
}
