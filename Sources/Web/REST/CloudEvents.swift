/// CloudEvents 1.0 in requests and bodies. What makes an event one is said in ``CloudEvent``.
import Core

enum CloudEvents {
    /// How a request carries events.
    enum Mode: Equatable {
        /// The body is the payload; a CloudEvent's attributes are `ce-*` fields.
        case binary
        /// The body is one event: `application/cloudevents+json`.
        case structured
        /// The body is an array of events: `application/cloudevents-batch+json`.
        case batch

        init(contentType: UnsafeRawBufferPointer) {
            let type = MediaType.essence(contentType)
            self =
                type.isSame(as: "application/cloudevents+json")
                ? .structured : type.isSame(as: "application/cloudevents-batch+json") ? .batch : .binary
        }
    }

    /// What every CloudEvent must have, and which attributes there were.
    struct Required {
        /// Whether there were any attributes.
        private(set) var isCloudEvent = false
        private var names: Set<[UInt8]> = []
        private var required = CloudEvent.Required()

        /// An attribute of a request: each once, with a proper name.
        mutating func take(
            _ name: [UInt8], _ value: [UInt8], into list: inout PropertyList, from field: String
        ) throws(Problem) {
            isCloudEvent = true
            guard name.withUnsafeBytes({ CloudEvent.isAttribute($0) }) else {
                throw Problem(400, "\(field): an attribute's name is lower-case letters and digits.")
            }
            guard names.insert(name).inserted else { throw Problem(400, "\(field): it is given twice.") }
            name.withUnsafeBytes { name in value.withUnsafeBytes { required.note(name, $0) } }
            if name.withUnsafeBytes({ $0.isPartitionKey }) {
                try list.addPartitionKey(value, from: field)
            } else {
                try list.addUser(name, value, from: field)
            }
        }

        /// - Throws: ``Problem`` 400 when the attributes make no event.
        func check(prefix: String) throws(Problem) {
            guard required.version == true else { throw Problem(400, "\(prefix)specversion: 1.0 is expected.") }
            let others = [("id", required.id), ("source", required.source), ("type", required.type)]
            for (name, isThere) in others where isThere != true {
                throw Problem(400, "\(prefix)\(name): every CloudEvent has one, and it is not empty.")
            }
        }
    }

    // MARK: Structured mode

    /// Reads a structured event.
    /// - Parameters:
    ///   - topic: the topic, when the path has said it; else the event's `topic`, `fallback` or the event's `subject`
    ///     say it, in this order.
    ///   - list: properties to start with: those of the request's own fields.
    /// - Throws: ``Problem`` 400; it names the member and the rule.
    static func read(
        _ bytes: UnsafeRawBufferPointer, topic: [UInt8]? = nil, fallback: [UInt8]? = nil,
        list: PropertyList = PropertyList()
    ) throws(Problem) -> NewEvent {
        let members: JSONEvent.Members
        do throws(JSONScanner.Failure) {
            members = try JSONScanner.members(of: bytes)
        } catch {
            throw Problem(400, "The CloudEvent is no JSON object: \(error.text)")
        }
        if let twice = JSONScanner.duplicate(in: members) {
            throw Problem(400, "\(JSONEvent.shown(twice)): it is given twice.")
        }
        var event = NewEvent(properties: list)
        var required = Required()
        var (named, subject): ([UInt8]?, [UInt8]?)
        for (name, value) in members where value.kind != .null {
            guard name != "data", name != "data_base64", name != "datacontenttype" else { continue }
            let text = try attribute(name, value, in: bytes)
            try required.take(Array(name.utf8), text, into: &event.properties, from: JSONEvent.shown(name))
            switch name {
            case "id": event.id = text
            case "topic": named = text
            case "subject": subject = text
            default: break
            }
        }
        try required.check(prefix: "")
        try readData(members, in: bytes, into: &event)
        guard let place = topic ?? named ?? fallback ?? subject else {
            throw Problem(400, "topic: neither the event nor its subject nor the request says where it goes.")
        }
        event.topic = place
        return event
    }

