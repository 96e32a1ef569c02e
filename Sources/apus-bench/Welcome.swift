/// CONNACK, as far as a load generator has to respect what the broker says.
struct Welcome {
    /// Publishes at QoS 1 that may be unacknowledged.
    private(set) var receiveMaximum = 65_535

    /// Reads a whole packet; a refusal is an error.
    init(_ packet: [UInt8], _ version: ProtocolVersion) throws {
        guard packet.count >= 4, packet[0] == 0x20, packet[1] < 0x80, packet[3] == 0 else {
            throw Failure("connection refused: \(packet)")
        }
        guard version == .v5 else {
            guard packet.count == 4 else { throw Failure("not a CONNACK: \(packet)") }
            return
        }
        guard packet.count > 4, packet[4] < 0x80, packet.count == 5 + Int(packet[4]) else {
            throw Failure("not a CONNACK of MQTT 5: \(packet)")
        }
        var rest = packet[5...]
        while let identifier = rest.first {
            guard let size = Self.size(of: identifier, rest.dropFirst()), rest.count > size else {
                throw Failure("CONNACK has a property that does not belong there: \(packet)")
            }
            if identifier == 0x21 {
                receiveMaximum = Int(rest[rest.startIndex + 1]) << 8 | Int(rest[rest.startIndex + 2])
            }
            rest = rest.dropFirst(1 + size)
        }
    }

    /// Bytes of a property's value, by its identifier; nil for what no CONNACK has (MQTT 5 §3.2.2.3).
    private static func size(of identifier: UInt8, _ value: ArraySlice<UInt8>) -> Int? {
        func text(at offset: Int) -> Int? {
            let start = value.startIndex + offset
            guard start + 1 < value.endIndex else { return nil }
            return 2 + (Int(value[start]) << 8 | Int(value[start + 1]))
        }
        switch identifier {
        case 0x24, 0x25, 0x28, 0x29, 0x2a: return 1
        case 0x13, 0x21, 0x22: return 2
        case 0x11, 0x27: return 4
        case 0x12, 0x15, 0x16, 0x1a, 0x1c, 0x1f: return text(at: 0)
        case 0x26:
            guard let key = text(at: 0), let value = text(at: key) else { return nil }
            return key + value
        default: return nil
        }
    }
}
