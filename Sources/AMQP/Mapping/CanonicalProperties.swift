import Core

/// What a message says of itself, as the properties that all protocols have. `docs/mapping.md` has the table.
struct CanonicalProperties {
    private let sections: MessageSections
    private var messageID: Value?
    private var replyTo: Value?
    private var correlation: Value?
    private var contentType: Value?
    private var contentEncoding: Value?
    private var groupID: Value?

    /// The content type of a payload that is the sections of a body, encoded.
    static let encodedType: StaticString = "message/vnd.amqp"
    /// The user property that says how a payload is compressed.
    static let contentEncodingName: StaticString = "content-encoding"

    init(_ sections: MessageSections) {
        self.sections = sections
        // The list has been checked; an error cannot come.
        guard let list = sections.properties, let members = try? list.members() else { return }
        var reader = members.reader
        for index in 0..<members.count {
            guard let value = try? reader.next(), value.type != .null else { continue }
            switch index {
            case 0: messageID = value
            case 4: replyTo = value
            case 5: correlation = value
            case 6: contentType = value
            case 7: contentEncoding = value
            case 10: groupID = value
            default: break
            }
        }
    }

    /// Adds them all but the foreign one.
    /// - Parameter isUTF8: whether the payload, or every payload of a run, is UTF-8; asked only if that matters.
    func add(to properties: inout EventPropertiesWriter, isUTF8: () -> Bool) {
        var text: [UInt8] = []
        let type = contentType.flatMap { Topic.isText($0.bytes) ? $0.bytes : nil }
        if !sections.isPlain, sections.body == .value || sections.body == .sequence {
            properties.add(.contentType, Self.encodedType.bytes)
        } else {
            let isString = sections.body == .value && sections.content?.type == .string
            if isString || type.map({ MediaText.isText($0) && isUTF8() }) ?? false {
                properties.add(.payloadFormat, byte: 1)
            }
            if let type { properties.add(.contentType, type) }
        }
        if let replyTo, replyTo.type == .string, let topic = ReplyAddress.topic(replyTo.bytes) {
            properties.add(.responseTopic, topic)
        }
        if let correlation {
            if correlation.type == .binary {
                properties.add(.correlationData, correlation.bytes)
            } else if ValueText.append(correlation, to: &text) {
                properties.add(.correlationData, text)
            }
        }
        addUserProperties(to: &properties, &text)
        if let messageID { addMessageID(messageID, to: &properties, &text) }
        if let priority = sections.priority { properties.add(.priority, byte: priority) }
    }

    /// The text of the message's name; bytes that are no text become hexadecimal digits.
    private func addMessageID(_ value: Value, to properties: inout EventPropertiesWriter, _ text: inout [UInt8]) {
        text.removeAll(keepingCapacity: true)
        if value.type != .binary {
            guard ValueText.append(value, to: &text) else { return }
        } else if Topic.isText(value.bytes) {
            text += value.bytes
        } else {
            ValueText.appendHex(value.bytes, to: &text)
        }
        if !text.isEmpty { properties.add(.messageID, text) }
    }

    // MARK: User properties

    private func addUserProperties(to properties: inout EventPropertiesWriter, _ text: inout [UInt8]) {
        if let contentEncoding, Topic.isText(contentEncoding.bytes) {
            properties.addUser(Self.contentEncodingName.bytes, contentEncoding.bytes)
        }
        if let list = sections.userList, let pairs = Self.pairs(list) {
            var reader = pairs
            addGroup(to: &properties, isPresent: Self.contains(EventProperties.partitionKeyName, pairs))
            while let name = try? reader.next(), let value = try? reader.next() {
                properties.addUser(name.bytes, value.bytes)
            }
            return
        }
        guard let map = sections.applicationProperties, let members = try? map.members() else {
            return addGroup(to: &properties, isPresent: false)
        }
        let isCloudEvent = CloudEventNames.isEvent(members.reader)
        var (hasKey, reader) = (false, members.reader)
        while let name = try? reader.next(), (try? reader.next()) != nil {
            hasKey = hasKey || Self.name(name, isCloudEvent).isEqual(EventProperties.partitionKeyName)
        }
        addGroup(to: &properties, isPresent: hasKey)
        reader = members.reader
        while let name = try? reader.next(), let value = try? reader.next() {
            text.removeAll(keepingCapacity: true)
            let key = Self.name(name, isCloudEvent)
            guard Topic.isText(key) else { continue }
            if value.type == .string {
                if Topic.isText(value.bytes) { properties.addUser(key, value.bytes) }
            } else if ValueText.append(value, to: &text), text.withUnsafeBytes({ Topic.isText($0) }) {
                properties.addUser(key, text)
            }
        }
    }

    @inline(__always)
    private static func name(_ key: Value, _ isCloudEvent: Bool) -> UnsafeRawBufferPointer {
        isCloudEvent ? CloudEventNames.attribute(key.bytes) ?? key.bytes : key.bytes
    }

    /// `group-id` is the partition key, unless the publisher has said it in a user property too.
    private func addGroup(to properties: inout EventPropertiesWriter, isPresent: Bool) {
        guard !isPresent, let groupID, Topic.isText(groupID.bytes) else { return }
        properties.addUser(EventProperties.partitionKeyName.bytes, groupID.bytes)
    }

    /// The names and values of `x-opt-user-properties`; nil when it is anything but texts in pairs.
    private static func pairs(_ list: Value) -> ValueReader? {
        guard let (count, first) = try? list.members(), count & 1 == 0 else { return nil }
        var reader = first
        for _ in 0..<count {
            guard let value = try? reader.next(), value.type == .string, Topic.isText(value.bytes) else { return nil }
        }
        return first
    }

    /// Whether there is a pair with a name.
    private static func contains(_ name: StaticString, _ pairs: ValueReader) -> Bool {
        var reader = pairs
        while let key = try? reader.next(), (try? reader.next()) != nil {
            if key.bytes.isEqual(name) { return true }
        }
        return false
    }
}

extension StaticString {
    /// The text as bytes.
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: utf8Start, count: utf8CodeUnitCount) }
}

/// Names of CloudEvents attributes among application properties: `cloudEvents_` or `cloudEvents:` in front (CloudEvents
/// AMQP binding §3.1.3.1).
enum CloudEventNames {
    /// What we write: the binding prefers it, because JMS allows no colon.
    static let prefix: StaticString = "cloudEvents_"
    private static let colonPrefix: StaticString = "cloudEvents:"

    /// Whether a name begins as those of attributes do.
    static func hasPrefix(_ name: UnsafeRawBufferPointer) -> Bool {
        name.starts(with: prefix) || name.starts(with: colonPrefix)
    }

    /// Whether application properties are those of an event: one of them says the version of the specification.
    static func isEvent(_ properties: ValueReader) -> Bool {
        var reader = properties
        while let name = try? reader.next(), (try? reader.next()) != nil {
            if name.count == 23, attribute(name.bytes)?.isEqual("specversion") ?? false { return true }
        }
        return false
    }

    /// The attribute that a property is; nil when it is none.
    static func attribute(_ name: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        guard hasPrefix(name) else { return nil }
        let rest = name.from(prefix.utf8CodeUnitCount)
        return CloudEvent.isAttribute(rest) ? rest : nil
    }
}
