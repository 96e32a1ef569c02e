internal import ArgumentParser
internal import Glibc

/// Two and three nodes beside one.
struct MeshBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mesh",
        abstract: "Measures the mesh: CPU of each node on an event's way, latency of a hop, bytes and memory.",
        discussion: """
            Nodes are chained on loopback, A-B-C, and each is charged with its own CPU time. A lost, doubled or \
            reordered event is a failure: it is printed and the exit code is 1.

            Scenarios: \(MeshCampaign.scenarioNames.joined(separator: ", ")).

            Examples:
              apus-bench mesh                                   everything, nine rounds
              apus-bench mesh --quick                           three short rounds
              apus-bench mesh --scenarios hop,lat               some of it
              apus-bench mesh --apus .build/release/apus --json mesh.json
            """)

    @Option(help: "Comma-separated scenarios; default: all.")
    var scenarios: String?

    @Option(help: "Interleaved rounds (default: 9, quick: 3).")
    var rounds: Int?

    @Option(help: "Seconds of one measured window (default: 0.5, quick: 0.25).")
    var seconds: Double?

    @Option(help: "The node's executable; default: apus beside this one.")
    var apus: String?

    @Option(help: "Lanes of each node.")
    var lanes = 1

    @Option(help: "Write all raw figures to this file.")
    var json: String?

    @Flag(help: "Three short rounds, fewer filters.")
    var quick = false

    func validate() throws {
        guard rounds ?? 1 > 0, seconds ?? 1 > 0, lanes > 0 else {
            throw ValidationError("--rounds, --seconds and --lanes must be positive")
        }
        for name in names where !MeshCampaign.scenarioNames.contains(name) {
            throw ValidationError(
                "unknown scenario \(name); there are: \(MeshCampaign.scenarioNames.joined(separator: ", "))")
        }
    }

    var names: [String] { scenarios?.split(separator: ",").map(String.init) ?? MeshCampaign.scenarioNames }

    mutating func run() throws {
        Child.killAllAtExit()
        raiseDescriptorLimit()
        let node = Child.node(apus)
        guard access(node, X_OK) == 0 else {
            throw ValidationError("no executable \(node): build the node, or give --apus")
        }
        let campaign = MeshCampaign(self, node: node)
        campaign.run()
        for line in campaign.table() { say(line) }
        try campaign.report.conclude(
            settings: [
                "rounds": "\(campaign.rounds)", "seconds": "\(campaign.seconds)", "lanes": "\(lanes)",
                "scenarios": names.joined(separator: ","), "quick": "\(quick)",
            ], json: json)
    }
}

/// The rounds of `mesh`, and what came of them.
final class MeshCampaign {
    let options: MeshBench
    let node: String
    let report = Report()
    var figures: [MeshFigure] = []
    /// The closed loops that were measured, in the order of the table.
    var loops: [MeshLoop] = []

    /// The scenarios with a closed loop; they share nodes and rounds.
    static let loopNames = ["one", "hop", "transit", "fan4", "hop-q1"]
    static let scenarioNames = loopNames + ["lat", "bytes", "filters", "idle"]
    /// Whom a failure is charged to: with several nodes nobody knows yet.
    static let mesh = "mesh"

    init(_ options: MeshBench, node: String) {
        self.options = options
        self.node = node
    }

    var rounds: Int { options.rounds ?? (options.quick ? 3 : 9) }
    var seconds: Double { options.seconds ?? (options.quick ? 0.25 : 0.5) }

    func run() {
        let names = options.names
        let closed = Self.loopNames.filter(names.contains)
        if !closed.isEmpty { attempt("start") { try closedLoops(closed) } }
        if names.contains("lat") { attempt("lat") { try latency() } }
        if names.contains("bytes") { attempt("bytes") { try controlBytes() } }
        if names.contains("filters") { attempt("filters") { try filters() } }
        if names.contains("idle") { attempt("idle") { try idle() } }
    }

    /// Runs a step; a failure is recorded and does not end the campaign.
    @discardableResult
    func attempt(_ scenario: String, _ step: () throws -> Void) -> Bool {
        do {
            try step()
            return true
        } catch {
            report.fail(scenario, Self.mesh, "\(error)")
            return false
        }
    }

    func chain(_ names: [String], hasPipe: Bool = false) throws -> MeshChain {
        try MeshChain(names, apus: node, lanes: options.lanes, hasPipe: hasPipe)
    }

    /// A node without a mesh.
    func nodeAlone() throws -> MeshNode {
        try MeshNode("alone", apus: node, lanes: options.lanes, isMesh: false, neighbour: nil)
    }

    /// Records a figure for the second table and shows it.
    func figure(_ scenario: String, _ what: String, _ unit: String, _ value: Double, must: Double? = nil) {
        report.add(scenario, Self.mesh, what, unit, value)
        limit(scenario, what, unit, [value], must: must)
        progress("\(scenario) \(what): \(Text.number(value)) \(unit)")
    }

    /// A line of the second table.
    /// - Parameter values: one of each round, at least one.
    func limit(_ scenario: String, _ what: String, _ unit: String, _ values: [Double], must: Double? = nil) {
        figures.append(MeshFigure(scenario: scenario, what: what, unit: unit, values: values, must: must))
    }

    func table() -> [String] {
        loopFigures()
        var lines = loopTable()
        if !figures.isEmpty {
            if !lines.isEmpty { lines.append("") }
            lines += figureTable()
        }
        return lines
    }

    private func figureTable() -> [String] {
        let rows = figures.map { figure in
            [
                figure.scenario, figure.what,
                figure.values.count == 1 ? Text.number(figure.values[0]) : Text.spread(figure.values), figure.unit,
                figure.must.map { "<= " + Text.number($0) } ?? "",
                report.hasFailed(figure.scenario, Self.mesh)
                    ? "FAILED" : MeshFigure.verdict(figure.values, figure.must),
            ]
        }
        return ["Other figures: median (min..max) of rounds"]
            + Text.columns([["scenario", "figure", "value", "unit", "must", "verdict"]] + rows)
    }
}

/// A figure with one value of each round.
struct MeshFigure {
    let scenario: String
    let what: String
    let unit: String
    let values: [Double]
    var must: Double?

    /// Whether a limit is kept. Where the rounds do not agree, because the limit lies between their quartiles, nothing
    /// has been shown either way.
    static func verdict(_ values: [Double], _ must: Double?) -> String {
        guard let must, !values.isEmpty else { return "" }
        let sorted = values.sorted()
        let (lower, upper) = (sorted[(sorted.count - 1) / 4], sorted[sorted.count - 1 - (sorted.count - 1) / 4])
        if upper <= must { return "ok" }
        return lower > must ? "MISSES" : "unclear"
    }
}
