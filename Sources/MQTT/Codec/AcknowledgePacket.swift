/// PUBACK, PUBREC, PUBREL and PUBCOMP (MQTT 5 §3.4 to §3.7).
struct AcknowledgePacket {
    var identifier: UInt16
    /// Whether the sender says that it went wrong.
    var isFailure = false

    private static let publishCodes: Set<UInt8> = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]
    private static let releaseCodes: Set<UInt8> = [0x00, 0x92]

    /// Reads a packet's body.
    init(_ body: UnsafeRawBufferPointer, _ type: PacketType, version: MQTTVersion) throws(MQTTFailure) {
        var reader = PacketReader(body)
        identifier = try reader.packetIdentifier()
        if version == .v5, !reader.isAtEnd {
            let code = try reader.byte()
            let codes = type == .puback || type == .pubrec ? Self.publishCodes : Self.releaseCodes
            guard codes.contains(code) else { throw .protocolError }
            isFailure = code >= 0x80
            if !reader.isAtEnd {
                var properties = try reader.properties(.acknowledgement)
                try properties.skip()
            }
        }
        guard reader.isAtEnd else { throw .malformed }
    }
}

/// AUTH from a client (MQTT 5 §3.15).
struct AuthPacket {
    /// Whether it begins to authenticate anew, and does not answer a challenge.
    var isRenewal: Bool
    var method: String
    /// nil when there is none.
    var data: [UInt8]?

    /// Reads a packet's body.
    init(_ body: UnsafeRawBufferPointer) throws(MQTTFailure) {
        var reader = PacketReader(body)
        // Without a reason it is 0x00, which is a server's (§3.15.2.1).
        switch reader.isAtEnd ? .success : ReasonCode(rawValue: try reader.byte()) {
        case .continueAuthentication: isRenewal = false
        case .reauthenticate: isRenewal = true
        default: throw .protocolError
        }
        var named: String?
        if !reader.isAtEnd {
            var properties = try reader.properties(.auth)
            while let property = try properties.next() {
                switch property.identifier {
                case .authenticationMethod: named = String(decoding: property.bytes, as: UTF8.self)
                case .authenticationData: data = Array(property.bytes)
                default: break
                }
            }
        }
        guard reader.isAtEnd else { throw .malformed }
        guard let named else { throw .protocolError }
        method = named
    }
}

/// DISCONNECT from a client (MQTT 5 §3.14).
struct DisconnectPacket {
    /// Whether the will is to be published although the client says goodbye.
    var keepsWill = false
    var sessionExpirySeconds: UInt32?

    /// What a client may say; the other codes are a server's.
    private static let codes: Set<UInt8> = [
        0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
    ]

    /// Reads a packet's body.
    init(_ body: UnsafeRawBufferPointer, version: MQTTVersion) throws(MQTTFailure) {
        var reader = PacketReader(body)
        if version == .v5, !reader.isAtEnd {
            let code = try reader.byte()
            guard Self.codes.contains(code) else { throw .protocolError }
            keepsWill = code != 0
            if !reader.isAtEnd {
                var properties = try reader.properties(.disconnect)
                while let property = try properties.next() {
                    if property.identifier == .sessionExpiry { sessionExpirySeconds = property.number }
                }
            }
        }
        guard reader.isAtEnd else { throw .malformed }
    }
}
