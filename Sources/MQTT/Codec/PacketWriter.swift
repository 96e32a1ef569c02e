import Core

/// Packets that the node sends, written straight into a connection's output: what all versions share, and what only
/// 3.1 and 3.1.1 have. `+V5` has the rest.
enum PacketWriter {
    /// CONNACK of 3.1 and 3.1.1 (§3.2).
    static func connack(_ code: ConnectReturnCode, sessionPresent: Bool, to output: Output) {
        output.packets &+= 1
        bytes([0x20, 2, sessionPresent ? 1 : 0, code.rawValue], to: output)
    }

    /// PUBACK, PUBREC, PUBREL and PUBCOMP that say nothing but success, and UNSUBACK of 3.1 and 3.1.1: a packet
    /// identifier alone.
    @inline(__always)
    static func acknowledge(_ firstByte: UInt8, _ identifier: UInt16, to output: Output) {
        let place = output.reserve(4)
        // Little-endian machine: the first byte on the wire is the lowest.
        let word = UInt32(firstByte) | 2 << 8 | UInt32(identifier.byteSwapped) << 16
        place.storeBytes(of: word, as: UInt32.self)
        output.cursor = place + 4
        output.packets &+= 1
    }

    /// PINGRESP (§3.13).
    static func pingresp(to output: Output) {
        let place = output.reserve(2)
        place.storeBytes(of: 0xD0, as: UInt16.self)
        output.cursor = place + 2
        output.packets &+= 1
    }

    /// SUBACK of 3.1 and 3.1.1 (§3.9).
    static func suback(_ identifier: UInt16, _ codes: [UInt8], to output: Output) {
        output.packets &+= 1
        header(0x90, remaining: codes.count + 2, to: output)
        uint16(identifier, to: output)
        bytes(codes, to: output)
    }

    /// PUBLISH of 3.1 and 3.1.1 (§3.3).
    /// - Parameters:
    ///   - firstByte: type and flags; at a QoS above 0 `identifier` is written.
    /// - Returns: bytes of the packet.
    @inline(__always)
    @discardableResult
    static func publish(_ firstByte: UInt8, _ parts: PublishParts, identifier: UInt16, to output: Output) -> Int {
        let hasIdentifier = firstByte & 0x06 != 0
        let remaining = 2 &+ parts.topicLength &+ (hasIdentifier ? 2 : 0) &+ parts.payloadLength
        header(firstByte, remaining: remaining, to: output)
        uint16(UInt16(truncatingIfNeeded: parts.topicLength), to: output)
        output.append(parts.topic, parts.topicLength)
        if hasIdentifier { uint16(identifier, to: output) }
        output.append(parts.payload, parts.payloadLength)
        return 1 &+ length(of: remaining) &+ remaining
    }

    // MARK: Pieces

    @inline(__always)
    static func header(_ firstByte: UInt8, remaining: Int, to output: Output) {
        let place = output.reserve(5)
        place.storeBytes(of: firstByte, as: UInt8.self)
        output.cursor = store(remaining, at: place + 1)
    }

    /// Writes a variable byte integer.
    /// - Returns: the place behind it.
    @inline(__always)
    static func store(_ value: Int, at place: UnsafeMutableRawPointer) -> UnsafeMutableRawPointer {
        var left = value
        var place = place
        while left >= 0x80 {
            place.storeBytes(of: UInt8(truncatingIfNeeded: left) | 0x80, as: UInt8.self)
            left >>= 7
            place += 1
        }
        place.storeBytes(of: UInt8(truncatingIfNeeded: left), as: UInt8.self)
        return place + 1
    }

    @inline(__always)
    static func uint16(_ value: UInt16, to output: Output) {
        let place = output.reserve(2)
        place.storeBytes(of: value.bigEndian, as: UInt16.self)
        output.cursor = place + 2
    }

    static func bytes(_ bytes: [UInt8], to output: Output) {
        bytes.withUnsafeBytes { bytes in
            if let base = bytes.baseAddress { output.append(base, bytes.count) }
        }
    }
}

/// Where the parts of an event lie that is being sent.
struct PublishParts {
    var topic: UnsafeRawPointer
    var topicLength: Int
    var properties: UnsafeRawPointer
    var propertiesLength: Int
    var payload: UnsafeRawPointer
    var payloadLength: Int
    /// In the lane's milliseconds; 0 for never.
    var expiresAt: UInt64

    /// The parts of an owned event, valid while it is.
    init(_ event: Event) {
        topic = event.bytes
        topicLength = event.topicLength
        properties = topic + topicLength
        propertiesLength = event.propertiesLength - Int(event.extensionLength)
        payload = properties + event.propertiesLength
        payloadLength = event.payloadLength
        expiresAt = event.expiresAt
    }

    /// The parts of one event of a run.
    @inline(__always)
    init(_ run: UnsafePointer<EventRun>, _ view: EventView) {
        topic = run.pointee.topic
        topicLength = run.pointee.topicLength
        properties = run.pointee.properties
        propertiesLength = run.pointee.propertiesLength &- Int(run.pointee.extensionLength)
        payload = view.payload
        payloadLength = Int(view.payloadLength)
        expiresAt = run.pointee.expiresAt
    }
}
