import TestSupport

/// Messages that a generator makes up, in all encodings there are, written without the code that is tested.
struct RandomMessage {
    private var random: Seeded

    init(seed: UInt64) { random = Seeded(seed: seed) }

    private mutating func chance(_ one: Int) -> Bool { Int.random(in: 0..<one, using: &random) == 0 }

    private mutating func number(_ bytes: Int) -> [UInt8] {
        (0..<bytes).map { _ in .random(in: 0...255, using: &random) }
    }

    private mutating func text() -> [UInt8] {
        let words = [
            "", "a", "partitionkey", "a/b", "topic://x/y", "queue://q", "text/plain", "ä€\u{1F41C}", "null\u{0}",
        ]
        if chance(12) { return Array(repeating: 0x61, count: .random(in: 200...300, using: &random)) }
        return Array((words.randomElement(using: &random) ?? "").utf8)
    }

    private mutating func variable(_ constructor: UInt8, _ bytes: [UInt8]) -> [UInt8] {
        if bytes.count > 255 || chance(3) {
            return [constructor + 0x10] + IncomingMessageTests.four(bytes.count) + bytes
        }
        return [constructor, UInt8(bytes.count)] + bytes
    }

    private mutating func compound(_ constructor: UInt8, _ members: [[UInt8]]) -> [UInt8] {
        let bytes = Array(members.joined())
        if bytes.count > 254 || members.count > 255 || chance(3) {
            return [constructor + 0x10] + IncomingMessageTests.four(bytes.count + 4)
                + IncomingMessageTests.four(members.count) + bytes
        }
        return [constructor, UInt8(bytes.count + 1), UInt8(members.count)] + bytes
    }

    private mutating func string() -> [UInt8] { variable(0xA1, text()) }
    private mutating func symbol() -> [UInt8] { variable(0xA3, text().map { $0 & 0x7F }) }
    private mutating func binary() -> [UInt8] { variable(0xA0, number(.random(in: 0...20, using: &random))) }

    private mutating func scalar() -> [UInt8] {
        switch Int.random(in: 0..<20, using: &random) {
        case 0: [0x40]
        case 1: [0x41]
        case 2: [0x56, 1]
        case 3: [0x50] + number(1)
        case 4: [0x60] + number(2)
        case 5: [0x70] + number(4)
        case 6: [0x43]
        case 7: [0x80] + number(8)
        case 8: [0x53] + number(1)
        case 9: [0x51] + number(1)
        case 10: [0x71] + number(4)
        case 11: [0x55] + number(1)
        case 12: [0x72] + number(4)
        case 13: [0x82] + number(8)
        case 14: [0x83] + number(8)
        case 15: [0x98] + number(16)
        case 16: [0x94] + number(16)
        case 17: binary()
        case 18: symbol()
        default: string()
        }
    }

    private mutating func value(_ depth: Int = 0) -> [UInt8] {
        guard depth < 5, chance(4) else { return scalar() }
        switch Int.random(in: 0..<4, using: &random) {
        case 0:
            let count = Int.random(in: 0...3, using: &random)
            return compound(0xC0, (0..<count).map { _ in value(depth + 1) })
        case 1:
            let count = Int.random(in: 0...2, using: &random) * 2
            return compound(0xC1, (0..<count).map { _ in value(depth + 1) })
        case 2:
            let count = Int.random(in: 0...3, using: &random)
            return [0xE0, UInt8(count * 2 + 2), UInt8(count), 0x60] + number(count * 2)
        default: return [0x00, 0x53, 0x01] + value(depth + 1)
        }
    }

    private mutating func id() -> [UInt8] {
        switch Int.random(in: 0..<6, using: &random) {
        case 0: [0x80] + number(8)
        case 1: [0x44]
        case 2: [0x98] + number(16)
        case 3: binary()
        case 4: [0x40]
        default: string()
        }
    }

    private mutating func section(_ code: UInt8, _ value: [UInt8]) -> [UInt8] {
        let names: [UInt8: String] = [
            0x70: "amqp:header:list", 0x71: "amqp:delivery-annotations:map", 0x72: "amqp:message-annotations:map",
            0x73: "amqp:properties:list", 0x74: "amqp:application-properties:map", 0x75: "amqp:data:binary",
            0x76: "amqp:amqp-sequence:list", 0x77: "amqp:amqp-value:*", 0x78: "amqp:footer:map",
        ]
        switch Int.random(in: 0..<8, using: &random) {
        case 0: return [0x00, 0x80, 0, 0, 0, 0, 0, 0, 0, code] + value
        case 1: return [0x00] + variable(0xA3, Array((names[code] ?? "").utf8)) + value
        default: return [0x00, 0x53, code] + value
        }
    }

