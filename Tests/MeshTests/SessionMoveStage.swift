import MQTT
import Synchronization
import TestSupport

@testable import Core
@testable import Mesh

/// Nodes with real routers, lanes, MQTT conversations and `SessionMoves`, joined by queues of frames in memory. Time
/// stands still until a test moves it; the test's thread does everything.

/// A connection's output.
final class StageLink: CollectingLink {
    unowned let connection: StageConnection

    init(_ connection: StageConnection) {
        self.connection = connection
        super.init(windowBytes: 256)
    }

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
                guard let connection = (lane as? StageLane)?.node?.connections[number], connection.closing == nil,
                    let conversation = connection.conversation
                else { return }
                body(conversation, answer, lane)
            }
        }
    }

    override func move(to lane: Int, arrived: @escaping @Sendable (Conversation, Lane) -> Void) {
        connection.lane.moving.append((connection, lane, arrived))
    }

    override func tick(at deadline: UInt64) { connection.deadline = deadline }
}

/// What the reactor's connection is.
final class StageConnection {
    let number: Int
    fileprivate(set) var lane: StageLane
    fileprivate(set) var conversation: Conversation?
    private(set) var link: StageLink!
    fileprivate var carry: [UInt8] = []
    fileprivate(set) var closing: CloseReason?
    fileprivate var hasEnded = false
    fileprivate(set) var isPaused = false
    fileprivate var deadline: UInt64?

    fileprivate init(number: Int, lane: StageLane) {
        self.number = number
        self.lane = lane
        link = StageLink(self)
    }

    func close(_ reason: CloseReason) {
        guard closing == nil else { return }
        closing = reason
        lane.closing.append(self)
    }

    fileprivate func consume() {
        guard let intake = conversation?.take(carry, on: lane, isOpen: { closing == nil }) else { return }
        carry = intake.rest
        switch intake.stop {
        case .paused: isPaused = true
        case .close(let reason): close(reason)
        case .waiting, .yielding, .ended: break
        }
    }
}

/// A lane whose loop is a function.
final class StageLane: Lane {
    fileprivate weak var node: StageNode?
    fileprivate var closing: [StageConnection] = []
    fileprivate var resumed: [StageConnection] = []
    fileprivate var moving: [(StageConnection, Int, @Sendable (Conversation, Lane) -> Void)] = []

    fileprivate var isBusy: Bool { !resumed.isEmpty || !closing.isEmpty || !moving.isEmpty || hasWork || hasPutOff }

    func pass() {
        readMail()
        routeDeferred()
        while !resumed.isEmpty || !closing.isEmpty {
            let again = resumed
            resumed = []
            for connection in again where connection.closing == nil && !connection.isPaused { connection.consume() }
            let ended = closing
            closing = []
            for connection in ended where !connection.hasEnded {
                connection.hasEnded = true
                connection.deadline = nil
                if let reason = connection.closing { connection.conversation?.close(reason, on: self) }
            }
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
                guard let lane = lane as? StageLane, let connection = lane.node?.connections[number],
                    let conversation = connection.conversation
                else { return }
                connection.lane = lane
                arrived(conversation, lane)
            }
        }
    }
}

/// Everybody is who they say.
struct StageAuthenticator: Authenticator {
    func authenticate(
        _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
    ) -> AuthenticationResult? { .accepted(Identity(user: credentials.user)) }
}

/// In place of the mesh's forwarding: takes every event of this node's clients to the nodes that want some.
final class StageRelay: Port {
    struct Item {
        var topic: [UInt8]
        var payload: [UInt8]
        var qos: UInt8
        var identity: UInt64
    }

    weak var node: StageNode?

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        guard !run.pointee.isFromMesh, let node, let stage = node.stage else { return 0 }
        for index in 0..<run.pointee.count {
            let event = run.pointee.event(index)
            let item = Item(
                topic: Array(event.topic), payload: Array(event.payload), qos: event.qos, identity: event.identity)
            for other in stage.nodes where other !== node && node.knownWants[other.number] {
                stage.events[node.number][other.number].append((stage.now + stage.eventDelay, item))
            }
        }
        return 0
    }
}

