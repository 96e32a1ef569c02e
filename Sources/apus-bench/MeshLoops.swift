internal import Glibc

/// The node whose link to a neighbour carries the events of a loop.
struct MeshSender {
    let chain: MeshChain
    let node: MeshNode
    let peer: String

    /// The link from the first node of a chain to the second.
    init(first chain: MeshChain) {
        self.chain = chain
        node = chain[0]
        peer = chain[1].name
    }
}

/// Publishers and subscribers on nodes of their own, and whose CPU is charged.
final class MeshLoop {
    /// Who does what on the way of an event.
    enum Role: String {
        case alone = "one node"
        case ingress, transit, egress
        /// A ``Pipe`` in the place of a node.
        case pipe
    }

    let name: String
    let plan: Plan
    let session: Session
    let charged: [(role: Role, name: String, process: Child)]
    /// The first link on the way; nil on a node alone.
    let sender: MeshSender?
    /// Messages per publisher in a measured window.
    var count = 0
    /// Case with the same events on a node alone, to compare with.
    let baseline: String

    init(
        _ plan: Plan, from publisher: MeshNode, to subscribers: [MeshNode],
        charged: [(role: Role, name: String, process: Child)], over sender: MeshSender?,
        baseline: String
    ) throws {
        name = plan.name
        self.plan = plan
        self.charged = charged
        self.sender = sender
        self.baseline = baseline
        session = try Session(plan, publisher.broker, subscribersAt: subscribers.map(\.broker))
        try publisher.awaitInterest(plan, of: Set(subscribers.map(\.name)))
    }

    /// What a window cost everybody.
    struct Measured {
        let window: Window
        /// Nanoseconds of each that is charged.
        var costs: [UInt64] = []
        var frames = 0
        var bytes = 0
    }

    func measure(count: Int) throws -> Measured {
        guard let sender else { return try measureNow(count) }
        return try sender.chain.withSteadyLinks { try measureNow(count) }
    }

    private func measureNow(_ count: Int) throws -> Measured {
        let linkBefore = try sender.map { try $0.node.link(to: $0.peer) }
        let before = charged.map { $0.process.processorTime() }
        var measured = Measured(window: try window(count))
        measured.costs = zip(charged, before).map { $0.process.processorTime() - $1 }
        if let sender, let linkBefore {
            let link = try sender.node.link(to: sender.peer)
            measured.frames = link.framesOut - linkBefore.framesOut
            measured.bytes = link.bytesOut - linkBefore.bytesOut
        }
        return measured
    }

    private func window(_ count: Int) throws -> Window {
        do {
            return try session.run(count: count)
        } catch {
            // The session tells of the publisher's node.
            let others = charged.filter { $0.process !== session.broker.process }
            throw Failure("\(error)" + others.map { "\n  \($0.name)\($0.process.lastWords())" }.joined())
        }
    }

    /// Finds out how many messages take so long.
    func calibrate(seconds: Double) throws {
        var tried = max(20, plan.window)
        while true {
            let took = Double(try window(tried).wallNanoseconds) / 1e9
            let needed = Double(tried) * seconds / max(took, 1e-6)
            if took > seconds / 2 {
                count = max(20, Int(needed))
                return
            }
            tried = max(20, min(Int(needed), tried * 10))
        }
    }
}

/// What the loops publish.
enum MeshPlans {
    /// What is published, beside whom it is heard by.
    enum Kind: String, CaseIterable {
        case small = "64"
        case large = "1k"
        /// A thousand topics in random order: no two neighbours can share a frame.
        case many
        case guaranteed = "q1"
    }

