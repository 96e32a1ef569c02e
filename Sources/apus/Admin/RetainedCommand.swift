/// `apus retained`: the retained events of a running node.
import Admin
import ArgumentParser
import Glibc
import Web

/// `apus retained`.
struct RetainedCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "retained",
        abstract: "See and remove the retained events of a running node.",
        discussion: """
            Examples:
              apus retained list 'plant/#'
              apus retained get plant/press-4/state
              apus retained delete plant/press-4/state
              apus retained delete --filter 'plant/#'
            """,
        subcommands: [RetainedList.self, RetainedGet.self, RetainedDelete.self])

    /// A topic in a path: its slashes stay.
    static func path(_ topic: String) -> String {
        let levels = topic.split(separator: "/", omittingEmptySubsequences: false)
        return "/v1/retained/" + levels.map { Percent.encode(String($0)) }.joined(separator: "/")
    }
}

/// `apus retained list`.
struct RetainedList: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "List topics.")

    @OptionGroup var options: AdminOptions

    @Option(help: "At most this many.")
    var limit: Int?

    @Argument(help: "An MQTT topic filter.")
    var filter = "#"

    func validate() throws { if let limit, limit < 1 { throw ValidationError("--limit must be at least 1") } }

    func run() throws {
        let client = try options.client()
        var events: [RetainedDocument] = []
        var after: String?
        repeat {
            let page: RetainedPageDocument = try client.document(
                "/v1/retained", [("filter", filter), ("limit", "1000"), ("after", after)])
            events += page.retained
            after = page.next
        } while after != nil && events.count < limit ?? .max
        if let limit { events = Array(events.prefix(limit)) }
        events.sort { $0.topic < $1.topic }
        if options.json { return try printJSON(events) }
        printTable(["TOPIC", "QOS", "BYTES"], events.map { [$0.topic, "\($0.qos)", "\($0.bytes)"] })
    }
}

/// `apus retained get`.
struct RetainedGet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "get", abstract: "Print the payload of a topic's retained event, byte for byte.")

    @OptionGroup var options: AdminOptions

    @Argument(help: "The topic.")
    var topic: String

    func run() throws {
        writeAll(try options.client().send("GET", RetainedCommand.path(topic)), to: STDOUT_FILENO)
    }
}

/// `apus retained delete`.
struct RetainedDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Remove the retained event of a topic, or of all that a filter matches.")

    @OptionGroup var options: AdminOptions

    @Option(help: "Remove all whose topics this filter matches.")
    var filter: String?

    @Argument(help: "The topic.")
    var topic: String?

    func validate() throws {
        if (filter == nil) == (topic == nil) { throw ValidationError("Say either a topic or --filter") }
    }

    func run() throws {
        let client = try options.client()
        var removed = RemovedDocument(removed: 1)
        if let topic {
            _ = try client.send("DELETE", RetainedCommand.path(topic))
        } else {
            removed = try client.decode(try client.send("DELETE", "/v1/retained", [("filter", filter)]))
        }
        if options.json { return try printJSON(removed) }
        print("removed \(removed.removed)")
    }
}
