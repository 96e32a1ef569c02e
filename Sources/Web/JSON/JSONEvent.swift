/// One event as JSON, as WebSocket clients, long polls and batches have it:
/// `{"topic":…,"payload":"text"}` or `"payload_base64"`, and when there is something to say `qos`, `retained`,
/// `content_type`, `correlation` or `correlation_base64`, `reply_to`, `message_id`, `ttl` (ms), `priority`,
/// `partition_key`, `properties` (pairs in their order).
import Core

enum JSONEvent {
    typealias Members = [(name: String, value: JSONScanner.Value)]

    // MARK: Writing

    /// Writes the members of an event; the caller opens and closes the object and may add members of its own.
    /// - Parameters:
    ///   - now: the lane's milliseconds, for the time that is left.
    static func writeMembers(
        topic: UnsafeRawBufferPointer, payload: UnsafeRawBufferPointer, properties: UnsafeRawBufferPointer, qos: UInt8,
        isRetained: Bool, expiresAt: UInt64, now: UInt64, to writer: inout JSONWriter
    ) {
        writer.key("topic")
        writer.string(topic)
        writePayload(payload, properties, to: &writer)
        if qos > 0 {
            writer.key("qos")
            writer.number(Int(qos))
        }
        if isRetained {
            writer.key("retained")
            writer.bool(true)
        }
        if expiresAt != 0 {
            writer.key("ttl")
            writer.number(Int(clamping: expiresAt > now ? expiresAt - now : 0))
        }
        if !properties.isEmpty { writeProperties(properties, to: &writer) }
    }

    /// Writes an event as an object.
    static func write(_ event: Event, now: UInt64, to writer: inout JSONWriter) {
        writer.beginObject()
        writeMembers(
            topic: event.topic, payload: event.payload, properties: event.properties, qos: event.qos,
            isRetained: event.isRetained, expiresAt: event.expiresAt, now: now, to: &writer)
        writer.endObject()
    }

    /// Writes an event of a run as an object.
    static func write(_ event: EventView, of run: EventRun, now: UInt64, to writer: inout JSONWriter) {
        writer.beginObject()
        writeMembers(
            topic: run.topicBytes,
            payload: UnsafeRawBufferPointer(start: event.payload, count: Int(event.payloadLength)),
            properties: UnsafeRawBufferPointer(start: run.properties, count: run.propertiesLength), qos: run.qos,
            isRetained: run.isRetained, expiresAt: run.expiresAt, now: now, to: &writer)
        writer.endObject()
    }

    /// Whether a payload can be a JSON text and come back as it was: its publisher says it is text, or it is UTF-8
    /// without NUL.
    static func isText(_ payload: UnsafeRawBufferPointer, properties: UnsafeRawBufferPointer) -> Bool {
        guard Topic.isUTF8(payload) else { return false }
        if !payload.contains(0) { return true }
        return EventProperties(properties).contains { $0.identifier == .payloadFormat && $0.bytes.first == 1 }
    }

    private static func writePayload(
        _ payload: UnsafeRawBufferPointer, _ properties: UnsafeRawBufferPointer, to writer: inout JSONWriter
    ) {
        if isText(payload, properties: properties) {
            writer.key("payload")
            writer.string(payload)
        } else {
            writer.key("payload_base64")
            writer.base64(payload)
        }
    }

    private static func writeProperties(_ properties: UnsafeRawBufferPointer, to writer: inout JSONWriter) {
        var hasPairs = false
        var hasPartitionKey = false
        for property in EventProperties(properties) {
            switch property.identifier {
            case .payloadFormat, .foreign: break
            case .contentType: write("content_type", property.bytes, to: &writer)
            case .responseTopic: write("reply_to", property.bytes, to: &writer)
            case .messageID: write("message_id", property.bytes, to: &writer)
            case .correlationData where Topic.isUTF8(property.bytes):
                write("correlation", property.bytes, to: &writer)
            case .correlationData:
                writer.key("correlation_base64")
                writer.base64(property.bytes)
            case .priority:
                writer.key("priority")
                writer.number(Int(property.bytes.first ?? 4))
            case .userProperty where !hasPartitionKey && property.bytes.isPartitionKey:
                hasPartitionKey = true
                write("partition_key", property.value, to: &writer)
            case .userProperty: hasPairs = true
            }
        }
        if hasPairs { writePairs(properties, skipsPartitionKey: hasPartitionKey, to: &writer) }
    }

