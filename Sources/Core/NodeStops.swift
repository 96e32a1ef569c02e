/// Where look-ups stand in a topic tree while they wait for their next step. Whoever removes a node moves everybody who
/// stands on it to its next sibling in one go, however many they are.

/// Stops, each on one node, or past the last of some siblings. Several look-ups on one node share its stop. When a node
/// that is removed has a stop and its next sibling has one too, the first forwards to the second.
///
/// Threading: like the tree's, under the router's retained lock.
struct NodeStops: ~Copyable {
    struct Stop {
        /// The node; 0 past the last sibling, or when this stop forwards.
        var node: UInt32
        var forward: UInt32 = 0
        /// Look-ups that stand here, and stops that forward here.
        var holders: UInt32 = 1
    }

    private var stops = Arena<Stop>(givesBack: true)
    /// Stops by node.
    private var table = NumberTable()

    /// Stops in use.
    var count: Int { stops.count }

    /// Stands on a node that is in the tree.
    /// - Returns: the stop's number, to be given to ``leave(_:)`` exactly once.
    mutating func stand(on node: UInt32) -> UInt32 {
        let known = find(node)
        if known != 0 {
            stops[known].holders += 1
            return known
        }
        let number = stops.allocate(Stop(node: node))
        table.insert(number, hash: Self.hash(node))
        return number
    }

    /// Gives a stop up.
    /// - Returns: the node that it is on by now; 0 when there are no further siblings.
    mutating func leave(_ number: UInt32) -> UInt32 {
        var last = number
        while stops[last].forward != 0 {
            // The path is halved on the way, so that long chains of removed nodes are not walked again and again.
            let middle = stops[last].forward
            let far = stops[middle].forward
            if far != 0 {
                stops[far].holders += 1
                stops[last].forward = far
                drop(middle)
            }
            last = stops[last].forward
        }
        let node = stops[last].node
        drop(number)
        return node
    }

    /// Called when `node` leaves the tree: who stands on it goes on to `next`, its next sibling or 0.
    @inline(__always)
    mutating func move(from node: UInt32, to next: UInt32) {
        if stops.count != 0 { moveStop(from: node, to: next) }
    }

    @inline(never)
    private mutating func moveStop(from node: UInt32, to next: UInt32) {
        let number = find(node)
        guard number != 0 else { return }
        table.remove(number, hash: Self.hash(node))
        stops[number].node = 0
        guard next != 0 else { return }
        let other = find(next)
        if other != 0 {
            stops[number].forward = other
            stops[other].holders += 1
        } else {
            stops[number].node = next
            table.insert(number, hash: Self.hash(next))
        }
    }

    private mutating func drop(_ first: UInt32) {
        var number = first
        while number != 0 {
            stops[number].holders -= 1
            let stop = stops[number]
            guard stop.holders == 0 else { return }
            if stop.node != 0 { table.remove(number, hash: Self.hash(stop.node)) }
            stops.release(number)
            number = stop.forward
        }
    }

    private func find(_ node: UInt32) -> UInt32 { table.find(Self.hash(node)) { stops[$0].node == node } }

    /// Node numbers are ours, not a peer's: no key is needed.
    private static func hash(_ node: UInt32) -> UInt32 { node &* 0x9E37_79B9 }
}
