import Core

/// What the router delivers to when other nodes want an event: their numbers are the identifiers of the target.
/// Confined to the mesh's lane.
final class MeshPort: Port {
    unowned(unsafe) var node: MeshNode!

    init() { super.init(takesPacked: false) }

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        // What came from another node has been sent wherever it is wanted by the node that took it from its publisher.
        if run.pointee.isFromMesh || run.pointee.topicBytes[0] == UInt8(ascii: "$") { return 0 }
        if run.pointee.isRetained {
            // It comes twice: as whoever wants it, which all nodes are, and then once for all of them.
            guard target.pointee.options.contains(.everywhere) else { return 0 }
            return node.departures.publishEverywhere(run, on: lane)
        }
        let first = lane.identifiers + Int(target.pointee.identifierStart)
        let wanted = UnsafeBufferPointer(start: first, count: Int(target.pointee.identifierCount))
        return node.departures.publish(run, to: wanted, on: lane)
    }

    override func receiptArrived(token: UInt32, refused: Int, more: Int, on lane: Lane) {
        node.arrivals.receiptArrived(token: token, more: more)
    }
}
