import Core

/// What MQTT 5 adds to the packets that the node sends: reason codes and properties.
extension PacketWriter {
    /// Properties being put together; small, and never for an event.
    struct Properties {
        private(set) var bytes: [UInt8] = []

        mutating func add(_ identifier: PropertyID, uint16 value: UInt16) {
            bytes += [identifier.rawValue, UInt8(value >> 8), UInt8(value & 0xFF)]
        }

        mutating func add(_ identifier: PropertyID, uint32 value: UInt32) {
            bytes.append(identifier.rawValue)
            for shift in [24, 16, 8, 0] { bytes.append(UInt8(truncatingIfNeeded: value >> UInt32(shift))) }
        }

        mutating func add(_ identifier: PropertyID, text: String) {
            let text = Array(text.utf8.prefix(Int(UInt16.max)))
            bytes += [identifier.rawValue, UInt8(text.count >> 8), UInt8(text.count & 0xFF)] + text
        }

        /// The bytes are those of a field with a length of two bytes, hence at most 65,535.
        mutating func add(_ identifier: PropertyID, binary: [UInt8]) {
            bytes += [identifier.rawValue, UInt8(binary.count >> 8 & 0xFF), UInt8(binary.count & 0xFF)] + binary
        }

        /// With the length in front.
        var encoded: [UInt8] { variableInteger(bytes.count) + bytes }
    }

