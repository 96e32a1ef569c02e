/// The other half of the codec, as a client has it: packets to send, and what a node answers. Written from the
/// specification, not from the node's own codec.

/// Packets that a client sends.
enum Frame {
    struct Will {
        var topic = "will"
        var payload: [UInt8] = Array("gone".utf8)
        var qos: UInt8 = 0
        var isRetained = false
    }

    /// CONNECT (§3.1).
    static func connect(
        _ clientID: String, clean: Bool = true, keepAlive: UInt16 = 0, will: Will? = nil, user: String? = nil,
        password: String? = nil, name: String = "MQTT", level: UInt8 = 4
    ) -> [UInt8] {
        var flags: UInt8 = clean ? 2 : 0
        if let will { flags |= 4 | will.qos << 3 | (will.isRetained ? 0x20 : 0) }
        if user != nil { flags |= 0x80 }
        if password != nil { flags |= 0x40 }
        var body = text(name) + [level, flags] + uint16(keepAlive) + text(clientID)
        if let will { body += text(will.topic) + binary(will.payload) }
        if let user { body += text(user) }
        if let password { body += text(password) }
        return packet(0x10, body)
    }

    /// PUBLISH (§3.3).
    static func publish(
        _ topic: String, _ payload: [UInt8], qos: UInt8 = 0, id: UInt16 = 0, retain: Bool = false, dup: Bool = false
    ) -> [UInt8] {
        let first = 0x30 | qos << 1 | (retain ? 1 : 0) | (dup ? 8 : 0)
        return packet(first, text(topic) + (qos > 0 ? uint16(id) : []) + payload)
    }

    static func publish(
        _ topic: String, _ payload: String, qos: UInt8 = 0, id: UInt16 = 0, retain: Bool = false, dup: Bool = false
    ) -> [UInt8] {
        publish(topic, Array(payload.utf8), qos: qos, id: id, retain: retain, dup: dup)
    }

    static func puback(_ id: UInt16) -> [UInt8] { packet(0x40, uint16(id)) }
    static func pubrec(_ id: UInt16) -> [UInt8] { packet(0x50, uint16(id)) }
    static func pubrel(_ id: UInt16) -> [UInt8] { packet(0x62, uint16(id)) }
    static func pubcomp(_ id: UInt16) -> [UInt8] { packet(0x70, uint16(id)) }
    static let pingreq: [UInt8] = [0xC0, 0]
    static let disconnect: [UInt8] = [0xE0, 0]

    /// SUBSCRIBE (§3.8).
    static func subscribe(_ id: UInt16, _ entries: [(filter: String, qos: UInt8)]) -> [UInt8] {
        packet(0x82, uint16(id) + entries.flatMap { text($0.filter) + [$0.qos] })
    }

    /// UNSUBSCRIBE (§3.10).
    static func unsubscribe(_ id: UInt16, _ filters: [String]) -> [UInt8] {
        packet(0xA2, uint16(id) + filters.flatMap { text($0) })
    }

    /// A fixed header in front of anything.
    static func packet(_ first: UInt8, _ body: [UInt8]) -> [UInt8] { [first] + length(body.count) + body }

    /// The remaining length (§2.2.3).
    static func length(_ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        var left = count
        repeat {
            let digit = UInt8(left % 128)
            left /= 128
            bytes.append(left > 0 ? digit | 0x80 : digit)
        } while left > 0
        return bytes
    }

    static func uint16(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 0xFF)] }
    static func text(_ text: String) -> [UInt8] { binary(Array(text.utf8)) }
    static func binary(_ bytes: [UInt8]) -> [UInt8] { uint16(UInt16(bytes.count)) + bytes }
}

/// Packets that a node sends.
enum Answer: Equatable {
    struct Publish: Equatable {
        var topic: String
        var payload: [UInt8]
        var qos: UInt8 = 0
        var id: UInt16 = 0
        var retain = false
        var dup = false

        var text: String { String(decoding: payload, as: UTF8.self) }
    }

    case connack(present: Bool, code: UInt8)
    case publish(Publish)
    case puback(UInt16)
    case pubrec(UInt16)
    case pubrel(UInt16)
    case pubcomp(UInt16)
    case suback(UInt16, [UInt8])
    case unsuback(UInt16)
    case pingresp
    /// Anything else, as it came.
    case other([UInt8])

    static func event(
        _ topic: String, _ payload: String, qos: UInt8 = 0, id: UInt16 = 0, retain: Bool = false, dup: Bool = false
    ) -> Answer {
        .publish(
            Publish(topic: topic, payload: Array(payload.utf8), qos: qos, id: id, retain: retain, dup: dup))
    }

    /// Takes all complete packets off the front of `bytes`.
    static func takeAll(_ bytes: inout [UInt8]) -> [Answer] {
        var answers: [Answer] = []
        var start = 0
        while let (header, remaining) = frame(bytes[start...]), bytes.count - start >= header + remaining {
            let whole = bytes[start..<start + header + remaining]
            answers.append(read(whole[start], Array(whole.dropFirst(header))) ?? .other(Array(whole)))
            start += header + remaining
        }
        bytes.removeFirst(start)
        return answers
    }

    private static func frame(_ bytes: ArraySlice<UInt8>) -> (header: Int, remaining: Int)? {
        var remaining = 0
        for (index, byte) in bytes.dropFirst().prefix(4).enumerated() {
            remaining += Int(byte & 0x7F) << (7 * index)
            if byte < 0x80 { return (index + 2, remaining) }
        }
        return nil
    }

    private static func read(_ first: UInt8, _ body: [UInt8]) -> Answer? {
        if first & 0xF0 == 0x30 { return readPublish(first, body) }
        if first == 0xD0 { return body.isEmpty ? .pingresp : nil }
        guard body.count >= 2 else { return nil }
        let id = UInt16(body[0]) << 8 | UInt16(body[1])
        switch first {
        case 0x20 where body.count == 2 && body[0] < 2: return .connack(present: body[0] == 1, code: body[1])
        case 0x90: return .suback(id, Array(body[2...]))
        case 0x40 where body.count == 2: return .puback(id)
        case 0x50 where body.count == 2: return .pubrec(id)
        case 0x62 where body.count == 2: return .pubrel(id)
        case 0x70 where body.count == 2: return .pubcomp(id)
        case 0xB0 where body.count == 2: return .unsuback(id)
        default: return nil
        }
    }

    private static func readPublish(_ first: UInt8, _ body: [UInt8]) -> Answer? {
        let qos = first >> 1 & 3
        guard body.count >= 2 else { return nil }
        let topicEnd = 2 + (Int(body[0]) << 8 | Int(body[1]))
        let start = topicEnd + (qos > 0 ? 2 : 0)
        guard start <= body.count, qos < 3, let topic = String(validating: body[2..<topicEnd], as: UTF8.self)
        else { return nil }
        let id = qos > 0 ? UInt16(body[topicEnd]) << 8 | UInt16(body[topicEnd + 1]) : 0
        return .publish(
            Publish(
                topic: topic, payload: Array(body[start...]), qos: qos, id: id, retain: first & 1 == 1,
                dup: first & 8 == 8))
    }
}
