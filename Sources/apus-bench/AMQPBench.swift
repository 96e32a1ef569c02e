internal import ArgumentParser
internal import Glibc

/// The node's AMQP beside the engine that it is built on.
struct AMQPBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "amqp",
        abstract: "Measures AMQP 1.0: the node beside libqpid-proton alone, mixed paths, fan-out, memory.",
        discussion: """
            Clients are libqpid-proton's. "Engine alone" is the same library in memory: one side that takes messages, \
            one that sends them on, no sockets and no router. A message lost, doubled, reordered, or settled when it \
            should not be is a failure: it is printed and the exit code is 1.

            Scenarios: \(AMQPCampaign.scenarioNames.joined(separator: ", ")).

            Examples:
              apus-bench amqp                                   everything, nine rounds
              apus-bench amqp --quick                           three short rounds
              apus-bench amqp --scenarios settled-64,mixed      some of it
              apus-bench amqp --rabbitmq off --json amqp.json   without the peer
              apus-bench amqp --scenarios unsettled-64 --port 5672 --pid $(pgrep -x apus)
                                                                a broker that runs
            """)

    @Option(help: "Comma-separated scenarios; default: all.")
    var scenarios: String?

    @Option(help: "Interleaved rounds (default: 9, quick: 3).")
    var rounds: Int?

    @Option(help: "Seconds of one measured window (default: 0.5, quick: 0.25).")
    var seconds: Double?

    @Option(help: "The node's executable; default: apus beside this one.")
    var apus: String?

    @Option(help: "The peer's start script, without the wrapper in PATH; left out if it is not there, or off.")
    var rabbitmq = "/usr/lib/rabbitmq/bin/rabbitmq-server"

    @Option(help: "Lanes of the node.")
    var lanes = 1

    @Option(help: "Write all raw figures to this file.")
    var json: String?

    @Flag(help: "Three short rounds, small crowds.")
    var quick = false

    @Option(help: "AMQP port on 127.0.0.1 of a broker that runs already, instead of a node; for profiling.")
    var port: UInt16?

    @Option(help: "With --port: the process whose CPU time is charged.")
    var pid: Int32 = 0

    @Option(help: "With --port: what topics are named with in front, for example /topic/ for RabbitMQ.")
    var prefix = ""

    func validate() throws {
        guard rounds ?? 1 > 0, seconds ?? 1 > 0, lanes >= 0 else {
            throw ValidationError("--rounds and --seconds must be positive")
        }
        for name in names where !AMQPCampaign.scenarioNames.contains(name) {
            throw ValidationError(
                "unknown scenario \(name); there are: \(AMQPCampaign.scenarioNames.joined(separator: ", "))")
        }
        for name in names where port != nil && AMQPPlan.named(name) == nil {
            throw ValidationError("--port goes with \(AMQPPlan.all.map(\.name).joined(separator: ", ")) only")
        }
    }

    var names: [String] {
        scenarios?.split(separator: ",").map(String.init)
            ?? (port == nil ? AMQPCampaign.scenarioNames : AMQPPlan.all.map(\.name))
    }

    mutating func run() throws {
        Child.killAllAtExit()
        raiseDescriptorLimit()
        let node = Child.node(apus)
        if port == nil, access(node, X_OK) != 0 {
            throw ValidationError("no executable \(node): build the node, or give --apus")
        }
        let campaign = AMQPCampaign(self, node: node)
        campaign.run()
        for line in campaign.table() { say(line) }
        try campaign.report.conclude(
            settings: [
                "rounds": "\(campaign.rounds)", "seconds": "\(campaign.seconds)", "lanes": "\(lanes)",
                "scenarios": names.joined(separator: ","), "quick": "\(quick)",
            ], json: json)
    }
}

/// One sender, one receiver.
struct AMQPPlan {
    let name: String
    let payload: Int
    let isSettled: Bool
    /// Messages under way, at most.
    let window: Int

