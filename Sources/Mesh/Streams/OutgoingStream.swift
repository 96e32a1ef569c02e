/// One destination's part of what this node publishes: numbers, window, what the destination has, what to send again
/// and when. Decides; ``Streams`` sends. Confined to the mesh's lane.
///
/// What is numbered is in ``window``, in the order of the counters and without a hole; behind it, without numbers yet,
/// what is ``waiting`` for the window to open or the destination to become reachable. The window closes for what the
/// destination can take (``peerFrames``, ``peerBytes``) and, as in TCP with selective acknowledgements, for what the
/// way there can carry (``congestionWindow``): losses halve it.
final class OutgoingStream {
    struct Entry {
        /// ``SpoolPosition/none`` for a void.
        var position: SpoolPosition
        /// From when on nobody wants it, monotonic milliseconds; 0 for never.
        var expiresAt: UInt64
        /// What it counts for in windows: bytes of its frame, about.
        var size: Int
        /// What it counts for in the spool.
        var cost: Int
        var events: Int
        var isPossibleDuplicate = false
        /// The destination has said that it has it; it may not have settled it.
        var isReceived = false
        /// To be sent again, not yet sent again.
        var isLost = false
        var isResent = false
        /// When it was sent last, and the how manieth frame of the stream that was.
        var sentAt: UInt64 = 0
        var order: UInt64 = 0

        var isVoid: Bool { position == .none }
    }

    /// A publisher held because of this destination: goes on when ``freed`` has come so far.
    struct Hold {
        var threshold: UInt64
        var number: UInt64
    }

    /// Bytes of a frame around what is sealed.
    static let frameOverhead = 32
    /// Frames sent later that must have been received before an earlier one counts as lost.
    static let reorderTolerance: UInt64 = 3
    static let initialTimeout: UInt64 = 1_000
    static let minTimeout: UInt64 = 50
    static let maxTimeout: UInt64 = 10_000
    static let initialCongestionWindow = 1 << 20
    static let minCongestionWindow = 64 << 10

    let node: NodeIndex
    private let settings: StreamSettings
    /// The destination's life that the counters belong to.
    private(set) var epoch: UInt64
    /// Whether it is among those that are looked at as time goes on.
    var isListed = false
    /// The link the route there begins with; 0 for none.
    var link: LinkNumber = 0
    /// Since when there has been no route.
    var unreachableSince: UInt64 = 0

    var window = Ring<Entry>()
    var waiting = Ring<Entry>()
    var holds = Ring<Hold>()
    /// Costs of everything ever taken and ever given up.
    private(set) var taken: UInt64 = 0
    private(set) var freed: UInt64 = 0

    /// The counter of the first in the window.
    private(set) var base: UInt64 = 1
    private var windowBytes = 0
    /// Bytes under way: sent, neither received nor lost.
    private var underWay = 0
    private var lostCount = 0
    private var lostHint = 0
    private var nextOrder: UInt64 = 1
    private var newestReceivedOrder: UInt64 = 0
    private var peerFrames: Int
    private var peerBytes: Int
    private var congestionWindow = OutgoingStream.initialCongestionWindow
    /// Losses of frames up to this one have been answered by a smaller window already.
    private var recoveryOrder: UInt64 = 0
    private(set) var smoothedRoundTrip: Double = 0
    private var roundTripVariance: Double = 0
    private var backoff = 0
    /// When something is to be done if nothing is heard; .max for never.
    private(set) var timeoutAt = UInt64.max
    private var probeNumber: UInt64 = 0
    private var probeOrder: UInt64 = 0

    init(to node: NodeIndex, epoch: UInt64, settings: StreamSettings) {
        self.node = node
        self.epoch = epoch
        self.settings = settings
        peerFrames = settings.windowFrames
        peerBytes = settings.windowBytes
    }

    var isReachable: Bool { link != 0 }
    var isIdle: Bool { window.isEmpty && waiting.isEmpty }
    /// Whether nothing it has taken is left: there may be voids.
    var isSpent: Bool { freed == taken }
    /// The counter of the last frame sent.
    var lastSent: UInt64 { base + UInt64(window.count) - 1 }

    /// How long an answer may take, milliseconds.
    var timeout: UInt64 {
        let measured =
            smoothedRoundTrip == 0
            ? Self.initialTimeout
            : max(Self.minTimeout, UInt64(smoothedRoundTrip + 4 * roundTripVariance) + settings.acknowledgeDelay)
        return min(measured << UInt64(min(backoff, 16)), Self.maxTimeout)
    }

    // MARK: Taking

    /// Takes a new event, behind what is there.
    func take(_ entry: Entry) {
        taken += UInt64(entry.cost)
        waiting.append(entry)
    }

    /// Holds a publisher until what it has just published is within the destination's share.
    func hold(_ number: UInt64, share: Int) {
        let threshold = taken > UInt64(share) ? taken - UInt64(share) : 0
        holds.append(Hold(threshold: threshold, number: number))
    }

