import Core
import MQTT
import Synchronization
import TestSupport

@testable import AMQP

/// Drives whole conversations without sockets, clocks and threads: lanes, a router and the adapters are the real ones,
/// the reactor is replaced by the same pass loop over byte arrays. Time stands still until a test moves it.

/// A connection's output that collects bytes. Its window is small, so that frames cross its end all the time.
final class FieldLink: Link {
    private static let windowSize = 64
    private let window = UnsafeMutableRawPointer.allocate(byteCount: FieldLink.windowSize, alignment: 1)
    private var larger: UnsafeMutableRawPointer?
    /// Bytes that the peer has not been given yet.
    fileprivate(set) var collected: [UInt8] = []
    fileprivate unowned let connection: FieldConnection
    private var isOpen = false
    /// Whom the transport has proven the peer to be.
    var proven: String?
    override var provenUser: String? { proven }
    /// Whom the request before this connection has let in.
    var letIn: Identity?
    override var admitted: Identity? { letIn }
    /// Whether nobody can read along.
    var isSafe = false
    override var isEncrypted: Bool { isSafe }
    /// Whether the peer reads nothing: what is sent waits, as in a socket that is full.
    var isStalled = false { didSet { updateCongestion() } }

    fileprivate init(_ connection: FieldConnection) {
        self.connection = connection
        super.init()
    }

    deinit {
        window.deallocate()
        larger?.deallocate()
    }

    /// Takes what has been sent since the last call.
    func takeSent() -> [UInt8] {
        guard !isStalled else { return [] }
        defer { collected = [] }
        return collected
    }

    private var start: UnsafeMutableRawPointer { larger ?? window }

    private func collect() {
        guard isOpen else { return }
        collected += UnsafeRawBufferPointer(start: start, count: cursor - start)
        cursor = start
        updateCongestion()
    }

    private func updateCongestion() {
        isCongested = isStalled && collected.count > connection.lane.limits.maxOutputBytes
    }

    private func open() {
        connection.touch()
        guard !isOpen else { return }
        isOpen = true
        cursor = start
        end = start + Self.windowSize
    }

    /// The pass is over: nothing can be written any more without a touch.
    fileprivate func closeWindow() {
        collect()
        larger?.deallocate()
        larger = nil
        isOpen = false
        cursor = window
        end = cursor
    }

    override func appendSlowly(_ bytes: UnsafeRawPointer, _ count: Int) {
        // As the reactor's connection: what ends is not begun to be written to.
        guard connection.closing == nil || isOpen else { return }
        open()
        collect()
        collected += UnsafeRawBufferPointer(start: bytes, count: count)
        updateCongestion()
    }

    override func makeRoom(_ count: Int) {
        open()
        guard end - cursor < count else { return }
        collect()
        guard end - cursor < count else { return }
        larger?.deallocate()
        let memory = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 1)
        larger = memory
        cursor = memory
        end = memory + count
    }

    override func close(_ reason: CloseReason) { connection.close(reason) }

    override func finish(_ reason: CloseReason) {
        guard connection.closing == nil, connection.finishing == nil else { return }
        connection.finishing = reason
        connection.touch()
    }

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
                guard let connection = (lane as? FieldLane)?.node?.connections[number], connection.closing == nil
                else { return }
                body(connection.conversation, answer, lane)
            }
        }
    }

    override func move(to lane: Int, arrived: @escaping @Sendable (Conversation, Lane) -> Void) {
        connection.lane.moving.append((connection, lane, arrived))
    }

    override func tick(at deadline: UInt64) { if connection.finishing == nil { connection.deadline = deadline } }
}

/// What the reactor's connection is: a conversation, its bytes not yet taken, its timer.
final class FieldConnection {
    let number: Int
    fileprivate(set) var lane: FieldLane
    fileprivate(set) var conversation: Conversation!
    private(set) var link: FieldLink!
    /// Bytes received and not yet taken.
    fileprivate var carry: [UInt8] = []
    fileprivate(set) var closing: CloseReason?
    fileprivate var finishing: CloseReason?
    fileprivate(set) var hasEnded = false
    fileprivate(set) var isPaused = false
    fileprivate(set) var deadline: UInt64?
    private var isTouched = false

    fileprivate init(number: Int, lane: FieldLane) {
        self.number = number
        self.lane = lane
        link = FieldLink(self)
    }

    var amqp: AMQPConversation? { conversation as? AMQPConversation }

    func close(_ reason: CloseReason) {
        guard closing == nil else { return }
        closing = reason
        lane.closing.append(self)
    }

    fileprivate func touch() {
        guard !isTouched else { return }
        isTouched = true
        lane.touched.append(self)
    }

    fileprivate func flush() {
        if conversation != nil { conversation.produce(on: lane) }
        isTouched = false
        link.closeWindow()
        // The peer has read the last bytes at once.
        if let finishing, closing == nil { close(finishing) }
    }

