/// Reads the small JSON texts (RFC 8259) of tokens and key sets. Stricter than the grammar, because two readers must
/// not disagree about what was signed: no name twice in an object, no lone surrogates, no byte order mark, nothing
/// deeper than ``StrictJSON/maxDepth``. Not recursive. Callers bound the size.

/// A value.
enum StrictJSON: Sendable, Equatable {
    case object([String: StrictJSON])
    case array([StrictJSON])
    case string(String)
    /// As it was written.
    case number(String)
    case bool(Bool)
    case null

    /// Objects and arrays in each other, at most.
    static let maxDepth = 8

    /// Why a text was refused, in words for people.
    struct Failure: Error, Equatable {
        var reason: String
        init(_ reason: String) { self.reason = reason }
    }

    /// Reads all of `bytes` as one value.
    init(_ bytes: ArraySlice<UInt8>) throws(Failure) {
        var reader = Reader(bytes)
        self = try reader.read()
    }

    /// The members; nil for what is no object.
    var members: [String: StrictJSON]? { if case .object(let members) = self { members } else { nil } }
    /// The elements; nil for what is no array.
    var elements: [StrictJSON]? { if case .array(let elements) = self { elements } else { nil } }
    /// The text; nil for what is no string.
    var text: String? { if case .string(let text) = self { text } else { nil } }
    /// The number; nil for what is none or beyond what a Double holds.
    var double: Double? {
        guard case .number(let text) = self, let value = Double(text), value.isFinite else { return nil }
        return value
    }

    /// The texts of an array of nothing but texts, or of a single text; nil otherwise.
    var texts: [String]? {
        if let text { return [text] }
        guard let elements else { return nil }
        let texts = elements.compactMap(\.text)
        return texts.count == elements.count ? texts : nil
    }
}

/// One pass over a text. What is open is on a stack of its own.
private struct Reader {
    private enum Container {
        case object([String: StrictJSON], name: String)
        case array([StrictJSON])
    }

    private let bytes: ArraySlice<UInt8>
    private var place: Int
    private var open: [Container] = []

    init(_ bytes: ArraySlice<UInt8>) {
        self.bytes = bytes
        place = bytes.startIndex
    }

    private var next: UInt8? { place < bytes.endIndex ? bytes[place] : nil }

    private mutating func skipSpace() {
        while let byte = next, byte == 0x20 || byte == 9 || byte == 10 || byte == 13 { place += 1 }
    }

    /// Steps over `byte` if it comes next.
    private mutating func take(_ byte: UInt8) -> Bool {
        skipSpace()
        guard next == byte else { return false }
        place += 1
        return true
    }

    mutating func read() throws(StrictJSON.Failure) -> StrictJSON {
        while true {
            guard var value = try begin() else { continue }
            // The value may end the containers around it, each of which is a value then.
            while let container = open.popLast() {
                guard let ended = try add(value, to: container) else { break }
                value = ended
            }
            if open.isEmpty {
                skipSpace()
                guard place == bytes.endIndex else { throw .init("something comes after the JSON") }
                return value
            }
        }
    }

    /// A value that is complete, or nil after something was opened whose first value comes next.
    private mutating func begin() throws(StrictJSON.Failure) -> StrictJSON? {
        skipSpace()
        guard let byte = next else { throw .init("the JSON ends too early") }
        switch byte {
        case UInt8(ascii: "{"), UInt8(ascii: "["):
            guard open.count < StrictJSON.maxDepth else {
                throw .init("the JSON is nested more than \(StrictJSON.maxDepth) deep")
            }
            place += 1
            if byte == UInt8(ascii: "[") {
                if take(UInt8(ascii: "]")) { return .array([]) }
                open.append(.array([]))
            } else {
                if take(UInt8(ascii: "}")) { return .object([:]) }
                open.append(.object([:], name: try readName()))
            }
            return nil
        case UInt8(ascii: "\""): return .string(try readString())
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return .number(try readNumber())
        case UInt8(ascii: "t"): return try readWord("true", .bool(true))
        case UInt8(ascii: "f"): return try readWord("false", .bool(false))
        case UInt8(ascii: "n"): return try readWord("null", .null)
        default: throw .init("a JSON value is expected")
        }
    }

