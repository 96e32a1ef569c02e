/// `apus topics`: what is being published in the mesh.
import Admin
import ArgumentParser

/// `apus topics`.
struct TopicsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "topics",
        abstract: "List the topics that were active lately, over the whole mesh.",
        discussion: """
            Every node is asked which topics it remembers: those that were published to on it, and those of other \
            nodes that it has subscriptions for. A node forgets topics when there are very many. The command fails \
            when a node has not answered.

            Examples:
              apus topics
              apus topics 'sensors/+/temperature' --limit 1000
              apus topics 'sensors/#' --json
            """)

    @OptionGroup var options: AdminOptions
    @Option(help: "Topics at most, from 1 to 1000.")
    var limit = 100
    @Argument(help: "Which topics, as a filter of MQTT.")
    var filter = "#"

    func run() throws {
        let found: MeshTopicsDocument = try options.client().document(
            "/v1/mesh/topics", [("filter", filter), ("limit", "\(limit)")])
        if options.json { try printJSON(found) } else { Self.print(found) }
        if !found.noAnswer.isEmpty { throw ExitCode(1) }
    }

    private static func print(_ found: MeshTopicsDocument) {
        printTable(
            ["TOPIC", "PUBLISHED AT", "SUBSCRIBED AT"],
            found.topics.map { topic in
                let publishers = topic.nodes.filter(\.published).map(\.node)
                let subscribers = topic.nodes.filter { $0.subscriptions > 0 }.map { "\($0.node):\($0.subscriptions)" }
                return [
                    topic.topic, publishers.isEmpty ? "-" : publishers.joined(separator: " "),
                    subscribers.isEmpty ? "-" : subscribers.joined(separator: " "),
                ]
            })
        if found.truncated { Swift.print("there are more; --limit or a filter shows others") }
        for node in found.noAnswer { Swift.print("no answer from \(printable(node))") }
    }
}
