import Core
import Testing

@testable import Reactor

/// Headers of the PROXY protocol, as balancers send them.
enum ProxyHeaders {
    static let signature: [UInt8] = [0x0D, 0x0A, 0x0D, 0x0A, 0, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A]

    /// Version 2.
    static func block(_ command: UInt8, _ family: UInt8, _ body: [UInt8]) -> [UInt8] {
        signature + [0x20 | command, family, UInt8(body.count >> 8), UInt8(body.count & 0xFF)] + body
    }

    static func field(_ kind: UInt8, _ value: [UInt8]) -> [UInt8] {
        [kind, UInt8(value.count >> 8), UInt8(value.count & 0xFF)] + value
    }

    /// From 192.0.2.1, port 56324, to 192.0.2.2, port 443.
    static let four: [UInt8] = [192, 0, 2, 1, 192, 0, 2, 2, 0xDC, 0x04, 0x01, 0xBB]
    /// From 2001:db8::1, port 1, to 2001:db8::2, port 2.
    static let six: [UInt8] =
        [0x20, 0x01, 0x0D, 0xB8] + Array(repeating: 0, count: 11) + [1, 0x20, 0x01, 0x0D, 0xB8]
        + Array(repeating: 0, count: 11) + [2, 0, 1, 0, 2]

    /// A header with the checksum that belongs there, or another one.
    static func summed(isRight: Bool = true) -> [UInt8] {
        var header = block(1, 0x11, four + field(0x04, [0, 0]) + field(0x03, [0, 0, 0, 0]))
        var sum = UInt32.max
        for byte in header {
            sum ^= UInt32(byte)
            for _ in 0..<8 { sum = (sum >> 1) ^ (sum & 1 == 1 ? 0x82F6_3B78 : 0) }
        }
        sum = ~sum ^ (isRight ? 0 : 1)
        for index in 0..<4 { header[header.count - 4 + index] = UInt8(truncatingIfNeeded: sum >> (24 - 8 * index)) }
        return header
    }

    static func line(_ text: String) -> [UInt8] { Array(text.utf8) + [0x0D, 0x0A] }
}

@Suite("Headers of the PROXY protocol")
struct ProxyHeaderTests {
    private static let client4 = ProxyHeader.Source.client(NetworkAddress("192.0.2.1")!, port: 56_324)
    private static let client6 = ProxyHeader.Source.client(NetworkAddress("2001:db8::1")!, port: 1)

    static let good: [(name: String, bytes: [UInt8], source: ProxyHeader.Source)] = [
        ("line", ProxyHeaders.line("PROXY TCP4 192.0.2.1 192.0.2.2 56324 443"), client4),
        ("line of IPv6", ProxyHeaders.line("PROXY TCP6 2001:db8::1 2001:db8::2 1 65535"), client6),
        ("unknown", ProxyHeaders.line("PROXY UNKNOWN"), .unknown),
        ("unknown with more", ProxyHeaders.line("PROXY UNKNOWN ffff:f...f:ffff ffff 65535 65535"), .unknown),
        (
            "the longest line",
            ProxyHeaders.line("PROXY UNKNOWN " + String(repeating: "f", count: 107 - 2 - 14)), .unknown
        ),
        ("block", ProxyHeaders.block(1, 0x11, ProxyHeaders.four), client4),
        ("block of IPv6", ProxyHeaders.block(1, 0x21, ProxyHeaders.six), client6),
        (
            "with fields",
            ProxyHeaders.block(
                1, 0x11,
                ProxyHeaders.four + ProxyHeaders.field(0x02, Array("host".utf8)) + ProxyHeaders.field(0x20, [])
                    + ProxyHeaders.field(0xEA, Array(repeating: 9, count: 300))), client4
        ),
        ("with a checksum", ProxyHeaders.summed(), client4),
        ("from a balancer", ProxyHeaders.block(0, 0, []), .balancer),
        ("from a balancer with something", ProxyHeaders.block(0, 0x11, [1, 2, 3]), .balancer),
        ("of no family", ProxyHeaders.block(1, 0, [1, 2, 3]), .unknown),
        ("from a Unix socket", ProxyHeaders.block(1, 0x31, Array(repeating: 0x61, count: 216)), .unknown),
        (
            "the longest block",
            ProxyHeaders.block(
                1, 0x11, ProxyHeaders.four + ProxyHeaders.field(0x04, Array(repeating: 0, count: 536 - 12 - 3))),
            client4
        ),
    ]