    fileprivate func consume() {
        // A client that does not read is not read either.
        guard !link.isCongested else { return }
        let intake = conversation.take(
            carry, on: lane, isOpen: { closing == nil && finishing == nil }, yields: { lane.yieldsAlways })
        switch intake.stop {
        case .paused: isPaused = true
        case .yielding:
            isPaused = true
            lane.yielding.append(self)
        case .close(let reason): close(reason)
        case .waiting, .ended: break
        }
        carry = closing == nil && finishing == nil ? intake.rest : []
    }

    fileprivate func end() {
        guard !hasEnded, let reason = closing else { return }
        hasEnded = true
        deadline = nil
        conversation.close(reason, on: lane)
        flush()
        conversation = nil
    }

    fileprivate func arrive(on lane: FieldLane) { self.lane = lane }

    fileprivate func ticked() {
        guard let due = deadline, due <= lane.now, closing == nil else { return }
        deadline = nil
        switch conversation.tick(on: lane) {
        case .success(let next): if let next, finishing == nil { deadline = next }
        case .failure(let reason): close(reason)
        }
    }
}

/// A lane whose loop is a function.
final class FieldLane: Lane {
    fileprivate(set) weak var node: FieldNode?
    fileprivate var closing: [FieldConnection] = []
    fileprivate var resumed: [FieldConnection] = []
    fileprivate var touched: [FieldConnection] = []
    fileprivate var yielding: [FieldConnection] = []
    fileprivate var moving: [(FieldConnection, Int, @Sendable (Conversation, Lane) -> Void)] = []
    /// Whether connections let each other go first whenever they may, as after costly look-ups.
    var yieldsAlways = false

    /// The rest of a pass after bytes were read: mail, ends, posting, sending, moves.
    func pass() {
        readMail()
        finishPass()
    }

    /// Whether there is something to do.
    fileprivate var isBusy: Bool {
        !resumed.isEmpty || !closing.isEmpty || !moving.isEmpty || !touched.isEmpty || !yielding.isEmpty || hasWork
            || hasPutOff
    }

    fileprivate func resumeYielding() {
        let again = yielding
        yielding = []
        for connection in again { connection.link.resume() }
    }

    fileprivate func finishPass() {
        routeDeferred()
        while !resumed.isEmpty || !closing.isEmpty {
            let again = resumed
            resumed = []
            for connection in again where connection.closing == nil && !connection.isPaused {
                // As the reactor: without bytes there is no call.
                if !connection.carry.isEmpty { connection.consume() }
            }
            let ended = closing
            closing = []
            for connection in ended { connection.end() }
            routeDeferred()
        }
        doWork()
        postMail()
        var index = 0
        while index < touched.count {
            touched[index].flush()
            index += 1
        }
        touched.removeAll()
        let leaving = moving
        moving = []
        for (connection, lane, arrived) in leaving where connection.closing == nil {
            let number = connection.number
            connection.link.tick(at: .max)
            lanes.call(lane) { lane in
                guard let lane = lane as? FieldLane, let connection = lane.node?.connections[number] else { return }
                connection.arrive(on: lane)
                arrived(connection.conversation, lane)
            }
        }
    }
}

/// Decides by user name, at once: `known` with any password but `wrong`.
final class FieldAuthenticator: Authenticator {
    func authenticate(
        _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
    ) -> AuthenticationResult? {
        if let proven = credentials.provenUser { return .accepted(Identity(user: proven)) }
        if credentials.password == Array("wrong".utf8) { return .refused(.badCredentials) }
        return .accepted(Identity(user: credentials.user))
    }
}

/// A node of some lanes, all driven by the test's own thread.
final class FieldNode {
    /// Whom the transport of further connections proves their clients to be.
    var proves: String?
    /// What else further connections are like.
    var prepare: (FieldLink) -> Void = { _ in }
    private final class Bell: Sendable { let isRung = Atomic<Bool>(false) }

    let router: Router
    private(set) var lanes: [FieldLane] = []
    fileprivate(set) var connections: [Int: FieldConnection] = [:]
    private let bells: [Bell]
    private let adapter: AMQPAdapter
    private let mqtt: MQTTAdapter
    private let context: AMQPContext
    private var connectionsMade = 0
    private(set) var now: UInt64 = 1_000

