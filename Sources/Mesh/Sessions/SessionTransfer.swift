/// Bytes of a session on their way, in parts that are acknowledged. Frames may get lost: what is not acknowledged in
/// time is sent again from there on.
struct OutgoingTransfer {
    /// Bytes of one part; with its header well below 64 KiB.
    static let partBytes = 60 << 10
    /// Bytes that may be under way.
    static let window = 8 * partBytes
    static let resendMilliseconds: UInt64 = 250

    let request: UInt64
    let part: SessionPart
    let serial: UInt32
    let bytes: [UInt8]
    private(set) var acknowledged = 0
    private var sent = 0
    private(set) var resendAt: UInt64 = 0

    init(request: UInt64, part: SessionPart, serial: UInt32, bytes: [UInt8]) {
        self.request = request
        self.part = part
        self.serial = serial
        self.bytes = bytes
    }

    var isDone: Bool { acknowledged == bytes.count }

    /// Sends what may be sent, by `send`, which says whether the frame was taken.
    mutating func pump(now: UInt64, send: ([UInt8]) -> Bool) {
        if now >= resendAt { sent = acknowledged }
        while sent < bytes.count, sent - acknowledged < Self.window {
            let end = min(sent + Self.partBytes, bytes.count)
            var writer = WireWriter.session(.part, isBulk: true, capacity: 48 + end - sent)
            writer.u64(request)
            writer.u8(part.rawValue)
            writer.u32(serial)
            writer.u32(UInt32(truncatingIfNeeded: bytes.count))
            writer.u32(UInt32(truncatingIfNeeded: sent))
            writer.raw(bytes[sent..<end])
            guard send(writer.finish()) else { break }
            sent = end
        }
        if now >= resendAt { resendAt = now + Self.resendMilliseconds }
    }

    /// The other node has this much.
    mutating func heard(_ count: Int, now: UInt64) {
        guard count > acknowledged, count <= bytes.count else { return }
        acknowledged = count
        sent = max(sent, count)
        resendAt = now + Self.resendMilliseconds
    }
}

/// What has arrived of a transfer, in order.
struct IncomingTransfer {
    /// Bytes of one transfer: what a session may hold by its limits, and more.
    static let maxBytes = 64 << 20

    let part: SessionPart
    let serial: UInt32
    let total: Int
    private(set) var bytes: [UInt8] = []

    init(part: SessionPart, serial: UInt32, total: Int) {
        self.part = part
        self.serial = serial
        self.total = total
    }

    var isWhole: Bool { bytes.count == total }

    /// Takes a part if it is the next one.
    mutating func take(at offset: Int, _ part: UnsafeRawBufferPointer) {
        guard offset == bytes.count, part.count <= total - bytes.count else { return }
        bytes.append(contentsOf: part)
    }
}
