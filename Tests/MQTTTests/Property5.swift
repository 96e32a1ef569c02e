/// Properties of MQTT 5 as a client writes and reads them (§2.2.2). Written from the specification, not from the node's
/// own codec.

/// The places where properties stand: the packet types, and the will of a CONNECT.
enum Place5: UInt8, CaseIterable {
    case will = 0
    case connect, connack, publish, puback, pubrec, pubrel, pubcomp, subscribe, suback, unsubscribe, unsuback
    case disconnect = 14
    case auth = 15
}

/// One property: an identifier and a value, which a test may make wrong.
struct Property5: Equatable, CustomStringConvertible {
    enum Value: Equatable {
        case byte(UInt8)
        case two(UInt16)
        case four(UInt32)
        case variable(Int)
        case text(String)
        case binary([UInt8])
        case pair(String, String)
        /// Anything, as it stands behind the identifier.
        case raw([UInt8])
    }

    var id: UInt8
    var value: Value

    init(_ id: UInt8, _ value: Value) {
        self.id = id
        self.value = value
    }

    var description: String { "\(Self.rules[id]?.name ?? String(id)) \(value)" }

    // MARK: By name

    static func payloadFormat(_ value: UInt8) -> Property5 { .init(1, .byte(value)) }
    static func messageExpiry(_ seconds: UInt32) -> Property5 { .init(2, .four(seconds)) }
    static func contentType(_ text: String) -> Property5 { .init(3, .text(text)) }
    static func responseTopic(_ text: String) -> Property5 { .init(8, .text(text)) }
    static func correlationData(_ bytes: [UInt8]) -> Property5 { .init(9, .binary(bytes)) }
    static func subscriptionID(_ value: Int) -> Property5 { .init(11, .variable(value)) }
    static func sessionExpiry(_ seconds: UInt32) -> Property5 { .init(17, .four(seconds)) }
    static func assignedClientID(_ text: String) -> Property5 { .init(18, .text(text)) }
    static func serverKeepAlive(_ seconds: UInt16) -> Property5 { .init(19, .two(seconds)) }
    static func authenticationMethod(_ text: String) -> Property5 { .init(21, .text(text)) }
    static func authenticationData(_ bytes: [UInt8]) -> Property5 { .init(22, .binary(bytes)) }
    static func requestProblem(_ value: UInt8) -> Property5 { .init(23, .byte(value)) }
    static func willDelay(_ seconds: UInt32) -> Property5 { .init(24, .four(seconds)) }
    static func requestResponse(_ value: UInt8) -> Property5 { .init(25, .byte(value)) }
    static func responseInformation(_ text: String) -> Property5 { .init(26, .text(text)) }
    static func reasonString(_ text: String) -> Property5 { .init(31, .text(text)) }
    static func receiveMaximum(_ value: UInt16) -> Property5 { .init(33, .two(value)) }
    static func topicAliasMaximum(_ value: UInt16) -> Property5 { .init(34, .two(value)) }
    static func topicAlias(_ value: UInt16) -> Property5 { .init(35, .two(value)) }
    static func user(_ key: String, _ value: String) -> Property5 { .init(38, .pair(key, value)) }
    static func maximumPacketSize(_ value: UInt32) -> Property5 { .init(39, .four(value)) }

    // MARK: The table of §2.2.2.2

    struct Rule: Sendable {
        let name: String
        /// A value that is right wherever the property is.
        let sample: Value
        let places: Set<Place5>
    }

    private static let acknowledgements: Set<Place5> = [
        .connack, .puback, .pubrec, .pubrel, .pubcomp, .suback, .unsuback, .disconnect, .auth,
    ]

