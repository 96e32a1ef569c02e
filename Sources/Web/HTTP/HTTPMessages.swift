/// Requests and responses as values: what a handler is given and what it answers. Nothing here knows of sockets.
public import Core

/// A request's method.
public enum Method: String, Sendable, CaseIterable {
    /// Reads (RFC 9110 §9.3.1).
    case get = "GET"
    /// Reads, and gets the answer without its body (§9.3.2).
    case head = "HEAD"
    /// Hands something over to be dealt with (§9.3.3).
    case post = "POST"
    /// Puts something in the place of what is there (§9.3.4).
    case put = "PUT"
    /// Changes a part of what is there (RFC 5789).
    case patch = "PATCH"
    /// Removes (RFC 9110 §9.3.5).
    case delete = "DELETE"
    /// Asks what may be asked, as browsers do before a request (§9.3.7).
    case options = "OPTIONS"

    /// Whether it asks for nothing to change (RFC 9110 §9.2.1).
    public var isSafe: Bool { self == .get || self == .head || self == .options }
}

/// Header fields in their order; names without regard to case.
public struct Headers: Sendable, Equatable {
    /// One field.
    public struct Field: Sendable, Equatable {
        /// The name as written.
        public var name: String
        /// The value without surrounding space.
        public var value: String
    }

    /// All fields.
    public private(set) var fields: [Field] = []

    /// No fields.
    public init() {}

    /// Adds a field behind the others.
    public mutating func add(_ name: String, _ value: String) { fields.append(Field(name: name, value: value)) }

    /// Every value of a field.
    public func all(_ name: String) -> [String] {
        fields.filter { Self.isSame($0.name, name) }.map(\.value)
    }

    /// The first value of a field; setting it replaces all.
    public subscript(_ name: String) -> String? {
        get { fields.first { Self.isSame($0.name, name) }?.value }
        set {
            fields.removeAll { Self.isSame($0.name, name) }
            if let newValue { add(name, newValue) }
        }
    }

    private static func isSame(_ a: String, _ b: String) -> Bool {
        a.utf8.count == b.utf8.count && zip(a.utf8, b.utf8).allSatisfy { lowered($0) == lowered($1) }
    }

    private static func lowered(_ byte: UInt8) -> UInt8 {
        (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte) ? byte | 0x20 : byte
    }
}

/// A complete request.
public struct HTTPRequest: Sendable {
    /// What is to be done.
    public var method: Method
    /// The path as sent, percent-encoded, beginning with `/`; or `*`.
    public var path: String
    /// The parts of the path between slashes, each decoded once. Empty ones count: `/a//b` has three.
    public var segments: [String]
    /// The query's pairs in their order, decoded.
    public var query: [(name: String, value: String)]
    /// The header fields.
    public var headers: Headers
    /// The body.
    public var body: [UInt8]
    /// The name or address, with the port if there is one, that the client wanted to reach.
    public var host: String
    /// The peer's address, for the log.
    public var peer: String
    /// Whether the peer is on this machine: a loopback address or a Unix socket.
    public var isLocal: Bool
    /// Who sent it, as far as the connection knows: nothing that the request says, and no secret.
    public var sender: Credentials
    /// What the route's pattern took out of the path.
    public var parameters: [String: String] = [:]

    /// Makes a request.
    /// - Throws: ``Problem`` when the target's escapes are wrong.
    public init(
        method: Method, target: String, headers: Headers = Headers(), body: [UInt8] = [], host: String = "",
        peer: String = "", isLocal: Bool = true
    ) throws(Problem) {
        self.method = method
        // Bytes, not characters: a slash with a combining mark behind it is still a slash.
        let parts = target.utf8.split(separator: UInt8(ascii: "?"), maxSplits: 1, omittingEmptySubsequences: false)
        path = String(Substring(parts[0]))
        guard path == "*" || parts[0].first == UInt8(ascii: "/") else { throw .badTarget }
        segments = []
        for part in parts[0].dropFirst().split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false) {
            guard let segment = Percent.decode(Substring(part)) else { throw .badTarget }
            segments.append(segment)
        }
        query = []
        for pair in parts.count > 1 ? parts[1].split(separator: UInt8(ascii: "&")) : [] {
            let sides = pair.split(separator: UInt8(ascii: "="), maxSplits: 1, omittingEmptySubsequences: false)
            guard let name = Percent.decode(Substring(sides[0]), plusIsSpace: true),
                let value = Percent.decode(sides.count > 1 ? Substring(sides[1]) : "", plusIsSpace: true)
            else { throw .badTarget }
            query.append((name, value))
        }
        self.headers = headers
        self.body = body
        self.host = host
        self.peer = peer
        self.isLocal = isLocal
        sender = Credentials(clientID: "", user: nil, password: nil, isLocal: isLocal, peer: peer)
    }

    /// The first value of a query parameter; nil when it is not there.
    public func query(_ name: String) -> String? { query.first { $0.name == name }?.value }
}

/// A complete response. The server adds `Content-Length`, `Date` and `Connection`.
public struct HTTPResponse: Sendable, Equatable {
    /// The status code.
    public var status: Int
    /// The header fields.
    public var headers: Headers
    /// The body; not sent to a HEAD.
    public var body: [UInt8]

    /// Makes a response.
    public init(status: Int, headers: Headers = Headers(), body: [UInt8] = []) {
        self.status = status
        self.headers = headers
        self.body = body
    }

    /// A response with a body of a media type.
    public init(status: Int = 200, type: String, body: [UInt8]) {
        self.init(status: status, body: body)
        headers.add("Content-Type", type)
    }

    /// 204.
    public static let noContent = HTTPResponse(status: 204)
}

/// Percent-encoding (RFC 3986 §2.1).
public enum Percent {
    /// The text that a part of a URL stands for; nil when an escape is incomplete or the result is no UTF-8.
    public static func decode(_ text: some StringProtocol, plusIsSpace: Bool = false) -> String? {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.utf8.count)
        var rest = text.utf8.makeIterator()
        while let byte = rest.next() {
            if byte == UInt8(ascii: "%") {
                guard let high = rest.next().flatMap(digit), let low = rest.next().flatMap(digit) else { return nil }
                bytes.append(high << 4 | low)
            } else {
                bytes.append(plusIsSpace && byte == UInt8(ascii: "+") ? UInt8(ascii: " ") : byte)
            }
        }
        return String(validating: bytes, as: UTF8.self)
    }

    /// A text as one part of a URL: everything but unreserved characters is escaped.
    public static func encode(_ text: String) -> String {
        var bytes: [UInt8] = []
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "~"):
                bytes.append(byte)
            case UInt8(ascii: ".") where text != "." && text != "..":
                bytes.append(byte)
            default:
                bytes += [UInt8(ascii: "%"), hex(byte >> 4), hex(byte & 15)]
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// The digit of a number below 16.
    static func hex(_ number: UInt8) -> UInt8 {
        number < 10 ? UInt8(ascii: "0") + number : UInt8(ascii: "A") + number - 10
    }

    /// The number that a hexadecimal digit stands for.
    static func digit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}