/// One node.
final class StageNode: ControlPlane {
    final class Bell: Sendable { let isRung = Atomic<Bool>(false) }

    let number: Int
    weak var stage: Stage?
    let router: Router
    private(set) var lanes: [StageLane] = []
    fileprivate var connections: [Int: StageConnection] = [:]
    private let bells: [Bell]
    private let adapter: MQTTAdapter
    private(set) var moves: SessionMoves!
    let relay = StageRelay()
    let nodes: NodeTable
    var isDead = false
    /// Which others this one believes to want events.
    fileprivate var knownWants: [Bool]
    fileprivate var wanted = false
    /// Which others it has been told there are.
    private var told: [Bool]
    private var seed: UInt64
    private var routesVersion: UInt64 = 0
    private var connectionsMade = 0
    private(set) var log: [String] = []
    /// What the part has said to be wrong with frames.
    var complaints: [String] = []

    init(_ number: Int, of count: Int, lanes laneCount: Int, limits: Limits, stage: Stage) {
        self.number = number
        self.stage = stage
        let bells = (0..<laneCount).map { _ in Bell() }
        self.bells = bells
        router = Router(limits: limits, hashKey: 0x1234_5678 &+ UInt64(number))
        let counter = Counter()
        adapter = MQTTAdapter(
            routers: ["default": router], authenticator: StageAuthenticator(), random: { counter.next() })
        nodes = NodeTable(own: Stage.id(number), epoch: UInt64(number + 1) << 16, instance: 7, name: "n\(number)")
        knownWants = Array(repeating: false, count: count)
        told = knownWants
        seed = UInt64(number) &* 7_919 &+ 17
        let shared = Lanes(
            wakes: bells.map { bell in { bell.isRung.store(true, ordering: .relaxed) } }, limits: limits)
        for place in 0..<laneCount {
            let lane = StageLane(number: place, lanes: shared)
            lane.node = self
            lane.now = stage.now
            lanes.append(lane)
        }
        for other in 0..<count where other != number {
            guard let index = nodes.index(of: Stage.id(other)) else { continue }
            nodes.update(index, epoch: UInt64(other + 1) << 16, instance: 7, name: "n\(other)")
        }
        moves = SessionMoves(plane: self, router: router, lane: lanes[0])
        relay.node = self
        router.register(relay, on: lanes[0])
        if let all = try? TopicFilter("#", grammar: .mqtt) {
            _ = router.subscribe(
                relay, Subscription(filter: all, options: .qos(2)), as: Principal.node(router), on: lanes[0])
        }
    }

    private final class Counter: Sendable {
        private let value = Atomic<UInt64>(0)
        func next() -> UInt64 { value.add(1, ordering: .relaxed).newValue }
    }

    /// The local index of another node of the stage.
    func index(of other: Int) -> NodeIndex { nodes.known(Stage.id(other)) ?? -1 }

    // MARK: ControlPlane

    var now: UInt64 { stage?.now ?? 0 }
    func wallClock() -> UInt64 { 1_700_000_000_000 + now }
    func random() -> UInt64 {
        seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return ClientHash.mix(seed)
    }
    var establishedLinks: [LinkNumber] { [] }
    func peer(of link: LinkNumber) -> NodeIndex { 0 }
    func send(_ frame: [UInt8], on link: LinkNumber) {}
    func route(_ frame: [UInt8], to node: NodeIndex, isBulk: Bool) -> Bool {
        guard let stage, isReachable(node) else { return false }
        return stage.send(frame, from: number, to: Stage.number(nodes[node].id), isBulk: isBulk)
    }
    func isReachable(_ node: NodeIndex) -> Bool {
        return node == 0 || told[Stage.number(nodes[node].id)]
    }
    func wake(at time: UInt64) {}
    func log(_ level: MeshLogLevel, _ message: String) { log.append(message) }

