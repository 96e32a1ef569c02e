/// Packets of MQTT 5 as a client has them. Whatever the node sends is held against the specification while it is read:
/// flags, properties and reason codes that it may not send make an ``Answer5/other(_:)``.

/// Packets that a client sends.
enum Frame5 {
    struct Will {
        var topic = "will"
        var payload: [UInt8] = Array("gone".utf8)
        var qos: UInt8 = 0
        var isRetained = false
        var properties: [Property5] = []
    }

    /// A filter with its options (§3.8.3.1).
    struct Subscription {
        var filter: String
        var options: UInt8

        init(
            _ filter: String, qos: UInt8 = 0, noLocal: Bool = false, retainAsPublished: Bool = false,
            retainHandling: UInt8 = 0
        ) {
            self.filter = filter
            options = qos | (noLocal ? 4 : 0) | (retainAsPublished ? 8 : 0) | retainHandling << 4
        }
    }

    /// CONNECT (§3.1).
    static func connect(
        _ clientID: String, clean: Bool = true, keepAlive: UInt16 = 0, properties: [Property5] = [],
        will: Will? = nil, user: String? = nil, password: String? = nil
    ) -> [UInt8] {
        var flags: UInt8 = clean ? 2 : 0
        if let will { flags |= 4 | will.qos << 3 | (will.isRetained ? 0x20 : 0) }
        if user != nil { flags |= 0x80 }
        if password != nil { flags |= 0x40 }
        var body = Frame.text("MQTT") + [5, flags] + Frame.uint16(keepAlive) + Property5.block(properties)
        body += Frame.text(clientID)
        if let will { body += Property5.block(will.properties) + Frame.text(will.topic) + Frame.binary(will.payload) }
        if let user { body += Frame.text(user) }
        if let password { body += Frame.text(password) }
        return Frame.packet(0x10, body)
    }

    /// PUBLISH (§3.3).
    static func publish(
        _ topic: String, _ payload: [UInt8], qos: UInt8 = 0, id: UInt16 = 0, retain: Bool = false, dup: Bool = false,
        _ properties: [Property5] = []
    ) -> [UInt8] {
        let first = 0x30 | qos << 1 | (retain ? 1 : 0) | (dup ? 8 : 0)
        let identifier = qos > 0 ? Frame.uint16(id) : []
        return Frame.packet(first, Frame.text(topic) + identifier + Property5.block(properties) + payload)
    }

    static func publish(
        _ topic: String, _ payload: String, qos: UInt8 = 0, id: UInt16 = 0, retain: Bool = false, dup: Bool = false,
        _ properties: [Property5] = []
    ) -> [UInt8] {
        publish(topic, Array(payload.utf8), qos: qos, id: id, retain: retain, dup: dup, properties)
    }

    /// An acknowledgement: with the identifier alone, with a reason, or with properties (§3.4.2.1).
    static func acknowledge(
        _ first: UInt8, _ id: UInt16, _ reason: UInt8? = nil, _ properties: [Property5]? = nil
    ) -> [UInt8] {
        let tail = (reason.map { [$0] } ?? []) + (properties.map { Property5.block($0) } ?? [])
        return Frame.packet(first, Frame.uint16(id) + tail)
    }

    static func puback(_ id: UInt16, _ reason: UInt8? = nil, _ properties: [Property5]? = nil) -> [UInt8] {
        acknowledge(0x40, id, reason, properties)
    }
    static func pubrec(_ id: UInt16, _ reason: UInt8? = nil, _ properties: [Property5]? = nil) -> [UInt8] {
        acknowledge(0x50, id, reason, properties)
    }
    static func pubrel(_ id: UInt16, _ reason: UInt8? = nil, _ properties: [Property5]? = nil) -> [UInt8] {
        acknowledge(0x62, id, reason, properties)
    }
    static func pubcomp(_ id: UInt16, _ reason: UInt8? = nil, _ properties: [Property5]? = nil) -> [UInt8] {
        acknowledge(0x70, id, reason, properties)
    }

    /// SUBSCRIBE (§3.8).
    static func subscribe(
        _ id: UInt16, _ subscriptions: [Subscription], _ properties: [Property5] = []
    ) -> [UInt8] {
        let payload = subscriptions.flatMap { Frame.text($0.filter) + [$0.options] }
        return Frame.packet(0x82, Frame.uint16(id) + Property5.block(properties) + payload)
    }

    /// UNSUBSCRIBE (§3.10).
    static func unsubscribe(_ id: UInt16, _ filters: [String], _ properties: [Property5] = []) -> [UInt8] {
        Frame.packet(0xA2, Frame.uint16(id) + Property5.block(properties) + filters.flatMap { Frame.text($0) })
    }

