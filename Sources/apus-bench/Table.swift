/// The tables at the end of a run.
struct Table {
    let report: Report
    let scenarios: [String]
    let rounds: Int

    static let cpuMetric = "cpu_per_delivery"
    static let rateMetric = "rate"

    /// CPU per delivered message, the figure to steer by.
    func cpu() -> [String] {
        var rows = [
            [
                "scenario", "relay", "apus", "mosquitto", "apus k/s", "apus/relay", "(must, aim)", "mosq/apus",
                "(must, aim)", "verdict",
            ]
        ]
        for scenario in scenarios where hasCPU(scenario) { rows.append(row(scenario)) }
        guard rows.count > 1 else { return [] }
        return ["CPU us per delivered message: median (min..max) of \(rounds) interleaved rounds"]
            + Text.columns(rows)
    }

    private func hasCPU(_ scenario: String) -> Bool {
        BrokerKind.allCases.contains { report.median(scenario, $0.rawValue, Self.cpuMetric) != nil }
    }

    private func row(_ scenario: String) -> [String] {
        let target = Target.cpu[scenario] ?? Target()
        let relay = report.median(scenario, "relay", Self.cpuMetric)
        let apus = report.median(scenario, "apus", Self.cpuMetric)
        let mosquitto = report.median(scenario, "mosquitto", Self.cpuMetric)
        let toRelay = zip(apus, relay).map { $0 / $1 }
        let toMosquitto = zip(mosquitto, apus).map { $0 / $1 }
        var verdict = "-"
        if failed(scenario) {
            verdict = "FAILED"
        } else if toRelay != nil && target.relayMust != nil || toMosquitto != nil && target.mosquittoMust != nil {
            verdict = Self.verdict(target, toRelay: toRelay, toMosquitto: toMosquitto)
        }
        return [
            scenario, spread(scenario, "relay"), spread(scenario, "apus"), spread(scenario, "mosquitto"),
            report.median(scenario, "apus", Self.rateMetric).map { Text.fixed($0, 0) } ?? "-",
            toRelay.map(Text.number) ?? "-", Self.bounds("<=", target.relayMust, target.relayAim),
            toMosquitto.map(Text.number) ?? "-", Self.bounds(">=", target.mosquittoMust, target.mosquittoAim), verdict,
        ]
    }

    static func verdict(_ target: Target, toRelay: Double?, toMosquitto: Double?) -> String {
        var missed: [String] = []
        var aims: [String] = []
        if let toRelay {
            if let must = target.relayMust, toRelay > must {
                missed.append("relay")
            } else if let aim = target.relayAim, toRelay > aim {
                aims.append("relay")
            }
        }
        if let toMosquitto {
            if let must = target.mosquittoMust, toMosquitto < must {
                missed.append("mosquitto")
            } else if let aim = target.mosquittoAim, toMosquitto < aim {
                aims.append("mosquitto")
            }
        }
        if !missed.isEmpty { return "MISSES " + missed.joined(separator: "+") }
        return aims.isEmpty ? "ok" : "ok, aim missed"
    }

    /// The node beside products that have no column of their own.
    func peers() -> [String] {
        let rows = pairs([("apus", "nats"), ("apus", "rabbitmq")], must: nil, names: true)
        guard !rows.isEmpty else { return [] }
        return [
            "", "Others beside the node: CPU us per delivered message, median (min..max); the ratio is that of pairs",
        ]
            + Text.columns([["scenario", "broker", "apus", "its", "its/apus"]] + rows.map { Array($0[..<5]) })
    }

    /// What MQTT 5 costs beside 3.1.1.
    func versions() -> [String] {
        let rows = pairs([("apus", "apus5"), ("mosquitto", "mosquitto5")], must: Target.version5Must)
        guard !rows.isEmpty else { return [] }
        return ["", "MQTT 5 beside 3.1.1: CPU us per delivered message, median (min..max); the ratio is that of pairs"]
            + Text.columns([["scenario", "program", "3.1.1", "5", "5/3.1.1", "(must)", "verdict"]] + rows)
    }

