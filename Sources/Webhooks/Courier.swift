/// Between the lanes, which know what is to be sent and when, and the one thread that sends it.
import CLinux
import Core
import Glibc
import Synchronization

/// Takes deliveries from lanes and reports back to them. One for a node; its thread is started by the first webhook.
///
/// Threading: callable from any thread. Everything that is shared is in one mutex, held for a few memory operations and
/// the wake of the thread.
final class Courier: Sendable {
    /// Where deliveries of a webhook go.
    final class Target: Sendable {
        let name: String
        let url: String
        let secret: [UInt8]?
        let timeoutMilliseconds: UInt64

        init(_ definition: WebhookDefinition) {
            name = definition.name
            url = definition.url
            secret = definition.secret.map { Array($0.utf8) }
            timeoutMilliseconds = definition.timeoutMilliseconds
        }
    }

    /// One attempt to be made.
    struct Delivery: Sendable {
        /// The webhook's inbox, which is told.
        var address: PortAddress
        /// Its number for the event.
        var sequence: UInt64
        var target: Target
        var event: Event
        /// From 1.
        var attempt: Int
    }

    /// What a lane is told about one of its webhooks.
    enum Report: Sendable {
        /// The end of an attempt; `failure` says what was wrong when the target did not take the event.
        case finished(sequence: UInt64, WebhookSchedule.Outcome, failure: String?)
        /// The time that was asked for has come.
        case alarm
    }

    enum Command: Sendable {
        case send(Delivery)
        /// In place of the alarm before; at 0 there is none.
        case wake(PortAddress, at: UInt64)
        /// Nothing of this webhook is to be sent or reported any more.
        case cancel(PortAddress)
    }

    /// What the thread has to look at.
    struct Orders: Sendable {
        var commands: [Command] = []
        /// Whether to end.
        var isStopped = false
    }

    private enum Phase {
        case idle, starting, running, stopped
        case failed(String)
    }

    private struct State {
        var phase = Phase.idle
        var orders = Orders()
        var isSignalled = false
        var waiting: [@Sendable (String?) -> Void] = []
        var thread: pthread_t?
        /// Whether nobody new is taken any more.
        var isClosed = false
    }

    let lanes: Lanes
    let settings: WebhookSettings
    /// Becomes readable when there are orders.
    let descriptor: Int32
    private let state = Mutex(State())

    init(lanes: Lanes, settings: WebhookSettings) {
        self.lanes = lanes
        self.settings = settings
        descriptor = eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC))
    }

    deinit { close(descriptor) }

    /// The lanes' time.
    static var now: UInt64 { apus_monotonic_ns() / 1_000_000 }

    // MARK: Lanes' side

    /// Starts the thread if need be, and calls `body` on it or on the caller's: with nil, or why nothing can be sent.
    func whenReady(_ body: @escaping @Sendable (String?) -> Void) {
        let answer = state.withLock { state -> String?? in
            if state.isClosed { return Self.stopping }
            switch state.phase {
            case .running: return .some(nil)
            case .failed(let reason): return reason
            case .stopped: return Self.stopping
            case .starting: state.waiting.append(body)
            case .idle:
                if let failure = start(&state) { return failure }
                state.waiting.append(body)
            }
            return .none
        }
        if let answer { body(answer) }
    }

    private func start(_ state: inout sending State) -> String? {
        var thread = pthread_t()
        let courier = Unmanaged.passRetained(self)
        let status = pthread_create(
            &thread, nil,
            { argument in
                // The argument is the courier retained above; a nil would be a bug of the C library.
                if let argument { CourierThread.run(Unmanaged<Courier>.fromOpaque(argument).takeRetainedValue()) }
                return nil
            }, courier.toOpaque())
        guard status == 0 else {
            courier.release()
            return "cannot start a thread: \(String(cString: strerror(status)))"
        }
        apus_name_thread(thread, "webhooks")
        state.phase = .starting
        state.thread = thread
        return nil
    }

    /// Gives the thread something to do; without effect once the courier has been stopped.
    func post(_ command: Command) {
        state.withLock { state in
            switch state.phase {
            case .starting, .running: state.orders.commands.append(command)
            case .idle, .failed, .stopped: return
            }
            signal(&state)
        }
    }

    private func signal(_ state: inout sending State) {
        guard !state.isSignalled else { return }
        state.isSignalled = true
        var one: UInt64 = 1
        _ = write(descriptor, &one, 8)
    }

    static let stopping = "the node is stopping"

    /// Takes nobody new; what there is goes on until ``stop()``.
    /// - Returns: whether there may be anything.
    func refuseNew() -> Bool {
        let (isStarted, waiting) = state.withLock { state in
            defer { state.waiting = [] }
            state.isClosed = true
            return (state.thread != nil, state.waiting)
        }
        for body in waiting { body(Self.stopping) }
        return isStarted
    }

    /// Gives up what is under way, ends the thread and waits for it. Not to be called on the thread or on a lane.
    func stop() {
        let thread = state.withLock { state in
            state.phase = .stopped
            state.orders.isStopped = true
            signal(&state)
            defer { state.thread = nil }
            return state.thread
        }
        if let thread { pthread_join(thread, nil) }
    }

    // MARK: The thread's side

    /// The thread has loaded what it needs, or could not.
    func becomeReady(_ failure: String?) {
        let waiting = state.withLock { state in
            if case .starting = state.phase { state.phase = failure.map { .failed($0) } ?? .running }
            defer { state.waiting = [] }
            return state.waiting
        }
        for body in waiting { body(failure) }
    }

    /// What has been ordered since the last call.
    func takeOrders() -> Orders {
        var count: UInt64 = 0
        _ = read(descriptor, &count, 8)
        return state.withLock { state in
            state.isSignalled = false
            defer { state.orders.commands = [] }
            return state.orders
        }
    }
}
