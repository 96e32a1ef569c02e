import Core

/// Reads the fields of one packet. Every read is checked against what has arrived; nothing is allocated before.
struct PacketReader {
    private let bytes: UnsafeRawBufferPointer
    private(set) var offset = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    var isAtEnd: Bool { offset == bytes.count }

    mutating func byte() throws(MQTTFailure) -> UInt8 {
        guard offset < bytes.count else { throw .malformed }
        defer { offset += 1 }
        return bytes[offset]
    }

    mutating func uint16() throws(MQTTFailure) -> UInt16 {
        let high = try byte()
        return UInt16(high) << 8 | UInt16(try byte())
    }

    /// Bytes with a two-byte length in front (§1.5.3 and §1.5.6 of MQTT 5).
    mutating func binary() throws(MQTTFailure) -> UnsafeRawBufferPointer {
        let count = Int(try uint16())
        guard bytes.count - offset >= count else { throw .malformed }
        defer { offset += count }
        return UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
    }

    /// A UTF-8 string without NUL (MQTT 3.1.1 §1.5.3).
    mutating func text() throws(MQTTFailure) -> UnsafeRawBufferPointer {
        let text = try binary()
        guard Topic.isText(text) else { throw .malformed }
        return text
    }

    mutating func string() throws(MQTTFailure) -> String { String(decoding: try text(), as: UTF8.self) }

    /// A packet identifier, which is never 0 (§2.3.1).
    mutating func packetIdentifier() throws(MQTTFailure) -> UInt16 {
        let identifier = try uint16()
        guard identifier != 0 else { throw .malformed }
        return identifier
    }
}