    /// What WebSocket costs beside TCP.
    func webSockets() -> [String] {
        let rows = pairs([("apus", "apusws")], must: nil)
        guard !rows.isEmpty else { return [] }
        return [
            "", "WebSocket beside TCP: CPU us per delivered message, median (min..max); the ratio is that of pairs",
        ]
            + Text.columns(
                [["scenario", "program", "TCP", "WebSocket", "WebSocket/TCP"]] + rows.map { Array($0[..<5]) })
    }

    /// What the node costs over TLS beside a relay that does nothing but TLS.
    func secure() -> [String] {
        let rows = pairs([("relaytls", "apustls"), ("apus", "apustls")], must: nil)
        guard !rows.isEmpty else { return [] }
        return [
            "",
            "TLS 1.3: CPU us per delivered message, median (min..max); the ratio is that of pairs",
            "(must, d1k beside the relay: 1.5)",
        ] + Text.columns([["scenario", "beside", "it", "apus over TLS", "ratio"]] + rows.map { Array($0[..<5]) })
    }

    /// Two kinds of clients of one program, round by round: each ratio is of two windows that followed one another.
    /// - Parameters:
    ///   - must: for the node.
    ///   - names: whether rows are called by the second of the two.
    private func pairs(
        _ programs: [(old: String, new: String)], must: Double?, names: Bool = false
    ) -> [[String]] {
        var rows: [[String]] = []
        for scenario in scenarios {
            for (old, new) in programs {
                let before = report.values(scenario, old, Self.cpuMetric)
                let after = report.values(scenario, new, Self.cpuMetric)
                guard !before.isEmpty, before.count == after.count else { continue }
                let ratios = Swift.zip(after, before).map { $0 / $1 }.sorted()
                let middle = Report.median(sorted: ratios)
                let (least, most) = (ratios[0], ratios[ratios.count - 1])
                let ratio =
                    names
                    ? "\(Text.number(middle)) (\(Text.number(least))..\(Text.number(most)))"
                    : "\(Text.fixed(middle, 3)) (\(Text.fixed(least, 2))..\(Text.fixed(most, 2)))"
                let must = old == "apus" ? must : nil
                rows.append([
                    scenario, names ? new : old, spread(scenario, old), spread(scenario, new),
                    ratio,
                    must.map { "<= \(Text.fixed($0, 2))" } ?? "",
                    must.map { middle <= $0 ? "ok" : "MISSES" } ?? "",
                ])
            }
        }
        return rows
    }

    private func failed(_ scenario: String) -> Bool {
        report.failures.contains { $0.hasPrefix(scenario + " ") }
    }

    private func spread(_ scenario: String, _ broker: String) -> String {
        Text.spread(report.values(scenario, broker, Self.cpuMetric))
    }

    private static func bounds(_ sign: String, _ must: Double?, _ aim: Double?) -> String {
        guard let must else { return "" }
        return "\(sign) \(Text.fixed(must, must == must.rounded() ? 0 : 1))"
            + (aim.map { ", \(Text.number($0))" } ?? "")
    }

    private func zip(_ left: Double?, _ right: Double?) -> (Double, Double)? {
        guard let left, let right, right > 0 else { return nil }
        return (left, right)
    }

    /// Everything that is not CPU per message.
    func figures(_ limits: [Limit]) -> [String] {
        guard !limits.isEmpty else { return [] }
        var rows = [["scenario", "figure", "value", "unit", "must", "aim", "verdict"]]
        for limit in limits {
            rows.append([
                limit.scenario, limit.what, Text.number(limit.value), limit.unit,
                limit.must.map { "<= " + Text.number($0) } ?? "", limit.aim.map { "<= " + Text.number($0) } ?? "",
                report.hasFailed(limit.scenario, limit.broker) ? "FAILED" : limit.verdict,
            ])
        }
        return ["Other figures"] + Text.columns(rows)
    }
}
