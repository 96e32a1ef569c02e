/// Topics: UTF-8 levels separated by `/`. An empty level is a level like any other; NUL and the MQTT wildcards are
/// illegal in a topic that is published (MQTT 3.1.1 §4.7).
public enum Topic {
    /// The most levels any topic or filter may have; the match stack is sized by it.
    public static let maxLevels = 128

    /// Whether these bytes may be published to.
    ///
    /// `*` and `>` are ordinary characters of a topic: they mean something only in a filter of the SMF grammar.
    public static func isValid(_ topic: UnsafeRawBufferPointer, limits: Limits) -> Bool {
        guard topic.count > 0, topic.count <= limits.maxTopicBytes else { return false }
        var levels = 1
        var ascii = true
        for byte in topic {
            switch byte {
            case UInt8(ascii: "/"): levels &+= 1
            case 0, UInt8(ascii: "+"), UInt8(ascii: "#"): return false
            case 0x80...: ascii = false
            default: break
            }
        }
        guard levels <= limits.maxTopicLevels else { return false }
        return ascii || isUTF8(topic)
    }

    /// Whether the bytes are well-formed UTF-8 (no surrogates, no overlong forms; RFC 3629).
    public static func isUTF8(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var index = 0
        while index < bytes.count {
            let lead = bytes[index]
            if lead < 0x80 {
                index += 1
                continue
            }
            // The second byte's range is what rules out overlong forms, surrogates and code points past U+10FFFF.
            let length: Int
            let second: ClosedRange<UInt8>
            switch lead {
            case 0xC2...0xDF: (length, second) = (2, 0x80...0xBF)
            case 0xE0: (length, second) = (3, 0xA0...0xBF)
            case 0xE1...0xEC, 0xEE...0xEF: (length, second) = (3, 0x80...0xBF)
            case 0xED: (length, second) = (3, 0x80...0x9F)
            case 0xF0: (length, second) = (4, 0x90...0xBF)
            case 0xF1...0xF3: (length, second) = (4, 0x80...0xBF)
            case 0xF4: (length, second) = (4, 0x80...0x8F)
            default: return false
            }
            guard index + length <= bytes.count, second.contains(bytes[index + 1]) else { return false }
            for offset in 2..<max(length, 2) where bytes[index + offset] & 0xC0 != 0x80 { return false }
            index += length
        }
        return true
    }

    /// Whether the bytes are a string of a protocol: UTF-8 without NUL (MQTT 3.1.1 §1.5.3).
    public static func isText(_ bytes: UnsafeRawBufferPointer) -> Bool { !bytes.contains(0) && isUTF8(bytes) }
}
