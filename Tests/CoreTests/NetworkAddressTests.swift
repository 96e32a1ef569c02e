import Testing

@testable import Core

@Suite("Addresses and ranges of them")
struct NetworkAddressTests {
    @Test(
        "What is an address, and how it is written",
        arguments: [
            ("192.0.2.1", "192.0.2.1"), ("0.0.0.0", "0.0.0.0"), ("255.255.255.255", "255.255.255.255"),
            ("::", "::"), ("::1", "::1"), ("1::", "1::"), ("2001:DB8::1", "2001:db8::1"),
            ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"), ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
            ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"), ("::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"),
            ("::ffff:192.0.2.1", "192.0.2.1"), ("64:ff9b::192.0.2.33", "64:ff9b::c000:221"),
            ("1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:102:304"),
        ])
    func addresses(_ text: String, _ written: String) throws {
        let address = try #require(NetworkAddress(text))
        #expect(address.description == written)
        #expect(NetworkAddress(written) == address)
    }

    @Test(
        "What is none",
        arguments: [
            "", ".", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.04", "1.2.3.-4", "1.2.3.4 ", " 1.2.3.4", "1.2..4", "a",
            "localhost", ":", ":::", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "12345::", "g::", "::1%eth0",
            "[::1]", "1:2:3:4:5:6:7:1.2.3.4", "::1.2.3", "1.2.3.4::", ":1:2:3:4:5:6:7", "1:2:3:4:5:6:7:", "::+1",
            "1:2:3:4:5:6:7:8::", "::1:2:3:4:5:6:7:8",
        ])
    func noAddresses(_ text: String) {
        #expect(NetworkAddress(text) == nil)
    }

    @Test("Ranges hold what they say")
    func ranges() throws {
        func contains(_ range: String, _ address: String) throws -> Bool {
            try #require(AddressRange(range)).contains(try #require(NetworkAddress(address)))
        }
        #expect(try contains("10.0.0.0/8", "10.255.0.1"))
        #expect(try !contains("10.0.0.0/8", "11.0.0.1"))
        #expect(try contains("0.0.0.0/0", "203.0.113.9"))
        #expect(try !contains("::/0", "203.0.113.9"), "an address of IPv4 is none of IPv6")
        #expect(try !contains("0.0.0.0/0", "2001:db8::1"))
        #expect(try contains("10.0.0.0/8", "::ffff:10.1.2.3"), "but one of IPv4 inside IPv6 is one of IPv4")
        #expect(try contains("2001:db8::/33", "2001:db8:7fff::1"))
        #expect(try !contains("2001:db8::/33", "2001:db8:8000::1"))
        #expect(try contains("2001:db8::/100", "2001:db8::0fff:ffff"))
        #expect(try !contains("2001:db8::/100", "2001:db8::1fff:ffff"))
        #expect(try contains("192.0.2.7", "192.0.2.7"))
        #expect(try !contains("192.0.2.7", "192.0.2.6"))
        #expect(try #require(AddressRange("10.0.0.0/8")).description == "10.0.0.0/8")
        #expect(try #require(AddressRange("2001:db8::/32")).description == "2001:db8::/32")
        for text in ["10.0.0.1/8", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/8/8", "/8", "10.0.0.0/-1", "10/8"] {
            #expect(AddressRange(text) == nil, "\(text)")
        }
    }

    @Test("What counts as one: an address of IPv4, a network of IPv6")
    func networks() throws {
        let (a, b) = (try #require(NetworkAddress("2001:db8::1")), try #require(NetworkAddress("2001:db8::2:1")))
        #expect(a.network == b.network && a != b)
        let c = try #require(NetworkAddress("192.0.2.1"))
        #expect(c.network == c)
    }
}
