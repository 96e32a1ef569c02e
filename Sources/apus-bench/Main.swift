internal import ArgumentParser
internal import Glibc

/// The load generator of Apus.
@main
struct ApusBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apus-bench",
        abstract: "Measures the Apus node beside mosquitto and beside the bare price of the kernel.",
        discussion: """
            Examples:
              apus-bench run --quick                      main table, two minutes
              apus-bench run                              everything, nine rounds
              apus-bench run --scenarios a64,d64,di64     some scenarios
              apus-bench run --brokers relay,mosquitto    without the node
              apus-bench run --brokers apus,nats,rabbitmq other products that speak MQTT
              apus-bench run --brokers apus,apus5         what MQTT 5 costs beside 3.1.1
              apus-bench run --brokers apus,apusws        what WebSocket costs beside TCP
              apus-bench run --apus .build/release/apus --json figures.json
              apus-bench http                             the node's HTTP beside nginx
              apus-bench amqp                             the node's AMQP beside its engine alone
              apus-bench mesh                             two and three nodes beside one
              apus-bench tls                              TLS beside a bare relay and openssl s_server
            """,
        subcommands: [
            Run.self, HTTPBench.self, AMQPBench.self, MeshBench.self, TLSBench.self, RelayCommand.self, Load.self,
        ])
}

/// Measures.
struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Starts the brokers, drives them, checks every delivery and prints a table.",
        discussion: """
            Scenarios: \(Campaign.scenarioNames.joined(separator: ", ")).
            A lost, doubled or reordered event is a failure: it is printed and the exit code is 1.
            """)

    @Option(help: "Comma-separated scenarios; default: all.")
    var scenarios: String?

    @Option(
        help: """
            Comma-separated brokers: relay, apus, mosquitto, nats, rabbitmq; apus5 and mosquitto5 are the same \
            programs with clients of MQTT 5, apusws is the node with clients over WebSocket, relaytls and apustls \
            speak TLS 1.3; each is shown beside its program with the clients of --mqtt over TCP, with the ratio.
            """)
    var brokers = "relay,apus,mosquitto"

    @Option(help: "What the clients speak: 3.1.1 or 5.")
    var mqtt = "3.1.1"

    @Option(help: "Interleaved rounds per scenario (default: 9, quick: 3).")
    var pairs: Int?

    @Option(help: "Seconds of one measured window (default: 0.5, quick: 0.25).")
    var seconds: Double?

    @Option(help: "Messages in flight per publisher, instead of the scenario's own; for experiments.")
    var window: Int?

    @Option(help: "The node's executable; default: apus beside this one.")
    var apus: String?

    @Option(help: "The peer's executable.")
    var mosquitto = "/usr/sbin/mosquitto"

    @Option(help: "The executable of NATS.")
    var nats = "/usr/sbin/nats-server"

    @Option(help: "The script that starts RabbitMQ.")
    var rabbitmq = "/usr/lib/rabbitmq/bin/rabbitmq-server"

    @Flag(
        help: """
            Turn Nagle's algorithm off in mosquitto. By default that is done only where latency counts (di64, lat, \
            slow): elsewhere its own default, on, is cheaper for it.
            """)
    var mosquittoNodelay = false

    @Option(help: "Lanes of the node.")
    var lanes = 1

    @Option(help: "Write all raw figures to this file.")
    var json: String?

    @Flag(help: "Three short rounds of the main table only.")
    var quick = false

    @Flag(help: "Run loader and broker with real-time priority in the latency scenario; needs the right to.")
    var fifo = false

    mutating func run() throws {
        Child.killAllAtExit()
        raiseDescriptorLimit()
        let campaign = Campaign(try options())
        campaign.run()
        let table = Table(
            report: campaign.report, scenarios: campaign.options.scenarios, rounds: campaign.options.pairs)
        for line in table.cpu() { say(line) }
        for line in table.peers() { say(line) }
        for line in table.versions() { say(line) }
        for line in table.webSockets() { say(line) }
        for line in table.secure() { say(line) }
        let others = table.figures(campaign.limits)
        if !others.isEmpty { say("") }
        for line in others { say(line) }
        try campaign.report.conclude(settings: campaign.options.settings, json: json)
    }

    func validate() throws {
        _ = try ProtocolVersion(argument: mqtt)
        guard pairs ?? 1 > 0, seconds ?? 1 > 0, lanes >= 0, window ?? 1 > 0 else {
            throw ValidationError("--pairs, --seconds and --window must be positive")
        }
    }

    private func options() throws -> CampaignOptions {
        var chosen: [BrokerKind] = []
        for name in brokers.split(separator: ",") {
            guard let kind = BrokerKind(rawValue: String(name)) else { throw ValidationError("unknown broker \(name)") }
            chosen.append(kind)
        }
        let names = scenarios?.split(separator: ",").map(String.init) ?? (quick ? Plans.names : Campaign.scenarioNames)
        for name in names where !Campaign.scenarioNames.contains(name) {
            throw ValidationError(
                "unknown scenario \(name); there are: \(Campaign.scenarioNames.joined(separator: ", "))")
        }
        let node = Child.node(apus)
        let version = try ProtocolVersion(argument: mqtt)
        if version == .v5, chosen.contains(where: \.isAlways5) {
            throw ValidationError("apus5 and mosquitto5 are for comparing with 3.1.1; leave --mqtt 5 out")
        }
        if chosen.contains(where: \.isNode), access(node, X_OK) != 0 {
            throw ValidationError("no executable \(node): build the node, or give --apus, or leave it out of --brokers")
        }
        try requirePeers(chosen)
        return CampaignOptions(
            scenarios: names, brokers: chosen, pairs: pairs ?? (quick ? 3 : 9),
            seconds: seconds ?? (quick ? 0.25 : 0.5),
            start: BrokerOptions(
                apus: node, mosquitto: mosquitto, nats: nats, rabbitmq: rabbitmq, lanes: lanes,
                noDelay: mosquittoNodelay, version: version),
            quick: quick, realTime: fifo, window: window)
    }

    private func requirePeers(_ chosen: [BrokerKind]) throws {
        for kind in chosen where kind.isPeer {
            let (program, name) =
                switch kind {
                case .nats: (nats, "nats-server")
                case .rabbitmq: (rabbitmq, "rabbitmq-server")
                default: (mosquitto, "mosquitto")
                }
            guard access(program, X_OK) != 0 else { continue }
            throw ValidationError("no executable \(program): install \(name), or leave it out of --brokers")
        }
    }
}

