/// Reads JSON (RFC 8259) where it lies: the whole text is validated, and the values of its top level are handed out as
/// ranges of it, so that what is only passed on is passed on byte for byte. Not recursive; depth and entries are
/// bounded.
import Core

/// One pass over a JSON text. Stricter than the grammar in two points, because two readers must not disagree about what
/// was said: no lone surrogates, and no byte order mark.
struct JSONScanner {
    /// Why a text was refused; for the client.
    struct Failure: Error, Equatable {
        /// Where, in bytes from the beginning.
        var offset: Int
        /// A sentence.
        var reason: String

        /// Both in one sentence.
        var text: String { "at byte \(offset): \(reason)" }
    }

    /// What a value is.
    enum Kind: Sendable {
        case object, array, string, number, bool, null
    }

    /// A value and where its text is, a string's quotes included.
    struct Value: Sendable, Equatable {
        var kind: Kind
        var range: Range<Int>
    }

    /// Arrays and objects in each other, at most; one bit of ``objects`` each.
    static let maxDepth = 64
    /// Members or elements of the top level that are handed out, at most. Deeper ones are only validated.
    static let maxEntries = 10_000
    /// The largest integer that every reader of JSON has exactly, 2⁵³ (RFC 8259 §6).
    static let maxInteger = 1 << 53

    /// What may come next.
    private enum Next {
        case value, valueOrEnd, name, nameOrEnd, separator
    }

    private let bytes: UnsafeRawBufferPointer
    private var offset = 0
    private var depth = 0
    /// For each open level a bit: 1 for an object, 0 for an array; the innermost is the lowest.
    private var objects: UInt64 = 0
    private var top = Value(kind: .null, range: 0..<0)
    /// Where the value of the top level that is being read began.
    private var entryStart = 0
    private var nameRange = 0..<0
    private var entries: [Value] = []
    private var names: [Range<Int>] = []
    private var collects = false
    private var depthLimit = maxDepth

    /// Begins at the first byte; `bytes` must stay valid while the scanner is used.
    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    // MARK: What callers ask for

    /// Validates a text of any kind.
    /// - Parameter maxDepth: arrays and objects in each other, at most; less when it is to become a part of another.
    static func value(of bytes: UnsafeRawBufferPointer, maxDepth: Int = maxDepth) throws(Failure) -> Value {
        var scanner = JSONScanner(bytes)
        scanner.depthLimit = min(maxDepth, Self.maxDepth)
        try scanner.run()
        return scanner.top
    }

    /// The members of the one top-level object, in order, duplicates too; whole text validated. Names unescaped.
    static func members(
        of bytes: UnsafeRawBufferPointer
    ) throws(Failure) -> [(name: String, value: Value)] {
        var scanner = JSONScanner(bytes)
        scanner.collects = true
        try scanner.run()
        guard scanner.top.kind == .object else {
            throw Failure(offset: scanner.top.range.lowerBound, reason: "An object is expected.")
        }
        var members: [(name: String, value: Value)] = []
        members.reserveCapacity(scanner.entries.count)
        for (name, value) in zip(scanner.names, scanner.entries) {
            guard let text = string(Value(kind: .string, range: name), in: bytes) else {
                throw Failure(offset: name.lowerBound, reason: "A name is no text.")
            }
            members.append((text, value))
        }
        return members
    }

    /// The elements of the one top-level array, in order; whole text validated.
    static func elements(of bytes: UnsafeRawBufferPointer) throws(Failure) -> [Value] {
        var scanner = JSONScanner(bytes)
        scanner.collects = true
        try scanner.run()
        guard scanner.top.kind == .array else {
            throw Failure(offset: scanner.top.range.lowerBound, reason: "An array is expected.")
        }
        return scanner.entries
    }

    /// The text of a value, as written.
    static func slice(_ value: Value, of bytes: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        guard value.range.lowerBound >= 0, value.range.upperBound <= bytes.count else {
            return UnsafeRawBufferPointer(start: nil, count: 0)
        }
        return UnsafeRawBufferPointer(rebasing: bytes[value.range])
    }

