import Core

/// One packet in one line, for people. Lenient: what is cut off or wrong is described as far as it goes, because the
/// interesting packets are often those. Credentials are never shown, payloads only when asked for.
struct PacketText {
    /// Bytes of a text (topic, filter, property) that are shown.
    private static let shownText = 256
    /// Bytes of a payload that are shown.
    private static let shownPayload = 128
    /// Filters or reason codes of one packet that are shown.
    private static let shownEntries = 16
    /// Properties of one packet that are shown.
    private static let shownProperties = 32

    private var walker: Walker
    private var words: [String] = []
    /// Bytes of the whole packet on the wire, of which `walker` may know only the first.
    private let size: Int
    private let showsPayload: Bool

    /// Describes a packet.
    /// - Parameters:
    ///   - head: the packet's first bytes, or all.
    ///   - size: bytes of the whole packet.
    ///   - version: of the connection; a CONNECT in `head` says its own and changes it.
    static func describe(
        _ head: [UInt8], size: Int, version: inout MQTTVersion, showsPayload: Bool
    ) -> String {
        var text = PacketText(walker: Walker(head), size: size, showsPayload: showsPayload)
        text.describe(&version)
        return text.words.joined(separator: " ")
    }

    private init(walker: Walker, size: Int, showsPayload: Bool) {
        self.walker = walker
        self.size = size
        self.showsPayload = showsPayload
    }

    private mutating func describe(_ version: inout MQTTVersion) {
        guard let first = walker.byte() else { return words.append("nothing") }
        walker.skipVariableInteger()
        let start = walker.offset
        guard let type = PacketType(rawValue: first >> 4) else {
            return words.append("unknown type \(first >> 4), \(size) bytes")
        }
        words.append(String(describing: type).uppercased())
        switch type {
        case .connect: connect(&version)
        case .connack: connack(version)
        case .publish: publish(first, start, version)
        case .puback, .pubrec, .pubrel, .pubcomp: acknowledgement(version)
        case .subscribe: filters(version, hasOptions: true)
        case .unsubscribe: filters(version, hasOptions: false)
        case .suback, .unsuback: codes(version)
        case .disconnect, .auth: reasonAndProperties(version)
        case .pingreq, .pingresp: break
        }
        if walker.isCutOff { words.append(size > walker.count ? "(beginning)" : "(cut off)") }
    }

    // MARK: Packet types

    private mutating func connect(_ version: inout MQTTVersion) {
        let name = walker.text(Self.shownText) ?? "?"
        let level = walker.byte() ?? 0
        if let said = MQTTVersion(rawValue: level & 0x7F) { version = said }
        words.append("\(name)/\(level & 0x7F)")
        let flags = walker.byte() ?? 0
        words.append("clean=\(flags >> 1 & 1)")
        if let seconds = walker.uint16() { words.append("keepalive=\(seconds)") }
        if version == .v5 { properties() }
        if let id = walker.text(Self.shownText) { words.append("client=\(id)") }
        if flags & 0x04 != 0 {
            words.append("will(qos=\(flags >> 3 & 3) retain=\(flags >> 5 & 1)")
            if version == .v5 { properties() }
            if let topic = walker.text(Self.shownText) { words.append("topic=\(topic)") }
            if let count = walker.skipBinary() { words.append("payload=\(count)B") }
            words[words.count - 1] += ")"
        }
        if flags & 0x80 != 0, let user = walker.text(Self.shownText) { words.append("user=\(user)") }
        // Not even its length: that is a secret as well.
        if flags & 0x40 != 0 {
            _ = walker.skipBinary()
            words.append("password=***")
        }
    }

    private mutating func connack(_ version: MQTTVersion) {
        if let flags = walker.byte() { words.append("session=\(flags & 1)") }
        reason(version)
        if version == .v5 { properties() }
    }

