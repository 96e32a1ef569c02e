import COpenSSL
import Core
import Glibc
import TestTLS
import Testing

@testable import TLS

func mkdirs(_ path: String) -> Bool { mkdir(path, 0o700) == 0 }

/// Files, and what is wrong with them.
@Suite struct DoorTests {
    private func failure(_ settings: TLSSettings, role: TLSDoor.Role = .server) -> String {
        do throws(TLSFailure) {
            _ = try TLSDoor(settings, role: role)
            return "none"
        } catch {
            return error.description
        }
    }

    @Test("Each mistake is named with its file and with what would be right")
    func mistakes() throws {
        let ground = try Ground()
        let files = ground.files
        let other = try files.make("other")
        try files.write("other.key", other.keyPEM())
        try files.write("locked.key", other.keyPEM(passphrase: "geheim"))
        try files.write("other.pem", other.pem)
        try files.write("empty.pem", "")
        try files.write("damaged.pem", other.pem + other.pem.replacing("\nMII", with: "\nMJJ"))
        func path(_ name: String) -> String { "\(files.folder)/\(name)" }
        func pair(_ certificate: String, _ key: String, _ passphrase: String? = nil) -> String {
            var settings = ground.settings
            settings.certificates = [
                TLSSettings.Pair(certificate: path(certificate), key: path(key), passphrase: passphrase)
            ]
            return failure(settings)
        }
        #expect(pair("none.pem", "server.key") == "\(path("none.pem")): No such file or directory")
        #expect(
            pair("server.pem", "other.key")
                == "\(path("other.key")): not the key of the first certificate in \(path("server.pem"))")
        #expect(
            pair("other.pem", "locked.key") == "\(path("locked.key")): the key is encrypted and there is no passphrase")
        #expect(pair("other.pem", "locked.key", "falsch") == "\(path("locked.key")): the passphrase is wrong")
        #expect(pair("other.pem", "locked.key", "geheim") == "none")
        #expect(pair("empty.pem", "other.key").contains("no certificate in it; expected text with -----BEGIN CERT"))
        #expect(pair("damaged.pem", "other.key").hasSuffix("certificate 2 of the file is damaged"))
        #expect(pair("other.pem", "other.pem").contains("no private key in it"))
        #expect(pair("", "other.key").hasSuffix("not a file"))
        var settings = ground.settings
        settings.clientCertificate = .required
        #expect(failure(settings) == "tls.test: client certificates need client_ca, which says who issues them")
        settings = ground.settings
        settings.certificates = []
        #expect(failure(settings) == "tls.test: a server needs a certificate and a key")
        #expect(failure(settings, role: .client) == "none")
        settings = ground.settings
        settings.user = "${cert.nn}"
        #expect(failure(settings).hasPrefix("tls.test: ${cert.nn}: unknown variable ${cert.nn}; there are ${cert.cn}"))
        settings.user = "${cert.cn"
        #expect(failure(settings) == "tls.test: ${cert.cn: a variable ends with }")
        settings = ground.settings
        settings.cipherList = "NONSENSE"
        #expect(failure(settings).hasPrefix("tls.test.ciphers: NONSENSE: "))
        settings = ground.settings
        settings.cipherSuites = "NONSENSE"
        #expect(failure(settings).hasPrefix("tls.test.cipher_suites: NONSENSE: "))
        #expect(ERR_peek_error() == 0, "nothing is left behind for others to stumble over")
    }

    @Test("All mistakes of a section are found at once, each with its key")
    func flaws() throws {
        let ground = try Ground()
        let files = ground.files
        let other = try files.make("other")
        try files.write("other.key", other.keyPEM())
        var settings = ground.settings
        #expect(settings.flaws(role: .server, protocols: ["mqtt"]) == [])
        settings.certificates[0].key = "\(files.folder)/other.key"
        settings.certificates.append(.init(certificate: "/none.pem", key: "/none.pem"))
        settings.certificates.append(.init(certificate: "/none.pem", key: "/none.key"))
        settings.revocations = "/none.crl"
        settings.cipherList = "NONSENSE"
        let found = settings.flaws(role: .server, protocols: [])
        #expect(found.map(\.key) == ["crl", "key", "more[0].certificate", "more[1].certificate", "more[1].key"])
        #expect(found[1].description.contains("other.key: not the key of the first certificate in"))
        settings = ground.settings
        settings.cipherList = "NONSENSE"
        let whole = settings.flaws(role: .server, protocols: [])
        #expect(whole.map(\.key) == [nil] && whole[0].description.hasPrefix("tls.test.ciphers: NONSENSE: "))
        #expect(ERR_peek_error() == 0, "nothing is left behind for others to stumble over")
    }

    @Test("A weak key is refused, an expired certificate is a warning")
    func weakAndOld() throws {
        let ground = try Ground()
        let old = try ground.files.make("old") {
            $0.validity = -7_200 ... -60
            $0.usage = "clientAuth"
        }
        try ground.files.write("server.pem", old.pem)
        try ground.files.write("server.key", old.keyPEM())
        let door = try ground.door()
        #expect(
            door.warnings.map { $0.replacing(ground.files.folder, with: "") } == [
                "/server.pem: the certificate has expired", "/server.pem: its extended key usage is not serverAuth",
            ])
    }

    @Test("A reload that fails changes nothing; one that succeeds is for new connections, and old ones go on")
    func reload() throws {
        let ground = try Ground()
        let door = try ground.door()
        func connect() throws -> (OurEnd, LibsslClient) {
            let (server, client) = (try OurEnd(door), LibsslClient(.init()))
            talk(client, server)
            return (server, client)
        }
        let (server, client) = try connect()
        #expect(!door.haveFilesChanged)
        let newer = try ground.files.make("newer.example", issuer: ground.authority)
        try ground.files.write("server.pem", newer.pem)
        #expect(door.haveFilesChanged)
        #expect(throws: TLSFailure.self) { try door.reload() }
        #expect(!door.haveFilesChanged, "not again and again")
        #expect(try connect().1.serverCommonName == "server.example")
        try ground.files.write("server.key", newer.keyPEM())
        #expect(door.haveFilesChanged)
        try door.reload()
        #expect(try connect().1.serverCommonName == "newer.example")
        client.send([1])
        talk(client, server)
        #expect(server.received == [1])
        unlink("\(ground.files.folder)/server.key")
        #expect(door.haveFilesChanged)
    }

    @Test("A file that is being written is let alone until it has been left alone for a moment")
    func halfCopied() throws {
        let ground = try Ground()
        let door = try ground.door()
        #expect(door.haveFilesSettled, "what has not changed need not settle")
        func change(ageMilliseconds: Int) throws {
            let newer = try ground.files.make("newer.example", issuer: ground.authority)
            try ground.files.write("server.pem", newer.pem)
            var now = timespec()
            clock_gettime(CLOCK_REALTIME, &now)
            let nanoseconds = now.tv_sec * 1_000_000_000 + now.tv_nsec - ageMilliseconds * 1_000_000
            let time = timespec(tv_sec: nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000)
            #expect(utimensat(AT_FDCWD, "\(ground.files.folder)/server.pem", [time, time], 0) == 0)
        }
        try change(ageMilliseconds: 0)
        #expect(door.haveFilesChanged && !door.haveFilesSettled)
        try change(ageMilliseconds: 600)
        #expect(door.haveFilesChanged && door.haveFilesSettled)
        // A copy that keeps the times of what it copies, and a clock that was put back.
        try change(ageMilliseconds: 1_000_000_000)
        #expect(door.haveFilesSettled)
        try change(ageMilliseconds: -60_000)
        #expect(door.haveFilesSettled)
        unlink("\(ground.files.folder)/server.pem")
        #expect(door.haveFilesChanged && door.haveFilesSettled)
    }

    @Test("The certificate for the name that is asked for")
    func serverNames() throws {
        var ground = try Ground()
        for (file, names) in [("b", "DNS:b.example,DNS:*.b.example"), ("c", "DNS:x.b.example,DNS:C.example")] {
            let made = try ground.files.make("\(file).cn", issuer: ground.authority) { $0.names = names }
            ground.settings.certificates.append(
                TLSSettings.Pair(
                    certificate: try ground.files.write("\(file).pem", made.pem),
                    key: try ground.files.write("\(file).key", made.keyPEM())))
        }
        ground.settings.peerAuthorities = ground.caPath
        ground.settings.clientCertificate = .required
        let door = try ground.door()
        let device = try ground.client("device")
        for (name, expected) in [
            (nil, "server.example"), ("server.example", "server.example"), ("b.example", "b.cn"),
            ("y.b.example", "b.cn"),
            ("X.B.example", "c.cn"), ("c.example", "c.cn"), ("z.y.b.example", "server.example"),
            ("unknown.example", "server.example"),
        ] {
            let server = try OurEnd(door)
            let client = LibsslClient(.init(certificate: device, serverName: name))
            talk(client, server)
            #expect(client.serverCommonName == expected, "\(name ?? "-")")
            #expect(server.session.certificate?.commonName == "device", "\(server.session.failure ?? "")")
            client.close()
            let again = LibsslClient(.init(certificate: device, serverName: name, resumed: client))
            let other = try OurEnd(door)
            talk(again, other)
            #expect(other.session.isResumed, "\(name ?? "-")")
        }
    }

    @Test("Two kinds of keys for the same names: each client gets what it can use")
    func twoKinds() throws {
        var ground = try Ground()
        let other = try ground.files.make("rsa.example", issuer: ground.authority) {
            $0.names = "DNS:server.example,DNS:localhost,IP:127.0.0.1"
            $0.isRSA = true
        }
        ground.settings.certificates.append(
            TLSSettings.Pair(
                certificate: try ground.files.write("rsa.pem", other.pem),
                key: try ground.files.write("rsa.key", other.keyPEM())))
        let door = try ground.door()
        for (suites, name) in [
            ("ECDHE-ECDSA-AES128-GCM-SHA256", "server.example"), ("ECDHE-RSA-AES128-GCM-SHA256", "rsa.example"),
        ] {
            let (server, client) = (
                try OurEnd(door), LibsslClient(.init(versions: TLS1_2_VERSION...TLS1_2_VERSION, suites: suites))
            )
            talk(client, server)
            #expect(client.serverCommonName == name)
        }
    }

    @Test("Protocols: the server's choice, none is fine, only others are refused")
    func protocols() throws {
        let door = try Ground().door(["mqtt", "http/1.1"])
        for (offered, chosen) in [
            (["http/1.1", "mqtt"], "mqtt"), (["h2", "http/1.1"], "http/1.1"), ([], nil),
        ] {
            let (server, client) = (try OurEnd(door), LibsslClient(.init(protocols: offered)))
            talk(client, server)
            #expect(server.session.applicationProtocol == chosen)
            #expect(server.session.failure == nil && client.isOpen)
        }
        let (server, client) = (try OurEnd(door), LibsslClient(.init(protocols: ["h2"])))
        talk(client, server)
        #expect(server.session.failure == "no application protocol")
        #expect(client.failure == "tlsv1 alert no application protocol")
    }

    @Test("Who dials sees to it that the server is the one that was meant")
    func dialling() throws {
        var ground = try Ground()
        var settings = TLSSettings(name: "out", certificates: [])
        settings.peerAuthorities = ground.caPath
        let device = try ground.client("node-1")
        settings.certificates = [
            TLSSettings.Pair(
                certificate: try ground.files.write("c.pem", device.pem),
                key: try ground.files.write("c.key", device.keyPEM()))
        ]
        ground.settings.peerAuthorities = ground.caPath
        ground.settings.clientCertificate = .required
        let (inward, outward) = (
            try ground.door(["apus-mesh"]), try TLSDoor(settings, role: .client, protocols: ["apus-mesh"])
        )
        for (name, failure) in [
            (nil, nil), ("server.example", nil), ("127.0.0.1", nil),
            ("other.example", "the peer's certificate: hostname mismatch"),
            ("127.0.0.2", "the peer's certificate: IP address mismatch"),
        ] {
            let (server, client) = (try OurEnd(inward), try OurEnd(outward, serverName: name))
            talk(client, server)
            #expect(client.session.failure == failure)
            #expect((client.session.certificate?.commonName == "server.example") == (failure == nil))
            if failure == nil {
                #expect(server.session.certificate?.commonName == "node-1")
                #expect(client.session.applicationProtocol == "apus-mesh")
                #expect(client.session.summary == "TLSv1.3 TLS_AES_128_GCM_SHA256 apus-mesh")
                #expect(client.send([1]) == 1 && server.send([2]) == 1)
                talk(client, server)
                #expect(client.received == [2] && server.received == [1])
            } else {
                #expect(server.session.failure?.hasPrefix("the peer refused: ") == true)
            }
        }
        // A server that shows a client's certificate is none.
        try ground.files.write("server.pem", device.pem)
        try ground.files.write("server.key", device.keyPEM())
        let (server, client) = (try OurEnd(ground.door()), try OurEnd(outward))
        talk(client, server)
        #expect(client.session.failure == "the peer's certificate: unsuitable certificate purpose")
    }
}
