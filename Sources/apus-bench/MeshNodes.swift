internal import FoundationEssentials
internal import Glibc

/// What a node says of its mesh (`GET /v1/mesh/topology`), as far as the bench needs it.
struct MeshView: Decodable {
    struct Node: Decodable {
        let name: String
        let reachable: Bool
        /// Filters that it wants events of.
        let filters: Int
    }

    struct Link: Decodable {
        let peer: String
        let state: String
        let framesOut: Int
        let bytesOut: Int
        let controlBytesOut: Int
        let controlBytesIn: Int
    }

    let state: String
    let nodes: [Node]
    let links: [Link]
}

/// Where an event would go (`GET /v1/mesh/explain`).
struct MeshWays: Decodable {
    struct Node: Decodable {
        let node: String
        let problem: String?
    }

    let local: Int
    let nodes: [Node]
}

/// One node of the bench, with an admin interface to look into.
final class MeshNode {
    let name: String
    let process: Child
    /// For its MQTT clients.
    let broker: Broker
    /// Where other nodes come in; 0 for a node without a mesh.
    let meshPort: UInt16
    private let adminPort: UInt16

    /// Starts a node and waits until it accepts connections.
    /// - Parameter neighbour: the port of a node, or of what stands in front of one, that is dialled.
    init(_ name: String, apus: String, lanes: Int, isMesh: Bool, neighbour: UInt16?) throws {
        self.name = name
        meshPort = isMesh ? try Socket.freePort() : 0
        let links = neighbour.map { "[ { to: \"127.0.0.1:\($0)\" } ]" } ?? "[]"
        let mesh = "mesh: { id: bench, join: configured, listen: \"127.0.0.1:\(meshPort)\", links: \(links) }"
        let configuration = """
            node: { name: \(name), lanes: \(lanes), data: \(Scratch.path("data-\(name)")) }
            listeners: [ { protocol: mqtt, listen: "127.0.0.1:0" } ]
            admin: { listen: "127.0.0.1:0" }
            \(isMesh ? mesh : "")

            """
        let file = try Scratch.write(configuration, name: "node-\(name).yaml")
        let begin = now()
        let child = try Child.spawn([apus, "run", "--config", file, "--log-format", "json"])
        process = child
        var found: (mqtt: UInt16, admin: UInt16)?
        while found == nil, child.isRunning, now() - begin < 20_000_000_000 {
            found = Self.ports(child.output())
            if found == nil { pause(milliseconds: 1) }
        }
        guard let found else { throw Failure("node \(name) did not become ready; it said:\n\(child.output())") }
        adminPort = found.admin
        broker = Broker(
            kind: .apus, process: child, port: found.mqtt, readyMilliseconds: Double(now() - begin) / 1e6, version: .v3)
    }

    /// The line that says where it listens.
    private struct Ready: Decodable {
        struct Listener: Decodable { let address: String }
        let event: String?
        let listeners: [Listener]?
        let admin: String?
    }

    private static func ports(_ log: String) -> (mqtt: UInt16, admin: UInt16)? {
        func port(_ address: String?) -> UInt16? { address?.split(separator: ":").last.flatMap { UInt16($0) } }
        for line in log.split(separator: "\n") where line.hasPrefix("{") {
            guard let ready = try? JSONDecoder().decode(Ready.self, from: Data(line.utf8)), ready.event == "ready",
                let mqtt = port(ready.listeners?.first?.address), let admin = port(ready.admin)
            else { continue }
            return (mqtt, admin)
        }
        return nil
    }
}

/// Questions to its management interface.
extension MeshNode {
    func view() throws -> MeshView { try decode(try ask("GET", "/v1/mesh/topology")) }

    func ways(of topic: String) throws -> MeshWays {
        try decode(try ask("GET", "/v1/mesh/explain?topic=\(topic)"))
    }

    /// How many links it has lost so far, as it says in its log. A link that comes again counts from 0, so figures that
    /// were taken across a loss are wrong, even when they look right.
    var lostLinks: Int {
        process.output().split(separator: "\n").count { $0.hasPrefix("{") && $0.contains(" is down: ") }
    }

    /// The link to a neighbour.
    func link(to peer: String) throws -> MeshView.Link {
        guard let link = try view().links.first(where: { $0.peer == peer }) else {
            throw Failure("node \(name) has no link to \(peer)")
        }
        return link
    }

