import CLinux
import Glibc

/// Where a listener can be reached from.
extension SocketAddress {
    /// Whether it stands for all addresses of this machine: `0.0.0.0` or `[::]`.
    public var isEverywhere: Bool {
        switch family {
        case AF_INET: bytes[4..<8].allSatisfy { $0 == 0 }
        case AF_INET6: bytes[8..<24].allSatisfy { $0 == 0 }
        default: false
        }
    }

    /// The addresses that stand for one that listens everywhere: those of the machine's interfaces that are up, without
    /// loopback and those that hold on one wire only. Of any other address: itself.
    public func reachable() -> [SocketAddress] {
        guard isEverywhere else { return [self] }
        var list: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&list) == 0 else { return [] }
        defer { freeifaddrs(list) }
        var found: [SocketAddress] = []
        var next = list
        while let entry = next?.pointee {
            next = entry.ifa_next
            guard entry.ifa_flags & UInt32(IFF_UP) != 0, let address = entry.ifa_addr,
                Int32(address.pointee.sa_family) == family
            else { continue }
            var other = Array(UnsafeRawBufferPointer(start: address, count: bytes.count))
            // The port is at the same place in both families.
            other.replaceSubrange(2..<4, with: bytes[2..<4])
            let candidate = SocketAddress(bytes: other)
            if !candidate.isLocal, !candidate.isOfOneWire { found.append(candidate) }
        }
        return found
    }

    /// 169.254.0.0/16 and fe80::/10.
    private var isOfOneWire: Bool {
        switch family {
        case AF_INET: bytes[4] == 169 && bytes[5] == 254
        case AF_INET6: bytes[8] == 0xFE && bytes[9] & 0xC0 == 0x80
        default: false
        }
    }
}