    static let bad: [(name: String, bytes: [UInt8])] = [
        ("MQTT", [0x10, 0x0C, 0, 4]), ("HTTP", Array("GET / HTTP/1.1\r\n".utf8)), ("TLS", [0x16, 3, 1]),
        ("lower case", Array("proxy TCP4".utf8)), ("only a line's end", [0x0D, 0x0A, 0x0D, 0x0A, 0x0D]),
        ("no protocol", ProxyHeaders.line("PROXY ")), ("UDP", ProxyHeaders.line("PROXY UDP4 1.1.1.1 1.1.1.1 1 1")),
        ("no ports", ProxyHeaders.line("PROXY TCP4 192.0.2.1 192.0.2.2")),
        ("one word more", ProxyHeaders.line("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3")),
        ("two spaces", ProxyHeaders.line("PROXY TCP4  192.0.2.1 192.0.2.2 1 2")),
        ("other family", ProxyHeaders.line("PROXY TCP6 192.0.2.1 192.0.2.2 1 2")),
        ("other family", ProxyHeaders.line("PROXY TCP4 ::1 ::2 1 2")),
        ("mixed families", ProxyHeaders.line("PROXY TCP4 192.0.2.1 ::2 1 2")),
        ("a name", ProxyHeaders.line("PROXY TCP4 localhost 192.0.2.2 1 2")),
        ("a large port", ProxyHeaders.line("PROXY TCP4 192.0.2.1 192.0.2.2 65536 2")),
        ("a port with a sign", ProxyHeaders.line("PROXY TCP4 192.0.2.1 192.0.2.2 +1 2")),
        ("a port with a zero", ProxyHeaders.line("PROXY TCP4 192.0.2.1 192.0.2.2 01 2")),
        ("half an end", Array("PROXY UNKNOWN\rX".utf8)),
        ("another end", Array("PROXY UNKNOWN\n".utf8) + Array(repeating: 0x20, count: 100)),
        ("a line too long", ProxyHeaders.line("PROXY UNKNOWN " + String(repeating: "f", count: 107 - 2 - 13))),
        ("version 1 in a block", ProxyHeaders.signature + [0x11, 0x11, 0, 0]),
        ("version 3", ProxyHeaders.signature + [0x31, 0x11, 0, 0]),
        ("another command", ProxyHeaders.block(2, 0x11, ProxyHeaders.four)),
        ("datagrams", ProxyHeaders.block(1, 0x12, ProxyHeaders.four)),
        ("another family", ProxyHeaders.block(1, 0x41, ProxyHeaders.four)),
        ("too short", ProxyHeaders.block(1, 0x11, ProxyHeaders.four.dropLast())),
        ("too short for IPv6", ProxyHeaders.block(1, 0x21, ProxyHeaders.four)),
        ("too short for Unix", ProxyHeaders.block(1, 0x31, Array(repeating: 0, count: 215))),
        ("too long", ProxyHeaders.block(0, 0, Array(repeating: 0, count: 537))),
        ("half a field", ProxyHeaders.block(1, 0x11, ProxyHeaders.four + [4, 0])),
        ("a field that lies", ProxyHeaders.block(1, 0x11, ProxyHeaders.four + [4, 0, 2, 0])),
        ("a field that lies much", ProxyHeaders.block(1, 0x11, ProxyHeaders.four + [4, 0xFF, 0xFF, 0])),
        ("a wrong checksum", ProxyHeaders.summed(isRight: false)),
        ("half a checksum", ProxyHeaders.block(1, 0x11, ProxyHeaders.four + ProxyHeaders.field(3, [0, 0]))),
    ]

    /// Whole, in two pieces at every place, and byte by byte; what follows is never taken.
    @Test("What a header says, in whatever pieces it comes", arguments: good.indices)
    func goodOnes(_ number: Int) {
        let (name, bytes, source) = Self.good[number]
        let behind: [UInt8] = [0x10, 0x0C, 0, 4]
        for cut in 0...bytes.count {
            var header = ProxyHeader()
            if cut > 0, cut < bytes.count {
                #expect(Self.take(&header, Array(bytes[..<cut])) == .incomplete, "\(name) at \(cut)")
            }
            let start = cut == bytes.count ? 0 : cut
            let step = Self.take(&header, bytes[start...] + behind)
            #expect(step == .complete(taken: bytes.count - start, source), "\(name) at \(cut)")
        }
        var header = ProxyHeader()
        for byte in bytes.dropLast() { #expect(Self.take(&header, [byte]) == .incomplete) }
        #expect(Self.take(&header, bytes.suffix(1)) == .complete(taken: 1, source))
    }

    @Test("What is none", arguments: bad.indices)
    func badOnes(_ number: Int) {
        let (name, bytes) = Self.bad[number]
        for size in [bytes.count, 1, 7] {
            var header = ProxyHeader()
            var step = ProxyHeader.Step.incomplete
            var rest = bytes[...]
            while step == .incomplete, !rest.isEmpty {
                step = Self.take(&header, Array(rest.prefix(size)))
                rest = rest.dropFirst(size)
            }
            guard case .malformed(let reason) = step else {
                Issue.record("\(name): \(step)")
                return
            }
            #expect(!reason.isEmpty)
        }
    }

    /// Every byte of every header changed in every bit, and cut anywhere: no trap, never more taken than there is, and
    /// never more kept than the longest header has.
    @Test("Mutations", arguments: good.indices)
    func mutations(_ number: Int) {
        let bytes = Self.good[number].bytes
        for place in bytes.indices {
            for bit in 0..<8 {
                var mutant = bytes
                mutant[place] ^= 1 << bit
                var header = ProxyHeader()
                switch Self.take(&header, mutant + [UInt8](repeating: 0x0A, count: 700)) {
                case .complete(let taken, _): #expect(taken <= ProxyHeader.maxBytes)
                case .incomplete: Issue.record("waits for more than the longest header: \(mutant)")
                case .malformed: break
                }
            }
        }
    }

    private static func take(_ header: inout ProxyHeader, _ bytes: [UInt8]) -> ProxyHeader.Step {
        bytes.withUnsafeBytes { header.take($0) }
    }
}
