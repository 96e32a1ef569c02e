/// What a guard remembers of sessions and links, and of the transfers on them.
extension FrameGuard {
    struct Link {
        /// Of its name and direction; nil when the name is free again.
        var nameHash: Int?
        /// Whether the peer is the receiver.
        var isOutgoing: Bool
        /// Bytes of its attach.
        var size: UInt32 = 0
        /// A delivery has begun and not ended; its number and whether it was sent settled.
        var isPartial = false
        var isPartialSettled = false
        var partialID: UInt32 = 0
        /// The delivery-count of a peer that sends, as the engine counts it.
        var deliveryCount: UInt32 = 0
        /// Deliveries that the sender passed over.
        var skipped: UInt32 = 0
        /// The delivery-count at which the credit ends that a peer that receives has given.
        var creditEnd: UInt32 = 0
        /// nil before its event, and when the engine has forgotten it.
        var engine: Engine.Link?
        /// ``FrameGuard/flowCount`` with the last flow that asks for an answer and has none.
        var askedAt: UInt32?
    }

    struct Session {
        /// Which of the begins that passed it is.
        var number: Int
        var engine: Engine.Session?
        /// Ended by this end and not yet by the peer.
        var isEnded = false
        /// Links that the peer can take, by its handle-max.
        var maxLinks: Int
        var links = KeyedSlots<Link>()
        /// The next delivery-id; nil before the first.
        var nextDelivery: UInt32?
        /// The id of the next transfer (§2.5.6).
        var nextTransfer: UInt32
        /// As of a link, of the last flow without one.
        var askedAt: UInt32?

        /// What is to be answered, if there is still something: once for each time that it was asked.
        /// - Parameters:
        ///   - channel: the session's.
        ///   - handle: the link's; nil when it is about the session alone.
        /// - Returns: nil when the session or link is another one than that which has asked, or the engine does not
        ///   have it.
        mutating func takeEcho(_ channel: UInt16, _ handle: UInt32?) -> EchoRequest? {
            guard let handle else {
                guard let askedAt else { return nil }
                self.askedAt = nil
                return EchoRequest(channel: channel, nextIncomingID: nextTransfer, askedAt: askedAt)
            }
            guard let index = links.place(of: handle), let askedAt = links.values[index].askedAt else { return nil }
            links.values[index].askedAt = nil
            let link = links.values[index]
            guard let engine = link.engine, let hash = link.nameHash else { return nil }
            return EchoRequest(
                channel: channel, nextIncomingID: nextTransfer, askedAt: askedAt,
                link: EchoRequest.Link(
                    engine: engine, nameHash: hash, count: link.isOutgoing ? link.creditEnd : link.deliveryCount))
        }
    }

    /// The link that the last transfer was for, and what a transfer changes, taken out of the session: whatever is no
    /// transfer for this link finds it put back.
    struct Hot {
        var isValid = false
        var channel: UInt16 = 0
        var handle: UInt32 = 0
        var session = 0
        var place = 0
        var link = Link(nameHash: nil, isOutgoing: false)
        var nextDelivery: UInt32?
        var nextTransfer: UInt32 = 0

        /// Counts a transfer (§2.6.12, §2.6.14, §2.7.5).
        /// - Returns: nil when it is right; otherwise nothing has changed.
        @inline(__always)
        mutating func take(_ fields: Frame.Fields) -> WrongTransfer? {
            let said = fields.said
            guard said.isDisjoint(with: [.resume, .transactional]) else { return .notOffered }
            if link.isPartial {
                guard !said.contains(.id) || fields.id == link.partialID else { return .otherID }
                if said.contains(.settledSaid), !said.contains(.settled), link.isPartialSettled { return .unsettled }
            } else {
                guard !link.isOutgoing else { return .fromReceiver }
                guard said.contains(.id) else { return .noID }
                guard nextDelivery == nil || nextDelivery == fields.id else { return .sequence }
                nextDelivery = fields.id &+ 1
                link.deliveryCount &+= 1
                link.isPartialSettled = false
                link.partialID = fields.id
            }
            if said.contains(.settled) { link.isPartialSettled = true }
            link.isPartial = said.contains(.more) && !said.contains(.aborted)
            nextTransfer &+= 1
            return nil
        }
    }

    /// What can be wrong with a transfer on a link that there is.
    enum WrongTransfer { case notOffered, fromReceiver, noID, sequence, otherID, unsettled }
}
