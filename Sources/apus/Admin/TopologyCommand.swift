/// `apus topology`, `apus explain` and `apus trace`: the mesh as a running node sees it.
import Admin
import ArgumentParser

/// `apus topology`.
struct TopologyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "topology",
        abstract: "Show the mesh as a running node sees it: nodes, links, costs, states, rates.",
        discussion: """
            Examples:
              apus topology
              apus topology --dot | dot -Tsvg > mesh.svg
              apus topology --json
            """)

    @OptionGroup var options: AdminOptions
    @Flag(help: "Print a graph for Graphviz.")
    var dot = false

    func run() throws {
        let told: TopologyDocument = try options.client().document("/v1/mesh/topology")
        if options.json { return try printJSON(told) }
        let mesh = told.sorted
        if dot { return print(Self.graph(mesh)) }
        print("\(printable(mesh.node)) has \(mesh.state) the mesh '\(printable(mesh.mesh))'")
        printTable(
            ["NODE", "STATE", "COST", "VIA", "FILTERS", "NEIGHBOURS", "ADDRESSES"],
            mesh.nodes.map { node in
                [
                    printable(node.name), Self.state(node), node.reachable ? "\(node.distance)" : "-",
                    printable(node.via ?? "-"), "\(node.filters)",
                    printable(
                        node.neighbours.map { "\($0.name):\($0.cost)\($0.twoWay ? "" : "?")" }.joined(separator: " ")),
                    printable(node.addresses.joined(separator: " ")),
                ]
            })
        print("")
        printTable(
            ["LINK TO", "STATE", "COST", "ROUND TRIP", "FRAMES OUT", "FRAMES IN", "WAITING", "DROPPED"],
            mesh.links.map { link in
                [
                    printable(link.peer + (link.name.map { " (\($0))" } ?? "")), link.state, "\(link.cost)",
                    "\(link.roundTripMicroseconds) µs", "\(link.framesOut)", "\(link.framesIn)",
                    "\(link.waitingBytes) B", "\(link.dropped)",
                ]
            })
    }

    private static func state(_ node: TopologyDocument.Node) -> String {
        if !node.reachable { return "unreachable" }
        if node.draining { return "stopping" }
        return node.transit ? "up" : "up, no transit"
    }

    /// In the language of Graphviz; each link once.
    static func graph(_ mesh: TopologyDocument) -> String {
        func quoted(_ text: String) -> String {
            "\"" + text.map { $0 == "\"" || $0 == "\\" ? "\\\($0)" : "\($0)" }.joined() + "\""
        }
        var lines = ["graph \(quoted(mesh.mesh)) {", "  node [shape=box, style=rounded];"]
        for node in mesh.nodes {
            let style = node.reachable ? "" : ", color=gray, fontcolor=gray"
            lines.append("  \(quoted(node.id)) [label=\(quoted(node.name))\(style)];")
        }
        for node in mesh.nodes {
            for neighbour in node.neighbours {
                let isToldTwice = mesh.nodes.contains { other in
                    other.id == neighbour.id && other.neighbours.contains { $0.id == node.id }
                }
                if isToldTwice, neighbour.id < node.id { continue }
                let style = neighbour.twoWay ? "" : ", style=dashed"
                lines.append(
                    "  \(quoted(node.id)) -- \(quoted(neighbour.id)) [label=\(quoted("\(neighbour.cost)"))\(style)];")
            }
        }
        return (lines + ["}"]).joined(separator: "\n")
    }
}

/// `apus explain`.
struct ExplainCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "explain",
        abstract: "Say where an event of a topic would go from a running node, and why not elsewhere.",
        discussion: """
            Nothing is published.

            Examples:
              apus explain sensors/1/temperature
              apus explain sensors/1/temperature --json
            """)

    @OptionGroup var options: AdminOptions
    @Argument(help: "The topic, without wildcards.")
    var topic: String

    func run() throws {
        let found: ExplanationDocument = try options.client().document("/v1/mesh/explain", [("topic", topic)])
        if options.json { return try printJSON(found) }
        print("subscriptions here: \(found.local)")
        if found.nodes.isEmpty { print("no other node wants it") }
        for node in found.nodes {
            print("node \(printable(node.node)): " + printable(node.problem ?? "by way of \(node.via ?? "-")"))
        }
        for group in found.groups {
            if let shares = group.shares {
                print("shared \(printable(group.filter)): one member, by weight")
                for line in shares { print("  \(printable(line))") }
                continue
            }
            let choice =
                group.localMembers > 0
                ? "one of \(group.localMembers) member(s) here"
                : group.nodes.isEmpty ? "nobody is there" : "a member at one of " + group.nodes.joined(separator: ", ")
            print("shared \(printable(group.filter)): \(printable(choice))")
        }
        for link in found.links {
            print("link to \(printable(link.peer)): one frame, for \(printable(link.nodes.joined(separator: ", ")))")
        }
    }
}

/// `apus trace`.
struct TraceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "trace",
        abstract: "Send a probe the way an event of a topic would take, and show the times on the way.",
        discussion: """
            Times between nodes are by their own clocks; the round trip is by this node's alone. No subscriber sees \
            the probe.

            Examples:
              apus trace sensors/1/temperature
            """)

    @OptionGroup var options: AdminOptions
    @Argument(help: "The topic, without wildcards.")
    var topic: String

    func run() throws {
        let found: TraceDocument = try options.client().document("/v1/mesh/trace", [("topic", topic)])
        if options.json { return try printJSON(found) }
        print("subscriptions here: \(found.local)")
        if found.paths.isEmpty { print("no other node wants it") }
        for path in found.paths {
            guard let first = path.hops.first else {
                print("\(printable(path.node)): no answer within a second")
                continue
            }
            print("\(printable(path.node)): round trip \(path.roundTripMicroseconds) µs")
            for hop in path.hops { print("  +\(hop.microseconds - first.microseconds) µs \(printable(hop.node))") }
        }
        if found.paths.contains(where: { $0.hops.isEmpty }) { throw ExitCode(1) }
    }
}
