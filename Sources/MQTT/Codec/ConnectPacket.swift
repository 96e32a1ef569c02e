import Core

/// CONNECT (MQTT 3.1.1 §3.1), in the versions that share its layout.
struct ConnectPacket: Equatable {
    struct Will: Equatable {
        var topic: [UInt8]
        var payload: [UInt8]
        var qos: UInt8
        var isRetained: Bool
    }

    var version: MQTTVersion
    var isClean: Bool
    var keepAliveSeconds: UInt16
    var clientID: String
    var will: Will?
    var user: String?
    var password: [UInt8]?

    /// The protocol level when the packet begins like a CONNECT of any version; read before all else, so that a client
    /// of another version gets an answer it understands.
    static func level(_ bytes: UnsafeRawBufferPointer) throws(MQTTFailure) -> UInt8 {
        var reader = PacketReader(bytes)
        let name = try reader.string()
        let level = try reader.byte()
        switch name {
        case "MQTT": return level
        case "MQIsdp": return level & 0x7F == 3 ? 3 : 0
        default: throw .malformed
        }
    }

    /// Reads the variable header and payload.
    /// - Parameter limits: bounds of the will's topic.
    init(_ bytes: UnsafeRawBufferPointer, limits: Limits) throws(MQTTFailure) {
        guard let version = MQTTVersion(rawValue: try Self.level(bytes)), version != .v5 else {
            throw .unsupportedVersion
        }
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
        guard flags & 1 == 0, willQoS < 3, hasWill || flags & 0x38 == 0, hasUser || !hasPassword else {
            throw .malformed
        }
        clientID = try reader.string()
        if hasWill {
            let topic = Array(try reader.text())
            guard topic.withUnsafeBytes({ Topic.isValid($0, limits: limits) }) else { throw .malformed }
            will = Will(
                topic: topic, payload: Array(try reader.binary()), qos: willQoS, isRetained: flags & 0x20 != 0)
        }
        if hasUser { user = try reader.string() }
        if hasPassword { password = Array(try reader.binary()) }
        guard reader.isAtEnd else { throw .malformed }
    }
}