    /// An attribute as text: texts, whole numbers and truth values are (JSON format §2.2).
    private static func attribute(
        _ name: String, _ value: JSONScanner.Value, in bytes: UnsafeRawBufferPointer
    ) throws(Problem) -> [UInt8] {
        switch value.kind {
        case .string: if let text = JSONScanner.bytes(value, in: bytes) { return text }
        case .number: if let number = JSONScanner.integer(value, in: bytes) { return Array(String(number).utf8) }
        case .bool: return Array(JSONScanner.slice(value, of: bytes))
        default: break
        }
        throw Problem(
            400, "\(JSONEvent.shown(name)): an attribute is a text, a whole number up to 2^53, true or false.")
    }

    private static func readData(
        _ members: JSONEvent.Members, in bytes: UnsafeRawBufferPointer, into event: inout NewEvent
    ) throws(Problem) {
        let data = members.first { $0.name == "data" }?.value
        let base64 = members.first { $0.name == "data_base64" && $0.value.kind != .null }?.value
        var type: [UInt8]?
        if let value = members.first(where: { $0.name == "datacontenttype" && $0.value.kind != .null })?.value {
            type = JSONScanner.bytes(value, in: bytes)
            guard type != nil else { throw Problem(400, "datacontenttype: a text is expected.") }
        }
        if let base64 {
            guard data == nil || data?.kind == .null else { throw Problem(400, "data_base64: data is there too.") }
            guard let text = JSONScanner.bytes(base64, in: bytes), let payload = Base64.decode(text) else {
                throw Problem(400, "data_base64: base64 with padding is expected.")
            }
            event.payload = payload
        } else if let data {
            let isJSON = type?.withUnsafeBytes { MediaType.isJSON($0) } ?? true
            if !isJSON, let text = JSONScanner.bytes(data, in: bytes) {
                event.payload = text
            } else {
                event.payload = Array(JSONScanner.slice(data, of: bytes))
            }
            event.properties.addTextFormat()
            type = type ?? Array("application/json".utf8)
        }
        if let type { try event.properties.add(.contentType, type, from: "datacontenttype") }
    }

    /// Writes an event as a structured CloudEvent. User properties that cannot be attributes are left out.
    /// - Returns: false, and nothing is written, when the event is none.
    static func write(
        properties: UnsafeRawBufferPointer, payload: UnsafeRawBufferPointer, to writer: inout JSONWriter
    ) -> Bool {
        guard CloudEvent.isOne(properties) else { return false }
        var type: UnsafeRawBufferPointer?
        var names: Set<[UInt8]> = []
        writer.beginObject()
        for property in EventProperties(properties) {
            switch property.identifier {
            case .contentType: type = property.bytes
            case .userProperty
            where CloudEvent.isAttribute(property.bytes) && names.insert(Array(property.bytes)).inserted:
                writer.key(text: property.bytes)
                writer.string(property.value)
            default: break
            }
        }
        if let type {
            writer.key("datacontenttype")
            writer.string(type)
        }
        if !payload.isEmpty { writeData(payload, type, properties, to: &writer) }
        writer.endObject()
        return true
    }

    private static func writeData(
        _ payload: UnsafeRawBufferPointer, _ type: UnsafeRawBufferPointer?, _ properties: UnsafeRawBufferPointer,
        to writer: inout JSONWriter
    ) {
        // No type means JSON in this format; whether it is must be seen in either case.
        if type.map({ MediaType.isJSON($0) }) ?? true {
            // One level for the event, one for a batch: what is written can be read. White space around the value would
            // not come back: it is the envelope's.
            if let value = try? JSONScanner.value(of: payload, maxDepth: JSONScanner.maxDepth - 2),
                value.range == 0..<payload.count
            {
                writer.key("data")
                return writer.raw(payload)
            }
        } else if JSONEvent.isText(payload, properties: properties) {
            writer.key("data")
            return writer.string(payload)
        }
        writer.key("data_base64")
        writer.base64(payload)
    }
}
