/// How a lane spends its time, and how long events take through it: two clock readings a pass, one entry in a histogram
/// for all events that the pass has sent.

/// A lane's passes. Times are nanoseconds of the monotonic clock.
public struct PassStatistics: Sendable, Equatable {
    /// Passes made.
    public var count: UInt64 = 0
    /// Time spent in them.
    public var busyNanoseconds: UInt64 = 0
    /// Time spent waiting between them.
    public var idleNanoseconds: UInt64 = 0

    /// No passes.
    public init() {}
}

/// A histogram of latencies, weighted by events.
public struct LatencyStatistics: Sendable, Equatable {
    /// Buckets with an upper bound; one without follows.
    public static let boundCount = 18

    /// The upper bounds, inclusive, in nanoseconds: 8 µs, doubled each time, up to 1.05 s.
    public static let bounds: [UInt64] = (0..<boundCount).map { 8_000 << UInt64($0) }

    /// Events in each bucket, not cumulative; the last one is above all bounds.
    public var counts = [UInt64](repeating: 0, count: boundCount + 1)
    /// The latencies of all events, added up, in nanoseconds.
    public var sumNanoseconds: UInt64 = 0

    /// No events.
    public init() {}

    /// Events in all buckets.
    public var count: UInt64 { counts.reduce(0, &+) }

    /// The bucket of a latency.
    @inlinable @inline(__always)
    static func bucket(_ nanoseconds: UInt64) -> Int {
        // Bounds are inclusive, hence the 1; nanoseconds == 0 wraps nowhere because of the max.
        let units = (max(nanoseconds, 1) &- 1) / 8_000
        return min(UInt64.bitWidth &- units.leadingZeroBitCount, boundCount)
    }

    /// Adds another lane's.
    public mutating func add(_ other: LatencyStatistics) {
        for index in counts.indices { counts[index] &+= other.counts[index] }
        sumNanoseconds &+= other.sumNanoseconds
    }
}

/// A lane's own book of its passes. Confined to the lane.
final class LaneMeter {
    /// Events sent for another lane whose pass began at this time.
    private struct Foreign {
        var passStart: UInt64
        var count: UInt64
    }

    /// When the pass under way began.
    private(set) var passStart: UInt64 = 0
    private var passEnd: UInt64 = 0
    private var passes: UInt64 = 0
    private var busy: UInt64 = 0
    private var idle: UInt64 = 0
    /// Events sent up to the end of the last pass.
    private var eventsSeen: UInt64 = 0
    private var foreign: [Foreign] = []
    private let buckets: UnsafeMutablePointer<UInt64>
    private var sum: UInt64 = 0

    init() {
        buckets = .allocate(capacity: LatencyStatistics.boundCount + 1)
        buckets.initialize(repeating: 0, count: LatencyStatistics.boundCount + 1)
    }

    deinit { buckets.deallocate() }

    @inline(__always)
    func begin(at time: UInt64) {
        if passEnd != 0, time > passEnd { idle &+= time &- passEnd }
        passStart = time
    }

    /// Events were sent because of mail: their time began with the read on the lane that posted it.
    func sentForeign(_ count: UInt64, since start: UInt64) {
        guard count > 0 else { return }
        if let last = foreign.indices.last, foreign[last].passStart == start {
            foreign[last].count &+= count
        } else {
            foreign.append(Foreign(passStart: start, count: count))
        }
    }

    @inline(__always)
    func end(at time: UInt64, eventsOut: UInt64) {
        passes &+= 1
        busy &+= time &- passStart
        passEnd = time
        var own = eventsOut &- eventsSeen
        guard own != 0 else { return }
        eventsSeen = eventsOut
        if !foreign.isEmpty { own &-= recordForeign(at: time) }
        if own != 0 { record(time &- passStart, own) }
    }

    @inline(never)
    private func recordForeign(at time: UInt64) -> UInt64 {
        var total: UInt64 = 0
        for entry in foreign {
            total &+= entry.count
            record(time > entry.passStart ? time &- entry.passStart : 0, entry.count)
        }
        foreign.removeAll(keepingCapacity: true)
        return total
    }

    @inline(__always)
    private func record(_ latency: UInt64, _ count: UInt64) {
        buckets[LatencyStatistics.bucket(latency)] &+= count
        sum &+= latency &* count
    }

    var passStatistics: PassStatistics {
        var statistics = PassStatistics()
        statistics.count = passes
        statistics.busyNanoseconds = busy
        statistics.idleNanoseconds = idle
        return statistics
    }

    var latencyStatistics: LatencyStatistics {
        var statistics = LatencyStatistics()
        for index in statistics.counts.indices { statistics.counts[index] = buckets[index] }
        statistics.sumNanoseconds = sum
        return statistics
    }
}
