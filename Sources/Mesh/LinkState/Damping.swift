/// What keeps changes from becoming storms: token buckets, and the time a link that flaps must wait before it is
/// advertised again.

/// So many at once, then one per interval. Time in milliseconds.
struct TokenBucket: BitwiseCopyable {
    let capacity: UInt64
    /// Milliseconds until the next token.
    let interval: UInt64
    /// Milliseconds saved up.
    private var saved: UInt64
    private var since: UInt64

    init(capacity: UInt64, interval: UInt64, now: UInt64) {
        self.capacity = capacity
        self.interval = max(interval, 1)
        saved = capacity * self.interval
        since = now
    }

    private mutating func fill(_ now: UInt64) {
        guard now > since else { return }
        saved = now - since >= capacity * interval ? capacity * interval : min(saved + now - since, capacity * interval)
        since = now
    }

    /// Takes a token if there is one, and leaves at least `reserve`.
    mutating func take(_ now: UInt64, reserve: UInt64 = 0) -> Bool {
        fill(now)
        guard saved >= (reserve + 1) * interval else { return false }
        saved -= interval
        return true
    }

    /// When `take` will succeed.
    mutating func next(_ now: UInt64, reserve: UInt64 = 0) -> UInt64 {
        fill(now)
        let needed = (reserve + 1) * interval
        return saved >= needed ? now : now + needed - saved
    }
}

/// How often the links to a neighbour have gone down lately. Only their coming up is held back, never their going down:
/// 0, 0, 1, 2, 4 … 30 seconds. A neighbour that was started anew begins anew.
struct Damping {
    private struct Record {
        let peer: NodeIndex
        var epoch: UInt64
        var flaps: Int
        var lastDown: UInt64
    }

    /// Milliseconds that a link must have been up for what was before to be forgiven.
    static let stable: UInt64 = 30_000
    static let maxHold: UInt64 = 30_000
    /// The same for a link to a neighbour that nothing else leads to: to be cut off for longer than it flaps would be
    /// worse than its flapping.
    static let maxHoldAlone: UInt64 = 1_000
    /// Neighbours remembered; the one that has been quiet for longest makes room.
    static let maxRecords = 256

    private var records: [Record] = []

    /// A link went down that had been up since `upSince`.
    mutating func wentDown(_ peer: NodeIndex, epoch: UInt64, upSince: UInt64, now: UInt64) {
        if let known = records.firstIndex(where: { $0.peer == peer }) {
            let isForgiven = records[known].epoch != epoch || now - min(upSince, now) >= Self.stable
            records[known].flaps = isForgiven ? 1 : records[known].flaps + 1
            records[known].epoch = epoch
            records[known].lastDown = now
            return
        }
        if records.count >= Self.maxRecords,
            let oldest = records.indices.min(by: { records[$0].lastDown < records[$1].lastDown })
        {
            records.remove(at: oldest)
        }
        records.append(Record(peer: peer, epoch: epoch, flaps: 1, lastDown: now))
    }

    /// Milliseconds that a link which is up now has to wait.
    func hold(_ peer: NodeIndex, epoch: UInt64) -> UInt64 {
        guard let record = records.first(where: { $0.peer == peer }), record.epoch == epoch, record.flaps > 1 else {
            return 0
        }
        return min(1_000 << UInt64(min(record.flaps - 2, 10)), Self.maxHold)
    }

    /// The neighbour was started anew.
    mutating func forgive(_ peer: NodeIndex) { records.removeAll { $0.peer == peer } }
}
