import Core

/// Properties of events that other nodes send. The node of a publisher has checked them once; one that is hostile has
/// not, and subscribers get them as they are.
extension EventProperties {
    /// Whether properties are what a publisher of any protocol may have said, each value whole and of its kind, in the
    /// order that readers rely on.
    /// - Parameter extensionLength: bytes at the end that are the extension.
    static func areSound(_ bytes: UnsafeRawBufferPointer, extensionLength: Int) -> Bool {
        guard extensionLength <= bytes.count else { return false }
        let commonEnd = bytes.count - extensionLength
        var reader = PropertyReader(bytes: bytes)
        var seen: UInt8 = 0
        while reader.offset < bytes.count {
            let start = reader.offset
            guard let identifier = Identifier(rawValue: bytes[start]), let bit = reader.take(identifier),
                isExtension(identifier) == (start >= commonEnd), start >= commonEnd || reader.offset <= commonEnd,
                seen & bit == 0
            else { return false }
            seen |= bit
        }
        return true
    }

    private static func isExtension(_ identifier: Identifier) -> Bool {
        switch identifier {
        case .messageID, .priority, .foreign: true
        case .payloadFormat, .contentType, .responseTopic, .correlationData, .userProperty: false
        }
    }
}

/// Goes through properties, MQTT 5 §2.2.2.
private struct PropertyReader {
    let bytes: UnsafeRawBufferPointer
    var offset = 0

    /// Takes one property.
    /// - Returns: the bit that stands for it, 0 for one that may be there many times; nil when it is malformed.
    mutating func take(_ identifier: EventProperties.Identifier) -> UInt8? {
        offset += 1
        switch identifier {
        case .payloadFormat: return take(1).flatMap { $0[0] <= 1 ? 1 : nil }
        case .contentType: return takeBlock().flatMap { Topic.isText($0) ? 2 : nil }
        case .responseTopic: return takeBlock().flatMap { Self.isTopicName($0) ? 4 : nil }
        case .correlationData: return takeBlock() == nil ? nil : 8
        case .userProperty:
            guard let name = takeBlock(), let value = takeBlock(), Topic.isText(name), Topic.isText(value) else {
                return nil
            }
            return 0
        case .messageID: return takeBlock().flatMap { $0.count <= 1_024 ? 16 : nil }
        case .priority: return take(1) == nil ? nil : 32
        case .foreign:
            guard take(1) != nil, let length = take(4) else { return nil }
            let count = Int(UInt32(bigEndian: length.loadUnaligned(as: UInt32.self)))
            guard count <= EventPropertiesWriter.maxForeignBytes, take(count) != nil, offset == bytes.count else {
                return nil
            }
            return 64
        }
    }

    private static func isTopicName(_ text: UnsafeRawBufferPointer) -> Bool {
        !text.isEmpty && Topic.isText(text) && !text.contains { $0 == UInt8(ascii: "+") || $0 == UInt8(ascii: "#") }
    }

    private mutating func take(_ count: Int) -> UnsafeRawBufferPointer? {
        guard count >= 0, bytes.count - offset >= count else { return nil }
        defer { offset += count }
        return UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
    }

    private mutating func takeBlock() -> UnsafeRawBufferPointer? {
        guard let length = take(2) else { return nil }
        return take(Int(length[0]) << 8 | Int(length[1]))
    }
}
