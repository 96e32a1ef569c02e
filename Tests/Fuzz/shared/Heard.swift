/// What a client hears from the node, held against the specification; written from it, not from the node's codec.
struct Heard {
    /// Known from the CONNACK on, which only MQTT 5 makes longer than two bytes.
    private(set) var version: Int?
    /// The largest PUBLISH the client takes.
    var maxPublish = Int.max
    private var unread: [UInt8] = []

    /// Takes bytes of the node; what is no packet of the version, or half a one, ends the run.
    mutating func take(_ bytes: [UInt8]) {
        unread += bytes
        while unread.count >= 2 {
            var reader = Reader(unread[1...])
            guard let remaining = reader.variable(), reader.rest.count >= remaining else { break }
            let size = 1 + unread[1...].count - reader.rest.count + remaining
            let packet = Array(unread.prefix(size))
            if version == nil {
                // An exchange of authentication, which MQTT 5 alone has, comes before CONNACK.
                precondition([0x20, 0xF0].contains(packet[0]), "the first packet is no CONNACK: \(packet)")
                version = packet[0] == 0x20 && remaining == 2 ? 4 : 5
            }
            if version == 5 { check5(packet, Array(packet.suffix(remaining))) } else { check3(packet) }
            unread.removeFirst(size)
        }
        precondition(unread.isEmpty, "half a packet: \(unread)")
    }

    private func check3(_ packet: [UInt8]) {
        var bytes = packet
        for answer in Answer.takeAll(&bytes) {
            switch answer {
            case .other(let bytes): preconditionFailure("not MQTT: \(bytes)")
            case .publish(let event):
                precondition((event.qos > 0) == (event.id > 0), "\(event)")
                precondition(!event.topic.isEmpty && !event.topic.contains { "+#\0".contains($0) }, "\(event)")
            case .suback(let id, let codes):
                precondition(id != 0 && !codes.isEmpty && codes.allSatisfy { $0 < 3 || $0 == 0x80 })
            default: break
            }
        }
    }

    private func check5(_ packet: [UInt8], _ body: [UInt8]) {
        var reader = Reader(body[...])
        let isRight =
            switch packet[0] {
            case 0x20: connack(&reader)
            case 0x30...0x3F: publish(packet[0], &reader) && packet.count <= maxPublish
            case 0x40, 0x50: acknowledgement(&reader, [0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99])
            case 0x62, 0x70: acknowledgement(&reader, [0, 0x92])
            case 0x90: list(&reader, [0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2])
            case 0xB0: list(&reader, [0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91])
            case 0xD0: body.isEmpty
            case 0xE0: disconnect(&reader)
            case 0xF0: auth(&reader)
            default: false
            }
        precondition(isRight, "not MQTT 5: \(packet)")
    }

    private func connack(_ reader: inout Reader) -> Bool {
        guard let flags = reader.byte(), let code = reader.byte(), flags == 0 || flags == 1 && code == 0 else {
            return false
        }
        let allowed: Set<UInt8> = [
            0x11, 0x21, 0x24, 0x25, 0x27, 0x12, 0x22, 0x1F, 0x26, 0x28, 0x29, 0x2A, 0x13, 0x1A, 0x1C, 0x15, 0x16,
        ]
        return (code == 0 || code >= 0x80) && reader.properties(allowed) != nil && reader.rest.isEmpty
    }

    private func publish(_ first: UInt8, _ reader: inout Reader) -> Bool {
        let qos = first >> 1 & 3
        guard qos < 3, qos > 0 || first & 8 == 0, let topic = reader.text(),
            String(validating: topic, as: UTF8.self) != nil, !topic.contains(where: { [0, 0x23, 0x2B].contains($0) })
        else { return false }
        if qos > 0 { guard let id = reader.two(), id != 0 else { return false } }
        guard let found = reader.properties([0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x23, 0x26]) else { return false }
        return !topic.isEmpty || found.contains(0x23)
    }

    private func acknowledgement(_ reader: inout Reader, _ codes: Set<UInt8>) -> Bool {
        guard let id = reader.two(), id != 0 else { return false }
        if reader.rest.isEmpty { return true }
        guard let code = reader.byte(), codes.contains(code) else { return false }
        return reader.rest.isEmpty || reader.properties([0x1F, 0x26]) != nil && reader.rest.isEmpty
    }

    private func list(_ reader: inout Reader, _ codes: Set<UInt8>) -> Bool {
        guard let id = reader.two(), id != 0, reader.properties([0x1F, 0x26]) != nil else { return false }
        return !reader.rest.isEmpty && reader.rest.allSatisfy { codes.contains($0) }
    }

