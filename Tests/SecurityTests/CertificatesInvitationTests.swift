import Testing

@testable import Security

@Suite("Invitations to a mesh")
struct CertificatesInvitationTests {
    private struct Invitation {
        let stage: CertificateStage
        let issued: CertificateAuthority.Issued
        let text: String

        init(addresses: [String] = ["node-1.example.org:7400", "[2001:db8::1]:7400"]) throws {
            stage = try CertificateStage()
            issued = try stage.node("node-2")
            text = try InvitationToken.encode(
                issued.certificate, key: issued.key, authority: stage.authority, addresses: addresses,
                expires: noon + 3_600)
        }
    }

    private func reason(_ text: String, now: Int64 = noon) -> String {
        do {
            _ = try InvitationToken(parsing: text, now: now)
            return ""
        } catch { return "\(error)" }
    }

    @Test("A token brings all that a node needs")
    func roundTrip() throws {
        let invitation = try Invitation()
        #expect(invitation.text.hasPrefix("apus1.") && invitation.text.utf8.count < 2_500)
        #expect(
            invitation.text.utf8.allSatisfy {
                CertificateName.isAlphanumeric($0) || [0x2D, 0x2E, 0x5F].contains($0)
            })
        let token = try InvitationToken(parsing: invitation.text, now: noon)
        #expect(token.node == invitation.issued.certificate.node && token.mesh == "plant")
        #expect(token.name == "node-2" && token.expires == noon + 3_600)
        #expect(token.addresses == ["node-1.example.org:7400", "[2001:db8::1]:7400"])
        #expect(try token.authorityPEM == invitation.stage.authority.certificate.pem)
        #expect(try token.certificatePEM == invitation.issued.certificate.pem)
        let key = try PrivateKey.read(pem: token.keyPEM, name: "node.key")
        #expect(invitation.issued.certificate.belongs(to: key))
        #expect("\(token)" == "invitation of node-2 to the mesh plant")
    }

    @Test("In its time only")
    func time() throws {
        let text = try Invitation().text
        #expect(reason(text, now: noon + 3_599) == "")
        #expect(reason(text, now: noon + 3_600).contains("expired"))
        #expect(reason(text, now: noon - day).contains("clock"))
    }

    @Test("Every shortened and every changed token is refused")
    func damaged() throws {
        let text = try Invitation().text
        let letters = Array(text.utf8)
        for count in 0..<letters.count {
            #expect(reason(String(decoding: letters[..<count], as: UTF8.self)) != "", "\(count) letters")
        }
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".utf8)
        for index in letters.indices {
            var changed = letters
            // Every bit of every letter, in turn.
            let value = alphabet.firstIndex(of: letters[index]) ?? 0
            changed[index] = alphabet[value ^ (1 << (index % 6))]
            guard changed != letters else { continue }
            #expect(reason(String(decoding: changed, as: UTF8.self)) != "", "letter \(index)")
        }
        for more in ["A", "AA", "AAA", "AAAA", "=", "==", "\n", " ", ".", "+", "/"] {
            #expect(reason(text + more) != "")
        }
        #expect(reason("").contains("apus invite") && reason("apus2." + text.dropFirst(6)).contains("apus invite"))
        #expect(reason("apus1." + String(repeating: "A", count: 20_000)).contains("too many"))
    }

    @Test("Parts of two tokens do not make one")
    func mixed() throws {
        let (one, other) = (try Invitation(), try Invitation())
        func encode(_ certificate: Certificate, _ key: PrivateKey, _ authority: CertificateAuthority) throws -> String {
            try InvitationToken.encode(
                certificate, key: key, authority: authority, addresses: ["a:1"], expires: noon + 60)
        }
        let (a, b) = (one.issued, other.issued)
        #expect(try reason(encode(a.certificate, a.key, one.stage.authority)) == "")
        #expect(try reason(encode(a.certificate, b.key, one.stage.authority)).contains("belong together"))
        #expect(try reason(encode(a.certificate, a.key, other.stage.authority)).contains("not good"))
        let client = try one.stage.client("device-1")
        #expect(throws: CertificateFailure.self) { try encode(client.certificate, client.key, one.stage.authority) }
    }

    @Test("Addresses that cannot be dialled are refused before a token is made")
    func addresses() throws {
        for addresses in [
            [], ["a"], ["a:0"], ["a:70000"], ["::1:7400"], [":7400"], ["a b:7400"], ["*.example.org:7400"], ["a:+1"],
            Array(repeating: "a:1", count: 9), ["a:1", ""],
        ] { #expect(throws: CertificateFailure.self, "\(addresses)") { try Invitation(addresses: addresses) } }
        #expect(InvitationToken.reasonAgainst(addresses: ["localhost:7400", "192.0.2.1:1"]) == nil)
    }
}
