/// The sections of a message (§3.2): where each begins and ends, and what is wrong with them.
///
/// Everything in front of the payload is checked, and every value of a body that is not plain: receivers get the bytes
/// as they are, and what is wrong in them shall end nobody's connection but the sender's.
struct MessageSections {
    /// What the body is (§3.2.6–8).
    enum Body: UInt8 { case none, data, value, sequence }

    /// Bytes of a message that are not payload, at most.
    static let maxHeadBytes = 48 << 10
    /// Sections of a body, at most.
    static let maxBodySections = 1_024
    /// Values in what is not payload, at most; a body may have as many as bytes.
    static let maxValues = 16_384

    /// The whole message.
    let bytes: UnsafeRawBufferPointer

    /// Fields of the header (§3.2.1); nil for those that are not there.
    private(set) var isDurable = false
    private(set) var priority: UInt8?
    private(set) var ttlMilliseconds: UInt64?
    private(set) var isFirstAcquirer = false
    private(set) var deliveryCount: UInt32 = 0

    /// Whether there are delivery annotations, which are of the hop before.
    private(set) var hasDeliveryAnnotations = false
    /// The message annotations, whole.
    private(set) var annotations = 0..<0
    /// Which of our annotations are among them, and of the list of user properties the value.
    private(set) var isRetained = false
    private(set) var hasHopAnnotations = false
    private(set) var userList: Value?

    /// Where the bare message begins, and where its body does.
    private(set) var bareStart = 0
    private(set) var bodyStart = 0
    /// The list of the properties and the map of the application properties.
    private(set) var properties: Value?
    private(set) var applicationProperties: Value?
    /// Two of the properties.
    private(set) var to: UnsafeRawBufferPointer?
    private(set) var absoluteExpiryTime: UInt64?

    /// What the body is, how many sections it has, and where the footer begins.
    private(set) var body = Body.none
    private(set) var bodySections = 0
    private(set) var footerStart: Int
    /// The value of the body's last section.
    private(set) var content: Value?
    /// Bytes of the body that are not content of data sections.
    private var bodyOverhead = 0

    private var last: Section?
    private var budget = Self.maxValues
    private var bodyBudget = 0

    /// Finds the sections.
    /// - Throws: `amqp:decode-error` for bytes that are no message, `amqp:resource-limit-exceeded` for one that is
    ///   beyond what stands above.
    init(_ bytes: UnsafeRawBufferPointer) throws(AMQPError) {
        self.bytes = bytes
        footerStart = bytes.count
        do throws(ValueError) {
            try read()
        } catch {
            let isLimit = error == .tooMany || error == .tooDeep || error == .tooLong
            let place = last.map { $0.name } ?? "message"
            throw AMQPError(isLimit ? .resourceLimitExceeded : .decodeError, "\(place): \(error.text)")
        }
    }

    /// Whether the payload stands in one piece at the end: one data section, or a value that is a string or binary,
    /// or nothing.
    var isPlain: Bool {
        guard footerStart == bytes.count else { return false }
        guard let content else { return true }
        guard bodySections == 1 else { return false }
        return body == .data || body == .value && Self.plain.contains(content.type)
    }

    /// Of a plain message where the payload begins.
    var payloadStart: Int { content.map { $0.start - base } ?? bytes.count }

    private static let plain = ValueType.Set(.string, .binary, .null)

    /// An empty message has no address, but no byte of it is read either.
    private var base: UnsafeRawPointer {
        bytes.baseAddress ?? UnsafeRawPointer(bitPattern: 16).unsafelyUnwrapped
    }

    // MARK: Reading

    /// A section by its descriptor.
    enum Section: UInt8 {
        case header = 0x70
        case deliveryAnnotations = 0x71
        case messageAnnotations = 0x72
        case properties = 0x73
        case applicationProperties = 0x74
        case data = 0x75
        case sequence = 0x76
        case value = 0x77
        case footer = 0x78

        /// As in the specification.
        var name: String {
            switch self {
            case .header: "header"
            case .deliveryAnnotations: "delivery-annotations"
            case .messageAnnotations: "message-annotations"
            case .properties: "properties"
            case .applicationProperties: "application-properties"
            case .data: "data"
            case .sequence: "amqp-sequence"
            case .value: "amqp-value"
            case .footer: "footer"
            }
        }

        /// Reads a descriptor, in any of its encodings.
        @inline(__always)
        static func next(_ reader: inout ValueReader) throws(ValueError) -> Section {
            let left = reader.end - reader.cursor
            if left >= 3, reader.cursor.loadUnaligned(as: UInt16.self) == 0x5300,
                let section = Section(rawValue: reader.cursor.load(fromByteOffset: 2, as: UInt8.self))
            {
                try reader.skip(3)
                return section
            }
            return try slowly(&reader)
        }

