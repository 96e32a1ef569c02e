/// The head of an HTTP/1.1 request (RFC 9112 §3, §5), parsed where it lies: no copy, no allocation. Strict: what two
/// parsers could read in two ways is refused, so that nothing in front of the node can be played against it.

/// A request's head. Borrowed from the receive buffer and the lane's storage: valid during the call it is given to.
public struct RequestHead {
    /// One field; offsets from the head's first byte.
    public struct Field: BitwiseCopyable {
        var nameStart: Int32
        var nameLength: Int32
        var valueStart: Int32
        var valueLength: Int32
    }

    /// Where a head's fields are kept. One per lane, reused.
    public final class Storage {
        /// Fields that a head may have.
        public static let capacity = 100
        let fields = UnsafeMutablePointer<Field>.allocate(capacity: Storage.capacity)

        /// Makes room for one head.
        public init() {}

        deinit { fields.deallocate() }
    }

    /// Why bytes are no acceptable head. The message is for the client.
    public enum Failure: Error, Equatable {
        /// 400
        case malformed(String)
        /// 431
        case tooLarge
        /// 414
        case targetTooLong
        /// 501: a transfer coding other than chunked
        case unknownCoding
        /// 505
        case unsupportedVersion
    }

    /// How far parsing came.
    public enum Outcome {
        /// More bytes are needed.
        case incomplete
        /// The head is complete.
        case complete(RequestHead)
    }

    /// The head's bytes, with the empty line at its end.
    public private(set) var bytes: UnsafeRawBufferPointer
    /// The method as written.
    public private(set) var method: UnsafeRawBufferPointer
    /// The path with its query as written, also when the target was a URL; or `*`.
    public private(set) var target: UnsafeRawBufferPointer
    /// Whether the version is HTTP/1.0.
    public private(set) var isVersion1_0 = false
    /// Whether the connection can be used again after the answer.
    public private(set) var isKeepAlive = true
    /// Bytes of the body; nil when none is announced.
    public private(set) var contentLength: Int?
    /// Whether the body comes in chunks.
    public private(set) var isChunked = false
    /// What the client expects before it sends the body; only `100-continue` is known.
    public private(set) var expectation: UnsafeRawBufferPointer?
    /// The value of `Host`, or the host of a target that was a URL, which goes before it.
    public private(set) var host: UnsafeRawBufferPointer?
    /// Whether `Connection: upgrade` is there.
    public private(set) var wantsUpgrade = false

    private let fields: UnsafeMutablePointer<Field>
    /// Fields there are.
    public private(set) var fieldCount = 0

    private init(_ bytes: UnsafeRawBufferPointer, _ storage: Storage) {
        self.bytes = bytes
        method = bytes
        target = bytes
        fields = storage.fields
    }

    // MARK: Fields

    /// Field `index` in the order of the request, without regard to case in its name.
    public func field(_ index: Int) -> (name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) {
        let field = fields[index]
        return (slice(field.nameStart, field.nameLength), slice(field.valueStart, field.valueLength))
    }

    /// The value of the first field of a name, which is given in lower case.
    public func value(_ name: StaticString) -> UnsafeRawBufferPointer? {
        for index in 0..<fieldCount where fields[index].nameLength == name.utf8CodeUnitCount {
            let (known, value) = field(index)
            if known.isSame(as: name) { return value }
        }
        return nil
    }

    /// How many fields there are of a name, which is given in lower case.
    public func count(_ name: StaticString) -> Int {
        (0..<fieldCount).count { field($0).name.isSame(as: name) }
    }