    /// One publisher; each of its subscribers gets everything, in order.
    static func make(_ name: String, _ kind: Kind, subscribers: Int = 1) -> Plan {
        var plan = Plan(name: name, window: 4_000)
        plan.clientPrefix = "\(name)-"
        plan.relayable = false
        var topics = Array(repeating: "bench/\(name)", count: 8_192)
        var filter = "bench/\(name)"
        switch kind {
        case .small: break
        case .large:
            plan.payload = 1_024
            plan.window = 600
            topics = Array(topics[..<2_048])
        case .many:
            var random = Seeded(1_000)
            let all = (1_000..<2_000).map { "bench/\(name)/\($0)" }
            topics = (0..<16).flatMap { _ in all.shuffled(using: &random) }
            filter += "/#"
        case .guaranteed:
            plan.qos = 1
            plan.window = 100
        }
        plan.publishers = [Plan.Publisher(topics: topics, subscribers: 0..<subscribers)]
        plan.subscribers = Array(repeating: Plan.Subscriber(filters: [filter], publisher: 0), count: subscribers)
        return plan
    }

    /// Ten pairs with small events, for a fixed rate.
    static func latencyPairs(_ name: String) -> Plan {
        var plan = Plan(name: name, window: 100)
        plan.clientPrefix = "\(name)-"
        for index in 0..<10 {
            let topic = "bench/\(name)/\(index)"
            plan.publishers.append(
                Plan.Publisher(topics: Array(repeating: topic, count: 1_024), subscribers: index..<index + 1))
            plan.subscribers.append(Plan.Subscriber(filters: [topic], publisher: index))
        }
        return plan
    }
}

/// The closed loops.
extension MeshCampaign {
    private typealias Kind = MeshPlans.Kind

    /// Starts all nodes, opens all loops, and measures them in turn.
    func closedLoops(_ scenarios: [String]) throws {
        let kinds = kinds(of: scenarios)
        let alone = try nodeAlone()
        defer { alone.process.kill() }
        let isChained = scenarios != ["one"]
        let chain = isChained ? try chain(["A", "B", "C"]) : nil
        defer { chain?.stop() }
        let isPiped = scenarios.contains("transit")
        let piped = isPiped ? try self.chain(["D", "E"], hasPipe: true) : nil
        defer { piped?.stop() }
        for kind in kinds {
            open("one-\(kind.rawValue)") { name in
                try MeshLoop(
                    MeshPlans.make(name, kind), from: alone, to: [alone],
                    charged: [(.alone, alone.name, alone.process)], over: nil, baseline: "")
            }
        }
        if let chain { openHops(scenarios, chain) }
        if scenarios.contains("transit"), let chain, let piped { openTransits(chain, piped) }
        for round in 0..<rounds {
            for loop in round % 2 == 0 ? loops : loops.reversed() where !report.hasFailed(loop.name, Self.mesh) {
                attempt(loop.name) { try measure(loop, round) }
            }
        }
    }

    /// What a node alone has to carry for comparison.
    private func kinds(of scenarios: [String]) -> [Kind] {
        Kind.allCases.filter { kind in
            switch kind {
            case .small: true
            case .large: scenarios.contains("one") || scenarios.contains("hop")
            case .many: scenarios.contains("transit")
            case .guaranteed: scenarios.contains("hop-q1")
            }
        }
    }

    private func open(_ name: String, _ make: (String) throws -> MeshLoop) {
        attempt(name) {
            let loop = try make(name)
            try loop.calibrate(seconds: seconds)
            loops.append(loop)
        }
    }

    private func openHops(_ scenarios: [String], _ chain: MeshChain) {
        let (a, b, c) = (chain[0], chain[1], chain[2])
        var hops: [Kind] = scenarios.contains("hop") ? [.small, .large] : []
        if scenarios.contains("hop-q1") { hops.append(.guaranteed) }
        for kind in hops {
            open("hop-\(kind.rawValue)") { name in
                try MeshLoop(
                    MeshPlans.make(name, kind), from: a, to: [b],
                    charged: [(.ingress, a.name, a.process), (.egress, b.name, b.process)],
                    over: MeshSender(first: chain),
                    baseline: "one-\(kind.rawValue)")
            }
            open("both-\(kind.rawValue)") { name in
                try MeshLoop(
                    MeshPlans.make(name, kind, subscribers: 2), from: a, to: [a, b],
                    charged: [(.ingress, a.name, a.process), (.egress, b.name, b.process)],
                    over: MeshSender(first: chain),
                    baseline: "one-\(kind.rawValue)")
            }
        }
        if scenarios.contains("fan4") {
            open("fan4-64") { name in
                try MeshLoop(
                    MeshPlans.make(name, .small, subscribers: 4), from: a, to: [c, c, c, c],
                    charged: Self.way(chain), over: MeshSender(first: chain), baseline: "one-64")
            }
        }
    }