    /// The next publisher that may go on.
    func takeReleased() -> UInt64? {
        guard let first = holds.first, first.threshold <= freed else { return nil }
        _ = holds.popFirst()
        return first.number
    }

    // MARK: Sending

    /// Whether a frame of this size may be sent now.
    private func isOpen(for size: Int) -> Bool {
        guard window.count < min(settings.windowFrames, peerFrames) else { return false }
        guard windowBytes == 0 || windowBytes + size <= min(settings.windowBytes, peerBytes) else { return false }
        return hasRoomUnderWay(size)
    }

    private func hasRoomUnderWay(_ size: Int) -> Bool {
        underWay == 0 || underWay + size <= congestionWindow
    }

    /// Whether what waits first may be numbered and sent.
    var canBegin: Bool {
        guard isReachable, lostCount == 0, let first = waiting.first else { return false }
        return isOpen(for: first.size)
    }

    /// Numbers what waits first; it is being sent.
    /// - Returns: its counter.
    func begin(now: UInt64) -> UInt64 {
        guard var entry = waiting.popFirst() else { return 0 }
        mark(&entry, now)
        window.append(entry)
        windowBytes += entry.size
        return lastSent
    }

    private func mark(_ entry: inout Entry, _ now: UInt64) {
        entry.sentAt = now
        entry.order = nextOrder
        nextOrder += 1
        underWay += entry.size
        if timeoutAt == .max { timeoutAt = now + timeout }
    }

    /// The index in the window of the next frame to send again; it is being sent.
    func resendNext(now: UInt64) -> Int? {
        guard isReachable, lostCount > 0 else { return nil }
        while lostHint < window.count, !window[lostHint].isLost { lostHint += 1 }
        guard lostHint < window.count else {
            lostHint = 0
            return nil
        }
        guard hasRoomUnderWay(window[lostHint].size) else { return nil }
        window[lostHint].isLost = false
        window[lostHint].isResent = true
        lostCount -= 1
        mark(&window[lostHint], now)
        return lostHint
    }

    private func lose(_ index: Int) {
        window[index].isLost = true
        underWay -= window[index].size
        lostCount += 1
        lostHint = min(lostHint, index)
    }

    /// Makes what has a number carry nothing.
    /// - Returns: what it carried.
    func void(_ index: Int) -> Entry {
        let entry = window[index]
        let isCounted = !entry.isReceived && !entry.isLost
        let size = min(entry.size, Self.frameOverhead)
        window[index].position = .none
        window[index].size = size
        window[index].cost = 0
        window[index].expiresAt = 0
        windowBytes -= entry.size - size
        if isCounted { underWay -= entry.size - size }
        freed += UInt64(entry.cost)
        return entry
    }

    /// The destination refused it: its void is sent instead.
    func voidRefused(_ index: Int) -> Entry {
        let entry = void(index)
        if window[index].isReceived {
            window[index].isReceived = false
            underWay += window[index].size
        }
        if !window[index].isLost { lose(index) }
        return entry
    }

    /// The first without a number is given up.
    func dropWaiting() -> Entry? {
        let entry = waiting.popFirst()
        if let entry { freed += UInt64(entry.cost) }
        return entry
    }

    // MARK: Hearing

    /// Takes what the destination says.
    /// - Parameter done: called for what it has settled, in order.
    /// - Returns: why the acknowledgement cannot be true; nil when all is well.
    func heard(_ said: StreamAcknowledgement, now: UInt64, done: (Entry) -> Void) -> String? {
        guard said.highest <= lastSent else { return "a stream is acknowledged beyond what was sent" }
        // What was overtaken by a later one says nothing new.
        guard said.cumulative + 1 >= base else { return nil }
        peerFrames = max(1, Int(clamping: said.windowFrames))
        peerBytes = Int(clamping: said.windowBytes)
        let before = (base, newestReceivedOrder)
        var sample: Entry?
        while base <= said.cumulative, let entry = window.popFirst() {
            base += 1
            lostHint = max(0, lostHint - 1)
            windowBytes -= entry.size
            freed += UInt64(entry.cost)
            if entry.isLost { lostCount -= 1 } else if !entry.isReceived { underWay -= entry.size }
            if !entry.isReceived { note(entry, now, &sample) }
            done(entry)
        }
        let isAnswer = said.echo != 0 && said.echo == probeNumber
        if isAnswer { forgetUnheld(said) }
        for range in said.ranges { receive(range, now, &sample) }
        if let sample { measure(now - sample.sentAt) }
        let hasProgressed = base != before.0 || newestReceivedOrder != before.1
        if hasProgressed { backoff = 0 }
        findLost(before: newestReceivedOrder, isAnswer ? said : nil)
        if isAnswer { probeNumber = 0 }
        timeoutAt = window.isEmpty ? .max : hasProgressed || isAnswer ? now + timeout : timeoutAt
        return nil
    }

