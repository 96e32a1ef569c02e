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
        var identifiers: [UInt32] = []
        /// The shared group that it is this member's share of; 0 for none.
        var group: UInt32 = 0
        var state = State.settled
        var isRetained = false
    }

    private var slots: UnsafeMutablePointer<Slot>?
    private var size: UInt32 = 0
    private var unsettled: UInt32 = 0
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

    /// Identifiers between the oldest that is not settled and the newest.
    var count: Int { Int(next - first) }
    /// Events not settled: what a receive maximum counts (MQTT 5 §4.9).
    var outstanding: Int { Int(unsettled) }

    private var capacity: Int { Int(size) }

    @inline(__always)
    static func identifier(_ sequence: UInt64) -> UInt16 { UInt16(truncatingIfNeeded: sequence % 65_535) + 1 }

    /// Adds an event.
    /// - Returns: its packet identifier.
    mutating func add(_ entry: EventQueue.Entry) -> UInt16 {
        if count == capacity { grow() }
        let state = entry.qos == 1 ? State.awaitingPuback : .awaitingPubrec
        slots?[Int(next) & (capacity - 1)] = Slot(
            event: entry.event, identifiers: entry.identifiers, group: entry.group, state: state,
            isRetained: entry.isRetained)
        next += 1
        unsettled += 1
        bytes += entry.event.cost
        return Self.identifier(next - 1)
    }

    /// Makes the window, with nothing in it yet, what another one was.
    mutating func restore(first: UInt64, _ slots: [Slot]) {
        (self.first, next) = (first, first)
        for slot in slots {
            if count == capacity { grow() }
            self.slots?[Int(next) & (capacity - 1)] = slot
            next += 1
            if slot.state != .settled { unsettled += 1 }
            bytes += slot.event?.cost ?? 0
        }
    }

    /// The slot with a sequence number.
    func slot(_ sequence: UInt64) -> Slot { slots?[Int(sequence) & (capacity - 1)] ?? Slot() }

    /// Settles an identifier if it is in the state given, or moves it on.
    /// - Returns: whether it was in that state.
    mutating func advance(_ identifier: UInt16, from state: State, to new: State) -> Bool {
        guard let place = place(of: identifier), slots?[place].state == state else { return false }
        move(place, to: new)
        return true
    }

    /// Whether an identifier is in a state.
    func isWaiting(_ identifier: UInt16, in state: State) -> Bool {
        place(of: identifier).map { slots?[$0].state == state } ?? false
    }

    private func place(of identifier: UInt16) -> Int? {
        guard identifier != 0 else { return nil }
        let distance = (Int(identifier) - 1 - Int(first % 65_535) + 65_535) % 65_535
        return distance < count ? Int(first + UInt64(distance)) & (capacity - 1) : nil
    }

    private mutating func move(_ place: Int, to new: State) {
        guard let slots else { return }
        slots[place].state = new
        bytes -= slots[place].event?.cost ?? 0
        slots[place].event = nil
        if !slots[place].identifiers.isEmpty { slots[place].identifiers = [] }
        guard new == .settled else { return }
        unsettled -= 1
        while first < next, slots[Int(first) & (capacity - 1)].state == .settled { first += 1 }
    }

    /// Settles, without the client, the events of shared groups that it may never have seen: those at QoS 1 that it
    /// has not acknowledged. At QoS 2 they are the client's alone (MQTT 5 §4.8.2-5).
    /// - Parameter mayLeave: whether events of a group may go.
    mutating func takeShared(_ mayLeave: (_ group: UInt32) -> Bool) -> [(event: Event, group: UInt32)] {
        guard let slots else { return [] }
        var taken: [(event: Event, group: UInt32)] = []
        for sequence in first..<next {
            let place = Int(sequence) & (capacity - 1)
            let slot = slots[place]
            guard slot.state == .awaitingPuback, slot.group != 0, let event = slot.event, mayLeave(slot.group) else {
                continue
            }
            taken.append((event, slot.group))
            move(place, to: .settled)
        }
        return taken
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
        size = UInt32(larger)
    }
}
