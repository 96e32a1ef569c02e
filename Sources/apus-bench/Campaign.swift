internal import Glibc

/// What to run, and how long.
struct CampaignOptions {
    var scenarios: [String]
    var brokers: [BrokerKind]
    var pairs: Int
    /// Length of one measured window.
    var seconds: Double
    var start: BrokerOptions
    var quick = false
    var realTime = false
    var window: Int?

    /// How it was measured, to be kept with the figures.
    var settings: [String: String] {
        [
            "scenarios": scenarios.joined(separator: ","),
            "brokers": brokers.map(\.rawValue).joined(separator: ","),
            "pairs": "\(pairs)", "seconds": "\(seconds)", "lanes": "\(start.lanes)", "quick": "\(quick)",
            "fifo": "\(realTime)", "mosquitto_nodelay": "\(start.noDelay)",
            "mqtt": start.version == .v5 ? "5" : "3.1.1",
            "window": window.map { "\($0)" } ?? "per scenario",
            "kernel": (Scratch.read("/proc/sys/kernel/osrelease") ?? "").split(separator: "\n").joined(),
        ]
    }
}

/// A whole run: every scenario in turn, the brokers interleaved within each.
final class Campaign {
    let options: CampaignOptions
    let report = Report()
    /// Figures for the second table, in order of measurement.
    var limits: [Limit] = []

    init(_ options: CampaignOptions) {
        self.options = options
    }

    /// Scenarios with a method of their own.
    static let specialNames = [
        "a64x2", "d64x2", "lat", "churn", "idle", "idle-node", "subs1m", "retained", "slow", "conns", "crowd",
        "callgrind",
    ]

    static var scenarioNames: [String] { Plans.names + specialNames }

    func run() {
        for scenario in options.scenarios {
            if Self.specialNames.contains(scenario) {
                runSpecial(scenario)
            } else if var plan = Plans.named(scenario) {
                if let window = options.window { plan.window = max(1, window) }
                closedLoop(plan)
            }
        }
    }

    /// Those whose clients write packets straight to their sockets, as most scenarios of ``specialNames`` do.
    var rawBrokers: [BrokerKind] { options.brokers.filter { !$0.isWebSocket && !$0.isTLS } }

    private func runSpecial(_ scenario: String) {
        if scenario == "crowd" {
            guard options.brokers.contains(where: \.isNode) else {
                return progress("\(scenario): skipped, it needs apus")
            }
            return crowd(scenario)
        }
        // Lanes and churn are questions about the node alone.
        let nodeOnly = ["a64x2", "d64x2", "churn"].contains(scenario)
        if nodeOnly && !rawBrokers.contains(where: \.isNode) {
            return progress("\(scenario): skipped, it needs apus")
        }
        if scenario != "lat" && rawBrokers.count < options.brokers.count {
            progress("\(scenario): not over WebSocket or TLS")
        }
        switch scenario {
        case "a64x2", "d64x2": twoLanes(scenario)
        case "lat": latency(scenario)
        case "churn": churn(scenario)
        case "idle": idle(scenario)
        case "idle-node": idleNode(scenario)
        case "subs1m": manySubscriptions(scenario)
        case "retained": retained(scenario)
        case "slow": slow(scenario)
        case "conns": connections(scenario)
        default: callgrind(scenario)
        }
    }

    /// One broker in one scenario.
    final class Entry {
        let kind: BrokerKind
        let session: Session
        /// Messages per publisher in a measured window.
        var count = 0

        init(_ kind: BrokerKind, _ session: Session) {
            self.kind = kind
            self.session = session
        }

        func stop() {
            session.broker.stop()
        }
    }

    /// Publishers that wait for their subscribers: what a message costs when the broker is the bottleneck.
    private func closedLoop(_ plan: Plan) {
        var entries: [Entry] = []
        for kind in options.brokers where plan.relayable || !kind.isRelay {
            attempt(plan.name, kind) { entries.append(try begin(plan, kind)) }
        }
        for round in 0..<options.pairs {
            // Forwards and backwards in turn: nobody profits from always coming after the same one.
            for entry in round % 2 == 0 ? entries : entries.reversed() {
                let fine = attempt(plan.name, entry.kind) { try measure(plan.name, entry, round: round) }
                if !fine {
                    entry.stop()
                    entries.removeAll { $0 === entry }
                }
            }
        }
        for entry in entries { entry.stop() }
    }

    /// Starts a broker, connects, and finds out how many messages fill a window.
    func begin(_ plan: Plan, _ kind: BrokerKind, _ start: BrokerOptions? = nil) throws -> Entry {
        var how = start ?? options.start
        if plan.window == 1 { how.noDelay = true }
        let entry = Entry(kind, try Session(plan, try Broker.start(kind, how)))
        var count = max(20, plan.window)
        while true {
            let window = try entry.session.run(count: count)
            let seconds = Double(window.wallNanoseconds) / 1e9
            let needed = Double(count) * options.seconds / max(seconds, 1e-6)
            if seconds > options.seconds / 2 {
                entry.count = max(20, Int(needed))
                return entry
            }
            count = max(20, min(Int(needed), count * 10))
        }
    }

    private func measure(_ scenario: String, _ entry: Entry, round: Int) throws {
        _ = try entry.session.run(count: max(20, entry.count / 10))
        let window = try entry.session.run(count: entry.count)
        let broker = entry.kind.rawValue
        report.add(scenario, broker, Table.cpuMetric, "us", round: round, window.microsecondsPerDelivery)
        report.add(scenario, broker, Table.rateMetric, "k/s", round: round, window.thousandDeliveriesPerSecond)
        report.add(scenario, broker, "client_cpu_per_delivery", "us", round: round, window.clientMicroseconds)
        report.add(scenario, broker, "deliveries", "", round: round, Double(window.deliveries))
        progress(
            "\(scenario) round \(round + 1)/\(options.pairs) \(broker): "
                + "\(Text.number(window.microsecondsPerDelivery)) us/delivery, "
                + "\(Text.fixed(window.thousandDeliveriesPerSecond, 0)) k/s, client "
                + "\(Text.number(window.clientMicroseconds)) us, \(window.deliveries) deliveries")
    }

    /// Runs a step; a failure is recorded and does not end the campaign.
    @discardableResult
    func attempt(_ scenario: String, _ kind: BrokerKind, _ step: () throws -> Void) -> Bool {
        do {
            try step()
            return true
        } catch {
            report.fail(scenario, kind.rawValue, "\(error)")
            return false
        }
    }
}
