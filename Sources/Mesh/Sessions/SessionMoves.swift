import Core

/// What became of sessions that moved between nodes, or were to.
public struct SessionMoveCounters: Sendable, Equatable {
    /// Claims that were decided for clients of this node.
    public var claims: UInt64 = 0
    /// Sessions that came here, and that went to other nodes.
    public var movedIn: UInt64 = 0, movedOut: UInt64 = 0
    /// Clients that went on without their session, because it did not come in time.
    public var timedOut: UInt64 = 0
    /// Claims of another user's session.
    public var refused: UInt64 = 0
    /// Clients that lost their id to a later connection at another node.
    public var lost: UInt64 = 0
    /// Claims that had to wait because of ``SessionMoves/maxArrivals``, ``SessionMoves/maxDepartures`` or
    /// ``SessionMoves/maxIncomingBytes``, and those that were not made because there are too many.
    public var delayed: UInt64 = 0, unclaimed: UInt64 = 0
    /// Sessions larger than ``SessionMoves/maxSessionBytes``, which stay where they are.
    public var tooLarge: UInt64 = 0
    /// Sessions that stay where they are because nothing was heard of the node that claimed them.
    public var abandoned: UInt64 = 0
    /// What came late to an old node and could not be brought to the new one any more.
    public var tailsLost: UInt64 = 0
    /// Bytes of sessions sent to other nodes.
    public var bytesOut: UInt64 = 0

    /// Nothing yet.
    public init() {}
}

/// Sessions follow their clients from node to node, `docs/decisions/0015`: claims to client ids are decided at the id's
/// home, the node that claims gets the session from the one that has it.
///
/// Confined to the mesh's lane. Sessions are on any lane; calls cross by mail, and come back by it.
final class SessionMoves {
    /// For how long a client that comes back waits for its session, in milliseconds.
    static let waitMilliseconds: UInt64 = 2_000
    /// From the new node's subscribing until it asks for what is in the session: other nodes learn meanwhile that
    /// events are to go there too. What they still send to the old one alone follows later.
    static let settleMilliseconds: UInt64 = 100
    /// For how long the old node goes on collecting what comes late; less than `SessionMove.recentMilliseconds`.
    static let ghostMilliseconds: UInt64 = 3_000
    /// The same at a node that is stopping.
    static let stoppingGhostMilliseconds: UInt64 = 500
    /// Until a client whose claim was decided must have a session.
    static let doubtMilliseconds: UInt64 = 5_000
    /// How often it sends that.
    static let tailMilliseconds: UInt64 = 100
    /// The grain of all times.
    static let tickMilliseconds: UInt64 = 5
    /// Until something that was not answered is asked again.
    static let retryMilliseconds: UInt64 = 200
    /// Until a move of which nothing is heard any more is given up, by either side.
    static let giveUpMilliseconds: UInt64 = 10_000
    /// For how long after a change of nodes a home that does not know a client id waits for those who do.
    static let uncertainMilliseconds: UInt64 = 300
    /// Connections of one client that wait for one move.
    static let maxWaiters = 16
    /// Claims that a home lets wait after a change of nodes; further ones are decided by what it knows.
    static let maxDeferred = 10_000

    /// A session that this node has, as far as it knows.
    struct Holding {
        let clientID: String
        var count: UInt64
        /// The home that has been told.
        var home: NodeIndex
    }

    /// Sessions on their way here at once; further ones begin when there is room, if their clients still wait then.
    var maxArrivals = 1_024
    /// Sessions on their way to other nodes at once; further ones are asked for again.
    var maxDepartures = 1_024
    /// Bytes of all sessions on their way here; parts beyond it are sent again.
    var maxIncomingBytes = 256 << 20
    /// Bytes of one session; a larger one stays where it is. At most ``IncomingTransfer/maxBytes``.
    var maxSessionBytes = IncomingTransfer.maxBytes

    unowned let plane: any ControlPlane
    let router: Router
    /// The mesh's lane, which owns this.
    unowned let lane: Lane
    var counters = SessionMoveCounters()

