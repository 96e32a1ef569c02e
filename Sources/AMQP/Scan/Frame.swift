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
}
