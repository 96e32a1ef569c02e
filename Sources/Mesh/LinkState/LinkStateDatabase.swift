/// The newest advertisement of every node, and which is newer. Confined to the mesh's lane.

/// What is kept of one node.
final class LinkStateEntry {
    let node: NodeIndex
    var advertisement: Advertisement
    /// As received, with header: passed on byte by byte but for the time left.
    var frame: [UInt8]
    /// Monotonic milliseconds; .max for this node's own.
    var expiresAt: UInt64
    /// Monotonic milliseconds.
    var receivedAt: UInt64
    /// Has expired. It is kept so that nobody brings it back, and to tell its node of a version that must be exceeded.
    var hasLeft = false
    /// By adjacency: the neighbour's index, -1 while there is none.
    var neighbours: [Int32] = []
    /// By adjacency: what decides between paths of equal cost.
    var ties: [UInt64] = []
    /// Bits of the adjacencies that may be used. Others' all; of the own those that are up now, which the newest
    /// advertisement may not have said yet.
    var usable = UInt64.max
    /// How many more advertisements are taken of this origin.
    var rate: TokenBucket
    /// How many more nodes of which nobody has heard are taken because this one names them as its neighbours.
    var vouching: TokenBucket

    init(node: NodeIndex, advertisement: Advertisement, frame: [UInt8], expiresAt: UInt64, now: UInt64) {
        self.node = node
        self.advertisement = advertisement
        self.frame = frame
        self.expiresAt = expiresAt
        receivedAt = now
        rate = TokenBucket(
            capacity: LinkStateDatabase.originBurst, interval: LinkStateDatabase.originInterval, now: now)
        vouching = TokenBucket(
            capacity: UInt64(Advertisement.maxAdjacencies), interval: LinkStateDatabase.newcomerInterval, now: now)
        resolve()
    }

    func replace(_ advertisement: Advertisement, frame: [UInt8], expiresAt: UInt64, now: UInt64) {
        // Whoever has left is not told when indices become others'.
        let known = hasLeft ? [] : zip(self.advertisement.adjacencies, neighbours).map { ($0.neighbour, $1) }
        self.advertisement = advertisement
        self.frame = frame
        self.expiresAt = expiresAt
        receivedAt = now
        hasLeft = false
        resolve()
        // What says the same again, or something else only, leads to no new routes that would look them up.
        for (place, (id, neighbour)) in known.enumerated()
        where place < neighbours.count && advertisement.adjacencies[place].neighbour == id {
            neighbours[place] = neighbour
        }
    }

    private func resolve() {
        let id = advertisement.head.id
        neighbours = Array(repeating: -1, count: advertisement.adjacencies.count)
        ties = advertisement.adjacencies.map { SipHash.tie(id, $0.link, $0.neighbour, $0.remoteLink) }
    }

    /// Milliseconds it is still good for.
    func lifetime(_ now: UInt64) -> UInt64 {
        expiresAt == .max ? LinkStateDatabase.maxLifetime : expiresAt > now ? expiresAt - now : 0
    }
}

/// The newest advertisement of every node.
struct LinkStateDatabase {
    /// Nodes of a mesh, this one included.
    static let maxNodes = 1_024
    /// Nodes that have left and whose last version is remembered.
    static let maxLeft = 1_024
    /// Nodes that are known while more are taken without anybody's naming them.
    static let maxUnnamed = 2_048
    /// Milliseconds for one more node of which nobody has heard, after as many as there may be.
    static let newcomerInterval: UInt64 = 1_000
    /// Milliseconds an advertisement is good for.
    static let maxLifetime: UInt64 = 300_000
    /// Advertisements taken of one origin at once, and milliseconds for one more. Twice what an origin may send.
    static let originBurst: UInt64 = 32
    static let originInterval: UInt64 = 50

    enum Freshness { case newer, same, older }

    /// By node.
    private var entries: [LinkStateEntry?] = []
    /// Those that have not left, by index.
    private(set) var present: [NodeIndex] = []
    /// Those that have left, the first to be forgotten first.
    private var left: [NodeIndex] = []
    /// Of the present; the order does not matter.
    private(set) var digest: UInt64 = 0
    /// No advertisement expires before.
    private var nextExpiry = UInt64.max

    subscript(node: NodeIndex) -> LinkStateEntry? { node < entries.count ? entries[node] : nil }

    /// Whether a further node has room.
    var hasRoom: Bool { present.count < Self.maxNodes }

    #if DEBUG
        var sabotage: Sabotage = []
        /// Different in every node; for ``Sabotage/tieOfItsOwn``.
        var tieKey: UInt64 = 0
    #endif

    func freshness(_ version: AdvertisementVersion, of node: NodeIndex?) -> Freshness {
        guard let node, let known = self[node]?.advertisement.head.version else { return .newer }
        #if DEBUG
            if sabotage.contains(.epochIgnored), version.sequence < known.sequence { return .older }
        #endif
        return version == known ? .same : known < version ? .newer : .older
    }

    /// Takes a newer advertisement.
    mutating func store(
        _ advertisement: Advertisement, frame: [UInt8], of node: NodeIndex, expiresAt: UInt64, now: UInt64
    ) {
        if node >= entries.count { entries += repeatElement(nil, count: node + 1 - entries.count) }
        if let entry = entries[node] {
            if entry.hasLeft {
                left.removeAll { $0 == node }
                insert(node)
            } else {
                digest &-= Self.digest(entry)
            }
            entry.replace(advertisement, frame: frame, expiresAt: expiresAt, now: now)
            digest &+= Self.digest(entry)
        } else {
            let entry = LinkStateEntry(
                node: node, advertisement: advertisement, frame: frame, expiresAt: expiresAt, now: now)
            entries[node] = entry
            insert(node)
            digest &+= Self.digest(entry)
        }
        nextExpiry = min(nextExpiry, expiresAt)
    }

