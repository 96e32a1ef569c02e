import Core

/// Who wants what in the mesh. Every node tells what somebody on it wants, as a set of filters with a version; the
/// others keep a copy of each set in their router's index. Changes are flooded along the tree of shortest paths of
/// their origin; what gets lost is repaired by comparing versions with any neighbour.
///
/// Confined to the mesh's lane. It never works for much longer than a millisecond: what is more is left for the next
/// ``tick()``.
final class Interest {
    /// What has happened, for the statistics.
    struct Counters: Equatable {
        var deltasSent = 0
        var deltasApplied = 0
        /// Deltas that had been applied before, or of an earlier life.
        var deltasOld = 0
        /// Deltas that could not be applied, because the version before them was not here.
        var deltasEarly = 0
        var setsTaken = 0
        var setsGivenUp = 0
        var partsSent = 0
        /// Sets that were not what their hash says, and have been asked for again.
        var mismatches = 0
        var requestsSent = 0
        var requestsAnswered = 0
        var versionsSent = 0
        /// Filters refused, because they were too many, or longer than this node takes.
        var filtersRefused = 0
        /// Frames dropped because too much waited; what they said is asked for later.
        var framesDropped = 0
        var bytesSent = 0
        /// Shared groups with weights beyond those that others are told of.
        var weightsUntold = 0
    }

    /// A neighbour.
    struct Neighbour {
        /// Hellos in a row with another digest.
        var mismatches = 0
        /// When it was last told all versions.
        var toldAt: UInt64 = 0
        /// Whether it told all of its versions.
        var hasTold = false
        /// Whether it spoke of nodes that are not known here.
        var knowsMore = false
        /// Sets it is being sent, and those that wait for that.
        var jobs: [OutgoingSet] = []
        /// Versions that it is to be told.
        var offers: [NodeIndex] = []
    }

    /// What has been received and waits to be applied.
    enum Arrived {
        /// With the whole frame, to be passed on and kept.
        case delta(InterestFrames.Version, [FilterChange], [UInt8], LinkNumber)
        case part(InterestFrames.Part, [FilterChange], LinkNumber)

        var count: Int {
            switch self {
            case .delta(_, let changes, _, _), .part(_, let changes, _): changes.count + 8
            }
        }
    }

    /// Milliseconds between two deltas of this node while changes go on.
    static let batchMilliseconds: UInt64 = 20
    /// Deltas that may follow one another at once after a quiet time: who subscribes to the answer and asks at once is
    /// not to be answered before other nodes know where answers go.
    static let burst: UInt64 = 16
    /// Milliseconds after which a request without an answer is made again, elsewhere if possible.
    static let retryMilliseconds: UInt64 = 1_000
    /// How often a neighbour is told all versions at most, in milliseconds.
    static let repairMilliseconds: UInt64 = 1_000
    /// For how long the set of a node that cannot be reached is kept.
    static let unreachableMilliseconds: UInt64 = 30_000
    /// The same, unless a mistake is planted.
    var unreachablePatience: UInt64 {
        #if DEBUG
            if plane.sabotage.contains(.interestForgotten) { return 0 }
        #endif
        return Self.unreachableMilliseconds
    }
    /// Changes of other nodes applied in one go: about a millisecond.
    static let changesPerStep = 1_024
    /// Changes that wait to be applied at most; what comes then is dropped and asked for later.
    static let maxWaiting = 65_536
    /// Bytes of one node's filters.
    static let maxSetBytes = 256 << 20

    unowned let plane: any ControlPlane
    let router: Router
    let maxFilters: Int
    let own: OwnInterest
    /// By node; nil where nothing is known.
    var sets: [RemoteSet?] = [nil]
    /// What nodes say of weights in shared groups. Never iterated.
    var weights: [NodeIndex: [GroupWeight]] = [:]
    var routes = Routes()
    var neighbours: [LinkNumber: Neighbour] = [:]
    var waiting: [Arrived] = []
    var waitingTaken = 0
    var waitingChanges = 0
    /// Changes applied in this millisecond.
    var applied = 0
    var appliedAt: UInt64 = 0
    /// The number of the last set that was sent.
    var lastJob: UInt64 = 0
    /// Bytes of all logs of other nodes.
    var logBytes = 0
    private var flushAt: UInt64?
    /// When the deltas told so far would be over, if each took its time; not more than a burst ahead.
    private var toldUntil: UInt64 = 0
    /// Whether what has been taken is to be told next, and whether there was more to take.
    private var isTelling = false
    private var hasMore = false
    private var knownDigest: UInt64?
    /// What has happened.
    var counters = Counters()
    /// Whether what a neighbour announced has all been here at least once.
    private(set) var isSynchronised = false

