/// Where a listener listens.
import Glibc

/// `127.0.0.1:1883`, `[::1]:1883`, `localhost:1883` or `unix:/path`. Host names other than `localhost` are refused:
/// what a name stands for may change, and with it who can reach the node.
public enum ListenAddress: Sendable, Hashable, CustomStringConvertible {
    /// An IPv4 address in dotted form, and a port; port 0 takes a free one.
    case ipv4(host: String, port: UInt16)
    /// An IPv6 address without brackets, and a port; port 0 takes a free one.
    case ipv6(host: String, port: UInt16)
    /// A Unix socket.
    case unix(path: String)

    /// Where a node without configuration speaks MQTT.
    public static let standard = ListenAddress.ipv4(host: "127.0.0.1", port: 1883)

    /// Where a node without configuration speaks HTTP.
    public static let standardHTTP = ListenAddress.ipv4(host: "127.0.0.1", port: 8080)

    /// Where a node without configuration speaks AMQP.
    public static let standardAMQP = ListenAddress.ipv4(host: "127.0.0.1", port: 5672)

    /// Where a node without configuration waits for other nodes.
    public static let standardMesh = ListenAddress.ipv4(host: "127.0.0.1", port: 7400)

    /// Where a node without configuration is managed.
    public static let standardAdmin = ListenAddress.ipv4(host: "127.0.0.1", port: 8222)

    /// The longest path of a Unix socket: `sun_path` without its final zero.
    public static let maxUnixPathBytes = 107

    /// Why a text is not an address, and what would be one.
    public struct Malformed: Error, Equatable {
        /// The reason.
        public let reason: String
    }

    /// Reads the text of an address.
    public init(parsing text: String) throws(Malformed) {
        if text.hasPrefix("unix:") {
            let path = String(text.dropFirst(5))
            if path.isEmpty { throw Malformed(reason: "expected a path after 'unix:'") }
            if path.utf8.count > Self.maxUnixPathBytes {
                throw Malformed(reason: "the path of a Unix socket has at most \(Self.maxUnixPathBytes) bytes")
            }
            self = .unix(path: path)
            return
        }
        guard let colon = text.lastIndex(of: ":") else {
            throw Malformed(reason: "expected ADDRESS:PORT as 127.0.0.1:1883 or [::1]:1883, or unix:/path")
        }
        let digits = text[text.index(after: colon)...]
        guard digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = UInt16(digits) else {
            throw Malformed(reason: "the port '\(digits)' is not a number from 0 to 65535")
        }
        var host = String(text[..<colon])
        if host == "localhost" { host = "127.0.0.1" }
        var binary = in6_addr()
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = String(host.dropFirst().dropLast())
            guard inet_pton(AF_INET6, host, &binary) == 1 else {
                throw Malformed(reason: "'\(host)' is not an IPv6 address")
            }
            self = .ipv6(host: host, port: port)
        } else if inet_pton(AF_INET, host, &binary) == 1 {
            self = .ipv4(host: host, port: port)
        } else if inet_pton(AF_INET6, host, &binary) == 1 {
            throw Malformed(reason: "an IPv6 address stands in brackets: [\(host)]:\(port)")
        } else if host.isEmpty || host == "*" {
            throw Malformed(
                reason: "write 0.0.0.0:\(port) to listen everywhere, 127.0.0.1:\(port) for this machine only")
        } else {
            throw Malformed(reason: "'\(host)' is not an IP address; of names only 'localhost' can be listened on")
        }
    }

    /// Whether only this machine can connect.
    public var isLocal: Bool {
        switch self {
        case .ipv4(let host, _): host.hasPrefix("127.")
        case .ipv6(let host, _): host == "::1"
        case .unix: true
        }
    }

    /// Whether the system chooses the port.
    public var isAnyPort: Bool {
        switch self {
        case .ipv4(_, let port), .ipv6(_, let port): port == 0
        case .unix: false
        }
    }

    /// The text, as it is configured.
    public var description: String {
        switch self {
        case .ipv4(let host, let port): "\(host):\(port)"
        case .ipv6(let host, let port): "[\(host)]:\(port)"
        case .unix(let path): "unix:\(path)"
        }
    }
}
