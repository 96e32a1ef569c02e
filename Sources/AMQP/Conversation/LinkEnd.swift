import Core

/// This node's end of a link. The engine keeps a reference to it as the link's context. Confined to the lane.
class LinkEnd {
    let handle: Engine.Link
    /// Whether it is an ``IncomingLink``; else it is an ``OutgoingLink``.
    let isIncoming: Bool
    private unowned(unsafe) let engine: Engine

    /// Makes the end of a link and becomes the link's context.
    init(_ handle: Engine.Link, _ engine: Engine, isIncoming: Bool) {
        self.handle = handle
        self.isIncoming = isIncoming
        self.engine = engine
        engine.setContext(handle, Unmanaged.passRetained(self).toOpaque())
    }

    /// The engine forgets it; called once, before the link is freed or the engine is.
    final func release() {
        guard let context = engine.context(handle) else { return }
        engine.setContext(handle, nil)
        Unmanaged<LinkEnd>.fromOpaque(context).release()
    }
}

/// The end of a link that the client sends on.
final class IncomingLink: LinkEnd {
    /// The topic of all its messages, in memory that stays where it is; nil when each has its own.
    private(set) var topic: UnsafeBufferPointer<UInt8>?
    /// Whether it leads to the node at `$cbs`.
    let isClaims: Bool
    /// Whether this node has made up its topic.
    var isDynamic = false
    /// Why it was detached by this node; what still arrives is thrown away.
    var refusal: AMQPError?
    /// Whether the engine may have forgotten it, with its deliveries.
    var isGone = false
    /// Bytes of its current message that have arrived, while it is not complete.
    var partialBytes = 0
    private let window: Int
    /// Credit that the client has used and not been given again.
    private var owed = 0

    init(_ handle: Engine.Link, _ engine: Engine, topic: [UInt8]?, isClaims: Bool, window: Int) {
        self.window = max(window, 1)
        self.isClaims = isClaims
        if let topic {
            let copy = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: topic.count)
            _ = copy.initialize(from: topic)
            self.topic = UnsafeBufferPointer(copy)
        }
        super.init(handle, engine, isIncoming: true)
    }

    deinit { topic?.deallocate() }

    /// Credit is given back in batches: a flow frame for every message would cost more than the message.
    @inline(__always)
    func used(_ count: Int, _ engine: Engine) {
        owed += count
        guard owed * 4 >= window, refusal == nil else { return }
        engine.grant(handle, owed)
        owed = 0
    }

    /// Its message is complete, or given up.
    @inline(__always)
    func forgetPartial(_ conversation: AMQPConversation) {
        guard partialBytes > 0 else { return }
        conversation.partialBytes -= partialBytes
        partialBytes = 0
    }
}

/// The end of a link that the client receives on: between its subscription and the engine.
final class OutgoingLink: LinkEnd {
    /// Has the link as long as the client does, and outlives it.
    unowned(unsafe) let conversation: AMQPConversation
    /// The connection.
    unowned(unsafe) let connection: Link
    /// The subscription; nil once it has been taken over by another link, and on the link from `$cbs`.
    private(set) var subscriber: Subscriber?
    /// What it sends instead of a subscription's events, on the link from `$cbs`.
    var claims: ClaimsOutbox?
    /// Deliveries that the client has not settled.
    private(set) var unsettledCount = 0
    /// Deliveries that may still be sent.
    private(set) var credit = 0
    /// Whether events go out settled, whatever their publisher wanted.
    let sendsSettled: Bool
    /// Whether events go out unsettled, whatever their publisher wanted.
    let sendsUnsettled: Bool
    /// Whether the client wants its credit used or given up.
    private var isDraining = false
    /// Bytes of the largest message that the client takes; 0 for any (§2.7.3).
    private let maxMessageBytes: UInt64
    /// Whether it waits for room in the engine or the connection.
    private var isBlocked = false

    init(
        _ handle: Engine.Link, _ engine: Engine, _ conversation: AMQPConversation, _ mode: SenderSettleMode,
        maxMessageBytes: UInt64 = 0
    ) {
        self.conversation = conversation
        connection = conversation.link
        self.maxMessageBytes = maxMessageBytes
        sendsSettled = mode == .settled
        sendsUnsettled = mode == .unsettled
        super.init(handle, engine, isIncoming: false)
    }

    /// Gives a subscription to the link.
    func begin(_ subscriber: Subscriber) { self.subscriber = subscriber }