    private func openTransits(_ chain: MeshChain, _ piped: MeshChain) {
        for kind in [Kind.small, .many] {
            open("transit-\(kind.rawValue)") { name in
                try MeshLoop(
                    MeshPlans.make(name, kind), from: chain[0], to: [chain[2]], charged: Self.way(chain),
                    over: MeshSender(first: chain), baseline: "one-\(kind.rawValue)")
            }
            open("pipe-\(kind.rawValue)") { name in
                guard let pipe = piped.pipe else { throw Failure("there is no relay between \(piped[0].name) and E") }
                return try MeshLoop(
                    MeshPlans.make(name, kind), from: piped[0], to: [piped[1]], charged: [(.pipe, "relay", pipe)],
                    over: MeshSender(first: piped), baseline: "")
            }
        }
    }

    private static func way(_ chain: MeshChain) -> [(role: MeshLoop.Role, name: String, process: Child)] {
        zip(chain.nodes, [.ingress, .transit, .egress] as [MeshLoop.Role]).map { ($1, $0.name, $0.process) }
    }

    private func measure(_ loop: MeshLoop, _ round: Int) throws {
        _ = try loop.measure(count: max(20, loop.count / 10))
        let measured = try loop.measure(count: loop.count)
        let events = Double(max(1, measured.window.messages))
        var shown: [String] = []
        for (who, cost) in zip(loop.charged, measured.costs) {
            let each = Double(cost) / 1e3 / events
            report.add(loop.name, who.role.rawValue, Self.cpu, "us", round: round, each)
            shown.append("\(who.name) \(Text.number(each)) us")
        }
        report.add(
            loop.name, Self.mesh, Table.rateMetric, "k/s", round: round, measured.window.thousandDeliveriesPerSecond)
        if loop.sender != nil {
            report.add(loop.name, Self.mesh, Self.framesMetric, "", round: round, Double(measured.frames) / events)
            report.add(loop.name, Self.mesh, Self.bytesMetric, "bytes", round: round, Double(measured.bytes) / events)
            shown.append("\(Text.number(events / Double(max(1, measured.frames)))) events/frame")
        }
        progress(
            "\(loop.name) round \(round + 1)/\(rounds): \(shown.joined(separator: ", ")) an event, "
                + "\(measured.window.deliveries) deliveries, 0 lost")
    }

    /// Per event that was published, of one process.
    static let cpu = "cpu_per_event"
    /// On the first link.
    static let framesMetric = "frames_per_event"
    static let bytesMetric = "bytes_per_event"
}

/// What came of the closed loops.
extension MeshCampaign {
    /// Per-node CPU of an event that crosses one link, beside a node alone.
    static let hopMust = 1.4
    /// Nanoseconds an event at the ingress, and a frame on the way.
    static let aboveMust = 150.0
    /// A node on the way to four subscribers, in percent of the node where they are.
    static let fanMust = 40.0

    private func cpu(_ loop: String, _ role: MeshLoop.Role) -> [Double] {
        report.values(loop, role.rawValue, Self.cpu)
    }

    private func frames(_ loop: String) -> [Double] { report.values(loop, Self.mesh, Self.framesMetric) }
    private func bytes(_ loop: String) -> [Double] { report.values(loop, Self.mesh, Self.bytesMetric) }

