/// Writes JSON: commas and escapes are put where they belong; the caller sees to it that objects and arrays are closed.
import Core

/// A JSON text that grows. What it wrote is valid JSON in UTF-8 whatever it was given.
struct JSONWriter {
    /// The text so far.
    var bytes: [UInt8]
    /// Whether a comma comes before the next name or value.
    private var needsComma = false

    /// Nothing yet, or behind something else: `bytes` is kept.
    init(_ bytes: [UInt8] = []) { self.bytes = bytes }

    /// `{`
    mutating func beginObject() { begin(UInt8(ascii: "{")) }
    /// `}`
    mutating func endObject() { end(UInt8(ascii: "}")) }
    /// `[`
    mutating func beginArray() { begin(UInt8(ascii: "[")) }
    /// `]`
    mutating func endArray() { end(UInt8(ascii: "]")) }

    /// A member's name that needs no escapes.
    mutating func key(_ name: StaticString) {
        separate()
        bytes.append(UInt8(ascii: "\""))
        bytes.append(contentsOf: UnsafeBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount))
        bytes.append(UInt8(ascii: "\""))
        bytes.append(UInt8(ascii: ":"))
        needsComma = false
    }

    /// A member's name.
    mutating func key(text name: some Collection<UInt8>) {
        string(name)
        bytes.append(UInt8(ascii: ":"))
        needsComma = false
    }

    /// A string. What is no UTF-8 in it is replaced.
    mutating func string(_ text: some Collection<UInt8>) {
        separate()
        if text.withContiguousStorageIfAvailable({ append(UnsafeRawBufferPointer($0)) }) == nil {
            Array(text).withUnsafeBytes { append($0) }
        }
        needsComma = true
    }

    /// A string.
    mutating func string(_ text: String) { string(text.utf8) }

    /// A number.
    mutating func number(_ number: Int) {
        separate()
        bytes.append(contentsOf: String(number).utf8)
        needsComma = true
    }

    /// `true` or `false`
    mutating func bool(_ truth: Bool) {
        separate()
        bytes.append(contentsOf: (truth ? "true" : "false").utf8)
        needsComma = true
    }

    /// `null`
    mutating func null() {
        separate()
        bytes.append(contentsOf: "null".utf8)
        needsComma = true
    }

    /// A value that is JSON already.
    mutating func raw(_ value: some Collection<UInt8>) {
        separate()
        bytes.append(contentsOf: value)
        needsComma = true
    }

    /// Bytes, as a string in base64.
    mutating func base64(_ data: UnsafeRawBufferPointer) {
        separate()
        bytes.append(UInt8(ascii: "\""))
        Base64.append(data, to: &bytes)
        bytes.append(UInt8(ascii: "\""))
        needsComma = true
    }

    // MARK: Inside

    private mutating func separate() {
        if needsComma { bytes.append(UInt8(ascii: ",")) }
    }

    private mutating func begin(_ bracket: UInt8) {
        separate()
        bytes.append(bracket)
        needsComma = false
    }

    private mutating func end(_ bracket: UInt8) {
        bytes.append(bracket)
        needsComma = true
    }

    private mutating func append(_ text: UnsafeRawBufferPointer) {
        bytes.append(UInt8(ascii: "\""))
        if Topic.isUTF8(text) {
            appendEscaped(text)
        } else {
            Array(String(decoding: text, as: UTF8.self).utf8).withUnsafeBytes { appendEscaped($0) }
        }
        bytes.append(UInt8(ascii: "\""))
    }

    private mutating func appendEscaped(_ text: UnsafeRawBufferPointer) {
        var start = 0
        for (place, byte) in text.enumerated() {
            guard byte < 0x20 || byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "\\") || byte == 0x7F else {
                continue
            }
            bytes.append(contentsOf: text[start..<place])
            start = place + 1
            bytes.append(UInt8(ascii: "\\"))
            switch byte {
            case 10: bytes.append(UInt8(ascii: "n"))
            case 13: bytes.append(UInt8(ascii: "r"))
            case 9: bytes.append(UInt8(ascii: "t"))
            case UInt8(ascii: "\""), UInt8(ascii: "\\"): bytes.append(byte)
            default:
                bytes.append(contentsOf: "u00".utf8)
                bytes.append(Percent.hex(byte >> 4))
                bytes.append(Percent.hex(byte & 15))
            }
        }
        bytes.append(contentsOf: text[start...])
    }
}
