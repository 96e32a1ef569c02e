import Admin
import Core
import Foundation
import Glibc
import Logging
import Mesh
import Reactor
import Synchronization
import Testing
import Web

@testable import Node

/// A node's lanes and its mesh, with a data directory of its own, for as long as a test needs it.
private final class MeshStage {
    let reactor: Reactor
    let router: Router
    let shell: MeshShell
    private let joins = Joins()
    private let data = "/tmp/apus-shell-\(getpid())-\(UInt32.random(in: .min ... .max))"

    /// How often the shell has said that it has joined.
    private final class Joins: Sendable { let count = Mutex(0) }

    init(_ name: String, _ settings: MeshSettings) throws {
        router = Router(limits: Limits(), hashKey: 42)
        reactor = try Reactor(
            lanes: 2, limits: Limits(), logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        do {
            shell = try MeshShell(settings, data: data, name: name, reactor: reactor)
        } catch {
            reactor.stop(drainMilliseconds: 0)
            throw error
        }
        let joins = joins
        shell.start(router: router) { joins.count.withLock { $0 += 1 } }
    }

    deinit {
        reactor.stop(drainMilliseconds: 2_000)
        try? FileManager.default.removeItem(atPath: data)
    }

    var joinCount: Int { joins.count.withLock { $0 } }

    /// The links, as the management interface shows them.
    func links() async -> [LinkDocument] {
        await withCheckedContinuation { continuation in shell.links { continuation.resume(returning: $0) } }
    }

    /// Waits until the links are as wanted, at most five seconds; the last ones.
    @discardableResult
    func links(until condition: ([LinkDocument]) -> Bool) async throws -> [LinkDocument] {
        var links = await links()
        for _ in 0..<500 where !condition(links) {
            try await Task.sleep(for: .milliseconds(10))
            links = await self.links()
        }
        #expect(condition(links), "\(links)")
        return links
    }

    static func settings(listen: String? = "127.0.0.1:0", to addresses: [String] = []) -> MeshSettings {
        var settings = MeshSettings()
        settings.listen = listen
        settings.links = addresses.map { MeshSettings.LinkEntry(address: $0) }
        return settings
    }
}

/// Looks again until it holds or five seconds are over.
private func eventually(_ condition: () -> Bool) async throws -> Bool {
    for _ in 0..<500 {
        if condition() { return true }
        try await Task.sleep(for: .milliseconds(10))
    }
    return condition()
}

@Suite("The mesh in a process", .serialized)
struct MeshShellTests {
    @Test("Two nodes find each other and join; links come and go by command")
    func commands() async throws {
        let a = try MeshStage("a", MeshStage.settings())
        let address = try #require(a.shell.address)
        var settings = MeshStage.settings(listen: nil, to: [address])
        settings.join = .configured
        let b = try MeshStage("b", settings)
        #expect(try await eventually { a.joinCount == 1 && b.joinCount == 1 })
        let up = try await b.links { $0.map(\.state) == ["up"] }
        #expect(up.map(\.to) == [address] && up.map(\.peer) == ["a"] && up.map(\.origin) == ["configured"])
        let accepted = try await a.links { $0.map(\.state) == ["up"] }
        #expect(accepted.map(\.to) == [nil] && accepted.map(\.peer) == ["b"] && accepted.map(\.origin) == ["accepted"])

        try b.shell.removeLink(to: address, name: "")
        try await a.links { $0.isEmpty }
        try await b.links { $0.isEmpty }
        #expect(throws: Problem.self) { try b.shell.removeLink(to: address, name: "") }
        #expect(try b.shell.addLink(to: address, name: "", cost: 7))
        #expect(try !b.shell.addLink(to: address, name: "", cost: 9), "only the cost is another one")
        let again = try await b.links { $0.map(\.state) == ["up"] && $0.map(\.cost) == [9] }
        #expect(again.map(\.origin) == ["added"])
        try await a.links { $0.map(\.state) == ["up"] && $0.map(\.cost) == [9] }
        try await a.links { $0.map(\.state) == ["up"] && $0.map(\.cost) == [9] }
        // Read again: of the configuration, and what was added stays.
        b.shell.update(configured: [MeshSettings.LinkEntry(address: "127.0.0.1:1")])
        let mixed = try await b.links { $0.contains { $0.state == "up" } && $0.contains { $0.problem != nil } }
        #expect(mixed.map(\.to) == [address, "127.0.0.1:1"] && mixed.map(\.origin) == ["added", "configured"])
        #expect(mixed.last?.problem == "Connection refused")
        #expect(a.joinCount == 1 && b.joinCount == 1)
    }

    @Test("What may not be dialled is refused, with what would be right")
    func refusals() throws {
        var settings = MeshStage.settings()
        settings.maxLinks = 2
        let stage = try MeshStage("a", settings)
        for (address, name, status) in [
            ("nonsense", "", 400), ("127.0.0.1:0", "", 400), ("10.0.0.1:7400", "", 409), ("node-2:7400", "", 409),
            ("127.0.0.1:1", String(repeating: "x", count: 65), 400),
        ] {
            let problem = #expect(throws: Problem.self) {
                try stage.shell.addLink(to: address, name: name, cost: 1)
            }
            #expect(problem?.status == status, "\(address): \(problem.debugDescription)")
        }
        #expect(try stage.shell.addLink(to: "127.0.0.1:1", name: "", cost: 1))
        #expect(try stage.shell.addLink(to: "127.0.0.1:1", name: "second", cost: 1))
        let problem = #expect(throws: Problem.self) {
            try stage.shell.addLink(to: "127.0.0.1:1", name: "third", cost: 1)
        }
        #expect(problem?.status == 409 && problem?.detail.contains("mesh.max_links") == true)
    }

    @Test("Different secrets: no link, and the reason is where an operator looks")
    func secrets() async throws {
        var settings = MeshStage.settings()
        settings.secret = "the one that is right"
        let a = try MeshStage("a", settings)
        settings = MeshStage.settings(to: [try #require(a.shell.address)])
        settings.secret = "one that is not right"
        let b = try MeshStage("b", settings)
        let links = try await b.links { $0.first?.problem != nil }
        #expect(links.first?.state == "missing" && links.first?.problem?.contains("mesh.secret") == true, "\(links)")
        #expect(await a.links().isEmpty)
    }

    @Test("A node that nobody answers has joined after three seconds, and serves alone")
    func lonely() async throws {
        let clock = ContinuousClock()
        let start = clock.now
        let stage = try MeshStage("a", MeshStage.settings(to: ["127.0.0.1:1"]))
        #expect(try await eventually { stage.joinCount == 1 })
        #expect(clock.now - start >= .milliseconds(2_800), "\(clock.now - start)")
    }

    @Test("An address that is taken: the start fails, and says which key to change")
    func taken() throws {
        let first = try MeshStage("a", MeshStage.settings())
        let address = try #require(first.shell.address)
        do {
            _ = try MeshStage("b", MeshStage.settings(listen: address))
            Issue.record("both listen on \(address)")
        } catch let failure as Node.StartFailure {
            #expect(failure.description.contains(address) && failure.description.contains("mesh.listen"))
            #expect(!failure.isConfiguration)
        }
    }
}