    /// - Parameter rules: access rules; with none everything is allowed.
    init(
        lanes count: Int = 1, limits: Limits = Limits(), rules: [AccessRule] = [],
        settings: AMQPSettings = AMQPSettings(), authenticator: any Authenticator = FieldAuthenticator()
    ) throws {
        let bells = (0..<count).map { _ in Bell() }
        self.bells = bells
        router = Router(limits: limits, accessRules: try AccessRules(rules), hashKey: 0x1234_5678_9ABC_DEF0)
        let random = FieldNumbers()
        let routers = ["default": router]
        adapter = AMQPAdapter(
            routers: routers, authenticator: authenticator, settings: settings, nodeName: "node",
            version: "1", random: { random.next() }, wallClock: { 1_700_000_000_000 })
        mqtt = MQTTAdapter(
            routers: routers, authenticator: authenticator, random: { random.next() }, trace: nil)
        context = AMQPContext(
            routers: routers, authenticator: authenticator, settings: settings, nodeName: "node", version: "1",
            random: { 0 }, wallClock: { 1_700_000_000_000 })
        let shared = Lanes(
            wakes: bells.map { bell in { bell.isRung.store(true, ordering: .relaxed) } }, limits: limits)
        for number in 0..<count {
            let lane = FieldLane(number: number, lanes: shared)
            lane.node = self
            lane.now = now
            lanes.append(lane)
        }
    }

    /// Ends what is still there, as a node that stops does.
    deinit {
        for connection in connections.values { connection.close(.shutdown) }
        for lane in lanes { lane.finishPass() }
    }

    /// A container whose connections are at home on a lane.
    func container(on lane: Int, _ stem: String = "c") -> String {
        var number = 0
        while true {
            let name = "\(stem)\(number)"
            if context.lane(ofContainer: name, in: router, count: lanes.count) == lane { return name }
            number += 1
        }
    }

    /// A new connection; nothing has been said yet.
    func accept(lane: Int = 0, isMQTT: Bool = false) -> FieldConnection {
        let connection = FieldConnection(number: connectionsMade, lane: lanes[lane])
        connectionsMade += 1
        connections[connection.number] = connection
        connection.link.proven = proves
        prepare(connection.link)
        connection.conversation =
            isMQTT
            ? mqtt.makeConversation(link: connection.link, on: lanes[lane])
            : adapter.makeConversation(link: connection.link, on: lanes[lane])
        return connection
    }

    /// Bytes arrive; the connection's own lane makes a pass, the others do not.
    func receive(_ connection: FieldConnection, _ bytes: [UInt8]) {
        guard connection.closing == nil, connection.finishing == nil else { return }
        connection.carry += bytes
        if !connection.isPaused { connection.consume() }
        connection.lane.finishPass()
    }

    /// The peer has gone.
    func cut(_ connection: FieldConnection, _ reason: CloseReason = .connectionLost) {
        connection.close(reason)
        connection.lane.finishPass()
    }

    /// The node is stopping, as the reactor tells a connection.
    func stop(_ connection: FieldConnection) {
        guard connection.finishing == nil, connection.closing == nil else { return }
        if !connection.conversation.drain(on: connection.lane) { connection.close(.shutdown) }
        settle()
    }

    /// A slow reader reads again, everything.
    func goOnReading(_ connection: FieldConnection) -> [UInt8] {
        connection.link.isStalled = false
        let bytes = connection.link.takeSent()
        connection.link.isCongested = false
        guard connection.closing == nil, connection.finishing == nil else { return bytes }
        connection.conversation.outputDrained(on: connection.lane)
        if !connection.isPaused, !connection.carry.isEmpty { connection.consume() }
        connection.lane.finishPass()
        return bytes
    }

    /// Passes of all lanes until none has anything to do.
    func settle() {
        var isBusy = true
        while isBusy {
            isBusy = false
            for lane in lanes {
                let isRung = bells[lane.number].isRung.exchange(false, ordering: .relaxed)
                guard isRung || lane.isBusy else { continue }
                lane.resumeYielding()
                lane.pass()
                isBusy = true
            }
        }
        for (number, connection) in connections where connection.hasEnded { connections[number] = nil }
    }

    /// Time goes on; timers and chores of all lanes run.
    func advance(milliseconds: UInt64) {
        now += milliseconds
        for lane in lanes { lane.now = now }
        for connection in connections.values.sorted(by: { $0.number < $1.number }) { connection.ticked() }
        for lane in lanes {
            for chore in lane.chores { chore(lane) }
            lane.finishPass()
        }
        settle()
    }

    /// What all lanes have counted.
    var counters: Counters {
        var sum = Counters()
        for lane in lanes { sum.add(lane.counters) }
        return sum
    }

    func dropped(_ reason: DropReason) -> Int { Int(counters.dropped[reason.rawValue]) }

    /// Events that wait in all lanes' inboxes.
    var waiting: Int { lanes.reduce(0) { $0 + $1.queuedEvents } }

    /// The inbox that a name is listed under.
    func inbox(_ name: String) -> Inbox? {
        guard let address = router.session(of: name) else { return nil }
        return lanes[address.lane].port(at: address) as? Inbox
    }
}

/// Numbers that are different.
private final class FieldNumbers: Sendable {
    private let value = Atomic<UInt64>(0)
    func next() -> UInt64 { value.add(1, ordering: .relaxed).newValue }
}
