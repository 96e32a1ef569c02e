internal import Glibc

/// Scenario `lat`: 5,000 events a second on ten pairs, over no link, one and two, beside as many relays in a row.
extension MeshCampaign {
    /// Microseconds that a hop may add to the median above what a relay's hop adds.
    static let hopLatencyMust = 25.0
    private static let rate = 5_000
    /// How many processes an event passes: a node alone and a relay, two, three.
    private static let ways: [(mesh: String, relay: String)] = [
        ("one", "relay-1"), ("hop", "relay-2"), ("transit", "relay-3"),
    ]

    func latency() throws {
        let alone = try nodeAlone()
        defer { alone.process.kill() }
        let chain = try chain(["A", "B", "C"])
        defer { chain.stop() }
        var relays: [MeshRelays] = []
        defer { for relay in relays { relay.stop() } }
        var sessions: [(name: String, session: Session)] = []
        for (index, way) in Self.ways.enumerated() {
            attempt("lat") {
                let (from, to) = index == 0 ? (alone, alone) : (chain[0], chain[index])
                let plan = MeshPlans.latencyPairs("lat-\(way.mesh)")
                let places = Array(repeating: to.broker, count: plan.subscribers.count)
                sessions.append((way.mesh, try Session(plan, from.broker, subscribersAt: places)))
                try from.awaitInterest(plan, of: [to.name])
                let row = try MeshRelays(pipes: index)
                relays.append(row)
                let exits = Array(repeating: row.relay, count: plan.subscribers.count)
                sessions.append((way.relay, try Session(plan, row.entrance, subscribersAt: exits)))
            }
        }
        for (_, session) in sessions { _ = try session.pace(rate: Self.rate, seconds: 0.5) }
        for round in 0..<rounds {
            for (name, session) in round % 2 == 0 ? sessions : sessions.reversed()
            where !report.hasFailed("lat", Self.mesh) {
                attempt("lat") {
                    let times = try chain.withSteadyLinks {
                        Times(try session.pace(rate: Self.rate, seconds: options.quick ? 1 : 2).times)
                    }
                    let (half, most) = (times.microseconds(0.5), times.microseconds(0.99))
                    report.add("lat", name, "p50", "us", round: round, half)
                    report.add("lat", name, "p99", "us", round: round, most)
                    progress("lat round \(round + 1) \(name): p50 \(Text.number(half)) us, p99 \(Text.number(most)) us")
                }
            }
        }
        latencyFigures()
    }

    private func latencyFigures() {
        for way in Self.ways {
            for name in [way.mesh, way.relay] {
                for metric in ["p50", "p99"] {
                    let values = report.values("lat", name, metric)
                    if !values.isEmpty { limit("lat", "\(metric) \(name)", "us", values) }
                }
            }
        }
        for (hop, (before, after)) in zip(Self.ways, Self.ways.dropFirst()).enumerated() {
            for metric in ["p50", "p99"] {
                let names = [before.mesh, after.mesh, before.relay, after.relay]
                let series = names.map { report.values("lat", $0, metric) }
                guard let above = byRound(series, { ($0[1] - $0[0]) - ($0[3] - $0[2]) }) else { continue }
                let what = "\(metric) of hop \(hop + 1) above a relay's hop"
                limit("lat", what, "us", above, must: metric == "p50" ? Self.hopLatencyMust : nil)
            }
        }
    }
}

/// A relay, and pipes in a row in front of it: what publishers connect to is the outermost pipe.
final class MeshRelays {
    private var processes: [Child] = []
    /// Where subscribers connect.
    let relay: Broker
    /// Where publishers connect.
    private(set) var entrance: Broker

    init(pipes: Int) throws {
        let port = try Socket.freePort()
        let child = try Child.spawn([Child.ownPath, "relay", "--listen", "127.0.0.1:\(port)"])
        processes.append(child)
        try Broker.awaitPort(port, child)
        relay = Broker(kind: .relay, process: child, port: port, readyMilliseconds: 0, version: .v3)
        entrance = relay
        for _ in 0..<pipes {
            let (pipe, port) = try MeshChain.pipe(to: entrance.port)
            processes.append(pipe)
            entrance = Broker(kind: .relay, process: pipe, port: port, readyMilliseconds: 0, version: .v3)
        }
    }

    func stop() {
        for process in processes { process.kill() }
    }
}
