import Core

/// Guaranteed events sent to a client and not yet settled, by packet identifier (MQTT 3.1.1 §4.3, §4.6). A ring: the
/// identifiers of what is in it are consecutive, so finding one is arithmetic.
struct InFlight: ~Copyable {
    enum State: UInt8 {
        case settled
        /// QoS 1, PUBLISH sent.
        case awaitingPuback
        /// QoS 2, PUBLISH sent.
        case awaitingPubrec
        /// QoS 2, PUBREL sent; the event itself is no longer needed.
        case awaitingPubcomp
    }

    struct Slot {
        var event: Event?
        var state = State.settled
        var isRetained = false
    }

    private var slots: UnsafeMutablePointer<Slot>?
    private var capacity = 0
    /// Sequence numbers; a packet identifier is its sequence number modulo 65,535, plus 1.
    private(set) var first: UInt64 = 0
    private(set) var next: UInt64 = 0

    init() {}

    deinit {
        slots?.deinitialize(count: capacity)
        slots?.deallocate()
    }

    /// What the events in it count for in limits.
    private(set) var bytes = 0

    var count: Int { Int(next - first) }

    @inline(__always)
    static func identifier(_ sequence: UInt64) -> UInt16 { UInt16(truncatingIfNeeded: sequence % 65_535) + 1 }

    /// Adds an event.
    /// - Returns: its packet identifier.
    mutating func add(_ event: Event, qos: UInt8, isRetained: Bool) -> UInt16 {
        if count == capacity { grow() }
        let state = qos == 1 ? State.awaitingPuback : .awaitingPubrec
        slots?[Int(next) & (capacity - 1)] = Slot(event: event, state: state, isRetained: isRetained)
        next += 1
        bytes += event.cost
        return Self.identifier(next - 1)
    }

    /// The slot with a sequence number.
    func slot(_ sequence: UInt64) -> Slot { slots?[Int(sequence) & (capacity - 1)] ?? Slot() }

    /// Settles an identifier if it is in the state given, or moves it on.
    /// - Returns: whether it was in that state.
    mutating func advance(_ identifier: UInt16, from state: State, to new: State) -> Bool {
        guard identifier != 0, let slots else { return false }
        let distance = (Int(identifier) - 1 - Int(first % 65_535) + 65_535) % 65_535
        guard distance < count else { return false }
        let place = Int(first + UInt64(distance)) & (capacity - 1)
        guard slots[place].state == state else { return false }
        slots[place].state = new
        bytes -= slots[place].event?.cost ?? 0
        slots[place].event = nil
        while first < next, slots[Int(first) & (capacity - 1)].state == .settled { first += 1 }
        return true
    }

    private mutating func grow() {
        let larger = max(capacity * 2, 8)
        let new = UnsafeMutablePointer<Slot>.allocate(capacity: larger)
        new.initialize(repeating: Slot(), count: larger)
        if let old = slots {
            for sequence in first..<next { new[Int(sequence) & (larger - 1)] = old[Int(sequence) & (capacity - 1)] }
            old.deinitialize(count: capacity)
            old.deallocate()
        }
        slots = new
        capacity = larger
    }
}
