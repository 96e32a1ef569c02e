import Core

/// The node at `$cbs` (OASIS AMQP claims-based security): clients that send a token before they do anything else are
/// told that it is fine, because their connection has been authenticated already. The token is not looked at.
extension AMQPConversation {
    /// Answers a request on the client's link from `$cbs`: the one that has the request's `reply-to` as its target, or
    /// any.
    func answerClaim(_ message: IncomingMessage, on lane: Lane) {
        let request = ClaimRequest(message)
        let named = claimsLinks.first { link in
            request.replyTo.map { link.claims?.target.utf8.elementsEqual($0) ?? false } ?? false
        }
        guard let outgoing = named ?? claimsLinks.first, let claims = outgoing.claims else { return }
        claims.add(request.answer())
        outgoing.pumpClaims(on: lane)
    }

    /// Links from `$cbs` of a connection: a client has one.
    static var maxClaimsLinks: Int { 4 }
}

/// Answers of `$cbs` that wait for credit on their link. Confined to the lane.
final class ClaimsOutbox {
    /// The address of the link's target.
    let target: String
    private var waiting: [[UInt8]] = []
    /// A client has one request under way, or a few.
    private static let capacity = 64

    init(target: String) { self.target = target }

    /// Whether no answer waits.
    var isEmpty: Bool { waiting.isEmpty }

    /// Adds an answer; the oldest makes room for it.
    func add(_ answer: [UInt8]) {
        if waiting.count == Self.capacity { waiting.removeFirst() }
        waiting.append(answer)
    }

    /// Takes the oldest answer.
    func next() -> [UInt8]? { waiting.isEmpty ? nil : waiting.removeFirst() }
}

/// What an answer repeats of its request. Borrowed.
private struct ClaimRequest {
    /// `message-id`, encoded.
    private(set) var messageID: UnsafeRawBufferPointer?
    /// `reply-to`.
    private(set) var replyTo: UnsafeRawBufferPointer?

    init(_ message: IncomingMessage) {
        guard let properties = message.sections.properties, var (count, reader) = try? properties.members() else {
            return
        }
        // message-id, user-id, to, subject, reply-to (§3.2.4).
        for field in 0..<5 where count > 0 {
            count -= 1
            let start = reader.cursor
            guard let value = try? reader.next() else { return }
            if field == 0 { messageID = UnsafeRawBufferPointer(start: start, count: reader.cursor - start) }
            if field == 4, value.type == .string { replyTo = value.bytes }
        }
    }

    /// 202: the token was taken (§3.1 of the draft, and what clients look for).
    func answer() -> [UInt8] {
        let writer = ValueWriter()
        writer.descriptor(.properties)
        let properties = writer.begin()
        for _ in 0..<5 { writer.null() }
        if let messageID { writer.raw(messageID) } else { writer.null() }
        writer.end(.list, at: properties, count: 6)
        writer.descriptor(.applicationProperties)
        let members = writer.begin()
        Self.write("status-code", to: writer)
        // A signed integer: clients compare it with theirs.
        writer.byte(0x71)
        for byte in [0, 0, 0, 202] as [UInt8] { writer.byte(byte) }
        Self.write("status-description", to: writer)
        Self.write("Accepted", to: writer)
        writer.end(.map, at: members, count: 4)
        writer.descriptor(.value)
        writer.null()
        return Array(writer.bytes)
    }

    private static func write(_ text: StaticString, to writer: ValueWriter) {
        writer.string(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }
}
