import Core
import Dispatch
import Security
import Synchronization

/// What the tests of logins share.

/// Collects answers from any thread.
final class Answers: Sendable {
    private let answers = Mutex<[AuthenticationResult]>([])
    private let arrived = DispatchSemaphore(value: 0)

    func reply(_ answer: AuthenticationResult) {
        answers.withLock { $0.append(answer) }
        arrived.signal()
    }

    /// The answers once there are `count`, or what there is after ten seconds.
    func wait(for count: Int) -> [AuthenticationResult] {
        for _ in 0..<count where arrived.wait(timeout: .now() + 10) != .success { break }
        return answers.withLock { $0 }
    }
}

/// A check that waits until it is let through, one permit each.
final class Gate: Sendable {
    private let permits = DispatchSemaphore(value: 0)
    private let entered = DispatchSemaphore(value: 0)

    func open(_ count: Int = 1) { for _ in 0..<count { permits.signal() } }
    func waitUntilEntered() -> Bool { entered.wait(timeout: .now() + 10) == .success }

    func check(_ hash: ScryptHash, _ password: [UInt8]) throws(ScryptError) -> Bool {
        entered.signal()
        permits.wait()
        return try hash.matches(password)
    }
}

/// Time that passes when the test says so.
final class TestTime: Sendable {
    /// A moment in 2033.
    static let start: Int64 = 2_000_000_000_000
    private let milliseconds = Mutex<Int64>(0)

    func pass(seconds: Int64) { milliseconds.withLock { $0 += seconds * 1_000 } }

    /// Milliseconds since 1970.
    var wall: Int64 { milliseconds.withLock { Self.start + $0 } }
    /// Seconds since 1970.
    var seconds: Int64 { wall / 1_000 }

    var clocks: Clocks {
        Clocks(
            monotonicNanoseconds: { 1_000_000_000 + UInt64(self.milliseconds.withLock { $0 }) * 1_000_000 },
            wallMilliseconds: { self.wall })
    }
}

/// Keeps records.
final class Records: AuditSink {
    private let records = Mutex<[AuditRecord]>([])

    func record(_ record: AuditRecord) { records.withLock { $0.append(record) } }

    /// The records since the last call.
    func take() -> [AuditRecord] {
        records.withLock { records in
            defer { records = [] }
            return records
        }
    }

    var reasons: [String] { take().map(\.reason) }
}

func user(_ name: String, _ password: String, groups: [String] = [], scram: Bool = false) throws -> User {
    let bytes = Array(password.utf8)
    return try User(
        name: name, hash: ScryptHash(password: bytes, cost: .least), groups: groups,
        scram: scram ? SCRAMVerifier(password: bytes, iterations: 4_096) : nil)
}

func credentials(
    _ user: String?, _ password: String?, isLocal: Bool = false, peer: String = "192.0.2.1:5"
) -> Credentials {
    var credentials = Credentials(
        clientID: "c", user: user, password: password.map { Array($0.utf8) }, isLocal: isLocal, peer: peer)
    credentials.protocolName = "mqtt"
    return credentials
}

func make(
    _ settings: IdentitySettings, bounds: IdentityBounds = .init(), gate: Gate? = nil, time: TestTime? = nil,
    audit: Records? = nil, keyNotice: @escaping @Sendable (KeyNotice) -> Void = { _ in }
) throws -> NodeAuthenticator {
    try NodeAuthenticator(
        settings, bounds: bounds, audit: audit, keyNotice: keyNotice, cost: .least, clocks: time?.clocks ?? .system
    ) { hash, password throws(ScryptError) in
        if let gate { try gate.check(hash, password) } else { try hash.matches(password) }
    }
}

func make(
    _ users: [User], anonymous: AnonymousPolicy = .loopback, bounds: IdentityBounds = .init(), gate: Gate? = nil,
    time: TestTime? = nil, audit: Records? = nil
) throws -> NodeAuthenticator {
    try make(
        IdentitySettings(users: users, anonymous: anonymous), bounds: bounds, gate: gate, time: time, audit: audit)
}

extension NodeAuthenticator {
    /// The answer, waiting for it where it comes later.
    func answer(_ credentials: Credentials) -> AuthenticationResult? {
        let answers = Answers()
        if let answer = authenticate(credentials, reply: { answers.reply($0) }) { return answer }
        return answers.wait(for: 1).first
    }
}

extension AuthenticationResult {
    var identity: Identity? { if case .accepted(let identity) = self { identity } else { nil } }
}

extension AuthenticationExchange {
    /// The answer to a message, waiting for it where it comes later.
    func step(_ message: [UInt8]) -> AuthenticationStep? {
        let steps = Mutexed<AuthenticationStep>()
        if let step = respond(to: message, reply: { steps.put($0) }) { return step }
        return steps.wait()
    }

    func step(_ message: String) -> AuthenticationStep? { step(Array(message.utf8)) }
}

/// One value from another thread.
private final class Mutexed<Value: Sendable>: Sendable {
    private let value = Mutex<Value?>(nil)
    private let arrived = DispatchSemaphore(value: 0)

    func put(_ value: Value) {
        self.value.withLock { $0 = value }
        arrived.signal()
    }

    func wait() -> Value? {
        _ = arrived.wait(timeout: .now() + 10)
        return value.withLock { $0 }
    }
}
