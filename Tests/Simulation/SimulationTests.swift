import Core
import Testing

@testable import Mesh
@testable import Simulator

/// The simulator's own parts: numbers, network, loop. What it says of the mesh is worth no more than these.
@Suite struct SimulatorTests {
    @Test func numbersAreTheSameForTheSameSeed() {
        var a = Randomness(seed: 7)
        var b = Randomness(seed: 7)
        #expect((0..<100).allSatisfy { _ in a.next() == b.next() })
        var split = a.split(1)
        var other = a.split(2)
        #expect(split.next() != other.next())
        var counts = [Int](repeating: 0, count: 10)
        for _ in 0..<10_000 { counts[a.zipf(10)] += 1 }
        #expect(counts[0] > counts[5] && counts[5] > 100)
    }

    @Test func scenariosAreTheSameForTheSameSeedAndWhole() throws {
        for seed in 0..<200 as Range<UInt64> {
            let scenario = Scenario(seed: seed)
            #expect(scenario == Scenario(seed: seed))
            let copy = try Replay(
                Replay(scenario: scenario, violation: Violation(invariant: "I1", text: "", at: 0)).encoded())
            #expect(copy.scenario == scenario)
            #expect(scenario.cables.allSatisfy { $0.a != $0.b && $0.a < scenario.nodes && $0.b < scenario.nodes })
            for fault in scenario.faults {
                #expect(fault.at < scenario.heal)
                if fault.isAboutCable { #expect(fault.target < scenario.cables.count) }
                if fault.kind == .partition { #expect(fault.value > 0 && fault.value < 1 << scenario.nodes - 1) }
            }
            // Everybody can reach everybody.
            var reached: Set<Int> = [0]
            for _ in 0..<scenario.nodes {
                for cable in scenario.cables where reached.contains(cable.a) || reached.contains(cable.b) {
                    reached.formUnion([cable.a, cable.b])
                }
            }
            #expect(reached.count == scenario.nodes, "\(seed)")
        }
    }

    /// Whatever happens to cables and nodes: bytes arrive in order and whole, or the connection ends.
    @Test func connectionsDeliverInOrderOrEnd() {
        var received = 0
        var kinds: Set<CloseReason> = []
        for seed in 0..<8 as Range<UInt64> {
            let play = Play(Scenario(seed: seed)) { _, _ in CountingBrain() }
            play.world.run(until: UInt64(play.scenario.heal + 6_000) * 1_000)
            for station in play.world.stations {
                guard let brain = station.brain as? CountingBrain else { continue }
                #expect(brain.problems.isEmpty, "seed \(seed): \(brain.problems)")
                received += brain.received
                kinds.formUnion(brain.ends)
            }
            // After the heal every pair of neighbours is connected again.
            for cable in play.world.cables {
                #expect(cable.connections.contains { !$0.ends[0].isClosed && !$0.ends[1].isClosed }, "seed \(seed)")
            }
        }
        #expect(received > 10_000)
        #expect(kinds.contains(.connectionLost))
    }

    @Test func theSameSeedGivesTheSameTrace() {
        func trace(_ seed: UInt64) -> (UInt64, Int) {
            let play = Play(Scenario(seed: seed)) { _, _ in CountingBrain() }
            play.world.run(until: 15_000_000)
            return (play.world.trace.value, play.world.trace.count)
        }
        for seed in 0..<10 as Range<UInt64> {
            #expect(trace(seed) == trace(seed))
            #expect(trace(seed) != trace(seed + 1))
        }
    }
}

/// Sends numbers to its neighbours and checks those that come.
private final class CountingBrain: Brain {
    private unowned var station: Station!
    private(set) var problems: [String] = []
    private(set) var received = 0
    private(set) var ends: Set<CloseReason> = []

    func start(on station: Station) {
        self.station = station
        for cable in station.cables where cable.ends[0] == station.index { dial(cable) }
    }

    private func dial(_ cable: Cable) {
        let tag = UInt64(cable.ends[1] << 8 | cable.number)
        station.dial(to: cable.ends[1], cable: cable.number, tag: tag)
    }

    func accept(_ line: Line) -> Conversation { Counting(line, self, tag: nil) }
    func connected(_ line: Line, tag: UInt64) -> Conversation { Counting(line, self, tag: tag) }
    func dialFailed(tag: UInt64) {
        let life = station.life
        let station: Station = self.station
        station.world.plan(at: station.world.now + 500_000) {
            guard station.life == life, station.isRunning else { return }
            station.dial(to: Int(tag >> 8), cable: Int(tag & 0xFF), tag: tag)
        }
    }
    func passed() {}

    private final class Counting: Conversation {
        unowned let brain: CountingBrain
        unowned let line: Line
        let tag: UInt64?
        private static let size = 64
        private var ticks = 0
        private var sent: UInt64 = 0
        private var expected: UInt64 = 0
        private var heardAt: UInt64

        init(_ line: Line, _ brain: CountingBrain, tag: UInt64?) {
            self.brain = brain
            self.line = line
            self.tag = tag
            heardAt = line.lane.now
            super.init()
            line.tick(at: line.lane.now + 50)
        }

        override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
            var offset = 0
            while bytes.count - offset >= Self.size {
                let number = bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
                if number != expected { brain.problems.append("\(number) instead of \(expected)") }
                expected = number + 1
                offset += Self.size
                brain.received += 1
            }
            heardAt = lane.now
            return Progress(consumed: offset, verdict: .waiting)
        }

        override func tick(on lane: Lane) -> Result<UInt64?, CloseReason> {
            if lane.now > heardAt + 2_000 { return .failure(.keepAliveTimeout) }
            // More than a small window, and at times more than a socket takes.
            ticks += 1
            let count = ticks % 100 == 0 ? 6_000 : 5
            for _ in 0..<count where line.unsentBytes < 1 << 18 {
                let place = line.reserve(Self.size)
                place.initializeMemory(as: UInt8.self, repeating: 0, count: Self.size)
                place.storeBytes(of: sent, as: UInt64.self)
                line.cursor += Self.size
                sent += 1
            }
            return .success(lane.now + 50)
        }

        override func close(_ reason: CloseReason, on lane: Lane) {
            brain.ends.insert(reason)
            if let tag { brain.dialFailed(tag: tag) }
        }
    }
}
