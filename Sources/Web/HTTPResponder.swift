import Synchronization

/// The way back to a request's connection. May be used from any thread, once; a second answer is ignored. A responder
/// that is given up without an answer answers 500, so that no client waits for nothing.
public final class HTTPResponder: Sendable {
    private let isAnswered = Atomic<Bool>(false)
    private let deliver: @Sendable (HTTPResponse) -> Void

    /// - Parameter deliver: takes the one answer, on the answerer's thread.
    public init(_ deliver: @escaping @Sendable (HTTPResponse) -> Void) { self.deliver = deliver }

    deinit {
        if !isAnswered.load(ordering: .relaxed) { deliver(Problem(500, "The request was not answered.").response) }
    }

    /// Answers.
    /// - Returns: whether this was the first answer.
    @discardableResult
    public func send(_ response: HTTPResponse) -> Bool {
        guard !isAnswered.exchange(true, ordering: .acquiringAndReleasing) else { return false }
        deliver(response)
        return true
    }

    /// Answers with a problem.
    @discardableResult
    public func send(_ problem: Problem) -> Bool { send(problem.response) }
}
