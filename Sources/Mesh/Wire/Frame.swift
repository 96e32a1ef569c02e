/// Frames of the mesh's links, `docs/wire-format.md`: an 8-byte header and a body, little-endian.

/// What a frame is. Numbers are final: one is never given another meaning. Those that are missing are reserved, and
/// frames of theirs ignored like any that are not known.
public enum FrameType: UInt8, Sendable, CaseIterable {
    /// Who dials or answers; the first frame of every connection in both directions.
    case initiate = 1
    /// Liveness, round trip time and digests.
    case hello = 2
    /// A link-state advertisement.
    case advertisement = 3
    /// Which advertisements the sender wants.
    case advertisementRequest = 4
    /// Changes of a node's interest.
    case interestDelta = 5
    /// All of a node's interest, in parts.
    case interestSnapshot = 6
    /// Whose interest the sender wants, and from where on.
    case interestRequest = 7
    /// Direct events with a destination set.
    case data = 9
    /// Guaranteed events with a destination set; each destination's part is a stream.
    case streamData = 10
    /// What a destination has of a stream.
    case streamAcknowledgement = 11
    /// Asks a destination what it has of a stream, or tells an origin.
    case streamSync = 12
    /// Frames of a class that the receiver has taken from a link.
    case linkAcknowledgement = 13
    /// Digests of retained events.
    case retainedDigests = 16
    /// Retained events and tombstones.
    case retainedValues = 17
    /// Which retained events the sender wants.
    case retainedRequest = 18
    /// The last frame of a connection, with a reason.
    case bye = 20
    /// A probe that collects times on its way.
    case trace = 22
    /// Proof that the sender knows the mesh's secret.
    case authenticate = 23
    /// Versions of all advertisements the sender has.
    case advertisementVersions = 24
    /// Versions of all interest sets the sender has.
    case interestVersions = 25
    /// A control frame for a node that is not a neighbour.
    case routed = 26
    /// Sessions: claims to client ids and what moves with them.
    case session = 28
    /// The answer to a probe.
    case traceAnswer = 29
    /// Something that a node asks of another for its operator: active topics and the like.
    case inquiry = 31
    /// The answer to it.
    case inquiryAnswer = 32
    /// Which topics the sender lets cross the link.
    case linkPolicy = 33
}

/// Which queue of a link a frame waits in.
public enum FrameClass: UInt8, Sendable, CaseIterable {
    /// Everything that keeps the mesh together; on the control connection.
    case control = 0
    /// Streams.
    case guaranteed = 1
    /// Direct events.
    case direct = 2
    /// Retained events on their way to who does not subscribe, moving sessions: whatever may wait.
    case bulk = 3
}

/// The header of every frame.
public struct FrameHeader: Equatable, Sendable, BitwiseCopyable {
    /// Bytes in front of the body.
    public static let size = 8
    /// No frame is larger, header included.
    public static let maxSize = 256 << 10

    /// Bytes of the frame with this header.
    public var length: Int
    /// What it is, as received.
    public var type: UInt8
    /// Meaning depends on the type; unknown bits are passed on.
    public var flags: UInt8 = 0
    /// The queue it waits in, as received.
    public var frameClass: UInt8 = 0
    /// Links it may still cross.
    public var timeToLive: UInt8 = 0
    /// The origin's lane, that is to say within what order holds.
    public var lane: UInt8 = 0

    /// Makes a header.
    public init(length: Int, type: FrameType, frameClass: FrameClass = .control) {
        self.length = length
        self.type = type.rawValue
        self.frameClass = frameClass.rawValue
    }

    /// Reads a header from at least ``size`` bytes.
    @inlinable
    public init(_ bytes: UnsafeRawPointer) {
        let word = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
        length = Int(word & 0xFF_FFFF)
        type = UInt8(truncatingIfNeeded: word >> 24)
        flags = UInt8(truncatingIfNeeded: word >> 32)
        frameClass = UInt8(truncatingIfNeeded: word >> 40)
        timeToLive = UInt8(truncatingIfNeeded: word >> 48)
        lane = UInt8(truncatingIfNeeded: word >> 56)
    }

    /// Writes the header to ``size`` bytes.
    @inlinable
    public func write(to bytes: UnsafeMutableRawPointer) {
        let word =
            UInt64(length) & 0xFF_FFFF | UInt64(type) << 24 | UInt64(flags) << 32 | UInt64(frameClass) << 40
            | UInt64(timeToLive) << 48 | UInt64(lane) << 56
        bytes.storeBytes(of: word.littleEndian, as: UInt64.self)
    }
}
