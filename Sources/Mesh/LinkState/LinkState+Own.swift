/// The own advertisement: what it says, when it is sent, and what happens when someone else speaks for this node.

/// A link of this node, up.
struct OwnAdjacency {
    var adjacency: Adjacency
    let upSince: UInt64
    /// Others are not told before, because the links to this neighbour have flapped.
    var releaseAt: UInt64
    /// The newest own advertisement has it.
    var isAdvertised = false
}

/// What guards the own identity. An advertisement of this node that it has not sent, and that is newer, comes from an
/// earlier life, whose epoch was lost; or from a clone, another process with the same data. Both are answered with a
/// larger epoch. An earlier life is silent then; a clone raises its epoch as well, and that is how it is known.
struct OwnIdentity {
    /// Milliseconds within which more than `maxRaises` raises against the same instance prove that it is alive.
    static let proofTime: UInt64 = 10_000
    static let maxRaises = 3
    /// Raises at once, and milliseconds for one more.
    static let raiseBurst: UInt64 = 4
    static let raiseInterval: UInt64 = 1_000
    /// Instances remembered; the oldest makes room.
    static let maxRivals = 8

    private struct Rival {
        let instance: UInt64
        var since: UInt64
        var raises: Int
    }

    private var rivals: [Rival] = []
    var raises: TokenBucket
    /// The epoch that must be exceeded; nil when nobody has a larger one.
    var raiseAbove: UInt64?
    /// A clone stays, and this node has to go: it says nothing more.
    var hasLeft = false

    init(now: UInt64) {
        raises = TokenBucket(capacity: Self.raiseBurst, interval: Self.raiseInterval, now: now)
    }

    /// Another instance has spoken for this node; true when it is certain that it is alive.
    mutating func met(_ instance: UInt64, now: UInt64) -> Bool {
        if let known = rivals.firstIndex(where: { $0.instance == instance }) {
            if now - rivals[known].since > Self.proofTime { (rivals[known].since, rivals[known].raises) = (now, 0) }
            rivals[known].raises += 1
            return rivals[known].raises > Self.maxRaises
        }
        if rivals.count >= Self.maxRivals { rivals.removeFirst() }
        rivals.append(Rival(instance: instance, since: now, raises: 1))
        return false
    }

    /// When the epoch may be raised; nil when it need not.
    func raiseDue(_ now: UInt64) -> UInt64? {
        guard raiseAbove != nil, !hasLeft else { return nil }
        var copy = raises
        return copy.next(now)
    }

    /// The next epoch: the upper 48 bits count, the lower 16 are random. Nil when there is none.
    static func epoch(above epoch: UInt64, random: UInt64) -> UInt64? {
        let counter = epoch >> 16 + 1
        guard counter < 1 << 48 else { return nil }
        return counter << 16 | random & 0xFFFF
    }
}

extension LinkState {
    // MARK: Links

    /// A link carries events in both directions from now on. A link that is up already has a new connection.
    func adjacencyUp(_ new: Adjacency) {
        let now = plane.now
        if let known = adjacencies.first(where: { $0.adjacency.link == new.link })?.adjacency {
            guard known.nonce != new.nonce || known.peer != new.peer || known.remoteLink != new.remoteLink else {
                return setCost(new.cost, of: new.link)
            }
            adjacencyDown(new.link)
        }
        guard adjacencies.count < Advertisement.maxAdjacencies, new.link > 0, new.link <= UInt16.max else {
            counters.refusedAdjacencies += 1
            plane.log(.warning, "link \(new.link) is not used: a node has at most 64 links")
            return
        }
        var hold = damping.hold(new.peer, epoch: plane.nodes[new.peer].epoch)
        if !routes.isReachable(new.peer) { hold = min(hold, Damping.maxHoldAlone) }
        let place = adjacencies.firstIndex { $0.adjacency.link > new.link } ?? adjacencies.count
        adjacencies.insert(OwnAdjacency(adjacency: new, upSince: now, releaseAt: now + hold), at: place)
        if hold == 0 { news(now) } else { plane.wake(at: now + hold) }
    }

