/// Base64 (RFC 4648) in three dialects: without padding, as password hashes in PHC form use it; with padding, for
/// SCRAM; and the URL's alphabet without padding, for tokens and their keys. Strict: what is not canonical is refused,
/// so that one value has one text.
enum Base64 {
    enum Dialect {
        /// `+` and `/`, no padding.
        case plain
        /// `+` and `/`, padded with `=` to a multiple of four.
        case padded
        /// `-` and `_`, no padding (RFC 7515 §2).
        case url
    }

    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789".utf8)
    private static let padding = UInt8(ascii: "=")

    /// The text of `bytes`.
    static func encode(_ bytes: [UInt8], _ dialect: Dialect = .plain) -> String {
        var text: [UInt8] = []
        text.reserveCapacity(bytes.count * 4 / 3 + 4)
        var held: UInt32 = 0
        var bits = 0
        for byte in bytes {
            held = held << 8 | UInt32(byte)
            bits += 8
            while bits >= 6 {
                bits -= 6
                text.append(character(held >> UInt32(bits) & 0x3F, dialect))
            }
        }
        if bits > 0 { text.append(character(held << UInt32(6 - bits) & 0x3F, dialect)) }
        while dialect == .padded, text.count % 4 != 0 { text.append(padding) }
        return String(decoding: text, as: UTF8.self)
    }

    /// The bytes that `text` stands for, or nil when it is not canonical.
    static func decode(_ text: some StringProtocol, _ dialect: Dialect = .plain) -> [UInt8]? {
        decode(Array(text.utf8)[...], dialect)
    }

    /// The bytes that `text` stands for, or nil when it is not canonical.
    static func decode(_ text: ArraySlice<UInt8>, _ dialect: Dialect = .plain) -> [UInt8]? {
        var text = text
        if dialect == .padded {
            guard text.count % 4 == 0 else { return nil }
            for _ in 0..<2 where text.last == padding { text.removeLast() }
        }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.count * 3 / 4)
        var held: UInt32 = 0
        var bits = 0
        for character in text {
            guard let value = value(of: character, dialect) else { return nil }
            held = held << 6 | value
            bits += 6
            if bits >= 8 {
                bits -= 8
                bytes.append(UInt8(truncatingIfNeeded: held >> UInt32(bits)))
            }
        }
        // Six bits left over cannot come from a whole byte, and bits that no byte uses must be zero.
        guard bits < 6, held & ((1 << UInt32(bits)) - 1) == 0 else { return nil }
        return bytes
    }

    private static func character(_ value: UInt32, _ dialect: Dialect) -> UInt8 {
        switch value {
        case 62: dialect == .url ? UInt8(ascii: "-") : UInt8(ascii: "+")
        case 63: dialect == .url ? UInt8(ascii: "_") : UInt8(ascii: "/")
        default: alphabet[Int(value)]
        }
    }

    private static func value(of character: UInt8, _ dialect: Dialect) -> UInt32? {
        switch character {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): UInt32(character - UInt8(ascii: "A"))
        case UInt8(ascii: "a")...UInt8(ascii: "z"): UInt32(character - UInt8(ascii: "a")) + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt32(character - UInt8(ascii: "0")) + 52
        case UInt8(ascii: "+") where dialect != .url, UInt8(ascii: "-") where dialect == .url: 62
        case UInt8(ascii: "/") where dialect != .url, UInt8(ascii: "_") where dialect == .url: 63
        default: nil
        }
    }
}
