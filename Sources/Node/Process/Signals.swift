/// Signals, waited for instead of handled: they are blocked in every thread and taken by the main one, so no code runs
/// at an odd moment on a lane.
import Glibc

/// The signals of a node.
public enum Signals {
    /// What a signal asks for.
    public enum Request: Sendable, Equatable {
        /// SIGTERM or SIGINT: drain and end.
        case terminate
        /// SIGHUP: read the configuration again.
        case reload
        /// SIGUSR1: log the counters.
        case report
        /// SIGUSR2: switch debug logging on or off.
        case toggleDebug
    }

    private static let requests: [(signal: Int32, request: Request)] = [
        (SIGTERM, .terminate), (SIGINT, .terminate), (SIGHUP, .reload), (SIGUSR1, .report), (SIGUSR2, .toggleDebug),
    ]

    private static var set: sigset_t {
        var set = sigset_t()
        sigemptyset(&set)
        for (signal, _) in requests { sigaddset(&set, signal) }
        return set
    }

    /// Blocks the signals in the calling thread and in all it will start, and ignores SIGPIPE. To be called on the main
    /// thread before any other is started.
    public static func block() {
        var set = set
        let result = pthread_sigmask(SIG_BLOCK, &set, nil)
        precondition(result == 0, "pthread_sigmask fails only for an unknown operation")
        signal(SIGPIPE, SIG_IGN)
    }

    /// Waits for the next request; ``block()`` must have been called.
    public static func wait() -> Request {
        while true {
            if let request = wait(seconds: 3_600) { return request }
        }
    }

    /// Waits for the next request, at most `seconds`; nil when none came.
    public static func wait(seconds: Int) -> Request? {
        var set = set
        var time = timespec(tv_sec: seconds, tv_nsec: 0)
        while true {
            let signal = sigtimedwait(&set, nil, &time)
            if let found = requests.first(where: { $0.signal == signal }) { return found.request }
            // Interrupted by a signal outside of the set: what a debugger does. Waiting anew is only longer.
            guard signal < 0, errno == EINTR else { return nil }
        }
    }
}
