import Core

/// The engine that this build uses. Another one takes its place by conforming to ``AMQPEngine``.
typealias Engine = ProtonEngine

/// What a conversation needs of an AMQP 1.0 engine (OASIS AMQP 1.0 part 2): connection, sessions, links and deliveries,
/// and the frames between them. Bytes and requests in, events and bytes out; no socket, clock or thread.
///
/// Protocol headers and SASL are not its matter; it begins with the header `AMQP 0 1 0 0`. What it is given has passed
/// ``FrameGuard``. Handles (sessions, links, deliveries) are valid until they are freed or settled.
///
/// Threading: belongs to one lane at a time and may move with its connection.
protocol AMQPEngine: AnyObject {
    /// A session (§2.1.1).
    associatedtype Session: Hashable
    /// A link (§2.1.2), in the direction that ``isIncoming(_:)`` says.
    associatedtype Link: Hashable
    /// A delivery (§2.6.12), of either direction.
    associatedtype Delivery: Hashable

    init(_ settings: EngineSettings)

    // MARK: Bytes and time

    /// Takes whole frames, or the protocol header. Everything is taken; what happened is told by ``nextEvent()``.
    func take(_ bytes: UnsafeRawBufferPointer)
    /// What happened next; nil when nothing more has.
    func nextEvent() -> EngineEvent?
    /// Appends all frames that are due to an output, which has no bound of its own.
    func produce(into output: Output)
    /// Keeps the connection alive and notices when the peer is silent (§2.4.5).
    /// - Parameter now: the lane's milliseconds.
    /// - Returns: when to be called next; nil for never.
    func tick(now: UInt64) -> UInt64?
    /// Bytes of messages that have been given to ``send(_:on:_:isSettled:)`` and not been produced yet.
    var bufferedBytes: Int { get }

    // MARK: Connection

    /// What the peer's open said; empty before.
    var remoteOpen: RemoteOpen { get }
    /// Answers open. Once.
    func open(_ properties: [(name: String, value: String)], offering capabilities: [String])
    /// Closes the connection, with a reason or without.
    func close(_ error: AMQPError?)
    /// Both sides have closed, or the engine has given up: nothing more will be produced after what is due.
    var isClosed: Bool { get }

    // MARK: Sessions

    /// Answers begin.
    func begin(_ session: Session)
    /// Ends a session, or answers its end.
    func end(_ session: Session, _ error: AMQPError?)
    /// Forgets a session that has ended on both sides, with its links. Their handles are invalid from then on.
    func free(_ session: Session)

    // MARK: Links

    /// The session of a link.
    func session(of link: Link) -> Session
    /// Whether the peer is the sender.
    func isIncoming(_ link: Link) -> Bool
    /// The name, unique between two containers and for each direction (§2.6.1).
    func name(_ link: Link) -> String
    /// What the peer's attach said.
    func remoteAttach(_ link: Link) -> RemoteAttach
    /// What the conversation keeps for a link; released by it.
    func context(_ link: Link) -> UnsafeMutableRawPointer?
    func setContext(_ link: Link, _ context: UnsafeMutableRawPointer?)
    /// Answers attach, granting what is said.
    func attach(_ link: Link, _ answer: LocalAttach)
    /// Answers attach with a null terminus and a detach that says why (§2.6.3). The link stays until the peer's detach.
    func refuse(_ link: Link, _ error: AMQPError)
    /// Detaches or closes a link, or answers its detach.
    func detach(_ link: Link, isClosing: Bool, _ error: AMQPError?)
    /// Forgets a link that is detached on both sides. Its handle and its deliveries' are invalid from then on.
    func free(_ link: Link)

    // MARK: Credit

    /// Deliveries that an outgoing link may still send, or an incoming one still receive; negative when the peer has
    /// sent more than it was granted.
    func credit(_ link: Link) -> Int
    /// Grants an incoming link further credit.
    func grant(_ link: Link, _ count: Int)
    /// Whether the receiver of an outgoing link wants its credit used or given up (§2.6.7).
    func isDraining(_ link: Link) -> Bool
    /// Gives up the credit of an outgoing link, because there is nothing to be sent.
    func drained(_ link: Link)

