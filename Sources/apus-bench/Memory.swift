internal import Glibc

/// Scenarios about memory and descriptors.
extension Campaign {
    /// RSS per idle connection with one subscription of its own.
    func idle(_ scenario: String) {
        let count = options.quick ? 2_000 : 9_900
        for kind in rawBrokers where kind != .relay {
            attempt(scenario, kind) {
                let broker = try Broker.start(kind, options.start)
                defer { broker.stop() }
                pause(milliseconds: 200)
                let before = broker.memory("Rss")
                let crowd = try Crowd(broker, count: count, firstSource: 2)
                try crowd.subscribe { "idle/\($0)/cmd" }
                pause(milliseconds: 500)
                let each = Double(broker.memory("Rss") - before) / Double(crowd.descriptors.count)
                let isNode = kind.isNode
                figure(
                    scenario, kind.rawValue, "rss/connection", "KB", each, must: isNode ? 1.5 : nil,
                    aim: isNode ? 0.9 : nil)
            }
        }
        ratio(scenario, "rss/connection", "apus", over: "mosquitto", must: 1.6)
    }

    /// RSS per subscription, a million of them.
    func manySubscriptions(_ scenario: String) {
        let clients = 20
        let each = options.quick ? 5_000 : 50_000
        for kind in rawBrokers where kind != .relay {
            attempt(scenario, kind) {
                let broker = try Broker.start(kind, options.start)
                defer { broker.stop() }
                pause(milliseconds: 200)
                let crowd = try Crowd(broker, count: clients, firstSource: 2)
                let before = broker.memory("Rss")
                let begin = now()
                for (client, fd) in crowd.descriptors.enumerated() {
                    let filters = (0..<each).map { index -> String in
                        let number = String(client * each + index)
                        return "fleet/dev-" + String(repeating: "0", count: max(0, 7 - number.count)) + number
                            + "/cmd/#"
                    }
                    try Handshake.subscribe(fd, filters, qos: 0, broker.frames)
                }
                let seconds = Double(now() - begin) / 1e9
                pause(milliseconds: 300)
                let bytes = Double(broker.memory("Rss") - before) * 1024 / Double(clients * each)
                figure(
                    scenario, kind.rawValue, "rss/subscription", "bytes", bytes, must: kind.isNode ? 264 : nil,
                    aim: kind.isNode ? 200 : nil)
                figure(scenario, kind.rawValue, "subscribing", "us each", seconds * 1e6 / Double(clients * each))
            }
        }
    }

    /// Two cycles of ten thousand connections, all cut: what stays behind. A question to the node alone.
    func connections(_ scenario: String) {
        let count = options.quick ? 2_000 : 10_000
        for kind in rawBrokers where kind.isNode {
            var after: [Double] = []
            attempt(scenario, kind) {
                let broker = try Broker.start(kind, options.start)
                defer { broker.stop() }
                pause(milliseconds: 200)
                let name = kind.rawValue
                let descriptors = broker.descriptors()
                figure(scenario, name, "rss before", "KB", Double(broker.memory("Rss")))
                for cycle in 1...2 {
                    let crowd = try Crowd(broker, count: count, firstSource: UInt32(cycle * 10))
                    try crowd.subscribe { "conns/\($0)/own" }
                    try crowd.echo { "conns/\($0)/own" }
                    figure(scenario, name, "rss full, cycle \(cycle)", "KB", Double(broker.memory("Rss")))
                    crowd.cut()
                    for _ in 0..<100 where broker.descriptors() > descriptors { pause(milliseconds: 100) }
                    pause(milliseconds: 500)
                    let left = Double(broker.descriptors() - descriptors)
                    after.append(Double(broker.memory("Rss")))
                    figure(
                        scenario, name, "rss after cycle \(cycle)", "KB", after[cycle - 1],
                        must: cycle == 2 ? after[0] * 1.05 + 2_048 : nil)
                    figure(scenario, name, "descriptors left, cycle \(cycle)", "", left, must: 0)
                }
            }
        }
        ratio(scenario, "rss after cycle 2", "apus", over: "apus", metricBelow: "rss after cycle 1", must: nil)
    }

    /// What a node costs that does nothing, and how soon it is there.
    func idleNode(_ scenario: String) {
        for kind in rawBrokers where kind != .relay {
            attempt(scenario, kind) {
                for round in 0..<(options.quick ? 2 : 5) {
                    let broker = try Broker.start(kind, options.start)
                    defer { broker.stop() }
                    pause(milliseconds: 500)
                    report.add(
                        scenario, kind.rawValue, "anonymous", "KB", round: round, Double(broker.memory("Anonymous")))
                    report.add(scenario, kind.rawValue, "rss", "KB", round: round, Double(broker.memory("Rss")))
                    report.add(scenario, kind.rawValue, "start to ready", "ms", round: round, broker.readyMilliseconds)
                }
                let bounds: [(metric: String, unit: String, must: Double?)] = [
                    ("anonymous", "KB", 12_288), ("rss", "KB", nil), ("start to ready", "ms", 300),
                ]
                for (metric, unit, must) in bounds {
                    guard let value = report.median(scenario, kind.rawValue, metric) else { continue }
                    limits.append(
                        Limit(
                            scenario: scenario, broker: kind.rawValue, what: "\(metric) \(kind.rawValue)", unit: unit,
                            value: value, must: kind.isNode ? must : nil))
                }
            }
        }
    }
}

/// Rows of the second table.
extension Campaign {
    /// Records a figure and shows it.
    func figure(
        _ scenario: String, _ broker: String, _ what: String, _ unit: String, _ value: Double, must: Double? = nil,
        aim: Double? = nil
    ) {
        report.add(scenario, broker, what, unit, value)
        limits.append(
            Limit(
                scenario: scenario, broker: broker, what: "\(what) \(broker)", unit: unit, value: value, must: must,
                aim: aim))
        progress("\(scenario) \(broker) \(what): \(Text.number(value)) \(unit)")
    }

    /// The ratio of two medians, when both are there.
    func ratio(
        _ scenario: String, _ metric: String, _ above: String, over below: String, metricBelow: String? = nil,
        must: Double?, aim: Double? = nil
    ) {
        guard let high = report.median(scenario, above, metric),
            let low = report.median(scenario, below, metricBelow ?? metric), low > 0
        else { return }
        let what = metricBelow.map { "\(metric) / \($0)" } ?? "\(metric) \(above)/\(below)"
        limits.append(
            Limit(
                scenario: scenario, broker: above, what: what, unit: "x", value: high / low, must: must, aim: aim))
    }
}
