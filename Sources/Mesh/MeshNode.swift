public import Core

/// What the mesh needs from outside: sockets, clocks, chance and disk. The node has one; so has the simulation.
///
/// Threading: called on the mesh's lane.
open class MeshHost {
    #if DEBUG
        /// Mistakes to be made, for tests of the tests.
        var sabotage: Sabotage = []
    #endif

    /// For subclasses.
    public init() {}
    /// Dials `host:port`. When there is a connection, its conversation is ``MeshNode/dialled(_:link:on:)``; when not,
    /// ``MeshNode/dialFailed(_:_:)`` is called, both on the mesh's lane.
    open func dial(_ address: String, ticket: Int) {}
    /// Milliseconds since 1970.
    open func wallClock() -> UInt64 { 0 }
    /// The same for any thread.
    open func makeWallClock() -> @Sendable () -> UInt64 { { 0 } }
    /// Monotonic microseconds.
    open func microseconds() -> UInt64 { 0 }
    /// Microseconds since 1970.
    open func wallMicroseconds() -> UInt64 { wallClock() * 1_000 }
    /// Unpredictable bits.
    open func random() -> UInt64 { 0 }
    /// A line of the log.
    open func log(_ level: MeshLogLevel, _ message: String) {}
    /// A peer was refused, or a policy kept something back.
    open func audit(_ record: AuditRecord) {}
    /// Keeps the number that this node has in destination sets for its next life.
    open func keep(shortID: UInt16) {}
    /// Keeps the epoch, which had to be raised.
    open func keep(epoch: UInt64) {}
}

/// The mesh as one node sees it: links, routes, who wants what, and the events on their way. Made of parts that do not
/// know each other; this is where they meet.
///
/// Threading: confined to the mesh's lane, which is where its connections, its port and its alarm are.
public final class MeshNode {
    /// The configuration.
    public private(set) var settings: MeshSettings
    let identity: MeshIdentity
    let router: Router
    let lane: Lane
    let host: MeshHost
    let nodes: NodeTable
    /// Events for other nodes come in here.
    let port: MeshPort
    private(set) var departures: Departures!
    private(set) var forwarder: Forwarder!
    private(set) var arrivals: Arrivals!
    private(set) var probes: Probes!
    private(set) var inquiries: Inquiries!
    private(set) var linkState: LinkState!
    private(set) var interest: Interest!
    private(set) var streams: Streams!
    private(set) var retained: RetainedSync!
    private(set) var sessions: SessionMoves!
    let alarm: Alarm

    /// This life's number; raised when another node has heard of a later one.
    var epoch: UInt64 { nodes[NodeTable.own].epoch }

    // Links
    /// In the order of their numbers.
    var links: [MeshLink] = []
    var nextLinkNumber: LinkNumber = 1
    /// Control connections whose handshake is under way.
    var handshakes: [MeshConversation] = []
    var dials = Dials()
    /// What was dialled and has not answered: by ticket the target, and the link whose data connection it is to be.
    var tickets: [Int: (target: Int, dataOf: LinkNumber)] = [:]
    var nextTicket = 1
    /// What has been counted.
    var counters = MeshCounters()
    /// Links that are not there any more, the one that went first at the front.
    var gone: [GoneLink] = []
    var convergence = Convergence()
    /// From when on the audit is told of something that a policy keeps back again.
    var keptAuditAt: UInt64 = 0

    /// Whether it has taken over what its neighbours know, or found that it has none.
    public private(set) var isJoined = false
    /// Why it has left for good: because of another node with its id, or because it was told to; nil while it takes
    /// part.
    public private(set) var hasLeft: String?
    /// What those are told who dial it afterwards.
    private(set) var leftBecause = ByeReason.duplicateNode
    /// To be called when it has left as it was told to.
    private var leaving: [() -> Void] = []

    /// How a stopping node waits for its sessions to go.
    private struct Emptying {
        /// Until then clients that were sent away may come to other nodes.
        let clientsUntil: UInt64
        /// Until then sessions that are on their way may arrive.
        let endsAt: UInt64
        /// Sessions that had gone before.
        let movedOut: UInt64
        /// Whether something else at this node still gives events to other nodes.
        var isHeld: Bool
        let done: () -> Void
    }

