@testable import Mesh

/// Judges a run of a ``StreamNetwork``.
struct StreamOracle {
    private(set) var failure: String?

    init(_ network: StreamNetwork) {
        for node in network.all {
            if let reason = node.failure { failure = "node \(node.index): \(reason)" }
        }
        if failure == nil, !network.isQuiet {
            let left = network.all.map { "\($0.publications)/\($0.streams.spool.count)/\($0.streams.heldBytes)" }
            failure = "not everything has arrived: \(left)"
        }
        for origin in network.all where failure == nil {
            var missing = 0
            for destination in network.all where destination.index != origin.index {
                missing += judge(origin, destination)
            }
            let counted = origin.totals.droppedExpired + origin.totals.droppedUnreachable + origin.totals.noMember
            // What is given up may have arrived, and its acknowledgement not. What a node alone had dies with it.
            if failure == nil, origin.life == 1, missing > counted {
                failure = "of node \(origin.index) \(missing) are missing, \(counted) counted"
            }
        }
    }

    /// - Returns: how many events have not been settled in any life of the destination.
    private mutating func judge(_ origin: StreamNode, _ destination: StreamNode) -> Int {
        let all = origin.published[destination.index]
        var places: [StreamNote: Int] = [:]
        for (place, note) in all.enumerated() { places[note] = place }
        var settled: Set<StreamNote> = []
        var last: [Int: Int] = [:]
        let name = "from \(origin.index) to \(destination.index)"
        for taken in destination.taken where taken.note.origin == origin.index {
            guard let place = places[taken.note] else {
                failure = "\(name): \(taken.note) was not published"
                continue
            }
            // Within one life of the destination: in order, and so never twice.
            if let before = last[taken.life], before >= place {
                failure = "\(name): \(taken.note) came after \(all[before])"
            }
            last[taken.life] = place
            if settled.contains(taken.note), !taken.isPossibleDuplicate {
                failure = "\(name): \(taken.note) came to two lives without saying so"
            }
            if taken.isSettled { settled.insert(taken.note) }
        }
        return all.count - settled.count
    }
}
