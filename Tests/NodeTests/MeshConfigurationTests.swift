import Core
import Foundation
import Mesh
import Node
import Testing

@Suite("Configuration of the mesh")
struct MeshConfigurationTests {
    private static let secret = "sixteen characters"

    @Test("Without a word about it a node is in no mesh, but a node of which nothing is said can be found")
    func standard() throws {
        #expect(try load("node: { name: a }").mesh == nil)
        #expect(try load("mesh: { id: plant, join: 2 }").mesh == nil)
        #expect(try Configuration.load(file: nil, environment: [:]).mesh?.listen == "127.0.0.1:7400")
        #expect(try Configuration.load(file: nil, environment: [:]).mesh?.links == [])
        #expect(try Configuration.load(file: nil, environment: [:], flags: [.name("b"), .admin("off")]).mesh != nil)
        for flag in [ConfigurationFlag.mqtt("127.0.0.1:0"), .http("off"), .amqp("off"), .mesh("off")] {
            #expect(try Configuration.load(file: nil, environment: [:], flags: [flag]).mesh == nil)
        }
        let named = ["APUS_LISTENERS_0_LISTEN": "127.0.0.1:0"]
        #expect(try Configuration.load(file: nil, environment: named).mesh == nil)
        let moved = try Configuration.load(file: nil, environment: ["APUS_MESH_LISTEN": "127.0.0.1:1"]).mesh
        #expect(moved?.listen == "127.0.0.1:1")
    }

