/// The part of a peer's address that limits count by.
import Glibc

enum PeerAddress {
    /// `192.0.2.1:5` is `192.0.2.1`; `[2001:db8::1]:5` is its network `2001:db8:0:0::/64`, which is what one customer
    /// gets and chooses addresses from; an IPv4 address in the clothes of IPv6 is the IPv4 address; sockets of this
    /// machine without an address are `unix`. Text that is no address is itself, cut to a bound.
    static func network(of peer: String) -> String {
        if peer.isEmpty || peer.hasPrefix("unix") { return "unix" }
        var host = peer[...]
        if peer.hasPrefix("[") {
            host = peer.dropFirst().prefix { $0 != "]" }
        } else if let colon = peer.lastIndex(of: ":"), peer.firstIndex(of: ":") == colon {
            host = peer[..<colon]
        }
        // A zone names an interface, not an address.
        let plain = String(host.prefix { $0 != "%" })
        var address = in6_addr()
        guard plain.utf8.count < Int(INET6_ADDRSTRLEN), inet_pton(AF_INET6, plain, &address) == 1 else {
            return String(decoding: plain.utf8.prefix(64), as: UTF8.self)
        }
        let bytes = withUnsafeBytes(of: &address) { Array($0) }
        if bytes[..<10].allSatisfy({ $0 == 0 }), bytes[10] == 0xFF, bytes[11] == 0xFF {
            return bytes[12...].map { String($0) }.joined(separator: ".")
        }
        let groups = stride(from: 0, to: 8, by: 2).map { String(UInt(bytes[$0]) << 8 | UInt(bytes[$0 + 1]), radix: 16) }
        return groups.joined(separator: ":") + "::/64"
    }
}