    /// Tells the part which nodes there are.
    func tellRoutes() {
        guard let stage else { return }
        for other in told.indices { told[other] = other != number && stage.isJoined(number, other) }
        routesVersion += 1
        var routes = Routes()
        routes.links = (0..<nodes.count).map { $0 != 0 && isReachable($0) ? $0 : 0 }
        routes.version = routesVersion
        moves.routesChanged(routes)
    }

    // MARK: Work

    func accept(lane: Int) -> StageConnection {
        let connection = StageConnection(number: connectionsMade, lane: lanes[lane])
        connectionsMade += 1
        connections[connection.number] = connection
        connection.conversation = adapter.makeConversation(link: connection.link, on: lanes[lane])
        return connection
    }

    func receive(_ connection: StageConnection, _ bytes: [UInt8]) {
        guard connection.closing == nil else { return }
        connection.carry += bytes
        if !connection.isPaused { connection.consume() }
        connection.lane.pass()
    }

    func cut(_ connection: StageConnection) {
        connection.close(.connectionLost)
        connection.lane.pass()
    }

    /// Events from another node, as the mesh's port hands them on.
    func publish(_ item: StageRelay.Item) {
        let lane = lanes[0]
        let turn = lane.turn
        item.topic.withUnsafeBytes { topic in
            item.payload.withUnsafeBytes { payload in
                guard let start = topic.baseAddress else { return }
                turn.events[0] = EventView(payload: payload.baseAddress ?? start, payloadLength: payload.count)
                turn.runs.initialize(
                    to: EventRun(
                        topic: start, topicLength: topic.count, events: turn.events, count: 1, wire: start,
                        wireLength: 0, properties: start, propertiesLength: 0, publisher: relay.address, layout: .none,
                        qos: item.qos, isRetained: false))
                turn.runs.pointee.isFromMesh = true
                turn.runs.pointee.identity = item.identity
                (turn.runCount, turn.eventCount) = (1, 1)
                turn.principal = Principal.node(router)
                router.route(turn, on: lane)
                turn.removeAll()
            }
        }
        lane.routeDeferred()
    }

    func receive(_ frame: [UInt8], from other: Int) {
        frame.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { return }
            guard let type = FrameType(rawValue: FrameHeader(base).type) else { return complaints.append("no frame") }
            var reader = WireReader(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]))
            if let complaint = moves.receive(type, &reader, from: index(of: other)) { complaints.append(complaint) }
        }
    }

    func setTime(_ now: UInt64) {
        for lane in lanes { lane.now = now }
        for connection in connections.values.sorted(by: { $0.number < $1.number }) where connection.closing == nil {
            guard let deadline = connection.deadline, deadline <= now else { continue }
            connection.deadline = nil
            switch connection.conversation?.tick(on: connection.lane) {
            case .success(let next): connection.deadline = next
            case .failure(let reason): connection.close(reason)
            case nil: break
            }
        }
        if now % 1_000 == 0 { for lane in lanes { for chore in lane.chores { chore(lane) } } }
    }

    /// Passes of all lanes until none has anything to do.
    func settle() {
        var isBusy = true
        while isBusy {
            isBusy = false
            for lane in lanes {
                let isRung = bells[lane.number].isRung.exchange(false, ordering: .relaxed)
                guard isRung || lane.isBusy else { continue }
                lane.pass()
                isBusy = true
            }
        }
        for (number, connection) in connections where connection.hasEnded { connections[number] = nil }
    }

    func dropped(_ reason: DropReason) -> Int {
        lanes.reduce(0) { $0 + Int($1.counters.dropped[reason.rawValue]) }
    }
}

/// The nodes and what is between them.
final class Stage {
    private(set) var now: UInt64 = 1_000
    private(set) var nodes: [StageNode] = []
    /// Milliseconds from node to node.
    var controlDelay: UInt64 = 1, bulkDelay: UInt64 = 2, eventDelay: UInt64 = 2
    /// Until others know that a node wants events, or does not any more.
    var interestDelay: UInt64 = 25
    /// Frames that get lost: called with sender, receiver and kind.
    var loses: (Int, Int, SessionFrame) -> Bool = { _, _, _ in false }
    /// Sees every frame that is sent.
    var watches: ([UInt8]) -> Void = { _ in }
    private var cuts: Set<[Int]> = []
    private var frames: [(at: UInt64, from: Int, to: Int, bytes: [UInt8])] = []
    private(set) var framesSent = 0
    var largestFrame = 0
    fileprivate var events: [[[(at: UInt64, item: StageRelay.Item)]]]
    private var wants: [(at: UInt64, node: Int, isWanted: Bool)] = []

