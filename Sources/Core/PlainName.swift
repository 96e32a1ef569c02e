/// Names that an administrator gives to what a node has, such as webhooks and bridges.
public enum PlainName {
    /// Whether a text is one: a letter or digit of ASCII, then letters, digits, `.`, `_` and `-`.
    public static func isOne(_ name: String, maxBytes: Int) -> Bool {
        guard let first = name.utf8.first, name.utf8.count <= maxBytes, isAlphanumeric(first) else { return false }
        return name.utf8.allSatisfy { isAlphanumeric($0) || "._-".utf8.contains($0) }
    }

    private static func isAlphanumeric(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        default: false
        }
    }
}