    private mutating func annotations(_ code: UInt8) -> [UInt8] {
        var members: [[UInt8]] = []
        for _ in 0..<Int.random(in: 0...3, using: &random) {
            members += [chance(4) ? [0x53] + number(1) : symbol(), value()]
        }
        if code == 0x72, chance(3) { members += [variable(0xA3, Array("x-opt-retain".utf8)), [0x41]] }
        if code == 0x72, chance(6) { members += [variable(0xA3, Array("x-opt-topic".utf8)), string()] }
        if code == 0x72, chance(6) {
            let list = compound(0xC0, [string(), string()])
            members += [variable(0xA3, Array("x-opt-user-properties".utf8)), list]
        }
        return section(code, compound(0xC1, members))
    }

    private mutating func properties() -> [UInt8] {
        let fields = (0..<13).map { index -> [UInt8] in
            if chance(3) { return [0x40] }
            switch index {
            case 0, 5: return id()
            case 1: return binary()
            case 2, 4: return chance(5) ? scalar() : string()
            case 6, 7: return symbol()
            case 8, 9: return [0x83] + number(8)
            case 11: return [0x70] + number(4)
            default: return string()
            }
        }
        return section(0x73, compound(0xC0, Array(fields.prefix(Int.random(in: 0...13, using: &random)))))
    }

    private mutating func body() -> [UInt8] {
        switch Int.random(in: 0..<9, using: &random) {
        case 0: return []
        case 1: return (0..<Int.random(in: 1...5, using: &random)).flatMap { _ in section(0x75, binary()) }
        case 2:
            return (0..<Int.random(in: 1...3, using: &random)).flatMap { _ in section(0x76, compound(0xC0, [value()])) }
        case 3: return section(0x77, value())
        case 4: return section(0x77, string())
        case 5: return section(0x77, binary())
        default: return section(0x75, binary())
        }
    }

    /// The next one.
    mutating func next() -> [UInt8] {
        var message: [UInt8] = []
        if chance(2) {
            let fields: [[UInt8]] = [
                [chance(2) ? 0x41 : 0x40], chance(2) ? [0x40] : [0x50] + number(1),
                chance(2) ? [0x40] : [0x70] + number(4),
                [chance(2) ? 0x42 : 0x40], chance(2) ? [0x43] : [0x52] + number(1),
            ]
            message += section(0x70, compound(0xC0, Array(fields.prefix(Int.random(in: 0...5, using: &random)))))
        }
        if chance(5) { message += annotations(0x71) }
        if chance(2) { message += annotations(0x72) }
        if !chance(4) { message += properties() }
        if chance(2) {
            let members = (0..<Int.random(in: 0...5, using: &random)).flatMap { _ in [string(), value()] }
            message += section(0x74, compound(0xC1, members))
        }
        message += body()
        if chance(6) { message += annotations(0x78) }
        return message
    }

    /// User properties as an MQTT client may send them.
    mutating func userProperties() -> [(name: [UInt8], value: [UInt8])] {
        let names = [
            "a", "b", "c", "", "partitionkey", "specversion", "id", "source", "type", "subject", "cloudEvents_id",
            "cloudEvents:specversion", "cloudEvents_specversion", "ä", "A", "traceparent", "content-encoding",
        ]
        let isEvent = chance(3)
        var list: [(name: [UInt8], value: [UInt8])] = []
        let count = chance(5) ? 60 : Int.random(in: 0...7, using: &random)
        for _ in 0..<count {
            let name =
                count == 60
                ? String(UInt8.random(in: 0...200, using: &random)) : names.randomElement(using: &random) ?? ""
            let value = ["", "1.0", "x", "y", "ö"].randomElement(using: &random) ?? ""
            list.append((Array(name.utf8), Array(value.utf8)))
        }
        if isEvent {
            for (name, value) in [("specversion", "1.0"), ("id", "1"), ("source", "/s"), ("type", "t")] {
                let place = Int.random(in: 0...list.count, using: &random)
                list.insert((Array(name.utf8), Array(value.utf8)), at: place)
            }
        }
        return list
    }
}