    private static func digest(_ entry: LinkStateEntry) -> UInt64 {
        SipHash.digest(entry.advertisement.head.id, entry.advertisement.head.version)
    }

    private mutating func insert(_ node: NodeIndex) {
        present.insert(node, at: present.firstIndex { $0 > node } ?? present.count)
    }

    /// When `expire` may find something.
    var expiry: UInt64 { nextExpiry }

    /// Takes out what has expired: the nodes that have left with it.
    mutating func expire(_ now: UInt64) -> [NodeIndex] {
        guard now >= nextExpiry else { return [] }
        var gone: [NodeIndex] = []
        nextExpiry = .max
        for node in present {
            guard let entry = entries[node] else { continue }
            guard entry.expiresAt <= now else {
                nextExpiry = min(nextExpiry, entry.expiresAt)
                continue
            }
            entry.hasLeft = true
            digest &-= Self.digest(entry)
            gone.append(node)
        }
        takeOut(gone)
        return gone
    }

    /// Takes a node out at once: it has said that it leaves, or has to make room.
    mutating func leave(_ node: NodeIndex) {
        guard let entry = self[node], !entry.hasLeft else { return }
        entry.hasLeft = true
        digest &-= Self.digest(entry)
        takeOut([node])
    }

    private mutating func takeOut(_ gone: [NodeIndex]) {
        guard !gone.isEmpty else { return }
        present.removeAll { entries[$0]?.hasLeft ?? true }
        left += gone
        while left.count > Self.maxLeft { entries[left.removeFirst()] = nil }
    }

    /// Forgets a node that has left, version and all, and whoever names it forgets its index.
    mutating func forget(_ node: NodeIndex) {
        left.removeAll { $0 == node }
        if node < entries.count { entries[node] = nil }
        for other in present {
            guard let entry = entries[other] else { continue }
            for place in entry.neighbours.indices where entry.neighbours[place] == Int32(node) {
                entry.neighbours[place] = -1
            }
        }
    }

    /// The links that hold in both directions, between vertices in the order of ``present``.
    func graph(_ nodes: NodeTable) -> LinkGraph {
        var vertices = [Int32](repeating: -1, count: entries.count)
        for (vertex, node) in present.enumerated() { vertices[node] = Int32(vertex) }
        for node in present {
            guard let entry = entries[node] else { continue }
            for (place, adjacency) in entry.advertisement.adjacencies.enumerated() where entry.neighbours[place] < 0 {
                if let neighbour = nodes.known(adjacency.neighbour) { entry.neighbours[place] = Int32(neighbour) }
            }
        }
        var graph = LinkGraph(vertices: present.count)
        for node in present {
            guard let entry = entries[node] else { continue }
            let head = entry.advertisement.head
            graph.begin(isTransit: !head.has(AdvertisementHead.noTransit) && !head.has(AdvertisementHead.joining))
            let drain: UInt64 = head.has(AdvertisementHead.draining) ? LinkGraph.drainCost : 0
            for place in entry.neighbours.indices {
                guard entry.usable >> UInt64(place) & 1 != 0, let (cost, vertex) = twoWay(entry, place, vertices)
                else { continue }
                let adjacency = entry.advertisement.adjacencies[place]
                #if DEBUG
                    let tie = entry.ties[place] ^ (sabotage.contains(.tieOfItsOwn) ? tieKey >> 16 : 0)
                #else
                    let tie = entry.ties[place]
                #endif
                graph.append(
                    LinkGraph.Edge(
                        target: vertex, link: adjacency.link, remoteLink: adjacency.remoteLink, cost: cost + drain,
                        tie: tie))
            }
        }
        return graph
    }

    /// What an adjacency costs, and its other end's vertex, if the neighbour tells of the same one: the same link
    /// numbers and the same nonce. The larger of both ends' costs holds.
    private func twoWay(_ entry: LinkStateEntry, _ place: Int, _ vertices: [Int32]) -> (UInt64, Int32)? {
        let neighbour = Int(entry.neighbours[place])
        guard neighbour >= 0, neighbour < entries.count, vertices[neighbour] >= 0, let other = entries[neighbour] else {
            return nil
        }
        let adjacency = entry.advertisement.adjacencies[place]
        for (otherPlace, reverse) in other.advertisement.adjacencies.enumerated()
        where reverse.nonce == adjacency.nonce && reverse.link == adjacency.remoteLink
            && reverse.remoteLink == adjacency.link && other.neighbours[otherPlace] == Int32(entry.node)
        {
            guard other.usable >> UInt64(otherPlace) & 1 != 0 else { return nil }
            let drain: UInt64 = other.advertisement.head.has(AdvertisementHead.draining) ? LinkGraph.drainCost : 0
            return (UInt64(max(adjacency.cost, reverse.cost)) + drain, vertices[neighbour])
        }
        return nil
    }

    /// Whether both ends tell of an adjacency.
    func isTwoWay(_ entry: LinkStateEntry, _ place: Int) -> Bool {
        let adjacency = entry.advertisement.adjacencies[place]
        let neighbour = Int(entry.neighbours[place])
        guard neighbour >= 0, let other = self[neighbour], !other.hasLeft else { return false }
        return other.advertisement.adjacencies.contains {
            $0.nonce == adjacency.nonce && $0.link == adjacency.remoteLink && $0.remoteLink == adjacency.link
                && $0.neighbour == entry.advertisement.head.id
        }
    }
}
