import COpenSSL
import Core
import TestTLS
import Testing

@testable import TLS

/// Whom a server lets in by certificate, and what it then knows of it.
@Suite struct PeerCertificateTests {
    private static let versions = [TLS1_2_VERSION, TLS1_3_VERSION]

    /// A handshake with a client of ours; what the server says of it.
    private func shake(
        _ door: TLSDoor, _ certificate: TestCertificates.Certificate?, version: Int32 = TLS1_3_VERSION,
        chain: [TestCertificates.Certificate] = []
    ) throws -> (server: OurEnd, client: LibsslClient) {
        let server = try OurEnd(door)
        let client = LibsslClient(.init(certificate: certificate, chain: chain, versions: version...version))
        talk(client, server)
        return (server, client)
    }

    @Test("None, optional, required", arguments: versions)
    func wanted(version: Int32) throws {
        var ground = try Ground()
        let device = try ground.client("device-1")
        ground.settings.peerAuthorities = ground.caPath
        for (wanted, opensWithout) in [
            (TLSSettings.ClientCertificate.none, true), (.optional, true), (.required, false),
        ] {
            ground.settings.clientCertificate = wanted
            let with = try shake(ground.door(), device, version: version)
            #expect(with.server.session.failure == nil && with.client.isOpen)
            #expect(with.server.session.certificate?.commonName == (wanted == .none ? nil : "device-1"))
            let without = try shake(ground.door(), nil, version: version)
            #expect((without.server.session.failure == nil) == opensWithout)
            if !opensWithout {
                #expect(without.server.session.failure == "peer did not return a certificate")
                #expect(without.client.failure != nil, "the client is told")
            }
        }
    }

    @Test("What a certificate says")
    func says() throws {
        var ground = try Ground()
        ground.settings.peerAuthorities = ground.caPath
        ground.settings.clientCertificate = .required
        ground.settings.user = "dev-${cert.cn}"
        ground.settings.groups = ["devices", "unit-${cert.ou}", "${cert.uri}"]
        let device = try ground.client("sensor ü") {
            $0.units = ["north", "lab"]
            $0.names = "DNS:a.example,email:a@example.org,email:b@example.org"
        }
        let session = try shake(ground.door(), device).server.session
        let certificate = try #require(session.certificate)
        #expect(certificate.subject == "CN=sensor ü,OU=lab,OU=north,O=Example")
        #expect(certificate.issuer == "CN=Root,O=Example")
        #expect(certificate.organizations == ["Example"])
        #expect(certificate.organizationalUnits == ["north", "lab"])
        #expect(certificate.dnsNames == ["a.example"])
        #expect(certificate.emails == ["a@example.org", "b@example.org"])
        #expect(certificate.fingerprint.count == 64 && certificate.serial == "03eb")
        #expect(certificate.notAfter > 1_700_000_000)
        #expect(session.user == "dev-sensor ü")
        #expect(session.groups == ["devices", "unit-north", "unit-lab"])
        ground.settings.user = "${cert.uri}"
        #expect(try shake(ground.door(), device).server.session.user == nil, "no value, no name")
    }

    @Test("Those that must not pass, each with its reason", arguments: versions)
    func refused(version: Int32) throws {
        var ground = try Ground()
        ground.settings.peerAuthorities = ground.caPath
        ground.settings.clientCertificate = .optional
        let stranger = try ground.files.makeAuthority("Stranger")
        let revoked = try ground.client("revoked")
        ground.settings.revocations = try ground.files.write(
            "crl.pem", ground.files.revocationList(of: ground.authority, revoked: [revoked]))
        let door = try ground.door()
        let cases: [(TestCertificates.Certificate, String)] = [
            (try ground.client("late") { $0.validity = -7_200 ... -60 }, "certificate has expired"),
            (try ground.client("early") { $0.validity = 3_600...7_200 }, "certificate is not yet valid"),
            (revoked, "certificate revoked"),
            (try ground.files.make("self"), "self-signed certificate"),
            (try ground.client("server") { $0.usage = "serverAuth" }, "unsuitable certificate purpose"),
            (try ground.files.make("other", issuer: stranger), "unable to get local issuer certificate"),
        ]
        for (certificate, reason) in cases {
            let (server, client) = try shake(door, certificate, version: version)
            #expect(server.session.failure == "the peer's certificate: \(reason)")
            #expect(client.failure?.contains("alert") == true, "\(client.failure ?? "open")")
            #expect(server.session.certificate == nil)
        }
        #expect(try shake(door, ground.client("good"), version: version).server.session.failure == nil)
    }

