/// Where everything goes: made by the link state whenever it changes, read by everybody.
struct Routes {
    /// By node: the link that the unique shortest path begins with; 0 for none and for this node itself.
    var links: [LinkNumber] = []
    /// By node: the sum of the costs; 0 for this node, .max for none.
    var distances: [UInt64] = []
    /// By node: the links whose neighbours' shortest paths to it begin with this node. What that node floods, its
    /// interest, is passed on there.
    var children: [[LinkNumber]] = []
    /// Counts the versions.
    var version: UInt64 = 0

    @inline(__always)
    func link(to node: NodeIndex) -> LinkNumber { node < links.count ? links[node] : 0 }
    func isReachable(_ node: NodeIndex) -> Bool { node == NodeTable.own || link(to: node) != 0 }
    func children(of origin: NodeIndex) -> [LinkNumber] { origin < children.count ? children[origin] : [] }
}
