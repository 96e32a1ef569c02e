import Core

/// A flow that asks for our flow state (§2.7.4, echo), with what the answer says of frames that the peer has sent.
struct EchoRequest {
    /// The peer's channel.
    var channel: UInt16
    /// Of the next transfer that the peer sends.
    var nextIncomingID: UInt32
    /// ``SentFrames/flowCount`` when the flow came: a flow that was sent since is an answer.
    var askedAt: UInt32
    /// nil when it asks for the session's state alone.
    var link: Link?

    /// The link that it asks about.
    struct Link {
        var engine: Engine.Link
        /// Of its name and direction, see ``Frame/linkHash(isOutgoing:)``.
        var nameHash: Int
        /// Where the peer sends: its delivery-count. Where it receives: the delivery-count at which its credit ends.
        var count: UInt32
        /// Messages that wait for credit, where the peer receives; nil when nobody knows.
        var available: UInt32?
    }
}

extension Frame {
    /// An attach's name.
    var name: UnsafeRawBufferPointer {
        let start = Int(fields.nameStart)
        return UnsafeRawBufferPointer(rebasing: body[start..<(start + Int(fields.nameLength))])
    }

    /// The same for both ends' attach frames of one link.
    /// - Parameter isOutgoing: whether this end is the link's sender.
    func linkHash(isOutgoing: Bool) -> Int { Self.linkHash(isOutgoing: isOutgoing, name) }

    static func linkHash(isOutgoing: Bool, _ name: some Collection<UInt8>) -> Int {
        var hasher = Hasher()
        hasher.combine(isOutgoing)
        for byte in name { hasher.combine(byte) }
        return hasher.finalize()
    }
}