    /// DISCONNECT (§3.14), in its shortest form when there is nothing to say.
    static func disconnect(_ reason: UInt8? = nil, _ properties: [Property5]? = nil) -> [UInt8] {
        Frame.packet(0xE0, (reason.map { [$0] } ?? []) + (properties.map { Property5.block($0) } ?? []))
    }

    /// AUTH (§3.15).
    static func auth(_ reason: UInt8? = nil, _ properties: [Property5]? = nil) -> [UInt8] {
        Frame.packet(0xF0, (reason.map { [$0] } ?? []) + (properties.map { Property5.block($0) } ?? []))
    }
}

/// Packets that a node sends.
enum Answer5: Equatable {
    struct Publish: Equatable {
        var topic: String
        var payload: [UInt8]
        var qos: UInt8 = 0
        var id: UInt16 = 0
        var retain = false
        var dup = false
        var properties: [Property5] = []

        var text: String { String(decoding: payload, as: UTF8.self) }
        /// Subscription identifiers, sorted: their order means nothing (§3.3.4).
        var subscriptionIDs: [Int] {
            properties.compactMap { if case .variable(let id) = $0.value { id } else { nil } }.sorted()
        }
        /// The seconds left to live.
        var expiry: UInt32? {
            properties.compactMap { if $0.id == 2, case .four(let left) = $0.value { left } else { nil } }.first
        }
        var alias: UInt16? {
            properties.compactMap { if $0.id == 35, case .two(let alias) = $0.value { alias } else { nil } }.first
        }
    }

    case connack(present: Bool, reason: UInt8, [Property5] = [])
    case publish(Publish)
    case puback(UInt16, UInt8 = 0, [Property5] = [])
    case pubrec(UInt16, UInt8 = 0, [Property5] = [])
    case pubrel(UInt16, UInt8 = 0, [Property5] = [])
    case pubcomp(UInt16, UInt8 = 0, [Property5] = [])
    case suback(UInt16, [UInt8], [Property5] = [])
    case unsuback(UInt16, [UInt8], [Property5] = [])
    case pingresp
    case disconnect(UInt8, [Property5] = [])
    case auth(UInt8, [Property5] = [])
    /// Anything a node may not send, as it came.
    case other([UInt8])

    static func event(
        _ topic: String, _ payload: String, qos: UInt8 = 0, id: UInt16 = 0, retain: Bool = false, dup: Bool = false,
        _ properties: [Property5] = []
    ) -> Answer5 {
        .publish(
            Publish(
                topic: topic, payload: Array(payload.utf8), qos: qos, id: id, retain: retain, dup: dup,
                properties: properties))
    }

    /// The same without a Reason String, whose words are the node's own.
    var bare: Answer5 {
        func strip(_ properties: [Property5]) -> [Property5] { properties.filter { $0.id != 31 } }
        return switch self {
        case .connack(let present, let reason, let properties):
            .connack(present: present, reason: reason, strip(properties))
        case .puback(let id, let reason, let properties): .puback(id, reason, strip(properties))
        case .pubrec(let id, let reason, let properties): .pubrec(id, reason, strip(properties))
        case .pubrel(let id, let reason, let properties): .pubrel(id, reason, strip(properties))
        case .pubcomp(let id, let reason, let properties): .pubcomp(id, reason, strip(properties))
        case .suback(let id, let reasons, let properties): .suback(id, reasons, strip(properties))
        case .unsuback(let id, let reasons, let properties): .unsuback(id, reasons, strip(properties))
        case .disconnect(let reason, let properties): .disconnect(reason, strip(properties))
        case .auth(let reason, let properties): .auth(reason, strip(properties))
        case .publish, .pingresp, .other: self
        }
    }

    // MARK: Reading

    /// Takes all complete packets off the front of `bytes`.
    static func takeAll(_ bytes: inout [UInt8]) -> [Answer5] {
        var answers: [Answer5] = []
        while bytes.count >= 2 {
            var header = Reader5(Array(bytes.prefix(5)))
            guard let first = header.byte(), let remaining = header.variable() else { break }
            let size = 1 + Frame.length(remaining).count + remaining
            guard bytes.count >= size else { break }
            let whole = Array(bytes.prefix(size))
            answers.append(read(first, Array(whole.suffix(remaining))) ?? .other(whole))
            bytes.removeFirst(size)
        }
        return answers
    }