    /// - Parameter maxFilters: filters of one node that are taken.
    init(plane: any ControlPlane, router: Router, maxFilters: Int = MeshSettings().maxFilters) {
        self.plane = plane
        self.router = router
        self.maxFilters = maxFilters
        own = OwnInterest(router: router, epoch: plane.nodes[NodeTable.own].epoch)
        flushAt = plane.now
    }

    // MARK: What is here

    /// Says in one word which versions of which sets are here, of all nodes that can be reached: equal on both ends of
    /// a link when both have the same.
    var digest: UInt64 {
        if let knownDigest { return knownDigest }
        var sum = Self.digest(ownVersion)
        for case let set? in sets where set.unreachableSince == 0 && set.isComplete { sum &+= Self.digest(set.version) }
        knownDigest = sum
        return sum
    }

    private static func digest(_ version: InterestFrames.Version) -> UInt64 {
        guard version.sequence > 0 else { return 0 }
        var word = InterestHash.mixed(version.origin.high) ^ version.origin.low
        for part in [version.epoch, version.sequence, version.hash] { word = InterestHash.mixed(word ^ part) }
        return word
    }

    func digestChanged() { knownDigest = nil }

    var ownVersion: InterestFrames.Version {
        InterestFrames.Version(
            origin: plane.nodes[NodeTable.own].id, epoch: own.epoch, sequence: own.sequence, hash: own.hash)
    }

    /// How far the set of a node is here, for status and tests; nil when there is none.
    func version(of node: NodeIndex) -> InterestFrames.Version? {
        if node == NodeTable.own { return ownVersion }
        guard node < sets.count, let set = sets[node], set.isComplete else { return nil }
        return set.version
    }

    /// Filters of a node that are here; for this node those that others are told.
    func filterCount(of node: NodeIndex) -> Int {
        node == NodeTable.own ? own.toldCount : node < sets.count ? sets[node]?.count ?? 0 : 0
    }

    /// Whether some of a node's filters were refused.
    func isTruncated(_ node: NodeIndex) -> Bool { node < sets.count ? sets[node]?.isTruncated ?? false : false }

    // MARK: What happens

    /// Subscriptions of this node have changed.
    func localChanged() {
        let ahead = (Self.burst - 1) * Self.batchMilliseconds
        let due = max(plane.now, toldUntil > ahead ? toldUntil - ahead : 0)
        guard flushAt.map({ $0 > due }) ?? true else { return }
        flushAt = due > plane.now ? due : flush()
        if let flushAt { plane.wake(at: flushAt) }
    }

    /// The control connection of a link is established.
    func linkUp(_ link: LinkNumber) {
        neighbours[link] = Neighbour()
        tellAll(link)
    }

    /// A link has gone.
    func linkDown(_ link: LinkNumber) {
        if let gone = neighbours.removeValue(forKey: link) { for job in gone.jobs { release(job) } }
        for case let set? in sets {
            set.forget(link)
            if set.intake?.link == link { abandon(set) }
        }
    }

    /// There are other routes.
    func routesChanged(_ routes: Routes) {
        let old = self.routes
        self.routes = routes
        digestChanged()
        for case let set? in sets {
            let isReachable = routes.isReachable(set.node)
            if isReachable == (set.unreachableSince == 0) { continue }
            set.unreachableSince = isReachable ? 0 : max(plane.now, 1)
            router.setReachable(set.remote, isReachable)
        }
        // Who is told of a node's changes from now on may have missed some.
        for node in 0..<max(sets.count, 1) where node == NodeTable.own || sets[node] != nil {
            let before = old.children(of: node)
            for link in routes.children(of: node) where !before.contains(link) { offer(node, on: link) }
        }
        plane.wake(at: plane.now)
    }

    /// The link state knows a node, or another life of it.
    func nodeChanged(_ node: NodeIndex, isRestart: Bool) {
        let epoch = plane.nodes[node].epoch
        if node == NodeTable.own {
            guard epoch > own.epoch else { return }
            own.restart(epoch: epoch)
            digestChanged()
            offerAdvance(of: NodeTable.own, except: 0)
        } else if node < sets.count, let set = sets[node], epoch > set.epoch {
            restart(set, epoch)
        }
        // Neighbours may have spoken of it before.
        for link in plane.establishedLinks where neighbours[link]?.knowsMore == true { plane.wake(at: plane.now) }
    }

    /// A node says something else of the weights in shared groups.
    func weightsChanged(_ node: NodeIndex, _ list: [GroupWeight]) {
        weights[node] = list.isEmpty ? nil : list
        guard node < sets.count, let set = sets[node], !set.isLeaving else { return }
        router.setWeights(list, of: set.remote)
    }

    /// A node is no longer part of the mesh.
    func nodeLeft(_ node: NodeIndex) {
        weights[node] = nil
        guard node < sets.count, let set = sets[node] else { return }
        // Routes will say so, but what is given out again now must not go there.
        if set.unreachableSince == 0 {
            set.unreachableSince = max(plane.now, 1)
            router.setReachable(set.remote, false)
        }
        leave(set)
        plane.wake(at: plane.now)
    }

