/// What becomes of a request that is not answered where and when it came.
public import Core

/// What a site keeps with a connection.
public protocol HTTPBelonging: AnyObject {
    /// Whose it is; nil for nobody's, or nobody's yet.
    var owner: Identity? { get }
}

/// An answer that does not end by itself, such as Server-Sent Events. Confined to its lane.
public protocol HTTPStream: HTTPBelonging {
    /// Time has come to the deadline that the stream asked for with ``Link/tick(at:)``.
    /// - Returns: the next one, or why the connection is to be closed.
    func tick(on lane: Lane) -> Result<UInt64?, CloseReason>
    /// What was congested has been sent.
    func outputDrained(on lane: Lane)
    /// The node is stopping: the stream says its last words; ``ended(_:on:)`` follows.
    func drain(on lane: Lane)
    /// The connection ends, or its client no longer listens; the last call.
    func ended(_ reason: CloseReason, on lane: Lane)
}

/// Who is going to answer a request, when it must know what becomes of the connection meanwhile: put into
/// ``HTTPConversation/waiter``, which forgets it once the answer has been written. Confined to the connection's lane.
public protocol HTTPWaiter: AnyObject {
    /// The connection has ended, and nobody reads an answer any more. The last call.
    func gone(on lane: Lane)
    /// The time for the answer is over, see ``HTTPConversation/setAnswerTime(seconds:on:)``.
    /// - Returns: whether it has answered; if not the client is told 503.
    func timedOut(on lane: Lane) -> Bool
    /// The node is stopping, so it should answer with what there is; what comes later may come too late.
    func drain(on lane: Lane)
}

extension HTTPWaiter {
    /// The answer comes when it comes.
    public func drain(on lane: Lane) {}
}

/// A request whose connection moves to another lane; it goes along, confined to the lane where the connection is.
public protocol HTTPTraveller: AnyObject {
    /// The connection has arrived; its ``HTTPConversation/belonging`` has been forgotten, because what it knows may be
    /// true for the former lane only.
    /// - Returns: what becomes of the request, as ``HTTPSite/take(_:_:of:_:on:)`` says it; nothing can be published.
    func arrived(_ connection: HTTPConversation, on lane: Lane) -> RequestVerdict
}