    private static func read(_ first: UInt8, _ body: [UInt8]) -> Answer5? {
        var reader = Reader5(body)
        let answer: Answer5? =
            switch first {
            case 0x20: readConnack(&reader)
            case 0x30...0x3F: readPublish(first, &reader)
            case 0x40: readAcknowledgement(&reader, .puback, publishReasons).map { .puback($0.0, $0.1, $0.2) }
            case 0x50: readAcknowledgement(&reader, .pubrec, publishReasons).map { .pubrec($0.0, $0.1, $0.2) }
            case 0x62: readAcknowledgement(&reader, .pubrel, [0, 0x92]).map { .pubrel($0.0, $0.1, $0.2) }
            case 0x70: readAcknowledgement(&reader, .pubcomp, [0, 0x92]).map { .pubcomp($0.0, $0.1, $0.2) }
            case 0x90: readList(&reader, .suback, subscribeReasons).map { .suback($0.0, $0.1, $0.2) }
            case 0xB0: readList(&reader, .unsuback, unsubscribeReasons).map { .unsuback($0.0, $0.1, $0.2) }
            case 0xD0: .pingresp
            case 0xE0: readDisconnect(&reader)
            case 0xF0: readAuth(&reader)
            default: nil
            }
        return reader.isAtEnd ? answer : nil
    }

    // Reason codes that a server may use (§3.2.2.2, 3.4.2.1, 3.9.3, 3.11.3, 3.14.2.1).
    private static let connackReasons: Set<UInt8> = [
        0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B,
        0x9C, 0x9D, 0x9F,
    ]
    private static let publishReasons: Set<UInt8> = [0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]
    private static let subscribeReasons: Set<UInt8> = [
        0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2,
    ]
    private static let unsubscribeReasons: Set<UInt8> = [0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]
    private static let disconnectReasons: Set<UInt8> = [
        0, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
        0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
    ]

    private static func readConnack(_ reader: inout Reader5) -> Answer5? {
        guard let flags = reader.byte(), flags < 2, let reason = reader.byte(), connackReasons.contains(reason),
            flags == 0 || reason == 0, let properties = Property5.read(&reader, at: .connack)
        else { return nil }
        return .connack(present: flags == 1, reason: reason, properties)
    }

    private static func readPublish(_ first: UInt8, _ reader: inout Reader5) -> Answer5? {
        let qos = first >> 1 & 3
        let isDuplicate = first & 8 == 8
        guard qos < 3, qos > 0 || !isDuplicate, let topic = reader.text() else { return nil }
        var id: UInt16 = 0
        if qos > 0 {
            guard let identifier = reader.two(), identifier > 0 else { return nil }
            id = identifier
        }
        guard let properties = Property5.read(&reader, at: .publish) else { return nil }
        let event = Publish(
            topic: topic, payload: reader.all(), qos: qos, id: id, retain: first & 1 == 1, dup: isDuplicate,
            properties: properties)
        // A name without wildcards, or none and an alias that is not 0 (§3.3.2).
        guard !topic.contains(where: { "+#".contains($0) }), !topic.isEmpty || event.alias != nil, event.alias != 0
        else { return nil }
        return .publish(event)
    }

    private static func readAcknowledgement(
        _ reader: inout Reader5, _ place: Place5, _ reasons: Set<UInt8>
    ) -> (UInt16, UInt8, [Property5])? {
        guard let id = reader.two(), id > 0 else { return nil }
        if reader.isAtEnd { return (id, 0, []) }
        guard let reason = reader.byte(), reasons.contains(reason) else { return nil }
        if reader.isAtEnd { return (id, reason, []) }
        return Property5.read(&reader, at: place).map { (id, reason, $0) }
    }

    private static func readList(
        _ reader: inout Reader5, _ place: Place5, _ reasons: Set<UInt8>
    ) -> (UInt16, [UInt8], [Property5])? {
        guard let id = reader.two(), id > 0, let properties = Property5.read(&reader, at: place) else { return nil }
        let list = reader.all()
        guard !list.isEmpty, list.allSatisfy({ reasons.contains($0) }) else { return nil }
        return (id, list, properties)
    }

    /// A server's AUTH says "success" or "go on" (§3.15.2.1), always with its method ([MQTT-4.12.0-5]).
    private static func readAuth(_ reader: inout Reader5) -> Answer5? {
        guard let reason = reader.byte(), [0, 0x18].contains(reason),
            let properties = Property5.read(&reader, at: .auth), properties.contains(where: { $0.id == 21 })
        else { return nil }
        return .auth(reason, properties)
    }

    /// A server's DISCONNECT has no Session Expiry Interval ([MQTT-3.14.2-2]).
    private static func readDisconnect(_ reader: inout Reader5) -> Answer5? {
        if reader.isAtEnd { return .disconnect(0) }
        guard let reason = reader.byte(), disconnectReasons.contains(reason) else { return nil }
        if reader.isAtEnd { return .disconnect(reason) }
        guard let properties = Property5.read(&reader, at: .disconnect), !properties.contains(where: { $0.id == 17 })
        else { return nil }
        return .disconnect(reason, properties)
    }
}