    private static func writePairs(
        _ properties: UnsafeRawBufferPointer, skipsPartitionKey: Bool, to writer: inout JSONWriter
    ) {
        var skips = skipsPartitionKey
        writer.key("properties")
        writer.beginArray()
        for property in EventProperties(properties) where property.identifier == .userProperty {
            if skips, property.bytes.isPartitionKey {
                skips = false
                continue
            }
            writer.beginArray()
            writer.string(property.bytes)
            writer.string(property.value)
            writer.endArray()
        }
        writer.endArray()
    }

    private static func write(_ name: StaticString, _ text: UnsafeRawBufferPointer, to writer: inout JSONWriter) {
        writer.key(name)
        writer.string(text)
    }

    // MARK: Reading

    /// Reads an event that is a whole text.
    /// - Throws: ``Problem`` 400; it names the member and the rule.
    static func read(_ bytes: UnsafeRawBufferPointer) throws(Problem) -> NewEvent {
        let members: Members
        do throws(JSONScanner.Failure) {
            members = try JSONScanner.members(of: bytes)
        } catch {
            throw Problem(400, "The event is no JSON object: \(error.text)")
        }
        return try read(members, in: bytes)
    }

    /// Reads an event from the members of an object.
    /// - Parameter others: names of members that say something else; all further ones are errors, because a typo must
    ///   not lose a property.
    static func read(
        _ members: Members, in bytes: UnsafeRawBufferPointer, others: Set<String> = []
    ) throws(Problem) -> NewEvent {
        if let twice = JSONScanner.duplicate(in: members) { throw Problem(400, "\(shown(twice)): it is given twice.") }
        var event = NewEvent()
        // First, so that it is the first of its name, whatever `properties` has.
        if let key = members.first(where: { $0.name == "partition_key" && $0.value.kind != .null }) {
            try event.properties.addPartitionKey(try text(key, bytes), from: "partition_key")
        }
        for member in members where member.value.kind != .null && !others.contains(member.name) {
            try take(member, in: bytes, into: &event)
        }
        try takePayload(members, in: bytes, into: &event)
        guard members.contains(where: { $0.name == "topic" && $0.value.kind != .null }) else {
            throw Problem(400, "topic: it is missing.")
        }
        return event
    }

    private static func take(
        _ member: Members.Element, in bytes: UnsafeRawBufferPointer, into event: inout NewEvent
    ) throws(Problem) {
        let name = member.name
        switch name {
        case "topic": event.topic = try text(member, bytes)
        case "payload", "payload_base64", "partition_key": break
        case "qos":
            guard let number = JSONScanner.integer(member.value, in: bytes), (0...2).contains(number) else {
                throw Problem(400, "qos: 0, 1 or 2 is expected.")
            }
            event.qos = UInt8(number)
        case "retained":
            guard let truth = JSONScanner.bool(member.value, in: bytes) else {
                throw Problem(400, "retained: true or false is expected.")
            }
            event.isRetained = truth
        case "ttl":
            guard let number = JSONScanner.integer(member.value, in: bytes), number >= 0 else {
                throw Problem(400, "ttl: a whole number of milliseconds is expected, 0 for ever.")
            }
            event.ttlMilliseconds = number == 0 ? nil : UInt64(number)
        case "content_type": try event.properties.add(.contentType, try text(member, bytes), from: name)
        case "reply_to": try event.properties.add(.responseTopic, try text(member, bytes), from: name)
        case "message_id":
            let id = try text(member, bytes)
            try event.properties.add(.messageID, id, from: name)
            event.id = id
        case "correlation": try event.properties.add(.correlationData, try text(member, bytes), from: name)
        case "correlation_base64": try event.properties.add(.correlationData, try data(member, bytes), from: name)
        case "priority": try event.properties.addPriority(JSONScanner.integer(member.value, in: bytes), from: name)
        case "properties": try takeProperties(member.value, in: bytes, into: &event.properties)
        default: throw Problem(400, "\(shown(name)): an event has no such member.")
        }
    }