    /// While the node stops and its sessions may still go to other nodes.
    private var emptying: Emptying?
    /// When the node began to stop.
    private var drainingSince: UInt64?
    private let startedAt: UInt64
    private var isTicking = false

    /// The same for one that dials nobody.
    private static let lonelyMilliseconds: UInt64 = 1_000

    /// For how long clients that were sent away have time to come to another node, in milliseconds.
    private static let returnMilliseconds: UInt64 = 1_000
    /// For how long a stopping node stays at least, so that others find other ways, and at most, in milliseconds.
    private static let drainMilliseconds: UInt64 = 150
    private static let longestDrain: UInt64 = 3_000
    /// The same for a node that leaves for good: what others have not taken by then is lost.
    private static let longestLeave: UInt64 = 10_000

    /// For how long a node without neighbours counts as joining, in milliseconds.
    private static let joinMilliseconds: UInt64 = 3_000

    /// Makes the mesh's part of a node and begins to dial; connections of the listener are ``accepted(_:on:)``.
    public init(_ settings: MeshSettings, _ identity: MeshIdentity, router: Router, lane: Lane, host: MeshHost) {
        self.settings = settings
        self.identity = identity
        self.router = router
        self.lane = lane
        self.host = host
        startedAt = lane.now
        nodes = NodeTable(
            own: identity.id, epoch: identity.epoch, instance: identity.instance, name: identity.name)
        port = MeshPort()
        alarm = Alarm { lane in MeshNode.of(lane)?.tick() }
        lane.belongings[Self.belonging] = self
        lane.alarms.append(alarm)
        makeParts()
        for entry in settings.links { dials.add(entry, isConfigured: true, at: lane.now) }
        alarm.at = lane.now
    }

    private func makeParts() {
        port.node = self
        departures = Departures(self)
        forwarder = Forwarder(self)
        arrivals = Arrivals(self)
        probes = Probes(self)
        inquiries = Inquiries(self)
        var own = LinkStateSettings(name: identity.name)
        own.addresses = settings.advertise
        own.isTransit = settings.isTransit
        own.shortID = identity.shortID
        linkState = LinkState(plane: self, events: self, settings: own)
        let lanes = lane.lanes
        let number = lane.number
        router.meshTakesAll = true
        router.attachMesh(port, on: lane) {
            lanes.call(number) { MeshNode.of($0)?.interestChanged() }
        }
        interest = Interest(plane: self, router: router, maxFilters: settings.maxFilters)
        var streamSettings = StreamSettings()
        streamSettings.maxStreamBytes = settings.maxStreamBytes
        streams = Streams(plane: self, forwarding: self, settings: streamSettings)
        router.keepRetainedVersions(writer: identity.id.high, wallClock: host.makeWallClock()) {
            lanes.call(number) { MeshNode.of($0)?.retained.localChanged() }
        }
        retained = RetainedSync(plane: self, router: router) { [unowned self] in arrivals.deliver($0, $1) }
        sessions = SessionMoves(plane: self, router: router, lane: lane)
    }

    private static let belonging = "mesh"

    /// The mesh of a lane; nil on lanes that are not the mesh's.
    public static func of(_ lane: Lane) -> MeshNode? { lane.belongings[belonging] as? MeshNode }

    // MARK: Time

    private func interestChanged() {
        interest.localChanged()
        schedule()
    }

    /// Does whatever is due.
    func tick() {
        isTicking = true
        defer {
            isTicking = false
            schedule()
        }
        partDeadline = .max
        judgeEmptying()
        guard hasLeft == nil else {
            // What others wanted is removed little by little, and what came from them is routed.
            for next in [interest.tick(), streams.tick(), arrivals.tick()] {
                if let next { partDeadline = min(partDeadline, next) }
            }
            return
        }
        tickLinks()
        learnTargets()
        if drainingSince == nil { dialDue() }
        let deadlines = [
            linkState.tick(), interest.tick(), streams.tick(), retained.tick(), sessions.tick(), forwarder.tick(),
            probes.tick(), inquiries.tick(),
            // Last: what the others have brought is routed here.
            arrivals.tick(),
        ]
        for next in deadlines { if let next { partDeadline = min(partDeadline, next) } }
        convergence.forget(
            computations: linkState.counters.computations, isSettled: areRoutesSettled)
        judgeJoining()
        finishDraining()
    }

