/// The state behind ``NodeAuthenticator``: the users, the caches, the failures, and the checks that wait for a thread.
import Core
import Synchronization

/// Shared by lanes (which ask) and check threads (which work it off). Everything is behind one lock, held for a few
/// dictionary operations at most.
final class CheckQueue: Sendable {
    typealias Reply = @Sendable (AuthenticationResult) -> Void
    typealias Check = @Sendable (ScryptHash, [UInt8]) throws(ScryptError) -> Bool

    /// One password to hash or one token to verify, whatever the number of clients that presented it.
    struct Job: Sendable {
        enum Secret: Sendable {
            case password(user: String, [UInt8])
            case token([UInt8])
        }

        let digest: CredentialDigest
        let secret: Secret
        /// Whether it has waited for keys already.
        var hasWaited = false
    }

    /// A client that waits for a job.
    struct Waiter: Sendable {
        /// Without the secrets.
        let who: Credentials
        let address: String
        let reply: Reply

        /// The name that a failure counts against; nil for a token, with which nobody guesses about a user.
        var guessed: String?
    }

    /// Jobs in the order they came.
    struct Line: Sendable {
        /// Jobs not yet taken, from `first` on; what lies before is worked off.
        private var jobs: [Job] = []
        private var first = 0

        mutating func append(_ job: Job) { jobs.append(job) }

        mutating func next() -> Job? {
            guard first < jobs.count else { return nil }
            let job = jobs[first]
            first += 1
            // Worked-off jobs hold passwords: drop them soon, and all at once so that it costs little.
            if first == jobs.count || first >= 64 {
                jobs.removeFirst(first)
                first = 0
            }
            return job
        }

        mutating func removeAll() { self = Line() }
    }

    /// A password that was found good, and the hash that it was found good by.
    struct VerifiedPassword: Sendable {
        let user: String
        let hash: ScryptHash
    }

    struct State: Sendable {
        var users: [String: User] = [:]
        var anonymous = AnonymousPolicy.loopback
        var anonymousByListener: [String: AnonymousPolicy] = [:]
        var verifier = TokenVerifier()
        var fakes: SCRAMFakes
        var passwords: BoundedCache<CredentialDigest, VerifiedPassword>
        var tokens: BoundedCache<CredentialDigest, TokenProof>
        /// Counts whatever makes verified tokens worthless.
        var tokenEpoch = 0
        var limits: FailureLimits
        var passwordLine = Line()
        var tokenLine = Line()
        /// Jobs that wait for keys.
        var parked: [Job] = []
        /// Bytes of the tokens that wait.
        var tokenBytes = 0
        /// Who waits for which job, the one being worked on included.
        var waiters: [CredentialDigest: [Waiter]] = [:]
        var counters = IdentityCounters()
        var isStopped = false
    }

    let state: Mutex<State>
    let passwordJobs = Semaphore()
    let tokenJobs = Semaphore()
    let clocks: Clocks
    let dummy: ScryptHash
    let check: Check
    private let waitingClients: Int
    private let waitingTokenBytes: Int
    private let key: [UInt8]
    private let audit: LoginAudit
    /// Tells the fetcher that keys are missed; set when there is one.
    let missedKeys = Mutex<(@Sendable () -> Void)?>(nil)

    init(
        _ bounds: IdentityBounds, dummy: ScryptHash, key: [UInt8], clocks: Clocks, audit: LoginAudit,
        check: @escaping Check
    ) {
        state = Mutex(
            State(
                fakes: SCRAMFakes(key: key, users: []),
                passwords: BoundedCache(capacity: bounds.cachedCredentials),
                tokens: BoundedCache(capacity: bounds.cachedTokens),
                limits: FailureLimits(
                    address: bounds.addressFailures, nameAndAddress: bounds.nameAndAddressFailures,
                    name: bounds.nameFailures, entries: bounds.failureEntries)))
        waitingClients = bounds.waitingClients
        waitingTokenBytes = bounds.waitingTokenBytes
        self.dummy = dummy
        self.key = key
        self.clocks = clocks
        self.audit = audit
        self.check = check
    }

