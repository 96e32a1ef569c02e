/// Between a bridge's lane, which knows its events, and its thread, which talks to the broker.
import CLinux
import Core
import Glibc
import Synchronization

/// Callable from any thread. What is shared is in two mutexes, held for a few memory operations.
final class BridgeWire: Sendable {
    /// An event on its way out.
    struct Departure: Sendable {
        /// The inbox's number for it.
        var sequence: UInt64
        var event: Event
        var qos: UInt8
        var isRetained: Bool
    }

    /// What became of one.
    enum Settlement: Sendable {
        /// The broker has it.
        case done
        /// It never will; counted here.
        case dropped(BridgeCounts.Reason)
    }

    /// What a lane is told.
    enum Report: Sendable {
        /// Events have come in; the thread waits for ``BridgeWire/settled(_:)`` with this number.
        case arrived([Event], batch: UInt64)
        case settled([(sequence: UInt64, Settlement)])
        case connected
        case lost
        /// The thread has ended, if it was told to make room for another one (``Stop/makesRoom``).
        case ended
    }

    /// How to end.
    struct Stop: Sendable {
        /// Until when what is under way may come to its end, in lane's milliseconds.
        var at: UInt64
        /// Whether the broker is told to forget the session.
        var forgetsSession: Bool
        /// Whether the lane waits for the end, to let another thread go on.
        var makesRoom = false
    }

    /// What the thread has to look at.
    struct Orders: Sendable {
        var departures: [Departure] = []
        /// The last batch of arrivals that the node has settled.
        var settledBatch: UInt64 = 0
        var stop: Stop?
    }

    private struct State {
        var orders = Orders()
        var isSignalled = false
        var hasEnded = false
        var hasForeignSession: Bool
    }

    let lanes: Lanes
    /// The inbox.
    let address: PortAddress
    /// Becomes readable when there are orders.
    let descriptor: Int32
    private let state: Mutex<State>
    private let status: Mutex<BridgeDescription>

    init(lanes: Lanes, address: PortAddress, description: BridgeDescription, hasForeignSession: Bool) {
        state = Mutex(State(hasForeignSession: hasForeignSession))
        self.lanes = lanes
        self.address = address
        status = Mutex(description)
        descriptor = eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC))
    }

    deinit { close(descriptor) }

    /// The lanes' time.
    static var now: UInt64 { apus_monotonic_ns() / 1_000_000 }

    // MARK: What is told about it

    /// How it is now.
    var description: BridgeDescription { status.withLock { $0 } }

    /// Changes what is told.
    func note(_ change: (inout BridgeDescription) -> Void) { status.withLock { change(&$0) } }

    /// Whether the session that the broker may have knows numbers of events of QoS 2 from a client that is gone. A new
    /// client begins with the same numbers, and a broker takes an event with a number that it knows for one that it
    /// has (MQTT 5 §4.3.3): it would say yes and do nothing.
    var hasForeignSession: Bool {
        get { state.withLock { $0.hasForeignSession } }
        set { state.withLock { $0.hasForeignSession = newValue } }
    }

    // MARK: The lane's side

    /// Gives the thread events to send, in order.
    func send(_ departures: [Departure]) {
        order { $0.departures += departures }
    }

    /// The node has what came in with this batch and all before.
    func settled(_ batch: UInt64) {
        order { $0.settledBatch = batch }
    }

    /// Ends the thread, in its own time. The first to say so counts.
    func stop(_ stop: Stop) {
        order { if $0.stop == nil { $0.stop = stop } }
    }

    /// Whether the thread has ended.
    var hasEnded: Bool { state.withLock { $0.hasEnded } }

    private func order(_ change: (inout Orders) -> Void) {
        state.withLock { state in
            change(&state.orders)
            guard !state.isSignalled else { return }
            state.isSignalled = true
            var one: UInt64 = 1
            _ = write(descriptor, &one, 8)
        }
    }

    // MARK: The thread's side

    /// What has been ordered since the last call.
    func takeOrders() -> Orders {
        var count: UInt64 = 0
        _ = read(descriptor, &count, 8)
        return state.withLock { state in
            state.isSignalled = false
            defer { state.orders.departures = [] }
            return state.orders
        }
    }

    /// Tells the lane, in order.
    func report(_ reports: [Report]) {
        guard !reports.isEmpty else { return }
        lanes.call(address.lane) { [self] lane in
            // One that has been removed meanwhile no longer fits its address.
            guard let inbox = lane.port(at: address) as? BridgeInbox else { return }
            for report in reports { inbox.take(report, from: self, on: lane) }
        }
    }

    /// Waits for a time, or until the thread is to end. What is ordered besides is forgotten.
    /// - Returns: whether the thread is to end.
    func waitForStop(until: UInt64) -> Bool {
        while takeOrders().stop == nil {
            let now = Self.now
            guard now < until else { return false }
            var ready = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            poll(&ready, 1, Int32(min(until - now, 60_000)))
        }
        return true
    }

    func noteEnd() {
        note { $0.state = .stopped }
        if state.withLock({ $0.orders.stop?.makesRoom ?? false }) { report([.ended]) }
        state.withLock { $0.hasEnded = true }
    }
}
