import Core

/// The link state: what every node tells of itself and its links reaches all others; from it each works out the routes,
/// the numbers in destination sets, and who has left. Confined to the mesh's lane. See also `LinkState+Own.swift` and
/// `LinkState+Exchange.swift`.

/// A link that carries events in both directions.
struct Adjacency: Equatable {
    var link: LinkNumber
    var peer: NodeIndex
    /// Agreed in the handshake; both ends tell the same.
    var nonce: UInt64
    var cost: UInt32
    /// The link's number at the other end.
    var remoteLink: UInt16
}

/// Who is told what the link state has found. Called when everything below is consistent; may ask the link state.
protocol LinkStateEvents: AnyObject {
    func routesChanged(_ routes: Routes)
    /// A node has appeared, or something of what is known of it has changed.
    /// - Parameter isRestart: it has a new epoch: nothing that was agreed with it holds any more. Of this node itself:
    ///   the epoch had to be raised, and must be kept on disk.
    func nodeChanged(_ node: NodeIndex, isRestart: Bool)
    /// Nothing has been heard of a node for as long as its advertisement was good, or it has said that it leaves.
    func nodeLeft(_ node: NodeIndex)
    /// A node that has left, and to which there never was a way, is to be forgotten: its index becomes another's.
    /// - Returns: false while somebody still has something of it.
    func forget(_ node: NodeIndex) -> Bool
    /// Another node with this one's id is alive, and this one is to stop.
    func mustLeave(_ reason: String)
    /// This node has another number in destination sets; 0: none for now.
    func shortIDChanged(_ own: UInt16)
    /// A node says something else of the weights in shared groups: in the order of their keys; empty for nothing.
    func weightsChanged(_ node: NodeIndex, _ weights: [GroupWeight])
}

/// What a node says about itself.
struct LinkStateSettings: Equatable {
    var name = ""
    /// Where others may dial it.
    var addresses: [String] = []
    /// Whether events of others may pass through.
    var isTransit = true
    /// The number it had last; 0 for none.
    var shortID: UInt16 = 0
}

/// What was refused, repaired and done, since the start.
struct LinkStateCounters: Equatable {
    /// Advertisements beyond an origin's rate.
    var refusedForRate: UInt64 = 0
    /// Advertisements of further nodes than there may be.
    var refusedForNodes: UInt64 = 0
    /// Nodes that could not be reached and made room for others.
    var evicted: UInt64 = 0
    /// Advertisements of another area, or with no time left.
    var ignored: UInt64 = 0
    /// Advertisements that were known already, or older than what is known.
    var stale: UInt64 = 0
    /// Answers that were not given because the neighbour asked too much.
    var refusedAnswers: UInt64 = 0
    /// Own links beyond what an advertisement holds.
    var refusedAdjacencies: UInt64 = 0
    var accepted: UInt64 = 0
    var originated: UInt64 = 0
    /// Versions sent to a neighbour whose digest differed.
    var repairs: UInt64 = 0
    var expired: UInt64 = 0
    /// Raises of the own epoch.
    var raises: UInt64 = 0
    /// Computations of all routes.
    var computations: UInt64 = 0
    /// Advertisements whose weights of shared groups could not be read, and were left out.
    var malformedWeights: UInt64 = 0
}

/// The link state of one node.
final class LinkState {
    /// Milliseconds after which a node that has found nobody works alone.
    static let joinPatience: UInt64 = 3_000
    /// Milliseconds between own advertisements when nothing changes; 20 % more or less.
    static let refreshInterval: UInt64 = 100_000
    /// Own advertisements at once, and milliseconds for one more. Half of them are kept for links that go down.
    static let ownBurst: UInt64 = 16
    static let ownInterval: UInt64 = 100
    /// Milliseconds between own advertisements that bring no bad news.
    static let ownSpacing: UInt64 = 20

    unowned let plane: any ControlPlane
    unowned let events: any LinkStateEvents
    private(set) var settings: LinkStateSettings
    let startedAt: UInt64

    var database = LinkStateDatabase()
    private(set) var routes = Routes()
    var counters = LinkStateCounters()
    var isSynchronised = false

    // What the own advertisement says; see `LinkState+Own.swift`.
    var sequence: UInt64 = 0
    var shortID: UInt16
    var claims: UInt32 = 1
    var isJoining = true
    var isDraining = false
    var isLeaving = false
    var adjacencies: [OwnAdjacency] = []
    var ownWeights: [GroupWeight] = []
    var damping = Damping()
    /// Whether there is something to tell, and whether it is that something has gone.
    var hasNews = false
    var hasBadNews = false
    var originations: TokenBucket
    var originatedAt: UInt64 = 0
    var refreshAt: UInt64 = 0
    var identity: OwnIdentity