    private func receive(_ range: StreamAcknowledgement.Range, _ now: UInt64, _ sample: inout Entry?) {
        var counter = max(range.first, base)
        while counter <= range.last {
            let index = Int(counter - base)
            counter += 1
            let entry = window[index]
            guard !entry.isReceived else { continue }
            window[index].isReceived = true
            if entry.isLost {
                window[index].isLost = false
                lostCount -= 1
            } else {
                underWay -= entry.size
            }
            note(entry, now, &sample)
        }
    }

    /// Something has been received for the first time.
    private func note(_ entry: Entry, _ now: UInt64, _ sample: inout Entry?) {
        congestionWindow = min(settings.windowBytes, congestionWindow + entry.size)
        // Of what was sent twice nobody knows which of both has arrived (Karn).
        if entry.isResent, Double(now - entry.sentAt) < smoothedRoundTrip / 2 { return }
        newestReceivedOrder = max(newestReceivedOrder, entry.order)
        if !entry.isResent, sample.map({ $0.order < entry.order }) ?? true { sample = entry }
    }

    /// The answer to a probe is the whole truth: what the destination had and no longer has is to be sent again.
    private func forgetUnheld(_ said: StreamAcknowledgement) {
        let end = said.ranges.count < StreamAcknowledgement.maxRanges ? UInt64.max : said.highest
        for index in 0..<window.count where window[index].isReceived {
            let counter = base + UInt64(index)
            if counter > end || said.ranges.contains(where: { $0.first <= counter && counter <= $0.last }) { continue }
            window[index].isReceived = false
            underWay += window[index].size
        }
    }

    /// What was sent before something that has been received, and has not been received itself, is lost; and whatever
    /// was sent before a probe and is missing in its answer.
    private func findLost(before order: UInt64, _ answer: StreamAcknowledgement?) {
        var isLoss = false
        let isWhole = (answer?.ranges.count ?? 0) < StreamAcknowledgement.maxRanges
        for index in 0..<window.count {
            let entry = window[index]
            if entry.isReceived || entry.isLost { continue }
            let isOvertaken = entry.order + Self.reorderTolerance <= order
            let isMissing =
                answer.map { entry.order <= probeOrder && (isWhole || base + UInt64(index) < $0.highest) } ?? false
            if isOvertaken || isMissing {
                lose(index)
                if entry.order > recoveryOrder { isLoss = true }
            } else if answer == nil, entry.order > order, !entry.isResent {
                // Whatever stands behind it has been sent later.
                break
            }
        }
        if isLoss { shrink() }
    }

    private func shrink() {
        recoveryOrder = nextOrder - 1
        congestionWindow = max(Self.minCongestionWindow, congestionWindow / 2)
    }

    private func measure(_ milliseconds: UInt64) {
        let sample = Double(max(milliseconds, 1))
        if smoothedRoundTrip == 0 {
            (smoothedRoundTrip, roundTripVariance) = (sample, sample / 2)
        } else {
            roundTripVariance = 0.75 * roundTripVariance + 0.25 * abs(smoothedRoundTrip - sample)
            smoothedRoundTrip = 0.875 * smoothedRoundTrip + 0.125 * sample
        }
    }

    // MARK: Time

    /// Nothing has been heard for too long: what is missing is sent again, one small window of it.
    /// - Returns: whether to ask, because all has arrived and only its settling is not known.
    func timedOut(now: UInt64) -> Bool {
        var found = false
        for index in 0..<window.count where !window[index].isReceived {
            found = true
            if !window[index].isLost { lose(index) }
        }
        if found {
            recoveryOrder = nextOrder - 1
            congestionWindow = Self.minCongestionWindow
        }
        backoff += 1
        timeoutAt = now + timeout
        return !found
    }

    /// Begins a probe.
    func probe(now: UInt64, number: UInt64) {
        probeNumber = number
        probeOrder = nextOrder - 1
        timeoutAt = min(timeoutAt, now + timeout)
    }

    /// There is no way to the destination: nothing is sent, and nothing expected.
    func stopTimer() { timeoutAt = .max }

    /// Another life of the destination, or of this node: what has not been settled is numbered anew.
    /// - Returns: how many events that are.
    func restart(epoch: UInt64) -> Int {
        self.epoch = epoch
        var events = 0
        while var entry = window.popLast() {
            guard !entry.isVoid else { continue }
            entry.isPossibleDuplicate = true
            (entry.isReceived, entry.isLost, entry.isResent) = (false, false, false)
            waiting.prepend(entry)
            events += entry.events
        }
        (base, windowBytes, underWay, lostCount, lostHint) = (1, 0, 0, 0, 0)
        (nextOrder, newestReceivedOrder, recoveryOrder) = (1, 0, 0)
        (peerFrames, peerBytes) = (settings.windowFrames, settings.windowBytes)
        congestionWindow = Self.initialCongestionWindow
        (smoothedRoundTrip, roundTripVariance, backoff) = (0, 0, 0)
        (timeoutAt, probeNumber, probeOrder) = (.max, 0, 0)
        return events
    }
}
