import Foundation
import Glibc
import Testing

@testable import Security

/// 2026-03-01T12:00:00Z: certificates of the tests that need no real clock.
let noon: Int64 = 1_772_366_400
let day: Int64 = 86_400

/// An authority and what it has issued, in memory.
struct CertificateStage {
    let authority: CertificateAuthority

    init(now: Int64 = noon) throws { authority = try CertificateAuthority.create(name: "Test CA", now: now) }

    func client(_ name: String, days: Int = 825) throws -> CertificateAuthority.Issued {
        var request = CertificateRequest(.client, name: name)
        request.days = days
        return try authority.issue(request, now: noon)
    }

    func node(_ name: String, hosts: [String] = []) throws -> CertificateAuthority.Issued {
        var request = CertificateRequest(.node(try .random(mesh: "plant")), name: name)
        request.hosts = hosts
        return try authority.issue(request, now: noon)
    }
}

@Suite("Certificates")
struct CertificatesTests {
    @Test("A node's certificate says who it is and where, and may be used both ways")
    func node() throws {
        let stage = try CertificateStage()
        let name = try NodeName(id: "00112233445566778899aabbccddeeff", mesh: "plant")
        var request = CertificateRequest(.node(name), name: "node-1")
        request.hosts = ["node-1.example.org", "192.0.2.7", "2001:db8::7", "[::1]"]
        let issued = try stage.authority.issue(request, now: noon)
        let certificate = try Certificate.read(pem: issued.certificate.pem, name: "node-1.crt")
        #expect(certificate.commonName == "node-1" && certificate.subject == "CN=node-1")
        #expect(certificate.issuer == "CN=Test CA")
        #expect(certificate.node == name)
        let names = certificate.alternativeNames
        #expect(names.dnsNames == ["node-1.example.org"])
        #expect(names.addresses == ["192.0.2.7", "2001:db8::7", "::1"])
        #expect(names.uris == ["apus:node:00112233445566778899aabbccddeeff", "apus:mesh:plant"])
        #expect(certificate.usages == [.server, .client] && !certificate.isAuthority)
        #expect(certificate.notBefore == noon - 300 && certificate.notAfter == noon + 825 * day)
        #expect(certificate.serial.utf8.count <= 32 && certificate.fingerprint.utf8.count == 64)
        #expect(certificate.belongs(to: issued.key))
        #expect(try !certificate.belongs(to: PrivateKey.generate()))
        for usage in Certificate.Usage.allCases {
            #expect(certificate.reasonAgainst(from: stage.authority.certificate, for: usage, now: noon) == nil)
        }
    }

    @Test("A node's certificate need not be for one mesh; one of two nodes or two meshes is none")
    func nodeOfNoMesh() throws {
        let stage = try CertificateStage()
        let id = "00112233445566778899aabbccddeeff"
        let name = try NodeName(id: id, mesh: nil)
        let issued = try stage.authority.issue(CertificateRequest(.node(name), name: "node-1"), now: noon)
        let certificate = try Certificate.read(pem: issued.certificate.pem, name: "node-1.crt")
        #expect(certificate.node == name && certificate.alternativeNames.uris == ["apus:node:" + id])
        #expect(throws: CertificateFailure.self, "an invitation is one to a mesh") {
            try InvitationToken.encode(
                certificate, key: issued.key, authority: stage.authority, addresses: ["n:7400"], expires: noon + 60)
        }
        /// The same certificate with other bytes; its signature is not looked at.
        func changed(_ text: String, _ change: (inout [UInt8], Int) -> Void) throws -> Certificate {
            var request = CertificateRequest(.node(try NodeName(id: id, mesh: "plant")), name: "node-1")
            request.email = "apus:mesh:a@b"
            var der = try stage.authority.issue(request, now: noon).certificate.der
            change(&der, try #require(der.firstRange(of: Array(text.utf8))?.lowerBound))
            return try Certificate.read(der: der)
        }
        #expect(try changed("apus:mesh:plant") { _, _ in }.node == NodeName(id: id, mesh: "plant"))
        let twoNodes = try changed("apus:mesh:plant") { $0.replaceSubrange($1..<$1 + 10, with: "apus:node:".utf8) }
        #expect(twoNodes.alternativeNames.uris == ["apus:node:" + id, "apus:node:plant"] && twoNodes.node == nil)
        // Tag and length stand before the text; a URI instead of an address of e-mail (RFC 5280, section 4.2.1.6).
        let twoMeshes = try changed("apus:mesh:a@b") { $0[$1 - 2] = 0x86 }
        #expect(twoMeshes.alternativeNames.uris.count == 3 && twoMeshes.node == nil)
    }

