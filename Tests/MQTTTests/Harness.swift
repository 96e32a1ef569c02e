import Core
import MQTT
import Synchronization
import TestSupport

/// Drives conversations without sockets, clocks and threads: lanes, a router and the adapter are the real ones, the
/// reactor is replaced by the same pass loop over byte arrays. Time stands still until a test moves it.

/// A connection's output.
final class TestLink: CollectingLink {
    unowned let connection: TestConnection

    init(_ connection: TestConnection) {
        self.connection = connection
        super.init()
    }

    /// Whom the request before this connection has let in.
    var letIn: Identity?
    override var admitted: Identity? { letIn }

    override func willSend(_ bytes: UnsafeRawBufferPointer) { tap?.sent(bytes, on: connection.lane) }

    override func settleTap() { collect() }

    override func close(_ reason: CloseReason) { connection.close(reason) }

    override func resume() {
        guard connection.isPaused, connection.closing == nil else { return }
        connection.isPaused = false
        connection.lane.resumed.append(connection)
    }

    override func callback<Answer: Sendable>(
        _ body: @escaping @Sendable (Conversation, Answer, Lane) -> Void
    ) -> @Sendable (Answer) -> Void {
        let (lanes, lane, number) = (connection.lane.lanes, connection.lane.number, connection.number)
        return { answer in
            lanes.call(lane) { lane in
                guard let connection = (lane as? TestLane)?.node?.connections[number], connection.closing == nil
                else { return }
                body(connection.conversation, answer, lane)
            }
        }
    }

    override func move(to lane: Int, arrived: @escaping @Sendable (Conversation, Lane) -> Void) {
        connection.lane.moving.append((connection, lane, arrived))
    }

    override func tick(at deadline: UInt64) { connection.deadline = deadline }
}

/// What the reactor's connection is: a conversation, its bytes not yet taken, its timer.
final class TestConnection {
    let number: Int
    fileprivate(set) var lane: TestLane
    fileprivate(set) var conversation: Conversation!
    private(set) var link: TestLink!
    /// Bytes received and not yet taken.
    fileprivate var carry: [UInt8] = []
    fileprivate(set) var closing: CloseReason?
    fileprivate(set) var hasEnded = false
    fileprivate(set) var isPaused = false
    fileprivate var deadline: UInt64?

    fileprivate init(number: Int, lane: TestLane) {
        self.number = number
        self.lane = lane
        link = TestLink(self)
    }

    func close(_ reason: CloseReason) {
        guard closing == nil else { return }
        closing = reason
        lane.closing.append(self)
    }

    fileprivate func consume() {
        let intake = conversation.take(
            carry, on: lane, isOpen: { closing == nil }, taken: { link.tap?.received($0, on: lane) })
        carry = intake.rest
        switch intake.stop {
        case .paused: isPaused = true
        case .close(let reason): close(reason)
        case .waiting, .yielding, .ended: break
        }
    }
}

/// A lane whose loop is a function.
final class TestLane: Lane {
    fileprivate(set) weak var node: TestNode?
    fileprivate var closing: [TestConnection] = []
    fileprivate var resumed: [TestConnection] = []
    fileprivate var moving: [(TestConnection, Int, @Sendable (Conversation, Lane) -> Void)] = []

    /// The rest of a pass after bytes were read: mail, ends, posting, moves.
    func pass() {
        readMail()
        finishPass()
    }

    fileprivate func finishPass() {
        routeDeferred()
        while !resumed.isEmpty || !closing.isEmpty {
            let again = resumed
            resumed = []
            for connection in again where connection.closing == nil && !connection.isPaused { connection.consume() }
            let ended = closing
            closing = []
            for connection in ended { end(connection) }
            routeDeferred()
        }
        doWork()
        postMail()
        let leaving = moving
        moving = []
        for (connection, lane, arrived) in leaving where connection.closing == nil {
            let number = connection.number
            connection.deadline = nil
            lanes.call(lane) { lane in
                guard let lane = lane as? TestLane, let connection = lane.node?.connections[number] else { return }
                connection.lane = lane
                arrived(connection.conversation, lane)
            }
        }
    }

    private func end(_ connection: TestConnection) {
        guard !connection.hasEnded, let reason = connection.closing else { return }
        connection.hasEnded = true
        connection.deadline = nil
        counters.close(reason)
        connection.conversation.close(reason, on: self)
    }
}

/// Answers as a test wants: at once, or when the test says so.
final class TestAuthenticator: Authenticator {
    typealias Rule = @Sendable (Credentials) -> AuthenticationResult?
    private let rule = Mutex<Rule> { .accepted(Identity(user: $0.user)) }
    private let replies = Mutex<[@Sendable (AuthenticationResult) -> Void]>([])

    /// How credentials are answered from now on; nil means later, by ``answer(_:)``.
    func answers(_ new: @escaping Rule) { rule.withLock { $0 = new } }

    /// Answers the oldest question that waits.
    func answer(_ result: AuthenticationResult) {
        let reply = replies.withLock { $0.isEmpty ? nil : $0.removeFirst() }
        reply?(result)
    }

    // MARK: Exchanges

    /// What is answered to the messages of an exchange, the last of which is new; nil means later, by ``step(_:)``.
    typealias Script = @Sendable (Credentials, [[UInt8]]) -> AuthenticationStep?
    private let script = Mutex<(mechanisms: [SASLMechanism], script: Script)>(([], { _, _ in nil }))
    private let steps = Mutex<[@Sendable (AuthenticationStep) -> Void]>([])

    /// Offers mechanisms, whose exchanges go as the script says.
    func offers(_ mechanisms: [SASLMechanism], _ new: @escaping Script) {
        script.withLock { $0 = (mechanisms, new) }
    }