    init(_ count: Int, lanes: Int = 2, limits: Limits = Limits()) {
        events = Array(repeating: Array(repeating: [], count: count), count: count)
        for number in 0..<count {
            nodes.append(StageNode(number, of: count, lanes: lanes, limits: limits, stage: self))
        }
        for node in nodes { node.tellRoutes() }
        // Until homes are certain of what they know.
        advance(500)
    }

    static func id(_ number: Int) -> NodeID { NodeID(high: 0xA0, low: UInt64(number) &* 77_777 &+ 5) }
    static func number(_ id: NodeID) -> Int { Int((id.low - 5) / 77_777) }

    func isJoined(_ a: Int, _ b: Int) -> Bool {
        !nodes[a].isDead && !nodes[b].isDead && !cuts.contains([min(a, b), max(a, b)])
    }

    /// Cuts two nodes off from each other, or joins them again. They notice at once, or not at all.
    func setCut(_ a: Int, _ b: Int, _ isCut: Bool, isNoticed: Bool = true) {
        if isCut { cuts.insert([min(a, b), max(a, b)]) } else { cuts.remove([min(a, b), max(a, b)]) }
        if isNoticed { for node in nodes where !node.isDead { node.tellRoutes() } }
    }

    func kill(_ number: Int) {
        nodes[number].isDead = true
        for node in nodes where !node.isDead { node.tellRoutes() }
    }

    fileprivate func send(_ frame: [UInt8], from: Int, to: Int, isBulk: Bool) -> Bool {
        framesSent += 1
        watches(frame)
        largestFrame = max(largestFrame, frame.count)
        guard let kind = SessionFrame(rawValue: frame[FrameHeader.size]), !loses(from, to, kind) else { return true }
        frames.append((now + (isBulk ? bulkDelay : controlDelay), from, to, frame))
        return true
    }

    /// Work that can be done now.
    func settle() { for node in nodes where !node.isDead { node.settle() } }

    func advance(_ milliseconds: Int) { for _ in 0..<milliseconds { step() } }

    private func step() {
        settle()
        now += 1
        for node in nodes where !node.isDead { node.setTime(now) }
        let due = frames.filter { $0.at <= now }
        frames.removeAll { $0.at <= now }
        for frame in due where isJoined(frame.from, frame.to) {
            nodes[frame.to].receive(frame.bytes, from: frame.from)
        }
        for from in nodes.indices {
            for to in nodes.indices {
                // Guaranteed events wait until there is a way, as in a stream.
                while let first = events[from][to].first, first.at <= now, isJoined(from, to) {
                    events[from][to].removeFirst()
                    nodes[to].publish(first.item)
                }
            }
        }
        for want in wants where want.at <= now {
            for node in nodes { node.knownWants[want.node] = want.isWanted }
        }
        wants.removeAll { $0.at <= now }
        for node in nodes where !node.isDead { _ = node.moves.tick() }
        settle()
        for node in nodes where !node.isDead {
            let isWanted = node.router.subscriptionCount > 1
            guard isWanted != node.wanted else { continue }
            node.wanted = isWanted
            wants.append((now + interestDelay, node.number, isWanted))
        }
    }

    /// A client id whose home is a node, for which it is to be.
    func clientID(homeAt number: Int, _ prefix: String = "client") -> String {
        for attempt in 0..<10_000 {
            let id = "\(prefix)\(attempt)"
            let client = ClientHash(id, namespace: "default")
            let node = nodes.first { !$0.isDead }
            guard let node, node.nodes[node.moves.home(of: client)].id == Self.id(number) else { continue }
            return id
        }
        return prefix
    }
}
