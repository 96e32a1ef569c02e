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
    public func beginSlowly() {
        runLimit = min(8, runCeiling)
        room = .unlimited
    }

    /// How much of what follows a conversation may put into the turn, where a client is slowed down.
    public struct Room: Sendable, Equatable {
        /// Events of the whole turn.
        public var events: Int
        /// Where in the bytes received the last event may begin.
        public var end: Int
        /// Bytes of a payload.
        public var payload: Int

        /// Makes a room.
        public init(events: Int, end: Int, payload: Int) {
            self.events = min(events, Turn.eventCapacity)
            self.end = end
            self.payload = payload
        }

        /// As much as there is room for.
        public static let unlimited = Room(events: .max, end: .max, payload: 1 << 40)
    }

    /// What a conversation that slows its client down has found out; as much as there is room for otherwise.
    public var room = Room.unlimited

    /// Whether there is nothing to route.
    @inlinable public var isEmpty: Bool { runCount == 0 }

    /// Forgets everything. The router calls it once the conversation has been told the outcomes.
    public func removeAll() {
        runCount = 0
        eventCount = 0
        principal = nil
        room = .unlimited
        if !scratch.isEmpty { freeScratch() }
    }

    /// Memory that stays until the turn is over, for what a run refers to and no packet has in one piece.
    public func makeScratch(_ count: Int) -> UnsafeMutableRawPointer {
        let block = UnsafeMutableRawPointer.allocate(byteCount: max(count, 1), alignment: 1)
        scratch.append(block)
        return block
    }

    /// Frees what was made for runs that have not become any; only while there is nothing to route.
    public func forgetUnused() { if isEmpty, !scratch.isEmpty { freeScratch() } }

    /// Blocks that ``makeScratch(_:)`` has given out.
    var scratchCount: Int { scratch.count }

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
        /// It may be published, and has been delivered.
        case routed
        /// The access rules say no.
        case notAuthorized
        /// The principal's quota is used up.
        case quotaExceeded
        /// A payload is larger than the principal may publish.
        case payloadTooLarge
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
    /// Whether the event is its topic's last value now, if it was to be: not when a quota or the store is full. It has
    /// been delivered in any case.
    public var isKept = true
}