/// The kernel's price, as a process of its own.
struct RelayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "relay", abstract: "Copies bytes between sockets, as cheaply as possible; the anchor of the table."
    )

    @Option(help: "Address on 127.0.0.1 to listen on; port 0 takes a free one.")
    var listen = "127.0.0.1:0"

    @Option(help: "Port on 127.0.0.1 that each connection is carried on to, both ways, instead of to other clients.")
    var to: UInt16?

    @Option(help: "Speaks TLS with this certificate (PEM).")
    var certificate: String?

    @Option(help: "The key of --certificate.")
    var key: String?

    @Option(help: "Port on 127.0.0.1 that each connection is carried on to over TLS.")
    var toTls: UInt16?

    mutating func run() throws {
        guard let text = listen.split(separator: ":").last, let port = UInt16(text) else {
            throw ValidationError("--listen wants 127.0.0.1:PORT")
        }
        signal(SIGPIPE, SIG_IGN)
        raiseDescriptorLimit()
        if let to {
            let pipe = try Pipe(port: port, to: to)
            say("listening on 127.0.0.1:\(pipe.port)")
            try pipe.run()
        }
        if let toTls {
            let wrapper = try TLSWrapper(port: port, to: toTls)
            say("listening on 127.0.0.1:\(wrapper.port)")
            try wrapper.run()
        }
        if let certificate, let key {
            let relay = try TLSRelay(port: port, certificate: certificate, key: key)
            say("listening on 127.0.0.1:\(relay.port)")
            try relay.run()
        }
        let relay = try Relay(port: port)
        say("listening on 127.0.0.1:\(relay.port)")
        try relay.run()
    }
}

/// One scenario against a broker that runs already.
struct Load: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Drives a broker that somebody else started on 127.0.0.1; for profiling.")

    @Option(help: "Scenario.")
    var scenario = "a64"

    @Option(help: "Port of the broker on 127.0.0.1.")
    var port: UInt16

    @Option(help: "Process whose CPU time is charged.")
    var pid: Int32 = 0

    @Option(help: "Messages per publisher and round.")
    var count = 100_000

    @Option(help: "Rounds.")
    var rounds = 1

    @Option(help: "What the clients speak: 3.1.1 or 5.")
    var mqtt = "3.1.1"

    @Flag(help: "Over WebSocket; --port is the node's for HTTP.")
    var websocket = false

    mutating func run() throws {
        guard let plan = Plans.named(scenario) else { throw ValidationError("unknown scenario \(scenario)") }
        let version = try ProtocolVersion(argument: mqtt)
        Child.killAllAtExit()
        let session = try Session(
            plan, Broker(attachedTo: port, pid: pid, version: version, overWebSocket: websocket))
        for _ in 0..<rounds {
            let window = try session.run(count: count)
            say(
                "\(window.deliveries) deliveries, \(Text.number(window.microsecondsPerDelivery)) us each, "
                    + "\(Text.fixed(window.thousandDeliveriesPerSecond, 0)) k/s, client "
                    + "\(Text.number(window.clientMicroseconds)) us")
        }
    }
}

extension ProtocolVersion {
    /// As options name it.
    fileprivate init(argument: String) throws {
        switch argument {
        case "3.1.1": self = .v3
        case "5": self = .v5
        default: throw ValidationError("--mqtt wants 3.1.1 or 5, not \(argument)")
        }
    }
}
