import Synchronization

/// The way back to a request's connection. May be used from any thread, once; a second answer is ignored. A responder
/// that is given up without an answer answers 500, so that no client waits for nothing.
public final class HTTPResponder: Sendable {
    private let isAnswered = Atomic<Bool>(false)
    private let execute: @Sendable (@escaping @Sendable () -> Void) -> Void
    private let answer: @Sendable (HTTPResponse) -> Void

    /// - Parameters:
    ///   - execute: runs something on the connection's loop, later; called from any thread.
    ///   - answer: takes the answer, on the loop.
    public init(
        execute: @escaping @Sendable (@escaping @Sendable () -> Void) -> Void,
        answer: @escaping @Sendable (HTTPResponse) -> Void
    ) {
        self.execute = execute
        self.answer = answer
    }

    deinit {
        guard !isAnswered.load(ordering: .relaxed) else { return }
        execute { [answer] in answer(Problem(500, "The request was not answered.").response) }
    }

    /// Runs `body` on the connection's loop: for handlers that go on after another thread has told them something.
    public func run(_ body: @escaping @Sendable () -> Void) { execute(body) }

    /// Answers.
    /// - Returns: whether this was the first answer.
    @discardableResult
    public func send(_ response: HTTPResponse) -> Bool { send { response } }

    /// Answers with a problem.
    @discardableResult
    public func send(_ problem: Problem) -> Bool { send { problem.response } }

    /// Answers with what `make` returns. It is called on the connection's loop, so that a lane that knows the answer
    /// does not spend its time on writing it down.
    /// - Returns: whether this was the first answer.
    @discardableResult
    public func send(_ make: @escaping @Sendable () -> HTTPResponse) -> Bool {
        guard !isAnswered.exchange(true, ordering: .acquiringAndReleasing) else { return false }
        execute { [answer] in answer(make()) }
        return true
    }
}
