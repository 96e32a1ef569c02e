import Core

/// What a node knows of a neighbour while both bring their retained events together. Confined to the mesh's lane.
final class RetainedPeer {
    /// A request for values that has not been answered.
    struct Pull {
        var number: UInt32
        var count: Int
        var deadline: UInt64
        var attempts = 1
    }

    /// A large value that has come in part.
    struct Partial {
        var hash: UInt64
        var version: EventVersion
        var bytes: [UInt8]
    }

    /// A listing that is being compared.
    struct Comparison {
        var listing: RetainedListing
        var answer: RetainedAnswer
        /// Whether everything has been compared that this answer is about, and only values are still to come.
        var isCompared = false
    }

    let node: NodeIndex
    /// Whether this node leads a comparison of the two; the other one answers.
    let leads: Bool
    var links: [LinkNumber]

    /// What may cross: this one's direction only. Nil for everything, in both.
    var filter: RetainedFilter?
    /// What this node has of that.
    var view = RetainedView()
    /// A taker's: the digest that the giver has said and that has not been answered.
    var offered: UInt64?

    // When to compare.
    /// When the other one is told this node's digest again.
    var compareAt: UInt64
    /// When the last comparison began; 0 for never.
    var lastRound: UInt64 = 0
    /// Milliseconds between two comparisons, growing as long as they do not end with equal digests.
    var pause: UInt64
    /// This node's digest and the other's in the last hello, when they differed.
    var heard: (own: UInt64, theirs: UInt64)?
    /// Digests that comparing did not make more equal, for instance because a store is full.
    var fruitless: (own: UInt64, theirs: UInt64, until: UInt64)?
    /// The other's last digest over everything.
    var digest: UInt64 = 0
    /// Since when, in milliseconds since 1970, nothing has been deleted that its set still has; 0 when unknown.
    var since: UInt64 = 0
    /// Whether the two have been equal, or compared completely, since the link came up.
    var isSynchronised = false

    // A comparison that this node leads.
    var isComparing = false
    var round: UInt32 = 0
    var portion: UInt32 = 0
    /// What is still to be listed; the next one last.
    var ranges: [HashRange] = []
    /// What has been read of the next portion.
    var sections: [RetainedSection] = []
    /// What the other one has been sent and not answered.
    var awaited: [HashRange] = []
    var isAwaiting = false
    /// When a comparison that makes no progress ends.
    var deadline = UInt64.max
    /// Values that either has taken over in this comparison.
    var gained = 0

    // A comparison that the other one leads.
    var comparison: Comparison?

    /// Reads a range of the store in portions.
    let reader = RangeReader()

    // Values to be had from the other one.
    var wants: [RetainedWant] = []
    var wanted = 0
    var pull: Pull?
    var pullNumber: UInt32 = 0
    var partial: Partial?
    /// Values taken over since the last answer.
    var taken = 0

    /// Frames for which there was no room or no route.
    var unsent: [[UInt8]] = []
    static let maxUnsent = 4

    init(node: NodeIndex, leads: Bool, links: [LinkNumber], now: UInt64, pause: UInt64) {
        self.node = node
        self.leads = leads
        self.links = links
        compareAt = now
        self.pause = pause
    }

    var isBusy: Bool { isComparing || comparison != nil || wanted < wants.count }

    /// Gives up what is under way.
    func stop() {
        isComparing = false
        ranges = []
        sections = []
        awaited = []
        isAwaiting = false
        deadline = .max
        comparison = nil
        reader.reset()
        dropWants()
    }

    func dropWants() {
        wants = []
        wanted = 0
        pull = nil
        partial = nil
    }
}

/// Reads what the store has in a range, sorted by hash, in portions of bounded size.
final class RangeReader {
    /// Entries of one reading at most: a range with more is made shorter.
    static let maxEntries = 1_500
    /// Entries looked at while the store's lock is held.
    private static let portion = 256
    private static let maxRestarts = 8

    private var range: HashRange?
    private(set) var entries: [RetainedEntry] = []
    private var place: UInt32 = 0
    private var restarts = 0
    private var found: [RetainedEntry] = []

    func reset() {
        range = nil
        entries = []
    }

    /// Goes on reading a range.
    /// - Parameter budget: entries that may be looked at; what was used is taken off.
    /// - Returns: the range that ``entries`` has everything of, beginning where `wanted` does; nil when the budget is
    ///   used up before.
    func read(_ wanted: HashRange, _ router: Router, budget: inout Int) -> HashRange? {
        if range?.first != wanted.first || range.map({ $0.last > wanted.last }) ?? true {
            range = wanted
            entries = []
            (place, restarts) = (0, 0)
        }
        guard var range else { return nil }
        while budget > 0 {
            found.removeAll(keepingCapacity: true)
            let max = min(Self.portion, budget)
            let next = router.retainedEntries(of: range.bucket, after: place, max: max, into: &found)
            budget -= found.count + 1
            for entry in found where entry.hash >= range.first && entry.hash <= range.last { entries.append(entry) }
            while entries.count > Self.maxEntries, range.first < range.last {
                range.last = range.first + (range.last - range.first) / 2
                entries.removeAll { $0.hash > range.last }
            }
            if entries.count > Self.maxEntries { entries.removeLast(entries.count - Self.maxEntries) }
            self.range = range
            if let next {
                place = next
            } else {
                // The entry that the reading stood on has gone. What is read twice is sorted out in the end.
                place = 0
                restarts += 1
            }
            if next == 0 || restarts > Self.maxRestarts { return finish(range) }
        }
        return nil
    }

    private func finish(_ range: HashRange) -> HashRange {
        entries.sort { a, b in
            if a.hash != b.hash { return a.hash < b.hash }
            return a.place != b.place ? a.place < b.place : a.version < b.version
        }
        var kept = 0
        for entry in entries {
            if kept > 0, entries[kept - 1].hash == entry.hash, entries[kept - 1].place == entry.place { kept -= 1 }
            entries[kept] = entry
            kept += 1
        }
        entries.removeLast(entries.count - kept)
        self.range = nil
        return range
    }
}
