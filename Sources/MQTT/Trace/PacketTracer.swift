import Core

/// The log of a client's packets: what each connection of a traced client reads and writes, one line a packet.

/// One line of a trace.
public struct TraceLine: Sendable, Equatable {
    /// Who sent the packet.
    public enum Direction: String, Sendable {
        /// The client.
        case received
        /// The node.
        case sent
    }

    /// The client id.
    public var clientID: String
    /// Who sent the packet; nil when the line is about the trace itself.
    public var direction: Direction?
    /// The packet, described.
    public var text: String
    /// Bytes of the packet.
    public var bytes = 0
}

/// How packets are traced.
public struct TraceSettings: Sendable {
    /// Takes a line; called on lanes.
    public var output: @Sendable (TraceLine) -> Void
    /// Whether the beginnings of payloads are shown.
    public var showsPayload = false
    /// Lines a second and connection; what is beyond is left out and counted.
    public var linesPerSecond = 1_000

    /// Settings with an output.
    public init(output: @escaping @Sendable (TraceLine) -> Void) { self.output = output }
}

/// Puts the packets of one connection together again, in both directions, and describes each. Confined to its lane.
final class PacketTracer: LinkTap {
    /// Bytes of a packet that are kept to describe it.
    static let headBytes = 4_096

    /// One direction: the packet that has begun.
    private struct Stream {
        var head: [UInt8] = []
        /// Bytes of the packet that have been seen.
        var seen = 0
        /// Bytes of the whole packet; 0 while its fixed header is not complete.
        var size = 0
        /// Whether the bytes were no packets; nothing more is described.
        var isLost = false
    }

    private let clientID: String
    private let settings: TraceSettings
    private var version: MQTTVersion
    private var received = Stream()
    private var sent = Stream()
    private var second: UInt64 = 0
    private var lines = 0
    private var leftOut = 0

    init(clientID: String, version: MQTTVersion, settings: TraceSettings) {
        self.clientID = clientID
        self.version = version
        self.settings = settings
    }

    override func received(_ bytes: UnsafeRawBufferPointer, on lane: Lane) {
        take(bytes, &received, .received, now: lane.now)
    }

    override func sent(_ bytes: UnsafeRawBufferPointer, on lane: Lane) { take(bytes, &sent, .sent, now: lane.now) }

    private func take(
        _ bytes: UnsafeRawBufferPointer, _ stream: inout Stream, _ direction: TraceLine.Direction, now: UInt64
    ) {
        var rest = bytes[...]
        while !rest.isEmpty, !stream.isLost {
            if stream.size == 0 {
                stream.head.append(rest.removeFirst())
                stream.seen += 1
                switch stream.head.withUnsafeBytes({ Framing.of($0) }) {
                case .incomplete: continue
                case .malformed:
                    stream.isLost = true
                    return say(direction, "these bytes are no packet; nothing more is described", 0, now)
                case .packet(let header, let remaining): stream.size = header + remaining
                }
            }
            let part = rest.prefix(stream.size - stream.seen)
            stream.head.append(contentsOf: part.prefix(Self.headBytes - stream.head.count))
            stream.seen += part.count
            rest = rest.dropFirst(part.count)
            if stream.seen == stream.size { finish(&stream, direction, now) }
        }
    }

    private func finish(_ stream: inout Stream, _ direction: TraceLine.Direction, _ now: UInt64) {
        // Before the text is made: it is what costs.
        if mayWrite(now) {
            let text = PacketText.describe(
                stream.head, size: stream.size, version: &version, showsPayload: settings.showsPayload)
            write(direction, text, stream.size)
        }
        stream.head.removeAll(keepingCapacity: stream.head.count <= Self.headBytes)
        (stream.seen, stream.size) = (0, 0)
    }

    private func say(_ direction: TraceLine.Direction, _ text: String, _ bytes: Int, _ now: UInt64) {
        if mayWrite(now) { write(direction, text, bytes) }
    }

    /// Whether the second has a line left; the first of a new second says how many the one before had too many.
    private func mayWrite(_ now: UInt64) -> Bool {
        if now / 1_000 != second {
            second = now / 1_000
            lines = 0
            sayLeftOut()
        }
        guard lines < settings.linesPerSecond else {
            leftOut += 1
            return false
        }
        lines += 1
        return true
    }

    /// Says how many lines were left out since it was last said; also before the tracer goes.
    func sayLeftOut() {
        guard leftOut > 0 else { return }
        write(nil, "\(leftOut) packets were left out: more than \(settings.linesPerSecond) a second", 0)
        leftOut = 0
    }

    private func write(_ direction: TraceLine.Direction?, _ text: String, _ bytes: Int) {
        settings.output(TraceLine(clientID: clientID, direction: direction, text: text, bytes: bytes))
    }

    deinit { sayLeftOut() }
}
