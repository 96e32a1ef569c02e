import Core

/// Reads what a balancer says of a connection before its first byte: the PROXY protocol, versions 1 and 2
/// (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt). Sans-IO: bytes come piece by piece, and none behind
/// the header is taken. What is said of TLS between client and balancer (§2.2.6) is not believed and skipped.
struct ProxyHeader {
    /// Where a connection comes from.
    enum Source: Equatable {
        /// From the balancer itself, which looks whether the node is well.
        case balancer
        /// From somewhere without an address that could be told: another protocol, or a Unix socket.
        case unknown
        /// From a client.
        case client(NetworkAddress, port: UInt16)
    }

    /// What became of bytes.
    enum Step: Equatable {
        /// All were taken, and more must come.
        case incomplete
        /// So many of them were taken, and the header is complete.
        case complete(taken: Int, Source)
        /// Why it is no such header.
        case malformed(String)
    }

    /// Bytes of the longest line (§2.1), its end included.
    static let maxLine = 107
    /// Bytes of the longest block behind the sixteen at the beginning, and of the longest header.
    static let maxBlock = 536
    static let maxBytes = maxBlock + start

    /// Bytes in front of the block (§2.2).
    private static let start = 16
    private static let signature: [UInt8] = [0x0D, 0x0A, 0x0D, 0x0A, 0, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A]
    private static let word = Array("PROXY ".utf8)

    /// What has come so far.
    private var bytes: [UInt8] = []

    /// Takes bytes.
    mutating func take(_ more: UnsafeRawBufferPointer) -> Step {
        let known = bytes.count
        bytes.append(contentsOf: more.prefix(Self.maxBytes - known))
        let step = read()
        if case .complete(let length, let source) = step { return .complete(taken: length - known, source) }
        return step
    }

    /// - Returns: with `taken` counted from the header's beginning.
    private func read() -> Step {
        if bytes.starts(with: Self.word.prefix(bytes.count)) { return readLine() }
        if bytes.starts(with: Self.signature.prefix(bytes.count)) { return readBlock() }
        return .malformed("expected a PROXY protocol header")
    }

    // MARK: Version 1

    private func readLine() -> Step {
        let line = bytes.prefix(Self.maxLine)
        guard let end = line.firstIndex(of: 0x0D), end + 1 < line.count else {
            return bytes.count < Self.maxLine ? .incomplete : .malformed("a PROXY line of more than 107 bytes")
        }
        guard line[end + 1] == 0x0A else { return .malformed("a PROXY line without its end") }
        let words = line[..<end].split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
        func source() -> Source? {
            guard words.count > 1 else { return nil }
            // What follows is nobody's business (§2.1).
            if words[1].elementsEqual("UNKNOWN".utf8) { return .unknown }
            let isIPv6 = words[1].elementsEqual("TCP6".utf8)
            guard words.count == 6, isIPv6 || words[1].elementsEqual("TCP4".utf8),
                let from = address(words[2], isIPv6), address(words[3], isIPv6) != nil,
                let port = Self.port(words[4]), Self.port(words[5]) != nil
            else { return nil }
            return .client(from, port: port)
        }
        return source().map { .complete(taken: end + 2, $0) } ?? .malformed("a PROXY line with other words than it has")
    }

    private func address(_ text: ArraySlice<UInt8>, _ isIPv6: Bool) -> NetworkAddress? {
        guard text.contains(UInt8(ascii: ":")) == isIPv6 else { return nil }
        return NetworkAddress(String(decoding: text, as: UTF8.self))
    }

    private static func port(_ text: ArraySlice<UInt8>) -> UInt16? {
        guard (1...5).contains(text.count), text.allSatisfy({ (0x30...0x39).contains($0) }),
            text.count == 1 || text.first != 0x30
        else { return nil }
        return UInt16(String(decoding: text, as: UTF8.self))
    }

    // MARK: Version 2

    private func readBlock() -> Step {
        guard bytes.count > 12 else { return .incomplete }
        guard bytes[12] >> 4 == 2 else { return .malformed("a PROXY header of version \(bytes[12] >> 4)") }
        let command = bytes[12] & 0x0F
        guard command <= 1 else { return .malformed("a PROXY header with command \(command)") }
        guard bytes.count >= Self.start else { return .incomplete }
        let count = Int(bytes[14]) << 8 | Int(bytes[15])
        // Before anything is kept of it.
        guard count <= Self.maxBlock else { return .malformed("a PROXY header of \(count) bytes") }
        let length = Self.start + count
        guard bytes.count >= length else { return .incomplete }
        guard command == 1 else { return .complete(taken: length, .balancer) }
        let block = bytes[Self.start..<length]
        switch bytes[13] {
        case 0x00: return .complete(taken: length, .unknown)
        case 0x11: return read(block, addressBytes: 4, length)
        case 0x21: return read(block, addressBytes: 16, length)
        case 0x31: return read(block, addressBytes: 108, length)
        default: return .malformed("a PROXY header for another kind of connection")
        }
    }

    /// Both addresses, and for those that have any both ports; then what else is said.
    private func read(_ block: ArraySlice<UInt8>, addressBytes: Int, _ length: Int) -> Step {
        let hasPorts = addressBytes <= 16
        let fixed = 2 * addressBytes + (hasPorts ? 4 : 0)
        guard block.count >= fixed else { return .malformed("a PROXY header without its addresses") }
        if let wrong = check(block.dropFirst(fixed), length) { return .malformed(wrong) }
        guard hasPorts else { return .complete(taken: length, .unknown) }
        let place = block.startIndex + 2 * addressBytes
        let port = UInt16(bytes[place]) << 8 | UInt16(bytes[place + 1])
        let from = block.prefix(addressBytes).withUnsafeBytes { NetworkAddress(bytes: $0) }
        guard let from else { return .malformed("a PROXY header without its addresses") }
        return .complete(taken: length, .client(from, port: port))
    }

    /// Walks over what follows the addresses (§2.2.1).
    /// - Returns: what is wrong with it.
    private func check(_ fields: ArraySlice<UInt8>, _ length: Int) -> String? {
        var rest = fields
        var isChecked = false
        while !rest.isEmpty {
            guard rest.count >= 3 else { return "a PROXY header with half a field" }
            let place = rest.startIndex
            let count = Int(rest[place + 1]) << 8 | Int(rest[place + 2])
            guard rest.count >= 3 + count else { return "a PROXY header with a field longer than itself" }
            if rest[place] == 0x03 {
                guard count == 4 else { return "a PROXY header with a checksum of \(count) bytes" }
                guard !isChecked else { return "a PROXY header with two checksums" }
                isChecked = true
                if !isSummed(at: place + 3, length) { return "a PROXY header with a wrong checksum" }
            }
            rest = rest.dropFirst(3 + count)
        }
        return nil
    }

    /// Whether the CRC32c at a place is that of the header with zeros there (§2.2.4).
    private func isSummed(at place: Int, _ length: Int) -> Bool {
        var sum = UInt32.max
        var told: UInt32 = 0
        for index in 0..<length {
            let isSum = index >= place && index < place + 4
            if isSum { told = told << 8 | UInt32(bytes[index]) }
            sum ^= isSum ? 0 : UInt32(bytes[index])
            for _ in 0..<8 { sum = sum >> 1 ^ (sum & 1 == 1 ? 0x82F6_3B78 : 0) }
        }
        return ~sum == told
    }
}