    private static func takePayload(
        _ members: Members, in bytes: UnsafeRawBufferPointer, into event: inout NewEvent
    ) throws(Problem) {
        let given = members.filter { $0.value.kind != .null }
        for pair in [("payload", "payload_base64"), ("correlation", "correlation_base64")]
        where given.contains(where: { $0.name == pair.0 }) && given.contains(where: { $0.name == pair.1 }) {
            throw Problem(400, "\(pair.1): \(pair.0) is there too.")
        }
        for member in given where member.name == "payload" {
            event.payload = try text(member, bytes)
            event.properties.addTextFormat()
        }
        for member in given where member.name == "payload_base64" { event.payload = try data(member, bytes) }
    }

    /// `[["name","value"],…]` or `{"name":"value",…}`.
    private static func takeProperties(
        _ value: JSONScanner.Value, in bytes: UnsafeRawBufferPointer, into list: inout PropertyList
    ) throws(Problem) {
        let rule = Problem(400, "properties: an array of pairs of texts, or an object of texts, is expected.")
        let inner = JSONScanner.slice(value, of: bytes)
        do {
            switch value.kind {
            case .array:
                for element in try JSONScanner.elements(of: inner) {
                    guard element.kind == .array else { throw rule }
                    let pair = JSONScanner.slice(element, of: inner)
                    let parts = try JSONScanner.elements(of: pair)
                    guard parts.count == 2, let name = JSONScanner.bytes(parts[0], in: pair),
                        let value = JSONScanner.bytes(parts[1], in: pair)
                    else { throw rule }
                    try list.addUser(name, value, from: "properties")
                }
            case .object:
                for member in try JSONScanner.members(of: inner) {
                    guard let value = JSONScanner.bytes(member.value, in: inner) else { throw rule }
                    try list.addUser(Array(member.name.utf8), value, from: "properties")
                }
            default: throw rule
            }
        } catch let problem as Problem {
            throw problem
        } catch {
            // The text as a whole is valid: only the bound on entries can be meant.
            throw Problem(400, "properties: an event has at most \(PropertyList.maxUserProperties) user properties.")
        }
    }

    private static func text(_ member: Members.Element, _ bytes: UnsafeRawBufferPointer) throws(Problem) -> [UInt8] {
        guard let text = JSONScanner.bytes(member.value, in: bytes) else {
            throw Problem(400, "\(shown(member.name)): a text is expected.")
        }
        return text
    }

    private static func data(_ member: Members.Element, _ bytes: UnsafeRawBufferPointer) throws(Problem) -> [UInt8] {
        guard let text = JSONScanner.bytes(member.value, in: bytes), let data = Base64.decode(text) else {
            throw Problem(400, "\(shown(member.name)): base64 with padding is expected.")
        }
        return data
    }

    /// A client's name for something, short enough for an error.
    static func shown(_ name: String) -> String { name.utf8.count <= 100 ? name : "\(name.prefix(30))…" }
}

extension UnsafeRawBufferPointer {
    /// Whether a user property of this name is the partition key.
    var isPartitionKey: Bool {
        let name = EventProperties.partitionKeyName
        return count == name.utf8CodeUnitCount && isSame(as: name) && allSatisfy { $0 >= UInt8(ascii: "a") }
    }
}