    /// Established links, by number; see `LinkState+Exchange.swift`.
    var exchanges: [LinkExchange] = []
    var complainedAt: UInt64?
    /// How many more nodes that nobody has heard of before and nobody names are taken.
    var newcomers: TokenBucket
    /// Who is named as a neighbour by nodes that can be reached, and by which; nil when it must be looked for anew.
    /// Never iterated.
    var named: [NodeID: NodeIndex]?
    /// Whether others have been told since the last computation that a node has left.
    private var hasLost = false
    /// Nodes that were never met and have left, and when they may be forgotten; in the order of time.
    private var forgettable: [(node: NodeIndex, at: UInt64)] = []
    /// For how long the last version of such a node is remembered, so that no neighbour brings it back.
    private static let memory: UInt64 = 30_000

    /// When the routes are to be computed; nil when they are true.
    private(set) var settleAt: UInt64?
    private var paths = ShortestPaths()
    /// What the last computation took, in edges looked at.
    private var lastWork = 0

    init(plane: any ControlPlane, events: any LinkStateEvents, settings: LinkStateSettings) {
        self.plane = plane
        self.events = events
        self.settings = settings
        startedAt = plane.now
        shortID = settings.shortID != 0 ? settings.shortID : ShortIDs.free([], random: plane.random)
        originations = TokenBucket(capacity: Self.ownBurst, interval: Self.ownInterval, now: startedAt)
        identity = OwnIdentity(now: startedAt)
        newcomers = TokenBucket(
            capacity: UInt64(LinkStateDatabase.maxNodes), interval: LinkStateDatabase.newcomerInterval, now: startedAt)
        #if DEBUG
            database.sabotage = plane.sabotage
            database.tieKey = plane.nodes[NodeTable.own].id.low
        #endif
        originate(startedAt)
    }

    /// Of all advertisements that hold; the same on all nodes that know the same.
    var digest: UInt64 { database.digest }

    // MARK: Time

    /// Does what is due; returns when there is something again.
    func tick() -> UInt64? {
        let now = plane.now
        expire(now)
        forgetDue(now)
        if refreshAt <= now { hasNews = true }
        if adjacencies.contains(where: { !$0.isAdvertised && $0.releaseAt <= now }) { hasNews = true }
        raiseIfDue(now)
        leaveJoining(now)
        originateIfDue(now)
        if let due = settleAt, due <= now {
            settle(now)
            leaveJoining(now)
            originateIfDue(now)
        }
        return deadline(now)
    }

    private func deadline(_ now: UInt64) -> UInt64? {
        guard !identity.hasLeft else { return nil }
        var deadline = min(hasNews ? .max : refreshAt, database.expiry)
        if let settleAt { deadline = min(deadline, settleAt) }
        if let due = originationDue(now) { deadline = min(deadline, due) }
        if let due = identity.raiseDue(now) { deadline = min(deadline, due) }
        for adjacency in adjacencies where !adjacency.isAdvertised && adjacency.releaseAt > now {
            deadline = min(deadline, adjacency.releaseAt)
        }
        if isJoining, now < startedAt + Self.joinPatience { deadline = min(deadline, startedAt + Self.joinPatience) }
        if let first = forgettable.first { deadline = min(deadline, max(first.at, now + 1)) }
        return max(deadline, now)
    }

    private func expire(_ now: UInt64) {
        let gone = database.expire(now)
        guard !gone.isEmpty else { return }
        counters.expired += UInt64(gone.count)
        for node in gone {
            plane.log(.notice, "node \(plane.nodes[node].id) has left: nothing was heard of it")
            left(node, now)
        }
    }

    /// A node is no more among those that are present.
    func left(_ node: NodeIndex, _ now: UInt64) {
        plane.nodes.setShortID(node, 0)
        named = nil
        hasLost = true
        settleSoon(now)
        events.nodeLeft(node)
        forgetLater(node, now)
    }

    /// A node that nobody has advertised, or that has left: its index is given back, unless it has been met.
    func forgetLater(_ node: NodeIndex, _ now: UInt64) {
        guard node != NodeTable.own, !plane.nodes[node].isMet, !forgettable.contains(where: { $0.node == node }) else {
            return
        }
        forgettable.append((node, now + Self.memory))
        plane.wake(at: now + Self.memory)
    }

    private func forgetDue(_ now: UInt64) {
        guard let first = forgettable.first, first.at <= now else { return }
        let due = forgettable.prefix { $0.at <= now }
        forgettable.removeFirst(due.count)
        for (node, _) in due {
            // It has come back.
            if plane.nodes[node].isMet || !(database[node]?.hasLeft ?? true) || isLinked(node) { continue }
            guard events.forget(node) else {
                forgettable.append((node, now + 1_000))
                continue
            }
            database.forget(node)
            plane.nodes.release(node)
            named = nil
        }
    }

    private func isLinked(_ node: NodeIndex) -> Bool {
        plane.establishedLinks.contains { plane.peer(of: $0) == node }
    }

    // MARK: Routes

    /// Computes the routes after a while: changes come in groups. The specification wants ten times what the last
    /// computation took, and at least 1 ms; there is no clock here, so that its work is counted instead, with 20 ns for
    /// every edge looked at, which is what was measured (256 nodes of degree 6: 0.4 ms).
    func settleSoon(_ now: UInt64) {
        guard settleAt == nil else { return }
        let due = now + UInt64(max(1, lastWork / 5_000))
        settleAt = due
        plane.wake(at: due)
    }