    private mutating func publish(_ first: UInt8, _ start: Int, _ version: MQTTVersion) {
        let qos = first >> 1 & 3
        words.append("qos=\(qos)")
        if first & 8 != 0 { words.append("dup") }
        if first & 1 != 0 { words.append("retain") }
        let topic = walker.text(Self.shownText)
        if qos > 0, let identifier = walker.uint16() { words.append("id=\(identifier)") }
        if let topic { words.append("topic=\(topic)") }
        if version == .v5 { properties() }
        // Behind a topic that is longer than what was kept nobody knows where the payload begins.
        guard !walker.isCutOff else { return }
        let payload = size - walker.offset
        words.append("payload=\(payload)B")
        if showsPayload, payload > 0 { words.append(walker.rest(Self.shownPayload, of: payload)) }
    }

    private mutating func acknowledgement(_ version: MQTTVersion) {
        if let identifier = walker.uint16() { words.append("id=\(identifier)") }
        reasonAndProperties(version)
    }

    /// What MQTT 5 may leave out when there is nothing to say.
    private mutating func reasonAndProperties(_ version: MQTTVersion) {
        guard version == .v5, !walker.isAtEnd else { return }
        reason(version)
        if !walker.isAtEnd { properties() }
    }

    private mutating func reason(_ version: MQTTVersion) {
        guard let code = walker.byte() else { return }
        words.append("reason=" + Self.name(code, version))
    }

    private mutating func filters(_ version: MQTTVersion, hasOptions: Bool) {
        if let identifier = walker.uint16() { words.append("id=\(identifier)") }
        if version == .v5 { properties() }
        var shown = 0
        while !walker.isAtEnd {
            guard let filter = walker.text(Self.shownText) else { return }
            var word = "filter=\(filter)"
            if hasOptions {
                guard let options = walker.byte() else { return }
                word += ":\(options & 3)"
                if options & 4 != 0 { word += ",no-local" }
                if options & 8 != 0 { word += ",retain-as-published" }
                if options >> 4 != 0 { word += ",retain-handling=\(options >> 4 & 3)" }
            }
            shown += 1
            if shown <= Self.shownEntries { words.append(word) }
        }
        if shown > Self.shownEntries { words.append("and \(shown - Self.shownEntries) more") }
    }

    private mutating func codes(_ version: MQTTVersion) {
        if let identifier = walker.uint16() { words.append("id=\(identifier)") }
        if version == .v5 { properties() }
        var names: [String] = []
        var left = 0
        while !walker.isAtEnd, let code = walker.byte() {
            if names.count < Self.shownEntries { names.append(Self.name(code, version)) } else { left += 1 }
        }
        if !names.isEmpty { words.append("reasons=" + names.joined(separator: ",")) }
        if left > 0 { words.append("and \(left) more") }
    }

    private static func name(_ code: UInt8, _ version: MQTTVersion) -> String {
        let digits = String(code, radix: 16)
        let hexadecimal = "0x" + (digits.count < 2 ? "0" : "") + digits
        guard version == .v5, let known = ReasonCode(rawValue: code) else { return hexadecimal }
        return "\(hexadecimal)(\(known))"
    }

    // MARK: Properties

    private mutating func properties() {
        guard let length = walker.variableInteger(), length > 0 else { return }
        let end = walker.offset + length
        var shown: [String] = []
        var isKnown = true
        while walker.offset < end, !walker.isCutOff, shown.count < Self.shownProperties {
            guard let byte = walker.byte() else { break }
            guard let identifier = PropertyID(rawValue: byte), let text = value(of: identifier) else {
                shown.append("unknown \(byte)")
                isKnown = false
                break
            }
            shown.append("\(identifier)=\(text)")
        }
        if isKnown, walker.offset < end { shown.append("…") }
        walker.skip(to: end)
        words.append("{" + shown.joined(separator: " ") + "}")
    }

