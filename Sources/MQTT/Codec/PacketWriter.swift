import Core

/// Packets that the node sends, written straight into a connection's output.
enum PacketWriter {
    /// CONNACK (§3.2).
    static func connack(_ code: ConnectReturnCode, sessionPresent: Bool, to output: Output) {
        write4(0x20, 2, sessionPresent ? 1 : 0, code.rawValue, to: output)
    }

    /// The answer to a CONNECT of MQTT 5 while that version is not spoken: reason 0x84, no properties.
    static func connackUnsupportedV5(to output: Output) {
        write4(0x20, 3, 0, 0x84, to: output)
        writeByte(0, to: output)
    }

    /// PUBACK, PUBREC, PUBREL, PUBCOMP and UNSUBACK: a packet identifier alone.
    @inline(__always)
    static func acknowledge(_ firstByte: UInt8, _ identifier: UInt16, to output: Output) {
        let place = output.reserve(4)
        // Little-endian machine: the first byte on the wire is the lowest.
        let word = UInt32(firstByte) | 2 << 8 | UInt32(identifier.byteSwapped) << 16
        place.storeBytes(of: word, as: UInt32.self)
        output.cursor = place + 4
    }

    /// PINGRESP (§3.13).
    static func pingresp(to output: Output) {
        let place = output.reserve(2)
        place.storeBytes(of: 0xD0, as: UInt16.self)
        output.cursor = place + 2
    }

    /// SUBACK (§3.9).
    static func suback(_ identifier: UInt16, _ codes: [UInt8], to output: Output) {
        header(0x90, remaining: codes.count + 2, to: output)
        writeByte(UInt8(identifier >> 8), to: output)
        writeByte(UInt8(identifier & 0xFF), to: output)
        codes.withUnsafeBytes { bytes in
            if let base = bytes.baseAddress { output.append(base, bytes.count) }
        }
    }

    /// PUBLISH (§3.3).
    /// - Parameters:
    ///   - firstByte: type and flags; at a QoS above 0 `identifier` is written.
    @inline(__always)
    static func publish(
        _ firstByte: UInt8, topic: UnsafeRawPointer, topicLength: Int, identifier: UInt16, payload: UnsafeRawPointer,
        payloadLength: Int, to output: Output
    ) {
        let hasIdentifier = firstByte & 0x06 != 0
        header(firstByte, remaining: 2 + topicLength + (hasIdentifier ? 2 : 0) + payloadLength, to: output)
        writeUInt16(UInt16(truncatingIfNeeded: topicLength), to: output)
        output.append(topic, topicLength)
        if hasIdentifier { writeUInt16(identifier, to: output) }
        output.append(payload, payloadLength)
    }

    @inline(__always)
    private static func header(_ firstByte: UInt8, remaining: Int, to output: Output) {
        let place = output.reserve(5)
        place.storeBytes(of: firstByte, as: UInt8.self)
        var left = remaining
        var offset = 1
        while left >= 0x80 {
            place.storeBytes(of: UInt8(truncatingIfNeeded: left) | 0x80, toByteOffset: offset, as: UInt8.self)
            left >>= 7
            offset &+= 1
        }
        place.storeBytes(of: UInt8(truncatingIfNeeded: left), toByteOffset: offset, as: UInt8.self)
        output.cursor = place + offset + 1
    }

    @inline(__always)
    private static func writeUInt16(_ value: UInt16, to output: Output) {
        let place = output.reserve(2)
        place.storeBytes(of: value.bigEndian, as: UInt16.self)
        output.cursor = place + 2
    }

    private static func writeByte(_ value: UInt8, to output: Output) {
        let place = output.reserve(1)
        place.storeBytes(of: value, as: UInt8.self)
        output.cursor = place + 1
    }

    private static func write4(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8, to output: Output) {
        let place = output.reserve(4)
        place.storeBytes(
            of: UInt32(a) | UInt32(b) << 8 | UInt32(c) << 16 | UInt32(d) << 24, as: UInt32.self)
        output.cursor = place + 4
    }
}
