/// The thread that looks for keys: reads their files when these have changed, fetches their URLs when they are due.
import CLinux
import Glibc
import Synchronization

/// One thread for all issuers, asleep between looks. Made when the first issuer is configured.
final class KeyFetcher: Sendable {
    typealias Arrived = @Sendable (KeyStore.Arrival) -> Void

    /// What the thread is told.
    private final class Orders: Sendable {
        struct State {
            var stores: [KeyStore] = []
            var isStopped = false
        }

        let state = Mutex(State())
        /// Readable when there is something new to read in `state`.
        let descriptor: Int32
        let clocks: Clocks
        let arrived: Arrived

        init?(_ clocks: Clocks, _ arrived: @escaping Arrived) {
            descriptor = eventfd(0, Int32(EFD_NONBLOCK) | Int32(EFD_CLOEXEC))
            self.clocks = clocks
            self.arrived = arrived
            if descriptor < 0 { return nil }
        }

        deinit { if descriptor >= 0 { close(descriptor) } }

        func wake() {
            var one: UInt64 = 1
            _ = write(descriptor, &one, 8)
        }

        /// Takes what made the descriptor readable.
        func settle() {
            var count: UInt64 = 0
            _ = read(descriptor, &count, 8)
        }

        var isStopped: Bool { state.withLock { $0.isStopped } }
    }

    private let orders: Orders
    private let thread: WorkerThread

    /// Starts the thread; nil when the system has none.
    /// - Parameter arrived: called on the thread after each look.
    init?(_ clocks: Clocks, arrived: @escaping Arrived) {
        guard let orders = Orders(clocks, arrived) else { return nil }
        self.orders = orders
        thread = WorkerThread { Self.run(orders) }
        if !thread.isStarted { return nil }
    }

    deinit { stop() }

    /// The stores to look after, instead of those before.
    func look(after stores: [KeyStore]) {
        orders.state.withLock { $0.stores = stores }
        orders.wake()
    }

    /// Something may be due earlier than before.
    func wake() { orders.wake() }

    /// Ends the thread, a fetch under way included.
    func stop() {
        orders.state.withLock { $0.isStopped = true }
        orders.wake()
        thread.join()
    }

    // MARK: The thread

    private static func run(_ orders: Orders) {
        // What libcurl's libraries do to a socket that is gone must not end the process.
        var signals = sigset_t()
        sigfillset(&signals)
        pthread_sigmask(SIG_BLOCK, &signals, nil)
        apus_name_thread(pthread_self(), "token keys")
        var download: KeyDownload?
        while !orders.isStopped {
            let stores = orders.state.withLock { $0.stores }
            let now = orders.clocks.monotonicNanoseconds()
            guard let due = stores.first(where: { $0.dueAt <= now }) else {
                wait(orders, until: stores.map(\.dueAt).min() ?? .max, now)
                continue
            }
            due.begin(now: now)
            let result: Result<KeyStore.Delivery, KeyStore.Failure>
            switch due.location {
            case .file(let path): result = Result { () throws(KeyStore.Failure) in try readKeys(path) }
            case .url(let url):
                let loader = download ?? KeyDownload()
                download = loader
                result = Result { () throws(KeyStore.Failure) in
                    try loader.fetch(url, authorities: due.authorities, descriptor: orders.descriptor) {
                        orders.settle()
                        return orders.isStopped
                    }
                }
            }
            if orders.isStopped { return }
            orders.arrived(due.end(result, now: orders.clocks.monotonicNanoseconds()))
        }
    }

    private static func wait(_ orders: Orders, until: UInt64, _ now: UInt64) {
        let milliseconds = until == .max ? -1 : Int32(min((until - now) / 1_000_000 + 1, 3_600_000))
        var waiting = pollfd(fd: orders.descriptor, events: Int16(POLLIN), revents: 0)
        _ = poll(&waiting, 1, milliseconds)
        orders.settle()
    }

    /// Why the keys in a file cannot be used; nil when they can.
    static func reasonAgainst(file path: String) -> String? {
        do throws(KeyStore.Failure) { try check(readKeys(path), path) } catch { return error.reason }
        return nil
    }

    /// Whether there is a key in what a file has.
    static func check(_ delivery: KeyStore.Delivery, _ path: String) throws(KeyStore.Failure) {
        do throws(StrictJSON.Failure) { _ = try KeySet(parsing: delivery.bytes) } catch {
            throw KeyStore.Failure(reason: "\(path): \(error.reason)")
        }
    }

    /// Reads a file with keys, with a bound.
    static func readKeys(_ path: String) throws(KeyStore.Failure) -> KeyStore.Delivery {
        func failure(_ what: String) -> KeyStore.Failure {
            KeyStore.Failure(reason: "\(what) \(path): \(String(cString: strerror(errno)))")
        }
        // Without waiting for somebody to write into what might be a pipe.
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw failure("cannot open") }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = read(descriptor, &chunk, chunk.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw failure("cannot read") }
            if count == 0 { return KeyStore.Delivery(bytes: bytes, maxAgeSeconds: nil) }
            bytes += chunk[..<count]
            guard bytes.count <= KeySet.maxBytes else {
                throw KeyStore.Failure(reason: "\(path) is larger than \(KeySet.maxBytes) bytes")
            }
        }
    }
}