    private func auth(_ reader: inout Reader) -> Bool {
        guard let code = reader.byte(), [0, 0x18].contains(code) else { return false }
        return reader.properties([0x15, 0x16]) != nil && reader.rest.isEmpty
    }

    private func disconnect(_ reader: inout Reader) -> Bool {
        // The node has nothing to say but why it closes.
        guard let code = reader.byte(), code >= 0x80 else { return false }
        return reader.rest.isEmpty || reader.properties([0x1F, 0x1C, 0x26]) != nil && reader.rest.isEmpty
    }

    /// Fields of a packet; nil where there are none.
    private struct Reader {
        var rest: ArraySlice<UInt8>

        init(_ bytes: ArraySlice<UInt8>) { rest = bytes }

        mutating func byte() -> UInt8? { rest.popFirst() }

        mutating func two() -> Int? {
            guard let high = byte(), let low = byte() else { return nil }
            return Int(high) << 8 | Int(low)
        }

        mutating func take(_ count: Int) -> ArraySlice<UInt8>? {
            guard rest.count >= count else { return nil }
            defer { rest = rest.dropFirst(count) }
            return rest.prefix(count)
        }

        mutating func text() -> ArraySlice<UInt8>? { two().flatMap { take($0) } }

        mutating func variable() -> Int? {
            var value = 0
            for shift in [0, 7, 14, 21] {
                guard let next = byte() else { return nil }
                value |= Int(next & 0x7F) << shift
                if next < 0x80 { return value }
            }
            return nil
        }

        /// The identifiers in a section of properties; nil when one is not allowed, there twice or cut off.
        mutating func properties(_ allowed: Set<UInt8>) -> Set<UInt8>? {
            guard let count = variable(), let section = take(count) else { return nil }
            var reader = Reader(section)
            var found: Set<UInt8> = []
            while let identifier = reader.byte() {
                // User properties may be there often, subscription identifiers once for each subscription.
                guard allowed.contains(identifier),
                    found.insert(identifier).inserted || identifier == 0x26 || identifier == 0x0B,
                    reader.skip(identifier)
                else { return nil }
            }
            return found
        }

        private mutating func skip(_ identifier: UInt8) -> Bool {
            switch identifier {
            case 0x01, 0x24, 0x25, 0x28, 0x29, 0x2A: byte().map { $0 < 2 } ?? false
            case 0x13, 0x22: two() != nil
            case 0x21, 0x23: two().map { $0 > 0 } ?? false
            case 0x02, 0x11, 0x27: take(4) != nil
            case 0x0B: variable().map { $0 > 0 } ?? false
            case 0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F: text() != nil
            case 0x26: text() != nil && text() != nil
            default: false
            }
        }
    }
}

/// Packets of a client of MQTT 5; properties are given as bytes, so that they can be wrong.
enum Frame5 {
    static func connect(
        _ clientID: String, clean: Bool = true, properties: [UInt8], hasWill: Bool = false
    ) -> [UInt8] {
        let flags: UInt8 = (clean ? 2 : 0) | (hasWill ? 4 : 0)
        var body = Frame.text("MQTT") + [5, flags, 0, 0] + section(properties) + Frame.text(clientID)
        // A will with a delay of one second and a user property.
        if hasWill {
            body += section([0x18, 0, 0, 0, 1, 0x26, 0, 1, 107, 0, 1, 118]) + Frame.text("a") + Frame.text("gone")
        }
        return Frame.packet(0x10, body)
    }

    static func subscribe(
        _ id: UInt16, _ entries: [(filter: String, options: UInt8)], _ properties: [UInt8] = []
    ) -> [UInt8] {
        Frame.packet(
            0x82,
            Frame.uint16(id) + section(properties) + entries.flatMap { Frame.text($0.filter) + [$0.options] })
    }

    static func unsubscribe(_ id: UInt16, _ filters: [String]) -> [UInt8] {
        Frame.packet(0xA2, Frame.uint16(id) + [0] + filters.flatMap { Frame.text($0) })
    }

    static func publish(
        _ topic: String, _ payload: [UInt8], qos: UInt8, id: UInt16, retain: Bool, _ properties: [UInt8]
    ) -> [UInt8] {
        let identifier = qos > 0 ? Frame.uint16(id) : []
        return Frame.packet(
            0x30 | qos << 1 | (retain ? 1 : 0), Frame.text(topic) + identifier + section(properties) + payload)
    }

    static func acknowledge(_ first: UInt8, _ id: UInt16, _ code: UInt8) -> [UInt8] {
        Frame.packet(first, Frame.uint16(id) + (code == 0 ? [] : [code, 0]))
    }

    private static func section(_ properties: [UInt8]) -> [UInt8] { Frame.length(properties.count) + properties }
}