    @Test("A list that has expired refuses everybody, and one of another authority helps nobody")
    func staleLists() throws {
        var ground = try Ground()
        ground.settings.peerAuthorities = ground.caPath
        ground.settings.clientCertificate = .required
        let device = try ground.client("device")
        let stranger = try ground.files.makeAuthority("Stranger")
        ground.settings.revocations = ground.files.folder + "/lists"
        try #require(mkdirs(ground.files.folder + "/lists"))
        #expect(throws: TLSFailure.self) { try ground.door() }
        try ground.files.write("lists/a.crl", ground.files.revocationList(of: stranger))
        #expect(
            try shake(ground.door(), device).server.session.failure
                == "the peer's certificate: unable to get certificate CRL")
        try ground.files.write("lists/b.pem", ground.files.revocationList(of: ground.authority, seconds: -60))
        let door = try ground.door()
        #expect(door.warnings.count == 1 && door.warnings[0].contains("lists/b.pem"))
        #expect(
            try shake(door, device).server.session.failure == "the peer's certificate: CRL has expired")
        try ground.files.write("lists/b.pem", ground.files.revocationList(of: ground.authority))
        #expect(door.haveFilesChanged)
        try door.reload()
        #expect(try shake(door, device).server.session.failure == nil)
    }

    @Test("A chain is as long as the limit says, and no longer")
    func longChains() throws {
        var ground = try Ground()
        ground.settings.peerAuthorities = ground.caPath
        ground.settings.clientCertificate = .required
        for (count, reason) in [(5, nil), (6, "the peer's certificate: certificate chain too long")] {
            var chain = [ground.authority]
            for number in 0..<count { chain.append(try ground.files.makeAuthority("CA \(number)", issuer: chain.last)) }
            let leaf = try ground.files.make("leaf", issuer: chain.last)
            let (server, _) = try shake(ground.door(), leaf, chain: chain.dropFirst().reversed())
            #expect(server.session.failure == reason)
        }
        // Absurdly long: not even looked at.
        let junk = Array(repeating: ground.authority, count: 100)
        let (server, _) = try shake(ground.door(), ground.client("leaf"), chain: junk)
        #expect(server.session.failure == "excessive message size")
    }

    @Test("A name with a NUL in it is no name")
    func embeddedNUL() throws {
        var ground = try Ground()
        ground.settings.peerAuthorities = ground.caPath
        ground.settings.clientCertificate = .required
        let sly = try ground.client("x") { $0.nameBytes = Array("admin\0.example".utf8) }
        let (server, _) = try shake(ground.door(), sly)
        #expect(server.session.failure == "the peer's certificate has a name with a NUL in it")
        #expect(server.session.certificate == nil && server.session.user == nil)
        #expect(server.send([1]) == 0)
    }

    @Test("A certificate that is revoked is judged so after the reload, also on open connections", arguments: versions)
    func judging(version: Int32) throws {
        var ground = try Ground()
        ground.settings.peerAuthorities = ground.caPath
        ground.settings.clientCertificate = .optional
        let path = "\(ground.files.folder)/crl.pem"
        ground.settings.revocations = try ground.files.write(
            path.split(separator: "/").last.map(String.init) ?? "", ground.files.revocationList(of: ground.authority))
        let (bad, good) = (try ground.client("bad"), try ground.client("good"))
        let intermediate = try ground.files.makeAuthority("Between", issuer: ground.authority)
        let far = try ground.files.make("far", issuer: intermediate)
        let lists =
            try ground.files.revocationList(of: ground.authority) + ground.files.revocationList(of: intermediate)
        try ground.files.write("crl.pem", lists)
        let door = try ground.door()
        let open = try [(bad, []), (good, []), (far, [intermediate])].map {
            try shake(door, $0.0, version: version, chain: $0.1)
        }
        let without = try shake(door, nil, version: version)
        for one in open {
            #expect(one.server.session.failure == nil)
            #expect(one.server.session.judge() == nil)
        }
        try ground.files.write(
            "crl.pem",
            ground.files.revocationList(of: ground.authority, revoked: [bad])
                + ground.files.revocationList(of: intermediate))
        #expect(door.haveFilesChanged)
        #expect(open[0].server.session.judge() == nil, "nothing was read yet")
        try door.reload()
        #expect(!door.haveFilesChanged)
        #expect(open.map { $0.server.session.judge() } == ["certificate revoked", nil, nil])
        #expect(without.server.session.judge() == nil)
        // Nobody is cut off by the reload itself.
        open[0].client.send([1, 2, 3])
        talk(open[0].client, open[0].server)
        #expect(open[0].server.received == [1, 2, 3])
        #expect(
            try shake(door, bad, version: version).server.session.failure
                == "the peer's certificate: certificate revoked")
    }

    @Test("A resumed session knows its peer, and a ticket of one who was revoked is worth nothing", arguments: versions)
    func resumption(version: Int32) throws {
        var ground = try Ground()
        ground.settings.peerAuthorities = ground.caPath
        ground.settings.clientCertificate = .required
        ground.settings.user = "${cert.cn}"
        ground.settings.revocations = try ground.files.write(
            "crl.pem", ground.files.revocationList(of: ground.authority))
        let device = try ground.client("device")
        let door = try ground.door()
        func resume(_ client: LibsslClient) throws -> (OurEnd, LibsslClient) {
            let server = try OurEnd(door)
            let again = LibsslClient(.init(certificate: device, versions: version...version, resumed: client))
            talk(again, server)
            return (server, again)
        }
        var (server, client) = try shake(door, device, version: version)
        #expect(!server.session.isResumed)
        for round in 0..<3 {
            if round == 1 { try door.reload() }
            client.close()
            (server, client) = try resume(client)
            #expect(server.session.isResumed && client.isResumed, "round \(round)")
            #expect(server.session.user == "device")
            #expect(server.session.judge() == nil)
        }
        try ground.files.write("crl.pem", ground.files.revocationList(of: ground.authority, revoked: [device]))
        try door.reload()
        client.close()
        (server, client) = try resume(client)
        #expect(!server.session.isResumed)
        #expect(server.session.failure == "the peer's certificate: certificate revoked")
    }
}
