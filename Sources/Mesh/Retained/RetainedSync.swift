import Core

/// Brings the retained events of neighbours together: whoever has a newer value of a topic, or knows of a newer
/// deletion, hands it on. Live publishes travel to all nodes as events; this is for what these have missed, such as
/// everything that happened on the other side of a partition, and for nodes that begin with nothing.
///
/// Two neighbours first compare one digest over everything, then one for each bucket. For the buckets that differ the
/// one with the smaller id lists what it has, a bounded portion at a time; the other one asks for what is newer there,
/// and then answers with what it has that is newer itself. Values travel in class bulk, the next ones only when the
/// last have arrived. What a node has taken over from one neighbour it offers to the others, so it travels on.
///
/// Threading: confined to the mesh's lane.
final class RetainedSync {
    /// Times in milliseconds.
    enum Time {
        /// Between two comparisons of digests, whatever happens.
        static let interval: UInt64 = 30_000
        /// Between two comparisons that were not needed or did not help, at least and at most.
        static let (minPause, maxPause): (UInt64, UInt64) = (1_000, 30_000)
        /// Before a difference that two hellos have shown is looked at again.
        static let repairPause: UInt64 = 8_000
        /// For which a difference that could not be removed is left alone.
        static let fruitless: UInt64 = 600_000
        /// After which a comparison without progress is given up.
        static let patience: UInt64 = 20_000
        /// After which a request is sent again, three times.
        static let requestPatience: UInt64 = 5_000
        /// Until what could not be sent is tried again.
        static let retry: UInt64 = 100
        /// While the node still takes values over from a neighbour, the others hear of them this often.
        static let news: UInt64 = 2_000
    }

    /// Work of one tick, in entries looked at: below a millisecond.
    static let workPerTick = 4_096
    /// Attempts to get an answer to a request.
    static let maxAttempts = 3

    unowned let plane: any ControlPlane
    let router: Router
    /// Gives subscribers of this node a value that came by replication and is newer than what was there.
    let deliver: (Event, EventVersion) -> Void
    /// By node.
    var peers: [RetainedPeer] = []
    private var nextSweep: UInt64 = 0
    /// The peer that a tick begins with, so that all have their turn.
    private var firstPeer = 0

    /// When this node was last synchronised with another one; 0 for never. Milliseconds of the lane and since 1970.
    var lastSynchronised: (now: UInt64, wall: UInt64) = (0, 0)
    /// Since when, in milliseconds since 1970, nothing has been deleted anywhere that this node's set still has: other
    /// than that, what it lacks has been deleted.
    var since: UInt64
    /// Values taken over that neighbours have not been offered yet: from which node, .max for several, and since when.
    var news: (from: NodeIndex, at: UInt64)?
    /// Bytes of a value, its topic and properties included, that are taken.
    let maxValueBytes: Int
    /// What it has done.
    var counters = RetainedSyncCounters()

    init(plane: any ControlPlane, router: Router, deliver: @escaping (Event, EventVersion) -> Void) {
        self.plane = plane
        self.router = router
        self.deliver = deliver
        since = plane.wallClock()
        maxValueBytes = router.limits.maxPacketBytes + 1 << 17
    }

    /// Over everything that this node has, for hellos.
    var digest: UInt64 { router.retainedDigest }

    /// Whether it has compared its events with some neighbour, or has none.
    var isSynchronised: Bool { peers.isEmpty || lastSynchronised.now != 0 }

    // MARK: What happens

    /// A control connection is established.
    func linkUp(_ link: LinkNumber) {
        let node = plane.peer(of: link)
        let known = peers.filter { $0.node == node }
        for peer in known {
            if !peer.links.contains(link) { peer.links.append(link) }
            if peer.filter == nil || peer.leads { peer.compareAt = plane.now }
        }
        if !known.isEmpty {
            // There is another link already.
        } else if plane.gate(on: link)?.isSelective ?? false {
            addFiltered(node, [link], ToldPolicy())
        } else {
            let leads = plane.nodes[NodeTable.own].id < plane.nodes[node].id
            let peer = RetainedPeer(
                node: node, leads: leads, links: [link], now: plane.now, pause: Time.minPause)
            peers.insert(peer, at: peers.firstIndex { $0.node > node } ?? peers.count)
        }
        plane.wake(at: plane.now)
    }