    private mutating func value(of identifier: PropertyID) -> String? {
        switch identifier {
        case .payloadFormat, .requestProblemInformation, .requestResponseInformation, .maximumQoS, .retainAvailable,
            .wildcardSubscriptionAvailable, .subscriptionIdentifiersAvailable, .sharedSubscriptionAvailable:
            return walker.byte().map { "\($0)" }
        case .serverKeepAlive, .topicAliasMaximum, .topicAlias, .receiveMaximum: return walker.uint16().map { "\($0)" }
        case .messageExpiry, .sessionExpiry, .willDelay, .maximumPacketSize: return walker.uint32().map { "\($0)" }
        case .subscriptionIdentifier: return walker.variableInteger().map { "\($0)" }
        case .authenticationData: return walker.skipBinary().map { _ in "***" }
        case .correlationData: return walker.skipBinary().map { "\($0)B" }
        case .contentType, .assignedClientIdentifier, .authenticationMethod, .responseInformation, .serverReference,
            .reasonString, .responseTopic:
            return walker.text(Self.shownText)
        case .userProperty:
            guard let name = walker.text(Self.shownText), let value = walker.text(Self.shownText) else { return nil }
            return "\(name):\(value)"
        }
    }
}

/// Walks through the first bytes of a packet without trusting any length in it. Once something is missing nothing more
/// is found.
private struct Walker {
    private let bytes: [UInt8]
    private(set) var offset = 0
    /// Whether something was asked for that is not there.
    private(set) var isCutOff = false

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var count: Int { bytes.count }
    var isAtEnd: Bool { isCutOff || offset >= bytes.count }

    mutating func byte() -> UInt8? {
        guard !isCutOff, offset < bytes.count else {
            isCutOff = true
            return nil
        }
        defer { offset += 1 }
        return bytes[offset]
    }

    mutating func uint16() -> Int? {
        guard let high = byte(), let low = byte() else { return nil }
        return Int(high) << 8 | Int(low)
    }

    mutating func uint32() -> Int? {
        guard let high = uint16(), let low = uint16() else { return nil }
        return high << 16 | low
    }

    mutating func variableInteger() -> Int? {
        var value = 0
        for shift in [0, 7, 14, 21] {
            guard let byte = byte() else { return nil }
            value |= Int(byte & 0x7F) << shift
            if byte < 0x80 { return value }
        }
        isCutOff = true
        return nil
    }

    mutating func skipVariableInteger() { _ = variableInteger() }

    /// Skips a field with a length of two bytes in front.
    /// - Returns: its bytes.
    mutating func skipBinary() -> Int? {
        guard let count = uint16() else { return nil }
        skip(to: offset + count)
        return count
    }

    mutating func skip(to end: Int) {
        if end > bytes.count { isCutOff = true }
        offset = max(offset, min(end, bytes.count))
    }

    /// A text with its length in front, of which the first bytes are shown.
    mutating func text(_ shown: Int) -> String? {
        guard let count = uint16() else { return nil }
        let start = offset
        skip(to: start + count)
        return Self.quoted(bytes[start..<offset], shown, of: count)
    }

    /// The bytes from here on, as far as they are shown.
    func rest(_ shown: Int, of count: Int) -> String { Self.quoted(bytes[offset...], shown, of: count) }

    /// Text in quotes; what is no printable text is escaped.
    private static func quoted(_ bytes: ArraySlice<UInt8>, _ shown: Int, of count: Int) -> String {
        var text = "\""
        for scalar in String(decoding: bytes.prefix(shown), as: UTF8.self).unicodeScalars {
            switch scalar {
            case "\"", "\\": text += "\\" + String(scalar)
            case _ where scalar.value < 0x20 || (0x7F..<0xA0).contains(scalar.value):
                text += "\\u{" + String(scalar.value, radix: 16) + "}"
            default: text.unicodeScalars.append(scalar)
            }
        }
        return text + (min(shown, bytes.count) < count ? "…\"" : "\"")
    }
}
