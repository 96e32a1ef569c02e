/// Scenarios a64x2 and d64x2: publisher and subscriber on different lanes.
extension Campaign {
    func twoLanes(_ scenario: String) {
        guard let plan = Plans.named(scenario), let kind = rawBrokers.first(where: \.isNode) else { return }
        attempt(scenario, kind) {
            var entries: [(label: String, entry: Entry)] = []
            defer { for (_, entry) in entries { entry.stop() } }
            for lanes in [1, 2] {
                var how = options.start
                how.lanes = lanes
                entries.append(("lanes-\(lanes)", try begin(plan, kind, how)))
            }
            for round in 0..<options.pairs {
                for (label, entry) in entries {
                    _ = try entry.session.run(count: max(20, entry.count / 10))
                    let window = try entry.session.run(count: entry.count)
                    report.add(scenario, label, Table.cpuMetric, "us", round: round, window.microsecondsPerDelivery)
                    report.add(
                        scenario, label, Table.rateMetric, "k/s", round: round, window.thousandDeliveriesPerSecond)
                    progress(
                        "\(scenario) round \(round + 1) \(label): \(Text.number(window.microsecondsPerDelivery)) us, "
                            + "\(Text.fixed(window.thousandDeliveriesPerSecond, 0)) k/s")
                }
            }
        }
        ratio(scenario, Table.cpuMetric, "lanes-2", over: "lanes-1", must: 2, aim: 1.25)
    }
}
