/// `apus clients`: the sessions of a running node.
import Admin
import ArgumentParser
import FoundationEssentials
import Web

/// `apus clients`.
struct ClientsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "clients",
        abstract: "See the clients of a running node, and end their connections.",
        discussion: """
            Examples:
              apus clients list
              apus clients list --state absent --prefix pump-
              apus clients show pump-17
              apus clients kick pump-17 --session
            """,
        subcommands: [ClientsList.self, ClientsShow.self, ClientsKick.self, ClientsTrace.self])
}

/// `apus clients list`.
struct ClientsList: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "List sessions.")

    @OptionGroup var options: AdminOptions

    @Option(help: "Only client ids that begin with this.")
    var prefix: String?

    @Option(help: "connected or absent. Default: both.")
    var state: String?

    @Option(help: "At most this many.")
    var limit: Int?

    func validate() throws {
        if let state, !["connected", "absent"].contains(state) {
            throw ValidationError("--state must be connected or absent")
        }
        if let limit, limit < 1 { throw ValidationError("--limit must be at least 1") }
    }

    func run() throws {
        let client = try options.client()
        var clients: [ClientDocument] = []
        var after: String?
        repeat {
            let page: ClientPageDocument = try client.document(
                "/v1/clients", [("limit", "1000"), ("after", after), ("prefix", prefix), ("state", state)])
            clients += page.clients
            after = page.next
        } while after != nil && clients.count < limit ?? .max
        if let limit { clients = Array(clients.prefix(limit)) }
        clients.sort { $0.id < $1.id }
        if options.json { return try printJSON(clients) }
        let now = Date()
        printTable(
            ["CLIENT", "USER", "STATE", "FOR", "PROTOCOL", "PEER", "SUBSCRIPTIONS", "QUEUED", "IN FLIGHT"],
            clients.map { client in
                [
                    client.id, client.user ?? "-", client.connected ? "connected" : "absent",
                    client.connectedSince.map { duration(Int(now.timeIntervalSince($0))) } ?? "-",
                    client.protocol ?? "-", client.peer ?? "-", "\(client.subscriptionCount)",
                    "\(client.queuedEvents)", "\(client.inFlight)",
                ]
            })
    }
}

/// The client that a command is about.
struct ClientArgument: ParsableArguments {
    @Argument(help: "The client id.")
    var id: String

    var path: String { "/v1/clients/\(Percent.encode(id))" }

    func validate() throws { if id.isEmpty { throw ValidationError("The client id must not be empty") } }
}

/// `apus clients show`.
struct ClientsShow: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "show", abstract: "Show everything about a session.")

    @OptionGroup var options: AdminOptions
    @OptionGroup var client: ClientArgument

    func run() throws {
        let session: ClientDocument = try options.client().document(client.path)
        if options.json { return try printJSON(session) }
        let now = Date()
        var rows: [(String, String)] = [
            ("client", session.id), ("user", session.user ?? "none"),
            ("state", session.connected ? "connected" : "absent"), ("protocol", session.protocol ?? "unknown"),
        ]
        if let peer = session.peer { rows.append(("peer", peer)) }
        if let since = session.connectedSince {
            rows.append(("connected for", duration(Int(now.timeIntervalSince(since)))))
        }
        if session.connected { rows.append(("keep-alive", session.keepAliveSeconds.map { "\($0) s" } ?? "none")) }
        rows.append(("session ends", Self.end(of: session, now)))
        rows.append(("queued", "\(session.queuedEvents) event(s), \(session.queuedBytes) bytes"))
        rows.append(("in flight", "\(session.inFlight)"))
        if session.connected { rows.append(("will", session.will == true ? "yes" : "no")) }
        rows.append(("subscriptions", "\(session.subscriptionCount)"))
        for (name, value) in rows {
            print(name + String(repeating: " ", count: 16 - name.count) + printable(value))
        }
        for subscription in session.subscriptions ?? [] {
            var text = "  \(printable(subscription.filter))  QoS \(subscription.qos)"
            if subscription.noLocal { text += ", no local" }
            if subscription.retainAsPublished { text += ", retain as published" }
            if let identifier = subscription.identifier { text += ", identifier \(identifier)" }
            if let weight = subscription.weight { text += ", weight \(weight)" }
            print(text)
        }
    }

    private static func end(of session: ClientDocument, _ now: Date) -> String {
        if let end = session.endsAt { return "in \(duration(Int(end.timeIntervalSince(now))))" }
        let seconds = session.sessionExpirySeconds ?? 0
        return seconds == 0 ? "with the connection" : "\(duration(seconds)) after the connection"
    }
}

/// `apus clients kick`.
struct ClientsKick: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kick", abstract: "End a client's connection.",
        discussion: """
            Its will is published. The client may connect again at once: to keep it out, change the users or the \
            access rules first.
            """)

    @OptionGroup var options: AdminOptions
    @OptionGroup var client: ClientArgument

    @Flag(help: "End the session as well, with its subscriptions and all that waits in it.")
    var session = false

    func run() throws {
        do { _ = try options.client().send("DELETE", client.path, [("session", session ? "true" : nil)]) } catch let
            failure as CommandFailure where !session && failure.description.hasPrefix("Conflict: ")
        {
            throw CommandFailure("\(printable(client.id)) is not connected; --session ends its session")
        }
        if !options.json { print("ended \(printable(client.id))") }
    }
}

/// `apus clients trace`.
struct ClientsTrace: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "trace", abstract: "Switch the log of a session's packets on or off.")

    enum Switch: String, ExpressibleByArgument { case on, off }

    @OptionGroup var options: AdminOptions
    @OptionGroup var client: ClientArgument

    @Argument(help: "on or off.")
    var state: Switch

    func run() throws {
        _ = try options.client().send(state == .on ? "PUT" : "DELETE", client.path + "/trace")
        if !options.json { print("trace \(state.rawValue) for \(printable(client.id))") }
    }
}