    /// A control connection has gone.
    func linkDown(_ link: LinkNumber) {
        for peer in peers where peer.links.contains(link) {
            peer.links.removeAll { $0 == link }
            // What was on its way over the link is lost.
            if peer.isBusy { abandon(peer) }
        }
        peers.removeAll { $0.links.isEmpty }
    }

    /// A hello has come with a digest. The same two that differ twice in a row are not of events on their way.
    func heard(digest theirs: UInt64, on link: LinkNumber) {
        // Digests over everything say nothing where not everything may cross.
        guard let peer = peers.first(where: { $0.links.contains(link) }), peer.filter == nil else { return }
        let own = digest
        if own == theirs {
            peer.heard = nil
            return synchronised(peer, areEqual: true)
        }
        if let last = peer.heard, last == (own, theirs) {
            let earliest = peer.lastRound + min(peer.pause, Time.repairPause)
            if !peer.isBusy, plane.now >= earliest, peer.compareAt > plane.now, !isFruitless(peer, theirs) {
                peer.compareAt = plane.now
                plane.wake(at: plane.now)
            }
        }
        peer.heard = (own, theirs)
    }

    /// Something has been removed here that no event tells others of.
    func localChanged() {
        noteNews(from: NodeTable.own)
        plane.wake(at: plane.now)
    }

    /// A frame has come from a neighbour, on its control connection.
    /// - Returns: why it is malformed, or nil.
    func receive(_ type: FrameType, _ reader: inout WireReader, from link: LinkNumber) -> String? {
        receive(type, &reader, fromNode: plane.peer(of: link))
    }

    /// A frame has come from a neighbour in class bulk.
    /// - Returns: why it is malformed, or nil.
    func receive(_ type: FrameType, _ reader: inout WireReader, fromNode node: NodeIndex) -> String? {
        // From somebody whose link has just gone, or has not come up here.
        guard let first = peer(node) else { return nil }
        // With a policy there are two, one for each direction.
        let (giver, taker) = first.filter == nil ? (first, first) : (first, peers.last { $0.node == node } ?? first)
        let isSound =
            switch type {
            case .retainedDigests: receiveDigests(&reader, giver: giver, taker: taker)
            case .retainedRequest: receiveRequest(&reader, giver)
            case .retainedValues: receiveValues(&reader, taker)
            default: false
            }
        plane.wake(at: plane.now)
        return isSound ? nil : "retained events: a \(type) that makes no sense"
    }

    private func receiveDigests(
        _ reader: inout WireReader, giver: RetainedPeer, taker: RetainedPeer
    ) -> Bool {
        let kind = RetainedFrame.Kind(rawValue: reader.u8())
        if giver.filter != nil, kind == .digest || kind == .buckets {
            // From before the other end knew of the policy.
            _ = reader.rest()
            return !reader.isBroken
        }
        switch kind {
        case .digest?: return receiveDigest(&reader, giver)
        case .finished?: return receiveFinished(&reader, taker)
        case .buckets?: return receiveBuckets(&reader, giver)
        case .offer?: return receiveOffer(&reader, taker)
        case .had?: return receiveHad(&reader, giver)
        case .listing?:
            let peer = taker
            let listing = RetainedFrame.readListing(&reader)
            guard !reader.isBroken, !peer.leads else { return false }
            let answer = RetainedAnswer(
                round: listing.round, portion: listing.portion, sections: 0, through: nil, taken: 0, newer: [])
            peer.reader.reset()
            peer.dropWants()
            peer.taken = 0
            peer.comparison = RetainedPeer.Comparison(listing: listing, answer: answer)
            peer.deadline = plane.now + Time.patience
            return true
        case .answer?:
            let answer = RetainedFrame.readAnswer(&reader)
            guard !reader.isBroken, giver.leads else { return false }
            take(answer, from: giver)
            return true
        case nil: return false
        }
    }

    // MARK: Time

    /// Does what is due.
    /// - Returns: when to be called next.
    func tick() -> UInt64? {
        let now = plane.now
        if nextSweep <= now {
            router.sweepExpiredRetained(now: now, max: 1_024)
            nextSweep = now + 1_000
        }
        offerNews()
        var budget = Self.workPerTick
        firstPeer = peers.isEmpty ? 0 : (firstPeer + 1) % peers.count
        for index in peers.indices { step(peers[(firstPeer + index) % peers.count], &budget) }
        if budget <= 0 { return now + 1 }
        return peers.reduce(min(nextSweep, news.map { $0.at + Time.news } ?? .max)) { min($0, deadline(of: $1)) }
    }