    static func variableInteger(_ value: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        var left = value
        while left >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: left) | 0x80)
            left >>= 7
        }
        return bytes + [UInt8(truncatingIfNeeded: left)]
    }

    /// Bytes that a variable byte integer takes.
    @inline(__always)
    static func length(of value: Int) -> Int { value < 0x80 ? 1 : value < 0x4000 ? 2 : value < 0x20_0000 ? 3 : 4 }

    /// CONNACK (MQTT 5 §3.2).
    /// - Returns: false when the client does not take packets of this size; nothing is written then.
    static func connack5(
        _ code: ReasonCode, sessionPresent: Bool, _ properties: Properties, _ client: ClientLimits, to output: Output
    ) -> Bool {
        packet(0x20, [sessionPresent ? 1 : 0, code.rawValue] + properties.encoded, client, to: output)
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP with a reason code (MQTT 5 §3.4).
    @inline(never)
    static func acknowledge5(
        _ firstByte: UInt8, _ identifier: UInt16, _ code: ReasonCode, _ client: ClientLimits, to output: Output
    ) {
        let start = [UInt8(identifier >> 8), UInt8(identifier & 0xFF), code.rawValue]
        let reason = explanation(code, after: start.count, client, isOptional: true)
        _ = packet(firstByte, start + reason, client, to: output)
    }

    /// Whether the client takes a SUBACK or UNSUBACK with so many codes.
    static func fitsSuback5(_ count: Int, _ client: ClientLimits) -> Bool {
        1 + length(of: count + 3) + count + 3 <= Int(client.maxPacketBytes)
    }

    /// SUBACK and UNSUBACK (MQTT 5 §3.9, §3.11); the reason string is that of the first failure.
    static func suback5(
        _ firstByte: UInt8, _ identifier: UInt16, _ codes: [ReasonCode], text: String? = nil, _ client: ClientLimits,
        to output: Output
    ) {
        let start = [UInt8(identifier >> 8), UInt8(identifier & 0xFF)]
        let failure = codes.first { $0.rawValue >= 0x80 } ?? .success
        let reason = explanation(
            failure, text: failure == .implementationSpecificError ? text : nil, after: start.count + codes.count,
            client, isOptional: false)
        _ = packet(firstByte, start + reason + codes.map(\.rawValue), client, to: output)
    }

    /// AUTH (MQTT 5 §3.15).
    /// - Parameter data: nil for none.
    /// - Returns: false when the client does not take packets of this size; nothing is written then.
    static func auth5(
        _ code: ReasonCode, _ method: String, _ data: [UInt8]?, _ client: ClientLimits, to output: Output
    ) -> Bool {
        var properties = Properties()
        properties.add(.authenticationMethod, text: method)
        if let data {
            guard data.count <= UInt16.max else { return false }
            properties.add(.authenticationData, binary: data)
        }
        return packet(0xF0, [code.rawValue] + properties.encoded, client, to: output)
    }

    /// DISCONNECT (MQTT 5 §3.14).
    /// - Parameter text: the reason string, where it is not the code's.
    static func disconnect5(_ code: ReasonCode, text: String? = nil, _ client: ClientLimits, to output: Output) {
        var known = client
        // The switch does not apply to DISCONNECT (§3.1.2.11.7).
        known.wantsProblemInformation = true
        let reason = explanation(code, text: text, after: 1, known, isOptional: true)
        _ = packet(0xE0, [code.rawValue] + reason, client, to: output)
    }

    /// The properties that explain a failure: none where the client does not want them, or where they would make the
    /// packet larger than it takes (§3.4.2.2.2).
    /// - Parameter isOptional: whether the packet may end before its properties when there are none.
    private static func explanation(
        _ code: ReasonCode, text: String? = nil, after start: Int, _ client: ClientLimits, isOptional: Bool
    ) -> [UInt8] {
        let nothing: [UInt8] = isOptional ? [] : [0]
        guard code.rawValue >= 0x80, client.wantsProblemInformation else { return nothing }
        var properties = Properties()
        properties.add(.reasonString, text: text ?? code.text)
        let encoded = properties.encoded
        return start + encoded.count + 5 <= Int(client.maxPacketBytes) ? encoded : nothing
    }

    /// Writes a packet unless it is larger than the client takes (§3.1.2.11.4).
    private static func packet(
        _ firstByte: UInt8, _ body: [UInt8], _ client: ClientLimits, to output: Output
    ) -> Bool {
        guard 1 + length(of: body.count) + body.count <= Int(client.maxPacketBytes) else { return false }
        output.packets &+= 1
        header(firstByte, remaining: body.count, to: output)
        bytes(body, to: output)
        return true
    }

    // MARK: PUBLISH

    /// What a PUBLISH has beside the event's own properties.
    struct Extras {
        /// Seconds left; nil for an event that does not expire.
        var expirySeconds: UInt32?
        /// 0 for none.
        var alias: UInt16 = 0
        /// Whether the alias is known to the client, so that the topic stays away.
        var isAliasKnown = false
        var identifiers = UnsafeBufferPointer<UInt32>(start: nil, count: 0)

        /// Bytes they take.
        var length: Int {
            var length = (expirySeconds == nil ? 0 : 5) + (alias == 0 ? 0 : 3)
            for identifier in identifiers { length += 1 + PacketWriter.length(of: Int(identifier)) }
            return length
        }
    }

    /// Bytes of a whole PUBLISH, as a maximum packet size counts them (MQTT 5 §3.1.2.11.4).
    static func publishLength5(_ firstByte: UInt8, _ parts: PublishParts, _ extras: Extras) -> Int {
        let properties = parts.propertiesLength + extras.length
        let remaining =
            2 + parts.topicLength + (firstByte & 0x06 != 0 ? 2 : 0) + length(of: properties) + properties
            + parts.payloadLength
        return 1 + length(of: remaining) + remaining
    }

    /// PUBLISH of MQTT 5 (§3.3).
    /// - Returns: bytes of the packet.
    @inline(__always)
    @discardableResult
    static func publish5(
        _ firstByte: UInt8, _ parts: PublishParts, identifier: UInt16, _ extras: Extras, to output: Output
    ) -> Int {
        let hasIdentifier = firstByte & 0x06 != 0
        let properties = parts.propertiesLength &+ extras.length
        let topicLength = extras.isAliasKnown ? 0 : parts.topicLength
        let remaining =
            2 &+ topicLength &+ (hasIdentifier ? 2 : 0) &+ length(of: properties) &+ properties &+ parts.payloadLength
        header(firstByte, remaining: remaining, to: output)
        uint16(UInt16(truncatingIfNeeded: topicLength), to: output)
        output.append(parts.topic, topicLength)
        if hasIdentifier { uint16(identifier, to: output) }
        output.cursor = store(properties, at: output.reserve(4))
        if properties > parts.propertiesLength { write(extras, to: output) }
        output.append(parts.properties, parts.propertiesLength)
        output.append(parts.payload, parts.payloadLength)
        return 1 &+ length(of: remaining) &+ remaining
    }

    @inline(never)
    private static func write(_ extras: Extras, to output: Output) {
        if let seconds = extras.expirySeconds {
            let place = output.reserve(5)
            place.storeBytes(of: PropertyID.messageExpiry.rawValue, as: UInt8.self)
            (place + 1).storeBytes(of: seconds.bigEndian, as: UInt32.self)
            output.cursor = place + 5
        }
        if extras.alias != 0 {
            let place = output.reserve(3)
            place.storeBytes(of: PropertyID.topicAlias.rawValue, as: UInt8.self)
            (place + 1).storeBytes(of: extras.alias.bigEndian, as: UInt16.self)
            output.cursor = place + 3
        }
        for identifier in extras.identifiers {
            let place = output.reserve(5)
            place.storeBytes(of: PropertyID.subscriptionIdentifier.rawValue, as: UInt8.self)
            output.cursor = store(Int(identifier), at: place + 1)
        }
    }
}
