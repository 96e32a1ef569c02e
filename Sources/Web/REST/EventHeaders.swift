/// What the header fields of a publish say of the event, in our spelling and in that of Solace's REST API.
///
/// In values of `Apus-*` fields `%` and two digits stand for a byte, and UTF-8 may come as it is; values of `Solace-*`
/// fields are taken as they are. `traceparent`, `tracestate` and `baggage` become user properties of these names;
/// `ce-*` fields make a CloudEvent, see ``CloudEvents``.
import Core

struct EventHeaders {
    /// The properties so far; a publisher may add to them.
    var properties = EventPropertiesWriter()
    /// The same, as what a structured CloudEvent in the body is added to.
    private(set) var list = PropertyList()
    /// 0 direct, 1 guaranteed.
    private(set) var qos: UInt8 = 0
    /// Whether the event is to be its topic's last value.
    private(set) var isRetained = false
    /// For how long anybody wants the event; nil for ever.
    private(set) var ttlMilliseconds: UInt64?
    /// For how long the request waits for a reply; nil when it wants none.
    private(set) var replyWaitMilliseconds: Int?
    /// The client's name for the event; it is among the properties too.
    private(set) var messageID: [UInt8]?
    /// What makes a repeated request the same request.
    private(set) var idempotencyKey: [UInt8]?
    /// How CloudEvents say that the body is one; plain requests are `binary` or nothing.
    private(set) var mode = CloudEvents.Mode.binary
    /// Whether the fields make a CloudEvent (binary mode).
    private(set) var isCloudEvent = false
    /// Whether Content-Type says that the body is text. When the body is UTF-8, a publisher adds the property
    /// `payloadFormat` 1.
    private(set) var saysText = false

    /// Roles that a field may have; each at most once in a request.
    private enum Role: UInt32 {
        case deliveryMode, timeToLive, priority, partitionKey, correlation, replyTo, messageID, retain, replyWait
        case idempotencyKey, contentType
    }

    private static let apus: [(name: StaticString, role: Role)] = [
        ("delivery-mode", .deliveryMode), ("time-to-live", .timeToLive), ("priority", .priority),
        ("partition-key", .partitionKey), ("correlation-id", .correlation), ("reply-to", .replyTo),
        ("message-id", .messageID), ("retain", .retain), ("reply-wait", .replyWait),
    ]
    private static let solace: [(name: StaticString, role: Role)] = [
        ("delivery-mode", .deliveryMode), ("time-to-live-in-ms", .timeToLive), ("message-priority", .priority),
        ("partition-key", .partitionKey), ("correlation-id", .correlation),
        ("reply-to-destination", .replyTo), ("message-id", .messageID), ("reply-wait-time-in-ms", .replyWait),
    ]

    /// Roles that have been seen, a bit each.
    private var seen: UInt32 = 0
    private var attributes = CloudEvents.Required()

    /// Reads the fields.
    /// - Throws: ``Problem`` 400; it names the field and the rule.
    init(_ head: RequestHead) throws(Problem) {
        if let type = head.value("content-type") { mode = CloudEvents.Mode(contentType: type) }
        for index in 0..<head.fieldCount {
            let (name, value) = head.field(index)
            switch name.first.map({ $0 | 0x20 }) {
            case UInt8(ascii: "a") where name.begins(with: "apus-"): try takeApus(name, value)
            case UInt8(ascii: "s") where name.begins(with: "solace-"): try takeSolace(name, value)
            case UInt8(ascii: "c") where name.begins(with: "ce-"): try takeAttribute(name, value)
            case UInt8(ascii: "c") where name.isSame(as: "content-type"): try take(.contentType, name, value)
            case UInt8(ascii: "i") where name.isSame(as: "idempotency-key"): try take(.idempotencyKey, name, value)
            case UInt8(ascii: "t") where name.isSame(as: "traceparent"): try takeTrace("traceparent", value)
            case UInt8(ascii: "t") where name.isSame(as: "tracestate"): try takeTrace("tracestate", value)
            case UInt8(ascii: "b") where name.isSame(as: "baggage"): try takeTrace("baggage", value)
            default: break
            }
        }
        if attributes.isCloudEvent {
            try attributes.check(prefix: "ce-")
            isCloudEvent = true
        }
        properties = list.writer
    }

    // MARK: Fields

    private mutating func takeApus(
        _ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
    ) throws(Problem) {
        let rest = UnsafeRawBufferPointer(rebasing: name[5...])
        guard let text = FieldText.decode(value) else { throw Self.badEscape(name) }
        if rest.begins(with: "property-") {
            let property = UnsafeRawBufferPointer(rebasing: rest[9...])
            guard let key = FieldText.decode(property) else { throw Self.badEscape(name) }
            return try list.addUser(key, text, from: Self.shown(name))
        }
        // What webhooks say of their requests is no property of the event.
        let said: [StaticString] = ["webhook", "topic", "signature", "delivery-attempt"]
        if said.contains(where: { rest.isSame(as: $0) }) { return }
        guard let role = Self.apus.first(where: { rest.isSame(as: $0.name) })?.role else {
            throw Problem(400, "\(Self.shown(name)): there is no such field.")
        }
        let outcome = text.withUnsafeBytes { bytes in
            Result { () throws(Problem) in try take(role, name, bytes) }
        }
        try outcome.get()
    }

