import Core
import Security
import Synchronization
import Testing

@Suite("Passwords", .timeLimit(.minutes(1)))
struct PasswordTests {
    @Test("Right, wrong, unknown: the answers, and one hash for each")
    func answers() throws {
        let authenticator = try make([user("anna", "one", groups: ["ops"])])
        #expect(authenticator.answer(credentials("anna", "one")) == .accepted(Identity(user: "anna", groups: ["ops"])))
        #expect(authenticator.counters.hashes == 1)
        #expect(authenticator.answer(credentials("anna", "two")) == .refused(.badCredentials))
        #expect(authenticator.counters.hashes == 2)
        // As much work for a user who does not exist as for one who does.
        #expect(authenticator.answer(credentials("nobody", "one")) == .refused(.badCredentials))
        #expect(authenticator.answer(credentials("", "")) == .refused(.badCredentials))
        #expect(authenticator.counters.hashes == 4)
        #expect(authenticator.counters.waiting == 0)
        authenticator.stop()
    }

    @Test("Who comes without a name, by policy; a name is never anonymous")
    func anonymous() throws {
        let table: [(AnonymousPolicy, local: Bool, remote: Bool)] = [
            (.loopback, true, false), (.everywhere, true, true), (.never, false, false),
        ]
        for (policy, local, remote) in table {
            let authenticator = try make([], anonymous: policy)
            for (isLocal, isAllowed) in [(true, local), (false, remote)] {
                let answer = authenticator.authenticate(credentials(nil, nil, isLocal: isLocal)) { _ in }
                #expect(answer == (isAllowed ? .accepted(Identity()) : .refused(.anonymousNotAllowed)))
            }
            #expect(authenticator.answer(credentials("x", nil, isLocal: true)) == .refused(.badCredentials))
            #expect(authenticator.answer(credentials("x", "y", isLocal: true)) == .refused(.badCredentials))
        }
    }

    @Test("Names and passwords that nobody can have are refused at once")
    func outOfBounds() throws {
        let authenticator = try make([user("anna", "one")])
        let long = String(repeating: "x", count: 2_000)
        #expect(authenticator.authenticate(credentials("anna", long)) { _ in } == .refused(.badCredentials))
        #expect(authenticator.authenticate(credentials(long, "one")) { _ in } == .refused(.badCredentials))
        #expect(authenticator.counters.hashes == 0)
    }

    @Test("Verified credentials are not hashed again, others are")
    func cache() throws {
        let authenticator = try make([user("anna", "one"), user("ann", "aone")])
        #expect(authenticator.answer(credentials("anna", "one")) == .accepted(Identity(user: "anna")))
        for _ in 0..<100 {
            let answer = authenticator.authenticate(credentials("anna", "one")) { _ in }
            #expect(answer == .accepted(Identity(user: "anna")))
        }
        #expect(authenticator.counters.hashes == 1)
        #expect(authenticator.counters.cacheHits == 100)
        // The same bytes split elsewhere are other credentials.
        #expect(authenticator.answer(credentials("ann", "aone")) == .accepted(Identity(user: "ann")))
        #expect(authenticator.answer(credentials("anna", "wrong")) == .refused(.badCredentials))
        #expect(authenticator.answer(credentials("anna", "wrong")) == .refused(.badCredentials))
        #expect(authenticator.counters.hashes == 4)
    }

    @Test("The cache is bounded; the oldest entry goes")
    func cacheBound() throws {
        var bounds = IdentityBounds()
        bounds.cachedCredentials = 2
        let authenticator = try make((0..<3).map { try user("u\($0)", "p") }, bounds: bounds)
        for index in 0..<3 { _ = authenticator.answer(credentials("u\(index)", "p")) }
        #expect(authenticator.counters.cached == 2)
        _ = authenticator.answer(credentials("u2", "p"))
        #expect(authenticator.counters.hashes == 3)
        _ = authenticator.answer(credentials("u0", "p"))
        #expect(authenticator.counters.hashes == 4)
    }

    @Test("Identical checks at the same time cost one hash")
    func coalescing() throws {
        let gate = Gate()
        let authenticator = try make([user("anna", "one")], gate: gate)
        let answers = Answers()
        for _ in 0..<50 {
            #expect(authenticator.authenticate(credentials("anna", "one"), reply: { answers.reply($0) }) == nil)
        }
        gate.open()
        #expect(answers.wait(for: 50) == Array(repeating: .accepted(Identity(user: "anna")), count: 50))
        #expect(authenticator.counters.hashes == 1)
        #expect(authenticator.counters.coalesced == 49)
    }

