import Core

@testable import MQTT

/// The parsers alone, at millions of inputs: no read beyond the end, no trap, and what they say agrees with a plainer
/// way to find out.

/// The first byte chooses the parser, the rest is its input.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 0 else { return 0 }
    let bytes = UnsafeRawBufferPointer(start: start + 1, count: count - 1)
    switch start[0] % 9 {
    case 0: framing(bytes)
    case 1: _ = try? ConnectPacket(bytes, limits: Limits())
    case 2: subscribe(bytes)
    case 3: unsubscribe(bytes)
    case 4: text(bytes)
    case 5: publish(bytes)
    case 6: acknowledgements(bytes)
    case 8: properties(bytes)
    default: filter(bytes)
    }
    return 0
}

private func framing(_ bytes: UnsafeRawBufferPointer) {
    switch Framing.of(bytes) {
    case .incomplete: precondition(bytes.count < 5)
    case .malformed: precondition(bytes.count >= 5 && bytes[1...4].allSatisfy { $0 >= 0x80 })
    case .packet(let header, let remaining):
        precondition((2...5).contains(header) && header <= bytes.count)
        precondition((0...268_435_455).contains(remaining))
    }
}

private func subscribe(_ bytes: UnsafeRawBufferPointer) {
    _ = try? SubscribePacket(bytes, version: .v5)
    guard let packet = try? SubscribePacket(bytes, version: .v3_1_1) else { return }
    precondition(packet.identifier != 0 && !packet.entries.isEmpty)
    // Nothing was made up and nothing left out.
    precondition(packet.entries.reduce(2) { $0 + 3 + $1.filter.count } == bytes.count)
}

private func unsubscribe(_ bytes: UnsafeRawBufferPointer) {
    _ = try? UnsubscribePacket(bytes, version: .v5)
    guard let packet = try? UnsubscribePacket(bytes, version: .v3_1_1) else { return }
    precondition(packet.identifier != 0 && !packet.filters.isEmpty)
    precondition(packet.filters.reduce(2) { $0 + 2 + $1.count } == bytes.count)
}

private func publish(_ bytes: UnsafeRawBufferPointer) {
    guard let base = bytes.baseAddress else { return }
    for isVersion5 in [false, true] {
        guard
            case .frame(let frame) = PublishFrame.read(
                base, bytes.count, maxBytes: 1 << 20, isVersion5: isVersion5)
        else { continue }
        let end = base + frame.length
        precondition(frame.length <= bytes.count && frame.payload + frame.payloadLength == end)
        precondition(frame.topic + frame.topicLength <= frame.properties)
        precondition(frame.properties + frame.propertiesLength == frame.payload)
        guard isVersion5 else { continue }
        let section = UnsafeRawBufferPointer(start: frame.properties, count: frame.propertiesLength)
        guard let properties = try? PublishProperties(section, Turn()) else { continue }
        let left = (properties.expirySeconds == nil ? 0 : 5) + (properties.alias == nil ? 0 : 3)
        precondition(properties.forwarded.count + left == section.count)
    }
}

private func acknowledgements(_ bytes: UnsafeRawBufferPointer) {
    for version in [MQTTVersion.v3_1_1, .v5] {
        for type in [PacketType.puback, .pubrec, .pubrel, .pubcomp] {
            guard let packet = try? AcknowledgePacket(bytes, type, version: version) else { continue }
            precondition(packet.identifier != 0 && (version == .v5 || bytes.count == 2))
        }
        guard let packet = try? DisconnectPacket(bytes, version: version) else { continue }
        precondition(!packet.keepsWill || version == .v5)
    }
}

private func text(_ bytes: UnsafeRawBufferPointer) {
    let isUTF8 = String(validating: bytes, as: UTF8.self) != nil
    precondition(Topic.isUTF8(bytes) == isUTF8)
    precondition(Topic.isText(bytes) == (isUTF8 && !bytes.contains(0)))
    let isTopic =
        isUTF8 && !bytes.isEmpty && !bytes.contains { $0 == 0 || $0 == 0x23 || $0 == 0x2B } && bytes.count <= 65_535
        && bytes.count { $0 == 0x2F } < 128
    precondition(Topic.isValid(bytes, limits: Limits()) == isTopic)
}

/// A filter and a topic, separated by a NUL: the compiled filter against a matcher that splits strings.
private func filter(_ bytes: UnsafeRawBufferPointer) {
    let parts = bytes.split(separator: 0, maxSplits: 1, omittingEmptySubsequences: false)
    guard let filter = try? TopicFilter(Array(parts[0]), grammar: .mqtt, limits: Limits()) else { return }
    precondition(filter.covers(filter) && filter.intersects(filter))
    guard parts.count == 2, Topic.isValid(UnsafeRawBufferPointer(rebasing: parts[1]), limits: Limits()) else { return }
    let levels = filter.bytes.split(separator: 0x2F, omittingEmptySubsequences: false).map { Array($0) }
    let topic = parts[1].split(separator: 0x2F, omittingEmptySubsequences: false).map { Array($0) }
    let isHidden = topic[0].first == 0x24 && [[0x23], [0x2B]].contains(levels[0])
    let wanted = !isHidden && matches(levels[...], topic[...])
    precondition(filter.matches(UnsafeRawBufferPointer(rebasing: parts[1])) == wanted)
}

private func matches(_ filter: ArraySlice<[UInt8]>, _ topic: ArraySlice<[UInt8]>) -> Bool {
    guard let first = filter.first else { return topic.isEmpty }
    if first == [0x23] { return true }
    guard let level = topic.first, first == [0x2B] || first == level else { return false }
    return matches(filter.dropFirst(), topic.dropFirst())
}

/// Properties of each packet: consecutive, to the end, none twice but user properties.
private func properties(_ bytes: UnsafeRawBufferPointer) {
    let sets: [PropertySet] = [.connect, .will, .publish, .acknowledgement, .subscribe, .unsubscribe, .disconnect]
    for allowed in sets {
        var reader = PropertyReader(bytes, allowed: allowed)
        var end = 0
        var seen: Set<UInt8> = []
        while let property = try? reader.next() {
            precondition(allowed.contains(property.identifier) && property.range.lowerBound == end)
            precondition(seen.insert(property.identifier.rawValue).inserted || property.identifier == .userProperty)
            precondition(bytes[end] == property.identifier.rawValue && property.range.upperBound <= bytes.count)
            end = property.range.upperBound
        }
    }
    let turn = Turn()
    if let packet = try? PublishProperties(bytes, turn) {
        precondition(
            packet.forwarded.count <= bytes.count && packet.isVerbatim == (packet.forwarded.count == bytes.count))
    }
}
