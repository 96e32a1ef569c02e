/// The state behind ``PasswordAuthenticator``: the users, the cache, and the checks that wait for a hashing thread.
import Core
import Synchronization

/// Shared by lanes (which ask) and hashing threads (which work it off). Everything is behind one lock, held for a few
/// dictionary operations at most.
final class HashingQueue: Sendable {
    typealias Reply = @Sendable (AuthenticationResult) -> Void
    typealias Check = @Sendable (ScryptHash, [UInt8]) throws(ScryptError) -> Bool

    /// One password to hash, whatever the number of clients that presented it.
    private struct Job: Sendable {
        let digest: CredentialDigest
        let user: String
        let password: [UInt8]
    }

    private struct State: Sendable {
        var users: [String: User]
        var anonymous: AnonymousPolicy
        var cache: VerifiedCache
        /// Jobs not yet taken, from `firstJob` on; what lies before is worked off.
        var jobs: [Job] = []
        var firstJob = 0
        /// Who waits for which job, the one being hashed included.
        var replies: [CredentialDigest: [Reply]] = [:]
        var counters = PasswordAuthenticator.Counters()
        var isStopped = false

        mutating func nextJob() -> Job? {
            guard firstJob < jobs.count else { return nil }
            let job = jobs[firstJob]
            firstJob += 1
            // Worked-off jobs hold passwords: drop them soon, and all at once so that it costs little.
            if firstJob == jobs.count || firstJob >= 64 {
                jobs.removeFirst(firstJob)
                firstJob = 0
            }
            return job
        }

        func identity(of user: User) -> Identity { Identity(user: user.name, groups: user.groups) }
    }

    private let state: Mutex<State>
    private let available = Semaphore()
    private let waitingClients: Int
    private let dummy: ScryptHash
    private let key: [UInt8]
    private let check: Check

    init(
        users: [User], anonymous: AnonymousPolicy, bounds: PasswordAuthenticator.Bounds, dummy: ScryptHash,
        key: [UInt8], check: @escaping Check
    ) {
        state = Mutex(
            State(
                users: Self.table(of: users), anonymous: anonymous,
                cache: VerifiedCache(capacity: bounds.cachedCredentials)))
        waitingClients = bounds.waitingClients
        self.dummy = dummy
        self.key = key
        self.check = check
    }

    private static func table(of users: [User]) -> [String: User] {
        Dictionary(users.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
    }

    var counters: PasswordAuthenticator.Counters {
        state.withLock { state in
            var counters = state.counters
            counters.cached = state.cache.count
            return counters
        }
    }

    func reload(users: [User], anonymous: AnonymousPolicy) {
        let table = Self.table(of: users)
        state.withLock { state in
            state.users = table
            state.anonymous = anonymous
            state.cache.removeAll()
        }
    }

    /// A user whom the transport vouches for, with the groups that the table says, if it has the user.
    func admit(proven user: String) -> AuthenticationResult {
        state.withLock { state in
            .accepted(state.users[user].map { state.identity(of: $0) } ?? Identity(user: user))
        }
    }

    func admitsAnonymous(isLocal: Bool) -> Bool {
        switch state.withLock({ $0.anonymous }) {
        case .loopback: isLocal
        case .everywhere: true
        case .never: false
        }
    }

    /// Answers from the cache, or takes the check into the queue and returns nil.
    func check(user: String, password: [UInt8], reply: @escaping Reply) -> AuthenticationResult? {
        let digest: CredentialDigest
        do throws(ScryptError) {
            digest = try CredentialDigest(user: user, password: password, key: key)
        } catch {
            state.withLock { $0.counters.failures += 1 }
            return .refused(.busy)
        }
        let (answer, isNew) = state.withLock { state -> (AuthenticationResult?, Bool) in
            if state.isStopped { return (.refused(.busy), false) }
            if let name = state.cache.user(for: digest), let user = state.users[name] {
                state.counters.cacheHits += 1
                return (.accepted(state.identity(of: user)), false)
            }
            guard state.counters.waiting < waitingClients else {
                state.counters.refusedBusy += 1
                return (.refused(.busy), false)
            }
            state.counters.waiting += 1
            if state.replies[digest]?.append(reply) != nil {
                state.counters.coalesced += 1
                return (nil, false)
            }
            state.replies[digest] = [reply]
            state.jobs.append(Job(digest: digest, user: user, password: password))
            return (nil, true)
        }
        if isNew { available.signal() }
        return answer
    }

    /// A hashing thread's life: until the queue is stopped.
    func work() {
        while true {
            available.wait()
            let (job, isStopped) = state.withLock { ($0.nextJob(), $0.isStopped) }
            if isStopped { return }
            if let job { work(on: job) }
        }
    }

    private func work(on job: Job) {
        // Users may be reloaded while we hash; then the answer must come from the new table.
        while true {
            let user = state.withLock { state in
                state.counters.hashes += 1
                return state.users[job.user]
            }
            let matches: Bool?
            do throws(ScryptError) {
                // An unknown user costs a hash as well: time must not tell who exists.
                matches = try check(user?.hash ?? dummy, job.password)
            } catch {
                matches = nil
            }
            let finished = state.withLock { state -> (AuthenticationResult, [Reply])? in
                let now = state.users[job.user]
                guard now?.hash == user?.hash else { return nil }
                let replies = state.replies.removeValue(forKey: job.digest) ?? []
                state.counters.waiting -= replies.count
                guard let matches else {
                    state.counters.failures += 1
                    return (.refused(.busy), replies)
                }
                guard matches, let now else { return (.refused(.badCredentials), replies) }
                state.cache.insert(job.digest, user: now.name)
                return (.accepted(state.identity(of: now)), replies)
            }
            guard let (answer, replies) = finished else { continue }
            for reply in replies { reply(answer) }
            return
        }
    }

    /// Refuses all who wait and wakes `threads` threads so that they end.
    func stop(threads: Int) {
        let waiting = state.withLock { state -> [Reply] in
            if state.isStopped { return [] }
            state.isStopped = true
            let replies = state.replies.values.flatMap { $0 }
            state.replies.removeAll()
            state.jobs.removeAll()
            state.firstJob = 0
            state.cache.removeAll()
            state.counters.waiting = 0
            return replies
        }
        for _ in 0..<threads { available.signal() }
        for reply in waiting { reply(.refused(.busy)) }
    }
}
