/// Addresses of peers as numbers, and ranges of them: what quotas, listeners and the PROXY protocol compare.

/// An address of IPv6, or one of IPv4 in its place among those of IPv6 (::ffff:a.b.c.d, RFC 4291 §2.5.5.2).
public struct NetworkAddress: Hashable, Sendable, CustomStringConvertible {
    /// The first eight bytes, the first of them the highest.
    public let high: UInt64
    /// The last eight bytes.
    public let low: UInt64

    private static let ipv4: UInt64 = 0xFFFF

    /// An address of IPv6 by its bytes, or one of IPv4 inside of it.
    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// An address of IPv4, the first byte the highest.
    public init(ipv4 number: UInt32) { self.init(high: 0, low: Self.ipv4 << 32 | UInt64(number)) }

    /// 4 or 16 bytes as they are on the wire; nil for any other count.
    public init?(bytes: UnsafeRawBufferPointer) {
        switch bytes.count {
        case 4: self.init(ipv4: UInt32(bigEndian: bytes.loadUnaligned(as: UInt32.self)))
        case 16:
            self.init(
                high: UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self)),
                low: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)))
        default: return nil
        }
    }

    /// `192.0.2.1`, `2001:db8::1` or `::ffff:192.0.2.1`; nil for anything else. No names, brackets, ports or zones.
    public init?(_ text: some StringProtocol) {
        let text = Array(text.utf8)
        guard text.contains(UInt8(ascii: ":")) else {
            guard let number = Self.number(ipv4: text[...]) else { return nil }
            self.init(ipv4: number)
            return
        }
        guard let (high, low) = Self.numbers(ipv6: text) else { return nil }
        self.init(high: high, low: low)
    }

    /// Whether it is one of IPv4.
    public var isIPv4: Bool { high == 0 && low >> 32 == Self.ipv4 }

    /// What quotas count by: an address of IPv4, or the network of 64 bits that one host of IPv6 may choose from.
    public var network: NetworkAddress { isIPv4 ? self : NetworkAddress(high: high, low: 0) }

    // MARK: Text

    /// Four numbers up to 255 without leading zeros, which some would read as octal.
    private static func number(ipv4 text: ArraySlice<UInt8>) -> UInt32? {
        let parts = text.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        var number: UInt32 = 0
        for part in parts {
            guard (1...3).contains(part.count), part.count == 1 || part.first != UInt8(ascii: "0") else { return nil }
            var value: UInt32 = 0
            for digit in part {
                guard (0x30...0x39).contains(digit) else { return nil }
                value = value * 10 + UInt32(digit - 0x30)
            }
            guard value <= 255 else { return nil }
            number = number << 8 | value
        }
        return number
    }

    /// RFC 4291 §2.2.
    private static func numbers(ipv6 text: [UInt8]) -> (UInt64, UInt64)? {
        guard text.count <= 45 else { return nil }
        var groups: [UInt16] = []
        /// Groups in front of `::`; nil as long as it has not come.
        var gap: Int?
        var place = 0
        if text.starts(with: "::".utf8) {
            gap = 0
            place = 2
        }
        while place < text.count {
            guard groups.count < 8 else { return nil }
            let end = text[place...].firstIndex(of: UInt8(ascii: ":")) ?? text.count
            let part = text[place..<end]
            if part.contains(UInt8(ascii: ".")) {
                guard end == text.count, groups.count <= 6, let number = number(ipv4: part) else { return nil }
                groups += [UInt16(truncatingIfNeeded: number >> 16), UInt16(truncatingIfNeeded: number)]
                break
            }
            guard (1...4).contains(part.count),
                let group = UInt16(String(decoding: part, as: UTF8.self), radix: 16), part.first != UInt8(ascii: "+")
            else { return nil }
            groups.append(group)
            guard end < text.count else { break }
            place = end + 1
            // A colon at the end is half of `::`, or wrong.
            guard place < text.count else { return nil }
            if text[place] == UInt8(ascii: ":") {
                guard gap == nil else { return nil }
                gap = groups.count
                place += 1
            }
        }
        guard let gap else { return groups.count == 8 ? join(groups) : nil }
        guard groups.count < 8 else { return nil }
        groups.insert(contentsOf: Array(repeating: 0, count: 8 - groups.count), at: gap)
        return join(groups)
    }

    private static func join(_ groups: [UInt16]) -> (UInt64, UInt64) {
        (groups[..<4].reduce(0) { $0 << 16 | UInt64($1) }, groups[4...].reduce(0) { $0 << 16 | UInt64($1) })
    }

    /// As RFC 5952 §4 writes it.
    public var description: String {
        if isIPv4 { return "\(low >> 24 & 0xFF).\(low >> 16 & 0xFF).\(low >> 8 & 0xFF).\(low & 0xFF)" }
        let groups = [high, low].flatMap { half in (0..<4).map { half >> (48 - 16 * UInt64($0)) & 0xFFFF } }
        var (start, count) = (0, 0)
        var index = 0
        while index < 8 {
            var end = index
            while end < 8, groups[end] == 0 { end += 1 }
            if end - index > max(count, 1) { (start, count) = (index, end - index) }
            index = max(end, index + 1)
        }
        func text(_ range: Range<Int>) -> String {
            groups[range].map { String($0, radix: 16) }.joined(separator: ":")
        }
        return count == 0 ? text(0..<8) : text(0..<start) + "::" + text(start + count..<8)
    }
}

/// A range of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address alone. A range of IPv6 has none of IPv4.
public struct AddressRange: Hashable, Sendable, CustomStringConvertible {
    /// The first address.
    public let first: NetworkAddress
    /// Bits that all addresses have in common, counted in IPv6.
    private let bits: Int

    /// Reads a range; nil when it is none, or has bits set behind its length.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count <= 2, let first = NetworkAddress(parts[0]) else { return nil }
        let most = first.isIPv4 && !parts[0].contains(":") ? 32 : 128
        var length = most
        if parts.count == 2 {
            let digits = parts[1].utf8
            guard (1...3).contains(digits.count), digits.allSatisfy({ (0x30...0x39).contains($0) }),
                let number = Int(parts[1]), number <= most
            else { return nil }
            length = number
        }
        bits = 128 - most + length
        self.first = first
        guard Self.cut(first, bits) == first else { return nil }
    }

    /// Whether an address is one of it.
    public func contains(_ address: NetworkAddress) -> Bool {
        address.isIPv4 == first.isIPv4 && Self.cut(address, bits) == first
    }

    private static func cut(_ address: NetworkAddress, _ bits: Int) -> NetworkAddress {
        func mask(_ bits: Int) -> UInt64 { bits <= 0 ? 0 : bits >= 64 ? .max : ~(.max >> UInt64(bits)) }
        return NetworkAddress(high: address.high & mask(bits), low: address.low & mask(bits - 64))
    }

    /// As it is written.
    public var description: String {
        let isShort = first.isIPv4
        return bits == 128 ? "\(first)" : "\(first)/\(isShort ? max(bits - 96, 0) : bits)"
    }
}
