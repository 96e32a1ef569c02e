import Core
import Synchronization
import TestSupport

@testable import Web

/// Drives HTTP conversations without sockets, clocks and threads: lanes, a router, channels and streams are the real
/// ones, the reactor is replaced by the same pass loop over byte arrays. Time stands still until a test moves it.

/// A site with nothing but streams and polls; header fields say who asks.
final class StreamSite: HTTPSite {
    let limits: HTTPLimits
    let context: WebContext
    private let router: Router

    init(_ router: Router, limits: HTTPLimits = HTTPLimits()) {
        self.router = router
        self.limits = limits
        let numbers = Atomic<UInt64>(7)
        context = WebContext(
            routers: ["default": router], authenticator: Nobody(), settings: WebSettings(), nodeName: "test",
            version: "0", instance: "run",
            adapters: [:], webhooks: nil,
            random: {
                numbers.wrappingAdd(0x9E37_79B9_7F4A_7C15, ordering: .relaxed).newValue &* 0xBF58_476D_1CE4_E5B9
            },
            wallClock: { 0 })
    }

    private struct Nobody: Authenticator {
        func authenticate(
            _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
        ) -> AuthenticationResult? {
            .refused(.badCredentials)
        }
    }

    func take(
        _ head: RequestHead, _ body: UnsafeRawBufferPointer, of connection: HTTPConversation, _ turn: Turn,
        on lane: Lane
    ) -> RequestVerdict {
        do throws(Problem) {
            let request = try HTTPRequest(head, body: body, link: connection.link)
            var identity = Identity(user: request.headers["User"])
            if let name = request.headers["Department"] { identity.attributes["claim.department"] = [name] }
            let principal = Principal(identity: identity, clientID: "", router: router)
            let web = context.state(of: lane)
            switch request.path {
            case "/events": return try EventStreams.open(request, principal, web, connection, lane)
            case "/poll": return try LongPoll.take(request, principal, web, connection, lane)
            case "/lane": connection.respond(HTTPResponse(type: "text/plain", body: Array("\(lane.number)".utf8)))
            default: throw Problem(404, "There is nothing at this path.")
            }
        } catch {
            connection.respond(error)
        }
        return .answered
    }

    func routed(_ turn: Turn, of connection: HTTPConversation, on lane: Lane) {}
}

/// A connection's output that collects bytes. Its window is small, so that blocks cross its end all the time.
final class StandLink: Link {
    private let window = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 1)
    private var reservation: [UnsafeMutableRawPointer] = []
    private var start: UnsafeMutableRawPointer
    private var collected: [UInt8] = []
    unowned let client: StandClient

    init(_ client: StandClient) {
        self.client = client
        start = window
        super.init()
        cursor = start
        end = start + 64
    }

    deinit {
        window.deallocate()
        for block in reservation { block.deallocate() }
    }

    /// Takes what has been sent since the last call.
    func takeSent() -> [UInt8] {
        collect()
        defer { collected = [] }
        return collected
    }

    private func collect() {
        collected += UnsafeRawBufferPointer(start: start, count: cursor - start)
        cursor = start
    }

    /// Whether the peer stops reading as soon as an answer begins: before that, no request would be taken.
    var congestsWithAnswer = false

    private func congest() {
        guard congestsWithAnswer else { return }
        (congestsWithAnswer, isCongested) = (false, true)
    }

    override func appendSlowly(_ bytes: UnsafeRawPointer, _ count: Int) {
        congest()
        collect()
        collected += UnsafeRawBufferPointer(start: bytes, count: count)
    }

    override func makeRoom(_ count: Int) {
        congest()
        collect()
        guard end - start < count else { return }
        start = .allocate(byteCount: count, alignment: 1)
        reservation.append(start)
        cursor = start
        end = start + count
    }

    override func close(_ reason: CloseReason) { client.close(reason) }

    override func resume() {
        guard client.isPaused, client.closing == nil else { return }
        client.isPaused = false
        client.lane.resumed.append(client)
    }

    override func move(to lane: Int, arrived: @escaping @Sendable (Conversation, Lane) -> Void) {
        client.lane.moving.append((client, lane, arrived))
    }

    override func tick(at deadline: UInt64) { client.deadline = deadline }
}

