import Testing
import TestSupport

@testable import Mesh

/// Streams over a network that does its worst: exactly once and in order while origin and destination live (I9, I10).
@Suite("Streams over an unkind network") struct StreamRunTests {
    static let scenarios: [String: StreamScenario] = {
        var all: [String: StreamScenario] = [:]
        all["kind"] = StreamScenario()
        var lossy = StreamScenario()
        (lossy.nodes, lossy.lost, lossy.doubled, lossy.settling) = (3, 100, 50, 20)
        all["lossy"] = lossy
        var overtaking = lossy
        (overtaking.overtakes, overtaking.jitter, overtaking.reroutes) = (true, 60, 8)
        all["overtaking"] = overtaking
        var tiny = lossy
        (tiny.settings.windowFrames, tiny.settings.windowBytes) = (4, 2_000)
        (tiny.settings.maxStreamBytes, tiny.settings.maxHeldBytes) = (4_000, 1_000)
        (tiny.settings.maxHeldBytesOfAll, tiny.events) = (1_500, 120)
        all["tiny"] = tiny
        var cut = lossy
        (cut.nodes, cut.cuts, cut.reroutes, cut.lost) = (4, 6, 6, 20)
        all["cut"] = cut
        var expiring = cut
        (expiring.expiring, expiring.settling) = (500, 5)
        all["expiring"] = expiring
        var forLong = cut
        (forLong.nodes, forLong.settings.patience, forLong.settings.maxStreamBytes) = (3, 500, 20_000)
        all["cut for long"] = forLong
        var restarting = lossy
        (restarting.destinationRestarts, restarting.settling, restarting.reroutes) = (3, 60, 4)
        all["destination restarts"] = restarting
        var dying = restarting
        (dying.originRestarts, dying.cuts) = (3, 2)
        all["both restart"] = dying
        var homeless = lossy
        (homeless.homeless, homeless.reroutes) = (200, 4)
        all["without member"] = homeless
        return all
    }()

    @Test(arguments: scenarios.keys.sorted()) func run(name: String) throws {
        let scenario = try #require(Self.scenarios[name])
        var totals = StreamCounters()
        for seed in 0..<10 {
            let network = StreamNetwork(scenario, stream: UInt64(seed))
            let failure = network.run()
            for node in network.all { totals.add(node.totals) }
            #expect(failure == nil, "\(name), run \(seed): \(failure ?? ""); \(network.random.note)")
            if failure != nil { break }
        }
        // The worst has really happened.
        #expect(totals.refused == 0)
        switch name {
        case "kind": #expect(totals.framesResent == 0 && totals.duplicates == 0)
        case "tiny": #expect(totals.held > 100 && totals.beyondWindow > 0)
        case "expiring": #expect(totals.voidsSent > 0 && totals.droppedExpired > 0)
        case "cut": #expect(totals.droppedUnreachable == 0 && totals.probesSent > 0)
        case "cut for long": #expect(totals.droppedUnreachable > 0 && totals.voidsSent > 0)
        case "destination restarts", "both restart": #expect(totals.renumbered > 0 && totals.framesResent > 0)
        case "without member": #expect(totals.noMember > 0 && totals.voidsSent > 0)
        default: #expect(totals.framesResent > 0 && totals.duplicates > 0 && totals.heldFrames > 0)
        }
    }

    @Test func theSameSeedGivesTheSameRun() throws {
        let scenario = try #require(Self.scenarios["both restart"])
        let traces = (0..<2).map { _ in
            let network = StreamNetwork(scenario, stream: 7)
            _ = network.run()
            return network.trace
        }
        #expect(traces[0] == traces[1])
    }
}
