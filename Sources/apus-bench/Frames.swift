internal import Glibc

/// The protocol that the clients speak, by its level in CONNECT.
enum ProtocolVersion: UInt8 {
    case v3 = 4
    case v5 = 5
}

/// MQTT packets of one version, as far as a load generator needs them. Version 5 without properties.
struct Frames {
    let version: ProtocolVersion
    /// Whether packets travel in frames of WebSocket. What is encoded here are the packets; see ``wrapped(_:)``.
    let isWebSocket: Bool

    init(_ version: ProtocolVersion, overWebSocket isWebSocket: Bool = false) {
        self.version = version
        self.isWebSocket = isWebSocket
    }

    /// Packets as they travel.
    func wrapped(_ packets: [UInt8]) -> [UInt8] {
        isWebSocket ? FrameWriter.header(packets.count) + packets : packets
    }

    /// An empty section of properties, where the version has one.
    private var noProperties: [UInt8] { version == .v5 ? [0] : [] }

    /// Bytes between a packet identifier and the payload of a PUBLISH.
    var publishPropertyBytes: Int { version == .v5 ? 1 : 0 }

    func connect(client: String) -> [UInt8] {
        // Protocol name and level, clean session, no keep-alive.
        var body: [UInt8] = [0, 4, 0x4d, 0x51, 0x54, 0x54, version.rawValue, 2, 0, 0]
        body += noProperties
        Self.append(client, to: &body)
        return Self.packet(0x10, body)
    }

    func subscribe(_ filters: [String], qos: Int, packetID: UInt16 = 1) -> [UInt8] {
        var body: [UInt8] = [UInt8(packetID >> 8), UInt8(packetID & 0xff)] + noProperties
        for filter in filters {
            Self.append(filter, to: &body)
            body.append(UInt8(qos))
        }
        return Self.packet(0x82, body)
    }

    func unsubscribe(_ filters: [String], packetID: UInt16) -> [UInt8] {
        var body: [UInt8] = [UInt8(packetID >> 8), UInt8(packetID & 0xff)] + noProperties
        for filter in filters { Self.append(filter, to: &body) }
        return Self.packet(0xa2, body)
    }

    func publish(_ topic: String, payload: [UInt8], packetID: UInt16? = nil, retain: Bool = false) -> [UInt8] {
        var body: [UInt8] = []
        Self.append(topic, to: &body)
        if let packetID { body += [UInt8(packetID >> 8), UInt8(packetID & 0xff)] }
        body += noProperties
        body += payload
        return Self.packet((packetID == nil ? 0x30 : 0x32) | (retain ? 1 : 0), body)
    }

    /// SUBACK: one subscription at QoS 0, granted to packet 1.
    var granted: [UInt8] { Self.packet(0x90, [0, 1] + noProperties + [0]) }

    /// Whether a packet of less than 128 bytes is the SUBACK or UNSUBACK of one filter, and says success.
    func isAnswer(_ packet: UnsafeMutablePointer<UInt8>, _ size: Int) -> Bool {
        let codes = packet[0] == 0x90 || version == .v5 ? 1 : 0
        guard packet[0] == 0x90 || packet[0] == 0xb0, size == 4 + publishPropertyBytes + codes else { return false }
        return codes == 0 || packet[size - 1] < 0x80
    }

    static let pingRequest: [UInt8] = [0xc0, 0]

    private static func append(_ text: String, to body: inout [UInt8]) {
        let bytes = Array(text.utf8)
        body += [UInt8(bytes.count >> 8), UInt8(bytes.count & 0xff)] + bytes
    }

    private static func packet(_ first: UInt8, _ body: [UInt8]) -> [UInt8] {
        var packet: [UInt8] = [first]
        var rest = body.count
        repeat {
            packet.append(UInt8(rest & 0x7f) | (rest > 0x7f ? 0x80 : 0))
            rest >>= 7
        } while rest > 0
        return packet + body
    }
}

/// The payload of every measured event: which publisher, which number. The rest is filler.
enum Stamp {
    /// Sequence number (4), publisher (4), time (8), all little-endian.
    static let size = 16

    static func payload(sequence: Int, source: Int, size: Int, filler: inout Seeded) -> [UInt8] {
        var payload = [UInt8](repeating: 0, count: max(size, Stamp.size))
        for byte in 0..<4 {
            payload[byte] = UInt8(truncatingIfNeeded: sequence >> (8 * byte))
            payload[4 + byte] = UInt8(truncatingIfNeeded: source >> (8 * byte))
        }
        for index in Stamp.size..<max(size, Stamp.size) {
            payload[index] = UInt8(truncatingIfNeeded: filler.next())
        }
        return payload
    }
}

/// Pre-encoded publishes, all of one length, sent again and again in a circle.
struct Block {
    let bytes: UnsafeMutablePointer<UInt8>
    let frames: Int
    let frameSize: Int
    /// Where the payload starts in a frame.
    let payloadOffset: Int
    /// The fixed header as a little-endian word, and which of its bits belong to it.
    let header: UInt32
    let headerMask: UInt32

    /// Encodes `topics.count` messages; `qos` 1 numbers them from 1.
    init(_ encoder: Frames, topics: [String], payload: Int, source: Int, qos: Int) {
        var filler = Seeded(UInt64(source) &+ 77)
        var all: [UInt8] = []
        var size = 0
        for (index, topic) in topics.enumerated() {
            let body = Stamp.payload(sequence: index, source: source, size: payload, filler: &filler)
            let frame = encoder.publish(topic, payload: body, packetID: qos == 0 ? nil : UInt16(index + 1))
            precondition(index == 0 || frame.count == size, "topics of one block have one length")
            size = frame.count
            if index == 0 { all.reserveCapacity(size * topics.count) }
            all += frame
        }
        frames = topics.count
        frameSize = size
        payloadOffset = size - max(payload, Stamp.size)
        bytes = .allocate(capacity: all.count)
        bytes.initialize(from: all, count: all.count)
        let headerSize = all[1] < 0x80 ? 2 : 3
        header = all[..<headerSize].enumerated().reduce(0) { $0 | UInt32($1.element) << (8 * UInt32($1.offset)) }
        headerMask = headerSize == 2 ? 0xffff : 0xff_ffff
    }
}
