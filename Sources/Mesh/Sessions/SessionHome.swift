/// What this node knows as the home of client ids: which node has the session, by the claims that were made. Confined
/// to the mesh's lane.
struct SessionHome {
    /// Who has a session.
    struct Entry {
        var holder: NodeIndex
        /// Which life of the holder is meant: a new one has none of its sessions.
        var life: UInt32
        /// Counts the claims to the client id; the larger one holds, of equals that of the larger node id.
        var count: UInt64
        /// The claim, so that it may be asked for again, and who had the session before.
        var request: UInt64
        var previous: NodeIndex?
        /// When the client that claimed came to its node, by this node's clock, in milliseconds; 0 if that is unknown.
        var cameAt: UInt64 = 0
    }

    /// What a claim is answered.
    struct Grant {
        var count: UInt64
        var previous: NodeIndex?
    }

    private(set) var table = ClientTable<Entry>()
    /// Client ids there may be.
    let maxEntries: Int
    /// Claims that were granted without being remembered.
    private(set) var overflown: UInt64 = 0

    init(maxEntries: Int) { self.maxEntries = maxEntries }

    static func life(_ node: NodeIndex, _ nodes: NodeTable) -> UInt32 { UInt32(truncatingIfNeeded: nodes[node].epoch) }

    private static func isLarger(
        _ a: (count: UInt64, node: NodeIndex), _ b: (count: UInt64, node: NodeIndex), _ nodes: NodeTable
    ) -> Bool {
        a.count != b.count ? a.count > b.count : nodes[a.node].id > nodes[b.node].id
    }

    func knows(_ client: ClientHash) -> Bool { table[client] != nil }

    /// Decides a claim.
    /// - Parameters:
    ///   - cameAt: when its client came, by this node's clock.
    ///   - clock: that moment in milliseconds since 1970: what counts begin with, so that of two claims at two homes,
    ///     during a partition, the later one holds afterwards.
    /// - Returns: nil if the claim was long on its way, and another node's client that came later has been granted its
    ///   own meanwhile.
    mutating func claim(
        _ client: ClientHash, request: UInt64, known: UInt64, by node: NodeIndex, cameAt: UInt64, clock: UInt64,
        _ nodes: NodeTable
    ) -> Grant? {
        let old = table[client]
        if let old, old.request == request, old.holder == node {
            return Grant(count: old.count, previous: old.previous)
        }
        let count = max(clock, max(old?.count ?? 0, known) + 1)
        var previous: NodeIndex?
        if let old, old.holder != node, old.life == Self.life(old.holder, nodes) {
            guard old.cameAt <= cameAt else { return nil }
            previous = old.holder
        }
        if old == nil, table.count >= maxEntries {
            overflown &+= 1
            return Grant(count: count, previous: nil)
        }
        table.set(
            client,
            Entry(
                holder: node, life: Self.life(node, nodes), count: count, request: request, previous: previous,
                cameAt: cameAt))
        return Grant(count: count, previous: previous)
    }

    /// What an announcement leads to.
    enum Announced {
        case noted
        /// Another node came later: the announcer has lost.
        case superseded(count: UInt64, by: NodeIndex)
        /// The announcer came later than this node, which has lost.
        case replaced(former: NodeIndex)
    }

    /// A node says that it has a session.
    mutating func announce(
        _ client: ClientHash, count: UInt64, cameAt: UInt64, by node: NodeIndex, _ nodes: NodeTable
    ) -> Announced {
        var entry = Entry(
            holder: node, life: Self.life(node, nodes), count: count, request: 0, previous: nil, cameAt: cameAt)
        guard let old = table[client] else {
            if table.count < maxEntries { table.set(client, entry) } else { overflown &+= 1 }
            return .noted
        }
        let isAlive = old.life == Self.life(old.holder, nodes)
        if old.holder == node {
            guard count > old.count || !isAlive else { return .noted }
            entry.count = max(count, old.count)
            if isAlive { entry.cameAt = old.cameAt }
            table.set(client, entry)
            return .noted
        }
        if isAlive, Self.isLarger((old.count, old.holder), (count, node), nodes) {
            return .superseded(count: old.count, by: old.holder)
        }
        table.set(client, entry)
        return isAlive ? .replaced(former: old.holder) : .noted
    }

    /// A session has ended.
    mutating func release(_ client: ClientHash, count: UInt64, by node: NodeIndex) {
        guard let entry = table[client], entry.holder == node, entry.count <= count else { return }
        table.remove(client)
    }

    /// Looks at one entry.
    /// - Parameter isHome: whether this node is still the id's home.
    mutating func tidy(at place: Int, _ nodes: NodeTable, isHome: (ClientHash) -> Bool) {
        let (client, entry) = (table.keys[place], table.values[place])
        guard isHome(client), entry.life == Self.life(entry.holder, nodes) else { return table.remove(client) }
    }
}