    private func deadline(of peer: RetainedPeer) -> UInt64 {
        if !peer.unsent.isEmpty { return plane.now + Time.retry }
        if peer.offered != nil { return plane.now + 1 }
        return max(plane.now + 1, min(peer.compareAt, peer.deadline, peer.pull?.deadline ?? .max))
    }

    private func step(_ peer: RetainedPeer, _ budget: inout Int) {
        while let frame = peer.unsent.first, route(frame, to: peer) { peer.unsent.removeFirst() }
        if peer.deadline <= plane.now {
            counters.abandoned += 1
            abandon(peer)
        }
        if let filter = peer.filter {
            offer(peer, filter, &budget)
            answerOffer(peer, filter, &budget)
            if !peer.leads { peer.compareAt = .max }
        } else if peer.compareAt <= plane.now {
            peer.compareAt = plane.now + Time.interval
            #if DEBUG
                if plane.sabotage.contains(.retainedNotCompared) { return }
            #endif
            if !peer.isComparing, peer.comparison == nil { sendDigest(.digest, to: peer) }
        }
        if let pull = peer.pull, pull.deadline <= plane.now { repeatPull(pull, peer) }
        if peer.comparison != nil { compare(peer, &budget) }
        if peer.isComparing { proceed(peer, &budget) }
    }

    func abandon(_ peer: RetainedPeer) {
        peer.stop()
        peer.compareAt = min(peer.compareAt, plane.now + peer.pause)
    }

    // MARK: Offering

    func noteNews(from node: NodeIndex) {
        guard let known = news else { return news = (node, plane.now) }
        if known.from != node { news = (.max, known.at) }
    }

    /// Neighbours are told the digest when there is something new in it; once whatever is under way has ended, or
    /// every now and then while that takes long.
    private func offerNews() {
        guard let known = news else { return }
        guard plane.now >= known.at + Time.news || !peers.contains(where: { $0.isBusy }) else { return }
        news = nil
        for peer in peers where peer.node != known.from {
            peer.compareAt = min(peer.compareAt, max(plane.now, peer.lastRound + peer.pause))
        }
    }

    // MARK: Helpers

    func peer(_ node: NodeIndex) -> RetainedPeer? { peers.first { $0.node == node } }

    func sendDigest(_ kind: RetainedFrame.Kind, to peer: RetainedPeer) {
        guard let link = peer.links.first else { return }
        plane.send(RetainedFrame.digest(kind, digest, since: since), on: link)
    }

    func sendBulk(_ frame: [UInt8], to peer: RetainedPeer) {
        if peer.unsent.isEmpty, route(frame, to: peer) { return }
        // What does not fit is asked for again.
        if peer.unsent.count < RetainedPeer.maxUnsent { peer.unsent.append(frame) }
    }

    /// The control connection is there before the routes are.
    private func route(_ frame: [UInt8], to peer: RetainedPeer) -> Bool {
        guard plane.isReachable(peer.node) else { return false }
        return peer.links.contains { plane.sendBulk(frame, on: $0) }
    }

    func isFruitless(_ peer: RetainedPeer, _ theirs: UInt64) -> Bool {
        guard let known = peer.fruitless, known.until > plane.now else { return false }
        return known.own == digest && known.theirs == theirs
    }

    /// The two have the same, or have compared everything.
    func synchronised(_ peer: RetainedPeer, areEqual: Bool) {
        peer.isSynchronised = true
        // Who only gives has heard of nothing.
        if peer.filter != nil, peer.leads { return }
        if areEqual { peer.pause = Time.minPause }
        lastSynchronised = (plane.now, plane.wallClock())
        if peer.since != 0 { since = min(since, peer.since) }
    }
}

/// What a node has done to have the same retained events as its neighbours.
struct RetainedSyncCounters: Equatable {
    /// Comparisons of buckets begun.
    var rounds = 0
    /// Values and deletions sent, and bytes of the frames with them.
    var sent = 0
    var bytesSent = 0
    /// Values and deletions received, and those of them that were newer.
    var received = 0
    var advanced = 0
    /// Values that a policy has kept from coming in.
    var kept = 0
    /// Values for which there was no room.
    var refused = 0
    /// Values that were dropped because other nodes have deleted them long ago.
    var adopted = 0
    /// Comparisons and requests given up because no answer came.
    var abandoned = 0
}
