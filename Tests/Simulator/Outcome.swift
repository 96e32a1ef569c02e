import Foundation

/// What looks into what runs on the stations: the mesh's oracles, or nothing.
protocol Inspector: AnyObject {
    /// Called ten times a second: judges what must hold at any time, and tells the observer about calm and unrest.
    func look()
    /// Whether everybody agrees on everything that the scenario's cables allow.
    var isConverged: Bool { get }
    /// Whether everybody has a route to everybody whom the cables let it reach.
    var isConnected: Bool { get }
    /// What still differs, for the report.
    var difference: String { get }
    /// Whether nothing guaranteed is on its way any more.
    var isDrained: Bool { get }
    /// What must hold when everything is over.
    func judgeEnd()
}

/// How a run ended.
struct Outcome: Sendable {
    var scenario: Scenario
    var violations: [Violation]
    /// The same for the same scenario (I20).
    var trace: UInt64
    var happenings: Int
    var messages: Int
    var deliveries: Int
    /// Deliveries that were owed, all of which came if there is no violation.
    var judged: Int
    /// Milliseconds from the heal until all agreed.
    var convergence: Int

    var isClean: Bool { violations.isEmpty }
}

extension Play {
    /// For how long after the heal nodes may take to agree: links are dialled again after up to five seconds, and those
    /// that went up and down often are held back for up to 30.
    static let patience: UInt64 = 45_000_000
    /// After that there must be routes: links that are not needed may come later.
    static let patienceForRoutes: UInt64 = 15_000_000
    private static let step: UInt64 = 100_000

    /// Plays the scenario to its end, or to the first violation.
    func run(_ inspector: any Inspector) -> Outcome {
        let observer = observer
        let world = world
        world.onLook = { [unowned world] in
            inspector.look()
            world.plan(.look, at: world.now + Self.step)
        }
        world.plan(.look, at: 500_000)
        let goesOn = { observer.violations.isEmpty }
        let healed = UInt64(scenario.heal) * 1_000
        world.run(until: healed, while: goesOn)
        while goesOn(), !inspector.isConverged, world.now < healed + Self.patience {
            world.run(until: world.now + Self.step, while: goesOn)
            if world.now > healed + Self.patienceForRoutes, !inspector.isConnected {
                observer.violate("I6", "there are no routes 15 s after the heal: \(inspector.difference)")
            }
        }
        let convergence = Int((world.now - min(healed, world.now)) / 1_000)
        if goesOn(), !inspector.isConverged {
            observer.violate("I6", "no agreement \(convergence) ms after the heal: \(inspector.difference)")
        }
        // Everything is well: now each event must arrive, once.
        world.run(until: world.now + 4_000_000, while: goesOn)
        quieten()
        let end = world.now + 30_000_000
        world.run(until: world.now + Observer.transit + 500_000, while: goesOn)
        while goesOn(), !inspector.isDrained, world.now < end {
            world.run(until: world.now + Self.step, while: goesOn)
        }
        if goesOn(), !inspector.isDrained {
            observer.violate("I9", "guaranteed events are still on their way 30 s after the last was published")
        }
        if goesOn() { inspector.judgeEnd() }
        return Outcome(
            scenario: scenario, violations: observer.violations, trace: world.trace.value,
            happenings: world.trace.count, messages: observer.ledger.messages.count,
            deliveries: observer.ledger.deliveryCount, judged: observer.judged, convergence: convergence)
    }
}

extension Outcome {
    /// For people.
    var report: String {
        var lines = ["seed \(scenario.seed): \(scenario.shape.rawValue) of \(scenario.nodes) nodes"]
        if !scenario.missing.isEmpty { lines[0] += " without \(scenario.missing.map { "n\($0)" })" }
        lines += scenario.cables.map { "  cable \($0.label): \($0.delay) us + \($0.jitter)" }
        lines += scenario.faults.map { "  " + scenario.text($0) }
        lines.append("  heal: \(scenario.heal) ms")
        lines += violations.prefix(5).map { "  \($0.invariant) at \($0.at / 1_000) ms: \($0.text)" }
        lines.append(
            "  \(happenings) happenings, \(messages) messages, \(deliveries) deliveries, trace "
                + String(trace, radix: 16))
        return lines.joined(separator: "\n")
    }
}

/// A scenario that has failed once, with what failed: `Tests/Simulation/Replays/*.json`.
struct Replay: Codable {
    var scenario: Scenario
    var violation: Violation
    /// What was wrong, once somebody has found out.
    var cause = ""

    func encoded() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        return try encoder.encode(self)
    }

    init(scenario: Scenario, violation: Violation) {
        self.scenario = scenario
        self.violation = violation
    }

    init(_ data: Data) throws { self = try JSONDecoder().decode(Replay.self, from: data) }
}