    private func slice(_ start: Int32, _ length: Int32) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: bytes[Int(start)..<Int(start) + Int(length)])
    }

    // MARK: Parsing

    /// Parses the head at the beginning of `bytes`, which may be incomplete and may go on with other things.
    /// - Parameters:
    ///   - headerBytes: bytes that a head may have.
    ///   - targetBytes: bytes that a target may have.
    /// - Throws: ``Failure``; what follows on the connection cannot be trusted.
    public static func parse(
        _ bytes: UnsafeRawBufferPointer, headerBytes: Int, targetBytes: Int, _ storage: Storage
    ) throws(Failure) -> Outcome {
        var start = 0
        // An empty line in front is what some clients leave behind (RFC 9112 §2.2).
        while bytes.count - start >= 2, bytes[start] == 13, bytes[start + 1] == 10, start < 8 { start += 2 }
        if bytes.count - start == 1, bytes[start] == 13, start < 8 { return .incomplete }
        var head = RequestHead(UnsafeRawBufferPointer(rebasing: bytes[start...]), storage)
        guard var offset = try head.parseRequestLine(targetBytes: targetBytes) else {
            return try incomplete(head.bytes, headerBytes)
        }
        while true {
            guard let next = try head.parseField(at: offset) else { return try incomplete(head.bytes, headerBytes) }
            guard next <= headerBytes else { throw .tooLarge }
            if next < 0 { break }
            offset = next
        }
        offset += 2
        guard offset <= headerBytes else { throw .tooLarge }
        head.bytes = UnsafeRawBufferPointer(rebasing: bytes[start..<start + offset])
        head.skipped = start
        try head.checkFraming()
        try head.checkTarget()
        return .complete(head)
    }

    /// Empty lines in front of it.
    private var skipped = 0
    /// Bytes that the head takes of what was parsed.
    public var length: Int { skipped + bytes.count }

    private static func incomplete(_ bytes: UnsafeRawBufferPointer, _ limit: Int) throws(Failure) -> Outcome {
        guard bytes.count <= limit else { throw .tooLarge }
        return .incomplete
    }

    /// - Returns: where the first field begins; nil when the line is not complete.
    private mutating func parseRequestLine(targetBytes: Int) throws(Failure) -> Int? {
        var place = 0
        while place < bytes.count, Token.contains(bytes[place]) { place += 1 }
        guard place < bytes.count else {
            guard place <= 32 else { throw .malformed("The method is too long.") }
            return nil
        }
        guard place > 0, place <= 32, bytes[place] == 0x20 else {
            throw .malformed("A request begins with a method and a space.")
        }
        method = UnsafeRawBufferPointer(rebasing: bytes[..<place])
        place += 1
        let start = place
        while place < bytes.count, bytes[place] > 0x20, bytes[place] != 0x7F { place += 1 }
        guard place - start <= targetBytes else { throw .targetTooLong }
        guard place < bytes.count else { return nil }
        guard place > start, bytes[place] == 0x20 else {
            throw .malformed("A target and a space come after the method.")
        }
        target = UnsafeRawBufferPointer(rebasing: bytes[start..<place])
        place += 1
        return try parseVersion(at: place)
    }

    private mutating func parseVersion(at place: Int) throws(Failure) -> Int? {
        let version: StaticString = "HTTP/1.1\r\n"
        let count = min(bytes.count - place, version.utf8CodeUnitCount)
        for index in 0..<count where bytes[place + index] != version.utf8Start[index] {
            let byte = bytes[place + index]
            switch index {
            case 7 where byte == UInt8(ascii: "0"): isVersion1_0 = true
            case 5, 7:
                guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { fallthrough }
                throw .unsupportedVersion
            default: throw .malformed("A request line ends with HTTP/1.1 and CR LF.")
            }
        }
        return count < version.utf8CodeUnitCount ? nil : place + count
    }

    /// - Returns: where the next field begins, -1 at the empty line, nil when the line is not complete.
    private mutating func parseField(at start: Int) throws(Failure) -> Int? {
        let count = bytes.count
        guard start < count else { return nil }
        if bytes[start] == 13 {
            guard start + 1 < count else { return nil }
            guard bytes[start + 1] == 10 else { throw .malformed("A line ends with CR LF.") }
            return -1
        }
        guard bytes[start] != 0x20, bytes[start] != 9 else { throw .malformed("Header fields are not folded.") }
        var place = start
        while place < count, Token.contains(bytes[place]) { place += 1 }
        guard place < count else { return nil }
        guard place > start, bytes[place] == UInt8(ascii: ":") else {
            throw .malformed("A header field is a name, a colon and a value.")
        }
        let nameEnd = place
        place += 1
        while place < count, bytes[place] == 0x20 || bytes[place] == 9 { place += 1 }
        let valueStart = place
        while place < count, bytes[place] >= 0x20 && bytes[place] != 0x7F || bytes[place] == 9 { place += 1 }
        guard place + 1 < count else {
            guard place == count || bytes[place] == 13 else {
                throw .malformed("A header field has no control characters, and a line ends with CR LF.")
            }
            return nil
        }
        guard bytes[place] == 13, bytes[place + 1] == 10 else {
            throw .malformed("A header field has no control characters, and a line ends with CR LF.")
        }
        var valueEnd = place
        while valueEnd > valueStart, bytes[valueEnd - 1] == 0x20 || bytes[valueEnd - 1] == 9 { valueEnd -= 1 }
        guard fieldCount < Storage.capacity else { throw .tooLarge }
        let field = Field(
            nameStart: Int32(truncatingIfNeeded: start), nameLength: Int32(truncatingIfNeeded: nameEnd - start),
            valueStart: Int32(truncatingIfNeeded: valueStart),
            valueLength: Int32(truncatingIfNeeded: valueEnd - valueStart))
        fields[fieldCount] = field
        fieldCount += 1
        try note(slice(field.nameStart, field.nameLength), slice(field.valueStart, field.valueLength))
        return place + 2
    }

    // MARK: Framing

    /// Fields that say how the request is to be read.
    private mutating func note(
        _ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
    ) throws(Failure) {
        switch name.count {
        case 4 where name.isSame(as: "host"):
            guard host == nil else { throw .malformed("A request has one Host field.") }
            guard Authority.isValid(value) else {
                throw .malformed("Host is a name or address, perhaps with a port.")
            }
            host = value
        case 6 where name.isSame(as: "expect"):
            guard expectation == nil else { throw .malformed("A request has one Expect field.") }
            expectation = value
        case 10 where name.isSame(as: "connection"): noteConnection(value)
        case 14 where name.isSame(as: "content-length"):
            guard contentLength == nil else { throw .malformed("A request has one Content-Length.") }
            contentLength = try Self.number(value)
        case 17 where name.isSame(as: "transfer-encoding"):
            guard !isChunked else { throw .malformed("A request has one Transfer-Encoding.") }
            guard value.isSame(as: "chunked") else { throw .unknownCoding }
            isChunked = true
        default: break
        }
    }

    private static func number(_ value: UnsafeRawBufferPointer) throws(Failure) -> Int {
        guard (1...18).contains(value.count) else { throw .malformed("Content-Length is a number.") }
        var number = 0
        for byte in value {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else {
                throw .malformed("Content-Length is a number.")
            }
            number = number * 10 + Int(byte - UInt8(ascii: "0"))
        }
        return number
    }

    private var saysKeepAlive = false
    private var saysClose = false

    private mutating func noteConnection(_ value: UnsafeRawBufferPointer) {
        var start = 0
        while start <= value.count {
            var end = start
            while end < value.count, value[end] != UInt8(ascii: ",") { end += 1 }
            let word = UnsafeRawBufferPointer(rebasing: value[start..<end]).trimmed
            if word.isSame(as: "close") { saysClose = true }
            if word.isSame(as: "keep-alive") { saysKeepAlive = true }
            if word.isSame(as: "upgrade") { wantsUpgrade = true }
            start = end + 1
        }
    }

    private mutating func checkFraming() throws(Failure) {
        isKeepAlive = !saysClose && (!isVersion1_0 || saysKeepAlive)
        guard host != nil || isVersion1_0 else { throw .malformed("A request has one Host field.") }
        guard isChunked else { return }
        guard contentLength == nil else {
            throw .malformed("A request has either Content-Length or Transfer-Encoding, not both.")
        }
        guard !isVersion1_0 else { throw .malformed("HTTP/1.0 has no Transfer-Encoding.") }
    }

    // MARK: The target

    private static let root: StaticString = "/"
    private static let everything: StaticString = "*"

    /// Sites see a path with its query, or `*`; what else a target may be is made one of these or refused
    /// (RFC 9112 §3.2).
    private mutating func checkTarget() throws(Failure) {
        guard !target.contains(UInt8(ascii: "#")) else { throw .malformed("A target has no fragment.") }
        if target[0] == UInt8(ascii: "/") { return }
        if method.elementsEqual("CONNECT".utf8) {
            // Nobody connects through here, and the client may already speak to whom it wants to reach.
            isKeepAlive = false
            guard Authority.isValid(target) else { throw .malformed("CONNECT has a name and a port as its target.") }
            return
        }
        let isOptions = method.elementsEqual("OPTIONS".utf8)
        if target.count == 1, target[0] == UInt8(ascii: "*"), isOptions { return }
        let scheme = target.begins(with: "http://") ? 7 : target.begins(with: "https://") ? 8 : 0
        guard scheme > 0 else { throw .malformed("A target is a path, which begins with a slash, or a URL.") }
        var end = scheme
        while end < target.count, target[end] != UInt8(ascii: "/"), target[end] != UInt8(ascii: "?") { end += 1 }
        let authority = UnsafeRawBufferPointer(rebasing: target[scheme..<end])
        guard !authority.isEmpty, Authority.isValid(authority), end == target.count || target[end] == UInt8(ascii: "/")
        else { throw .malformed("A URL as the target has a host, and a path that begins with a slash.") }
        host = authority
        let path = isOptions ? Self.everything : Self.root
        target =
            end == target.count
            ? UnsafeRawBufferPointer(start: path.utf8Start, count: 1) : UnsafeRawBufferPointer(rebasing: target[end...])
    }
}

