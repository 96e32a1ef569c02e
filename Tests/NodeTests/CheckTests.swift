import Foundation
import Node
import Testing

/// What is found when the files are looked at that a configuration names.
@Suite("Check")
final class CheckTests {
    private let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)

    init() throws { try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true) }

    deinit { try? FileManager.default.removeItem(at: folder) }

    private func write(_ name: String, _ text: String) throws -> String {
        let path = folder.appending(path: name).path()
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        return path
    }

    private func report(_ yaml: String) throws -> (problems: [String], warnings: [String]) {
        let report = try load(yaml).checkFiles()
        return (report.problems.map(\.description), report.warnings.map(\.description))
    }

    @Test("Every bad file of a section is named with line and key")
    func certificates() throws {
        let garbage = try write("garbage.pem", "nothing")
        let found = try report(
            """
            tls:
              p:
                certificate: /none/p.crt
                key: \(garbage)
                client_ca: /none/ca.crt
                crl: /none/ca.crl
                more:
                  - certificate: /none/more.crt
              unused: { certificate: /none/unused.crt }
            listeners:
              - { protocol: mqtt, listen: "127.0.0.1:0", tls: p }
              - { protocol: amqp, listen: "127.0.0.1:0", tls: p }
            """)
        let problems = found.problems
        #expect(problems.count == 5, "\(problems)")
        for expected in [
            "apus.yaml:3: tls.p.certificate: /none/p.crt: No such file or directory",
            "apus.yaml:4: tls.p.key: \(garbage): no private key in it",
            "apus.yaml:5: tls.p.client_ca: /none/ca.crt: No such file",
            "apus.yaml:6: tls.p.crl: /none/ca.crl: No such file",
            // Its key is in the same file, which is named once.
            "apus.yaml:8: tls.p.more[0].certificate: /none/more.crt: No such file",
        ] {
            #expect(problems.contains { $0.hasPrefix(expected) }, "\(expected): \(problems)")
        }
    }

    @Test("Users, keys of tokens, directories of sockets")
    func others() throws {
        let keys = try write("keys.json", "{}")
        let found = try report(
            """
            listeners:
              - { protocol: mqtt, listen: "unix:/none/such/socket" }
              - { protocol: mqtt, listen: "unix:socket-here" }
              - { protocol: mqtt, listen: "unix:/run/no-such-service/socket" }
            admin: { listen: "unix:\(folder.path())/admin" }
            security:
              users: \(folder.path())
              tokens:
                - { issuer: i, audience: a, keys: /none/keys.json }
                - { issuer: j, audience: a, keys: \(keys), ca: /none/ca.pem }
                - { issuer: k, audience: a, keys: "https://127.0.0.1:1/keys" }
            """)
        #expect(
            found.problems.map { $0.split(separator: ":").prefix(3).joined(separator: ":") } == [
                "apus.yaml:7: security.users", "apus.yaml:9: security.tokens[0].keys",
                "apus.yaml:10: security.tokens[1].keys", "apus.yaml:2: listeners[0].listen",
            ], "\(found.problems)")
        #expect(found.problems.contains { $0.hasSuffix("there is no directory /none/such for the socket") })
        #expect(found.problems.contains { $0.contains("cannot open /none/keys.json: No such file or directory") })
        // A service's directory is made when it starts, and the authorities of a server that is asked later.
        #expect(found.warnings.count == 2, "\(found.warnings)")
        #expect(
            found.warnings.contains { $0.hasPrefix("apus.yaml:4: listeners[2].listen: there is no directory /run/no") })
        #expect(
            found.warnings.contains { $0.hasPrefix("apus.yaml:10: security.tokens[1].ca: cannot read /none/ca.pem") })
    }

    @Test("What a node starts with, but somebody would miss, is a warning")
    func warnings() throws {
        let users = try write("users", "")
        let bridged = try report(
            """
            bridges:
              - name: b
                to: "127.0.0.1:1"
                topics: [{ filter: a, direction: in }]
                tls:
                  ca: /none/ca.crt
            security:
              users: \(users)
            admin:
              users: [nobody]
            """)
        #expect(bridged.problems == [])
        #expect(
            bridged.warnings == [
                "apus.yaml:10: admin.users[0]: there is no 'nobody' in \(users), so nobody can be that user",
                "apus.yaml:6: bridges[0].tls.ca: cannot read /none/ca.crt: No such file or directory",
            ])
        let missing = try report("security: { users: /none/users }")
        #expect(missing.problems == [])
        #expect(missing.warnings.first?.hasPrefix("apus.yaml:1: security.users: there is no readable file") == true)
        let locked = try report(
            """
            listeners:
              - { protocol: mqtt, listen: "127.0.0.1:0", name: here }
              - { protocol: mqtt, listen: "127.0.0.1:0", anonymous: loopback }
            security: { anonymous: never }
            """)
        #expect(locked.problems == [])
        #expect(locked.warnings.count == 1)
        #expect(
            locked.warnings.first?.hasPrefix("apus.yaml:4: security.anonymous: nobody can log in at here") == true,
            "\(locked.warnings)")
        let good = try report("security: { anonymous: never, users: \(users) }")
        #expect(good.problems == [] && good.warnings == [])
        let standard = try load("").checkFiles()
        #expect(standard.problems == [] && standard.warnings == [] && standard.sections == [] && standard.users == nil)
    }

    @Test("The summary says who may come in where, and counts what is configured")
    func summary() throws {
        func lines(_ yaml: String) throws -> [String] {
            let configuration = try load(yaml)
            return configuration.summary(configuration.checkFiles()) + configuration.openDoors
        }
        let one = try lines("listeners: [{ protocol: mqtt, listen: \"0.0.0.0:1883\", anonymous: never }]")
        #expect(one.contains("    anonymous clients: never"), "\(one)")
        let two = try lines(
            """
            listeners:
              - { protocol: mqtt, listen: "127.0.0.1:1883", name: inside }
              - { protocol: mqtt, listen: "0.0.0.0:1884", name: outside, anonymous: everywhere }
            security:
              quotas: [{ max_connections: 5 }]
              tokens: [{ issuer: i, audience: a, keys: "https://127.0.0.1:1/keys" }]
            http: { webhooks: [{ name: w, url: "http://h/", filters: [a] }] }
            bridges:
              - { name: b, to: "h:1883", topics: [{ filter: a, direction: in }] }
              - { name: c, to: "h:1883", topics: [{ filter: a, direction: in }] }
            """)
        #expect(two.contains("    anonymous clients: loopback at inside, everywhere at outside"), "\(two)")
        #expect(
            two.contains("    access rules: 0; quotas: 1; issuers of tokens: 1; bridges: 2; webhooks: 1"), "\(two)")
        #expect(two.last == "anyone who reaches outside may connect without a user name")
        let inside = try lines(
            """
            listeners: [{ protocol: mqtt, listen: "0.0.0.0:1883", anonymous: loopback }]
            security: { anonymous: everywhere }
            """)
        #expect(!inside.contains { $0.hasPrefix("anyone") }, "\(inside)")
        #expect(try lines("listeners: []").last == "without listeners no client can connect")
    }
}