        @inline(never)
        private static func slowly(_ reader: inout ValueReader) throws(ValueError) -> Section {
            guard !reader.isAtEnd else { throw .endsEarly }
            guard reader.cursor.load(as: UInt8.self) == 0 else { throw .noSection }
            try reader.skip(1)
            let descriptor = try reader.descriptor()
            if let number = descriptor.unsigned {
                guard let section = UInt8(exactly: number).flatMap(Section.init) else { throw .unknownSection }
                return section
            }
            for section in Self.all where descriptor.bytes.isEqual(section.symbol) { return section.section }
            throw .unknownSection
        }

        private static let all: [(section: Section, symbol: StaticString)] = [
            (.header, "amqp:header:list"), (.deliveryAnnotations, "amqp:delivery-annotations:map"),
            (.messageAnnotations, "amqp:message-annotations:map"), (.properties, "amqp:properties:list"),
            (.applicationProperties, "amqp:application-properties:map"), (.data, "amqp:data:binary"),
            (.sequence, "amqp:amqp-sequence:list"), (.value, "amqp:amqp-value:*"), (.footer, "amqp:footer:map"),
        ]
    }

    @inline(__always)
    private mutating func read() throws(ValueError) {
        var reader = ValueReader(bytes)
        while !reader.isAtEnd {
            let start = reader.cursor - base
            let section = try Section.next(&reader)
            let before = last
            last = section
            if section.rawValue <= Section.applicationProperties.rawValue {
                guard before.map({ $0.rawValue < section.rawValue }) ?? true else { throw .wrongOrder }
                let value = try reader.next()
                bodyStart = reader.cursor - base
                guard bodyStart <= Self.maxHeadBytes else { throw .tooLong }
                try read(section, value, start)
            } else {
                guard before != .footer else { throw .wrongOrder }
                let value = try reader.next()
                if section == .footer {
                    footerStart = start
                    try checkKeys(value, Self.annotationKeys)
                } else {
                    try readBody(section, value, start)
                }
            }
        }
        // A footer counts with the head: it is kept where the head is.
        let payload = body == .data || isPlain ? bodyOverhead : 0
        guard bodyStart + payload + bytes.count - footerStart <= Self.maxHeadBytes else { throw .tooLong }
    }

    @inline(__always)
    private mutating func read(_ section: Section, _ value: Value, _ start: Int) throws(ValueError) {
        switch section {
        case .header:
            try readHeader(value)
            bareStart = bodyStart
        case .deliveryAnnotations:
            hasDeliveryAnnotations = true
            try checkKeys(value, Self.annotationKeys)
            bareStart = bodyStart
        case .messageAnnotations:
            annotations = start..<bodyStart
            try readAnnotations(value)
            bareStart = bodyStart
        case .properties: try readProperties(value)
        default:
            applicationProperties = value
            try checkKeys(value, ValueType.Set(.string))
        }
    }

    @inline(__always)
    private mutating func readBody(_ section: Section, _ value: Value, _ start: Int) throws(ValueError) {
        let kind: Body = section == .data ? .data : section == .value ? .value : .sequence
        guard body == .none || body == kind && kind != .value else { throw body == kind ? .wrongOrder : .mixedBody }
        body = kind
        bodySections += 1
        guard bodySections <= Self.maxBodySections else { throw .tooMany }
        content = value
        bodyOverhead += value.start - base - start
        switch kind {
        case .data: guard value.type == .binary else { throw .wrongType }
        case .sequence:
            guard value.type == .list else { throw .wrongType }
            try checkBody(value)
        default: try checkBody(value)
        }
    }

    private mutating func checkBody(_ value: Value) throws(ValueError) {
        if bodySections == 1 { bodyBudget = Self.maxValues + bytes.count }
        try value.check(&bodyBudget)
    }

    private static let booleanOrNull = ValueType.Set(.boolean, .null)
    private static let uintOrNull = ValueType.Set(.uint, .null)

