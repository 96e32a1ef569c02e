/// Sizes as people write them.
enum Size {
    private static let units: [(suffix: String, shift: Int)] = [("GiB", 30), ("MiB", 20), ("KiB", 10)]

    /// Reads `16MiB`, `64KiB`, `1GiB` or plain bytes; nil for anything else and for what does not fit.
    static func bytes(of text: String) -> Int? {
        for (suffix, shift) in units where text.hasSuffix(suffix) {
            guard let count = digits(text.dropLast(suffix.count)) else { return nil }
            let (bytes, overflow) = count.multipliedReportingOverflow(by: 1 << shift)
            return overflow ? nil : bytes
        }
        return digits(text[...])
    }

    /// The shortest text of `bytes`.
    static func text(of bytes: Int) -> String {
        for (suffix, shift) in units where bytes > 0 && bytes % (1 << shift) == 0 {
            return "\(bytes >> shift)\(suffix)"
        }
        return String(bytes)
    }

    private static func digits(_ text: Substring) -> Int? {
        text.utf8.allSatisfy { (0x30...0x39).contains($0) } ? Int(text) : nil
    }
}
