import Core
import Testing

@testable import Mesh

/// Who may be a neighbour: certificates, lists, secrets that change, and who is told when somebody may not.
@Suite struct IdentityTests {
    private func id(_ address: String) -> NodeID {
        let number = address.utf8.reduce(UInt64(7)) { $0 &* 31 &+ UInt64($1) }
        return NodeID(high: number &* 0x9E37_79B9_7F4A_7C15, low: number)
    }

    private func certificate(_ address: String, name: String? = nil, uris: [String]? = nil) -> PeerCertificate {
        var certificate = PeerCertificate()
        certificate.commonName = name ?? address
        certificate.subject = "CN=\(name ?? address)"
        certificate.fingerprint = "\(name ?? address)"
        certificate.uris = uris ?? ["apus:node:\(id(address))"]
        return certificate
    }

    /// Two nodes, of which the second dials; what it shows is given.
    private func pair(
        showing shown: PeerCertificate?, _ change: (inout MeshSettings) -> Void = { _ in }
    ) -> (field: MeshField, a: MeshField.Station, b: MeshField.Station) {
        let field = MeshField()
        let a = field.start("a:1", links: []) {
            $0.requiresCertificate = true
            change(&$0)
        }
        let b = field.start("b:1", links: ["a:1"]) { $0.requiresCertificate = true }
        (a.certificate, b.certificate) = (certificate("a:1"), shown)
        field.run(1_000)
        return (field, a, b)
    }

    @Test func certificatesTakeTheSecretsPlace() {
        let (_, a, b) = pair(showing: certificate("b:1", uris: ["apus:mesh:apus", "apus:node:\(id("b:1"))"]))
        #expect(a.node.links.count == 1 && b.node.links.allSatisfy { $0.isUp }, "\(a.lines) \(b.lines)")
        #expect(a.records.isEmpty && b.records.isEmpty)
    }

    @Test(arguments: [
        ("none", "a certificate of the mesh is required"), ("another node's", "is that of"),
        ("no node's", "names no node"), ("of two nodes", "names several nodes"),
        ("of another mesh", "for another mesh"), ("of two meshes", "names several meshes"),
        ("with an id that is none", "is that of"),
        ("not listed", "is not in mesh.allow"),
    ])
    func whoCannotProveItIsRefused(_ what: String, _ words: String) {
        let shown: PeerCertificate? =
            switch what {
            case "none": nil
            case "another node's": certificate("c:1", name: "b:1")
            case "no node's": certificate("b:1", uris: ["https://example.org"])
            case "of two nodes": certificate("b:1", uris: ["apus:node:\(id("b:1"))", "apus:node:\(id("c:1"))"])
            case "of another mesh": certificate("b:1", uris: ["apus:node:\(id("b:1"))", "apus:mesh:other"])
            case "of two meshes":
                certificate("b:1", uris: ["apus:node:\(id("b:1"))", "apus:mesh:apus", "apus:mesh:other"])
            case "with an id that is none": certificate("b:1", uris: ["apus:node:b"])
            default: certificate("b:1")
            }
        // The name that counts is the certificate's: the node itself calls itself b:1.
        let (_, a, b) = pair(showing: shown) { if what == "not listed" { $0.allow = ["c:1"] } }
        #expect(a.node.links.isEmpty && b.node.links.isEmpty)
        #expect(a.lines.contains { $0.contains(words) }, "\(a.lines)")
        #expect(b.lines.contains { $0.contains(words) }, "\(b.lines)")
        let record = a.records.first
        #expect(record?.kind == .mesh && record?.isRefusal == true && record?.reason.contains(words) == true)
        #expect(record?.object.contains("\(id("b:1"))") == true)
        let reason = what == "not listed" ? ByeReason.notAllowed : .certificate
        #expect(a.node.counters.refused[Int(reason.rawValue)] > 0)
    }

    @Test func whoIsDialledMustBeWhoItShouldBe() {
        let field = MeshField()
        let a = field.start("a:1", links: []) { $0.requiresCertificate = true }
        let b = field.start("b:1", links: ["a:1"]) { $0.requiresCertificate = true }
        (a.certificate, b.certificate) = (certificate("x:1", name: "a:1"), certificate("b:1"))
        field.run(1_000)
        #expect(b.node.links.isEmpty && b.lines.contains { $0.contains("is that of") }, "\(b.lines)")
        #expect(b.records.contains { $0.reason.contains("is that of") }, "who dialled notes it as well")
    }

    @Test func aLinkMayExpectCertainNodes() {
        for (allowed, isThere) in [(["a:1"], true), ([id("a:1").description], true), (["c:1"], false)] {
            let field = MeshField()
            let a = field.start("a:1", links: [])
            let b = field.start("b:1", links: []) {
                var entry = MeshSettings.LinkEntry(address: "a:1")
                entry.allow = allowed
                $0.links = [entry]
            }
            field.run(1_000)
            #expect(a.node.links.count == (isThere ? 1 : 0) && b.node.links.count == (isThere ? 1 : 0), "\(allowed)")
            #expect(isThere || b.records.contains { $0.reason.contains("none of those") })
            #expect(isThere || a.lines.contains { $0.contains("none of those") })
        }
    }

    @Test func nodesThatAreNotListedAreNotDialled() {
        let field = MeshField()
        field.start("a:1", links: [])
        field.start("b:1", links: ["a:1"])
        let c = field.start("c:1", links: ["a:1"]) {
            $0.join = .full
            $0.allow = ["a:1"]
        }
        field.run(6_000)
        #expect(c.node.links.count == 1 && c.dialCount == 2, "\(c.dialCount)")
    }

    @Test func theDataConnectionIsOfTheSameCertificate() {
        let field = MeshField()
        let a = field.start("a:1", links: []) { $0.requiresCertificate = true }
        let b = field.start("b:1", links: ["a:1"]) { $0.requiresCertificate = true }
        (a.certificate, b.certificate) = (certificate("a:1"), certificate("b:1"))
        while a.node.links.isEmpty { field.run(1) }
        // From now on it is another one, of the same node.
        b.certificate = certificate("b:1", name: "b:2")
        field.run(20)
        #expect(a.node.links.allSatisfy { !$0.isUp })
        #expect(a.lines.contains { $0.contains("another certificate than its link") }, "\(a.lines)")
        field.run(3_000)
        #expect(a.node.links.allSatisfy { $0.isUp } && a.node.links.count == 1, "then both are of the new one")
    }

    @Test(arguments: [true, false])
    func aSecretIsChangedWithoutAPause(_ newDials: Bool) {
        let (old, new) = ("correct horse battery", "another horse battery")
        let field = MeshField()
        let a = field.start("a:1", links: newDials ? [] : ["b:1"]) { $0.secret = old }
        let b = field.start("b:1", links: newDials ? ["a:1"] : []) {
            $0.secret = new
            $0.previousSecret = old
        }
        field.run(6_000)
        #expect(a.node.links.count == 1 && b.node.links.allSatisfy { $0.isUp }, "\(a.lines) \(b.lines)")
        // One that has neither stays out.
        let c = field.start("c:1", links: ["b:1"]) { $0.secret = "a third one, that is wrong" }
        field.run(6_000)
        #expect(c.node.links.isEmpty && b.records.contains { $0.reason == "mesh.secret is another one" })
    }
}