    @Test("A certificate is good for what it is for, from its authority, in its time, and for nothing else")
    func verification() throws {
        let stage = try CertificateStage()
        let authority = stage.authority.certificate
        let client = try stage.client("device-1").certificate
        var request = CertificateRequest(.server, name: "web")
        request.hosts = ["web.example.org"]
        let server = try stage.authority.issue(request, now: noon).certificate
        func reason(
            _ certificate: Certificate, _ usage: Certificate.Usage?, _ now: Int64 = noon, from: Certificate? = nil
        ) -> String? { certificate.reasonAgainst(from: from ?? authority, for: usage, now: now) }
        #expect(reason(client, .client) == nil && reason(client, nil) == nil)
        #expect(reason(server, .server) == nil)
        #expect(reason(client, .server)?.contains("purpose") == true)
        #expect(reason(server, .client)?.contains("purpose") == true)
        #expect(reason(client, .client, noon + 825 * day - 1) == nil)
        #expect(reason(client, .client, noon + 825 * day + 1)?.contains("expired") == true)
        #expect(reason(client, .client, noon - 299) == nil)
        #expect(reason(client, .client, noon - 301)?.contains("not yet valid") == true)
        // Of the same name, but with another key.
        #expect(reason(client, .client, from: try CertificateStage().authority.certificate) != nil)
        // A certificate of the authority is none that can sign.
        #expect(throws: CertificateFailure.self) { try CertificateAuthority(certificate: client, key: .generate()) }
        #expect(throws: CertificateFailure.self) { try CertificateAuthority(certificate: authority, key: .generate()) }
        #expect(reason(authority, nil) == nil && authority.isAuthority)
    }

    @Test("Groups and e-mail of a client; signs of every little language stay what they are")
    func client() throws {
        let stage = try CertificateStage()
        var request = CertificateRequest(.client, name: "device-1@plant")
        request.groups = ["devices", "Halle 3, Süd", "a+b=c", "critical,CA:TRUE"]
        request.email = "device-1@example.org"
        let certificate = try stage.authority.issue(request, now: noon).certificate
        #expect(certificate.organizationalUnits == request.groups)
        #expect(certificate.commonName == "device-1@plant")
        #expect(certificate.alternativeNames.emails == ["device-1@example.org"])
        #expect(certificate.node == nil && certificate.usages == [.client] && !certificate.isAuthority)
    }

    @Test("What cannot stand in a certificate is refused with the reason")
    func refusals() throws {
        let stage = try CertificateStage()
        func reason(_ change: (inout CertificateRequest) -> Void) -> String {
            var request = CertificateRequest(.client, name: "a")
            change(&request)
            do {
                _ = try stage.authority.issue(request, now: noon)
                return ""
            } catch { return "\(error)" }
        }
        #expect(reason { _ in } == "")
        for name in ["", "../a", "-a", ".a", "a/b", "a b", "a\nb", "ca", "issued", String(repeating: "a", count: 65)] {
            #expect(reason { $0.name = name } != "", "\(name)")
        }
        #expect(reason { $0.days = 0 }.contains("1 to 36500"))
        #expect(reason { $0.days = .max }.contains("1 to 36500"))
        #expect(reason { $0.groups = [""] }.contains("group"))
        #expect(reason { $0.groups = Array(repeating: "g", count: 17) }.contains("groups"))
        #expect(reason { $0.email = "a@b@c" }.contains("e-mail"))
        #expect(reason { $0.hosts = ["a"] }.contains("no hosts"))
        #expect(reason { $0.kind = .server }.contains("--host"))
        for host in ["", "a b", "a,DNS:b", "-a", "256.1.1.1", "1.2.3", "a..b", "*", "a/b", "[::1"] {
            #expect(
                reason {
                    $0.kind = .server
                    $0.hosts = [host]
                }.contains("neither"), "\(host)")
        }
        for (id, mesh) in [
            ("", "plant"), (String(repeating: "0", count: 32), "plant"), (String(repeating: "A", count: 32), "plant"),
            (String(repeating: "a", count: 31), "plant"), (String(repeating: "a", count: 32), ""),
            (String(repeating: "a", count: 32), "two words"),
        ] { #expect(throws: CertificateFailure.self) { try NodeName(id: id, mesh: mesh) } }
    }

    @Test("No certificate outlives its authority, and none is issued after it")
    func authorityEnds() throws {
        let authority = try CertificateAuthority.create(name: "Short", days: 10, now: noon)
        let request = CertificateRequest(.client, name: "a")
        #expect(try authority.issue(request, now: noon + 9 * day).certificate.notAfter == noon + 10 * day)
        #expect(throws: CertificateFailure.self) { try authority.issue(request, now: noon + 10 * day) }
    }

