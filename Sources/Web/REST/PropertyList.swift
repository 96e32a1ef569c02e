/// The properties of an event that comes from a request, collected from header fields, JSON members or CloudEvents
/// attributes under one set of rules and limits.
import Core

/// Properties that have been checked. `field` is always the name that the client used, for the error.
struct PropertyList {
    /// User properties of one event, at most.
    static let maxUserProperties = 64
    /// Bytes of all properties of one event, at most.
    static let maxBytes = 16_384

    /// What has been collected.
    private(set) var writer = EventPropertiesWriter()
    private var userProperties = 0
    private var hasPartitionKey = false

    /// What an event may say once: a text, except for the correlation, which is any bytes.
    mutating func add(
        _ identifier: EventProperties.Identifier, _ value: [UInt8], from field: String
    ) throws(Problem) {
        switch identifier {
        case .responseTopic:
            guard value.withUnsafeBytes({ Topic.isValid($0, limits: Limits()) }) else {
                throw Problem(400, "\(field): a topic without wildcards is expected.")
            }
        case .correlationData: break
        case .messageID where value.isEmpty: throw Problem(400, "\(field): a name has at least one byte.")
        default: try Self.checkText(value, field)
        }
        try makeRoom(value.count, field)
        guard writer.add(identifier, value) else {
            throw Problem(400, "\(field): it is too long; a message id has at most 1024 bytes.")
        }
    }

    /// From 0 to 255.
    mutating func addPriority(_ number: Int?, from field: String) throws(Problem) {
        guard let number, let byte = UInt8(exactly: number) else {
            throw Problem(400, "\(field): a number from 0 to 255 is expected.")
        }
        writer.add(.priority, byte: byte)
    }

    /// The payload is UTF-8; the caller has checked it.
    mutating func addTextFormat() { writer.add(.payloadFormat, byte: 1) }

    /// The partition key, which has many spellings but is one.
    mutating func addPartitionKey(_ value: [UInt8], from field: String) throws(Problem) {
        guard !hasPartitionKey else { throw Problem(400, "\(field): the partition key is given twice.") }
        hasPartitionKey = true
        let name = EventProperties.partitionKeyName
        let bytes = UnsafeBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount)
        try addUser(Array(bytes), value, from: field)
    }

    /// A user property; names may be there many times.
    mutating func addUser(_ name: [UInt8], _ value: [UInt8], from field: String) throws(Problem) {
        try Self.checkText(name, field)
        try Self.checkText(value, field)
        try makeRoom(name.count + value.count, field)
        guard userProperties < Self.maxUserProperties else {
            throw Problem(400, "\(field): an event has at most \(Self.maxUserProperties) user properties.")
        }
        userProperties += 1
        writer.addUser(name, value)
    }

    private static func checkText(_ value: [UInt8], _ field: String) throws(Problem) {
        guard value.withUnsafeBytes({ Topic.isText($0) }) else {
            throw Problem(400, "\(field): UTF-8 without NUL is expected.")
        }
    }

    private func makeRoom(_ count: Int, _ field: String) throws(Problem) {
        guard writer.count + count + 5 <= Self.maxBytes else {
            throw Problem(400, "\(field): the properties of an event have at most \(Self.maxBytes) bytes.")
        }
    }
}

/// An event that a client wants published and that came in a body. Owned.
struct NewEvent {
    /// The topic; not checked.
    var topic: [UInt8] = []
    /// The payload.
    var payload: [UInt8] = []
    /// The properties, checked.
    var properties = PropertyList()
    /// 0 direct, above that guaranteed.
    var qos: UInt8 = 0
    /// Whether it is to be its topic's last value.
    var isRetained = false
    /// For how long anybody wants it; nil for ever.
    var ttlMilliseconds: UInt64?
    /// The client's name for it, to find the answer of a batch: `message_id`, or a CloudEvent's `id`.
    var id: [UInt8]?
}

/// What a media type says of its bytes.
enum MediaType {
    /// Whether the bytes are JSON: `application/json`, `text/json`, anything `+json`.
    static func isJSON(_ type: UnsafeRawBufferPointer) -> Bool {
        let name = essence(type)
        return name.isSame(as: "application/json") || name.isSame(as: "text/json") || name.ends(with: "+json")
    }

    /// Whether the bytes ought to be UTF-8 text. They must be checked nevertheless.
    static func isText(_ type: UnsafeRawBufferPointer) -> Bool {
        if let place = type.place(of: "charset=") {
            var name = UnsafeRawBufferPointer(rebasing: type[(place + 8)...])
            if name.first == UInt8(ascii: "\"") { name = UnsafeRawBufferPointer(rebasing: name[1...]) }
            return name.begins(with: "utf-8") || name.begins(with: "us-ascii")
        }
        let name = essence(type)
        return name.begins(with: "text/") || isJSON(type) || name.isSame(as: "application/xml")
            || name.ends(with: "+xml") || name.isSame(as: "application/x-ndjson")
    }

    /// Type and subtype, without parameters.
    static func essence(_ type: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        let end = type.firstIndex(of: UInt8(ascii: ";")) ?? type.count
        return UnsafeRawBufferPointer(rebasing: type[..<end]).trimmed
    }
}

extension UnsafeRawBufferPointer {
    /// Whether the bytes end with a word, which is given in lower case, whatever their own case.
    func ends(with word: StaticString) -> Bool {
        count >= word.utf8CodeUnitCount
            && UnsafeRawBufferPointer(rebasing: self[(count - word.utf8CodeUnitCount)...]).isSame(as: word)
    }

    /// Where a word, which is given in lower case, first is, whatever the case of the bytes.
    func place(of word: StaticString) -> Int? {
        guard count >= word.utf8CodeUnitCount else { return nil }
        return (0...count - word.utf8CodeUnitCount).first {
            UnsafeRawBufferPointer(rebasing: self[$0..<$0 + word.utf8CodeUnitCount]).isSame(as: word)
        }
    }
}
