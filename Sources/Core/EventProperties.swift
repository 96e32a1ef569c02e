/// What an event says of itself besides topic and payload, in one encoding for all protocols: that of MQTT 5 §2.2.2,
/// without the length in front, and behind it what MQTT has no words for. MQTT takes the bytes before the extension as
/// they are; everybody else reads them one by one, and only when a subscriber of another protocol is there.

/// The properties of an event, one after another. Borrowed; checked by whoever published them.
public struct EventProperties: Sequence, IteratorProtocol {
    /// What a property is. Those from ``messageID`` on are the extension: they come last, and
    /// ``EventRun/extensionLength`` counts their bytes.
    public enum Identifier: UInt8, Sendable {
        /// 1 when the payload is UTF-8 text; one byte.
        case payloadFormat = 0x01
        /// A media type.
        case contentType = 0x03
        /// The topic that an answer goes to.
        case responseTopic = 0x08
        /// What an answer repeats; any bytes.
        case correlationData = 0x09
        /// A name and a value; may be there many times.
        case userProperty = 0x26
        /// The publisher's or the node's name for the event.
        case messageID = 0x61
        /// From 0 to 255, one byte; 4 is what an event has that says nothing (AMQP 1.0 §3.2.1).
        case priority = 0x62
        /// What else the publisher's protocol has to say, in its own encoding: a subscriber of the same protocol
        /// gets the event as it was published; ``Property/value`` has one byte, the ``WireLayout``. The last property.
        case foreign = 0x7E
    }

    /// One property.
    public struct Property {
        /// Which one.
        public var identifier: Identifier
        /// The value; for a user property its name.
        public var bytes: UnsafeRawBufferPointer
        /// A user property's value.
        public var value: UnsafeRawBufferPointer
    }

    /// The name of the user property that is the partition key in every protocol.
    public static let partitionKeyName: StaticString = "partitionkey"

    private let bytes: UnsafeRawBufferPointer
    private var offset = 0

    /// Reads properties from the beginning; `bytes` must stay valid meanwhile.
    public init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    /// The next property; nil at the end, or at something that is no property of an event.
    public mutating func next() -> Property? {
        guard offset < bytes.count, let identifier = Identifier(rawValue: bytes[offset]) else { return nil }
        offset += 1
        var property = Property(identifier: identifier, bytes: Self.empty, value: Self.empty)
        switch identifier {
        case .payloadFormat, .priority:
            guard offset < bytes.count else { return nil }
            property.bytes = UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + 1])
            offset += 1
        case .contentType, .responseTopic, .correlationData, .messageID:
            guard let text = takeText() else { return nil }
            property.bytes = text
        case .userProperty:
            guard let name = takeText(), let value = takeText() else { return nil }
            (property.bytes, property.value) = (name, value)
        case .foreign:
            guard bytes.count - offset >= 5 else { return nil }
            property.value = UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + 1])
            let count = Int(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: offset + 1, as: UInt32.self)))
            guard bytes.count - offset - 5 >= count else { return nil }
            property.bytes = UnsafeRawBufferPointer(rebasing: bytes[offset + 5..<offset + 5 + count])
            offset += 5 + count
        }
        return property
    }

    private static var empty: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }

    /// Two bytes of length, and that many bytes.
    private mutating func takeText() -> UnsafeRawBufferPointer? {
        guard bytes.count - offset >= 2 else { return nil }
        let count = Int(bytes[offset]) << 8 | Int(bytes[offset + 1])
        guard bytes.count - offset - 2 >= count else { return nil }
        defer { offset += 2 + count }
        return UnsafeRawBufferPointer(rebasing: bytes[offset + 2..<offset + 2 + count])
    }
}

/// Puts properties together, in any order; ``finish()`` sorts the extension behind the rest.
public struct EventPropertiesWriter {
    private var common: [UInt8] = []
    private var extras: [UInt8] = []
    private var foreign: [UInt8] = []

    /// The most bytes of ``EventProperties/Identifier/foreign``: with the rest of the extension it is below 65,536.
    public static let maxForeignBytes = 60_000

    /// Nothing yet.
    public init() {}

    /// Whether nothing has been added.
    public var isEmpty: Bool { common.isEmpty && extras.isEmpty && foreign.isEmpty }
    /// Bytes so far.
    public var count: Int { common.count + extras.count + foreign.count }

    /// Adds a property of one byte.
    public mutating func add(_ identifier: EventProperties.Identifier, byte: UInt8) {
        with(identifier) { bytes in
            bytes.append(identifier.rawValue)
            bytes.append(byte)
        }
    }

    /// Adds a text or bytes.
    /// - Returns: false, and nothing is added, when it is longer than 65,535 bytes, or in the extension than 1,024.
    @discardableResult
    public mutating func add(
        _ identifier: EventProperties.Identifier, _ value: some Collection<UInt8>
    ) -> Bool {
        guard value.count <= (Self.isExtension(identifier) ? 1_024 : 0xFFFF) else { return false }
        with(identifier) { bytes in
            bytes.append(identifier.rawValue)
            Self.append(value, to: &bytes)
        }
        return true
    }

    /// Adds a user property.
    /// - Returns: false, and nothing is added, when a part is longer than 65,535 bytes.
    @discardableResult
    public mutating func addUser(_ name: some Collection<UInt8>, _ value: some Collection<UInt8>) -> Bool {
        guard name.count <= 0xFFFF, value.count <= 0xFFFF else { return false }
        common.append(EventProperties.Identifier.userProperty.rawValue)
        Self.append(name, to: &common)
        Self.append(value, to: &common)
        return true
    }

    /// Adds what another protocol may leave alone, see ``EventProperties/Identifier/foreign``.
    /// - Returns: false, and nothing is added, when it is longer than ``maxForeignBytes`` or there is one already.
    @discardableResult
    public mutating func addForeign(_ layout: WireLayout, _ bytes: some Collection<UInt8>) -> Bool {
        guard foreign.isEmpty, bytes.count <= Self.maxForeignBytes else { return false }
        foreign = [EventProperties.Identifier.foreign.rawValue, layout.rawValue]
        withUnsafeBytes(of: UInt32(bytes.count).bigEndian) { foreign.append(contentsOf: $0) }
        foreign.append(contentsOf: bytes)
        return true
    }

    /// The bytes, and how many of the last are the extension.
    public func finish() -> (bytes: [UInt8], extensionLength: UInt16) {
        (common + extras + foreign, UInt16(clamping: extras.count + foreign.count))
    }

    private mutating func with(_ identifier: EventProperties.Identifier, _ body: (inout [UInt8]) -> Void) {
        if Self.isExtension(identifier) { body(&extras) } else { body(&common) }
    }

    private static func isExtension(_ identifier: EventProperties.Identifier) -> Bool {
        identifier.rawValue >= EventProperties.Identifier.messageID.rawValue
    }

    private static func append(_ value: some Collection<UInt8>, to bytes: inout [UInt8]) {
        bytes.append(UInt8(truncatingIfNeeded: value.count >> 8))
        bytes.append(UInt8(truncatingIfNeeded: value.count))
        bytes.append(contentsOf: value)
    }
}