    static let all = [
        AMQPPlan(name: "settled-64", payload: 64, isSettled: true, window: 1_000),
        AMQPPlan(name: "unsettled-64", payload: 64, isSettled: false, window: 1_000),
        AMQPPlan(name: "settled-1k", payload: 1_024, isSettled: true, window: 600),
        AMQPPlan(name: "unsettled-1k", payload: 1_024, isSettled: false, window: 600),
    ]

    static func named(_ name: String) -> AMQPPlan? { all.first { $0.name == name } }

    /// The receiver's credit: never less than what may be under way, though half of it is granted at a time.
    var credit: Int { 2 * window }
}

/// The rounds of `amqp`, and what came of them.
final class AMQPCampaign {
    let options: AMQPBench
    let report = Report()
    var limits: [Limit] = []
    private let node: String

    /// At most so many times what the engine costs alone.
    static let must = 1.8
    static let aim = 1.5
    /// Mixed paths: at most so many times what the dearer of the two pure ones costs.
    static let mixedMust = 1.3
    static let engine = "engine"
    static let receivers = 50
    static let scenarioNames = AMQPPlan.all.map(\.name) + ["mixed", "fan", "idle", "links"]

    init(_ options: AMQPBench, node: String) {
        self.options = options
        self.node = node
    }

    var rounds: Int { options.rounds ?? (options.quick ? 3 : 9) }
    var seconds: Double { options.seconds ?? (options.quick ? 0.25 : 0.5) }

    func run() {
        let plans = AMQPPlan.all.filter { options.names.contains($0.name) }
        if !plans.isEmpty { attempt("start", "apus") { try pairs(plans) } }
        for name in options.names {
            switch name {
            case "mixed": attempt("mixed", "apus") { try mixed() }
            case "fan": attempt("fan", "apus") { try fan() }
            case "idle": attempt("idle", "apus") { try idle() }
            case "links": attempt("links", "apus") { try links() }
            default: continue
            }
        }
    }

    func start() throws -> Broker {
        var how = BrokerOptions(apus: node, mosquitto: "")
        how.lanes = options.lanes
        how.hasAMQP = true
        let broker = try Broker.start(.apus, how)
        guard broker.amqpPort != 0 else { throw Failure("the node does not listen for AMQP") }
        return broker
    }

    /// Runs a step; a failure is recorded and does not end the campaign.
    @discardableResult
    func attempt(_ scenario: String, _ broker: String, _ step: () throws -> Void) -> Bool {
        do {
            try step()
            return true
        } catch {
            report.fail(scenario, broker, "\(error)")
            return false
        }
    }

    /// Records a figure for the second table and shows it.
    func figure(_ scenario: String, _ what: String, _ unit: String, _ value: Double, must: Double? = nil) {
        report.add(scenario, "apus", what, unit, value)
        limits.append(Limit(scenario: scenario, broker: "apus", what: what, unit: unit, value: value, must: must))
        progress("\(scenario) \(what): \(Text.number(value)) \(unit)")
    }

    /// Records a window and shows it.
    func record(_ scenario: String, _ who: String, _ round: Int, _ window: Window) {
        report.add(scenario, who, Table.cpuMetric, "us", round: round, window.microsecondsPerDelivery)
        report.add(scenario, who, Table.rateMetric, "k/s", round: round, window.thousandDeliveriesPerSecond)
        report.add(scenario, who, "client_cpu_per_delivery", "us", round: round, window.clientMicroseconds)
        progress(
            "\(scenario) round \(round + 1)/\(rounds) \(who): \(Text.number(window.microsecondsPerDelivery)) "
                + "us/delivery, \(Text.fixed(window.thousandDeliveriesPerSecond, 0)) k/s, client "
                + "\(Text.number(window.clientMicroseconds)) us, \(window.deliveries) deliveries, 0 lost")
    }
}

/// One sender and one receiver, beside the engine alone.
extension AMQPCampaign {
    /// A broker that takes part.
    private struct Server {
        let name: String
        let process: Child
        let port: UInt16
        /// What an address begins with.
        let prefix: String
    }