    /// When a part has something to do, as it has said.
    var partDeadline = UInt64.max

    /// Sets the alarm to the first deadline.
    func schedule() {
        guard !isTicking else { return }
        var next = min(partDeadline, dials.deadline(isLinked: isLinked))
        for mesh in links { next = min(next, mesh.deadline) }
        if emptying != nil { next = min(next, now + 10) }
        if let drainingSince { next = min(next, max(now + 10, drainingSince + Self.drainMilliseconds)) }
        if !isJoined { next = min(next, startedAt + Self.joinMilliseconds, now + 50) }
        next = min(next, now + 1_000)
        alarm.at = max(next, now + 1)
    }

    private func judgeJoining() {
        guard !isJoined else { return }
        let hasNeighbour = links.contains { $0.isUp }
        let isSynchronised =
            hasNeighbour && linkState.isSynchronised && interest.isSynchronised
            && retained.isSynchronised
        // Nobody to wait for: only who dials this node would tell it anything.
        let isAlone = settings.links.isEmpty && links.isEmpty && handshakes.isEmpty
        let patience = isAlone ? Self.lonelyMilliseconds : Self.joinMilliseconds
        guard isSynchronised || now >= startedAt + patience else { return }
        isJoined = true
        router.meshTakesAll = false
        departures.joined()
        log(.notice, hasNeighbour ? "joined the mesh" : "no other node was found yet; this one serves alone")
    }

    // MARK: Life

    /// The links to dial have changed.
    public func update(links entries: [MeshSettings.LinkEntry]) {
        for target in dials.targets where target.isConfigured && !entries.contains(target.entry) {
            removeTarget(target)
        }
        for entry in entries where !dials.targets.contains(where: { $0.isConfigured && $0.entry == entry }) {
            dials.add(entry, isConfigured: true, at: now)
        }
        settings.links = entries
        schedule()
    }

    /// The node's clients are being sent away, because it will stop. As long as they fetch their sessions from other
    /// nodes, this one stays in the mesh; what passes through it goes another way already. Then it drains.
    /// - Parameters:
    ///   - limit: how long all of it may take, in milliseconds.
    ///   - isHeld: whether it stays until ``letGo()`` in any case.
    ///   - done: called on the mesh's lane, once; at once when there is nobody to wait for.
    public func empty(within limit: UInt64, isHeld: Bool = false, _ done: @escaping () -> Void) {
        guard emptying == nil, drainingSince == nil, hasLeft == nil else { return done() }
        emptying = Emptying(
            clientsUntil: now + min(limit, Self.returnMilliseconds), endsAt: now + limit,
            movedOut: sessions.counters.movedOut, isHeld: isHeld, done: done)
        sessions.beginStopping()
        linkState.setDraining(true)
        judgeEmptying()
        schedule()
    }

    /// All that had to leave this node has been given to the mesh: it is held no longer.
    public func letGo() {
        emptying?.isHeld = false
        judgeEmptying()
        schedule()
    }

    private func judgeEmptying() {
        guard let emptying, !emptying.isHeld else { return }
        let isUseful = hasLeft == nil && now < emptying.endsAt && hasPeerThatStays
        let isAwaited = sessions.isGivingAway || sessions.held.count > 0 && now < emptying.clientsUntil
        if isUseful && isAwaited { return }
        self.emptying = nil
        let (gone, left) = (sessions.counters.movedOut - emptying.movedOut, sessions.held.count)
        if gone > 0 || left > 0 {
            log(.notice, "stopping: \(gone) sessions went to other nodes, \(left) end with this one")
        }
        sessions.close()
        drain()
        emptying.done()
    }

    /// Whether there is another node where clients could go.
    private var hasPeerThatStays: Bool {
        linkState.nodes.contains {
            $0 != NodeTable.own && isReachable($0) && linkState.node($0)?.isDraining == false
        }
    }

