import Core

/// What the router delivers to when other nodes want an event: their numbers are the identifiers of the target.
/// Confined to the mesh's lane.
final class MeshPort: Port {
    unowned(unsafe) var node: MeshNode!

    /// For each run of a turn that came from another node, how many others want it as well: the origin has sent it
    /// to them.
    private var remotes = [Int32](repeating: 0, count: Turn.runCapacity)

    init() { super.init(takesPacked: false) }

    /// The count of a run that has been routed.
    @inline(__always)
    func takeRemote(_ index: Int) -> Int32 {
        let count = remotes[index]
        if count != 0 { remotes[index] = 0 }
        return count
    }

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        // What came from another node has been sent wherever it is wanted by the node that took it from its publisher.
        if run.pointee.isFromMesh {
            let index = run - UnsafePointer(lane.turn.runs)
            if index >= 0, index < remotes.count { remotes[index] = Int32(target.pointee.identifierCount) }
            return 0
        }
        if run.pointee.topicBytes[0] == UInt8(ascii: "$") { return 0 }
        if run.pointee.isRetained, lane.group == 0 {
            // It comes twice: as whoever wants it, which all nodes are, and then once for all of them. Members' shares
            // come besides.
            guard target.pointee.options.contains(.everywhere) else { return 0 }
            let waits = run.pointee.qos > 0 && !node.isJoined
            let refused = waits ? node.departures.keepUntilJoined(run, on: lane) : 0
            return refused + node.departures.publishEverywhere(run, on: lane)
        }
        if run.pointee.qos > 0, !node.isJoined {
            // What other nodes want is not known yet: it comes again, and waits. A member's share comes but once.
            let waits = target.pointee.options.contains(.unmatched) || lane.group != 0
            return waits ? node.departures.keepUntilJoined(run, on: lane) : 0
        }
        if target.pointee.options.contains(.unmatched) { return 0 }
        let first = lane.identifiers + Int(target.pointee.identifierStart)
        let wanted = UnsafeBufferPointer(start: first, count: Int(target.pointee.identifierCount))
        return node.departures.publish(run, to: wanted, on: lane)
    }

    override func receiptArrived(token: UInt32, refused: Int, more: Int, on lane: Lane) {
        node.arrivals.receiptArrived(token: token, more: more)
    }
}
