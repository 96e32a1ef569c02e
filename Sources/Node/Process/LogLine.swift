/// The bytes of a log line, as text for people or as JSON for machines.
import Glibc
import Logging

/// Makes log lines. Each is one line whatever is in it, so that one write never tears and nobody forges a line.
struct LogLine {
    /// Text only: whether the level is coloured.
    let isColoured: Bool
    let format: LogFormat

    /// A line, with its line feed.
    func bytes(
        time: timespec, level: Logger.Level, label: String, message: String, metadata: Logger.Metadata
    ) -> [UInt8] {
        var line: [UInt8] = []
        line.reserveCapacity(160 + message.utf8.count)
        if format == .json {
            json(&line, time, level, label, message, metadata)
        } else {
            text(&line, time, level, label, message, metadata)
        }
        line.append(0x0A)
        return line
    }

    // MARK: JSON

    private func json(
        _ line: inout [UInt8], _ time: timespec, _ level: Logger.Level, _ label: String, _ message: String,
        _ metadata: Logger.Metadata
    ) {
        line += #"{"time":""#.utf8
        Self.append(time, to: &line)
        line += #"","level":""#.utf8
        line += level.rawValue.utf8
        line += #"","component":"#.utf8
        Self.appendJSON(label, to: &line)
        line += #","message":"#.utf8
        Self.appendJSON(message, to: &line)
        for (key, value) in metadata.sorted(by: { $0.key < $1.key }) {
            line.append(UInt8(ascii: ","))
            // The record's own names win: a second key of the same name would make the line ambiguous.
            Self.appendJSON(["time", "level", "component", "message"].contains(key) ? "_\(key)" : key, to: &line)
            line.append(UInt8(ascii: ":"))
            Self.appendJSON(value, to: &line)
        }
        line.append(UInt8(ascii: "}"))
    }

    private static func appendJSON(_ value: Logger.MetadataValue, to line: inout [UInt8]) {
        switch value {
        case .string(let text): appendJSON(text, to: &line)
        case .stringConvertible(let value):
            // Numbers stay numbers, so that a query can compare them.
            switch value {
            case let number as any BinaryInteger: line += String(describing: number).utf8
            case let number as Double where number.isFinite: line += String(describing: number).utf8
            case let flag as Bool: line += (flag ? "true" : "false").utf8
            default: appendJSON(value.description, to: &line)
            }
        case .array(let values):
            line.append(UInt8(ascii: "["))
            for (index, value) in values.enumerated() {
                if index > 0 { line.append(UInt8(ascii: ",")) }
                appendJSON(value, to: &line)
            }
            line.append(UInt8(ascii: "]"))
        case .dictionary(let values):
            line.append(UInt8(ascii: "{"))
            for (index, (key, value)) in values.sorted(by: { $0.key < $1.key }).enumerated() {
                if index > 0 { line.append(UInt8(ascii: ",")) }
                appendJSON(key, to: &line)
                line.append(UInt8(ascii: ":"))
                appendJSON(value, to: &line)
            }
            line.append(UInt8(ascii: "}"))
        }
    }

    /// A JSON string: quotes, backslashes and control characters escaped, the rest as it is in UTF-8.
    static func appendJSON(_ text: String, to line: inout [UInt8]) {
        line.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                line.append(UInt8(ascii: "\\"))
                line.append(byte)
            case 0x0A: line += #"\n"#.utf8
            case 0x0D: line += #"\r"#.utf8
            case 0x09: line += #"\t"#.utf8
            case 0..<0x20, 0x7F:
                line += #"\u00"#.utf8
                line.append(hexadecimal(byte >> 4))
                line.append(hexadecimal(byte & 15))
            default: line.append(byte)
            }
        }
        line.append(UInt8(ascii: "\""))
    }

    // MARK: Text

    private func text(
        _ line: inout [UInt8], _ time: timespec, _ level: Logger.Level, _ label: String, _ message: String,
        _ metadata: Logger.Metadata
    ) {
        Self.append(time, to: &line)
        line.append(0x20)
        if isColoured { line += Self.colour(of: level).utf8 }
        let word = level.rawValue
        line += word.utf8
        if isColoured { line += "\u{1B}[0m".utf8 }
        line += repeatElement(0x20, count: max(1, 8 - word.utf8.count))
        line += label.utf8
        line += ": ".utf8
        Self.appendText(message, to: &line)
        for (key, value) in metadata.sorted(by: { $0.key < $1.key }) {
            line.append(0x20)
            Self.appendText(key, to: &line)
            line.append(UInt8(ascii: "="))
            let text = value.description
            if text.isEmpty || text.utf8.contains(where: { $0 == 0x20 || $0 == UInt8(ascii: "\"") }) {
                Self.appendJSON(text, to: &line)
            } else {
                Self.appendText(text, to: &line)
            }
        }
    }

    /// Text with control characters escaped: a client id must not move the cursor of an operator's terminal.
    private static func appendText(_ text: String, to line: inout [UInt8]) {
        for scalar in text.unicodeScalars {
            switch scalar.value {
            case 0x0A: line += #"\n"#.utf8
            case 0..<0x20, 0x7F..<0xA0:
                line += #"\x"#.utf8
                line.append(hexadecimal(UInt8(scalar.value >> 4)))
                line.append(hexadecimal(UInt8(scalar.value & 15)))
            default: line += UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter
            }
        }
    }

    private static func colour(of level: Logger.Level) -> String {
        switch level {
        case .trace, .debug: "\u{1B}[2m"
        case .info: "\u{1B}[32m"
        case .notice: "\u{1B}[36m"
        case .warning: "\u{1B}[33m"
        case .error, .critical: "\u{1B}[31m"
        }
    }

    // MARK: Time

    /// UTC with milliseconds, `2026-01-31T23:59:59.123Z`.
    static func append(_ time: timespec, to line: inout [UInt8]) {
        var seconds = time.tv_sec
        var parts = tm()
        gmtime_r(&seconds, &parts)
        append(Int(parts.tm_year) + 1_900, digits: 4, to: &line)
        line.append(UInt8(ascii: "-"))
        append(Int(parts.tm_mon) + 1, digits: 2, to: &line)
        line.append(UInt8(ascii: "-"))
        append(Int(parts.tm_mday), digits: 2, to: &line)
        line.append(UInt8(ascii: "T"))
        append(Int(parts.tm_hour), digits: 2, to: &line)
        line.append(UInt8(ascii: ":"))
        append(Int(parts.tm_min), digits: 2, to: &line)
        line.append(UInt8(ascii: ":"))
        append(Int(parts.tm_sec), digits: 2, to: &line)
        line.append(UInt8(ascii: "."))
        append(time.tv_nsec / 1_000_000, digits: 3, to: &line)
        line.append(UInt8(ascii: "Z"))
    }

    private static func append(_ value: Int, digits: Int, to line: inout [UInt8]) {
        var divisor = 1
        for _ in 1..<digits { divisor *= 10 }
        while divisor > 0 {
            line.append(UInt8(ascii: "0") + UInt8(value / divisor % 10))
            divisor /= 10
        }
    }

    private static func hexadecimal(_ digit: UInt8) -> UInt8 {
        digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") + digit - 10
    }
}