    private func pairs(_ plans: [AMQPPlan]) throws {
        var servers: [Server] = []
        // The brokers live as long as this holds them.
        var broker: Broker?
        var peer: RabbitMQ?
        defer {
            broker?.stop()
            peer?.stop()
        }
        if let port = options.port {
            let child = Child(attachedTo: options.pid)
            servers.append(Server(name: "apus", process: child, port: port, prefix: options.prefix))
        } else {
            attempt("start", "apus") {
                let node = try start()
                broker = node
                servers.append(Server(name: "apus", process: node.process, port: node.amqpPort, prefix: ""))
            }
            attempt("start", RabbitMQ.name) {
                guard access(options.rabbitmq, X_OK) == 0 else { return progress("without RabbitMQ") }
                let started = try RabbitMQ(script: options.rabbitmq)
                peer = started
                let prefix = RabbitMQ.prefix
                servers.append(
                    Server(name: RabbitMQ.name, process: started.process, port: started.port, prefix: prefix))
            }
        }
        for plan in plans { try pair(plan, servers) }
    }

    /// Runs the engine alone and all servers in turn; who fails is left out from then on.
    private func pair(_ plan: AMQPPlan, _ servers: [Server]) throws {
        let engine = try AMQPEngineAlone(payload: plan.payload, isSettled: plan.isSettled)
        let trial = 20_000
        let cost = Double(try engine.run(count: trial)) / Double(trial)
        let alone = max(trial, Int(seconds * 1e9 / cost))
        typealias Entry = (server: Server?, run: (Int) throws -> Void)
        var entries: [Entry] = [
            (
                nil,
                { [report, rounds] round in
                    let each = Double(try engine.run(count: alone)) / 1e3 / Double(alone)
                    report.add(plan.name, Self.engine, Table.cpuMetric, "us", round: round, each)
                    progress("\(plan.name) round \(round + 1)/\(rounds) engine alone: \(Text.number(each)) us/message")
                }
            )
        ]
        for server in servers {
            attempt(Self.label(plan, server.name), server.name) {
                let traffic = try traffic(plan, server)
                let count = try traffic.calibrated(seconds: seconds)
                entries.append(
                    (
                        server,
                        { [unowned self] round in
                            _ = try traffic.run(count: max(100, count / 10))
                            record(Self.label(plan, server.name), server.name, round, try traffic.run(count: count))
                        }
                    ))
            }
        }
        var failed: Set<String> = []
        for round in 0..<rounds {
            for (server, run) in round % 2 == 0 ? entries : entries.reversed() {
                let name = server?.name ?? Self.engine
                guard !failed.contains(name) else { continue }
                let isFine = attempt(server.map { Self.label(plan, $0.name) } ?? plan.name, name) { try run(round) }
                if !isFine { failed.insert(name) }
            }
        }
    }

    /// A failure of the peer must not take away the node's figures: they are kept under another name.
    fileprivate static func label(_ plan: AMQPPlan, _ server: String) -> String {
        server == RabbitMQ.name ? "\(plan.name)-\(server)" : plan.name
    }

    private func traffic(_ plan: AMQPPlan, _ server: Server) throws -> Traffic {
        let block = AMQPBlock(payload: plan.payload)
        let address = "\(server.prefix)bench.\(plan.name)"
        let receiver = try AMQPReceiver(
            port: server.port, name: "receiver-\(plan.name)", address: address, block, isSettled: plan.isSettled,
            credit: plan.credit)
        let sender = try AMQPSender(
            port: server.port, name: "sender-\(plan.name)", address: address, block, isSettled: plan.isSettled)
        return try Traffic(server.process, sender, [receiver], window: plan.window)
    }
}

/// Paths from one protocol to the other.
extension AMQPCampaign {
    /// The protocol at one end of a path.
    private enum Tongue: String { case amqp, mqtt }