    @Test("A section with everything")
    func everything() throws {
        let mesh = try #require(
            try load(
                """
                mesh:
                  id: plant
                  listen: 0.0.0.0:7400
                  advertise: ["node-1.example.org:7400", "[2001:db8::1]:7400"]
                  secret: ${PLANT_SECRET}
                  links:
                    - { to: "node-2.example.org:7400", cost: 100, name: radio, profile: satellite }
                    - { to: "node-2.example.org:7400" }
                    - to: 10.0.0.3:7401
                  join: 3
                  profile: fast
                  transit: false
                  max_links: 8
                  max_link_bytes: 1MiB
                  max_stream_bytes: 2MiB
                  max_filters: 5000
                """, environment: ["PLANT_SECRET": Self.secret]
            ).mesh)
        var radio = MeshSettings.LinkEntry(address: "node-2.example.org:7400")
        (radio.cost, radio.name, radio.profile) = (100, "radio", .satellite)
        var expected = MeshSettings()
        expected.meshID = "plant"
        expected.listen = "0.0.0.0:7400"
        expected.advertise = ["node-1.example.org:7400", "[2001:db8::1]:7400"]
        expected.secret = Self.secret
        expected.links = [
            radio, .init(address: "node-2.example.org:7400"), .init(address: "10.0.0.3:7401"),
        ]
        expected.join = .atLeast(3)
        expected.profile = .fast
        expected.isTransit = false
        (expected.maxLinks, expected.maxLinkBytes, expected.maxStreamBytes) = (8, 1 << 20, 2 << 20)
        expected.maxFilters = 5_000
        #expect(mesh == expected)
        #expect(try load("mesh: { listen: '127.0.0.1:1', join: configured }").mesh?.join == .configured)
        #expect(try load("mesh: { listen: 'localhost:1', join: full }").mesh?.listen == "127.0.0.1:1")
        #expect(try load("mesh: { listen: '[::1]:1' }").mesh?.listen == "[::1]:1")
        // Only dials.
        #expect(try load("mesh: { listen: off, links: [{ to: 'localhost:1' }] }").mesh?.listen == nil)
    }

    @Test("Flags and variables")
    func overrides() throws {
        let file = "mesh: { listen: '127.0.0.1:1', links: [{ to: '127.0.0.1:2', cost: 7 }] }"
        let flags = [ConfigurationFlag.mesh("127.0.0.1:5"), .link("127.0.0.1:3"), .link("localhost:4")]
        let flagged = try #require(try load(file, flags: flags).mesh)
        #expect(flagged.listen == "127.0.0.1:5")
        #expect(flagged.links.map(\.address) == ["127.0.0.1:2", "127.0.0.1:3", "localhost:4"])
        #expect(flagged.links.map(\.cost) == [7, 10, 10])
        #expect(try load("", flags: [.link("127.0.0.1:3")]).mesh?.links.map(\.address) == ["127.0.0.1:3"])
        let more = try load(
            "", flags: [.link("127.0.0.1:3,cost=5"), .link("[::1]:4,profile=fast,name=radio,cost=65535")])
        #expect(more.mesh?.links.map(\.address) == ["127.0.0.1:3", "[::1]:4"])
        #expect(more.mesh?.links.map(\.cost) == [5, 65_535])
        #expect(more.mesh?.links.map(\.name) == ["", "radio"] && more.mesh?.links.map(\.profile) == [nil, .fast])
        #expect(try load(file, flags: [.mesh("off")]).mesh?.listen == nil)
        let varied = try load(
            "",
            environment: [
                "APUS_MESH_LISTEN": "0.0.0.0:9", "APUS_MESH_SECRET": Self.secret, "APUS_MESH_LINKS_0_TO": "a.b:1",
                "APUS_MESH_LINKS_1_TO": "a.b:2", "APUS_MESH_LINKS_1_COST": "3", "APUS_MESH_ADVERTISE": "c.d:1,c.d:2",
                "APUS_MESH_TRANSIT": "false",
            ])
        let mesh = try #require(varied.mesh)
        #expect(mesh.listen == "0.0.0.0:9" && mesh.secret == Self.secret && !mesh.isTransit)
        #expect(mesh.links.map(\.address) == ["a.b:1", "a.b:2"] && mesh.links.map(\.cost) == [10, 3])
        #expect(mesh.advertise == ["c.d:1", "c.d:2"])
        #expect(
            problems("", flags: [.link("10.0.0.1:7400")]).first?
                .hasPrefix("--link: mesh.links[0].to: '10.0.0.1:7400' may be another machine: set mesh.secret") == true)
    }

    @Test(
        "What follows a link's address on the command line is checked",
        arguments: [
            ("localhost:3,cost=0", "--link: mesh.links[0].cost: '0' is not allowed"),
            ("localhost:3,cost=many", "--link: mesh.links[0].cost: 'many' is not allowed"),
            ("localhost:3,cost", "--link: 'cost' is not understood; HOST:PORT, then each once: cost=, name=, profile="),
            ("localhost:3,price=5", "--link: 'price=5' is not understood; HOST:PORT, then each once: cost=, name="),
            ("localhost:3,cost=5,cost=6", "--link: 'cost=6' is not understood; HOST:PORT, then each once"),
            ("localhost:3,", "--link: '' is not understood"),
            ("localhost:3,profile=quick", "--link: mesh.links[0].profile: 'quick' is not allowed; expected standard |"),
            ("cost=5", "--link: mesh.links[0].to: 'cost=5' is no address of a node"),
        ])
    func linkFlags(_ value: String, _ problem: String) {
        #expect(
            problems("", flags: [.link(value)]).first?.hasPrefix(problem) == true,
            "\(problems("", flags: [.link(value)]))")
    }

    @Test(
        "Each mistake is named with file, line, key and what would be right",
        arguments: [
            (
                "mesh:\n  listen: 0.0.0.0:7400",
                "apus.yaml:2: mesh.listen: '0.0.0.0:7400' can be reached from other machines: set mesh.secret (at least"
            ),
            ("mesh: { listen: '192.168.1.4:1' }", "apus.yaml:1: mesh.listen: '192.168.1.4:1' can be reached"),
            (
                "mesh:\n  links:\n    - to: node-2:7400",
                "apus.yaml:3: mesh.links[0].to: 'node-2:7400' may be another machine: set mesh.secret (at least 16"
            ),
            ("mesh: { links: [{ to: '[2001:db8::1]:1' }] }", "apus.yaml:1: mesh.links[0].to: '[2001:db8::1]:1' may be"),
            ("mesh:\n  secret: short", "apus.yaml:2: mesh.secret: a secret has at least 16 characters"),
            ("mesh: { listen: 'unix:/a' }", "apus.yaml:1: mesh.listen: 'unix:/a': nodes meet over IP"),
            ("mesh: { listen: 'node-1:7400' }", "apus.yaml:1: mesh.listen: 'node-1:7400' is no address to listen on"),
            ("mesh: { links: [{ to: node-2 }] }", "apus.yaml:1: mesh.links[0].to: 'node-2' is no address of a node"),
            ("mesh: { links: [{ to: '127.0.0.1:0' }] }", "apus.yaml:1: mesh.links[0].to: '127.0.0.1:0' is no address"),
            ("mesh: { links: [{ to: '::1:1' }] }", "apus.yaml:1: mesh.links[0].to: '::1:1' is no address of a node"),
            ("mesh: { links: [{ to: 'http://a:1' }] }", "apus.yaml:1: mesh.links[0].to: 'http://a:1' is no address"),
            ("mesh: { links: [{ cost: 1 }] }", "apus.yaml:1: mesh.links[0].to: is missing"),
            (
                "mesh: { links: [{ to: 'localhost:1', cost: 0 }] }",
                "apus.yaml:1: mesh.links[0].cost: '0' is not allowed"
            ),
            (
                "mesh: { links: [{ to: 'localhost:1' }, { to: 'localhost:1' }] }",
                "apus.yaml:1: mesh.links[1]: mesh.links[0] goes to localhost:1 as well; give each its own name"
            ),
            ("mesh: { join: some }", "apus.yaml:1: mesh.join: 'some' is not allowed; expected full, configured or"),
            ("mesh: { join: 0 }", "apus.yaml:1: mesh.join: '0' is not allowed"),
            ("mesh: { profile: quick }", "apus.yaml:1: mesh.profile: 'quick' is not allowed; expected standard |"),
            ("mesh: { advertise: [here] }", "apus.yaml:1: mesh.advertise: 'here' is no address of a node"),
            ("mesh: { listn: off }", "apus.yaml:1: mesh.listn: unknown key; did you mean 'listen'?"),
            (
                "mesh: { max_links: 1, links: [{ to: 'localhost:1' }, { to: 'localhost:2' }] }",
                "apus.yaml:1: mesh.links: there are 2, mesh.max_links is 1"
            ),
        ])
    func mistake(yaml: String, expected: String) {
        let found = problems(yaml)
        #expect(found.count == 1 && found[0].hasPrefix(expected), "\(found)")
    }

    @Test("A secret is in no message")
    func secrecy() throws {
        for yaml in [
            "mesh: { secret: hushhush }", "mesh: { secret: 'hushhush\u{7}0123456789' }",
            "mesh: { secret: hushhush0123456789, listen: 'x' }", "mesh: { secret: [hushhush0123456789] }",
        ] {
            let found = problems(yaml)
            #expect(found.count == 1 && !found[0].contains("hushhush"), "\(found)")
        }
    }

    @Test("A reload changes links; what it cannot change is named")
    func reload() throws {
        let old = try load("node: { name: a }\nmesh: { listen: '127.0.0.1:1', links: [{ to: 'localhost:2' }] }")
        let linked = try load("node: { name: a }\nmesh: { listen: '127.0.0.1:1', links: [{ to: 'localhost:3' }] }")
        #expect(linked.keysNeedingRestart(since: old).isEmpty)
        let other = try load(
            """
            node: { name: a }
            tls: { t: { certificate: c, client_ca: ca } }
            mesh: { id: b, listen: off, advertise: ["a:1"], secret: 0123456789abcdef, links: [{ to: "localhost:2" }],
              previous_secret: 0123456789abcdefg, tls: t, allow: [c], policies: [{ peers: [c] }],
              join: 1, profile: fast, transit: false, max_links: 5, max_link_bytes: 1MiB, max_stream_bytes: 1MiB,
              max_filters: 5 }
            """)
        #expect(
            other.keysNeedingRestart(since: old) == [
                "tls", "mesh.id", "mesh.listen", "mesh.advertise", "mesh.secret", "mesh.previous_secret", "mesh.tls",
                "mesh.allow", "mesh.policies", "mesh.join", "mesh.profile", "mesh.transit", "mesh.max_links",
                "mesh.max_link_bytes", "mesh.max_stream_bytes", "mesh.max_filters",
            ])
        let none = try load("node: { name: a }")
        #expect(none.keysNeedingRestart(since: old) == ["mesh"] && old.keysNeedingRestart(since: none) == ["mesh"])
    }

    @Test("Policies are read, and what is wrong with them is said")
    func policies() throws {
        let mesh = try #require(
            try load(
                """
                tls: { links: { certificate: c, client_ca: ca } }
                mesh:
                  listen: 0.0.0.0:7400
                  tls: links
                  allow: [a, "00000000000000010000000000000002"]
                  links: [{ to: "far:7400", allow: [b] }]
                  policies:
                    - { peers: [edge], export: { allow: ["cmd/>"], rate: 5 }, import: { allow: ["tele/#"] } }
                    - { peers: ["*"], export: { deny: ["de/>", "x*"] } }
                """
            ).mesh)
        #expect(mesh.requiresCertificate && mesh.tls == "links" && mesh.secret == nil, "no secret is needed")
        #expect(mesh.allow.count == 2 && mesh.links.first?.allow == ["b"] && mesh.policies.count == 2)
        #expect(mesh.policies[0].export.rate == 5 && mesh.policies[0].import.allow.map(\.text) == ["tele/#"])
        #expect(mesh.policies[1].export.deny.map(\.text) == ["de/>", "x*"] && !mesh.policies[1].import.isSelective)
        for (text, words) in [
            ("mesh: { policies: [{ export: { deny: [a] } }] }", "mesh.policies[0].peers"),
            ("mesh: { policies: [{ peers: [a], export: { deny: ['a/#/b'] } }] }", "is no topic filter"),
            ("mesh: { policies: [{ peers: [a], import: { allow: ['$share/g/a'] } }] }", "is no topic filter"),
            ("mesh: { policies: [{ peers: [a], import: { rate: 0 } }] }", "mesh.policies[0].import.rate"),
            ("mesh: { previous_secret: 0123456789abcdef }", "needs mesh.secret"),
            ("mesh: { secret: 0123456789abcdef, previous_secret: short }", "mesh.previous_secret: a secret has"),
        ] {
            #expect(problems(text).contains { $0.contains(words) }, "\(text): \(problems(text))")
        }
    }

    @Test("The table's defaults are the real ones")
    func tableDefaults() throws {
        let standard = try load("mesh: { listen: '127.0.0.1:1' }").mesh
        for key in ConfigurationKeys.all where key.path.hasPrefix("mesh.") {
            let name = String(key.path.dropFirst("mesh.".count))
            let without = ["listen", "advertise", "secret", "previous_secret", "tls", "allow"]
            guard !without.contains(name), !name.contains("[]") else { continue }
            #expect(try load("mesh: { listen: '127.0.0.1:1', \(name): \(key.standard) }").mesh == standard, "\(name)")
        }
    }
}