    /// Tells the neighbours that this node is stopping: what passes through it goes another way. Then it says goodbye.
    public func drain() {
        guard drainingSince == nil, emptying == nil else { return }
        drainingSince = now
        linkState.setDraining(true)
        schedule()
    }

    /// Says goodbye when everything has been sent, or cannot be in the time there is.
    private func finishDraining() {
        guard let since = drainingSince, now >= since + Self.drainMilliseconds else { return }
        let isDone = streams.spool.count == 0 && links.allSatisfy { $0.queues.allSatisfy(\.isEmpty) }
        let longest = leaving.isEmpty ? Self.longestDrain : Self.longestLeave
        guard isDone || now >= since + longest else { return wake(at: now + 10) }
        if !leaving.isEmpty { return finishLeaving() }
        for mesh in links { mesh.control.end(.stopping, "the node is stopping") }
        for handshake in handshakes { handshake.end(.stopping, "the node is stopping") }
    }

    /// Leaves the mesh for good: what is on its way is sent, other ways are found for what passes through; then all
    /// other nodes forget this one at once, and it serves its clients alone. Started again it is a new life, which
    /// joins as far as its configuration says.
    /// - Parameter done: called on the mesh's lane when it has left.
    public func leaveForGood(_ done: @escaping () -> Void) {
        guard hasLeft == nil else { return done() }
        leaving.append(done)
        drain()
        schedule()
    }

    private func finishLeaving() {
        let waiting = leaving
        leaving = []
        if hasLeft == nil {
            linkState.leave(isTold: true)
            end(.left, "the node has left the mesh for good")
            log(.notice, "left the mesh for good")
        }
        for done in waiting { done() }
    }

    /// Another node with this id goes on; this one takes no part any more.
    func leave(_ reason: String) {
        guard hasLeft == nil else { return }
        log(.error, "left the mesh: \(reason)")
        linkState.leave(isTold: false)
        end(.duplicateNode, reason)
    }

    /// Takes no part in the mesh any more.
    private func end(_ reason: ByeReason, _ text: String) {
        (hasLeft, leftBecause) = (text, reason)
        for mesh in links { mesh.control.end(reason, text) }
        for handshake in handshakes { handshake.end(reason, text) }
        // Nobody waits for those who cannot be reached any more.
        for node in 1..<max(nodes.count, 1) {
            nodes.setShortID(node, 0)
            interest.nodeLeft(node)
            streams.nodeLeft(node)
        }
        guard !isJoined else { return }
        isJoined = true
        router.meshTakesAll = false
        departures.joined()
    }
}

/// What the mesh of a node counts.
public struct MeshCounters: Sendable, Equatable {
    /// Frames that had nowhere to go.
    public var noRoute: UInt64 = 0
    /// Frames that have crossed too many links.
    public var timeToLive: UInt64 = 0
    /// Frames for another life of a node, or from an earlier one.
    public var wrongEpoch: UInt64 = 0
    /// Direct frames that came too late or twice.
    public var late: UInt64 = 0
    /// Direct frames that never came.
    public var missing: UInt64 = 0
    /// Frames held for order.
    public var held: UInt64 = 0
    /// Frames that could not be read.
    public var malformed: UInt64 = 0
    /// Frames for nobody here.
    public var staleInterest: UInt64 = 0
    /// Frames that waited because their next link is the one they came from.
    public var parked: UInt64 = 0
    /// Control frames that had no route.
    public var controlUnroutable: UInt64 = 0
    /// Connections refused, by reason.
    public var refused: [UInt64] = Array(repeating: 0, count: ByeReason.places)
    /// Links that ended because nothing was heard.
    public var silences: UInt64 = 0
    /// Events of large ones that could not be put together.
    public var incomplete: UInt64 = 0
    /// Events sent to other nodes and received from them.
    public var eventsOut: UInt64 = 0, eventsIn: UInt64 = 0
    /// Frames that passed through.
    public var transit: UInt64 = 0
    /// Members of shared groups that had gone.
    public var noMember: UInt64 = 0

    /// Nothing yet.
    public init() {}
}