    /// One value of each round; nothing when a round is missing somewhere.
    func byRound(_ series: [[Double]], _ combine: ([Double]) -> Double) -> [Double]? {
        guard let count = series.first?.count, count > 0, series.allSatisfy({ $0.count == count }) else { return nil }
        return (0..<count).map { round in combine(series.map { $0[round] }) }
    }

    /// The goals that are no ratio to a node alone.
    func loopFigures() {
        for kind in MeshPlans.Kind.allCases.map(\.rawValue) {
            let series = [cpu("both-\(kind)", .ingress), cpu("one-\(kind)", .alone)]
            if let above = byRound(series, { ($0[0] - $0[1]) * 1e3 }) {
                limit(
                    "both-\(kind)", "ingress above one node, per event", "ns", above,
                    must: kind == MeshPlans.Kind.guaranteed.rawValue ? nil : Self.aboveMust)
            }
            transitFigures(kind)
        }
        if let share = byRound([cpu("fan4-64", .transit), cpu("fan4-64", .egress)], { 100 * $0[0] / $0[1] }) {
            limit("fan4-64", "CPU of transit / CPU of egress", "%", share, must: Self.fanMust)
        }
    }

    /// What B costs above what the relay takes for as many bytes.
    private func transitFigures(_ kind: String) {
        let (transit, pipe) = ("transit-\(kind)", "pipe-\(kind)")
        let series = [
            cpu(transit, .transit), frames(transit), bytes(transit), cpu(pipe, .pipe), bytes(pipe),
        ]
        /// Nanoseconds an event above the relay's for the same bytes.
        func above(_ round: [Double]) -> Double { (round[0] - round[3] / round[4] * round[2]) * 1e3 }
        guard let each = byRound(series, above),
            let frame = byRound(series, { above($0) / $0[1] }),
            let moving = byRound(series, { $0[3] / $0[4] * $0[2] * 1e3 / $0[1] })
        else { return }
        limit(transit, "relay, per frame for the same bytes", "ns", moving)
        limit(transit, "transit above the relay, per event", "ns", each)
        limit(transit, "transit above the relay, per frame", "ns", frame, must: Self.aboveMust)
    }

    /// CPU of each node per published event.
    func loopTable() -> [String] {
        var rows = [
            ["case", "node", "CPU us/event", "/ one node", "(must)", "verdict", "events/frame", "bytes/event", "k/s"]
        ]
        for loop in loops {
            let failed = report.hasFailed(loop.name, Self.mesh)
            for (index, who) in loop.charged.enumerated() {
                let cost = cpu(loop.name, who.role)
                let ratio = byRound([cost, cpu(loop.baseline, .alone)]) { $0[0] / $0[1] }
                let must = loop.name.hasPrefix("hop-") ? Self.hopMust : nil
                var row = ["\(index == 0 ? loop.name : "")", "\(who.name) \(who.role.rawValue)", Text.spread(cost)]
                row.append(ratio.map(Text.spread) ?? "")
                row.append(must.map { "<= \(Text.fixed($0, 1))" } ?? "")
                row.append(
                    failed ? "FAILED" : ratio.map { MeshFigure.verdict($0, must) } ?? "")
                if index == 0 {
                    let framesEach = report.median(loop.name, Self.mesh, Self.framesMetric)
                    row.append(framesEach.map { $0 > 0 ? Text.number(1 / $0) : "-" } ?? "")
                    row.append(report.median(loop.name, Self.mesh, Self.bytesMetric).map(Text.number) ?? "")
                    row.append(report.median(loop.name, Self.mesh, Table.rateMetric).map { Text.fixed($0, 0) } ?? "")
                }
                rows.append(row)
            }
        }
        guard rows.count > 1 else { return [] }
        return [
            "CPU per published event: median (min..max) of \(rounds) interleaved rounds; the ratio is that of rounds"
        ]
            + Text.columns(rows)
    }
}