    /// A string, unescaped; nil when the value is none.
    static func string(_ value: Value, in bytes: UnsafeRawBufferPointer) -> String? {
        self.bytes(value, in: bytes).map { String(decoding: $0, as: UTF8.self) }
    }

    /// A string's UTF-8, unescaped; nil when the value is none.
    static func bytes(_ value: Value, in bytes: UnsafeRawBufferPointer) -> [UInt8]? {
        guard value.kind == .string, value.range.count >= 2 else { return nil }
        let quoted = slice(value, of: bytes)
        guard quoted.count >= 2 else { return nil }
        let inner = UnsafeRawBufferPointer(rebasing: quoted[1..<quoted.count - 1])
        var text: [UInt8] = []
        text.reserveCapacity(inner.count)
        var place = 0
        while place < inner.count {
            let start = place
            while place < inner.count, inner[place] != UInt8(ascii: "\\") { place += 1 }
            text.append(contentsOf: inner[start..<place])
            guard place < inner.count else { break }
            guard let (scalar, end) = escape(inner, at: place) else { return nil }
            text.append(contentsOf: UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)
            place = end
        }
        return text
    }

    /// An integer from -2⁵³ to 2⁵³, written without fraction and exponent; nil when the value is something else.
    static func integer(_ value: Value, in bytes: UnsafeRawBufferPointer) -> Int? {
        guard value.kind == .number else { return nil }
        var digits = slice(value, of: bytes)
        let isNegative = digits.first == UInt8(ascii: "-")
        if isNegative { digits = UnsafeRawBufferPointer(rebasing: digits[1...]) }
        // 1.0 is the integer that 1 is (JSON Schema §4.2.3); some writers know no others.
        if let point = digits.firstIndex(of: UInt8(ascii: ".")) {
            guard digits[(point + 1)...].allSatisfy({ $0 == UInt8(ascii: "0") }) else { return nil }
            digits = UnsafeRawBufferPointer(rebasing: digits[..<point])
        }
        guard (1...16).contains(digits.count) else { return nil }
        var number = 0
        for byte in digits {
            guard isDigit(byte) else { return nil }
            number = number * 10 + Int(byte - UInt8(ascii: "0"))
        }
        guard number <= maxInteger else { return nil }
        return isNegative ? -number : number
    }

    /// A truth value; nil when the value is none.
    static func bool(_ value: Value, in bytes: UnsafeRawBufferPointer) -> Bool? {
        guard value.kind == .bool else { return nil }
        return slice(value, of: bytes).first == UInt8(ascii: "t")
    }

    /// The first name that is there twice.
    static func duplicate(in members: [(name: String, value: Value)]) -> String? {
        var seen: Set<String> = []
        seen.reserveCapacity(members.count)
        return members.first { !seen.insert($0.name).inserted }?.name
    }

    // MARK: Structure

    private mutating func run() throws(Failure) {
        var next = Next.value
        while let byte = skipSpace() {
            switch next {
            case .value: next = try scanValue(byte)
            case .valueOrEnd: next = byte == UInt8(ascii: "]") ? try close(byte) : try scanValue(byte)
            case .name: next = try scanName(byte)
            case .nameOrEnd: next = byte == UInt8(ascii: "}") ? try close(byte) : try scanName(byte)
            case .separator: next = try scanSeparator(byte)
            }
        }
        guard depth == 0, next == .separator else { throw failure("The text ends too early.") }
    }

    /// - Returns: the byte there; nil at the end.
    private mutating func skipSpace() -> UInt8? {
        while offset < bytes.count {
            switch bytes[offset] {
            case 0x20, 9, 10, 13: offset += 1
            default: return bytes[offset]
            }
        }
        return nil
    }

    private func failure(_ reason: String) -> Failure { Failure(offset: offset, reason: reason) }