/// A client and its connection.
final class StandClient {
    let number: Int
    unowned let stand: StreamStand
    fileprivate(set) var lane: StandLane
    fileprivate var conversation: HTTPConversation!
    private(set) var link: StandLink!
    private var carry: [UInt8] = []
    fileprivate(set) var closing: CloseReason?
    fileprivate var hasEnded = false
    fileprivate(set) var isPaused = false
    fileprivate(set) var deadline: UInt64?

    fileprivate init(_ number: Int, _ stand: StreamStand, _ lane: StandLane) {
        self.number = number
        self.stand = stand
        self.lane = lane
        link = StandLink(self)
    }

    fileprivate func close(_ reason: CloseReason) {
        guard closing == nil else { return }
        closing = reason
        lane.closing.append(self)
    }

    /// The stream that the connection has become.
    var stream: EventStream? {
        guard case .streaming(let stream) = conversation.state else { return nil }
        return stream as? EventStream
    }

    /// Sends a request for a target, with further header lines.
    func get(_ target: String, _ fields: String...) {
        let lines = fields.map { "\($0)\r\n" }.joined()
        send("GET \(target) HTTP/1.1\r\nHost: x\r\n\(lines)\r\n")
    }

    /// Sends text, and all lanes work until nothing is left to do.
    func send(_ text: String) {
        guard closing == nil else { return }
        carry += Array(text.utf8)
        if !isPaused { consume() }
        lane.finishPass()
        stand.settle()
    }

    fileprivate func consume() {
        let intake = conversation.take(carry, on: lane, isOpen: { closing == nil })
        carry = intake.rest
        switch intake.stop {
        case .paused: isPaused = true
        case .close(let reason): close(reason)
        case .waiting, .yielding, .ended: break
        }
    }

    /// What has come since the last call.
    func received() -> [UInt8] { link.takeSent() }

    /// The connection is lost without a word.
    func cut() {
        close(.connectionLost)
        lane.finishPass()
        stand.settle()
    }

    /// A slow reader has read at last.
    func drain() {
        link.isCongested = false
        guard closing == nil else { return }
        conversation.outputDrained(on: lane)
        lane.finishPass()
        stand.settle()
    }

    /// The node is stopping.
    func stop() {
        _ = conversation.drain(on: lane)
        lane.finishPass()
    }

    fileprivate func arrive(on lane: StandLane, _ arrived: @Sendable (Conversation, Lane) -> Void) {
        self.lane = lane
        arrived(conversation, lane)
    }

    fileprivate func end(on lane: StandLane) {
        guard !hasEnded, let closing else { return }
        hasEnded = true
        deadline = nil
        lane.counters.close(closing)
        conversation.close(closing, on: lane)
    }
}

/// A lane whose loop is a function.
final class StandLane: Lane {
    fileprivate(set) weak var stand: StreamStand?
    fileprivate var closing: [StandClient] = []
    fileprivate var resumed: [StandClient] = []
    fileprivate var moving: [(StandClient, Int, @Sendable (Conversation, Lane) -> Void)] = []

    fileprivate func finishPass() {
        routeDeferred()
        while !resumed.isEmpty || !closing.isEmpty {
            let again = resumed
            resumed = []
            for client in again where client.closing == nil && !client.isPaused { client.consume() }
            let ended = closing
            closing = []
            for client in ended { client.end(on: self) }
            routeDeferred()
        }
        doWork()
        postMail()
        let leaving = moving
        moving = []
        for (client, lane, arrived) in leaving where client.closing == nil {
            let number = client.number
            // Only who is not read may move, and its timer stays behind.
            precondition(client.isPaused)
            client.deadline = nil
            lanes.call(lane) { lane in
                guard let lane = lane as? StandLane, let client = lane.stand?.clients[number] else { return }
                client.arrive(on: lane, arrived)
            }
        }
    }

    fileprivate var isBusy: Bool { !resumed.isEmpty || !closing.isEmpty || !moving.isEmpty || hasWork }
}

/// A node of some lanes, all driven by the test's own thread.
final class StreamStand {
    private final class Bell: Sendable { let isRung = Atomic<Bool>(false) }