    /// Whether a message can be sent now. If only room is missing the link is called again when there is some.
    @inline(__always)
    func hasRoom(_ engine: Engine, _ lane: Lane) -> Bool {
        guard credit > 0, unsettledCount < lane.limits.maxUnsettledDeliveries else { return false }
        if engine.bufferedBytes < AMQPConversation.engineBytes, !connection.isCongested { return true }
        return makeRoom(engine)
    }

    private func makeRoom(_ engine: Engine) -> Bool {
        if !connection.isCongested {
            engine.produce(into: connection)
            // What the peer's session window does not let go stays in the engine.
            if !connection.isCongested, engine.bufferedBytes < AMQPConversation.engineBytes { return true }
        }
        if !isBlocked {
            isBlocked = true
            conversation.wait(self)
        }
        return false
    }

    /// There is room again.
    func unblocked(on lane: Lane) {
        isBlocked = false
        subscriber?.pump(on: lane)
        pumpClaims(on: lane)
        giveUpDrained()
    }

    /// Whether the client takes a message of this size. One that it does not take is dropped and counted.
    @inline(__always)
    func takes(_ parts: MessageParts, _ lane: Lane) -> Bool {
        guard maxMessageBytes > 0, parts.count > maxMessageBytes else { return true }
        lane.counters.drop(.clientLimit)
        return false
    }

    /// Sends a message; there must be credit.
    /// - Parameter context: what ``settled(_:on:)`` gives the subscription back; 0 for nothing.
    func send(_ parts: MessageParts, isSettled: Bool, context: Int, _ engine: Engine) {
        credit -= 1
        guard let delivery = engine.send(parts, on: handle, isSettled: isSettled) else { return }
        unsettledCount += 1
        if context != 0 { engine.setContext(delivery, context) }
    }

    /// The client has said something about a delivery.
    func settled(_ delivery: Engine.Delivery, on lane: Lane) {
        guard let engine = conversation.engine else { return }
        let state = engine.remoteState(delivery)
        guard state.isSettled || state.outcome != nil else { return }
        let context = engine.context(delivery)
        engine.settle(delivery)
        unsettledCount -= 1
        conversation.touch()
        subscriber?.settled(context, state.outcome, on: lane)
        giveUpDrained()
    }

    /// The client has changed the credit.
    func flow(on lane: Lane) {
        guard let engine = conversation.engine else { return }
        credit = max(engine.credit(handle), 0)
        subscriber?.pump(on: lane)
        isDraining = engine.isDraining(handle)
        pumpClaims(on: lane)
        giveUpDrained()
    }

    /// What is left of a drained link's credit when everything has been sent goes back to the client (§2.6.7).
    func giveUpDrained() {
        guard isDraining, credit > 0, subscriber?.hasNothingToSend ?? claims?.isEmpty ?? true,
            let engine = conversation.engine
        else { return }
        if engine.bufferedBytes > 0 { engine.produce(into: connection) }
        // The engine forgets it while messages wait for the peer's session window.
        guard engine.bufferedBytes == 0 else { return conversation.waitToGiveUp(self) }
        engine.drained(handle)
        credit = 0
        conversation.touch()
    }

    /// Sends answers of `$cbs`.
    func pumpClaims(on lane: Lane) {
        guard let claims, let engine = conversation.engine else { return }
        while !claims.isEmpty, hasRoom(engine, lane), let answer = claims.next() {
            answer.withUnsafeBytes { send(MessageParts(first: $0), isSettled: true, context: 0, engine) }
            conversation.touch()
        }
    }

    /// The link is gone for its subscription.
    /// - Parameter isClosing: whether the client wants it no more.
    func detach(isClosing: Bool, on lane: Lane) {
        let subscriber = self.subscriber
        self.subscriber = nil
        // It may wait for room still: there is nothing to be given up when its turn comes, the engine forgets it.
        credit = 0
        subscriber?.left(isClosing: isClosing, on: lane)
    }

    /// The access rules do not allow the subscription any more.
    func revoke(_ filter: TopicFilter) {
        subscriber = nil
        let error = AMQPError(.unauthorizedAccess, "subscribing to '\(filter.wholeText)' is not allowed any more")
        conversation.engine?.detach(handle, isClosing: true, error)
        conversation.touch()
    }

    /// Another link takes the subscription over (§2.6.1).
    func steal() {
        subscriber = nil
        conversation.engine?.detach(
            handle, isClosing: true, AMQPError(.stolen, "a link of the same container and name took over"))
        conversation.touch()
    }
}