    /// Answers the oldest message that waits.
    func step(_ step: AuthenticationStep) {
        let reply = steps.withLock { $0.isEmpty ? nil : $0.removeFirst() }
        reply?(step)
    }

    var mechanisms: [SASLMechanism] { script.withLock { $0.mechanisms } }

    func begin(_ mechanism: SASLMechanism, _ credentials: Credentials) -> (any AuthenticationExchange)? {
        Exchange(self, credentials)
    }

    private final class Exchange: AuthenticationExchange {
        private let authenticator: TestAuthenticator
        private let credentials: Credentials
        private var messages: [[UInt8]] = []

        init(_ authenticator: TestAuthenticator, _ credentials: Credentials) {
            (self.authenticator, self.credentials) = (authenticator, credentials)
        }

        func respond(
            to message: [UInt8], reply: @escaping @Sendable (AuthenticationStep) -> Void
        ) -> AuthenticationStep? {
            messages.append(message)
            if let step = authenticator.script.withLock({ $0.script })(credentials, messages) { return step }
            authenticator.steps.withLock { $0.append(reply) }
            return nil
        }
    }

    // MARK: Credentials

    func authenticate(
        _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
    ) -> AuthenticationResult? {
        if let result = rule.withLock({ $0 })(credentials) { return result }
        replies.withLock { $0.append(reply) }
        return nil
    }
}

/// A node of some lanes, all driven by the test's own thread.
final class TestNode {
    private final class Bell: Sendable { let isRung = Atomic<Bool>(false) }

    let authenticator = TestAuthenticator()
    let router: Router
    private(set) var lanes: [TestLane] = []
    fileprivate(set) var connections: [Int: TestConnection] = [:]
    private let bells: [Bell]
    private let adapter: MQTTAdapter
    private var connectionsMade = 0
    private(set) var now: UInt64 = 1_000

    /// - Parameters:
    ///   - rules: access rules; with none everything is allowed.
    ///   - trace: where packets of traced clients are described.
    init(
        lanes count: Int = 1, limits: Limits = Limits(), rules: [AccessRule] = [], quotas: Quotas? = nil,
        trace: TraceSettings? = nil
    ) throws {
        let bells = (0..<count).map { _ in Bell() }
        self.bells = bells
        router = Router(
            limits: limits, accessRules: try AccessRules(rules), quotas: quotas, hashKey: 0x1234_5678_9ABC_DEF0)
        let random = Sequence64()
        adapter = MQTTAdapter(
            routers: ["default": router], authenticator: authenticator,
            random: { random.next() }, trace: trace)
        let shared = Lanes(
            wakes: bells.map { bell in { bell.isRung.store(true, ordering: .relaxed) } }, limits: limits)
        for number in 0..<count {
            let lane = TestLane(number: number, lanes: shared)
            lane.node = self
            lane.now = now
            lanes.append(lane)
        }
    }

    /// A new connection; nothing has been said yet.
    func accept(lane: Int = 0) -> TestConnection {
        let connection = TestConnection(number: connectionsMade, lane: lanes[lane])
        connectionsMade += 1
        connections[connection.number] = connection
        connection.conversation = adapter.makeConversation(link: connection.link, on: lanes[lane])
        return connection
    }

    /// Bytes arrive; the connection's own lane makes a pass, the others do not.
    func receive(_ connection: TestConnection, _ bytes: [UInt8]) {
        guard connection.closing == nil else { return }
        connection.carry += bytes
        if !connection.isPaused { connection.consume() }
        connection.lane.finishPass()
    }

    /// The peer has gone.
    func cut(_ connection: TestConnection, _ reason: CloseReason = .connectionLost) {
        connection.close(reason)
        connection.lane.finishPass()
    }

    /// A slow reader has read at last.
    func drain(_ connection: TestConnection) {
        connection.link.isCongested = false
        guard connection.closing == nil else { return }
        connection.conversation.outputDrained(on: connection.lane)
        connection.lane.finishPass()
    }

    /// Passes of all lanes until none has anything to do.
    func settle() {
        var isBusy = true
        while isBusy {
            isBusy = false
            for lane in lanes {
                let isRung = bells[lane.number].isRung.exchange(false, ordering: .relaxed)
                guard isRung || !lane.resumed.isEmpty || !lane.closing.isEmpty || !lane.moving.isEmpty || lane.hasWork
                else { continue }
                lane.pass()
                isBusy = true
            }
        }
        for (number, connection) in connections where connection.hasEnded { connections[number] = nil }
    }

    /// Time goes on; timers and chores of all lanes run.
    func advance(milliseconds: UInt64) {
        tick(milliseconds: milliseconds)
        settle()
    }

    /// As ``advance(milliseconds:)``, but no mail is read.
    func tick(milliseconds: UInt64) {
        now += milliseconds
        for lane in lanes { lane.now = now }
        for connection in connections.values.sorted(by: { $0.number < $1.number }) where connection.closing == nil {
            guard let deadline = connection.deadline, deadline <= now else { continue }
            connection.deadline = nil
            switch connection.conversation.tick(on: connection.lane) {
            case .success(let next): connection.deadline = next
            case .failure(let reason): connection.close(reason)
            }
        }
        for lane in lanes {
            for chore in lane.chores { chore(lane) }
            lane.finishPass()
        }
    }

    /// What all lanes have counted.
    var counters: Counters {
        var sum = Counters()
        for lane in lanes { sum.add(lane.counters) }
        return sum
    }

    func dropped(_ reason: DropReason) -> Int { Int(counters.dropped[reason.rawValue]) }
}

/// A counter that may be shared.
private final class Sequence64: Sendable {
    private let value = Atomic<UInt64>(0)
    func next() -> UInt64 { value.add(1, ordering: .relaxed).newValue }
}