    /// Puts a value into the innermost container, which has been taken from the stack.
    /// - Returns: the container when it ends here; nil when it goes on, and is on the stack again.
    private mutating func add(
        _ value: StrictJSON, to container: Container
    ) throws(StrictJSON.Failure) -> StrictJSON? {
        switch container {
        case .array(var elements):
            elements.append(value)
            if take(UInt8(ascii: "]")) { return .array(elements) }
            guard take(UInt8(ascii: ",")) else { throw .init("a comma or ] is expected in the JSON") }
            open.append(.array(elements))
        case .object(var members, let name):
            guard members.updateValue(value, forKey: name) == nil else {
                throw .init("a name is in the same JSON object twice")
            }
            if take(UInt8(ascii: "}")) { return .object(members) }
            guard take(UInt8(ascii: ",")) else { throw .init("a comma or } is expected in the JSON") }
            open.append(.object(members, name: try readName()))
        }
        return nil
    }

    private mutating func readName() throws(StrictJSON.Failure) -> String {
        skipSpace()
        guard next == UInt8(ascii: "\"") else { throw .init("a name in quotes is expected in the JSON") }
        let name = try readString()
        guard take(UInt8(ascii: ":")) else { throw .init("a colon is expected in the JSON") }
        return name
    }

    private mutating func readWord(_ word: String, _ value: StrictJSON) throws(StrictJSON.Failure) -> StrictJSON {
        guard bytes[place...].starts(with: word.utf8) else { throw .init("a JSON value is expected") }
        place += word.utf8.count
        return value
    }

    private mutating func readNumber() throws(StrictJSON.Failure) -> String {
        let start = place
        if next == UInt8(ascii: "-") { place += 1 }
        if next == UInt8(ascii: "0") { place += 1 } else { try readDigits() }
        if next == UInt8(ascii: ".") {
            place += 1
            try readDigits()
        }
        if let byte = next, byte | 0x20 == UInt8(ascii: "e") {
            place += 1
            if next == UInt8(ascii: "+") || next == UInt8(ascii: "-") { place += 1 }
            try readDigits()
        }
        return String(decoding: bytes[start..<place], as: UTF8.self)
    }

    private mutating func readDigits() throws(StrictJSON.Failure) {
        let start = place
        while let byte = next, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) { place += 1 }
        guard place > start else { throw .init("a digit is expected in the JSON") }
    }

    /// From quote to quote, unescaped.
    private mutating func readString() throws(StrictJSON.Failure) -> String {
        place += 1
        var text: [UInt8] = []
        while true {
            let start = place
            while let byte = next, byte >= 0x20, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\") { place += 1 }
            text += bytes[start..<place]
            switch next {
            case UInt8(ascii: "\""):
                place += 1
                guard let string = String(validating: text, as: UTF8.self) else {
                    throw .init("a text in the JSON is no UTF-8")
                }
                return string
            case UInt8(ascii: "\\"):
                guard let scalar = readEscape() else { throw .init("an escape in the JSON is malformed") }
                text += Array(String(Character(scalar)).utf8)
            case nil: throw .init("the JSON ends too early")
            default: throw .init("a control character in the JSON is not escaped")
            }
        }
    }

    private mutating func readEscape() -> Unicode.Scalar? {
        place += 1
        guard let byte = next else { return nil }
        place += 1
        switch byte {
        case UInt8(ascii: "\""): return "\""
        case UInt8(ascii: "\\"): return "\\"
        case UInt8(ascii: "/"): return "/"
        case UInt8(ascii: "b"): return "\u{8}"
        case UInt8(ascii: "f"): return "\u{C}"
        case UInt8(ascii: "n"): return "\n"
        case UInt8(ascii: "r"): return "\r"
        case UInt8(ascii: "t"): return "\t"
        case UInt8(ascii: "u"): break
        default: return nil
        }
        guard let high = readCodeUnit() else { return nil }
        if let scalar = Unicode.Scalar(high) { return scalar }
        guard (0xD800...0xDBFF).contains(high), bytes[place...].starts(with: [UInt8(ascii: "\\"), UInt8(ascii: "u")])
        else { return nil }
        place += 2
        guard let low = readCodeUnit(), (0xDC00...0xDFFF).contains(low) else { return nil }
        return Unicode.Scalar(0x10000 + (high - 0xD800) << 10 + (low - 0xDC00))
    }

    /// Four hexadecimal digits.
    private mutating func readCodeUnit() -> UInt32? {
        guard bytes.endIndex - place >= 4 else { return nil }
        var unit: UInt32 = 0
        for byte in bytes[place..<place + 4] {
            let digit: UInt8
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = byte - UInt8(ascii: "a") + 10
            case UInt8(ascii: "A")...UInt8(ascii: "F"): digit = byte - UInt8(ascii: "A") + 10
            default: return nil
            }
            unit = unit << 4 | UInt32(digit)
        }
        place += 4
        return unit
    }
}
