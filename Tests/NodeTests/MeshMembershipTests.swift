import Foundation
import Glibc
import Mesh
import Security
import TLS
import Testing

@testable import Node

/// A data directory and an authority that go with the test.
private final class Stage {
    let path = "/tmp/apus-joining-\(getpid())-\(UInt32.random(in: .min ... .max))"
    let now: Int64 = 1_772_366_400
    let authority: AuthorityFolder

    var data: String { "\(path)/data" }
    var membership: MeshMembership { MeshMembership(data: data) }

    init() throws {
        mkdir(path, 0o700)
        authority = AuthorityFolder("\(path)/certs")
        try authority.create(name: "Test CA", now: now)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func invite(_ name: String, mesh: String = "plant", addresses: [String] = ["node-1:7400"]) throws -> InvitationToken
    {
        let request = CertificateRequest(.node(try .random(mesh: mesh)), name: name)
        let issued = try authority.issue(request, key: .none, replacing: true, now: now)
        let text = try InvitationToken.encode(
            issued.certificate, key: issued.key, authority: authority.authority(), addresses: addresses,
            expires: now + 60)
        return try InvitationToken(parsing: text, now: now)
    }

    @discardableResult
    func join(_ token: InvitationToken, listen: String? = nil, replacing: Bool = false) throws -> String? {
        let address = try listen.map { try ListenAddress(parsing: $0) }
        return try membership.join(token, listen: address, replacing: replacing, now: now)
    }

    func files(_ folder: String) -> Set<String> {
        Set((try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? [])
    }

    func rights(_ path: String) -> mode_t {
        var info = stat()
        return stat(path, &info) == 0 ? info.st_mode & 0o777 : 0
    }

    func reason(_ body: () throws -> Void) -> String {
        do {
            try body()
            return ""
        } catch { return "\(error)" }
    }
}

@Suite("Joining a mesh, and leaving it")
struct MeshMembershipTests {
    private static let written: Set<String> = ["node.crt", "node.key", "ca.crt", "identity", "joined.yaml", "lock"]

    @Test("Joining makes the node of the certificate of the data directory")
    func joining() throws {
        let stage = try Stage()
        #expect(!stage.membership.isJoined)
        let token = try stage.invite("node-2")
        #expect(try stage.join(token) == nil)
        let folder = "\(stage.data)/mesh"
        #expect(stage.files(folder) == Self.written && stage.membership.isJoined && !stage.membership.isRunning)
        for name in ["node.key", "identity"] { #expect(stage.rights("\(folder)/\(name)") == 0o600) }
        #expect(stage.rights(folder) == 0o700)
        #expect(try stage.membership.nodeID() == token.node.id && stage.membership.certificateName == "node-2")
        let certificate = try Certificate.load("\(folder)/node.crt")
        let key = try PrivateKey.read(pem: Array(Data(contentsOf: URL(filePath: "\(folder)/node.key"))), name: "key")
        #expect(certificate.belongs(to: key) && certificate.node == token.node)
        let identity = try MeshIdentityFile(data: stage.data, name: "x", certified: NodeID(token.node.id))
        #expect(identity.identity.id.description == token.node.id && identity.identity.epoch >> 16 == 1)
    }

    @Test("Twice only when asked to, and then what was there is kept")
    func twice() throws {
        let stage = try Stage()
        let (first, second) = (try stage.invite("node-2"), try stage.invite("node-3"))
        try stage.join(first)
        #expect(stage.reason { try stage.join(second) }.contains("--force"))
        #expect(try stage.membership.nodeID() == first.node.id)
        let aside = try #require(try stage.join(second, replacing: true))
        #expect(aside == "\(stage.data)/mesh/left-2026-03-01T12:00:00Z" && stage.rights(aside) == 0o700)
        #expect(stage.files(aside) == Self.written.subtracting(["lock"]))
        #expect(try stage.membership.nodeID() == second.node.id && stage.membership.certificateName == "node-3")
    }

    @Test("A node that runs is not made another one")
    func running() throws {
        let stage = try Stage()
        let node = try MeshIdentityFile(data: stage.data, name: "a")
        #expect(stage.membership.isRunning)
        let reason = try stage.invite("node-2")
        #expect(stage.reason { try stage.join(reason) }.contains("another node runs"))
        #expect(try stage.membership.nodeID() == node.identity.id.description && !stage.membership.isJoined)
    }

    @Test("A node that had an id of its own gets that of the certificate; a certificate of another node is refused")
    func otherID() throws {
        let stage = try Stage()
        let old = try MeshIdentityFile(data: stage.data, name: "a").identity.id
        let token = try stage.invite("node-2")
        let certified = try #require(NodeID(token.node.id))
        let reason = stage.reason { _ = try MeshIdentityFile(data: stage.data, name: "a", certified: certified) }
        #expect(reason.contains("\(old)") && reason.contains("\(certified)"), "\(reason)")
        try stage.join(token)
        #expect(try MeshIdentityFile(data: stage.data, name: "a").identity.id == certified)
        // A new node takes the id of its certificate.
        let new = try MeshIdentityFile(data: "\(stage.path)/new", name: "b", certified: certified)
        #expect(new.identity.id == certified)
    }

    @Test("Leaving moves everything away, and the next start is a new node without a mesh")
    func leaving() throws {
        let stage = try Stage()
        #expect(try stage.membership.leave(now: stage.now) == nil)
        try stage.join(try stage.invite("node-2"))
        let first = try #require(try stage.membership.leave(now: stage.now))
        #expect(stage.files(first) == Self.written.subtracting(["lock"]))
        #expect(!stage.membership.isJoined && stage.files("\(stage.data)/mesh") == ["lock", String(first.suffix(25))])
        #expect(try stage.membership.nodeID() == nil)
        try stage.join(try stage.invite("node-2"))
        let second = try #require(try stage.membership.leave(now: stage.now))
        #expect(second == first + "-2")
    }

    @Test("What a joined node knows stands below the configuration and above the defaults")
    func configuration() throws {
        let stage = try Stage()
        try stage.join(
            try stage.invite("node-2", addresses: ["node-1:7400", "[2001:db8::1]:7400"]), listen: "0.0.0.0:7401")
        func load(_ yaml: String, _ flags: [ConfigurationFlag] = [], _ more: [String: String] = [:]) throws
            -> Configuration
        {
            let environment = ["APUS_NODE_DATA": stage.data].merging(more) { $1 }
            return try Configuration.load(yaml: yaml, file: "apus.yaml", environment: environment, flags: flags)
        }
        let plain = try load("")
        #expect(plain.name == "node-2" && plain.mesh?.meshID == "plant" && plain.mesh?.listen == "0.0.0.0:7401")
        #expect(plain.mesh?.links.map(\.address) == ["node-1:7400", "[2001:db8::1]:7400"])
        let tls = try #require(plain.tls.first { $0.name == "joined" })
        #expect(tls.certificates.map(\.certificate) == ["\(stage.data)/mesh/node.crt"])
        #expect(tls.certificates.map(\.key) == ["\(stage.data)/mesh/node.key"])
        #expect(tls.peerAuthorities == "\(stage.data)/mesh/ca.crt" && tls.clientCertificate == .required)
        let own = try load("node: { name: mine }\nmesh: { listen: 'off', links: [{ to: 'node-9:7400' }] }")
        #expect(own.name == "mine" && own.mesh?.meshID == "plant" && own.mesh?.listen == nil)
        #expect(own.mesh?.links.map(\.address) == ["node-9:7400"])
        #expect(try load("", [.link("node-5:7400")]).mesh?.links.count == 3)
        #expect(try load("", [], ["APUS_MESH_LISTEN": "127.0.0.1:1"]).mesh?.listen == "127.0.0.1:1")
        // Without a file the standard address of the mesh does not stand in the way.
        let bare = try Configuration.load(file: nil, environment: [:], flags: [.data(stage.data)])
        #expect(bare.mesh?.listen == "0.0.0.0:7401" && bare.data == stage.data)
        // A flag wins over the environment, here too.
        #expect(try load("", [.data("\(stage.path)/other")]).mesh == nil)
    }

    @Test("Keys are taken over one by one; lists and values that are there stay; paths become those of the directory")
    func merging() throws {
        let stage = try Stage()
        try stage.join(try stage.invite("node-2", mesh: "it's-${HOME}"))
        let joined = try #require(try JoinedFile(data: stage.data).read())
        var tree = try Setting.parse(yaml: "mesh: { id: mine, links: [] }\ntls: { other: { key: k } }", file: "a")
        tree.fill(from: joined)
        func text(_ setting: Setting?) -> String? {
            if case .text(let text, _)? = setting { text } else { nil }
        }
        #expect(text(tree["mesh"]?["id"]) == "mine" && text(tree["mesh"]?["tls"]) == "joined")
        if case .list(let links, _)? = tree["mesh"]?["links"] {
            #expect(links.isEmpty)
        } else {
            Issue.record("no links")
        }
        #expect(text(tree["node"]?["name"]) == "node-2" && text(tree["tls"]?["other"]?["key"]) == "k")
        #expect(text(tree["tls"]?["joined"]?["key"]) == "\(stage.data)/mesh/node.key")
        #expect(text(joined["mesh"]?["id"]) == "it's-${HOME}")
    }
}
