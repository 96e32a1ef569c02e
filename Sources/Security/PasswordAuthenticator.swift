/// Checks user names and passwords against a table of users.
///
/// Threading: `authenticate` is called on lanes and never hashes. What is known at once (anonymous clients, credentials
/// verified before) is answered at once; the rest waits in a bounded queue for the hashing threads, which answer by
/// the reply. One lock guards all state and is never held while hashing or replying.
public import Core
import Synchronization

/// Who may come without a user name. A client with a user name is never anonymous.
public enum AnonymousPolicy: String, Sendable, CaseIterable {
    /// Clients on this machine.
    case loopback
    /// Every client, from anywhere.
    case everywhere
    /// Nobody.
    case never
}

/// ``Core/Authenticator`` over a table of users and their scrypt hashes.
public final class PasswordAuthenticator: Authenticator, Sendable {
    /// Bounds of the authenticator.
    public struct Bounds: Sendable {
        /// Verified credentials kept; about 100 bytes each.
        public var cachedCredentials = 100_000
        /// Clients that may wait for a check; more are refused as busy.
        public var waitingClients = 10_000
        /// Hashing threads. One checks about 20 passwords a second and never takes more than one core.
        public var threads = 1

        /// The default bounds.
        public init() {}
    }

    /// What happened so far, for logs and metrics.
    public struct Counters: Sendable, Equatable {
        /// Passwords hashed, dummies for unknown users included.
        public var hashes = 0
        /// Clients let in without hashing because their credentials were verified before.
        public var cacheHits = 0
        /// Clients that shared the check of another one with the same credentials.
        public var coalesced = 0
        /// Clients refused because too many were waiting.
        public var refusedBusy = 0
        /// Checks that libcrypto could not compute; their clients were refused as busy.
        public var failures = 0
        /// Clients waiting for a check now.
        public var waiting = 0
        /// Verified credentials in the cache now.
        public var cached = 0
    }

    /// No password that fits these bounds can be refused for its size; a longer one would let 10,000 waiting clients
    /// hold hundreds of megabytes.
    public static let maxPasswordBytes = 1_024

    private let queue: HashingQueue
    private let threads: [HashingThread]

    /// Starts the hashing threads.
    /// - Parameter users: the users who may log in; may be empty.
    public convenience init(
        users: [User], anonymous: AnonymousPolicy = .loopback, bounds: Bounds = Bounds()
    ) throws(ScryptError) {
        try self.init(users: users, anonymous: anonymous, bounds: bounds, cost: .standard) {
            hash, password throws(ScryptError) in
            try hash.matches(password)
        }
    }

    /// The same with another check, so that tests can hold it back, and a cost for the dummy.
    package init(
        users: [User], anonymous: AnonymousPolicy, bounds: Bounds, cost: ScryptCost,
        check: @escaping @Sendable (ScryptHash, [UInt8]) throws(ScryptError) -> Bool
    ) throws(ScryptError) {
        let dummy = try ScryptHash(password: secureRandomBytes(16), cost: cost)
        let queue = HashingQueue(
            users: users, anonymous: anonymous, bounds: bounds, dummy: dummy, key: try secureRandomBytes(32),
            check: check)
        self.queue = queue
        threads = (0..<max(1, bounds.threads)).map { _ in HashingThread { queue.work() } }
        guard threads.allSatisfy({ $0.isStarted }) else {
            Self.stop(queue: queue, threads: threads)
            throw .unavailable
        }
    }

    deinit { Self.stop(queue: queue, threads: threads) }

    /// Counters since the start.
    public var counters: Counters { queue.counters }

    /// Replaces users and policy at once and forgets verified credentials. Checks under way finish against the new
    /// table.
    public func reload(users: [User], anonymous: AnonymousPolicy) {
        queue.reload(users: users, anonymous: anonymous)
    }

    /// Refuses who waits (as busy) and everyone after, and ends the threads. Not to be called from a reply.
    public func stop() { Self.stop(queue: queue, threads: threads) }

    private static func stop(queue: HashingQueue, threads: [HashingThread]) {
        queue.stop(threads: threads.count)
        for thread in threads { thread.join() }
    }

    /// See ``Core/Authenticator``.
    public func authenticate(
        _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
    ) -> AuthenticationResult? {
        if let proven = credentials.provenUser { return queue.admit(proven: proven) }
        guard let user = credentials.user else {
            return queue.admitsAnonymous(isLocal: credentials.isLocal)
                ? .accepted(Identity()) : .refused(.anonymousNotAllowed)
        }
        // No user can have such a name or password, so answering at once tells nothing about who exists.
        guard let password = credentials.password, password.count <= Self.maxPasswordBytes,
            user.utf8.count <= User.maxNameBytes
        else {
            return .refused(.badCredentials)
        }
        return queue.check(user: user, password: password, reply: reply)
    }
}