    let router: Router
    let site: StreamSite
    private(set) var lanes: [StandLane] = []
    fileprivate var clients: [Int: StandClient] = [:]
    private let bells: [Bell]
    private let adapter: HTTPAdapter
    private var made = 0
    private var publishers: [Principal] = []
    private(set) var now: UInt64 = 1_000

    init(lanes count: Int = 1, limits: Limits = Limits(), rules: [AccessRule] = []) throws {
        let bells = (0..<count).map { _ in Bell() }
        self.bells = bells
        router = Router(limits: limits, accessRules: try AccessRules(rules), hashKey: 0x1234_5678_9ABC_DEF0)
        site = StreamSite(router)
        adapter = HTTPAdapter(site: site) { 0 }
        let shared = Lanes(
            wakes: bells.map { bell in { bell.isRung.store(true, ordering: .relaxed) } }, limits: limits)
        for number in 0..<count {
            let lane = StandLane(number: number, lanes: shared)
            lane.stand = self
            lane.now = now
            lanes.append(lane)
            publishers.append(Principal(identity: Identity(user: "publisher"), clientID: "", router: router))
        }
    }

    /// A new connection; nothing has been asked yet.
    func client(lane: Int = 0) -> StandClient {
        made += 1
        let client = StandClient(made, self, lanes[lane])
        clients[made] = client
        client.conversation = adapter.makeConversation(link: client.link, on: lanes[lane]) as? HTTPConversation
        return client
    }

    /// Publishes an event; the lane makes a pass, then all until nothing is left to do.
    @discardableResult
    func publish(
        _ topic: String, _ payload: [UInt8], qos: UInt8 = 0, retained: Bool = false, expiresAt: UInt64 = 0,
        properties: [UInt8] = [], lane: Int = 0
    ) -> PublishOutcome {
        let event = Array(topic.utf8).withUnsafeBytes { topic in
            payload.withUnsafeBytes { payload in
                properties.withUnsafeBytes { properties in
                    Event(
                        topic: topic, properties: properties, payload: payload, qos: qos, isRetained: retained,
                        expiresAt: expiresAt)
                }
            }
        }
        let outcome = router.publish(event, as: publishers[lane], on: lanes[lane])
        lanes[lane].finishPass()
        settle()
        return outcome
    }

    /// Publishes a text.
    @discardableResult
    func publish(_ topic: String, _ text: String, qos: UInt8 = 0, retained: Bool = false, lane: Int = 0)
        -> PublishOutcome
    {
        publish(topic, Array(text.utf8), qos: qos, retained: retained, lane: lane)
    }

    /// What a lane keeps for streams.
    func streams(_ lane: Int = 0) -> StreamLane { StreamLane.of(site.context.state(of: lanes[lane]), on: lanes[lane]) }

    /// Passes of all lanes until none has anything to do.
    func settle() {
        var isBusy = true
        while isBusy {
            isBusy = false
            for lane in lanes {
                let isRung = bells[lane.number].isRung.exchange(false, ordering: .relaxed)
                guard isRung || lane.isBusy else { continue }
                lane.readMail()
                lane.finishPass()
                isBusy = true
            }
        }
        for (number, client) in clients where client.hasEnded { clients[number] = nil }
    }

    /// Time goes on; timers and chores of all lanes run.
    func advance(milliseconds: UInt64) {
        now += milliseconds
        for lane in lanes { lane.now = now }
        for client in clients.values.sorted(by: { $0.number < $1.number }) where client.closing == nil {
            guard let deadline = client.deadline, deadline <= now else { continue }
            client.deadline = nil
            switch client.conversation.tick(on: client.lane) {
            case .success(let next): if let next { client.deadline = next }
            case .failure(let reason): client.close(reason)
            }
        }
        for lane in lanes {
            for chore in lane.chores { chore(lane) }
            lane.finishPass()
        }
        settle()
    }

    /// What all lanes have counted.
    var counters: Counters { lanes.reduce(into: Counters()) { $0.add($1.counters) } }
    func dropped(_ reason: DropReason) -> Int { Int(counters.dropped[reason.rawValue]) }
    func closed(_ reason: CloseReason) -> Int { Int(counters.closed[reason.rawValue]) }
}
