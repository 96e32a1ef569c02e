/// A turn: what one read of one connection brought in, as runs of borrowed events. The conversation fills it, the
/// router empties it. One per lane, reused; confined to the lane.
public final class Turn {
    /// Events a turn can hold; a conversation that finds it full returns, so that it is routed first.
    public static let eventCapacity = 4_096
    /// Runs a turn can hold: few enough that the nearest cache still has the first when the last has been parsed.
    public static let runCapacity = 128

    /// The runs, in the order they arrived.
    public let runs: UnsafeMutablePointer<EventRun>
    /// Runs in use.
    public var runCount = 0
    /// The events of all runs.
    public let events: UnsafeMutablePointer<EventView>
    /// Events in use.
    public var eventCount = 0
    /// What became of each run, filled by the router.
    public let outcomes: UnsafeMutablePointer<PublishOutcome>
    /// Who publishes. Set by the conversation before it returns.
    public var principal: Principal?

    let owned: UnsafeMutablePointer<Unmanaged<EventStorage>?>
    private var scratch: [UnsafeMutableRawPointer] = []

    /// Makes an empty turn.
    public init() {
        runs = .allocate(capacity: Self.runCapacity)
        events = .allocate(capacity: Self.eventCapacity)
        outcomes = .allocate(capacity: Self.runCapacity)
        owned = .allocate(capacity: Self.eventCapacity)
        owned.initialize(repeating: nil, count: Self.eventCapacity)
    }

    deinit {
        runs.deallocate()
        events.deallocate()
        outcomes.deallocate()
        owned.deallocate()
        for block in scratch { block.deallocate() }
    }

    /// Whether neither a run nor an event more fits.
    @inlinable public var isFull: Bool { runCount >= runLimit || eventCount == Self.eventCapacity }
    /// Runs that this turn may have: few at first, twice as many after each turn that was cheap to route.
    public internal(set) var runLimit = Turn.runCapacity
    /// What ``runLimit`` may grow to: less than ``runCapacity`` after turns that were costly to route.
    var runCeiling = Turn.runCapacity

    /// A connection's bytes are about to be taken. What its topics cost to look up is not known yet.
    public func beginSlowly() { runLimit = min(8, runCeiling) }

    /// Whether there is nothing to route.
    @inlinable public var isEmpty: Bool { runCount == 0 }

    /// Forgets everything. The router calls it once the conversation has been told the outcomes.
    public func removeAll() {
        runCount = 0
        eventCount = 0
        principal = nil
        if !scratch.isEmpty { freeScratch() }
    }

    /// Memory that stays until the turn is over, for what a run refers to and no packet has in one piece.
    public func makeScratch(_ count: Int) -> UnsafeMutableRawPointer {
        let block = UnsafeMutableRawPointer.allocate(byteCount: max(count, 1), alignment: 1)
        scratch.append(block)
        return block
    }

    @inline(never)
    private func freeScratch() {
        for block in scratch { block.deallocate() }
        scratch.removeAll(keepingCapacity: true)
    }

    /// Releases the owned copies that ports asked for.
    func releaseOwned(_ run: EventRun) {
        guard run.qos > 0 || run.isRetained else { return }
        let first = run.events - events
        for index in first..<first + run.count {
            owned[index]?.release()
            owned[index] = nil
        }
    }
}

/// What became of a run of events.
public struct PublishOutcome: BitwiseCopyable, Sendable {
    /// What the gate said.
    public enum Verdict: UInt8, Sendable, BitwiseCopyable {
        case routed
        /// The access rules say no.
        case notAuthorized
        /// The principal's quota is used up.
        case quotaExceeded
        /// The topic is not a legal one; the rest of the turn was not routed.
        case malformedTopic
    }

    /// What the gate said.
    public var verdict: Verdict
    /// Subscriptions that matched.
    public var matched: Int32
    /// Guaranteed events that ports of this lane refused; each is counted there. Other lanes say theirs in receipts.
    public var refused: Int32
    /// Lanes that must still answer before a guaranteed run is settled; their answers carry the run's token.
    public var pending: Int32
    /// The token of the answers that are pending.
    public var token: UInt32
}
