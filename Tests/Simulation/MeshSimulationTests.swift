import Foundation
import Testing

@testable import Mesh
@testable import Simulator

/// The mesh in many worlds. `make simulate` plays a thousand in release; here are a few, and whatever has failed once.
@Suite struct MeshSimulationTests {
    @Test(arguments: 1...12 as ClosedRange<UInt64>) func seedsAreClean(_ seed: UInt64) {
        var size = Scenario.Size()
        size.nodes = 3...5
        size.active = 2_000...8_000
        let outcome = Play.mesh(Scenario(seed: seed, size: size))
        #expect(outcome.isClean, "\(outcome.report)")
        // An oracle that judges nothing proves nothing.
        #expect(outcome.messages > 20)
    }

    /// I20: the same seed, the same trace.
    @Test(arguments: [3, 20] as [UInt64]) func tracesAreTheSame(_ seed: UInt64) {
        let (first, second) = (Play.mesh(Scenario(seed: seed)), Play.mesh(Scenario(seed: seed)))
        #expect(first.trace == second.trace)
        #expect(first.happenings == second.happenings)
    }

    #if DEBUG
        /// Every other node is of a later version, which says more than the others understand.
        @Test(arguments: 101...106 as ClosedRange<UInt64>) func versionsLiveTogether(_ seed: UInt64) {
            var size = Scenario.Size()
            size.nodes = 3...6
            size.active = 2_000...6_000
            var scenario = Scenario(seed: seed, size: size)
            scenario.hasLater = true
            let outcome = Play.mesh(scenario)
            #expect(outcome.isClean, "\(outcome.report)")
            #expect(outcome.messages > 20)
            scenario.hasLater = false
            #expect(Play.mesh(scenario).trace != outcome.trace, "the later nodes have said nothing")
        }
    #endif

    /// Scenarios that have failed, made small: each must be clean now.
    @Test func replaysAreClean() throws {
        let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Replays")
        let files = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
        for file in files.sorted(by: { $0.path < $1.path }) where file.pathExtension == "json" {
            let replay = try Replay(Data(contentsOf: file))
            let outcome = Play.mesh(replay.scenario)
            #expect(outcome.isClean, "\(file.lastPathComponent) (\(replay.cause)): \(outcome.report)")
        }
    }

    #if DEBUG
        /// Whatever mistake is planted, some seed shows it: the oracles can fail.
        @Test(arguments: Planting.all) func plantedMistakesAreFound(_ planting: Planting) throws {
            let outcome = planting.find(1..<20)
            #expect(outcome != nil, "\(planting.name) was not found")
        }

        @Test(arguments: Planting.harmless) func whatHealsIsNotReported(_ planting: Planting) {
            for seed in 1..<3 as Range<UInt64> {
                let outcome = Play.mesh(planting.scenario(seed), sabotage: planting.sabotage.rawValue)
                #expect(outcome.isClean, "\(planting.name): \(outcome.report)")
            }
        }

        /// What is found can be made smaller and still shows the same.
        @Test func failuresAreMadeSmaller() throws {
            let planting = try #require(
                Planting.all.first { $0.name.contains("forgotten") })
            let outcome = try #require(planting.find(1..<10))
            let play = { Play.mesh($0, sabotage: planting.sabotage.rawValue) }
            var shrinking = try #require(Shrinking(outcome, maxRuns: 12, play: play))
            let least = shrinking.shrink()
            #expect(least.violations.first?.invariant == outcome.violations.first?.invariant)
            #expect(least.scenario.faults.count <= outcome.scenario.faults.count)
            #expect(play(least.scenario).violations == least.violations)
        }
    #endif
}
