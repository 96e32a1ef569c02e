import COpenSSL
import Core
import TestTLS
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

    @Test("What is too old is not spoken")
    func oldVersions() throws {
        var ground = try Ground()
        for (version, minimum) in [
            (TLS1_VERSION, TLSSettings.Version.v12), (TLS1_1_VERSION, .v12), (TLS1_2_VERSION, .v13),
        ] {
            ground.settings.minimumVersion = minimum
            let server = try OurEnd(ground.door())
            let client = LibsslClient(.init(versions: version...version))
            talk(client, server)
            #expect(server.session.failure == "unsupported protocol")
            #expect(client.failure == "tlsv1 alert protocol version")
        }
        ground.settings.minimumVersion = .v12
        for suites in ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "AES128-GCM-SHA256", "NULL"] {
            let server = try OurEnd(ground.door())
            talk(LibsslClient(.init(versions: TLS1_2_VERSION...TLS1_2_VERSION, suites: suites)), server)
            #expect(server.session.failure == "no shared cipher")
        }
    }

    @Test("Renegotiation is refused; data goes on until the client takes that to heart")
    func renegotiation() throws {
        let server = try OurEnd(Ground().door())
        let client = LibsslClient(.init(versions: TLS1_2_VERSION...TLS1_2_VERSION))
        talk(client, server)
        SSL_renegotiate(client.ssl)
        SSL_do_handshake(client.ssl)
        server.take(client.takeOutput())
        #expect(server.session.failure == nil && !server.session.isHandshaking)
        #expect(server.takeOutput().count < 64, "a warning, and no handshake")
        #expect(server.send([1]) == 1)
        // libssl's own client gives up when it is told no.
        let other = try OurEnd(Ground().door())
        let stubborn = LibsslClient(.init(versions: TLS1_2_VERSION...TLS1_2_VERSION))
        talk(stubborn, other)
        SSL_renegotiate(stubborn.ssl)
        SSL_do_handshake(stubborn.ssl)
        talk(stubborn, other)
        #expect(stubborn.failure == "no renegotiation")
        #expect(other.session.failure == "the peer refused: handshake failure")
    }

    @Test("While half a message of a handshake waits for the rest nothing is sealed, and nothing is lost")
    func halfMessage() throws {
        let server = try OurEnd(Ground().door())
        // Makes a long hello.
        let name = String(repeating: "a-long-name.", count: 20) + "example"
        let client = LibsslClient(
            .init(versions: TLS1_2_VERSION...TLS1_2_VERSION, serverName: name, suites: "ALL:@SECLEVEL=0"))
        talk(client, server)
        let records = client.renegotiate()
        #expect(records.count > 1)
        server.take(records[0])
        #expect(server.session.isListening)
        #expect(server.send([1]) == 0)
        #expect(server.session.failure == nil)
        for record in records.dropFirst() { server.take(record) }
        #expect(!server.session.isListening)
        #expect(server.send([1]) == 1)
        #expect(server.session.failure == nil)
    }

    @Test("Keys that change with every record are followed, but not for ever in one go")
    func keyUpdates() throws {
        let server = try OurEnd(Ground().door())
        let client = LibsslClient(.init())
        talk(client, server)
        for round in 0..<40 {
            SSL_key_update(client.ssl, SSL_KEY_UPDATE_REQUESTED)
            client.send([UInt8(round)])
            #expect(server.send([UInt8(round)]) == 1)
            talk(client, server)
        }
        #expect(server.received == Array(0..<40) && client.received == Array(0..<40))
        for _ in 0..<100 {
            SSL_key_update(client.ssl, SSL_KEY_UPDATE_NOT_REQUESTED)
            SSL_do_handshake(client.ssl)
        }
        server.take(client.takeOutput())
        #expect(server.session.failure == "too many records without data")
        #expect(server.send([1]) == 0)
    }

    @Test(
        "Garbage, truncated and changed records end the session with a reason",
        arguments: [TLS1_2_VERSION, TLS1_3_VERSION])
    func garbage(version: Int32) throws {
        let door = try Ground().door()
        var words: Set<String> = []
        for bytes in [
            Array("GET / HTTP/1.1\r\n\r\n".utf8), [0x10, 0x0D, 0, 4] + Array("MQTT".utf8) + [4, 2, 0, 0, 0, 1, 99],
            [UInt8](repeating: 0, count: 100), [22, 3, 1, 255, 255, 1, 0, 0], [22, 3, 1, 0, 4, 1, 255, 255, 255],
            [24, 3, 3, 0, 3, 1, 0x40, 0], [21, 3, 1, 0, 2, 2, 40], [23, 3, 3, 0, 1, 0],
        ] {
            let server = try OurEnd(door)
            server.take(bytes)
            words.insert(try #require(server.session.failure, "\(bytes)"))
            #expect(server.received.isEmpty && !server.session.isHandshaking)
            server.take(bytes)
        }
        #expect(words.contains("http request") && words.contains("wrong version number"), "\(words)")
        for place in [0, 3, 5, 20, -1] {
            let (server, client) = (try OurEnd(door), LibsslClient(.init(versions: version...version)))
            talk(client, server)
            client.send(Self.block(1_000))
            var sealed = client.takeOutput()
            sealed[place < 0 ? sealed.count - 1 : place] ^= 0x40
            server.take(sealed)
            if place == 3 {
                // Longer than it is: the rest is waited for, or it is more than there may be.
                server.take([UInt8](repeating: 0, count: 20_000))
            }
            #expect(server.session.failure != nil, "\(place)")
            #expect(server.received.isEmpty)
            #expect(server.takeOutput().count > 0, "an alert")
        }
    }

    @Test("A hello of which a piece is missing says nothing yet")
    func truncated() throws {
        let server = try OurEnd(Ground().door())
        let client = LibsslClient(.init())
        let hello = client.takeOutput()
        server.take(Array(hello.dropLast()))
        #expect(server.session.isHandshaking && server.session.failure == nil)
        #expect(server.takeOutput().isEmpty)
        server.take([hello[hello.count - 1]])
        #expect(!server.takeOutput().isEmpty)
    }

    @Test(
        "Sessions are resumed with and without certificates, across doors never",
        arguments: [TLS1_2_VERSION, TLS1_3_VERSION])
    func resumption(version: Int32) throws {
        let ground = try Ground()
        let (door, other) = (try ground.door(), try ground.door())
        var client = LibsslClient(.init(versions: version...version))
        talk(client, try OurEnd(door))
        for _ in 0..<3 {
            client.close()
            let again = LibsslClient(.init(versions: version...version, resumed: client))
            let server = try OurEnd(door)
            talk(again, server)
            #expect(server.session.isResumed && again.isResumed)
            client = again
        }
        client.close()
        let stray = LibsslClient(.init(versions: version...version, resumed: client))
        let server = try OurEnd(other)
        talk(stray, server)
        #expect(server.session.failure == nil && !server.session.isResumed)
    }

    @Test("Keys of tickets take turns, and each opens for as long again as it sealed")
    func ticketKeys() throws {
        let keys = try TicketKeys(now: 1_000_000)
        let first = keys.pairs(now: 1_000_000 + TicketKeys.seconds - 1)
        #expect(first.previous == nil)
        let second = keys.pairs(now: 1_000_000 + TicketKeys.seconds)
        #expect(second.previous == first.current && second.current != first.current)
        let same = keys.pairs(now: 1_000_000 + 2 * TicketKeys.seconds - 1)
        #expect(same.current == second.current && same.previous == second.previous)
        let third = keys.pairs(now: 1_000_000 + 2 * TicketKeys.seconds)
        #expect(third.previous == second.current)
        let late = keys.pairs(now: 2_000_000)
        #expect(late.previous == nil && late.current != third.current)
        let back = keys.pairs(now: 1_000_000)
        #expect(back.previous == nil && back.current != late.current)
    }

    @Test("What could not be sent is kept in order")
    func keeping() {
        var wire = TLSWire()
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 10, alignment: 1)
        defer {
            memory.deallocate()
            wire.releaseKept()
        }
        func write(_ bytes: [UInt8]) -> Bool { bytes.withUnsafeBytes { wire.write($0.baseAddress!, $0.count) } }
        func kept() -> [UInt8] {
            Array(
                UnsafeRawBufferPointer(
                    start: wire.kept.map { $0 + wire.keptStart }, count: wire.keptEnd - wire.keptStart))
        }
        (wire.output, wire.outputRoom) = (memory, 10)
        var isWritten = write([1, 2, 3])
        #expect(isWritten && wire.outputCount == 3)
        isWritten = write(Array(repeating: 4, count: 8))
        #expect(isWritten && wire.outputCount == 3)
        isWritten = write([5])
        #expect(isWritten && wire.outputCount == 3, "nothing overtakes what is kept")
        isWritten = wire.keepFirst(memory, 3)
        #expect(isWritten)
        #expect(kept() == [1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5])
        wire.dropKept(10)
        #expect(kept() == [4, 5])
        isWritten = write([6])
        #expect(isWritten && kept() == [4, 5, 6])
        isWritten = write([UInt8](repeating: 0, count: TLSWire.maxKept))
        #expect(!isWritten, "there is an end to it")
        wire.dropKept(3)
        #expect(wire.kept == nil)
    }
}
