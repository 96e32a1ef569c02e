import Core

/// Probes: frames that take the way an event of a topic would take, and note the time at every node.

/// What came of a probe.
public struct MeshTrace: Sendable {
    /// One node on the way.
    public struct Hop: Sendable {
        /// Its name.
        public var node: String
        /// When the probe was there, in microseconds since 1970 by its own clock.
        public var time: UInt64
    }

    /// The way to one node that wants the topic.
    public struct Path: Sendable {
        /// Its name.
        public var node: String
        /// From this node to that one; empty when no answer came.
        public var hops: [Hop]
        /// Microseconds until the answer was back, by this node's clock alone; 0 when none came.
        public var roundTrip: UInt64
    }

    /// Subscriptions on this node that match.
    public var local = 0
    /// The ways to the other nodes.
    public var paths: [Path] = []
}

/// The probes of a node that are under way. Confined to the mesh's lane.
final class Probes {
    private struct Probe {
        var number: UInt64
        var wanted: [NodeIndex]
        var startedAt: UInt64
        var until: UInt64
        var trace: MeshTrace
        var done: (MeshTrace) -> Void
    }

    /// The lane of the frames: no event's.
    private static let lane = UInt8(FrameClass.control.rawValue) << 4 | 15
    /// For how long answers are waited for, in milliseconds.
    private static let patience: UInt64 = 1_000
    /// Probes under way at once.
    private static let maxProbes = 64
    private static let stampSize = 10

    private unowned let node: MeshNode
    private var probes: [Probe] = []
    private var nextNumber: UInt64 = 1

    init(_ node: MeshNode) { self.node = node }

    /// Sends a probe.
    /// - Parameter done: called on the mesh's lane, when all have answered or after a second.
    func send(_ topic: String, done: @escaping (MeshTrace) -> Void) {
        let matches = Array(topic.utf8).withUnsafeBytes { node.router.remoteMatches($0) }
        var wanted = matches.nodes
        for group in matches.groups where group.localMembers == 0 {
            for other in group.nodes where !wanted.contains(other) { wanted.append(other) }
        }
        var trace = MeshTrace()
        trace.local = matches.local + matches.groups.reduce(0) { $0 + $1.localMembers }
        trace.paths = wanted.map { MeshTrace.Path(node: node.nodes[$0].name, hops: [], roundTrip: 0) }
        guard !wanted.isEmpty, probes.count < Self.maxProbes else { return done(trace) }
        let number = nextNumber
        nextNumber += 1
        probes.append(
            Probe(
                number: number, wanted: wanted, startedAt: node.host.microseconds(), until: node.now + Self.patience,
                trace: trace, done: done))
        var sealed: [UInt8] = []
        withUnsafeBytes(of: number.littleEndian) { sealed.append(contentsOf: $0) }
        sealed += stamp()
        node.forwarder.branchOut(wanted, lane: Self.lane)
        node.forwarder.writeBranches(
            type: .trace, frameClass: .direct, lane: Self.lane, flags: 0, sealed: sealed.count, label: nil
        ) { place in
            sealed.withUnsafeBytes {
                if let base = $0.baseAddress { place.copyMemory(from: base, byteCount: $0.count) }
            }
        }
        node.wake(at: node.now + Self.patience)
    }

    private func stamp() -> [UInt8] {
        var bytes: [UInt8] = []
        withUnsafeBytes(of: node.nodes[NodeTable.own].shortID.littleEndian) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: node.host.wallMicroseconds().littleEndian) { bytes.append(contentsOf: $0) }
        return bytes
    }

    /// A probe that comes through or ends here: the same with this node's time.
    func stamped(_ frame: DataFrame) -> [UInt8]? {
        let stamps = (frame.sealed.count - 8) / Self.stampSize
        guard frame.sealed.count >= 8, stamps <= Int(Forwarder.timeToLive) else { return nil }
        var bytes = frame.copy((0..<frame.destinationCount).map { frame.destination($0) }) + stamp()
        let length = bytes.count
        bytes[0] = UInt8(truncatingIfNeeded: length)
        bytes[1] = UInt8(truncatingIfNeeded: length >> 8)
        bytes[2] = UInt8(truncatingIfNeeded: length >> 16)
        return bytes
    }

    /// A probe has arrived: what it has collected goes back.
    func arrived(_ frame: DataFrame, from origin: NodeIndex) {
        var writer = WireWriter(.traceAnswer)
        writer.raw(frame.sealed)
        node.route(writer.finish(), to: origin, isBulk: false)
    }

    /// An answer.
    func answered(_ reader: inout WireReader, from origin: NodeIndex) -> String? {
        let number = reader.u64()
        var hops: [MeshTrace.Hop] = []
        while reader.count >= Self.stampSize {
            let name = node.nodes.node(shortID: reader.u16()).map { node.nodes[$0].name } ?? "unknown"
            hops.append(MeshTrace.Hop(node: name, time: reader.u64()))
        }
        guard reader.isWhole else { return "an answer to a probe that cannot be read" }
        guard let place = probes.firstIndex(where: { $0.number == number }),
            let path = probes[place].wanted.firstIndex(of: origin)
        else { return nil }
        probes[place].trace.paths[path].hops = hops
        probes[place].trace.paths[path].roundTrip = max(1, node.host.microseconds() &- probes[place].startedAt)
        if probes[place].trace.paths.allSatisfy({ !$0.hops.isEmpty }) { finish(place) }
        return nil
    }

    private func finish(_ place: Int) {
        let probe = probes.remove(at: place)
        probe.done(probe.trace)
    }

    /// Probes whose time is over.
    func tick() -> UInt64? {
        while let place = probes.firstIndex(where: { $0.until <= node.now }) { finish(place) }
        return probes.map(\.until).min()
    }
}