    private func mixed() throws {
        let broker = try start()
        defer { broker.stop() }
        for isDirect in [true, false] {
            let scenario = isDirect ? "mixed-direct" : "mixed-guaranteed"
            var paths: [(name: String, traffic: Traffic, count: Int)] = []
            for (from, to) in [(.amqp, .amqp), (.mqtt, .mqtt), (.amqp, .mqtt), (.mqtt, .amqp)] as [(Tongue, Tongue)] {
                let name = "\(from)-\(to)"
                attempt(scenario, name) {
                    let traffic = try path(broker, from, to, isDirect: isDirect)
                    paths.append((name, traffic, try traffic.calibrated(seconds: seconds)))
                }
            }
            for round in 0..<rounds {
                for (name, traffic, count) in round % 2 == 0 ? paths : paths.reversed()
                where !report.hasFailed(scenario, name) {
                    attempt(scenario, name) {
                        _ = try traffic.run(count: max(100, count / 10))
                        record(scenario, name, round, try traffic.run(count: count))
                    }
                }
            }
        }
    }

    private func path(_ broker: Broker, _ from: Tongue, _ to: Tongue, isDirect: Bool) throws -> Traffic {
        let name = "\(from)-\(to)-\(isDirect ? "direct" : "guaranteed")"
        let topic = "bench/\(name)"
        let plan = AMQPPlan(name: name, payload: 64, isSettled: isDirect, window: 1_000)
        let amqp = AMQPBlock(payload: plan.payload)
        let qos = isDirect ? 0 : 1
        let mqtt = Block(
            broker.frames, topics: Array(repeating: topic, count: amqp.count), payload: plan.payload, source: 0,
            qos: qos)
        let receiver: any TrafficReceiver
        switch to {
        case .amqp:
            receiver = try AMQPReceiver(
                port: broker.amqpPort, name: "receiver-\(name)", address: topic, amqp, isSettled: isDirect,
                credit: plan.credit)
        case .mqtt:
            receiver = try MQTTReceiver(broker, name: "receiver-\(name)", topic: topic, mqtt, qos: qos)
        }
        let sender: any TrafficSender
        switch from {
        case .amqp:
            sender = try AMQPSender(
                port: broker.amqpPort, name: "sender-\(name)", address: topic, amqp, isSettled: isDirect)
        case .mqtt:
            sender = try MQTTSender(broker, name: "sender-\(name)", mqtt, qos: qos)
        }
        return try Traffic(broker.process, sender, [receiver], window: plan.window)
    }
}

/// One sender, many receivers.
extension AMQPCampaign {
    private func fan() throws {
        let broker = try start()
        defer { broker.stop() }
        let block = AMQPBlock(payload: 64)
        for isSettled in [true, false] {
            let scenario = isSettled ? "fan-settled" : "fan-unsettled"
            var entries: [(name: String, traffic: Traffic, count: Int)] = []
            for count in [1, Self.receivers] {
                let name = "\(count) receivers"
                attempt(scenario, name) {
                    let address = "bench/\(scenario)/\(count)"
                    let receivers = try (0..<count).map {
                        try AMQPReceiver(
                            port: broker.amqpPort, name: "\(scenario)-\(count)-\($0)", address: address, block,
                            isSettled: isSettled, credit: 2_000)
                    }
                    let sender = try AMQPSender(
                        port: broker.amqpPort, name: "\(scenario)-\(count)", address: address, block,
                        isSettled: isSettled)
                    let traffic = try Traffic(broker.process, sender, receivers, window: 1_000)
                    entries.append((name, traffic, try traffic.calibrated(seconds: seconds)))
                }
            }
            for round in 0..<rounds {
                for (name, traffic, count) in round % 2 == 0 ? entries : entries.reversed()
                where !report.hasFailed(scenario, name) {
                    attempt(scenario, name) {
                        _ = try traffic.run(count: max(100, count / 10))
                        record(scenario, name, round, try traffic.run(count: count))
                    }
                }
            }
        }
    }
}

/// What came of it.
extension AMQPCampaign {
    func table() -> [String] {
        var lines: [String] = []
        for part in [engineTable(), mixedTable(), fanTable()] where !part.isEmpty {
            if !lines.isEmpty { lines.append("") }
            lines += part
        }
        if !limits.isEmpty {
            if !lines.isEmpty { lines.append("") }
            lines += Table(report: report, scenarios: options.names, rounds: rounds).figures(limits)
        }
        return lines
    }

