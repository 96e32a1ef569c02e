/// Values as text, for protocols that have nothing else.
enum ValueText {
    /// Appends the text of a value: numbers in decimal, `true` and `false`, timestamps as RFC 3339, UUIDs in their
    /// usual form, binary in base64, which is also what CloudEvents asks for.
    /// - Returns: false, and nothing is appended, for null, decimals, lists, maps, arrays and described values.
    static func append(_ value: Value, to text: inout [UInt8]) -> Bool {
        switch value.type {
        case .string, .symbol: text += value.bytes
        case .boolean: text += value.isTrue ? "true".utf8 : "false".utf8
        case .ubyte, .ushort, .uint, .ulong: append(value.unsigned ?? 0, digits: 1, to: &text)
        case .byte, .short, .int, .long: append(value.signed ?? 0, to: &text)
        case .timestamp: appendTime(value.signed ?? 0, to: &text)
        case .float:
            let bits = UInt32(bigEndian: value.start.loadUnaligned(as: UInt32.self))
            text += Float(bitPattern: bits).description.utf8
        case .double:
            let bits = UInt64(bigEndian: value.start.loadUnaligned(as: UInt64.self))
            text += Double(bitPattern: bits).description.utf8
        case .char:
            let code = UInt32(bigEndian: value.start.loadUnaligned(as: UInt32.self))
            guard let scalar = Unicode.Scalar(code) else { return false }
            text += UTF8.encode(scalar).map { Array($0) } ?? []
        case .uuid:
            for (index, byte) in value.bytes.enumerated() {
                if [4, 6, 8, 10].contains(index) { text.append(UInt8(ascii: "-")) }
                appendHex(byte, to: &text)
            }
        case .binary: appendBase64(value.bytes, to: &text)
        case .null, .decimal, .list, .map, .array, .described: return false
        }
        return true
    }

    /// Appends bytes as hexadecimal digits.
    static func appendHex(_ bytes: UnsafeRawBufferPointer, to text: inout [UInt8]) {
        for byte in bytes { appendHex(byte, to: &text) }
    }

    private static func appendHex(_ byte: UInt8, to text: inout [UInt8]) {
        for half in [byte >> 4, byte & 0x0F] {
            text.append(half < 10 ? UInt8(ascii: "0") + half : UInt8(ascii: "a") + half - 10)
        }
    }

    private static func append(_ number: Int64, to text: inout [UInt8]) {
        if number < 0 { text.append(UInt8(ascii: "-")) }
        append(UInt64(number.magnitude), digits: 1, to: &text)
    }

    /// Appends at least so many digits.
    private static func append(_ number: UInt64, digits: Int, to text: inout [UInt8]) {
        let start = text.count
        var left = number
        while left > 0 || text.count - start < digits {
            text.append(UInt8(ascii: "0") + UInt8(left % 10))
            left /= 10
        }
        text[start...].reverse()
    }

    private static let millisecondsPerDay: Int64 = 86_400_000
    /// From 0000-01-01 to 9999-12-31, in milliseconds since 1970.
    private static let years: ClosedRange<Int64> = -62_167_219_200_000...253_402_300_799_999

    /// A time of the years 0 to 9999, as RFC 3339 has it; any other one stays a number.
    private static func appendTime(_ milliseconds: Int64, to text: inout [UInt8]) {
        guard years.contains(milliseconds) else { return append(milliseconds, to: &text) }
        var days = milliseconds / millisecondsPerDay
        var rest = milliseconds % millisecondsPerDay
        if rest < 0 { (days, rest) = (days - 1, rest + millisecondsPerDay) }
        let (year, month, day) = date(days)
        let parts: [(number: Int64, digits: Int, end: Unicode.Scalar)] = [
            (year, 4, "-"), (month, 2, "-"), (day, 2, "T"), (rest / 3_600_000, 2, ":"), (rest / 60_000 % 60, 2, ":"),
            (rest / 1_000 % 60, 2, "."), (rest % 1_000, 3, "Z"),
        ]
        for part in parts {
            append(UInt64(part.number), digits: part.digits, to: &text)
            text.append(UInt8(ascii: part.end))
        }
    }

    /// The date of a day counted from 1970-01-01. Years begin in March here, so that the day that some of them have
    /// more is their last; 719,468 days lie between 0000-03-01 and 1970-01-01, 146,097 in 400 years.
    private static func date(_ days: Int64) -> (year: Int64, month: Int64, day: Int64) {
        // 400 years more, so that no number is negative.
        let shifted = days + 719_468 + 146_097
        let (era, day) = shifted.quotientAndRemainder(dividingBy: 146_097)
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365
        let dayOfYear = day - (365 * year + year / 4 - year / 100)
        let month = (5 * dayOfYear + 2) / 153
        let isNextYear = month >= 10
        return (
            year + (era - 1) * 400 + (isNextYear ? 1 : 0), isNextYear ? month - 9 : month + 3,
            dayOfYear - (153 * month + 2) / 5 + 1
        )
    }

    private static let alphabet: StaticString = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

    private static func appendBase64(_ bytes: UnsafeRawBufferPointer, to text: inout [UInt8]) {
        var offset = 0
        while offset < bytes.count {
            let group = min(3, bytes.count - offset)
            var bits: UInt32 = 0
            for index in 0..<3 { bits = bits << 8 | (index < group ? UInt32(bytes[offset + index]) : 0) }
            for index in 0..<4 {
                let digit = alphabet.utf8Start[Int(bits >> UInt32(18 - 6 * index) & 63)]
                text.append(index <= group ? digit : UInt8(ascii: "="))
            }
            offset += 3
        }
    }
}

/// What a content type says of the payload, as the requests of HTTP clients are read.
enum MediaText {
    /// Whether the payload ought to be UTF-8 text. It must be checked nevertheless.
    static func isText(_ type: UnsafeRawBufferPointer) -> Bool {
        if let place = (0..<max(type.count - 8, 0)).first(where: { matches(type.from($0), "charset=") }) {
            var name = type.from(place + 8)
            if name.first == UInt8(ascii: "\"") { name = name.from(1) }
            return matches(name, "utf-8") || matches(name, "us-ascii")
        }
        var end = type.firstIndex(of: UInt8(ascii: ";")) ?? type.count
        while end > 0, type[end - 1] == UInt8(ascii: " ") { end -= 1 }
        let name = type.upTo(end)
        if matches(name, "text/") { return true }
        for whole in [("application/json" as StaticString), "application/xml", "application/x-ndjson"]
        where name.count == whole.utf8CodeUnitCount && matches(name, whole) { return true }
        for suffix in [("+json" as StaticString), "+xml"] where name.count >= suffix.utf8CodeUnitCount {
            if matches(name.from(name.count - suffix.utf8CodeUnitCount), suffix) { return true }
        }
        return false
    }

    /// Whether bytes begin with a word, which is given in lower case, whatever their own case.
    static func matches(_ bytes: UnsafeRawBufferPointer, _ word: StaticString) -> Bool {
        guard bytes.count >= word.utf8CodeUnitCount else { return false }
        for index in 0..<word.utf8CodeUnitCount {
            let byte = bytes[index]
            if (byte &- UInt8(ascii: "A") < 26 ? byte | 0x20 : byte) != word.utf8Start[index] { return false }
        }
        return true
    }
}