    @Test("Serial numbers are 128 random bits")
    func serials() throws {
        let stage = try CertificateStage()
        let serials = try (0..<50).map { _ in try stage.client("a").certificate.serial }
        #expect(Set(serials).count == 50)
        #expect(serials.allSatisfy { (28...32).contains($0.utf8.count) })
    }

    @Test("Keys: plain, encrypted, with the wrong passphrase, and no key at all")
    func keys() throws {
        let key = try PrivateKey.generate()
        let certificate = try CertificateStage().client("a")
        let plain = try PrivateKey.read(pem: certificate.key.pem(), name: "a.key")
        #expect(certificate.certificate.belongs(to: plain))
        let passphrase = Array("a good one".utf8)
        let sealed = try certificate.key.pem(passphrase: passphrase)
        #expect(String(decoding: sealed, as: UTF8.self).contains("BEGIN ENCRYPTED PRIVATE KEY"))
        let opened = try PrivateKey.read(pem: sealed, passphrase: passphrase, name: "a.key")
        #expect(certificate.certificate.belongs(to: opened))
        func reason(_ pem: [UInt8], _ passphrase: [UInt8]?) -> String {
            do {
                _ = try PrivateKey.read(pem: pem, passphrase: passphrase, name: "a.key")
                return ""
            } catch { return "\(error)" }
        }
        #expect(reason(sealed, nil).contains("encrypted"))
        #expect(reason(sealed, Array("another".utf8)).contains("wrong"))
        #expect(reason(sealed, []).contains("wrong"))
        #expect(reason(try certificate.certificate.pem, nil).contains("no private key"))
        #expect(reason([], nil).contains("no private key"))
        #expect(throws: CertificateFailure.self) { try key.pem(passphrase: []) }
        #expect(throws: CertificateFailure.self) { try key.pem(passphrase: [UInt8](repeating: 1, count: 1_024)) }
    }

    @Test("A list names what is revoked, and whoever checks refuses exactly that")
    func revocation() throws {
        let stage = try CertificateStage()
        let certificates = try (0..<5).map { try stage.client("device-\($0)").certificate }
        let list = try stage.authority.revocationList(
            of: [certificates[3], certificates[1]].map { ($0.serial, noon) }, number: 7, now: noon)
        let read = try RevocationList.read(pem: list.pem, name: "ca.crl")
        #expect(Set(read.serials) == [certificates[1].serial, certificates[3].serial])
        #expect(read.number == 7 && read.nextUpdate == noon + 30 * day && read.issuer == "CN=Test CA")
        for (index, certificate) in certificates.enumerated() {
            let reason = certificate.reasonAgainst(
                from: stage.authority.certificate, for: .client, revocations: read, now: noon)
            #expect((reason?.contains("revoked") ?? false) == [1, 3].contains(index), "\(reason ?? "good")")
            #expect(
                certificate.reasonAgainst(
                    from: stage.authority.certificate, for: .client, revocations: read, now: noon + 31 * day) != nil,
                "a list that has expired says nothing")
        }
        #expect(throws: CertificateFailure.self) {
            try stage.authority.revocationList(of: [("x", noon)], number: 1, now: noon)
        }
        #expect(throws: CertificateFailure.self) { try RevocationList.read(pem: [1, 2, 3], name: "ca.crl") }
    }

    @Test("Damaged certificates are refused")
    func damaged() throws {
        let der = try CertificateStage().node("n", hosts: ["localhost"]).certificate.der
        for count in 0..<der.count {
            #expect(throws: CertificateFailure.self) { try Certificate.read(der: Array(der[..<count])) }
        }
        #expect(throws: CertificateFailure.self) { try Certificate.read(der: der + [0]) }
        // What is flipped may still be a certificate; nothing that it says may end the process.
        var flipped = der
        for index in flipped.indices {
            flipped[index] ^= 0x41
            if let certificate = try? Certificate.read(der: flipped) {
                _ = (certificate.subject, certificate.alternativeNames, certificate.node, certificate.usages)
                _ = (certificate.serial, certificate.notAfter, certificate.organizationalUnits)
            }
            flipped[index] ^= 0x41
        }
    }

    @Test("Times as text")
    func times() {
        #expect(UTC.text(noon) == "2026-03-01T12:00:00Z" && UTC.seconds("2026-03-01T12:00:00Z") == noon)
        for text in ["", "2026-13-01T12:00:00Z", "2026-02-30T12:00:00Z", "2026-03-01 12:00:00Z", "2026-03-01T12:00:00"]
        {
            #expect(UTC.seconds(text) == nil)
        }
    }
}
