/// The request that tells a target of an event: its header fields. The payload is the body, as it is.
import Core

/// The header fields of one attempt, put together from what the event says of itself.
///
/// Nothing that a publisher chose can end a field and begin another: a byte outside of printable ASCII never comes out
/// of here as it is.
struct WebhookRequest {
    /// One field.
    struct Field: Equatable {
        var name: [UInt8]
        var value: [UInt8]
    }

    /// How a text that the publisher chose becomes a field's value.
    enum Spelling {
        /// Percent-encoded: `%`, whatever is not printable ASCII, and a space at either end. Decoding gives the text.
        case encoded
        /// The same and every space and `"`: an attribute of a CloudEvent (CloudEvents HTTP binding §3.1.3.2).
        case attribute
        /// For fields with a syntax of their own, in which `%` may have a meaning: that is left alone.
        case plain
    }

    /// Bytes of all fields together beyond which no target would take them; see ``isTooLarge``.
    static let maxBytes = 256 << 10

    /// The fields, in order.
    private(set) var fields: [Field] = []
    /// Bytes of all names and values.
    private(set) var bytes = 0

    /// Whether the event has more properties than a request can hold.
    var isTooLarge: Bool { bytes > Self.maxBytes }

    /// The fields of an attempt.
    /// - Parameters:
    ///   - attempt: its number, from 1.
    ///   - now: the lane's milliseconds, for the time that the event has left.
    ///   - origin: the node's instance id and the webhook's name; whoever receives its own id is in a loop.
    ///   - signature: the value of `Apus-Signature`; nil for none.
    init(_ event: Event, attempt: Int, now: UInt64, origin: String, signature: [UInt8]?) {
        var contentType: UnsafeRawBufferPointer?
        var isText = false
        var users = UserFields(isCloudEvent: CloudEvent.isOne(event.properties))
        add("Apus-Topic", event.topic, .encoded)
        add("Apus-Delivery-Mode", event.qos > 0 ? "guaranteed" : "direct")
        for property in EventProperties(event.properties) {
            switch property.identifier {
            case .payloadFormat: isText = property.bytes.first == 1
            case .contentType: contentType = property.bytes
            case .responseTopic: add("Apus-Reply-To", property.bytes, .encoded)
            case .correlationData: add("Apus-Correlation-Id", property.bytes, .encoded)
            case .messageID: add("Apus-Message-Id", property.bytes, .encoded)
            case .priority: add("Apus-Priority", String(property.bytes.first ?? 4))
            case .userProperty: addUser(property.bytes, property.value, &users)
            case .foreign: break
            }
        }
        if let contentType, !contentType.isEmpty {
            add("Content-Type", contentType, .plain)
        } else {
            add("Content-Type", isText ? "text/plain; charset=utf-8" : "application/octet-stream")
        }
        if event.expiresAt != 0 {
            add("Apus-Time-To-Live", String(event.expiresAt > now ? event.expiresAt - now : 0))
        }
        add("Apus-Delivery-Attempt", String(attempt))
        add(WebhookService.originField, origin)
        if let signature { signature.withUnsafeBytes { add("Apus-Signature", $0, .plain) } }
    }

    /// What has become a field already: each of these only once.
    private struct UserFields {
        let isCloudEvent: Bool
        var hasPartitionKey = false
        var attributes: Set<[UInt8]> = []

        init(isCloudEvent: Bool) { self.isCloudEvent = isCloudEvent }
    }

    /// The partition key, the fields of distributed tracing and the attributes of a CloudEvent have names of their own.
    private mutating func addUser(
        _ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, _ users: inout UserFields
    ) {
        for known in ["traceparent", "tracestate", "baggage"] as [StaticString] where Self.isSame(name, known) {
            return add(String(describing: known), value, .plain)
        }
        if users.isCloudEvent {
            if CloudEvent.isAttribute(name), users.attributes.insert(Array(name)).inserted {
                return append(Array("ce-".utf8) + Array(name), Self.spell(value, .attribute))
            }
        } else if !users.hasPartitionKey, Self.isSame(name, EventProperties.partitionKeyName) {
            users.hasPartitionKey = true
            return add("Apus-Partition-Key", value, .encoded)
        }
        append(Array("Apus-Property-".utf8) + Self.token(name), Self.spell(value, .encoded))
    }

    private static func isSame(_ name: UnsafeRawBufferPointer, _ known: StaticString) -> Bool {
        name.elementsEqual(UnsafeRawBufferPointer(start: known.utf8Start, count: known.utf8CodeUnitCount))
    }

    private mutating func add(_ name: String, _ value: UnsafeRawBufferPointer, _ spelling: Spelling) {
        append(Array(name.utf8), Self.spell(value, spelling))
    }

    private mutating func add(_ name: String, _ value: String) {
        var value = value
        value.withUTF8 { add(name, UnsafeRawBufferPointer($0), .plain) }
    }

    private mutating func append(_ name: [UInt8], _ value: [UInt8]) {
        bytes += name.count + value.count
        // What is too large is not sent: no need to keep it.
        if !isTooLarge { fields.append(Field(name: name, value: value)) }
    }

    // MARK: Spelling

    /// A text as the value of a field.
    static func spell(_ text: UnsafeRawBufferPointer, _ spelling: Spelling) -> [UInt8] {
        encode(text) { index, byte in
            switch byte {
            // A space at either end is no part of a value (RFC 9110 §5.5).
            case UInt8(ascii: " "): spelling != .attribute && index > 0 && index < text.count - 1
            case UInt8(ascii: "%"): spelling == .plain
            case UInt8(ascii: "\""): spelling != .attribute
            default: (0x21...0x7E).contains(byte)
            }
        }
    }

    /// A text as a part of a field's name: what is no token (RFC 9110 §5.6.2) is percent-encoded.
    static func token(_ text: UnsafeRawBufferPointer) -> [UInt8] {
        encode(text) { _, byte in
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "a")...UInt8(ascii: "z"):
                true
            default: "!#$&'*+-.^_`|~".utf8.contains(byte)
            }
        }
    }

    private static func encode(_ text: UnsafeRawBufferPointer, keeps: (Int, UInt8) -> Bool) -> [UInt8] {
        let digits = Array("0123456789ABCDEF".utf8)
        var spelled: [UInt8] = []
        spelled.reserveCapacity(text.count)
        for (index, byte) in text.enumerated() {
            if keeps(index, byte) {
                spelled.append(byte)
            } else {
                spelled += [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
            }
        }
        return spelled
    }
}