    var home: SessionHome
    var held = ClientTable<Holding>()
    /// Claims made here, in their order, also by their requests; and the one for each client that is being decided.
    var arrivals: [SessionArrival] = []
    var arrivalsByRequest: [UInt64: SessionArrival] = [:]
    var claiming: [ClientHash: SessionArrival] = [:]
    /// Moves under way, of ``arrivals``.
    var movesIn = 0
    var incomingBytes = 0
    /// Sessions that other nodes have claimed, in the order of the claims, also by their requests; and the one for each
    /// client that is still here, or has gone last.
    var departures: [SessionDeparture] = []
    var departuresByRequest: [UInt64: SessionDeparture] = [:]
    var leaving: [ClientHash: SessionDeparture] = [:]
    var ghosts: [ClientHash: SessionDeparture] = [:]
    var departing = 0

    /// Nodes there is a route to, this one first.
    var reachable: [(node: NodeIndex, id: NodeID)]
    /// Until then a client id that nobody has announced may be one that somebody has.
    var certainAt: UInt64 = 0
    var deferred: [ClientHash: [DeferredClaim]] = [:]
    var deferredOrder: [ClientHash] = []
    var sweep = SessionSweep()
    /// Clients whose claims have been decided, to see whether they have a session; in the order of time.
    var doubtful: [(at: UInt64, client: ClientHash)] = []
    var released: [(client: ClientHash, count: UInt64)] = []
    var tailAt: UInt64 = .max

    /// Whether the node is about to stop, and whether it gives sessions away no more.
    var isStopping = false, isClosed = false

    /// Frames to this node itself.
    private var loopback: [[UInt8]] = []
    private var isDraining = false
    private var wakeAt = UInt64.max

    init(plane: any ControlPlane, router: Router, lane: Lane) {
        self.plane = plane
        self.router = router
        self.lane = lane
        home = SessionHome(maxEntries: lane.limits.maxSessions)
        let own = plane.nodes[NodeTable.own]
        reachable = [(NodeTable.own, own.id)]
        lane.belongings[Self.belonging] = self
        let base = ClientHash.mix(own.id.low &+ ClientHash.mix(own.id.high ^ own.epoch ^ own.instance))
        router.attach(SessionGate(lanes: lane.lanes, lane: lane.number), identityBase: max(1, base))
    }

    static let belonging = "mesh.sessions"

    // MARK: Told by the node

    /// A frame of type session from any node.
    /// - Returns: what is wrong with it; nil when it was taken.
    func receive(_ type: FrameType, _ reader: inout WireReader, from node: NodeIndex) -> String? {
        guard type == .session else { return "not a frame of sessions" }
        defer { finish() }
        return dispatch(&reader, from: node)
    }

    /// Which nodes can be reached has changed, perhaps.
    func routesChanged(_ routes: Routes) {
        var now: [(node: NodeIndex, id: NodeID)] = [(NodeTable.own, plane.nodes[NodeTable.own].id)]
        for node in 1..<max(plane.nodes.count, 1) where routes.isReachable(node) {
            now.append((node, plane.nodes[node].id))
        }
        guard now.map(\.node) != reachable.map(\.node) else { return }
        reachable = now
        certainAt = plane.now + Self.uncertainMilliseconds
        schedule(certainAt)
        beginSweep()
        finish()
    }

    /// A node has appeared, or begun a new life without its former sessions.
    func nodeChanged(_ node: NodeIndex, isRestart: Bool) {
        guard isRestart else { return }
        // It has forgotten what it was told as a home.
        for place in 0..<held.count where held.values[place].home == node {
            var holding = held.values[place]
            holding.home = -1
            held.set(at: place, holding)
        }
        beginSweep()
        finish()
    }

    /// Whether nothing is under way with a node. What is remembered of its claims names its life.
    func hasForgotten(_ node: NodeIndex) -> Bool {
        deferred.isEmpty && !departures.contains { $0.target == node } && !arrivals.contains { $0.source == node }
    }

    /// Does what is due.
    /// - Returns: when something will be, at the latest.
    func tick() -> UInt64? {
        if plane.now >= wakeAt {
            wakeAt = .max
            tickArrivals()
            tickDepartures()
            tickHome()
            tickDoubtful()
            tickSweep()
            finish()
        }
        return wakeAt == .max ? nil : wakeAt
    }