    private func engineTable() -> [String] {
        var rows = [
            [
                "case", "engine alone", "apus", "apus/engine", "(must, aim)", "apus k/s", "client us", "verdict",
                "rabbitmq", "rabbitmq/apus",
            ]
        ]
        for plan in AMQPPlan.all {
            let alone = report.values(plan.name, Self.engine, Table.cpuMetric)
            let ours = report.values(plan.name, "apus", Table.cpuMetric)
            guard !ours.isEmpty, ours.count == alone.count else { continue }
            let ratios = zip(ours, alone).map { $0 / $1 }
            let middle = Report.median(sorted: ratios.sorted())
            let peer = report.values(Self.label(plan, RabbitMQ.name), RabbitMQ.name, Table.cpuMetric)
            let cpu = Report.median(sorted: ours.sorted())
            rows.append([
                plan.name, Text.spread(alone), Text.spread(ours), Text.spread(ratios),
                "<= \(Text.fixed(Self.must, 1)), \(Text.fixed(Self.aim, 1))",
                Text.fixed(report.median(plan.name, "apus", Table.rateMetric) ?? 0, 0),
                Text.number(report.median(plan.name, "apus", "client_cpu_per_delivery") ?? 0),
                middle > Self.must ? "MISSES" : middle > Self.aim ? "ok, aim missed" : "ok",
                Text.spread(peer), peer.isEmpty ? "-" : Text.number(Report.median(sorted: peer.sorted()) / cpu),
            ])
        }
        guard rows.count > 1 else { return [] }
        return [
            "AMQP, one sender and one receiver: CPU us per message, median (min..max) of \(rounds) interleaved rounds; "
                + "the ratio is that of pairs"
        ]
            + Text.columns(rows)
    }

    private func mixedTable() -> [String] {
        var rows = [["path", "apus", "k/s", "/ dearer pure path", "(must)", "verdict"]]
        for scenario in ["mixed-direct", "mixed-guaranteed"] {
            let pure = ["amqp-amqp", "mqtt-mqtt"].map { report.values(scenario, $0, Table.cpuMetric) }
            for path in ["amqp-amqp", "mqtt-mqtt", "amqp-mqtt", "mqtt-amqp"] {
                let cost = report.values(scenario, path, Table.cpuMetric)
                guard !cost.isEmpty else { continue }
                var row = [
                    "\(scenario) \(path)", Text.spread(cost),
                    Text.fixed(report.median(scenario, path, Table.rateMetric) ?? 0, 0),
                ]
                if path == "amqp-mqtt" || path == "mqtt-amqp", pure.allSatisfy({ $0.count == cost.count }) {
                    let ratios = cost.indices.map { cost[$0] / max(pure[0][$0], pure[1][$0]) }
                    row += [
                        Text.spread(ratios), "<= \(Text.fixed(Self.mixedMust, 1))",
                        Report.median(sorted: ratios.sorted()) <= Self.mixedMust ? "ok" : "MISSES",
                    ]
                }
                rows.append(row)
            }
        }
        guard rows.count > 1 else { return [] }
        return ["From one protocol to the other, 64 bytes: CPU us per message"] + Text.columns(rows)
    }

    private func fanTable() -> [String] {
        var rows = [["fan-out", "1 receiver", "\(Self.receivers) receivers", "k deliveries/s"]]
        for scenario in ["fan-settled", "fan-unsettled"] {
            let one = report.values(scenario, "1 receivers", Table.cpuMetric)
            let many = report.values(scenario, "\(Self.receivers) receivers", Table.cpuMetric)
            guard !one.isEmpty, !many.isEmpty else { continue }
            let rate = report.median(scenario, "\(Self.receivers) receivers", Table.rateMetric) ?? 0
            rows.append([scenario, Text.spread(one), Text.spread(many), Text.fixed(rate, 0)])
        }
        guard rows.count > 1 else { return [] }
        return ["One sender, 64 bytes: CPU us per delivered message"] + Text.columns(rows)
    }
}
