import Core

/// Reads the fields of one packet. Every read is checked against what has arrived; nothing is allocated before.
struct PacketReader {
    private let bytes: UnsafeRawBufferPointer
    private(set) var offset = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    var isAtEnd: Bool { offset == bytes.count }
    /// Bytes not read yet.
    var left: Int { bytes.count - offset }

    mutating func byte() throws(MQTTFailure) -> UInt8 {
        guard offset < bytes.count else { throw .malformed }
        defer { offset += 1 }
        return bytes[offset]
    }

    mutating func uint16() throws(MQTTFailure) -> UInt16 {
        let high = try byte()
        return UInt16(high) << 8 | UInt16(try byte())
    }

    mutating func uint32() throws(MQTTFailure) -> UInt32 {
        let high = try uint16()
        return UInt32(high) << 16 | UInt32(try uint16())
    }

    /// A variable byte integer in its shortest form (MQTT 5 §1.5.5).
    mutating func variableInteger() throws(MQTTFailure) -> UInt32 {
        var value: UInt32 = 0
        for shift in stride(from: UInt32(0), to: 28, by: 7) {
            let byte = try byte()
            value |= UInt32(byte & 0x7F) << shift
            guard byte >= 0x80 else {
                if byte == 0, shift > 0 { throw .malformed }
                return value
            }
        }
        throw .malformed
    }

    /// The next `count` bytes.
    mutating func take(_ count: Int) throws(MQTTFailure) -> UnsafeRawBufferPointer {
        guard bytes.count - offset >= count else { throw .malformed }
        defer { offset += count }
        return UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
    }

    /// Bytes with a two-byte length in front (MQTT 5 §1.5.6).
    mutating func binary() throws(MQTTFailure) -> UnsafeRawBufferPointer { try take(Int(try uint16())) }

    /// A UTF-8 string without NUL (MQTT 5 §1.5.4).
    mutating func text() throws(MQTTFailure) -> UnsafeRawBufferPointer {
        let text = try binary()
        guard Topic.isText(text) else { throw .malformed }
        return text
    }

    mutating func string() throws(MQTTFailure) -> String { String(decoding: try text(), as: UTF8.self) }

    /// A packet identifier, which is never 0 (MQTT 5 §2.2.1).
    mutating func packetIdentifier() throws(MQTTFailure) -> UInt16 {
        let identifier = try uint16()
        guard identifier != 0 else { throw .malformed }
        return identifier
    }

    /// A packet's properties: their length, then they (MQTT 5 §2.2.2).
    mutating func properties(_ allowed: PropertySet) throws(MQTTFailure) -> PropertyReader {
        PropertyReader(try take(Int(try variableInteger())), allowed: allowed)
    }
}