    /// Flows that have been produced.
    var flowCount: UInt32 { get }
    /// Answers a flow that asks for one, unless a flow that has been produced since is an answer, or there is nothing
    /// to be said of it any more. To be called when everything that is due has been produced.
    func answer(_ request: EchoRequest, into output: Output)

    // MARK: Deliveries in

    /// Where the bytes of an incoming delivery stand that is complete, or has become longer.
    func state(_ delivery: Delivery) -> DeliveryState
    /// Copies what has arrived of the delivery; it is gone from the engine then.
    /// - Returns: bytes copied, at most `count`.
    func read(_ link: Link, into bytes: UnsafeMutableRawPointer, count: Int) -> Int
    /// The delivery has been read; the next one of its link is current.
    func advance(_ link: Link)
    /// Settles an incoming delivery with an outcome; nil for none (it was settled by its sender).
    func settle(_ delivery: Delivery, _ outcome: Outcome?)

    // MARK: Deliveries out

    /// Sends a message on an outgoing link that has credit.
    /// - Parameters:
    ///   - parts: the message's bytes, one part after another; copied.
    ///   - isSettled: whether nobody wants to know what becomes of it.
    /// - Returns: the delivery; nil when it is settled.
    func send(_ parts: MessageParts, on link: Link, isSettled: Bool) -> Delivery?
    /// What the receiver said of an outgoing delivery.
    func remoteState(_ delivery: Delivery) -> (outcome: Outcome?, isSettled: Bool)
    /// Forgets an outgoing delivery, and tells the receiver if it has not settled.
    func settle(_ delivery: Delivery)
    /// A number that the conversation keeps for a delivery.
    func context(_ delivery: Delivery) -> Int
    func setContext(_ delivery: Delivery, _ context: Int)
}

/// What an engine is made with.
struct EngineSettings {
    /// The name of this end (§2.4.1).
    var containerID: String
    /// The largest frame that is taken, in bytes.
    var maxFrameBytes: Int
    /// Sessions of the connection, less one.
    var channelMax: Int
    /// Links of a session, less one.
    var handleMax: Int
    /// Milliseconds after which a silent peer is given up; 0 for never. It is told half of them.
    var idleMilliseconds: Int
}

/// Something that the peer did. Links and sessions that are freed are never named again.
enum EngineEvent {
    /// open has come, see ``AMQPEngine/remoteOpen``.
    case opened
    /// close has come, with a reason or without.
    case closed(AMQPError?)
    /// begin has come.
    case begun(Engine.Session)
    /// end has come.
    case ended(Engine.Session, AMQPError?)
    /// attach has come, see ``AMQPEngine/remoteAttach(_:)``.
    case attached(Engine.Link)
    /// detach has come.
    case detached(Engine.Link, isClosing: Bool, AMQPError?)
    /// flow has come: the credit of an outgoing link may have changed, or it is to be drained.
    case flow(Engine.Link)
    /// A delivery has arrived, has become longer, or its state has changed.
    case delivery(Engine.Delivery, Engine.Link)
    /// The engine gives up: the peer broke a rule, or was silent. What is due is still to be produced.
    case failed(AMQPError)
}

/// What the peer's open said (§2.7.1).
struct RemoteOpen {
    var containerID = ""
    var hostname = ""
    var maxFrameBytes = 0
    var idleMilliseconds = 0
    var desiredCapabilities: [String] = []
    /// Properties with values that are text, for the log.
    var properties: [(name: String, value: String)] = []
}

/// What the peer's attach said (§2.7.3). Reading it costs allocations: once for each attach.
struct RemoteAttach {
    var source = Terminus()
    var target = Terminus()
    var senderSettles = SenderSettleMode.mixed
    var receiverSettles = ReceiverSettleMode.first
    /// 0 for any.
    var maxMessageBytes: UInt64 = 0
    /// The link property ``weightName``: nil when there is none, -1 when it is no whole number.
    var weight: Int64?

    /// The link property that says the weight of a member of a shared group.
    static let weightName = "apus:weight"
}

/// One end of a link (§3.5.3, §3.5.4).
struct Terminus {
    enum Kind { case null, source, target, coordinator }
    enum Durability: Int { case none, configuration, unsettledState }
    enum Expiry { case linkDetach, sessionEnd, connectionClose, never }

