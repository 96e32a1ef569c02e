/// The link of a conversation inside of a WebSocket connection: what it writes becomes the payload of frames.
import Core

/// A conversation that carries another one, which is the one that its link's owner means.
protocol Carrying: Conversation {
    /// The conversation inside; nil while there is none.
    var inside: Conversation? { get }
}

/// After an upgrade it passes everything on.
extension HTTPConversation: Carrying {}

/// Rides on the link of the connection. The header of a frame is written in front of its payload inside the carrier's
/// own window, so that nothing is copied, and all packets of a pass share frames. Confined to its lane.
///
/// While a frame is open the carrier's cursor stands at its beginning and this one's behind what has been appended:
/// whoever writes to the carrier directly seals the frame before.
final class WebSocketLink: Link {
    /// What the inside takes and gives.
    enum Kind {
        /// One stream of bytes in binary frames, whatever their borders: MQTT, AMQP.
        case binary
        /// Text messages, each ended by ``WebSocketLink/endMessage()``.
        case text
        /// Messages of both kinds; an answer is of the kind of the message before it.
        case any
    }

    /// The connection's; it outlives what it carries.
    unowned(unsafe) let carrier: Link
    let kind: Kind
    /// The lane that the connection is on now.
    unowned(unsafe) var lane: Lane
    /// Of messages to come; only ``Kind/any`` changes it.
    var opcode: WebSocketOpcode
    /// Why the inside has asked for the end; it comes with the next pass.
    private(set) var closing: CloseReason?
    /// The close frame has been written: nothing may follow it.
    var isEnded = false

    /// Where the open frame begins in the carrier's window; nil while none is open.
    private var frame: UnsafeMutableRawPointer?
    /// Whether a part of the message has been sent already.
    private var isContinuing = false
    private var letIn: Identity?
    private var letInUntil = UInt64.max
    /// The tick that the inside waits for, and that of the WebSocket conversation; `max` for none.
    var insideDeadline = UInt64.max
    var ownDeadline = UInt64.max
    /// Whether the connection is not read, because the inside waits for somebody else.
    var isUnread = false

    /// Kept free for the header: enough for ``maxPayload``.
    private static let headerRoom = 4
    private static let maxPayload = 65_535
    /// From here on a block gets a frame of its own and is sent where it lies.
    private static let directSize = Output.maxReservation - headerRoom

    init(on carrier: Link, kind: Kind, lane: Lane) {
        self.carrier = carrier
        self.kind = kind
        self.lane = lane
        opcode = kind == .text ? .text : .binary
        super.init()
        isLocal = carrier.isLocal
        isCongested = carrier.isCongested
        // One connection, counted once: for whoever opened it until the inside says who it is.
        stay = carrier.stay
        carrier.stay = nil
        carrier.rider = self
    }

    override var peer: String { carrier.peer }
    override var address: NetworkAddress? { carrier.address }
    override var admitted: Identity? {
        guard var identity = letIn else { return nil }
        identity.lifetimeMilliseconds = letInUntil == .max ? nil : letInUntil - min(lane.now, letInUntil)
        return identity
    }

    /// The upgrade request has proven who the client is.
    /// - Parameter end: when that ends, in the lane's milliseconds; `max` for never.
    func letIn(_ identity: Identity?, until end: UInt64) {
        guard identity?.user != nil else { return }
        (letIn, letInUntil) = (identity, end)
    }

    override var provenUser: String? { carrier.provenUser }
    override var provenGroups: [String] { carrier.provenGroups }
    override var certificate: PeerCertificate? { carrier.certificate }
    override var isEncrypted: Bool { carrier.isEncrypted }
    override var listenerName: String { carrier.listenerName }

    // MARK: Frames

    override func makeRoom(_ count: Int) {
        seal()
        openFrame(count)
    }

