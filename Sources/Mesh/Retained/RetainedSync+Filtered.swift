import Core

// Neighbours of whom either has a policy for the link. Each direction is for itself: the giver says the digest over
// what may cross, the taker its buckets if it has something else, then the giver lists and the taker asks, as without a
// policy, but for the taker's own newer values: these come in the other direction, if they may.

/// What a node has of the topics that may cross a link in one direction: digests like those of the store, worked out
/// little by little.
struct RetainedView {
    private(set) var digests: [UInt64] = []
    private(set) var total: UInt64 = 0
    /// The store's digest when it was begun: as long as it is the same nothing has changed.
    private var basis: UInt64?
    /// Where it has got to.
    private var bucket = Router.retainedBuckets
    private var place: UInt32 = 0
    private var restarts = 0
    private var found: [RetainedEntry] = []

    /// Entries looked at while the store's lock is held.
    private static let portion = 256
    private static let maxRestarts = 8

    /// Goes on until what it says holds for the store as it was when it was begun, or later.
    /// - Returns: whether it does; else the budget is used up.
    mutating func update(_ router: Router, _ filter: RetainedFilter, budget: inout Int) -> Bool {
        let isDone = bucket == Router.retainedBuckets
        if isDone, basis == router.retainedDigest { return true }
        if isDone {
            basis = router.retainedDigest
            digests = Array(repeating: 0, count: Router.retainedBuckets)
            (bucket, place, restarts) = (0, 0, 0)
        }
        while bucket < Router.retainedBuckets {
            guard budget > 0 else { return false }
            found.removeAll(keepingCapacity: true)
            let next = router.retainedEntries(of: bucket, after: place, max: Self.portion, into: &found)
            budget -= found.count + 1
            for entry in found where filter.admits(entry, router) {
                digests[bucket] &+= SipHash.digest(entry)
            }
            if next == nil, restarts < Self.maxRestarts {
                // The entry that the reading stood on has gone.
                digests[bucket] = 0
                place = 0
                restarts += 1
            } else if let next, next != 0 {
                place = next
            } else {
                bucket += 1
                (place, restarts) = (0, 0)
            }
        }
        total = digests.reduce(0, &+)
        return true
    }
}

extension RetainedFilter {
    /// Whether what stands at a place may cross; false when it has gone.
    func admits(_ entry: RetainedEntry, _ router: Router) -> Bool {
        guard let event = router.retainedEvent(at: entry.place, hash: entry.hash)?.event else { return false }
        return withExtendedLifetime(event) { admits(event.topic) }
    }
}

extension SipHash {
    /// What an entry adds to the digest of what may cross a link.
    fileprivate static func digest(_ entry: RetainedEntry) -> UInt64 {
        digest(
            NodeID(high: entry.hash, low: entry.version.writer),
            AdvertisementVersion(epoch: entry.version.time, sequence: 0))
    }
}

extension RetainedSync {
    /// The neighbours' policy: from now on only what may cross is compared.
    func heard(policy: ToldPolicy, on link: LinkNumber) {
        let node = plane.peer(of: link)
        let links = peers.first { $0.node == node }?.links ?? [link]
        peers.removeAll { $0.node == node }
        addFiltered(node, links, policy)
        plane.wake(at: plane.now)
    }

    /// Two of them for one neighbour: what this node gives, and what it takes.
    func addFiltered(_ node: NodeIndex, _ links: [LinkNumber], _ told: ToldPolicy) {
        let gate = links.first.flatMap { plane.gate(on: $0) }
        let giver = RetainedPeer(node: node, leads: true, links: links, now: plane.now, pause: Time.minPause)
        giver.filter = RetainedFilter(gate?.export, told.import)
        let taker = RetainedPeer(node: node, leads: false, links: links, now: plane.now, pause: Time.minPause)
        taker.filter = RetainedFilter(gate?.import, told.export)
        taker.compareAt = .max
        let place = peers.firstIndex { $0.node > node } ?? peers.count
        peers.insert(contentsOf: [giver, taker], at: place)
    }

    // MARK: Giving

    /// Says what there is to give, when it is time to.
    func offer(_ peer: RetainedPeer, _ filter: RetainedFilter, _ budget: inout Int) {
        guard peer.leads, !peer.isComparing, peer.compareAt <= plane.now, let link = peer.links.first else { return }
        guard peer.view.update(router, filter, budget: &budget) else { return }
        peer.compareAt = plane.now + Time.interval
        plane.send(RetainedFrame.digest(.offer, peer.view.total, since: 0), on: link)
    }

    /// The taker has something else: what differs is listed.
    func receiveHad(_ reader: inout WireReader, _ peer: RetainedPeer) -> Bool {
        let theirs = reader.u64()
        _ = reader.u64()
        var digests: [UInt64] = []
        digests.reserveCapacity(Router.retainedBuckets)
        for _ in 0..<Router.retainedBuckets { digests.append(reader.u64()) }
        guard reader.isWhole else { return false }
        guard peer.filter != nil, !peer.isComparing, peer.view.digests.count == digests.count else { return true }
        peer.digest = theirs
        if let known = peer.fruitless, known.until > plane.now, known.own == peer.view.total, known.theirs == theirs {
            return true
        }
        begin(peer, digests.indices.filter { peer.view.digests[$0] != digests[$0] })
        return true
    }

    // MARK: Taking

    /// What the giver has: compared with what is here, at once or little by little.
    func receiveOffer(_ reader: inout WireReader, _ peer: RetainedPeer) -> Bool {
        let theirs = reader.u64()
        _ = reader.u64()
        guard reader.isWhole else { return false }
        if peer.filter != nil { peer.offered = theirs }
        return true
    }

    /// Answers an offer.
    func answerOffer(_ peer: RetainedPeer, _ filter: RetainedFilter, _ budget: inout Int) {
        guard let theirs = peer.offered, let link = peer.links.first else { return }
        guard peer.comparison == nil, peer.wanted >= peer.wants.count else {
            // It is being made equal.
            peer.offered = nil
            return
        }
        guard peer.view.update(router, filter, budget: &budget) else { return }
        peer.offered = nil
        if peer.view.total == theirs { return synchronised(peer, areEqual: true) }
        plane.send(RetainedFrame.buckets(.had, peer.view.total, since: 0, peer.view.digests), on: link)
    }
}