    /// A link carries nothing any more. Others are told at once.
    func adjacencyDown(_ link: LinkNumber) {
        guard let place = adjacencies.firstIndex(where: { $0.adjacency.link == link }) else { return }
        let now = plane.now
        let gone = adjacencies.remove(at: place)
        let peer = gone.adjacency.peer
        damping.wentDown(peer, epoch: plane.nodes[peer].epoch, upSince: gone.upSince, now: now)
        guard gone.isAdvertised else { return }
        limitToUsable()
        settleSoon(now)
        hasBadNews = true
        originateIfDue(now)
        if let due = originationDue(now) { plane.wake(at: due) }
    }

    /// What a link costs, at this end.
    func setCost(_ cost: UInt32, of link: LinkNumber) {
        guard let place = adjacencies.firstIndex(where: { $0.adjacency.link == link }),
            adjacencies[place].adjacency.cost != cost
        else { return }
        adjacencies[place].adjacency.cost = cost
        if adjacencies[place].isAdvertised { news(plane.now) }
    }

    /// Says that this node is about to stop, or is not: paths avoid it where they can.
    func setDraining(_ isDraining: Bool) {
        guard self.isDraining != isDraining else { return }
        self.isDraining = isDraining
        news(plane.now)
    }

    /// A neighbour has been started anew: what its links did before does not count.
    func forgive(_ peer: NodeIndex, _ now: UInt64) {
        damping.forgive(peer)
        for place in adjacencies.indices
        where adjacencies[place].adjacency.peer == peer && adjacencies[place].releaseAt > now {
            adjacencies[place].releaseAt = now
            news(now)
        }
    }

    /// A link that is held back turns out to be all that leads to its neighbour.
    func hastenAlone(_ now: UInt64) {
        for place in adjacencies.indices where adjacencies[place].releaseAt > now {
            let latest = max(now, adjacencies[place].upSince + Damping.maxHoldAlone)
            guard latest < adjacencies[place].releaseAt, !routes.isReachable(adjacencies[place].adjacency.peer) else {
                continue
            }
            adjacencies[place].releaseAt = latest
            plane.wake(at: latest)
        }
    }

    // MARK: Sending

    /// There is something to tell that can wait a little.
    func news(_ now: UInt64) {
        hasNews = true
        originateIfDue(now)
        if let due = originationDue(now) { plane.wake(at: due) }
    }

    /// When the own advertisement is to be sent; nil when there is nothing to tell. What has gone is told as long as
    /// there are tokens, everything else leaves half of them and some time between.
    func originationDue(_ now: UInt64) -> UInt64? {
        guard !identity.hasLeft else { return nil }
        if hasBadNews { return originations.next(now) }
        guard hasNews else { return nil }
        return max(originations.next(now, reserve: Self.ownBurst / 2), originatedAt + Self.ownSpacing)
    }

    func originateIfDue(_ now: UInt64) {
        guard let due = originationDue(now), due <= now, originations.take(now) else { return }
        originate(now)
    }

    /// Makes the own advertisement anew and floods it.
    func originate(_ now: UInt64) {
        guard !identity.hasLeft else { return }
        (hasNews, hasBadNews) = (false, false)
        originatedAt = now
        refreshAt = now + Self.refreshInterval * 4 / 5 + plane.random() % (Self.refreshInterval * 2 / 5)
        sequence += 1
        counters.originated += 1
        for place in adjacencies.indices { adjacencies[place].isAdvertised = adjacencies[place].releaseAt <= now }
        let advertisement = ownAdvertisement()
        let frame = advertisement.frame()
        let before = database[NodeTable.own]?.advertisement
        database.store(advertisement, frame: frame, of: NodeTable.own, expiresAt: .max, now: now)
        limitToUsable()
        for link in plane.establishedLinks { plane.send(frame, on: link) }
        noteStored(advertisement.head.id, advertisement.head.version)
        if !(before.map(advertisement.saysTheSame) ?? false) { settleSoon(now) }
    }

