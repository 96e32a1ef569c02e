/// `apus run` and `apus check`.
import ArgumentParser
import Node
import Security

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
            "Where the first MQTT listener listens: 127.0.0.1:1883, [::]:1883, unix:/path. Port 0 takes a free one.",
            valueName: "address"))
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
            "Dial another node of the mesh, beside those of the configuration; repeatable.", valueName: "host:port"))
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

/// `apus check`.
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Check a configuration without starting a node.",
        discussion: """
            Reads the file as `apus run` would, with the environment applied, and says everything that is wrong with \
            it: file, line, key, and what is allowed. Certificates, keys, authorities, revocation lists and the user \
            file are read, too. Ends with 78 when something is wrong.

            Examples:
              apus check mesh-configs/secured.yaml
              apus check --keys
            """)

    @Flag(help: "Print the table of all keys (Markdown) instead.")
    var keys = false

    @Argument(help: "The configuration.")
    var file: String?

    func validate() throws {
        if !keys, file == nil { throw ValidationError("Missing expected argument '<file>'") }
    }

    func run() throws {
        if keys { return print(ConfigurationKeys.markdown, terminator: "") }
        let configuration = try Configuration.load(file: file)
        let security = configuration.security
        let tls = configuration.checkTLS()
        for warning in tls.warnings { printError("warning: \(warning)") }
        var problems = tls.problems
        var users: String?
        if let path = security.users { users = countUsers(path, &problems) }
        for problem in problems { printError(problem) }
        if !problems.isEmpty { throw ExitCode(78) }
        let listeners = configuration.listeners
            .map { "\($0.protocolName.rawValue) \($0.address)" }.joined(separator: ", ")
        print("OK  node '\(configuration.name)', data in \(configuration.data)")
        print("    listeners: \(listeners.isEmpty ? "none" : listeners)")
        print("    management: \(configuration.admin.address?.description ?? "off")")
        if let mesh = configuration.meshSummary { print("    \(mesh)") }
        print("    anonymous clients: \(security.anonymous.rawValue); access rules: \(security.access.count)")
        if let users { print("    users: \(users)") }
        if !tls.sections.isEmpty { print("    TLS: \(tls.sections.joined(separator: ", "))") }
        if listeners.isEmpty { printError("warning: without listeners no client can connect") }
        if security.anonymous == .everywhere,
            configuration.listeners.contains(where: { !$0.address.isLocal })
        {
            printError("warning: anyone who reaches the node may connect without a user name")
        }
    }

    /// A user file that is not there yet is no fault of the configuration; one that cannot be read is.
    private func countUsers(_ path: String, _ problems: inout [String]) -> String? {
        guard isReadable(path) else {
            printError("warning: security.users: there is no readable file \(path); make it with `apus user add`")
            return nil
        }
        do throws(UserFileError) { return "\(try UserFile.load(path).users.count) in \(path)" } catch {
            problems.append("\(error)")
            return nil
        }
    }
}