    var kind = Kind.null
    /// nil when there is none.
    var address: String?
    var durability = Durability.none
    var expiry = Expiry.sessionEnd
    /// Seconds.
    var timeout: UInt32 = 0
    var isDynamic = false
    /// `copy` (a browser) or `move`; nil when it was not said.
    var distributionMode: String?
    var capabilities: [String] = []
    /// A source's filters in the order they came.
    var filters: [Filter] = []

    /// A filter of a source (§3.5.8).
    struct Filter {
        /// Its key in the map.
        var name: String
        /// The descriptor, as a symbol or as a number.
        var symbol: String?
        var code: UInt64?
        /// The value, encoded.
        var value: [UInt8]
        /// The value if it is a string or symbol.
        var text: String?
    }
}

/// Who settles first at the sender (§2.8.2).
enum SenderSettleMode: Int { case unsettled, settled, mixed }
/// Who settles first at the receiver (§2.8.3).
enum ReceiverSettleMode: Int { case first, second }

/// The answer to an attach.
struct LocalAttach {
    var source: Terminus
    var target: Terminus
    var senderSettles: SenderSettleMode
    var receiverSettles: ReceiverSettleMode
    /// 0 for any.
    var maxMessageBytes: UInt64
}

/// How far an incoming delivery has come.
struct DeliveryState {
    /// Whether more frames of it are to come.
    var isPartial: Bool
    /// Its sender has given it up.
    var isAborted: Bool
    /// Its sender wants no answer.
    var isSettled: Bool
    /// Bytes that can be read.
    var pendingBytes: Int
}

/// The end of a delivery (§3.4).
enum Outcome {
    case accepted
    case rejected(AMQPError?)
    case released
    case modified(isFailed: Bool, isUndeliverableHere: Bool)
}

/// A message in up to four pieces, borrowed.
struct MessageParts {
    var first = UnsafeRawBufferPointer(start: nil, count: 0)
    var second = UnsafeRawBufferPointer(start: nil, count: 0)
    var third = UnsafeRawBufferPointer(start: nil, count: 0)
    var fourth = UnsafeRawBufferPointer(start: nil, count: 0)

    /// Bytes of all pieces.
    var count: Int { first.count + second.count + third.count + fourth.count }
}

/// Something that is wrong, in the protocol's terms (§2.8.14–18).
struct AMQPError: Error, Equatable {
    var condition: Condition
    /// For the person who looks for the cause.
    var text: String
    /// For its program: members of the error's info map, all texts (symbols as keys).
    var info: [(name: String, value: String)] = []

    init(_ condition: Condition, _ text: String) {
        self.condition = condition
        self.text = text
    }

    static func == (a: AMQPError, b: AMQPError) -> Bool { a.condition == b.condition && a.text == b.text }

    /// The symbol of an error.
    struct Condition: RawRepresentable, Hashable {
        let rawValue: String
        init(rawValue: String) { self.rawValue = rawValue }
        init(_ name: String) { rawValue = name }

        static let internalError = Condition("amqp:internal-error")
        static let notFound = Condition("amqp:not-found")
        static let unauthorizedAccess = Condition("amqp:unauthorized-access")
        static let decodeError = Condition("amqp:decode-error")
        static let resourceLimitExceeded = Condition("amqp:resource-limit-exceeded")
        static let notAllowed = Condition("amqp:not-allowed")
        static let invalidField = Condition("amqp:invalid-field")
        static let notImplemented = Condition("amqp:not-implemented")
        static let resourceLocked = Condition("amqp:resource-locked")
        static let preconditionFailed = Condition("amqp:precondition-failed")
        static let illegalState = Condition("amqp:illegal-state")
        static let connectionForced = Condition("amqp:connection:forced")
        static let framingError = Condition("amqp:connection:framing-error")
        static let handleInUse = Condition("amqp:session:handle-in-use")
        static let unattachedHandle = Condition("amqp:session:unattached-handle")
        static let transferLimitExceeded = Condition("amqp:link:transfer-limit-exceeded")
        static let messageSizeExceeded = Condition("amqp:link:message-size-exceeded")
        static let stolen = Condition("amqp:link:stolen")
    }
}