    private mutating func scanValue(_ byte: UInt8) throws(Failure) -> Next {
        let start = offset
        if depth == 1 { entryStart = start }
        switch byte {
        case UInt8(ascii: "{"): return try open(isObject: true)
        case UInt8(ascii: "["): return try open(isObject: false)
        case UInt8(ascii: "\""):
            try scanString()
            return try ended(.string, start)
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"):
            try scanNumber()
            return try ended(.number, start)
        case UInt8(ascii: "t"):
            try scanWord("true")
            return try ended(.bool, start)
        case UInt8(ascii: "f"):
            try scanWord("false")
            return try ended(.bool, start)
        case UInt8(ascii: "n"):
            try scanWord("null")
            return try ended(.null, start)
        default: throw failure("A value is expected.")
        }
    }

    private mutating func open(isObject: Bool) throws(Failure) -> Next {
        guard depth < depthLimit else { throw failure("Arrays and objects are nested at most \(depthLimit) deep.") }
        if depth == 0 { top.range = offset..<offset }
        depth += 1
        objects = objects << 1 | (isObject ? 1 : 0)
        offset += 1
        return isObject ? .nameOrEnd : .valueOrEnd
    }

    private mutating func close(_ byte: UInt8) throws(Failure) -> Next {
        let isObject = objects & 1 == 1
        guard byte == (isObject ? UInt8(ascii: "}") : UInt8(ascii: "]")) else {
            throw failure(isObject ? "A comma or } is expected." : "A comma or ] is expected.")
        }
        offset += 1
        depth -= 1
        objects >>= 1
        return try ended(isObject ? .object : .array, depth == 0 ? top.range.lowerBound : entryStart)
    }

    /// A value is complete. `start` counts only for the top level's.
    private mutating func ended(_ kind: Kind, _ start: Int) throws(Failure) -> Next {
        if depth == 0 {
            top = Value(kind: kind, range: start..<offset)
        } else if depth == 1, collects {
            guard entries.count < Self.maxEntries else { throw failure("There are more than 10000 entries.") }
            entries.append(Value(kind: kind, range: start..<offset))
            if objects & 1 == 1 { names.append(nameRange) }
        }
        return .separator
    }

    private mutating func scanSeparator(_ byte: UInt8) throws(Failure) -> Next {
        guard depth > 0 else { throw failure("Something comes after the value.") }
        guard byte == UInt8(ascii: ",") else { return try close(byte) }
        offset += 1
        return objects & 1 == 1 ? .name : .value
    }

    private mutating func scanName(_ byte: UInt8) throws(Failure) -> Next {
        guard byte == UInt8(ascii: "\"") else { throw failure("A name in quotes is expected.") }
        let start = offset
        try scanString()
        if depth == 1 { nameRange = start..<offset }
        guard skipSpace() == UInt8(ascii: ":") else { throw failure("A colon is expected.") }
        offset += 1
        return .value
    }

    // MARK: Scalars

    private mutating func scanWord(_ word: StaticString) throws(Failure) {
        let count = word.utf8CodeUnitCount
        guard bytes.count - offset >= count else { throw failure("A value is expected.") }
        for index in 0..<count where bytes[offset + index] != word.utf8Start[index] {
            throw failure("A value is expected.")
        }
        offset += count
    }

    private mutating func scanNumber() throws(Failure) {
        if bytes[offset] == UInt8(ascii: "-") { offset += 1 }
        if offset < bytes.count, bytes[offset] == UInt8(ascii: "0") { offset += 1 } else { try scanDigits() }
        if offset < bytes.count, bytes[offset] == UInt8(ascii: ".") {
            offset += 1
            try scanDigits()
        }
        guard offset < bytes.count, bytes[offset] | 0x20 == UInt8(ascii: "e") else { return }
        offset += 1
        if offset < bytes.count, bytes[offset] == UInt8(ascii: "+") || bytes[offset] == UInt8(ascii: "-") {
            offset += 1
        }
        try scanDigits()
    }

    private mutating func scanDigits() throws(Failure) {
        let start = offset
        while offset < bytes.count, Self.isDigit(bytes[offset]) { offset += 1 }
        guard offset > start else { throw failure("A digit is expected.") }
    }

