/// `apus status`: how a running node is.
import Admin
import ArgumentParser

/// `apus status`.
struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Say how a running node is.",
        discussion: """
            Ends with 0 when clients can connect, with 1 when not, or when no node can be reached.

            Examples:
              apus status
              apus status --admin unix:/run/apus-admin.sock --json
            """)

    @OptionGroup var options: AdminOptions

    func run() throws {
        let node: NodeDocument = try options.client().document("/v1/node")
        if options.json {
            try printJSON(node)
        } else {
            let age = duration(node.uptimeSeconds)
            print("\(printable(node.name)) is \(node.state), version \(node.version), up \(age)")
            for listener in node.listeners { print("  \(listener.protocol) \(listener.address)") }
            print("  \(node.connections) connection(s), \(node.sessions) session(s)")
            print("  \(node.subscriptions) subscription(s), \(node.retained) retained event(s)")
        }
        if node.state != "ready" { throw ExitCode(1) }
    }
}
