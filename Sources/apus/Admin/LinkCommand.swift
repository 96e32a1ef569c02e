/// `apus link`: a running node's links to other nodes.
import Admin
import ArgumentParser

/// `apus link`.
struct LinkCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "link",
        abstract: "See the links of a running node to others, add and remove them.",
        discussion: """
            What is added or removed holds until the node is started again or reads its configuration: a link that is \
            to stay belongs into mesh.links.

            Examples:
              apus link list
              apus link add node-2.example.org:7400 --cost 100
              apus link remove node-2.example.org:7400
            """,
        subcommands: [LinkList.self, LinkAdd.self, LinkRemove.self])

    static let path = "/v1/mesh/links"
}

/// `apus link list`.
struct LinkList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List links: those that are there, and those that are dialled and missing.",
        discussion: """
            Examples:
              apus link list
              apus link list --json
            """)

    @OptionGroup var options: AdminOptions

    func run() throws {
        let list: LinkListDocument = try options.client().document(LinkCommand.path)
        if options.json { return try printJSON(list.links) }
        printTable(
            ["NODE", "STATE", "ADDRESS", "NAME", "COST", "ROUND TRIP", "ORIGIN", "PROBLEM"],
            list.links.map { link in
                [
                    link.peer ?? "-", link.state, link.to ?? "-", link.name ?? "-", "\(link.cost)",
                    link.roundTripMicroseconds.map { Self.time($0) } ?? "-", link.origin, link.problem ?? "",
                ]
            })
    }

    private static func time(_ microseconds: Int) -> String {
        microseconds < 10_000 ? "\(microseconds) µs" : "\(microseconds / 1_000) ms"
    }
}

/// The link that a command is about.
struct LinkArguments: ParsableArguments {
    @Option(help: "Tells several links to the same node apart.")
    var name: String?

    @Argument(help: ArgumentHelp("The other node.", valueName: "host:port"))
    var to: String

    var query: [(String, String?)] { [("to", to), ("name", name)] }
}

/// `apus link add`.
struct LinkAdd: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add", abstract: "Dial another node, now and whenever the link is lost.",
        discussion: """
            Whether it was reached is seen by `apus link list`. Of a link that is dialled already the cost is changed.

            Examples:
              apus link add 127.0.0.1:7401
              apus link add node-2.example.org:7400 --cost 100 --name radio
            """)

    @OptionGroup var options: AdminOptions
    @OptionGroup var link: LinkArguments

    @Option(help: "What a frame costs, from 1 to 65535; the larger of both ends' holds.")
    var cost = 10

    func validate() throws {
        guard (1...65_535).contains(cost) else { throw ValidationError("--cost must be from 1 to 65535") }
    }

    func run() throws {
        _ = try options.client().send("PUT", LinkCommand.path, link.query + [("cost", "\(cost)")])
        if !options.json { print("dials \(printable(link.to))") }
    }
}

/// `apus link remove`.
struct LinkRemove: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove", abstract: "End a link that the node dials, and dial it no longer.",
        discussion: """
            The other node may dial this one: with mesh.join at `full` it does, unless it is told otherwise, too.

            Example:
              apus link remove node-2.example.org:7400
            """)

    @OptionGroup var options: AdminOptions
    @OptionGroup var link: LinkArguments

    func run() throws {
        _ = try options.client().send("DELETE", LinkCommand.path, link.query)
        if !options.json { print("removed \(printable(link.to))") }
    }
}