    private mutating func takeSolace(
        _ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
    ) throws(Problem) {
        let rest = UnsafeRawBufferPointer(rebasing: name[7...])
        if rest.begins(with: "user-property-") {
            let text = Self.withoutType(value)
            return try list.addUser(Array(rest[14...]), Array(text), from: Self.shown(name))
        }
        guard let role = Self.solace.first(where: { rest.isSame(as: $0.name) })?.role else { return }
        guard role == .replyTo else { return try take(role, name, value) }
        guard !value.begins(with: "/queue/") else {
            throw Problem(400, "\(Self.shown(name)): there are no queues; a topic is expected.")
        }
        let start = value.begins(with: "/topic/") ? 7 : 0
        try take(role, name, UnsafeRawBufferPointer(rebasing: value[start...]))
    }

    private mutating func takeAttribute(
        _ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
    ) throws(Problem) {
        // Of a structured event they are copies for whoever does not read the body (HTTP binding §3.2.2).
        guard mode == .binary else { return }
        let attribute = name[3...].map { UInt8(ascii: "A")...UInt8(ascii: "Z") ~= $0 ? $0 | 0x20 : $0 }
        let field = Self.shown(name)
        guard attribute != Array("datacontenttype".utf8) else {
            throw Problem(400, "\(field): the field Content-Type says it.")
        }
        guard let text = FieldText.decodeAttribute(value) else { throw Self.badEscape(name) }
        try attributes.take(attribute, text, into: &list, from: field)
    }

    private mutating func takeTrace(_ name: String, _ value: UnsafeRawBufferPointer) throws(Problem) {
        try list.addUser(Array(name.utf8), Array(value), from: name)
    }

    private mutating func take(
        _ role: Role, _ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
    ) throws(Problem) {
        let field = Self.shown(name)
        guard seen & 1 << role.rawValue == 0 else { throw Problem(400, "\(field): it is given twice.") }
        seen |= 1 << role.rawValue
        switch role {
        case .deliveryMode: qos = try Self.qos(value, field)
        case .timeToLive:
            let time = try Self.milliseconds(value, field)
            ttlMilliseconds = time == 0 ? nil : UInt64(time)
        case .replyWait:
            let time = try Self.milliseconds(value, field)
            replyWaitMilliseconds = time == 0 ? nil : time
        case .priority: try list.addPriority(Self.number(value), from: field)
        case .partitionKey: try list.addPartitionKey(Array(value), from: field)
        case .correlation: try list.add(.correlationData, Array(value), from: field)
        case .replyTo: try list.add(.responseTopic, Array(value), from: field)
        case .messageID:
            try list.add(.messageID, Array(value), from: field)
            messageID = Array(value)
        case .retain:
            guard value.isSame(as: "true") || value.isSame(as: "false") else {
                throw Problem(400, "\(field): true or false is expected.")
            }
            isRetained = value.isSame(as: "true")
        case .idempotencyKey:
            guard (1...255).contains(value.count) else {
                throw Problem(400, "\(field): from 1 to 255 bytes are expected.")
            }
            idempotencyKey = Array(value)
        case .contentType where mode == .binary:
            guard !value.isEmpty else { return }
            try list.add(.contentType, Array(value), from: field)
            saysText = MediaType.isText(value)
        case .contentType: break
        }
    }

    // MARK: Values

    private static func qos(_ value: UnsafeRawBufferPointer, _ field: String) throws(Problem) -> UInt8 {
        if value.isSame(as: "direct") { return 0 }
        if value.isSame(as: "guaranteed") { return 1 }
        // Both of Solace's guaranteed modes; without a store there is one.
        let isSolace = field.utf8.count == "Solace-Delivery-Mode".utf8.count
        if isSolace, value.isSame(as: "persistent") || value.isSame(as: "non-persistent") { return 1 }
        let words = isSolace ? "direct, persistent or non-persistent" : "direct or guaranteed"
        throw Problem(400, "\(field): \(words) is expected.")
    }

    private static func milliseconds(_ value: UnsafeRawBufferPointer, _ field: String) throws(Problem) -> Int {
        guard let number = number(value) else {
            throw Problem(400, "\(field): a whole number of milliseconds is expected.")
        }
        return number
    }

    /// Digits, up to 2⁵³.
    static func number(_ value: UnsafeRawBufferPointer) -> Int? {
        guard (1...16).contains(value.count) else { return nil }
        var number = 0
        for byte in value {
            guard byte &- UInt8(ascii: "0") < 10 else { return nil }
            number = number * 10 + Int(byte - UInt8(ascii: "0"))
        }
        return number <= JSONScanner.maxInteger ? number : nil
    }

    /// A value without the `; type=…` that Solace's clients may put behind it.
    private static func withoutType(_ value: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        guard let semicolon = value.lastIndex(of: UInt8(ascii: ";")),
            UnsafeRawBufferPointer(rebasing: value[(semicolon + 1)...]).trimmed.begins(with: "type=")
        else { return value }
        return UnsafeRawBufferPointer(rebasing: value[..<semicolon]).trimmed
    }

    private static func badEscape(_ name: UnsafeRawBufferPointer) -> Problem {
        Problem(400, "\(shown(name)): % comes before two hexadecimal digits, itself it is %25; quotes are closed.")
    }

    /// A field's name for an error.
    private static func shown(_ name: UnsafeRawBufferPointer) -> String {
        JSONEvent.shown(name.text)
    }
}
