/// The nodes this one has heard of. Written by the link state, read by everybody. Confined to the mesh's lane.
final class NodeTable {
    /// What is known of a node from its newest advertisement.
    struct Entry {
        let id: NodeID
        /// Its number in destination sets; 0 while it has none that is certain.
        var shortID: UInt16 = 0
        /// Counts its lives: 48 bits that it keeps on disk, then 16 random ones. 0 while unknown.
        var epoch: UInt64 = 0
        /// Random for every start of the process.
        var instance: UInt64 = 0
        /// What it calls itself.
        var name = ""
        /// Whether there has been a way to it: then its index is its for good.
        var isMet = false
    }

    /// This node's index.
    static let own: NodeIndex = 0
    /// Nodes that may be known at once; further ones are refused. A mesh of one area has at most 1,024.
    static let maxNodes = 4_096

    private(set) var entries: [Entry]
    private var byID: [NodeID: NodeIndex] = [:]
    private var byShortID: [UInt16]
    /// Indices of nodes that were never met and have been forgotten.
    private var free: [NodeIndex] = []

    init(own: NodeID, epoch: UInt64, instance: UInt64, name: String) {
        entries = [Entry(id: own, epoch: epoch, instance: instance, name: name)]
        byID[own] = Self.own
        byShortID = Array(repeating: .max, count: 1 << 16)
    }

    /// Above all indices.
    var count: Int { entries.count }
    /// Nodes that are known.
    var inUse: Int { entries.count - free.count }

    subscript(node: NodeIndex) -> Entry { entries[node] }

    /// A node's number in destination sets; 0 while it has none.
    @inline(__always)
    func shortID(of node: NodeIndex) -> UInt16 { entries[node].shortID }

    /// The number of a node's present life.
    @inline(__always)
    func epoch(of node: NodeIndex) -> UInt64 { entries[node].epoch }

    /// The index of a node, given if it is new; nil when there are too many.
    func index(of id: NodeID) -> NodeIndex? {
        if let known = byID[id] { return known }
        if let index = free.popLast() {
            entries[index] = Entry(id: id)
            byID[id] = index
            return index
        }
        guard entries.count < Self.maxNodes else { return nil }
        entries.append(Entry(id: id))
        byID[id] = entries.count - 1
        return entries.count - 1
    }

    /// The index of a node that has been heard of.
    func known(_ id: NodeID) -> NodeIndex? { byID[id] }

    /// The node with a number in destination sets.
    @inline(__always)
    func node(shortID: UInt16) -> NodeIndex? {
        let index = byShortID[Int(shortID)]
        return index == .max ? nil : Int(index)
    }

    /// Notes what a node's newest advertisement says. The caller changes other components' state for a new epoch.
    func update(_ node: NodeIndex, epoch: UInt64, instance: UInt64, name: String) {
        entries[node].epoch = epoch
        entries[node].instance = instance
        entries[node].name = name
    }

    /// There is a way to a node.
    func meet(_ node: NodeIndex) { if !entries[node].isMet { entries[node].isMet = true } }

    /// Forgets a node that was never met. Nobody refers to its index any more.
    func release(_ node: NodeIndex) {
        guard node != Self.own, node < entries.count, !entries[node].isMet, byID[entries[node].id] == node else {
            return
        }
        setShortID(node, 0)
        byID[entries[node].id] = nil
        entries[node] = Entry(id: NodeID(high: 0, low: 0))
        free.append(node)
    }

    /// Gives a node its number, or takes it away (0).
    func setShortID(_ node: NodeIndex, _ shortID: UInt16) {
        let old = entries[node].shortID
        if old != 0, byShortID[Int(old)] == UInt16(node) { byShortID[Int(old)] = .max }
        entries[node].shortID = shortID
        if shortID != 0 { byShortID[Int(shortID)] = UInt16(node) }
    }
}