    static let rules: [UInt8: Rule] = [
        1: Rule(name: "payload format", sample: .byte(1), places: [.publish, .will]),
        2: Rule(name: "message expiry", sample: .four(60), places: [.publish, .will]),
        3: Rule(name: "content type", sample: .text("text"), places: [.publish, .will]),
        8: Rule(name: "response topic", sample: .text("r"), places: [.publish, .will]),
        9: Rule(name: "correlation data", sample: .binary([1]), places: [.publish, .will]),
        11: Rule(name: "subscription identifier", sample: .variable(1), places: [.publish, .subscribe]),
        17: Rule(name: "session expiry", sample: .four(1), places: [.connect, .connack, .disconnect]),
        18: Rule(name: "assigned client identifier", sample: .text("c"), places: [.connack]),
        19: Rule(name: "server keep alive", sample: .two(9), places: [.connack]),
        21: Rule(name: "authentication method", sample: .text("m"), places: [.connect, .connack, .auth]),
        22: Rule(name: "authentication data", sample: .binary([1]), places: [.connect, .connack, .auth]),
        23: Rule(name: "request problem information", sample: .byte(1), places: [.connect]),
        24: Rule(name: "will delay", sample: .four(1), places: [.will]),
        25: Rule(name: "request response information", sample: .byte(1), places: [.connect]),
        26: Rule(name: "response information", sample: .text("r"), places: [.connack]),
        28: Rule(name: "server reference", sample: .text("s"), places: [.connack, .disconnect]),
        31: Rule(name: "reason string", sample: .text("why"), places: acknowledgements),
        33: Rule(name: "receive maximum", sample: .two(9), places: [.connect, .connack]),
        34: Rule(name: "topic alias maximum", sample: .two(9), places: [.connect, .connack]),
        35: Rule(name: "topic alias", sample: .two(1), places: [.publish]),
        36: Rule(name: "maximum QoS", sample: .byte(1), places: [.connack]),
        37: Rule(name: "retain available", sample: .byte(1), places: [.connack]),
        38: Rule(name: "user property", sample: .pair("k", "v"), places: Set(Place5.allCases)),
        39: Rule(name: "maximum packet size", sample: .four(999), places: [.connect, .connack]),
        40: Rule(name: "wildcard subscription available", sample: .byte(1), places: [.connack]),
        41: Rule(name: "subscription identifier available", sample: .byte(1), places: [.connack]),
        42: Rule(name: "shared subscription available", sample: .byte(1), places: [.connack]),
    ]

    /// A property with a good value.
    static func sample(_ id: UInt8) -> Property5 { .init(id, rules[id]?.sample ?? .byte(0)) }

    // MARK: On the wire

    var bytes: [UInt8] {
        switch value {
        case .byte(let value): [id, value]
        case .two(let value): [id] + Frame.uint16(value)
        case .four(let value): [id] + Frame.uint16(UInt16(value >> 16)) + Frame.uint16(UInt16(value & 0xFFFF))
        case .variable(let value): [id] + Frame.length(value)
        case .text(let text): [id] + Frame.text(text)
        case .binary(let bytes): [id] + Frame.binary(bytes)
        case .pair(let key, let value): [id] + Frame.text(key) + Frame.text(value)
        case .raw(let bytes): [id] + bytes
        }
    }

    /// Properties with their length in front.
    static func block(_ properties: [Property5]) -> [UInt8] {
        let bytes = properties.flatMap(\.bytes)
        return Frame.length(bytes.count) + bytes
    }

    /// Reads properties with their length; nil when anything is against the specification.
    static func read(_ reader: inout Reader5, at place: Place5) -> [Property5]? {
        guard let count = reader.variable(), let block = reader.take(count) else { return nil }
        var inner = Reader5(block)
        var properties: [Property5] = []
        while !inner.isAtEnd {
            guard let id = inner.byte(), let rule = rules[id], rule.places.contains(place),
                let value = inner.value(like: rule.sample)
            else { return nil }
            let mayRepeat = id == 38 || (id == 11 && place == .publish)
            guard mayRepeat || !properties.contains(where: { $0.id == id }) else { return nil }
            properties.append(Property5(id, value))
        }
        return properties
    }
}

/// Reads fields off the front of bytes; nil when they are not there or not well-formed.
struct Reader5 {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) { rest = bytes[...] }

    var isAtEnd: Bool { rest.isEmpty }

    mutating func take(_ count: Int) -> [UInt8]? {
        guard rest.count >= count else { return nil }
        defer { rest = rest.dropFirst(count) }
        return Array(rest.prefix(count))
    }

    mutating func all() -> [UInt8] { take(rest.count) ?? [] }

    mutating func byte() -> UInt8? { take(1)?[0] }

    mutating func two() -> UInt16? { take(2).map { UInt16($0[0]) << 8 | UInt16($0[1]) } }

    mutating func four() -> UInt32? { take(4).map { $0.reduce(0) { $0 << 8 | UInt32($1) } } }

    /// A variable byte integer in its shortest form (§1.5.5).
    mutating func variable() -> Int? {
        var value = 0
        for index in 0..<4 {
            guard let digit = byte() else { return nil }
            value |= Int(digit & 0x7F) << (7 * index)
            if digit < 0x80 { return index > 0 && digit == 0 ? nil : value }
        }
        return nil
    }

    mutating func binary() -> [UInt8]? { two().flatMap { take(Int($0)) } }

    mutating func text() -> String? {
        guard let bytes = binary(), !bytes.contains(0) else { return nil }
        return String(validating: bytes, as: UTF8.self)
    }

    mutating func value(like sample: Property5.Value) -> Property5.Value? {
        switch sample {
        case .byte: byte().map { .byte($0) }
        case .two: two().map { .two($0) }
        case .four: four().map { .four($0) }
        case .variable: variable().map { .variable($0) }
        case .text: text().map { .text($0) }
        case .binary: binary().map { .binary($0) }
        case .pair: text().flatMap { key in text().map { .pair(key, $0) } }
        case .raw: nil
        }
    }
}
