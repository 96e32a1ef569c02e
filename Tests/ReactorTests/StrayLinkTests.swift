import Core
import Logging
import Synchronization
import Testing

@testable import Reactor

/// Nodes of a mesh that dial a listener of another protocol: the log says so.
@Suite struct StrayLinkTests {
    private final class Lines: Sendable {
        let all = Mutex<[String]>([])
        var strays: [String] { all.withLock { $0.filter { $0.contains("node of a mesh") } } }
    }

    private struct Handler: LogHandler {
        let lines: Lines
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.info

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            let text = "\(event.level) \(event.message) \(event.metadata?["peer"] ?? "")"
            lines.all.withLock { $0.append(text) }
        }
    }

    /// As a node begins: 20 bytes, type 1, and what no other protocol says.
    private static let greeting: [UInt8] = [20, 0, 0, 1, 0, 0, 0, 0] + Array("apus".utf8) + [1, 1, 0, 0, 0, 0, 0, 0]

    private func stage(_ lines: Lines, isMesh: Bool = false) throws -> Stage {
        try Stage(logger: Logger(label: "test") { _ in Handler(lines: lines) }) {
            let line = LineAdapter(router: $0)
            return isMesh ? MeshLike(inner: line) as any Adapter : line
        }
    }

    @Test("Bytes that are refused at once, or wait until the other end gives up", arguments: [true, false])
    func told(_ isRefused: Bool) throws {
        let lines = Lines()
        let stage = try stage(lines)
        for _ in 0..<3 {
            let client = try Client(stage)
            try client.send(Self.greeting + (isRefused ? Array("\n".utf8) : []))
            if !isRefused { client.finishWriting() }
            #expect(try client.line() == nil)
        }
        // Whoever dials does so again and again.
        #expect(lines.strays.count == 1)
        let text = lines.strays.first ?? ""
        #expect(
            text.hasPrefix("warning ") && text.contains("which speaks line") && text.contains("127.0.0.1:"), "\(text)")
    }

    @Test("Others that are refused, and the mesh's own listener, are no matter for it", arguments: [true, false])
    func silent(_ isMesh: Bool) throws {
        let lines = Lines()
        let stage = try stage(lines, isMesh: isMesh)
        let client = try Client(stage)
        try client.send((isMesh ? Self.greeting : Array("GET / HTTP/1.1".utf8)) + Array("\n".utf8))
        #expect(try client.line() == nil)
        #expect(lines.strays.isEmpty)
    }

    private struct MeshLike: Adapter {
        let inner: LineAdapter
        let name = "mesh"
        let isMesh = true
        func makeConversation(link: Link, on lane: Lane) -> Conversation {
            inner.makeConversation(link: link, on: lane)
        }
    }
}