    private static func isDigit(_ byte: UInt8) -> Bool { byte &- UInt8(ascii: "0") < 10 }

    /// From quote to quote.
    private mutating func scanString() throws(Failure) {
        offset += 1
        let start = offset
        var isASCII = true
        while true {
            skipPlain()
            guard offset < bytes.count else { throw failure("A string has no end.") }
            switch bytes[offset] {
            case UInt8(ascii: "\""):
                guard isASCII || Topic.isUTF8(UnsafeRawBufferPointer(rebasing: bytes[start..<offset])) else {
                    throw Failure(offset: start, reason: "A string is no UTF-8.")
                }
                offset += 1
                return
            case UInt8(ascii: "\\"):
                guard let (_, end) = Self.escape(bytes, at: offset) else {
                    throw failure("An escape is none of JSON's, or half a surrogate pair.")
                }
                offset = end
            case 0..<0x20: throw failure("A control character in a string is not escaped.")
            case 0x80...:
                isASCII = false
                offset += 1
            default: offset += 1
            }
        }
    }

    /// Passes over ASCII that means itself, eight bytes at a time; stops at or a little before what does not.
    private mutating func skipPlain() {
        let ones: UInt64 = 0x0101_0101_0101_0101
        let highs: UInt64 = 0x8080_8080_8080_8080
        while bytes.count - offset >= 8 {
            let word = bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
            let quote = word ^ ones &* UInt64(UInt8(ascii: "\""))
            let slash = word ^ ones &* UInt64(UInt8(ascii: "\\"))
            // A byte below a bound borrows from its highest bit (Hacker's Delight §6-1); false alarms only stop early.
            let odd = word | (word &- ones &* 0x20) | (quote &- ones) | (slash &- ones)
            guard odd & highs == 0 else { return }
            offset += 8
        }
    }

    /// The character that an escape stands for, and where the text goes on; nil when it is malformed.
    private static func escape(_ bytes: UnsafeRawBufferPointer, at start: Int) -> (scalar: Unicode.Scalar, end: Int)? {
        guard bytes.count - start >= 2 else { return nil }
        let plain: Unicode.Scalar
        switch bytes[start + 1] {
        case UInt8(ascii: "\""): plain = "\""
        case UInt8(ascii: "\\"): plain = "\\"
        case UInt8(ascii: "/"): plain = "/"
        case UInt8(ascii: "b"): plain = "\u{8}"
        case UInt8(ascii: "f"): plain = "\u{C}"
        case UInt8(ascii: "n"): plain = "\n"
        case UInt8(ascii: "r"): plain = "\r"
        case UInt8(ascii: "t"): plain = "\t"
        case UInt8(ascii: "u"): return unicodeEscape(bytes, at: start)
        default: return nil
        }
        return (plain, start + 2)
    }

    private static func unicodeEscape(
        _ bytes: UnsafeRawBufferPointer, at start: Int
    ) -> (scalar: Unicode.Scalar, end: Int)? {
        guard let high = codeUnit(bytes, at: start) else { return nil }
        if let scalar = Unicode.Scalar(high) { return (scalar, start + 6) }
        guard (0xD800...0xDBFF).contains(high), let low = codeUnit(bytes, at: start + 6),
            (0xDC00...0xDFFF).contains(low),
            let scalar = Unicode.Scalar(0x10000 + (high - 0xD800) << 10 + (low - 0xDC00))
        else { return nil }
        return (scalar, start + 12)
    }

    /// `\u` and four hexadecimal digits.
    private static func codeUnit(_ bytes: UnsafeRawBufferPointer, at start: Int) -> UInt32? {
        guard bytes.count - start >= 6, bytes[start] == UInt8(ascii: "\\"), bytes[start + 1] == UInt8(ascii: "u")
        else { return nil }
        var unit: UInt32 = 0
        for byte in bytes[start + 2..<start + 6] {
            guard let digit = Percent.digit(byte) else { return nil }
            unit = unit << 4 | UInt32(digit)
        }
        return unit
    }
}