    private mutating func readHeader(_ value: Value) throws(ValueError) {
        guard value.type == .list else { throw .wrongType }
        var (count, reader) = try value.members()
        guard count <= 5 else { throw .tooManyFields }
        for index in 0..<count {
            let field = try reader.nextChecked(&budget)
            let type = field.type
            switch index {
            case 0:
                guard Self.booleanOrNull.contains(type) else { throw .wrongType }
                isDurable = field.isTrue
            case 1:
                guard type == .ubyte || type == .null else { throw .wrongType }
                priority = field.unsigned.map { UInt8(truncatingIfNeeded: $0) }
            case 2:
                guard Self.uintOrNull.contains(type) else { throw .wrongType }
                ttlMilliseconds = field.unsigned
            case 3:
                guard Self.booleanOrNull.contains(type) else { throw .wrongType }
                isFirstAcquirer = field.isTrue
            default:
                guard Self.uintOrNull.contains(type) else { throw .wrongType }
                deliveryCount = UInt32(truncatingIfNeeded: field.unsigned ?? 0)
            }
        }
        guard reader.isAtEnd else { throw .wrongSize }
    }

    /// The types that the fields of the properties may have (§3.2.4), besides null.
    @inline(__always)
    private static func isAllowed(_ type: ValueType, at index: Int) -> Bool {
        switch index {
        case 0, 5: ValueType.Set(.ulong, .uuid, .binary, .string, .null).contains(type)
        case 1: ValueType.Set(.binary, .null).contains(type)
        case 3, 10, 12: ValueType.Set(.string, .null).contains(type)
        case 6, 7: ValueType.Set(.symbol, .null).contains(type)
        case 8, 9: ValueType.Set(.timestamp, .null).contains(type)
        case 11: Self.uintOrNull.contains(type)
        // Addresses: of any type that is one value.
        default: !ValueType.Set(.list, .map, .array, .described).contains(type)
        }
    }

    private mutating func readProperties(_ value: Value) throws(ValueError) {
        guard value.type == .list else { throw .wrongType }
        properties = value
        var (count, reader) = try value.members()
        guard count <= 13 else { throw .tooManyFields }
        for index in 0..<count {
            let field = try reader.nextChecked(&budget)
            let type = field.type
            guard Self.isAllowed(type, at: index) else { throw .wrongType }
            if index == 2, type == .string { to = field.bytes }
            if index == 8, let time = field.signed { absoluteExpiryTime = UInt64(max(time, 0)) }
        }
        guard reader.isAtEnd else { throw .wrongSize }
    }

    private static let annotationKeys = ValueType.Set(.symbol, .ulong)

    /// A map's keys and values.
    private mutating func checkKeys(_ value: Value, _ keys: ValueType.Set) throws(ValueError) {
        guard value.type == .map else { throw .wrongType }
        var (count, reader) = try value.members()
        guard count & 1 == 0 else { throw .oddMap }
        for _ in 0..<count / 2 {
            guard keys.contains(try reader.nextChecked(&budget).type) else { throw .wrongKey }
            _ = try reader.nextChecked(&budget)
        }
        guard reader.isAtEnd else { throw .wrongSize }
    }

    private mutating func readAnnotations(_ value: Value) throws(ValueError) {
        guard value.type == .map else { throw .wrongType }
        var (count, reader) = try value.members()
        guard count & 1 == 0 else { throw .oddMap }
        for _ in 0..<count / 2 {
            let key = try reader.nextChecked(&budget)
            guard Self.annotationKeys.contains(key.type) else { throw .wrongKey }
            let value = try reader.nextChecked(&budget)
            switch Annotation(key) {
            case .retain:
                hasHopAnnotations = true
                isRetained = value.isTrue
            case .topic: hasHopAnnotations = true
            case .userProperties: if userList == nil, value.type == .list { userList = value }
            case nil: break
            }
        }
        guard reader.isAtEnd else { throw .wrongSize }
    }
}

/// The message annotations that are ours.
enum Annotation {
    /// `x-opt-retain`: whether the message is to be kept as its topic's last value, or is one that was.
    case retain
    /// `x-opt-topic`: the topic, for a receiver with wildcards.
    case topic
    /// `x-opt-user-properties`: names and values in turn, where application properties cannot hold them.
    case userProperties

    static let retainName: StaticString = "x-opt-retain"
    static let topicName: StaticString = "x-opt-topic"
    static let userPropertiesName: StaticString = "x-opt-user-properties"

    /// Whether it says something of one hop only, so that it is not passed on.
    var isOfHop: Bool { self != .userProperties }

    /// The annotation of a key; nil for those of others.
    @inline(__always)
    init?(_ key: Value) {
        guard key.constructor == 0xA3 || key.constructor == 0xB3 else { return nil }
        switch key.count {
        case Self.retainName.utf8CodeUnitCount where key.bytes.isEqual(Self.retainName): self = .retain
        case Self.topicName.utf8CodeUnitCount where key.bytes.isEqual(Self.topicName): self = .topic
        case Self.userPropertiesName.utf8CodeUnitCount where key.bytes.isEqual(Self.userPropertiesName):
            self = .userProperties
        default: return nil
        }
    }
}