    /// Whether nothing is left of what a node wanted.
    func hasForgotten(_ node: NodeIndex) -> Bool { node >= sets.count || sets[node] == nil }

    /// A neighbour's hello says what it has.
    func heard(digest: UInt64, on link: LinkNumber) {
        #if DEBUG
            if plane.sabotage.contains(.interestNotRepaired) { return }
        #endif
        guard var neighbour = neighbours[link] else { return }
        neighbour.mismatches = digest == self.digest ? 0 : neighbour.mismatches + 1
        neighbours[link] = neighbour
        // One is not enough: a change may be under way.
        guard neighbour.mismatches >= 2, plane.now >= neighbour.toldAt + Self.repairMilliseconds else { return }
        tellAll(link)
    }

    /// Reads a frame of a neighbour.
    /// - Returns: why it is malformed; nil when it is not.
    func receive(_ type: FrameType, _ reader: inout WireReader, from link: LinkNumber) -> String? {
        switch type {
        case .interestDelta:
            var copy = reader
            guard let (version, changes) = InterestFrames.readDelta(&reader) else { return "malformed interest delta" }
            arrived(.delta(version, changes, InterestFrames.frame(type, copy.rest()), link))
        case .interestSnapshot:
            guard let (part, changes) = InterestFrames.readSnapshot(&reader) else { return "malformed interest set" }
            arrived(.part(part, changes, link))
        case .interestRequest:
            guard let request = InterestFrames.readRequest(&reader) else { return "malformed interest request" }
            answer(request, on: link)
        case .interestVersions:
            guard let (versions, areAll) = InterestFrames.readVersions(&reader) else {
                return "malformed interest versions"
            }
            compare(versions, areAll: areAll, on: link)
        default: return "not a frame of interest"
        }
        return nil
    }

    // MARK: Time

    /// Does what is due.
    /// - Returns: when there is something to do again; nil for not before something happens.
    func tick() -> UInt64? {
        let now = plane.now
        var next = UInt64.max
        if let flushAt {
            if flushAt <= now { self.flushAt = flush() }
            next = min(next, self.flushAt ?? .max)
        }
        if applySome() { next = min(next, now + 1) }
        if sweepSome() { next = min(next, now + 1) }
        next = min(next, askAgain())
        if serveSome() { next = min(next, now + 1) }
        next = min(next, tellSome())
        if !isSynchronised { isSynchronised = hasEverything }
        return next == .max ? nil : next
    }

    /// Tells the mesh what has changed here.
    /// - Returns: when to look again, if there is more.
    private func flush() -> UInt64? {
        let now = plane.now
        let step = Self.batchMilliseconds
        toldUntil = min(max(toldUntil, now) + step, now + Self.burst * step)
        // Much is taken and told in turns.
        if !isTelling {
            let (count, isMore) = own.takeChanges()
            tellWeights()
            hasMore = isMore
            isTelling = true
            if count > Self.changesPerStep / 8 {
                // The router calls but once until it is asked: what has changed before this is told is taken after it.
                hasMore = true
                return now + 1
            }
        }
        isTelling = false
        let frames = own.makeDeltas(origin: plane.nodes[NodeTable.own].id)
        if !frames.isEmpty { digestChanged() }
        #if DEBUG
            if plane.sabotage.contains(.deltasLost), plane.random() & 3 == 0 { return hasMore ? now + 1 : nil }
        #endif
        for link in routes.children(of: NodeTable.own) { for frame in frames { send(frame, on: link) } }
        counters.deltasSent += frames.count
        return hasMore || own.hasWork ? now + 1 : nil
    }

    /// Tells what has changed of the weights in shared groups here.
    private func tellWeights() {
        guard let (weights, isMore) = own.takeWeights() else { return }
        if isMore {
            if counters.weightsUntold == 0 {
                plane.log(
                    .warning,
                    "more than \(AdvertisedWeights.maxGroups) shared groups with weights: others do not know of all")
            }
            counters.weightsUntold += 1
        }
        plane.tellWeights(weights)
    }

    /// Whether all that neighbours have announced is here: of one neighbour's announcements at least.
    private var hasEverything: Bool {
        var isTold = false
        for link in plane.establishedLinks {
            guard let neighbour = neighbours[link] else { continue }
            if neighbour.knowsMore { return false }
            if neighbour.hasTold { isTold = true }
        }
        guard isTold, waiting.isEmpty else { return false }
        for case let set? in sets where set.isBehind && !set.isLeaving { return false }
        return true
    }

    func send(_ frame: [UInt8], on link: LinkNumber) {
        counters.bytesSent += frame.count
        plane.send(frame, on: link)
    }
}
