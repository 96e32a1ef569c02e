import Core

/// Property identifiers (MQTT 5 §2.2.2.2).
enum PropertyID: UInt8 {
    case payloadFormat = 0x01
    case messageExpiry = 0x02
    case contentType = 0x03
    case responseTopic = 0x08
    case correlationData = 0x09
    case subscriptionIdentifier = 0x0B
    case sessionExpiry = 0x11
    case assignedClientIdentifier = 0x12
    case serverKeepAlive = 0x13
    case authenticationMethod = 0x15
    case authenticationData = 0x16
    case requestProblemInformation = 0x17
    case willDelay = 0x18
    case requestResponseInformation = 0x19
    case responseInformation = 0x1A
    case serverReference = 0x1C
    case reasonString = 0x1F
    case receiveMaximum = 0x21
    case topicAliasMaximum = 0x22
    case topicAlias = 0x23
    case maximumQoS = 0x24
    case retainAvailable = 0x25
    case userProperty = 0x26
    case maximumPacketSize = 0x27
    case wildcardSubscriptionAvailable = 0x28
    case subscriptionIdentifiersAvailable = 0x29
    case sharedSubscriptionAvailable = 0x2A
}

/// Which properties a packet may have.
struct PropertySet {
    private let bits: UInt64

    init(_ identifiers: [PropertyID]) { bits = identifiers.reduce(0) { $0 | 1 << UInt64($1.rawValue) } }

    func contains(_ identifier: PropertyID) -> Bool { bits & 1 << UInt64(identifier.rawValue) != 0 }

    static let connect = PropertySet([
        .sessionExpiry, .receiveMaximum, .maximumPacketSize, .topicAliasMaximum, .requestResponseInformation,
        .requestProblemInformation, .userProperty, .authenticationMethod, .authenticationData,
    ])
    static let will = PropertySet([
        .willDelay, .payloadFormat, .messageExpiry, .contentType, .responseTopic, .correlationData, .userProperty,
    ])
    static let publish = PropertySet([
        .payloadFormat, .messageExpiry, .topicAlias, .responseTopic, .correlationData, .userProperty,
        .subscriptionIdentifier, .contentType,
    ])
    static let acknowledgement = PropertySet([.reasonString, .userProperty])
    static let subscribe = PropertySet([.subscriptionIdentifier, .userProperty])
    static let unsubscribe = PropertySet([.userProperty])
    static let disconnect = PropertySet([.sessionExpiry, .reasonString, .userProperty])
    static let auth = PropertySet([.authenticationMethod, .authenticationData, .reasonString, .userProperty])
}

/// One property: its number, or its bytes, or the two texts of a user property.
struct Property {
    var identifier: PropertyID
    var number: UInt32 = 0
    var bytes = UnsafeRawBufferPointer(start: nil, count: 0)
    var value = UnsafeRawBufferPointer(start: nil, count: 0)
    /// Where the whole property lies in the section.
    var range: Range<Int>
}

/// Reads a packet's properties one after another, and refuses what may not be there or may not be there twice.
struct PropertyReader {
    private let section: UnsafeRawBufferPointer
    private let allowed: PropertySet
    private var reader: PacketReader
    private var seen: UInt64 = 0

    init(_ section: UnsafeRawBufferPointer, allowed: PropertySet) {
        self.section = section
        self.allowed = allowed
        reader = PacketReader(section)
    }

    /// The section as it came, without its length.
    var bytes: UnsafeRawBufferPointer { section }

    /// Reads all that is left and forgets it, for properties that only have to be right.
    mutating func skip() throws(MQTTFailure) { while try next() != nil {} }

    /// The next property, or nil at the end.
    mutating func next() throws(MQTTFailure) -> Property? {
        guard !reader.isAtEnd else { return nil }
        let start = reader.offset
        // Identifiers are variable byte integers, but all that exist take one byte.
        guard let identifier = PropertyID(rawValue: try reader.byte()), allowed.contains(identifier) else {
            throw .malformed
        }
        var property = Property(identifier: identifier, range: start..<start)
        try readValue(of: &property)
        property.range = start..<reader.offset
        let bit: UInt64 = 1 << UInt64(identifier.rawValue)
        guard seen & bit == 0 || identifier == .userProperty else { throw .protocolError }
        seen |= bit
        return property
    }

    private mutating func readValue(of property: inout Property) throws(MQTTFailure) {
        switch property.identifier {
        case .payloadFormat, .requestProblemInformation, .requestResponseInformation, .maximumQoS, .retainAvailable,
            .wildcardSubscriptionAvailable, .subscriptionIdentifiersAvailable, .sharedSubscriptionAvailable:
            property.number = UInt32(try reader.byte())
            guard property.number < 2 else { throw .protocolError }
        case .serverKeepAlive, .topicAliasMaximum, .topicAlias: property.number = UInt32(try reader.uint16())
        case .receiveMaximum:
            property.number = UInt32(try reader.uint16())
            guard property.number > 0 else { throw .protocolError }
        case .messageExpiry, .sessionExpiry, .willDelay: property.number = try reader.uint32()
        case .maximumPacketSize:
            property.number = try reader.uint32()
            guard property.number > 0 else { throw .protocolError }
        case .subscriptionIdentifier:
            property.number = try reader.variableInteger()
            guard property.number > 0 else { throw .protocolError }
        case .correlationData, .authenticationData: property.bytes = try reader.binary()
        case .contentType, .assignedClientIdentifier, .authenticationMethod, .responseInformation, .serverReference,
            .reasonString:
            property.bytes = try reader.text()
        case .responseTopic:
            property.bytes = try reader.text()
            // A topic to publish to (§3.3.2.3.5).
            guard !property.bytes.isEmpty, !property.bytes.contains(where: { $0 == 0x2B || $0 == 0x23 }) else {
                throw .protocolError
            }
        case .userProperty:
            property.bytes = try reader.text()
            property.value = try reader.text()
        }
    }
}
