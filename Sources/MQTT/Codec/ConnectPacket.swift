import Core

/// CONNECT (MQTT 3.1.1 §3.1, MQTT 5 §3.1).
struct ConnectPacket: Equatable {
    struct Will: Equatable {
        var topic: [UInt8]
        var payload: [UInt8]
        var qos: UInt8
        var isRetained: Bool
        /// Properties that go out with it, as they came.
        var properties: [UInt8] = []
        var delaySeconds: UInt32 = 0
        /// nil for a will that does not expire.
        var expirySeconds: UInt32?
    }

    var version: MQTTVersion
    /// "Clean session" of 3.1.1, "clean start" of 5.
    var isClean: Bool
    var keepAliveSeconds: UInt16
    var clientID: String
    /// Whether the node made the client id.
    var isClientIDAssigned = false
    var will: Will?
    var user: String?
    var password: [UInt8]?
    /// How long the session waits for its client; nil where the version leaves it to the node.
    var sessionExpirySeconds: UInt32?
    var client = ClientLimits()
    var wantsResponseInformation = false
    /// The way to prove who it is, other than a password (MQTT 5 §3.1.2.11.9).
    var authenticationMethod: String?
    /// What it begins with; nil for nothing.
    var authenticationData: [UInt8]?

    /// The protocol level when the packet begins like a CONNECT of any version; read before all else, so that a client
    /// of another version gets an answer it understands.
    static func level(_ bytes: UnsafeRawBufferPointer) throws(MQTTFailure) -> UInt8 {
        var reader = PacketReader(bytes)
        let name = try reader.string()
        let level = try reader.byte()
        switch name {
        // Level 3 goes with the older name alone.
        case "MQTT": return level == 3 ? 0 : level
        case "MQIsdp": return level & 0x7F == 3 ? 3 : 0
        default: throw .malformed
        }
    }

    /// Reads the variable header and payload.
    /// - Parameter limits: bounds of the will's topic.
    init(_ bytes: UnsafeRawBufferPointer, limits: Limits) throws(MQTTFailure) {
        guard let version = MQTTVersion(rawValue: try Self.level(bytes)) else { throw .unsupportedVersion }
        self.version = version
        var reader = PacketReader(bytes)
        _ = try reader.text()
        _ = try reader.byte()
        let flags = try reader.byte()
        keepAliveSeconds = try reader.uint16()
        isClean = flags & 0x02 != 0
        let willQoS = flags >> 3 & 3
        let hasWill = flags & 0x04 != 0
        let hasUser = flags & 0x80 != 0
        let hasPassword = flags & 0x40 != 0
        // A password without a user name is a matter of MQTT 5 (§3.1.2.9).
        guard flags & 1 == 0, willQoS < 3, hasWill || flags & 0x38 == 0, hasUser || !hasPassword || version == .v5
        else { throw .malformed }
        clientID = ""
        if version == .v5 {
            sessionExpirySeconds = 0
            try readProperties(&reader)
        } else if isClean {
            sessionExpirySeconds = 0
        }
        clientID = try reader.string()
        if hasWill { will = try Self.readWill(&reader, version, willQoS, isRetained: flags & 0x20 != 0, limits) }
        if hasUser { user = try reader.string() }
        if hasPassword { password = Array(try reader.binary()) }
        guard reader.isAtEnd else { throw .malformed }
    }

    private mutating func readProperties(_ reader: inout PacketReader) throws(MQTTFailure) {
        var properties = try reader.properties(.connect)
        while let property = try properties.next() {
            switch property.identifier {
            case .sessionExpiry: sessionExpirySeconds = property.number
            case .receiveMaximum: client.receiveMaximum = UInt16(truncatingIfNeeded: property.number)
            case .maximumPacketSize: client.maxPacketBytes = property.number
            case .topicAliasMaximum: client.topicAliasMaximum = UInt16(truncatingIfNeeded: property.number)
            case .requestResponseInformation: wantsResponseInformation = property.number == 1
            case .requestProblemInformation: client.wantsProblemInformation = property.number == 1
            case .authenticationMethod: authenticationMethod = String(decoding: property.bytes, as: UTF8.self)
            case .authenticationData: authenticationData = Array(property.bytes)
            default: break
            }
        }
        guard authenticationMethod != nil || authenticationData == nil else { throw .protocolError }
    }

    private static func readWill(
        _ reader: inout PacketReader, _ version: MQTTVersion, _ qos: UInt8, isRetained: Bool, _ limits: Limits
    ) throws(MQTTFailure) -> Will {
        var will = Will(topic: [], payload: [], qos: qos, isRetained: isRetained)
        var isText = false
        if version == .v5 {
            var properties = try reader.properties(.will)
            while let property = try properties.next() {
                switch property.identifier {
                case .willDelay: will.delaySeconds = property.number
                case .messageExpiry: will.expirySeconds = property.number
                default:
                    if property.identifier == .payloadFormat { isText = property.number == 1 }
                    will.properties += properties.bytes[property.range]
                }
            }
        }
        let topic = try reader.text()
        guard Topic.isValid(topic, limits: limits) else { throw version == .v5 ? .topicNameInvalid : .malformed }
        let payload = try reader.binary()
        if isText, !Topic.isUTF8(payload) { throw .payloadFormatInvalid }
        will.topic = Array(topic)
        will.payload = Array(payload)
        return will
    }
}

/// What a client of MQTT 5 says it can take (§3.1.2.11); the defaults stand for older ones.
struct ClientLimits: Equatable {
    var maxPacketBytes = UInt32.max
    var receiveMaximum = UInt16.max
    var topicAliasMaximum: UInt16 = 0
    /// Whether it wants reason strings where they are not required.
    var wantsProblemInformation = true
}
