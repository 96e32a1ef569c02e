import CLinux
import Core
import Glibc

/// The listeners that a lane watches: accepts who has come, and keeps its head when descriptors run out. Confined to
/// the lane.
final class Doorway {
    /// Connections accepted at once from one listener: others have their turn, too.
    private static let acceptedAtOnce = 256
    /// Milliseconds for which listeners are left alone that found no descriptor.
    private static let rest: UInt64 = 100

    private let epoll: Int32
    /// The first token of epoll that is ours; the listener's place is added.
    private let tokens: UInt64
    private var listeners: [Listener] = []
    /// Given up to accept and close a connection when descriptors run out.
    private var reserve: Int32
    /// When listeners that found no descriptor are looked at again; nil when there are none.
    private(set) var opensAgainAt: UInt64?
    /// Nobody is accepted any more.
    private var isClosed = false

    init(epoll: Int32, tokens: UInt64) {
        self.epoll = epoll
        self.tokens = tokens
        reserve = Self.openReserve()
    }

    deinit { close(reserve) }

    private static func openReserve() -> Int32 { open("/dev/null", O_RDONLY | O_CLOEXEC) }

    /// Watches a listener.
    /// - Returns: why it cannot be watched; nil when it is.
    func watch(_ listener: Listener) -> String? {
        // The lane is about to stop, and closes its listeners.
        guard !isClosed else {
            listener.close()
            return nil
        }
        listeners.append(listener)
        let token = tokens + UInt64(listeners.count - 1)
        guard apus_epoll_set(epoll, EPOLL_CTL_ADD, listener.socket, EPOLLIN.rawValue, token) == 0 else {
            // More than the user may watch (fs.epoll.max_user_watches), or no memory.
            return String(cString: strerror(errno))
        }
        return nil
    }

    /// Somebody waits at a listener.
    func ready(_ token: UInt64, on lane: ReactorLane) {
        guard !isClosed else { return }
        let listener = listeners[Int(token - tokens)]
        for _ in 0..<Self.acceptedAtOnce {
            switch listener.accept() {
            case .none: return
            case .exhausted: return descriptorsExhausted(listener, on: lane)
            case .connection(let socket, let peer):
                if lane.isFull {
                    lane.counters.close(.overLimit)
                    close(socket)
                    continue
                }
                lane.admit(socket, peer, listener)
            }
        }
    }

    /// Out of descriptors: refuse who waits by means of the reserve, then leave the listeners alone for a moment
    /// instead of being woken for a connection that cannot be accepted.
    private func descriptorsExhausted(_ listener: Listener, on lane: ReactorLane) {
        lane.descriptorsExhausted()
        close(reserve)
        if case .connection(let socket, _) = listener.accept() { close(socket) }
        reserve = Self.openReserve()
        opensAgainAt = lane.now + Self.rest
        setEvents(0)
    }

    /// The listeners have rested.
    func openAgain() {
        opensAgainAt = nil
        setEvents(EPOLLIN.rawValue)
    }

    private func setEvents(_ events: UInt32) {
        for (place, listener) in listeners.enumerated() {
            _ = apus_epoll_set(epoll, EPOLL_CTL_MOD, listener.socket, events, tokens + UInt64(place))
        }
    }

    /// Stops listening for good.
    func shut() {
        isClosed = true
        opensAgainAt = nil
        for listener in listeners {
            _ = apus_epoll_set(epoll, EPOLL_CTL_DEL, listener.socket, 0, 0)
            listener.close()
        }
    }
}
