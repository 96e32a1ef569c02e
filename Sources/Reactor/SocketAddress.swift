import CLinux
import Glibc

/// An address to listen on: `127.0.0.1:1883`, `[::1]:1883`, `localhost:1883` or `unix:/run/apus.sock`.
public struct SocketAddress: Sendable, CustomStringConvertible {
    /// As the system keeps it: family, port, address.
    let bytes: [UInt8]
    /// The path of a Unix socket.
    public let unixPath: String?

    /// Why an address cannot be used.
    public struct Failure: Error, Sendable, CustomStringConvertible {
        /// The text and what is wrong with it.
        public let description: String
    }

    /// Reads an address, asking the resolver for names.
    /// - Throws: ``Failure``, with what would be right.
    public init(_ text: String) throws(Failure) {
        if text.hasPrefix("unix:") {
            let path = String(text.dropFirst(5))
            var address = sockaddr_un()
            address.sun_family = sa_family_t(AF_UNIX)
            let room = MemoryLayout.size(ofValue: address.sun_path) - 1
            guard !path.isEmpty, path.utf8.count <= room else {
                throw Failure(description: "\(text): a socket's path has 1 to \(room) bytes")
            }
            withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
            bytes = withUnsafeBytes(of: &address) { Array($0) }
            unixPath = path
            return
        }
        let (host, port) = try Self.parts(of: text)
        self = try Self.lookUp(host, port, flags: AI_PASSIVE)[0]
    }

    init(bytes: [UInt8]) {
        self.bytes = bytes
        unixPath = nil
    }

    /// The host, without brackets, and the port.
    static func parts(of text: String) throws(Failure) -> (host: String, port: UInt16) {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
            throw Failure(description: "\(text): expected HOST:PORT, [IPV6]:PORT or unix:PATH")
        }
        let host = String(text[..<colon])
        guard host.hasPrefix("["), host.hasSuffix("]") else { return (host, port) }
        return (String(host.dropFirst().dropLast()), port)
    }

    /// The addresses of a host, in the order in which they are to be tried: at least one, and not more than make sense.
    /// Asks the resolver unless `flags` say that the host is a number, and so may take long.
    static func lookUp(_ host: String, _ port: UInt16, flags: Int32) throws(Failure) -> [SocketAddress] {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = flags
        var list: UnsafeMutablePointer<addrinfo>?
        let status = getaddrinfo(host.isEmpty ? nil : host, String(port), &hints, &list)
        guard status == 0, let list else {
            throw Failure(description: "\(host):\(port): \(String(cString: gai_strerror(status)))")
        }
        defer { freeaddrinfo(list) }
        var addresses: [SocketAddress] = []
        var next: UnsafeMutablePointer<addrinfo>? = list
        while let entry = next, addresses.count < maxAddresses {
            let bytes = UnsafeRawBufferPointer(start: entry.pointee.ai_addr, count: Int(entry.pointee.ai_addrlen))
            addresses.append(SocketAddress(bytes: Array(bytes)))
            next = entry.pointee.ai_next
        }
        return addresses
    }

    /// Addresses of one name that are tried.
    private static let maxAddresses = 16

    /// The local (or the peer's) address of a socket.
    init?(socket: Int32, peer: Bool) {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let status = withUnsafeMutablePointer(to: &storage) { storage in
            storage.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                peer ? getpeername(socket, $0, &length) : getsockname(socket, $0, &length)
            }
        }
        guard status == 0 else { return nil }
        self.init(bytes: withUnsafeBytes(of: &storage) { Array($0.prefix(Int(length))) })
    }

    /// The address family.
    var family: Int32 { bytes.withUnsafeBytes { Int32($0.loadUnaligned(as: sa_family_t.self)) } }

    /// Whether only this machine can reach it.
    public var isLocal: Bool {
        switch family {
        case AF_UNIX: return true
        case AF_INET: return bytes[4] == 127
        case AF_INET6:
            let address = bytes[8..<24]
            if address.dropLast().allSatisfy({ $0 == 0 }) && address.last == 1 { return true }
            // An IPv4 address inside IPv6: ::ffff:127.x.y.z
            return address.prefix(10).allSatisfy { $0 == 0 } && bytes[18] == 0xFF && bytes[19] == 0xFF
                && bytes[20] == 127
        default: return false
        }
    }

    /// Calls `body` with the address as the system calls want it.
    func withSystemAddress<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        bytes.withUnsafeBytes { raw in
            var storage = sockaddr_storage()
            return withUnsafeMutableBytes(of: &storage) { copy in
                copy.copyMemory(from: raw)
                return body(copy.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t(raw.count))
            }
        }
    }

    /// `host:port`, `[host]:port` or `unix:path`, in numbers.
    public var description: String {
        if let unixPath { return "unix:\(unixPath)" }
        if family == AF_UNIX { return "unix" }
        var host = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        var port = [CChar](repeating: 0, count: Int(NI_MAXSERV))
        let status = withSystemAddress {
            getnameinfo(
                $0, $1, &host, socklen_t(host.count), &port, socklen_t(port.count), NI_NUMERICHOST | NI_NUMERICSERV)
        }
        guard status == 0 else { return "unknown" }
        let name = String(decoding: host.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let number = String(decoding: port.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return family == AF_INET6 ? "[\(name)]:\(number)" : "\(name):\(number)"
    }
}