    /// The end of whatever was done.
    func finish() {
        guard !isDraining else { return }
        isDraining = true
        flushReleases()
        while !loopback.isEmpty {
            let frames = loopback
            loopback = []
            for frame in frames {
                frame.withUnsafeBytes { bytes in
                    var reader = WireReader(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]))
                    _ = dispatch(&reader, from: NodeTable.own)
                }
            }
            flushReleases()
        }
        isDraining = false
    }

    // MARK: Means

    /// Sends a frame to a node, which may be this one.
    @discardableResult
    func send(_ frame: [UInt8], to node: NodeIndex, isBulk: Bool = false) -> Bool {
        guard node != NodeTable.own else {
            loopback.append(frame)
            return true
        }
        return plane.route(frame, to: node, isBulk: isBulk)
    }

    /// Asks for a tick. What is due within a few milliseconds is done together.
    func schedule(_ time: UInt64) {
        guard time < wakeAt else { return }
        let time = (time + Self.tickMilliseconds - 1) / Self.tickMilliseconds * Self.tickMilliseconds
        guard time < wakeAt else { return }
        wakeAt = time
        plane.wake(at: time)
    }

    /// The home of a client id.
    func home(of client: ClientHash) -> NodeIndex {
        var (best, weight) = (reachable[0], client.weight(reachable[0].id))
        for node in reachable.dropFirst() {
            let other = client.weight(node.id)
            if other > weight || other == weight && node.id > best.id { (best, weight) = (node, other) }
        }
        return best.node
    }

    private func dispatch(_ reader: inout WireReader, from node: NodeIndex) -> String? {
        guard let kind = SessionFrame(rawValue: reader.u8()) else { return "no such frame of sessions" }
        switch kind {
        case .claim: receiveClaim(&reader, from: node)
        case .granted: receiveGrant(&reader, from: node)
        case .take: receiveTake(&reader, from: node)
        case .answer: receiveAnswer(&reader, from: node)
        case .fetch: receiveRequest(&reader) { fetch($0, from: node) }
        case .done: receiveRequest(&reader) { done($0, from: node) }
        case .doneHeard: receiveRequest(&reader) { doneHeard($0, from: node) }
        case .abort: receiveRequest(&reader) { aborted($0, from: node) }
        case .part: receivePart(&reader, from: node)
        case .partHeard: receivePartHeard(&reader, from: node)
        case .announce: receiveAnnouncements(&reader, from: node)
        case .superseded: receiveSuperseded(&reader)
        case .release: receiveReleases(&reader, from: node)
        }
        return reader.isWhole ? nil : "a frame of sessions is malformed"
    }

    private func receiveRequest(_ reader: inout WireReader, _ body: (UInt64) -> Void) {
        let request = reader.u64()
        if reader.isWhole { body(request) }
    }

    /// A frame that has nothing but a request.
    func frame(_ kind: SessionFrame, _ request: UInt64) -> [UInt8] {
        var writer = WireWriter.session(kind)
        writer.u64(request)
        return writer.finish()
    }
}

extension Lane {
    /// The mesh's part, on the mesh's lane.
    var sessionMoves: SessionMoves? { belongings[SessionMoves.belonging] as? SessionMoves }
}

/// What adapters have of ``SessionMoves``, on any lane.
final class SessionGate: SessionMover {
    private let lanes: Lanes
    private let lane: Int

    init(lanes: Lanes, lane: Int) {
        self.lanes = lanes
        self.lane = lane
    }

    func claim(_ claim: SessionClaim, on lane: Lane, answer: (@Sendable (SessionClaimAnswer) -> Void)?) {
        let place = lane.number
        lane.callLater(self.lane) { lane in
            guard let moves = lane.sessionMoves else {
                answer?(.proceed)
                return
            }
            moves.claim(claim, place: place, answer: answer)
        }
    }

    func sessionEnded(_ clientID: String) { lanes.call(lane) { $0.sessionMoves?.ended(clientID) } }
}