    var counters: IdentityCounters {
        state.withLock { state in
            var counters = state.counters
            counters.cached = state.passwords.count + state.tokens.count
            return counters
        }
    }

    func reload(_ settings: IdentitySettings, _ verifier: TokenVerifier) {
        let table = Dictionary(settings.users.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
        let fakes = SCRAMFakes(
            key: settings.fakeSaltKey.isEmpty ? key : settings.fakeSaltKey, users: settings.users)
        state.withLock { state in
            state.users = table
            state.anonymous = settings.anonymous
            state.anonymousByListener = settings.anonymousByListener
            state.verifier = verifier
            state.fakes = fakes
            state.passwords.keep { table[$0.user]?.hash == $0.hash }
            state.tokens.removeAll()
            state.tokenEpoch += 1
        }
        // Nobody may look any more where the parked wait for keys from.
        unpark(isAnew: true)
    }

    // MARK: Answers

    /// Gives an answer its last form: counts it, and writes the record of a refusal. Outside of the lock.
    func conclude(_ answer: LoginAnswer, _ who: Credentials) -> AuthenticationResult {
        switch answer {
        case .accepted(let identity): return .accepted(identity)
        case .refused(let refusal, let reason):
            state.withLock { state in
                state.counters.refused += 1
                if refusal == .tooManyFailures { state.counters.refusedLimited += 1 }
            }
            audit.refused(who, reason)
            return .refused(refusal)
        }
    }

    func now() -> UInt64 { clocks.monotonicNanoseconds() }
    func wall() -> Int64 { clocks.wallMilliseconds() }

    /// A user whom a certificate has proven.
    func admit(proven user: String, _ who: Credentials) -> AuthenticationResult {
        if let reason = User.reasonAgainst(provenName: user) {
            return conclude(.refused(.badCredentials, "certificate: \(reason)"), who)
        }
        let entry = state.withLock { $0.users[user] }
        return conclude(.accept(user, entry, who, wall: wall()), who)
    }

    /// A client without a name.
    func admitAnonymous(_ who: Credentials) -> AuthenticationResult {
        let policy = state.withLock { $0.anonymousByListener[who.listener] ?? $0.anonymous }
        switch policy {
        case .everywhere: break
        case .loopback where who.isLocal: break
        case .loopback:
            let reason = "anonymous clients are allowed from this machine only"
            return conclude(.refused(.anonymousNotAllowed, reason), who)
        case .never: return conclude(.refused(.anonymousNotAllowed, "anonymous clients are not allowed"), who)
        }
        return conclude(.accept(nil, nil, who, wall: wall()), who)
    }

    /// Somebody sends what nobody can have, or what cannot be read: refused at once, which tells nothing about who
    /// exists, and counted, because no client in its right mind does it.
    func refuseImpossible(_ reason: String, _ who: Credentials) -> AuthenticationResult {
        let address = PeerAddress.network(of: who.peer)
        let now = now()
        state.withLock { $0.limits.failed(name: nil, address: address, now: now) }
        return conclude(.refused(.badCredentials, reason), who)
    }

    // MARK: Checks

    /// Answers from the cache, or takes the check of a password into the queue and returns nil.
    func check(
        user: String, password: [UInt8], _ who: Credentials, reply: @escaping Reply
    ) -> AuthenticationResult? {
        guard let digest = try? CredentialDigest(user: user, password: password, key: key) else {
            state.withLock { $0.counters.failures += 1 }
            return conclude(.busy, who)
        }
        let hit = state.withLock { state -> User? in
            guard !state.isStopped, let verified = state.passwords[digest], let user = state.users[verified.user] else {
                return nil
            }
            state.counters.cacheHits += 1
            return user
        }
        if let hit { return conclude(.accept(hit.name, hit, who, wall: wall()), who) }
        let waiter = Waiter(who: who, address: PeerAddress.network(of: who.peer), reply: reply, guessed: user)
        let answer = enqueue(Job(digest: digest, secret: .password(user: user, password)), waiter)
        return answer.map { conclude($0, who) }
    }

    /// The same for a token. `who.user` must be nil, empty or the token's user.
    func check(token: [UInt8], _ who: Credentials, reply: @escaping Reply) -> AuthenticationResult? {
        guard token.count <= Token.maxBytes else {
            return refuseImpossible("token: it is larger than \(Token.maxBytes) bytes", who)
        }
        guard let digest = try? CredentialDigest(user: "", password: token, key: key) else {
            state.withLock { $0.counters.failures += 1 }
            return conclude(.busy, who)
        }
        let wall = wall()
        let (hit, hasIssuers) = state.withLock { state -> ((TokenProof, User?)?, Bool) in
            guard !state.isStopped, let proof = state.tokens[digest], proof.endsAt > wall else {
                return (nil, !state.verifier.isEmpty)
            }
            state.counters.cacheHits += 1
            return ((proof, state.users[proof.user]), true)
        }
        if let (proof, user) = hit { return conclude(Self.answer(proof, user, who, wall), who) }
        guard hasIssuers else {
            return conclude(.refused(.badCredentials, "token: no issuer of tokens is configured"), who)
        }
        let waiter = Waiter(who: who, address: PeerAddress.network(of: who.peer), reply: reply)
        return enqueue(Job(digest: digest, secret: .token(token)), waiter).map { conclude($0, who) }
    }

    static func answer(_ proof: TokenProof, _ user: User?, _ who: Credentials, _ wall: Int64) -> LoginAnswer {
        if let name = who.user, !name.isEmpty, name != proof.user {
            return .refused(.badCredentials, "token: it is another user's than the one who is named")
        }
        return .accept(proof.user, user, proof: proof, who, wall: wall)
    }

    /// - Returns: nil when the answer follows.
    private func enqueue(_ job: Job, _ waiter: Waiter) -> LoginAnswer? {
        let now = now()
        let (answer, isNew) = state.withLock { state -> (LoginAnswer?, Bool) in
            if state.isStopped { return (.refused(.busy, "the node stops"), false) }
            if let reason = state.limits.reasonAgainst(name: waiter.guessed, address: waiter.address, now: now) {
                return (.refused(.tooManyFailures, reason), false)
            }
            var tokenBytes = 0
            if case .token(let token) = job.secret, state.waiters[job.digest] == nil { tokenBytes = token.count }
            guard state.counters.waiting < waitingClients, state.tokenBytes + tokenBytes <= waitingTokenBytes else {
                state.counters.refusedBusy += 1
                return (.busy, false)
            }
            state.counters.waiting += 1
            if state.waiters[job.digest]?.append(waiter) != nil {
                state.counters.coalesced += 1
                return (nil, false)
            }
            state.waiters[job.digest] = [waiter]
            state.tokenBytes += tokenBytes
            switch job.secret {
            case .password: state.passwordLine.append(job)
            case .token: state.tokenLine.append(job)
            }
            return (nil, true)
        }
        if isNew {
            switch job.secret {
            case .password: passwordJobs.signal()
            case .token: tokenJobs.signal()
            }
        }
        return answer
    }

    /// Refuses all who wait and wakes the threads so that they end.
    func stop(passwordThreads: Int) {
        let waiting = state.withLock { state -> [Waiter] in
            if state.isStopped { return [] }
            state.isStopped = true
            let waiting = state.waiters.values.flatMap { $0 }
            state.waiters.removeAll()
            state.passwordLine.removeAll()
            state.tokenLine.removeAll()
            state.parked.removeAll()
            state.passwords.removeAll()
            state.tokens.removeAll()
            state.counters.waiting = 0
            state.tokenBytes = 0
            return waiting
        }
        for _ in 0..<passwordThreads { passwordJobs.signal() }
        tokenJobs.signal()
        for waiter in waiting { waiter.reply(.refused(.busy)) }
    }
}