    private func settle(_ now: UInt64) {
        settleAt = nil
        counters.computations += 1
        let nodes = plane.nodes
        let graph = database.graph(nodes)
        let present = database.present
        guard let own = present.firstIndex(of: NodeTable.own) else { return }
        var new = paths.routes(graph, own: own, nodes: present, count: nodes.count)
        lastWork = graph.work(neighbours: ShortestPaths.neighbours(graph, of: own).count)
        // To others a node that has left cannot be reached any more: if it is here again they must be told.
        let hasChanged =
            hasLost || new.links != routes.links || new.distances != routes.distances || new.children != routes.children
        hasLost = false
        new.version = routes.version + (hasChanged ? 1 : 0)
        routes = new
        named = nil
        for node in present where routes.isReachable(node) { nodes.meet(node) }
        hastenAlone(now)
        let renumbered = assignShortIDs(now)
        if renumbered.contains(NodeTable.own) { events.shortIDChanged(nodes[NodeTable.own].shortID) }
        for node in renumbered where node != NodeTable.own { events.nodeChanged(node, isRestart: false) }
        if hasChanged { events.routesChanged(routes) }
    }

    /// Writes the numbers into the table; returns the nodes that have another one than before.
    private func assignShortIDs(_ now: UInt64) -> [NodeIndex] {
        let nodes = plane.nodes
        let claims = shortIDClaims()
        let outcome = ShortIDs.assign(claims)
        var changed: [NodeIndex] = []
        for (place, claim) in claims.enumerated() where nodes[claim.node].shortID != outcome.numbers[place] {
            nodes.setShortID(claim.node, 0)
            changed.append(claim.node)
        }
        for (place, claim) in claims.enumerated() where outcome.numbers[place] != 0 {
            nodes.setShortID(claim.node, outcome.numbers[place])
        }
        if outcome.losers.contains(where: { claims[$0].node == NodeTable.own }) {
            shortID = ShortIDs.free(claims, random: plane.random)
            self.claims &+= 1
            hasBadNews = true
            originateIfDue(now)
        }
        return changed
    }

    private func shortIDClaims() -> [ShortIDClaim] {
        database.present.compactMap { node in
            guard let head = database[node]?.advertisement.head else { return nil }
            return ShortIDClaim(
                node: node, id: head.id, shortID: head.shortID, claims: head.claims,
                isUp: !head.has(AdvertisementHead.joining),
                // Who joins has heard of nodes before it has routes to them, and gives way to these, too.
                isReachable: isJoining || routes.isReachable(node))
        }
    }

    /// Says nothing from now on, and has no routes any longer.
    /// - Parameter isTold: whether all others are told that this node is no more; not if another one is it.
    func leave(isTold: Bool) {
        if isTold, !identity.hasLeft {
            isLeaving = true
            adjacencies = []
            originate(plane.now)
        }
        identity.hasLeft = true
        var none = Routes()
        none.version = routes.version + 1
        routes = none
        settleAt = nil
        events.routesChanged(routes)
    }

    // MARK: What others ask

    /// What is known of a node.
    struct Details: Equatable {
        struct Link: Equatable {
            var adjacency: AdvertisedAdjacency
            /// The other end, if it is known.
            var neighbour: NodeIndex?
            /// Whether the other end tells of it, too.
            var isTwoWay: Bool
        }

        var id: NodeID
        var name: String
        var addresses: [String]
        var version: AdvertisementVersion
        /// The number it claims; the table says whether it has it.
        var shortID: UInt16
        var isTransit: Bool
        var isDraining: Bool
        var isJoining: Bool
        /// Milliseconds since its newest advertisement came.
        var age: UInt64
        var links: [Link]
    }

    /// What is known of a node; nil when it has left or has never been heard of.
    func node(_ node: NodeIndex) -> Details? {
        guard let entry = database[node], !entry.hasLeft else { return nil }
        let advertisement = entry.advertisement
        let head = advertisement.head
        let now = plane.now
        return Details(
            id: head.id, name: advertisement.name, addresses: advertisement.addresses, version: head.version,
            shortID: head.shortID, isTransit: !head.has(AdvertisementHead.noTransit),
            isDraining: head.has(AdvertisementHead.draining), isJoining: head.has(AdvertisementHead.joining),
            age: now > entry.receivedAt ? now - entry.receivedAt : 0,
            links: advertisement.adjacencies.indices.map {
                let adjacency = advertisement.adjacencies[$0]
                return Details.Link(
                    adjacency: adjacency, neighbour: plane.nodes.known(adjacency.neighbour),
                    isTwoWay: database.isTwoWay(entry, $0))
            })
    }

    /// The nodes there are, this one included, by index.
    var nodes: [NodeIndex] { database.present }
}

extension LinkStateEvents {
    func forget(_ node: NodeIndex) -> Bool { true }
}
