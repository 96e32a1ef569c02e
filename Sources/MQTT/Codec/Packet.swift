/// The words of the wire, common to MQTT 3.1, 3.1.1 and 5.

/// A protocol version, by the level that CONNECT carries.
public enum MQTTVersion: UInt8, Sendable {
    /// MQTT 3.1, as IBM published it.
    case v3_1 = 3
    /// MQTT 3.1.1.
    case v3_1_1 = 4
    /// MQTT 5.0.
    case v5 = 5
}

/// Packet types (MQTT 5 §2.1.2).
enum PacketType: UInt8 {
    case connect = 1
    case connack, publish, puback, pubrec, pubrel, pubcomp, subscribe, suback, unsubscribe, unsuback, pingreq,
        pingresp, disconnect, auth

    /// The flags a packet of this type must have, in the lower four bits; nil where they have a meaning (§2.1.3).
    var requiredFlags: UInt8? {
        switch self {
        case .publish: nil
        case .pubrel, .subscribe, .unsubscribe: 2
        default: 0
        }
    }
}

/// Why bytes were refused.
enum MQTTFailure: Error, Equatable {
    /// Not what the specification allows as bytes.
    case malformed
    /// Bytes in order, but not what may be said here.
    case protocolError
    /// Well-formed, but a protocol this node does not speak (CONNACK 0x01, 0x84).
    case unsupportedVersion
    /// A way of authentication that the node does not offer.
    case badAuthenticationMethod
    /// A topic with wildcards, or none.
    case topicNameInvalid
    /// A payload that is not the text that it claims to be.
    case payloadFormatInvalid
}

/// What the fixed header says of the next packet (MQTT 5 §2.1).
enum Framing: Equatable {
    /// More bytes are needed to say.
    case incomplete
    /// A remaining length of more than four bytes.
    case malformed
    /// Bytes of the fixed header, and of what follows it.
    case packet(header: Int, remaining: Int)

    /// Reads the fixed header at the beginning of `bytes`.
    static func of(_ bytes: UnsafeRawBufferPointer) -> Framing {
        var remaining = 0
        for index in 1..<5 {
            guard index < bytes.count else { return .incomplete }
            let byte = bytes[index]
            remaining |= Int(byte & 0x7F) << (7 * (index - 1))
            if byte < 0x80 { return .packet(header: index + 1, remaining: remaining) }
        }
        return .malformed
    }
}

/// Connect return codes (MQTT 3.1.1 §3.2.2.3).
enum ConnectReturnCode: UInt8 {
    case accepted = 0
    case unacceptableProtocolVersion, identifierRejected, serverUnavailable, badUserNameOrPassword, notAuthorized
}
