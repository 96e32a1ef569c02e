/// The state machine of one protocol connection: bytes in, bytes and publishes out. No socket, clock or thread.
///
/// Threading: called on its lane only, never blocks, and never from within another conversation.
open class Conversation {
    /// What a call to ``receive(_:_:on:)`` ended with.
    public enum Verdict: Sendable, Equatable {
        /// All complete packets were taken.
        case waiting
        /// Route the turn, then call again with the rest.
        case routeFirst
        /// Take no more bytes until ``Link/resume()`` is called.
        case paused
        /// Route the turn, flush the output, close.
        case close(CloseReason)
    }

    /// What became of bytes.
    public struct Progress: Sendable, Equatable {
        /// Bytes taken.
        public var consumed: Int
        /// How it goes on.
        public var verdict: Verdict

        /// Makes a progress.
        @inlinable
        public init(consumed: Int, verdict: Verdict) {
            self.consumed = consumed
            self.verdict = verdict
        }
    }

    /// For subclasses.
    public init() {}

    /// Takes bytes, answers into its output and appends publishes, borrowed from `bytes`, to the turn.
    open func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        Progress(consumed: bytes.count, verdict: .waiting)
    }

    /// The turn has been routed; its outcomes are filled in.
    open func routed(_ turn: Turn, on lane: Lane) {}

    /// Time has come to the deadline this conversation asked for.
    /// - Returns: the next deadline in the lane's milliseconds (nil: none), or why the connection is to be closed.
    open func tick(on lane: Lane) -> Result<UInt64?, CloseReason> { .success(nil) }

    /// What waited in the output has been sent: what was held back may go on. Called when the socket had not taken all
    /// of it at once, and whenever somebody has seen ``Link/unsentBytes`` and they have gone since.
    open func outputDrained(on lane: Lane) {}

    /// The end of the pass: what has been appended is about to be sent. Whoever puts bytes together late does so here.
    open func produce(on lane: Lane) {}

    /// The peer will send nothing more, but may still read.
    /// - Returns: whether the connection stays until the conversation ends it, by ``Link/finish(_:)`` or
    ///   ``Link/close(_:)``.
    open func inputEnded(on lane: Lane) -> Bool { false }

    /// The node is stopping.
    /// - Returns: whether the connection stays until the conversation ends it, within the time there is.
    open func drain(on lane: Lane) -> Bool { false }

    /// The connection ends; the last call. Inboxes are detached and wills are published here.
    open func close(_ reason: CloseReason, on lane: Lane) {}

    /// Who has proven to be at the other end; nil while that is not known.
    open var provenIdentity: Identity? { nil }

    /// For the log: who is at the other end.
    open var label: String { "" }
}

/// What a conversation may ask of the connection that carries it.
///
/// Threading: called on the connection's lane only.
open class Link: Output {
    /// Whether the peer is on this machine (loopback or a Unix socket).
    public final var isLocal = true
    /// The peer's address, for the log.
    open var peer: String { "" }
    /// The peer's address; nil for one that has none, such as a Unix socket's.
    open var address: NetworkAddress? { nil }
    /// What keeps the connection counted for its user; see ``Principal/join(_:on:)``.
    public final var stay: QuotaStay?
    /// Who the transport has proven the peer to be, as one with client certificates does; nil for nobody.
    open var provenUser: String? { nil }
    /// The groups that a certificate puts its owner into.
    open var provenGroups: [String] { [] }
    /// The certificate that the transport has verified; nil for none. Known once the first bytes have come.
    open var certificate: PeerCertificate? { nil }
    /// Whom the request that led to this connection has let in, as the upgrade to a WebSocket does; nil for nobody.
    /// That is who a client is that says nothing else of itself. What is left of the proof's lifetime counts from now.
    open var admitted: Identity? { nil }
    /// Whether nobody on the way can read along.
    open var isEncrypted: Bool { false }
    /// The name of the listener that accepted the connection; empty for one that was dialled.
    open var listenerName: String { "" }

    /// Who is shown the connection's bytes. What was appended before a change is the former one's.
    public final var tap: LinkTap? { willSet { settleTap() } }
    /// Shows the tap what has been appended and not been shown yet, because another one takes over.
    open func settleTap() {}

    /// Ends the connection after what is in the output has been sent.
    open func close(_ reason: CloseReason) {}
    /// Ends the connection so that the peer can read all of it: what has been appended is sent, then the writing side
    /// is shut, and what still comes in is thrown away until the peer closes or a moment has passed
    /// (``Limits/lastBytesMilliseconds``, ``Limits/lingerMilliseconds``). The conversation gets neither bytes nor ticks
    /// any more.
    open func finish(_ reason: CloseReason) { close(reason) }
    /// An output that writes into this one, for a protocol inside of a protocol: it learns when this one is congested.
    public final weak var rider: Output? { didSet { rider?.isCongested = isCongested } }
    /// Bytes that the socket has not taken yet. Who keeps a queue of its own appends only while there are few, and who
    /// sees any is told when they have gone, by ``Conversation/outputDrained(on:)`` in a later pass.
    open var unsentBytes: Int { 0 }
    /// Lets the system take no more than about so many bytes that it has not sent (`TCP_NOTSENT_LOWAT`), so that what
    /// waits does so where it can still be chosen from, and not in the socket.
    open func setNotSentLowWater(_ bytes: Int) {}
    /// Goes on after ``Conversation/Verdict/paused``.
    open func resume() {}
    /// Calls `body` on the connection's lane, with its conversation, if the connection still exists then. The function
    /// that is returned may be called once, from any thread.
    open func callback<Answer: Sendable>(
        _ body: @escaping @Sendable (Conversation, Answer, Lane) -> Void
    ) -> @Sendable (Answer) -> Void { { _ in } }
    /// Moves the connection and its conversation to another lane, then calls `arrived` there. Only while paused, and
    /// only before anything refers to the conversation.
    open func move(to lane: Int, arrived: @escaping @Sendable (Conversation, Lane) -> Void) {}
    /// Asks for a tick at a time in the lane's milliseconds, in place of the one asked for before.
    open func tick(at deadline: UInt64) {}
}

/// A protocol's entry: how a conversation is made for an accepted connection.
public protocol Adapter: Sendable {
    /// The name in configuration and logs.
    var name: String { get }
    /// The lane that all its connections live on; nil for whichever has the fewest.
    var homeLane: Int? { get }
    /// Whether other nodes of a mesh come in here.
    var isMesh: Bool { get }
    /// A conversation for a new connection. Called on the connection's lane.
    func makeConversation(link: Link, on lane: Lane) -> Conversation
}

extension Adapter {
    /// Any lane.
    public var homeLane: Int? { nil }
    /// As a rule they do not.
    public var isMesh: Bool { false }
}
