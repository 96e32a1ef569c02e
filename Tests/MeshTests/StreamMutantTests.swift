import Testing
import TestSupport

@testable import Mesh

/// The oracle finds what is wrong: mistakes made on purpose.
@Suite("Planted mistakes in streams") struct StreamMutantTests {
    private func scenario(for mutant: StreamMutant) -> StreamScenario {
        var scenario = StreamScenario()
        (scenario.lost, scenario.doubled, scenario.settling) = (100, 50, 60)
        scenario.patience = 30_000
        scenario.mutant = mutant
        switch mutant {
        case .settlesEarly, .ignoresLives:
            (scenario.destinationRestarts, scenario.reroutes) = (3, 4)
            scenario.settling = 100
        case .skipsVoids: (scenario.expiring, scenario.expiry) = (500, 30)
        case .forgetsRefusals: scenario.homeless = 200
        case .forgetsDuplicates, .doesNotWait: break
        }
        return scenario
    }

    @Test(arguments: StreamMutant.allCases) func isCaught(mutant: StreamMutant) {
        var caught = 0
        var scenario = scenario(for: mutant)
        for seed in 0..<5 {
            if StreamNetwork(scenario, stream: 100 + UInt64(seed)).run() != nil { caught += 1 }
        }
        #expect(caught > 0)
        // And it is the mistake that is found.
        scenario.mutant = nil
        for seed in 0..<5 {
            let network = StreamNetwork(scenario, stream: 100 + UInt64(seed))
            let failure = network.run()
            #expect(failure == nil, "run \(seed): \(failure ?? ""); \(network.random.note)")
        }
    }
}
