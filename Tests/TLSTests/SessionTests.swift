import COpenSSL
import Core
import Testing

@testable import TLS

/// An authority, a server's certificate in files, and settings with them.
struct Ground {
    let files: TestCertificates
    let authority: TestCertificates.Certificate
    var settings: TLSSettings

    init() throws {
        files = try TestCertificates()
        authority = try files.makeAuthority("Root")
        let server = try files.make("server.example", issuer: authority) {
            $0.names = "DNS:server.example,DNS:localhost,IP:127.0.0.1"
            $0.usage = "serverAuth"
        }
        settings = TLSSettings(
            name: "test",
            certificates: [
                TLSSettings.Pair(
                    certificate: try files.write("server.pem", server.pem),
                    key: try files.write("server.key", server.keyPEM()))
            ])
        try files.write("ca.pem", authority.pem)
    }

    var caPath: String { "\(files.folder)/ca.pem" }

    func door(_ protocols: [String] = []) throws -> TLSDoor {
        try TLSDoor(settings, role: .server, protocols: protocols)
    }

    func client(_ name: String, _ change: (inout TestCertificates.Wishes) -> Void = { _ in }) throws
        -> TestCertificates.Certificate
    {
        try files.make(name, issuer: authority) {
            $0.usage = "clientAuth"
            change(&$0)
        }
    }
}

@Suite struct SessionTests {
    /// Of a prime period, so that no record's size is a multiple of it.
    static func block(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 % 65_521 &* 31 >> 3) } }

    @Test(
        "Both versions, whatever pieces the bytes come in",
        arguments: [TLS1_2_VERSION, TLS1_3_VERSION], [nil, 1, 7, 1_000])
    func versions(version: Int32, piece: Int?) throws {
        let ground = try Ground()
        let server = try OurEnd(ground.door())
        let client = LibsslClient(.init(authority: ground.authority, versions: version...version))
        #expect(server.send([1]) == 0, "nothing before the handshake is over")
        talk(client, server, piece: piece)
        #expect(client.isOpen && !server.session.isHandshaking)
        #expect(server.session.failure == nil)
        #expect(client.version == (version == TLS1_3_VERSION ? "TLSv1.3" : "TLSv1.2"))
        let block = Self.block(100_000)
        client.send(block)
        #expect(server.send(block) == block.count)
        talk(client, server, piece: piece)
        #expect(server.received == block)
        #expect(client.received == block)
        client.close()
        talk(client, server, piece: piece)
        #expect(server.session.hasInputEnded)
        #expect(server.send([1, 2]) == 2, "who has said all may still read")
        server.close()
        talk(client, server, piece: piece)
        #expect(client.received.count == 100_002)
        #expect(client.hasEnded)
    }
}
