import Synchronization

/// What a lane knows of itself in numbers: plain counters that its own thread writes, and snapshots of them that may
/// be read anywhere. Nobody waits for anybody: who wants a snapshot asks the lane (`Lanes.gather`).

/// Where the events of one protocol on one lane are counted. A trivial copy of an address, so that whoever counts has
/// no reference to keep; valid as long as the lane is. Confined to the lane.
public struct TrafficCounter: BitwiseCopyable {
    /// Four numbers each, by QoS: events in, bytes in, events out, bytes out. The fourth of each is never used; it
    /// makes an index of two bits safe.
    @usableFromInline let cells: UnsafeMutablePointer<UInt64>

    init() {
        cells = .allocate(capacity: 16)
        cells.initialize(repeating: 0, count: 16)
    }

    /// Counts events taken from publishers.
    /// - Parameter bytes: of the packets that brought them.
    @inlinable @inline(__always)
    public func received(_ count: Int, bytes: Int, qos: UInt8) { add(count, bytes, at: Int(qos & 3)) }

    /// Counts events written to subscribers.
    /// - Parameter bytes: of the packets that carry them.
    @inlinable @inline(__always)
    public func sent(_ count: Int, bytes: Int, qos: UInt8) { add(count, bytes, at: Int(qos & 3) | 8) }

    @inlinable @inline(__always)
    func add(_ count: Int, _ bytes: Int, at cell: Int) {
        cells[cell] &+= UInt64(truncatingIfNeeded: count)
        cells[cell | 4] &+= UInt64(truncatingIfNeeded: bytes)
    }
}

/// The events of one protocol on one lane, and its connections there. Adapters keep the counter in what they keep for
/// a lane. Confined to the lane.
public final class Traffic {
    /// The adapter's name.
    public let protocolName: String
    /// Connections on the lane now.
    public var connections = 0
    /// Where events are counted.
    public let counter = TrafficCounter()

    init(_ protocolName: String) { self.protocolName = protocolName }

    deinit { counter.cells.deallocate() }

    /// What it has counted.
    public var statistics: TrafficStatistics {
        func three(_ first: Int) -> [UInt64] { (0..<3).map { counter.cells[first + $0] } }
        return TrafficStatistics(
            protocolName: protocolName, connections: connections, eventsIn: three(0), bytesIn: three(4),
            eventsOut: three(8), bytesOut: three(12))
    }
}

/// A snapshot of ``Traffic``. The arrays have an entry for each QoS, 0 to 2.
public struct TrafficStatistics: Sendable, Equatable {
    /// The adapter's name.
    public var protocolName: String
    /// Connections now.
    public var connections = 0
    /// Events taken from publishers.
    public var eventsIn: [UInt64] = [0, 0, 0]
    /// Bytes of the packets that brought them.
    public var bytesIn: [UInt64] = [0, 0, 0]
    /// Events written to subscribers.
    public var eventsOut: [UInt64] = [0, 0, 0]
    /// Bytes of the packets that carry them.
    public var bytesOut: [UInt64] = [0, 0, 0]

    /// No traffic yet.
    public init(protocolName: String) { self.protocolName = protocolName }

    init(
        protocolName: String, connections: Int, eventsIn: [UInt64], bytesIn: [UInt64], eventsOut: [UInt64],
        bytesOut: [UInt64]
    ) {
        self.protocolName = protocolName
        self.connections = connections
        self.eventsIn = eventsIn
        self.bytesIn = bytesIn
        self.eventsOut = eventsOut
        self.bytesOut = bytesOut
    }

    /// Adds another lane's numbers of the same protocol.
    public mutating func add(_ other: TrafficStatistics) {
        connections += other.connections
        for qos in 0..<3 {
            eventsIn[qos] &+= other.eventsIn[qos]
            bytesIn[qos] &+= other.bytesIn[qos]
            eventsOut[qos] &+= other.eventsOut[qos]
            bytesOut[qos] &+= other.bytesOut[qos]
        }
    }
}

/// A lane's snapshot. Counts are from the start of the node, the rest is as it is now.
public struct LaneStatistics: Sendable, Equatable {
    /// The lane's number.
    public var number: Int
    /// Its counters.
    public var counters: Counters
    /// Events and connections by protocol.
    public var traffic: [TrafficStatistics]
    /// Ports that can be delivered to.
    public var ports: Int
    /// Inboxes that wait for their clients.
    public var absentInboxes: Int
    /// Events that wait in inboxes.
    public var queuedEvents: Int
    /// What they count for in limits.
    public var queuedBytes: Int
    /// Runs whose publishers wait for a full queue.
    public var heldRuns: Int
    /// Bytes that wait in its mailbox.
    public var mailboxBytes: Int
    /// Topics in its match caches.
    public var cacheEntries: Int
    /// Bytes of what these caches remember.
    public var cacheBytes: Int
    /// Passes, and the time spent in and between them.
    public var passes: PassStatistics
    /// How long events took from the read that brought them to the write that sent them.
    public var latency: LatencyStatistics

    /// Connections of all protocols.
    public var connections: Int { traffic.reduce(0) { $0 + $1.connections } }
}

extension Lane {
    /// The traffic of a protocol on this lane; made when it is first asked for.
    public final func traffic(of protocolName: String) -> Traffic {
        if let known = traffics.first(where: { $0.protocolName == protocolName }) { return known }
        let made = Traffic(protocolName)
        traffics.append(made)
        return made
    }

    /// Everything this lane counts, as it is now.
    public final func statistics() -> LaneStatistics {
        let caches = matchCaches
        return LaneStatistics(
            number: number, counters: counters, traffic: traffics.map(\.statistics), ports: portCount,
            absentInboxes: absentLists.reduce(0) { $0 + $1.count }, queuedEvents: queuedEvents,
            queuedBytes: queuedBytes, heldRuns: heldRuns,
            mailboxBytes: mailbox.pendingBytes.load(ordering: .relaxed),
            cacheEntries: caches.reduce(0) { $0 + $1.count }, cacheBytes: caches.reduce(0) { $0 + $1.bytes },
            passes: meter.passStatistics, latency: meter.latencyStatistics)
    }

    /// The loop has stopped waiting: a pass begins.
    /// - Parameter nanoseconds: the monotonic time.
    @inline(__always)
    public final func beginPass(at nanoseconds: UInt64) {
        now = nanoseconds / 1_000_000
        matchingWork = 0
        meter.begin(at: nanoseconds)
    }

    /// Everything has been sent: the pass is over.
    /// - Parameter nanoseconds: the monotonic time.
    @inline(__always)
    public final func endPass(at nanoseconds: UInt64) { meter.end(at: nanoseconds, eventsOut: counters.eventsOut) }
}
