import Core

/// One PUBLISH from a client, as it lies in the receive buffer (MQTT 5 §3.3).
struct PublishFrame {
    /// Type and flags.
    var first: UInt8
    /// Bytes of the whole packet.
    var length: Int
    var topic: UnsafeRawPointer
    /// 0 only in MQTT 5, where an alias may stand for the topic.
    var topicLength: Int
    /// 0 at QoS 0.
    var identifier: UInt16
    /// The properties without their length.
    var properties: UnsafeRawPointer
    var propertiesLength: Int
    var payload: UnsafeRawPointer
    var payloadLength: Int

    @inline(__always) var qos: UInt8 { first >> 1 & 3 }

    /// What is at the beginning of some bytes.
    enum Found {
        case frame(PublishFrame)
        /// No complete PUBLISH of a size that is allowed: for the general path to judge.
        case somethingElse
        case malformed
        /// A QoS of 3, an empty topic, or an identifier of 0 (MQTT 5: malformed or a protocol error, by the rule).
        case protocolError
    }

    /// Finds the parts. Every offset is checked against the packet's end; the wrapping operators rely on that.
    @inline(__always)
    static func read(_ base: UnsafeRawPointer, _ count: Int, maxBytes: Int, isVersion5: Bool) -> Found {
        guard count >= 2 else { return .somethingElse }
        let first = base.load(as: UInt8.self)
        guard first & 0xF0 == 0x30 else { return .somethingElse }
        var header = 2
        var remaining = Int(base.load(fromByteOffset: 1, as: UInt8.self))
        if remaining >= 0x80 {
            guard case .packet(let length, let value) = Framing.of(UnsafeRawBufferPointer(start: base, count: count))
            else { return .somethingElse }
            (header, remaining) = (length, value)
            if isVersion5, length > 1 &+ PacketWriter.length(of: value) { return .malformed }
        }
        let length = header &+ remaining
        guard count >= length, length <= maxBytes else { return .somethingElse }
        guard remaining >= 2 else { return .malformed }
        let topic = base + header + 2
        let topicLength = Int(UInt16(bigEndian: base.loadUnaligned(fromByteOffset: header, as: UInt16.self)))
        let qos = first >> 1 & 3
        // Where what follows the topic begins, counted from the fixed header's end.
        var place = 2 &+ topicLength &+ (qos > 0 ? 2 : 0)
        guard place <= remaining, topicLength > 0 || isVersion5, first & 0x0F <= 1 || qos > 0, qos < 3 else {
            return .malformed
        }
        var identifier: UInt16 = 0
        if qos > 0 {
            identifier = UInt16(bigEndian: (topic + topicLength).loadUnaligned(as: UInt16.self))
            guard identifier != 0 else { return isVersion5 ? .protocolError : .malformed }
        }
        var propertiesLength = 0
        if isVersion5 {
            guard place < remaining else { return .malformed }
            propertiesLength = Int(base.load(fromByteOffset: header &+ place, as: UInt8.self))
            place &+= 1
            if propertiesLength >= 0x80 {
                var reader = PacketReader(
                    UnsafeRawBufferPointer(start: base + header + place - 1, count: remaining &- place &+ 1))
                guard let value = try? reader.variableInteger() else { return .malformed }
                propertiesLength = Int(value)
                place &+= reader.offset &- 1
            }
            guard propertiesLength <= remaining &- place else { return .malformed }
        }
        let properties = base + header + place
        return .frame(
            PublishFrame(
                first: first, length: length, topic: topic, topicLength: topicLength, identifier: identifier,
                properties: properties, propertiesLength: propertiesLength, payload: properties + propertiesLength,
                payloadLength: remaining &- place &- propertiesLength))
    }

    /// Whether another packet differs in its payload and identifier alone.
    func isLike(_ other: PublishFrame) -> Bool {
        first == other.first && topicLength == other.topicLength && propertiesLength == other.propertiesLength
            && bytesEqual(topic, other.topic, topicLength)
            && bytesEqual(properties, other.properties, propertiesLength)
    }
}