/// A host with perhaps a port (RFC 3986 §3.2). Narrower than the grammar: no user, no comma, no empty brackets.
enum Authority {
    /// Whether the bytes are one, or empty.
    static func isValid(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var place = 0
        if bytes.first == UInt8(ascii: "[") {
            place = 1
            while place < bytes.count, isAddress(bytes[place]) { place += 1 }
            guard place > 2, place < bytes.count, bytes[place] == UInt8(ascii: "]") else { return false }
            place += 1
        } else {
            while place < bytes.count, isName(bytes[place]) { place += 1 }
        }
        guard place < bytes.count else { return true }
        guard bytes[place] == UInt8(ascii: ":"), place > 0, bytes.count - place <= 6 else { return false }
        return bytes[(place + 1)...].allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
    }

    private static func isAddress(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: ":"), UInt8(ascii: "a")...UInt8(ascii: "f"),
            UInt8(ascii: "A")...UInt8(ascii: "F"), UInt8(ascii: "."):
            true
        default: false
        }
    }

    private static func isName(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "("), UInt8(ascii: ")"), UInt8(ascii: ";"), UInt8(ascii: "="): true
        case UInt8(ascii: "#"), UInt8(ascii: "^"), UInt8(ascii: "`"), UInt8(ascii: "|"): false
        default: Token.contains(byte)
        }
    }
}

