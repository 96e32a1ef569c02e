import CLinux
import Glibc
import Synchronization

/// Looks names up, one after another, on a thread that exists only while there is something to look up: the system's
/// resolver may take half a minute, and a lane has no time to wait.
final class Resolver: Sendable {
    typealias Answer = @Sendable (Result<[SocketAddress], SocketAddress.Failure>) -> Void

    private struct Query {
        let host: String
        let port: UInt16
        let answer: Answer
    }

    private struct State {
        var waiting: [Query] = []
        var isRunning = false
        var isStopped = false
    }

    /// Names that may wait to be looked up.
    static let maxWaiting = 256

    private let state = Mutex(State())

    /// Looks a name up and calls `answer` with its addresses, or with the reason why there are none, on the resolver's
    /// thread.
    /// - Throws: when too many wait already, or there is no thread; `answer` is not called then.
    func lookUp(_ host: String, _ port: UInt16, answer: @escaping Answer) throws(SocketAddress.Failure) {
        let isAccepted = state.withLock { state in
            guard !state.isStopped, state.waiting.count < Self.maxWaiting else { return false }
            state.waiting.append(Query(host: host, port: port, answer: answer))
            if !state.isRunning {
                state.isRunning = startThread()
                // Without a thread nobody else waits either.
                if !state.isRunning { state.waiting = [] }
            }
            return state.isRunning
        }
        guard isAccepted else {
            throw SocketAddress.Failure(description: "\(host): too many names wait to be looked up")
        }
    }

    /// Forgets who waits. A look-up that is under way ends by itself, and its answer finds nobody.
    func stop() {
        state.withLock { state in
            state.isStopped = true
            state.waiting = []
        }
    }

    private func startThread() -> Bool {
        var thread = pthread_t()
        let argument = Unmanaged.passRetained(self)
        let status = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                Unmanaged<Resolver>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, argument.toOpaque())
        guard status == 0 else {
            argument.release()
            return false
        }
        apus_name_thread(thread, "resolver")
        pthread_detach(thread)
        return true
    }

    private func run() {
        while let query = next() {
            do throws(SocketAddress.Failure) {
                query.answer(.success(try SocketAddress.lookUp(query.host, query.port, flags: 0)))
            } catch {
                query.answer(.failure(error))
            }
        }
    }

    private func next() -> Query? {
        state.withLock { state in
            guard state.waiting.isEmpty else { return state.waiting.removeFirst() }
            state.isRunning = false
            return nil
        }
    }
}
