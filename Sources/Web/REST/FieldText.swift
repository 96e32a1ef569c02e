/// Any bytes as the value or the name of a header field, and back: what a field cannot hold is percent-encoded, so that
/// no property of an event ends a line, begins a field, or is lost.

enum FieldText {
    /// What is escaped besides control characters, everything that is not ASCII, and space at either end.
    enum Style {
        /// `%`, so that the value comes back exactly.
        case escaped
        /// `%`, space and `"`: an attribute of a CloudEvent (HTTP binding §3.1.3.2).
        case attribute
        /// Nothing else: a field with a syntax of its own, in which `%` may mean something already.
        case own
    }

    /// A field's value.
    static func encode(_ value: UnsafeRawBufferPointer, _ style: Style) -> String {
        var text: [UInt8] = []
        text.reserveCapacity(value.count)
        for (place, byte) in value.enumerated() {
            let isPlain =
                switch byte {
                case 0x20: style != .attribute && place > 0 && place < value.count - 1
                case UInt8(ascii: "%"): style == .own
                case UInt8(ascii: "\""): style != .attribute
                default: byte > 0x20 && byte < 0x7F
                }
            append(byte, isPlain: isPlain, to: &text)
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// A field's name, behind a prefix.
    static func name(_ prefix: String, _ name: UnsafeRawBufferPointer) -> String {
        var text = Array(prefix.utf8)
        for byte in name {
            append(byte, isPlain: byte != UInt8(ascii: "%") && Token.contains(byte), to: &text)
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// The bytes that a value or a name stands for; nil when an escape is incomplete. Bytes that need no escape may
    /// come without one, UTF-8 too.
    static func decode(_ text: UnsafeRawBufferPointer) -> [UInt8]? {
        guard text.contains(UInt8(ascii: "%")) else { return Array(text) }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.count)
        var place = 0
        while place < text.count {
            if text[place] != UInt8(ascii: "%") {
                bytes.append(text[place])
                place += 1
            } else {
                guard text.count - place >= 3, let high = Percent.digit(text[place + 1]),
                    let low = Percent.digit(text[place + 2])
                else { return nil }
                bytes.append(high << 4 | low)
                place += 3
            }
        }
        return bytes
    }

    /// A CloudEvent's attribute: a quoted string is unquoted first.
    static func decodeAttribute(_ text: UnsafeRawBufferPointer) -> [UInt8]? {
        guard text.count >= 2, text.first == UInt8(ascii: "\""), text.last == UInt8(ascii: "\"") else {
            return decode(text)
        }
        var inner: [UInt8] = []
        var isEscaped = false
        for byte in text[1..<text.count - 1] {
            if !isEscaped, byte == UInt8(ascii: "\\") {
                isEscaped = true
            } else {
                guard isEscaped || byte != UInt8(ascii: "\"") else { return nil }
                inner.append(byte)
                isEscaped = false
            }
        }
        guard !isEscaped else { return nil }
        return inner.withUnsafeBytes { decode($0) }
    }

    private static func append(_ byte: UInt8, isPlain: Bool, to text: inout [UInt8]) {
        guard !isPlain else { return text.append(byte) }
        text.append(UInt8(ascii: "%"))
        text.append(Percent.hex(byte >> 4))
        text.append(Percent.hex(byte & 15))
    }
}
