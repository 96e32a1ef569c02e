import CLinux
public import Core
import Glibc
public import Logging
import Synchronization
public import TLS

/// The messaging plane: its lanes and their threads.
public final class Reactor: Sendable {
    /// What the lanes share.
    public let lanes: Lanes
    private let threads: Mutex<[pthread_t]>
    private let resolver = Resolver()
    /// Kept until all lanes have ended: conversations of one lane use adapters whose listener another lane watches.
    private let listeners = Mutex<[Listener]>([])

    /// Starts `count` lanes, each on its own thread.
    /// - Parameter name: what the threads are called, with their number.
    /// - Throws: ``SocketAddress/Failure`` when the system gives no descriptors or threads.
    public init(
        lanes count: Int, limits: Limits, logger: Logger, name: String = "lane"
    ) throws(SocketAddress.Failure) {
        Self.raiseDescriptorLimit()
        var descriptors: [(epoll: Int32, wake: Int32)] = []
        for _ in 0..<count {
            let epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
            let wake = eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC))
            guard epoll >= 0, wake >= 0, ReactorLane.watchWake(wake, epoll) else {
                throw SocketAddress.Failure(description: "epoll: \(String(cString: strerror(errno)))")
            }
            descriptors.append((epoll, wake))
        }
        let wakes = descriptors.map { pair in
            let wake = pair.wake
            return { @Sendable () -> Void in
                var one: UInt64 = 1
                _ = write(wake, &one, 8)
            }
        }
        lanes = Lanes(wakes: wakes, limits: limits)
        var started: [pthread_t] = []
        for (number, pair) in descriptors.enumerated() {
            let lane = ReactorLane(
                number: number, lanes: lanes, epoll: pair.epoll, resolver: resolver, logger: logger)
            var thread = pthread_t()
            let argument = Unmanaged.passRetained(lane).toOpaque()
            let status = pthread_create(
                &thread, nil,
                { argument in
                    guard let argument else { return nil }
                    Unmanaged<ReactorLane>.fromOpaque(argument).takeRetainedValue().run()
                    return nil
                }, argument)
            guard status == 0 else {
                throw SocketAddress.Failure(description: "cannot start a thread: \(String(cString: strerror(status)))")
            }
            apus_name_thread(thread, "\(name)-\(number)")
            started.append(thread)
        }
        threads = Mutex(started)
    }

    /// Tells `sink` of connections that are refused; to be set before anything is accepted or dialled.
    public func setAudit(_ sink: any AuditSink) {
        for lane in 0..<lanes.count { lanes.call(lane) { ($0 as? ReactorLane)?.audit = sink } }
    }

    /// Looks at the certificates of all peers again, by the files that their doors have read last, and ends the
    /// connections of those that are no longer good (``CloseReason/proofEnded``). Callable from any thread.
    public func judgeCertificates() {
        for lane in 0..<lanes.count { lanes.call(lane) { ($0 as? ReactorLane)?.judgeCertificates() } }
    }

    /// Ends the connections of those who are no longer known (``CloseReason/proofEnded``). Callable from any thread.
    /// - Parameter isKnown: called on the lanes, and so must not wait.
    public func judgeIdentities(_ isKnown: @escaping @Sendable (Identity) -> Bool) {
        for lane in 0..<lanes.count { lanes.call(lane) { ($0 as? ReactorLane)?.judgeIdentities(isKnown) } }
    }

    /// Accepts on a listener from now on.
    public func listen(_ listener: Listener) {
        listeners.withLock { $0.append(listener) }
        lanes.call(0) { ($0 as? ReactorLane)?.listen(listener) }
    }

    /// Connects to an address. Every address that a name stands for is tried, one after another; each has its share of
    /// the time. Callable from any thread.
    /// - Parameters:
    ///   - address: `127.0.0.1:7400`, `[::1]:7400`, `name.example.org:7400` or `unix:/path`.
    ///   - lane: where the connection lives.
    ///   - timeoutMilliseconds: how long all of it may take, the look-up of a name included.
    ///   - adapterName: the protocol that the connection counts for.
    ///   - door: transport security, in the role of a client; nil for none. The handshake follows: when it fails, the
    ///     conversation is closed (``CloseReason/handshakeFailed``). What it says before waits.
    ///   - serverName: the name or address that the peer's certificate must be for; nil when any name will do.
    ///   - makeConversation: called on the lane once the connection is there.
    ///   - failed: called on the lane, instead, with the reason; never from within this call.
    public func dial(
        _ address: String, on lane: Int, timeoutMilliseconds: UInt64, adapterName: String,
        door: TLSDoor? = nil, serverName: String? = nil,
        makeConversation: @escaping @Sendable (Link, Lane) -> Conversation,
        failed: @escaping @Sendable (String) -> Void
    ) {
        let request = DialRequest(
            address: address, timeoutMilliseconds: timeoutMilliseconds,
            adapter: DialledAdapter(name: adapterName, make: makeConversation), door: door, serverName: serverName,
            failed: failed)
        lanes.call(lane) { ($0 as? ReactorLane)?.dial(request) }
    }

    /// Stops accepting, and ends every connection whose conversation does not see to its end itself
    /// (``Conversation/drain(on:)``). The lanes go on until ``stop(drainMilliseconds:)``.
    public func sendAway() {
        for lane in 0..<lanes.count { lanes.call(lane) { ($0 as? ReactorLane)?.sendAway() } }
    }

    /// Stops accepting, tells clients, sends what is on its way for at most `drainMilliseconds`, and ends the threads.
    public func stop(drainMilliseconds: UInt64) {
        resolver.stop()
        for lane in 0..<lanes.count {
            lanes.call(lane) { ($0 as? ReactorLane)?.stop(drainMilliseconds: drainMilliseconds) }
        }
        let ending = threads.withLock { threads in
            defer { threads = [] }
            return threads
        }
        for thread in ending { pthread_join(thread, nil) }
    }

    /// Waits until all lanes have done what they were told before, and what that has brought to other lanes.
    public func settle() {
        // An answer is given within a pass, at whose end mail for other lanes goes out. The second says that this pass
        // is over everywhere, the third that its mail was read; the fourth is for what the mail has brought.
        for _ in 0..<4 { _ = statistics() }
    }

    /// Every lane's statistics. Waits for the lanes to answer: not for a lane's own thread.
    public func statistics() -> [LaneStatistics] {
        let answers = Answers()
        let answered = eventfd(0, Int32(EFD_CLOEXEC))
        guard answered >= 0 else { return [] }
        defer { close(answered) }
        lanes.gather {
            $0.statistics()
        } then: { statistics in
            answers.statistics.withLock { $0 = statistics }
            var one: UInt64 = 1
            _ = write(answered, &one, 8)
        }
        var count: UInt64 = 0
        _ = read(answered, &count, 8)
        return answers.statistics.withLock { $0 }
    }

    /// The counters of all lanes, added up. Waits like ``statistics()``.
    public func counters() -> Counters {
        statistics().reduce(into: Counters()) { $0.add($1.counters) }
    }

    /// Processors this process may use.
    public static var processorCount: Int { max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))) }

    /// A fleet needs more descriptors than the soft limit gives by default.
    private static func raiseDescriptorLimit() {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        limit.rlim_cur = limit.rlim_max
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }
}

/// Statistics on their way from a lane's thread to the one that asked.
private final class Answers: Sendable { let statistics = Mutex<[LaneStatistics]>([]) }
