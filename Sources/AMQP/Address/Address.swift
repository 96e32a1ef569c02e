import Core

/// What the address of a terminus (§3.5.3, §3.5.4) or a message's `to` (§3.2.4) names.
///
/// AMQP does not say what an address looks like, and each vendor has its own answer. These are understood, the first
/// that fits: capabilities (`topic`, `queue`, …), which say what the name is whatever stands in front of it; `topic://`
/// and its like; RabbitMQ's paths; and a plain name, which is what the configuration says. ``AddressForm`` takes the
/// text apart. What this node has made itself (`apus/reply/…`) is a topic, whatever a client takes it for.
///
/// Threading: a value; made once for each attach. For messages there is ``topic(ofTo:_:)``, which allocates nothing.
enum Address: Equatable {
    /// What may be published to.
    case topic([UInt8])
    /// What may be subscribed to.
    case filter(TopicFilter)
    /// A queue, by its name.
    case queue(String)
    /// The management of AMQP brokers (`$management`, `/management`).
    case management
    /// Claims-based security (`$cbs`).
    case claims
    /// A target without an address: each message says in its `to` where it goes.
    case anonymous

    /// Whose address it is.
    enum Role {
        /// Of a source: what is received.
        case source
        /// Of a target: what is sent to.
        case target
        /// A message's `to`.
        case message
    }

    /// Finds out what an address names.
    /// - Parameters:
    ///   - text: the address; nil when there is none.
    ///   - capabilities: of the terminus.
    ///   - group: the shared subscription's group, when something other than `$share/` in the address says it. Any
    ///     text; what a group cannot hold is percent-encoded.
    /// - Throws: `amqp:invalid-field`, `amqp:not-found` or `amqp:precondition-failed` with what would be right.
    init(
        _ text: String?, capabilities: [String] = [], role: Role, group: String? = nil, _ settings: AMQPSettings,
        limits: Limits
    ) throws(AMQPError) {
        let bytes = Array((text ?? "").utf8)
        guard !bytes.isEmpty else {
            self = try Self.withoutAddress(role)
            return
        }
        let reader = AddressReader(
            text: text ?? "", capabilities: capabilities, role: role, group: group, settings: settings, limits: limits)
        let found = bytes.withUnsafeBytes { bytes in
            Result { () throws(AMQPError) in try reader.read(bytes) }
        }
        self = try found.get()
    }

    private static func withoutAddress(_ role: Role) throws(AMQPError) -> Address {
        switch role {
        case .target: return .anonymous
        case .source:
            throw AMQPError(.invalidField, "a source needs an address, such as topic://plant/*/temp, or to be dynamic")
        case .message:
            throw AMQPError(.preconditionFailed, "a message on a link without an address needs a topic in its `to`")
        }
    }

    /// The topic that a message's `to` names, within its bytes: for the usual forms, and nothing is allocated.
    /// - Returns: nil when it needs a closer look, which ``init(_:capabilities:role:group:_:limits:)`` takes. What is
    ///   returned has no wildcards, but need not be a topic in other respects, see ``Topic``.
    static func topic(ofTo to: UnsafeRawBufferPointer, _ settings: AMQPSettings) -> UnsafeRawBufferPointer? {
        guard let form = AddressForm(to), !form.isPath, form.name.first != UInt8(ascii: "$") else { return nil }
        switch form.kind {
        case .topic?: break
        case nil where settings.unprefixedAddress == .topic: break
        case .queue?, nil: guard form.isOwn else { return nil }
        }
        return form.name.isEmpty || Wildcards(form.name).areAny ? nil : form.name
    }
}

extension TopicFilter {
    /// Whether more than one topic may match: then messages must say which it was.
    var hasWildcards: Bool { levels.contains { $0.kind != .literal } }
}

/// The parts of an address, found in place.
struct AddressForm {
    /// What a name can be of.
    enum Kind { case topic, queue }

    /// What the prefix says; nil when there is none.
    var kind: Kind?
    /// What is behind the prefix.
    var name: UnsafeRawBufferPointer
    /// Whether it is one of RabbitMQ's paths.
    var isPath = false

    /// nil when there is nothing behind the host of a URL.
    init?(_ bytes: UnsafeRawBufferPointer) {
        name = bytes
        // Some clients send the whole URL that they connect to.
        if cut("amqp://") || cut("amqps://") {
            guard let slash = name.firstIndex(of: UInt8(ascii: "/")), slash + 1 < name.count else { return nil }
            name = UnsafeRawBufferPointer(rebasing: name[(slash + 1)...])
        }
        switch name.first.map({ $0 | 0x20 }) {
        case UInt8(ascii: "t"):
            if cut("topic://") || cut("temp-topic://") { kind = .topic } else if cut("temp-queue://") { kind = .queue }
        case UInt8(ascii: "q"):
            if cut("queue://") { kind = .queue }
        case UInt8(ascii: "/"):
            isPath = Self.paths.contains { Self.begins(name, $0) }
        default: break
        }
    }

    /// Whether this node has made the name.
    var isOwn: Bool { Self.begins(name, "apus/reply/") }

    private static let paths: [StaticString] = [
        "/queues/", "/exchanges/", "/queue/", "/exchange/", "/topic/", "/amq/queue/",
    ]

    private mutating func cut(_ prefix: StaticString) -> Bool {
        guard Self.begins(name, prefix) else { return false }
        name = UnsafeRawBufferPointer(rebasing: name[prefix.utf8CodeUnitCount...])
        return true
    }

    /// Whether the bytes begin with a prefix in lower case, in whatever case they are.
    static func begins(_ bytes: UnsafeRawBufferPointer, _ prefix: StaticString) -> Bool {
        guard bytes.count >= prefix.utf8CodeUnitCount else { return false }
        for index in 0..<prefix.utf8CodeUnitCount {
            let byte = bytes[index]
            let isUpper = UInt8(ascii: "A")...UInt8(ascii: "Z") ~= byte
            guard (isUpper ? byte | 0x20 : byte) == prefix.utf8Start[index] else { return false }
        }
        return true
    }
}

/// Which wildcards a text holds.
struct Wildcards {
    /// `+` or `#`, wherever they stand: no topic may hold them.
    var areMQTT = false
    /// `*` at the end of a level, or `>` alone in the last one: elsewhere they are ordinary characters.
    var areSMF = false

    init(_ bytes: UnsafeRawBufferPointer) {
        var before = UInt8(ascii: "/")
        for byte in bytes {
            switch byte {
            case UInt8(ascii: "+"), UInt8(ascii: "#"): areMQTT = true
            case UInt8(ascii: "/") where before == UInt8(ascii: "*"): areSMF = true
            default: break
            }
            before = byte
        }
        let isMore =
            before == UInt8(ascii: ">") && (bytes.count == 1 || bytes[bytes.count - 2] == UInt8(ascii: "/"))
        if isMore || before == UInt8(ascii: "*") { areSMF = true }
    }

    var areAny: Bool { areMQTT || areSMF }
}
