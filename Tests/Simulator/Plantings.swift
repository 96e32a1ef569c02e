#if DEBUG
    @testable import Mesh

    /// Mistakes, each with worlds in which it shows soon, and the invariants that it may break.
    struct Planting: Sendable {
        var name: String
        var sabotage: Sabotage
        var kinds: [Scenario.Fault.Kind] = []
        var shapes = Scenario.Shape.allCases
        var guaranteed = 50
        var retained = 0
        var groups = 0
        var nodes = 3...5
        /// Milliseconds between two publishes; 0 for what the seed says.
        var interval = 0
        /// Milliseconds that a fault lasts at least.
        var minLength = 0
        var invariants: Set<String>

        /// What the mesh heals by itself: no oracle may complain.
        static let harmless = [
            Planting(
                name: "no new epoch for a new life", sabotage: .epochKept, kinds: [.crash, .powerOff], invariants: []),
            Planting(name: "one change of interest in four lost", sabotage: .deltasLost, invariants: []),
        ]

        static let all = [
            Planting(
                name: "every node breaks ties in its own way", sabotage: .tieOfItsOwn, shapes: [.grid],
                guaranteed: 0, nodes: 9...9, invariants: ["I2"]),
            Planting(
                name: "no epoch in comparisons", sabotage: .epochIgnored, kinds: [.crash, .powerOff],
                invariants: ["I5", "I6"]),
            Planting(
                name: "time to live not decremented", sabotage: .timeToLiveKept, shapes: [.line, .star],
                invariants: ["I3"]),
            Planting(
                name: "destinations not split", sabotage: .destinationsNotSplit, shapes: [.star, .bridges],
                invariants: ["I1", "I2", "I3", "I4"]),
            Planting(
                name: "salvage without deduplication", sabotage: .lateDelivered, kinds: [.reset, .flap, .slow],
                shapes: [.ring, .full], guaranteed: 0, invariants: ["I4", "I11"]),
            Planting(
                name: "streams without deduplication", sabotage: .streamDoubled, kinds: [.reset, .flap, .silence],
                guaranteed: 100, invariants: ["I4", "I10"]),
            Planting(
                name: "streams that do not send again", sabotage: .streamForgotten, kinds: [.silence, .isolate],
                guaranteed: 100, invariants: ["I9"]),
            Planting(
                name: "streams that go on with old numbers", sabotage: .streamNotRenumbered, kinds: [.crash],
                guaranteed: 100, invariants: ["I2", "I9"]),
            Planting(
                name: "groups of all nodes have a share", sabotage: .sharesForAll, groups: 2,
                invariants: ["I4", "I16", "I2"]),
            Planting(
                name: "interest not repaired", sabotage: [.interestNotRepaired, .deltasLost], invariants: ["I6"]),
            Planting(
                name: "interest of the unreachable forgotten", sabotage: .interestForgotten,
                kinds: [.partition, .isolate], guaranteed: 100, invariants: ["I9"]),
            Planting(
                name: "retained events not compared", sabotage: .retainedNotCompared,
                kinds: [.partition, .isolate, .crash], retained: 60, invariants: ["I9", "I17"]),
            Planting(
                name: "tombstones dropped", sabotage: .tombstonesDropped, kinds: [.partition, .isolate],
                guaranteed: 0, retained: 100, interval: 1_500, minLength: 4_000, invariants: ["I9", "I17"]),
        ]

        /// A world to try it in.
        func scenario(_ seed: UInt64) -> Scenario {
            var size = Scenario.Size()
            size.nodes = nodes
            size.active = 2_000...6_000
            size.kinds = kinds
            size.shapes = shapes
            var scenario = Scenario(seed: seed, size: size)
            scenario.load.guaranteed = guaranteed
            scenario.load.retained = retained
            scenario.load.groups = max(groups, scenario.load.groups)
            scenario.load.large = 0
            for index in scenario.faults.indices {
                scenario.faults[index].length = max(minLength, scenario.faults[index].length)
            }
            if interval > 0 { scenario.load.interval = interval }
            return scenario
        }

        /// The first of some seeds whose world shows the mistake.
        func find(_ seeds: Range<UInt64>) -> Outcome? {
            for seed in seeds {
                let outcome = Play.mesh(scenario(seed), sabotage: sabotage.rawValue)
                if let first = outcome.violations.first, invariants.contains(first.invariant) { return outcome }
            }
            return nil
        }
    }
#endif