    private func ownAdvertisement() -> Advertisement {
        let own = plane.nodes[NodeTable.own]
        var flags: UInt16 = settings.isTransit ? 0 : AdvertisementHead.noTransit
        if isDraining { flags |= AdvertisementHead.draining }
        if isJoining { flags |= AdvertisementHead.joining }
        if isLeaving { flags |= AdvertisementHead.left }
        let head = AdvertisementHead(
            flags: flags, lifetime: UInt32(LinkStateDatabase.maxLifetime), id: own.id,
            version: AdvertisementVersion(epoch: own.epoch, sequence: sequence), instance: own.instance,
            shortID: shortID, claims: claims)
        var advertisement = Advertisement(head: head, name: Self.short(settings.name))
        let fitting = settings.addresses.filter { $0.utf8.count <= Advertisement.maxText }
        advertisement.addresses = Array(fitting.prefix(Advertisement.maxAddresses))
        advertisement.adjacencies = adjacencies.filter(\.isAdvertised).map { own in
            AdvertisedAdjacency(
                neighbour: plane.nodes[own.adjacency.peer].id, link: UInt16(truncatingIfNeeded: own.adjacency.link),
                remoteLink: own.adjacency.remoteLink, nonce: own.adjacency.nonce,
                cost: min(max(own.adjacency.cost, 1), Advertisement.maxCost))
        }
        advertisement.extensions = AdvertisedWeights.extensionBytes(ownWeights)
        #if DEBUG
            if plane.sabotage.contains(.later) { Later.extend(&advertisement) }
        #endif
        return advertisement
    }

    /// A name that fits, cut between characters.
    private static func short(_ name: String) -> String {
        var name = name
        while name.utf8.count > Advertisement.maxText { name.removeLast() }
        return name
    }

    /// Takes links that are down out of the own routes, whatever the newest advertisement still says.
    private func limitToUsable() {
        guard let entry = database[NodeTable.own] else { return }
        entry.usable = 0
        for (place, advertised) in entry.advertisement.adjacencies.enumerated()
        where adjacencies.contains(where: {
            $0.isAdvertised && $0.adjacency.link == Int(advertised.link) && $0.adjacency.nonce == advertised.nonce
        }) {
            entry.usable |= 1 << UInt64(place)
        }
    }

    /// Ends joining: when the node knows what a neighbour knows, or has found nobody for a while, and all it knows says
    /// that its number is its own.
    func leaveJoining(_ now: UInt64) {
        guard isJoining, settleAt == nil, isSynchronised || now >= startedAt + Self.joinPatience,
            plane.nodes[NodeTable.own].shortID != 0
        else { return }
        isJoining = false
        news(now)
    }

    // MARK: Identity

    /// Someone sends an advertisement of this node.
    func heardOfOneself(_ head: AdvertisementHead, from link: LinkNumber) {
        guard !identity.hasLeft, let entry = database[NodeTable.own] else { return }
        // While a raise has to wait, the same may come again and proves nothing.
        if let above = identity.raiseAbove, head.version.epoch <= above { return }
        let now = plane.now
        let own = plane.nodes[NodeTable.own]
        let version = entry.advertisement.head.version
        if head.instance == own.instance {
            guard head.version != version else { return }
            guard version < head.version else { return answer(entry, on: link, now) }
            // Not from this process: a copy of it, memory and all. From now on they can be told apart.
            plane.nodes.update(NodeTable.own, epoch: own.epoch, instance: plane.random(), name: own.name)
        } else {
            guard version <= head.version else { return answer(entry, on: link, now) }
            if identity.met(head.instance, now: now) {
                let reason = "another node with the id \(own.id) is alive"
                guard own.instance < head.instance else {
                    identity.hasLeft = true
                    plane.log(.error, "\(reason); this one leaves the mesh")
                    return events.mustLeave(reason)
                }
                plane.log(.error, "\(reason); that one is to leave the mesh")
            }
        }
        identity.raiseAbove = max(identity.raiseAbove ?? 0, head.version.epoch)
        raiseIfDue(now)
        if let due = identity.raiseDue(now) { plane.wake(at: due) }
    }

    /// Raises the own epoch above one that has been met: this node begins a new life.
    func raiseIfDue(_ now: UInt64) {
        guard let above = identity.raiseAbove, !identity.hasLeft, identity.raises.take(now) else { return }
        identity.raiseAbove = nil
        let own = plane.nodes[NodeTable.own]
        guard let epoch = OwnIdentity.epoch(above: max(above, own.epoch), random: plane.random()) else {
            identity.hasLeft = true
            return events.mustLeave("no epoch is larger than what the mesh has seen of this node")
        }
        counters.raises += 1
        plane.log(.warning, "an advertisement of this node that it has not sent: its epoch is raised")
        plane.nodes.update(NodeTable.own, epoch: epoch, instance: own.instance, name: own.name)
        sequence = 0
        // Counted, but never put off: until this is known nobody believes anything this node says.
        _ = originations.take(now)
        originate(now)
        events.nodeChanged(NodeTable.own, isRestart: true)
    }
}