    /// Waits until this node knows that others want what a plan publishes: subscriptions travel in portions of 20 ms.
    func awaitInterest(_ plan: Plan, of names: Set<String>) throws {
        let remote = names.subtracting([name])
        guard !remote.isEmpty else { return }
        for topic in plan.publishers.compactMap(\.topics.first) {
            try MeshChain.wait("the subscription to \(topic) is not known on \(name)") {
                let nodes = try ways(of: topic).nodes
                return remote.allSatisfy { wanted in nodes.contains { $0.node == wanted && $0.problem == nil } }
            }
        }
    }

    /// Dials a port from now on, or no longer.
    func dial(_ port: UInt16, _ isWanted: Bool) throws {
        _ = try ask(isWanted ? "PUT" : "DELETE", "/v1/mesh/links?to=127.0.0.1:\(port)")
    }

    private func decode<Document: Decodable>(_ body: [UInt8]) throws -> Document {
        do {
            return try JSONDecoder().decode(Document.self, from: Data(body))
        } catch {
            throw Failure("node \(name): \(error) in \(String(decoding: body, as: UTF8.self))")
        }
    }

    private func ask(_ method: String, _ target: String) throws -> [UInt8] {
        let fd = try Socket.connect(port: adminPort)
        defer { close(fd) }
        let request = "\(method) \(target) HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"
        try Handshake.sendAll(fd, Array(request.utf8))
        let head = try Handshake.head(fd)
        let line = "content-length:"
        let length =
            head.split(whereSeparator: \.isNewline).first { $0.lowercased().hasPrefix(line) }
            .flatMap { Int($0.dropFirst(line.count).filter(\.isNumber)) } ?? 0
        let body = length > 0 ? try Handshake.bytes(fd, length) : []
        guard head.hasPrefix("HTTP/1.1 2") else {
            throw Failure("node \(name), \(method) \(target): \(head)\(String(decoding: body, as: UTF8.self))")
        }
        return body
    }
}

/// Nodes in a row, each linked to the one before it.
final class MeshChain {
    private(set) var nodes: [MeshNode] = []
    /// What the second node dials the first one through, if anything.
    private(set) var pipe: Child?

    /// Starts them and waits until each sees all.
    /// - Parameter hasPipe: put a ``Pipe`` between the first and the second.
    init(_ names: [String], apus: String, lanes: Int, hasPipe: Bool = false) throws {
        for (index, name) in names.enumerated() {
            var neighbour = nodes.last?.meshPort
            if hasPipe, index == 1, let port = neighbour {
                let (child, pipePort) = try Self.pipe(to: port)
                pipe = child
                neighbour = pipePort
            }
            nodes.append(
                try MeshNode(name, apus: apus, lanes: lanes, isMesh: true, neighbour: index == 0 ? nil : neighbour))
        }
        try settle()
    }

    deinit { stop() }

    func stop() {
        for node in nodes { node.process.kill() }
        pipe?.kill()
    }

    subscript(_ index: Int) -> MeshNode { nodes[index] }

    /// Waits until every node sees all others and takes part.
    func settle() throws {
        try MeshChain.wait("the nodes do not come together") {
            for node in nodes {
                let view = try node.view()
                guard view.state == "joined", view.nodes.filter(\.reachable).count == nodes.count else { return false }
            }
            return true
        }
    }

    /// Does a step that counts on links that stay.
    func withSteadyLinks<Result>(_ step: () throws -> Result) throws -> Result {
        let before = nodes.map(\.lostLinks)
        let result = try step()
        for (node, lost) in zip(nodes, before) where node.lostLinks > lost {
            throw Failure("node \(node.name) lost a link while it was measured\(node.process.lastWords())")
        }
        return result
    }

    /// A process that carries connections on to a port.
    static func pipe(to target: UInt16) throws -> (Child, UInt16) {
        let port = try Socket.freePort()
        let child = try Child.spawn([Child.ownPath, "relay", "--listen", "127.0.0.1:\(port)", "--to", "\(target)"])
        let begin = now()
        while !child.output().contains("listening") {
            guard child.isRunning, now() - begin < 10_000_000_000 else {
                throw Failure("the relay did not start: \(child.output())")
            }
            pause(milliseconds: 1)
        }
        return (child, port)
    }

    static func wait(_ problem: String, seconds: Int = 30, until isSo: () throws -> Bool) throws {
        let begin = now()
        while try !isSo() {
            guard now() - begin < UInt64(seconds) * 1_000_000_000 else { throw Failure("\(problem) in \(seconds) s") }
            pause(milliseconds: 10)
        }
    }
}
