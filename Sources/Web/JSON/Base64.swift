/// Base64 (RFC 4648 §4): the standard alphabet, with padding.

/// Bytes as text, and back. Strict when reading: no line breaks, padding where it belongs, and no bits in it, so that
/// each run of bytes has one text.
enum Base64 {
    /// Bytes as text.
    static func encode(_ data: some Collection<UInt8>) -> [UInt8] {
        var text: [UInt8] = []
        Array(data).withUnsafeBytes { append($0, to: &text) }
        return text
    }

    /// Adds bytes as text.
    static func append(_ data: UnsafeRawBufferPointer, to text: inout [UInt8]) {
        // Grows as arrays grow: reserving the exact count at each call would copy what is there each time.
        if text.isEmpty { text.reserveCapacity((data.count / 3 + 1) * 4) }
        var place = 0
        while data.count - place >= 3 {
            let bits = UInt32(data[place]) << 16 | UInt32(data[place + 1]) << 8 | UInt32(data[place + 2])
            text.append(digit(bits >> 18))
            text.append(digit(bits >> 12))
            text.append(digit(bits >> 6))
            text.append(digit(bits))
            place += 3
        }
        let rest = data.count - place
        guard rest > 0 else { return }
        let bits = UInt32(data[place]) << 16 | (rest == 2 ? UInt32(data[place + 1]) << 8 : 0)
        text.append(digit(bits >> 18))
        text.append(digit(bits >> 12))
        text.append(rest == 2 ? digit(bits >> 6) : padding)
        text.append(padding)
    }

    /// The bytes that a text stands for; nil when it is no base64.
    static func decode(_ text: some Collection<UInt8>) -> [UInt8]? {
        guard text.count % 4 == 0 else { return nil }
        var data: [UInt8] = []
        data.reserveCapacity(text.count / 4 * 3)
        var bits: UInt32 = 0
        var digits = 0
        var paddings = 0
        for byte in text {
            if byte == padding {
                paddings += 1
                bits <<= 6
            } else {
                guard paddings == 0, let value = value(byte) else { return nil }
                bits = bits << 6 | value
            }
            digits += 1
            guard digits == 4 else { continue }
            // What the padding leaves out must be nothing.
            guard paddings <= 2, bits & (1 << UInt32(paddings * 8) - 1) == 0 else { return nil }
            data.append(UInt8(truncatingIfNeeded: bits >> 16))
            if paddings < 2 { data.append(UInt8(truncatingIfNeeded: bits >> 8)) }
            if paddings < 1 { data.append(UInt8(truncatingIfNeeded: bits)) }
            (bits, digits) = (0, 0)
        }
        return data
    }

    private static let padding = UInt8(ascii: "=")
    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    private static func digit(_ bits: UInt32) -> UInt8 { alphabet[Int(bits & 63)] }

    private static func value(_ byte: UInt8) -> UInt32? {
        switch byte {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): UInt32(byte - UInt8(ascii: "A"))
        case UInt8(ascii: "a")...UInt8(ascii: "z"): UInt32(byte - UInt8(ascii: "a")) + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt32(byte - UInt8(ascii: "0")) + 52
        case UInt8(ascii: "+"): 62
        case UInt8(ascii: "/"): 63
        default: nil
        }
    }
}