/// The characters of tokens (RFC 9110 §5.6.2).
enum Token {
    private static let low: UInt64 = mask(0)
    private static let high: UInt64 = mask(64)

    private static func mask(_ base: UInt8) -> UInt64 {
        var bits: UInt64 = 0
        for byte in "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz".utf8 {
            if byte >= base, byte - base < 64 { bits |= 1 << UInt64(byte - base) }
        }
        return bits
    }

    @inline(__always)
    static func contains(_ byte: UInt8) -> Bool {
        byte < 64 ? low >> UInt64(byte) & 1 == 1 : byte < 128 && high >> UInt64(byte - 64) & 1 == 1
    }
}

extension UnsafeRawBufferPointer {
    /// Whether the bytes are a word, which is given in lower case, whatever their own case.
    public func isSame(as word: StaticString) -> Bool {
        guard count == word.utf8CodeUnitCount else { return false }
        for index in 0..<count {
            let byte = self[index]
            let lowered = byte &- UInt8(ascii: "A") < 26 ? byte | 0x20 : byte
            if lowered != word.utf8Start[index] { return false }
        }
        return true
    }

    /// Whether the bytes begin with a word, which is given in lower case, whatever their own case.
    public func begins(with word: StaticString) -> Bool {
        count >= word.utf8CodeUnitCount
            && UnsafeRawBufferPointer(rebasing: self[..<word.utf8CodeUnitCount]).isSame(as: word)
    }

    /// The bytes without spaces and tabs around them.
    public var trimmed: UnsafeRawBufferPointer {
        var (start, end) = (0, count)
        while start < end, self[start] == 0x20 || self[start] == 9 { start += 1 }
        while end > start, self[end - 1] == 0x20 || self[end - 1] == 9 { end -= 1 }
        return UnsafeRawBufferPointer(rebasing: self[start..<end])
    }

    /// The bytes as text; what is no UTF-8 is replaced.
    public var text: String { String(decoding: self, as: UTF8.self) }
}
