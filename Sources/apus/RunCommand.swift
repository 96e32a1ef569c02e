/// `apus run`.
import ArgumentParser
import Node

/// `apus run`.
struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Run a node.",
        discussion: """
            Without a file the node speaks MQTT on 127.0.0.1:1883, HTTP on 127.0.0.1:8080 and AMQP on \
            127.0.0.1:5672, is managed on 127.0.0.1:8222, can be linked to by other nodes of this machine on \
            127.0.0.1:7400 and keeps its data in ./apus-data. A flag wins over the \
            environment (APUS_NODE_NAME, …), that over the file. The log goes to standard error; one line says \
            'ready' with the addresses when clients can connect.

            SIGTERM and SIGINT drain and end the node, SIGHUP reads configuration and users again, SIGUSR1 logs \
            the counters, SIGUSR2 switches debug logging on and off.

            Examples:
              apus run
              apus run --config mesh-configs/secured.yaml
              apus run --mqtt 127.0.0.1:0 --log-format json
              apus run --mqtt 127.0.0.1:1884 --http off --amqp off --admin 127.0.0.1:8223 --data ./second --link \
            127.0.0.1:7400
            """)

    @Option(
        help: ArgumentHelp(
            "The configuration (YAML). Default: the file named by APUS_CONFIG, else none.", valueName: "file"))
    var config: String?

    @Option(help: "The node's name, unique in the mesh. Default: the host name.")
    var name: String?

    @Option(help: ArgumentHelp("The directory of everything the node keeps.", valueName: "directory"))
    var data: String?

    @Option(
        help: ArgumentHelp(
            "Where the first MQTT listener listens: 127.0.0.1:1883, [::]:1883, unix:/path; or off. Port 0 takes a "
                + "free one.", valueName: "address"))
    var mqtt: String?

    @Option(
        help: ArgumentHelp(
            "Where the first HTTP listener listens, for REST, Server-Sent Events and WebSocket; or off.",
            valueName: "address"))
    var http: String?

    @Option(help: ArgumentHelp("Where the first AMQP 1.0 listener listens; or off.", valueName: "address"))
    var amqp: String?

    @Option(
        help: ArgumentHelp(
            "Where other nodes of the mesh come in: 127.0.0.1:7400, [::]:7400; or off.", valueName: "address"))
    var mesh: String?

    @Option(
        help: ArgumentHelp(
            """
            Dial another node of the mesh, beside those of the configuration; repeatable. Keys of a link may follow \
            the address: HOST:PORT,cost=100,name=radio,profile=fast.
            """, valueName: "host:port"))
    var link: [String] = []

    @Option(
        help: ArgumentHelp(
            "Where the management interface listens: 127.0.0.1:8222, unix:/path, or off.", valueName: "address"))
    var admin: String?

    @Option(help: ArgumentHelp("Event loops; 0 is one per core.", valueName: "count"))
    var lanes: String?

    @Option(help: ArgumentHelp("trace, debug, info, notice, warning or error.", valueName: "level"))
    var logLevel: String?

    @Option(help: ArgumentHelp("auto (text on a terminal, JSON otherwise), text or json.", valueName: "format"))
    var logFormat: String?

    func run() throws {
        let flags: [ConfigurationFlag?] = [
            name.map { .name($0) }, data.map { .data($0) }, mqtt.map { .mqtt($0) },
            http.map { .http($0) }, amqp.map { .amqp($0) }, admin.map { .admin($0) },
            mesh.map { .mesh($0) }, lanes.map { .lanes($0) },
            logLevel.map { .logLevel($0) }, logFormat.map { .logFormat($0) },
        ]
        let source = ConfigurationSource(file: config, flags: flags.compactMap { $0 } + link.map { .link($0) })
        let configuration = try source.load()
        do throws(Node.StartFailure) {
            try Node.run(configuration, source: source)
        } catch {
            printError("apus: \(error)")
            throw ExitCode(error.isConfiguration ? 78 : 1)
        }
    }
}
