/// Makes a failing scenario smaller: fewer faults, then fewer nodes, then less load and less time, as long as the same
/// invariant is violated.
struct Shrinking {
    private(set) var best: Outcome
    private let invariant: String
    private let play: (Scenario) -> Outcome
    private(set) var runs = 0
    private let maxRuns: Int

    init?(_ outcome: Outcome, maxRuns: Int = 150, play: @escaping (Scenario) -> Outcome) {
        guard let first = outcome.violations.first else { return nil }
        best = outcome
        invariant = first.invariant
        self.play = play
        self.maxRuns = maxRuns
    }

    private mutating func attempt(_ change: (inout Scenario) -> Void) -> Bool {
        guard runs < maxRuns else { return false }
        var scenario = best.scenario
        change(&scenario)
        guard scenario != best.scenario else { return false }
        runs += 1
        let outcome = play(scenario)
        guard outcome.violations.first?.invariant == invariant else { return false }
        best = outcome
        return true
    }

    mutating func shrink() -> Outcome {
        dropFaults()
        dropNodes()
        lighten()
        cutTime()
        dropFaults()
        return best
    }

    /// Halves, quarters, single ones.
    private mutating func dropFaults() {
        var size = best.scenario.faults.count
        while size > 0 {
            var start = 0
            while start < best.scenario.faults.count {
                let end = min(start + size, best.scenario.faults.count)
                if !attempt({ $0.faults.removeSubrange(start..<end) }) { start = end }
            }
            size /= 2
        }
    }

    private mutating func dropNodes() {
        for node in (0..<best.scenario.nodes).reversed() where !best.scenario.missing.contains(node) {
            guard best.scenario.nodes - best.scenario.missing.count > 2 else { return }
            _ = attempt { $0.missing.append(node) }
        }
    }

    private mutating func lighten() {
        _ = attempt { $0.load.restless = 0 }
        _ = attempt { $0.load.large = 0 }
        _ = attempt { $0.load.retained = 0 }
        _ = attempt { $0.load.groups = 0 }
        _ = attempt { $0.load.guaranteed = 0 }
        _ = attempt { $0.load.guaranteed = 100 }
        _ = attempt { $0.load.publishers = 1 }
        _ = attempt { $0.load.subscribers = 1 }
        while attempt({ $0.load.interval *= 2 }), best.scenario.load.interval < 2_000 {}
        _ = attempt { scenario in for index in scenario.cables.indices { scenario.cables[index].jitter = 0 } }
        _ = attempt { scenario in for index in scenario.cables.indices { scenario.cables[index].delay = 200 } }
    }

    private mutating func cutTime() {
        for index in best.scenario.faults.indices.reversed() {
            while best.scenario.faults[index].length > 20,
                attempt({ $0.faults[index].length /= 2 })
            {}
        }
        while best.scenario.heal > Scenario.calmStart,
            attempt({ $0.heal = max(Scenario.calmStart, ($0.heal + Scenario.calmStart) / 2) })
        {}
        _ = attempt { $0.joinsFully = false }
    }
}
