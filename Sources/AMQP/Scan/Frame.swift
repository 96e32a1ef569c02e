import Core

/// A frame as it stands in the receive buffer (§2.3).
struct Frame {
    /// What a frame with a body says (§2.7).
    enum Performative: UInt8 {
        case open = 0x10
        case begin = 0x11
        case attach = 0x12
        case flow = 0x13
        case transfer = 0x14
        case disposition = 0x15
        case detach = 0x16
        case end = 0x17
        case close = 0x18
    }

    /// Bytes of the frame, header included.
    var length: Int
    /// 0 for AMQP, 1 for SASL.
    var type: UInt8
    var channel: UInt16
    /// nil for an empty frame (§2.4.5) and for SASL.
    var performative: Performative?
    /// What comes after the header: the performative and, of a transfer, the payload.
    var body: UnsafeRawBufferPointer
    /// Bytes of the body that the performative takes; the rest is a transfer's payload.
    var performativeLength = 0
    /// What ``FrameGuard`` looks at.
    var fields = Fields()

    /// Fields of a performative that have to fit what came before. Those that it lacks, or that the peer left out,
    /// are 0 and not ``said``.
    struct Fields {
        var said: Said = []
        /// Of attach, flow, transfer and detach; begin.remote-channel.
        var handle: UInt32 = 0
        /// transfer.delivery-id, disposition.first, attach.initial-delivery-count, flow.delivery-count,
        /// begin.next-outgoing-id.
        var id: UInt32 = 0
        /// disposition.last (the first if it was left out), flow.link-credit, begin.handle-max, open.channel-max.
        var limit: UInt32 = 0
        /// Where attach.name lies in the body.
        var nameStart: UInt32 = 0
        var nameLength: UInt32 = 0
    }

    /// Fields that are there, and booleans that are true.
    struct Said: OptionSet {
        let rawValue: UInt16
        init(rawValue: UInt16) { self.rawValue = rawValue }

        static let handle = Said(rawValue: 1 << 0)
        static let id = Said(rawValue: 1 << 1)
        static let limit = Said(rawValue: 1 << 2)
        /// Of attach and disposition: whoever sent it is the receiver (role is true).
        static let receiver = Said(rawValue: 1 << 3)
        /// transfer.settled is there.
        static let settledSaid = Said(rawValue: 1 << 4)
        static let settled = Said(rawValue: 1 << 5)
        static let more = Said(rawValue: 1 << 6)
        static let aborted = Said(rawValue: 1 << 7)
        /// begin.remote-channel is there: it answers a begin.
        static let remoteChannel = Said(rawValue: 1 << 8)
        static let tag = Said(rawValue: 1 << 9)
        /// disposition.state is there, and is another than received, which is no outcome (§3.4.1).
        static let state = Said(rawValue: 1 << 10)
        /// Of flow: it asks for one in answer.
        static let echo = Said(rawValue: 1 << 11)
        /// transfer.resume and attach.incomplete-unsettled: of deliveries that a link had before it was attached.
        static let resume = Said(rawValue: 1 << 12)
        /// The state of a transfer or disposition belongs to a transaction.
        static let transactional = Said(rawValue: 1 << 13)
    }
}

/// What frames may hold besides what `limits` says.
enum FrameLimits {
    /// Containers (lists, maps, arrays) inside of each other, a performative's own list included.
    static let depth = 16
    /// Values in a performative, those inside of containers included.
    static let values = 4_096
    /// A symbol: keys of maps, capabilities, conditions.
    static let symbolBytes = 1_024
    /// open.container-id, open.hostname and attach.name.
    static let nameBytes = 1_024
    /// Addresses of sources and targets.
    static let addressBytes = 65_535
    /// transfer.delivery-tag (§2.8.7).
    static let tagBytes = 32
    /// Deliveries that a sender may pass over at once (flow.delivery-count).
    static let skippedDeliveries: UInt32 = 65_535
    /// Deliveries that a sender may pass over in a link's life.
    static let skippedDeliveriesOfLink: UInt32 = 1 << 30
}
