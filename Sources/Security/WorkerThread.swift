/// A thread that does what must not happen on a lane: hash passwords, verify tokens, fetch keys.
import Glibc
import Synchronization

/// A POSIX thread that runs one function and is joined once.
final class WorkerThread: Sendable {
    private final class Body: Sendable {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    /// The thread until it is joined.
    private let thread: Mutex<pthread_t?>

    /// Starts the thread; see ``isStarted``.
    init(_ run: @escaping @Sendable () -> Void) {
        var thread = pthread_t()
        let body = Unmanaged.passRetained(Body(run))
        let result = pthread_create(
            &thread, nil,
            { argument in
                // The argument is the body retained below the call; a nil would be a bug of the C library.
                if let argument { Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run() }
                return nil
            }, body.toOpaque())
        if result != 0 { body.release() }
        self.thread = Mutex(result == 0 ? thread : nil)
        isStarted = result == 0
    }

    /// Whether the system gave us a thread.
    let isStarted: Bool

    /// Waits for the thread to end. The second call does nothing.
    func join() {
        let thread = self.thread.withLock { thread in
            defer { thread = nil }
            return thread
        }
        guard let thread else { return }
        if pthread_equal(thread, pthread_self()) != 0 {
            // The last reference was dropped in a reply: the thread cannot wait for itself, so it goes alone.
            pthread_detach(thread)
        } else {
            pthread_join(thread, nil)
        }
    }
}