    override func appendSlowly(_ bytes: UnsafeRawPointer, _ count: Int) {
        guard !isEnded, count > 0 else { return }
        seal()
        guard count >= Self.directSize else {
            openFrame(count)
            cursor.copyMemory(from: bytes, byteCount: count)
            cursor += count
            return
        }
        if let tap { tap.sent(UnsafeRawBufferPointer(start: bytes, count: count), on: lane) }
        let place = carrier.reserve(WebSocketHeader.maxServerSize)
        carrier.cursor = place + writeHeader(length: count, isLast: false, to: place)
        carrier.append(bytes, count)
    }

    private func openFrame(_ count: Int) {
        let place = carrier.reserve(count + Self.headerRoom)
        frame = place
        cursor = place + Self.headerRoom
        end = min(carrier.end, cursor + Self.maxPayload)
    }

    private func writeHeader(length: Int, isLast: Bool, to place: UnsafeMutableRawPointer) -> Int {
        let isFinal = kind == .binary || isLast
        let size = WebSocketHeader.write(
            isContinuing ? .continuation : opcode, isFinal: isFinal, length: length, to: place)
        isContinuing = !isFinal
        return size
    }

    /// Closes the open frame, so that the carrier has it and can be written to.
    @inline(__always)
    func seal() {
        if frame != nil { closeFrame(isLast: false) }
        guard packets > 0 else { return }
        carrier.packets &+= packets
        packets = 0
    }

    private func closeFrame(isLast: Bool) {
        guard let frame else { return }
        let payload = frame + Self.headerRoom
        let count = cursor - payload
        self.frame = nil
        end = cursor
        guard !isEnded, count > 0 || isLast else { return }
        if let tap, count > 0 { tap.sent(UnsafeRawBufferPointer(start: payload, count: count), on: lane) }
        let size = writeHeader(length: count, isLast: isLast, to: frame)
        if size < Self.headerRoom { (frame + size).copyMemory(from: payload, byteCount: count) }
        carrier.cursor = frame + size + count
    }

    /// The message is complete. Says nothing to a stream.
    func endMessage() {
        guard kind != .binary, !isEnded else { return }
        if frame == nil { openFrame(0) }
        closeFrame(isLast: true)
    }

    override func settleTap() { seal() }

    // MARK: The connection

    override func close(_ reason: CloseReason) {
        guard closing == nil, !isEnded else { return }
        closing = reason
        // The inside may be asked to end from anywhere, also from within another conversation: it is told later.
        let later = carrier.callback { (outer: Conversation, _: Bool, lane: Lane) in
            Self.resolve(outer)?.endAsAsked(on: lane)
        }
        later(true)
    }

    /// The conversation ends every connection like this.
    override func finish(_ reason: CloseReason) { close(reason) }

    override func resume() {
        isUnread = false
        carrier.resume()
    }

    override func callback<Answer: Sendable>(
        _ body: @escaping @Sendable (Conversation, Answer, Lane) -> Void
    ) -> @Sendable (Answer) -> Void {
        carrier.callback { (outer: Conversation, answer: Answer, lane: Lane) in
            guard let conversation = Self.resolve(outer), conversation.isOpen else { return }
            body(conversation.theInside, answer, lane)
        }
    }

    override func move(to lane: Int, arrived: @escaping @Sendable (Conversation, Lane) -> Void) {
        carrier.move(to: lane) { outer, lane in Self.resolve(outer)?.arrived(on: lane, arrived) }
    }

    /// The WebSocket conversation below the one that the connection knows.
    private static func resolve(_ outer: Conversation) -> WebSocketConversation? {
        var conversation: Conversation? = outer
        while let known = conversation {
            if let found = known as? WebSocketConversation { return found }
            conversation = (known as? any Carrying)?.inside
        }
        return nil
    }

    // MARK: Time

    /// The connection has one timer; it is set to what is due first.
    override func tick(at deadline: UInt64) {
        insideDeadline = deadline
        setTimer()
    }

    /// The same for the conversation's own deadline.
    func tickSelf(at deadline: UInt64) {
        ownDeadline = deadline
        setTimer()
    }

    /// What is due first; `max` when nothing is.
    var nextDeadline: UInt64 { min(insideDeadline, ownDeadline) }

    /// The timer is gone after a move.
    func setTimer() { if nextDeadline != .max { carrier.tick(at: nextDeadline) } }
}