    @Test("A full queue refuses as busy, and takes again when it has room")
    func boundedQueue() throws {
        var bounds = IdentityBounds()
        bounds.waitingClients = 3
        let gate = Gate()
        let authenticator = try make([user("anna", "one")], bounds: bounds, gate: gate)
        let answers = Answers()
        for index in 0..<3 {
            #expect(authenticator.authenticate(credentials("u\(index)", "p"), reply: { answers.reply($0) }) == nil)
        }
        #expect(authenticator.authenticate(credentials("anna", "one")) { _ in } == .refused(.busy))
        // Another client with credentials that already wait takes a place as well.
        #expect(authenticator.authenticate(credentials("u0", "p")) { _ in } == .refused(.busy))
        #expect(authenticator.counters.refusedBusy == 2)
        gate.open(4)
        #expect(answers.wait(for: 3).count == 3)
        #expect(authenticator.answer(credentials("anna", "one")) == .accepted(Identity(user: "anna")))
    }

    @Test("A reload forgets verified credentials and takes the new table")
    func reload() throws {
        let authenticator = try make([user("anna", "one"), user("bob", "b")])
        _ = authenticator.answer(credentials("anna", "one"))
        _ = authenticator.answer(credentials("bob", "b"))
        try authenticator.reload(
            IdentitySettings(users: [try user("anna", "two", groups: ["g"])], anonymous: .never))
        #expect(authenticator.counters.cached == 0)
        #expect(authenticator.answer(credentials("anna", "one")) == .refused(.badCredentials))
        #expect(authenticator.answer(credentials("bob", "b")) == .refused(.badCredentials))
        #expect(authenticator.answer(credentials("anna", "two")) == .accepted(Identity(user: "anna", groups: ["g"])))
        #expect(authenticator.answer(credentials(nil, nil, isLocal: true)) == .refused(.anonymousNotAllowed))
    }

    @Test("A reload during a check: the answer is the new table's")
    func reloadDuringCheck() throws {
        let gate = Gate()
        let authenticator = try make([user("anna", "one")], gate: gate)
        let answers = Answers()
        #expect(authenticator.authenticate(credentials("anna", "one"), reply: { answers.reply($0) }) == nil)
        #expect(gate.waitUntilEntered())
        try authenticator.reload(IdentitySettings(users: [try user("anna", "two")], anonymous: .never))
        gate.open(2)
        #expect(answers.wait(for: 1) == [.refused(.badCredentials)])
        #expect(authenticator.counters.cached == 0)
    }

    @Test("Stopping refuses who waits and who comes, and is harmless twice")
    func stop() throws {
        let gate = Gate()
        let authenticator = try make([user("anna", "one")], gate: gate)
        let answers = Answers()
        #expect(authenticator.authenticate(credentials("anna", "one"), reply: { answers.reply($0) }) == nil)
        #expect(authenticator.authenticate(credentials("bob", "one"), reply: { answers.reply($0) }) == nil)
        gate.open(2)
        authenticator.stop()
        #expect(answers.wait(for: 2).count == 2)
        #expect(authenticator.authenticate(credentials("anna", "two")) { _ in } == .refused(.busy))
        authenticator.stop()
    }

    @Test("The last reference may be dropped in a reply")
    func droppedInReply() throws {
        let gate = Gate()
        let answers = Answers()
        let holder = Holder(try make([user("anna", "one")], gate: gate))
        let answer = holder.authenticate(credentials("anna", "one")) { answer in
            holder.drop()
            answers.reply(answer)
        }
        #expect(answer == nil)
        gate.open()
        #expect(answers.wait(for: 1) == [.accepted(Identity(user: "anna"))])
    }

    @Test("Passwords are in no description")
    func descriptions() throws {
        let presented = credentials("anna", "hunter2")
        #expect("\(presented)" == "Credentials(user: anna, peer: 192.0.2.1:5)")
        let known = try user("anna", "hunter2")
        #expect(!"\(known)".contains("hunter2"))
        #expect(!String(reflecting: presented).contains("hunter2"))
    }
}

/// Holds the last reference to an authenticator, for a reply to drop.
private final class Holder: Sendable {
    private let held: Mutex<NodeAuthenticator?>

    init(_ authenticator: NodeAuthenticator) { held = Mutex(authenticator) }

    func drop() {
        // Outside of the lock: the last release joins or detaches the hashing thread.
        let last = held.withLock { held in
            defer { held = nil }
            return held
        }
        _ = last
    }

    func authenticate(
        _ credentials: Credentials, _ reply: @escaping @Sendable (AuthenticationResult) -> Void
    ) -> AuthenticationResult? {
        held.withLock { $0 }?.authenticate(credentials, reply: reply)
    }
}
