import TestSupport
import Testing

@testable import Mesh

/// Many link states: what they agree on once nothing changes any more, whatever happened before.
@Suite struct LinkStateMeshTests {
    /// A connected mesh with random links besides.
    static func mesh(seed: UInt64, nodes: Int, links: Int, transit: Bool = true) -> LinkStateWorld {
        let world = LinkStateWorld(seed: seed)
        for node in 0..<nodes {
            var settings = LinkStateSettings()
            settings.isTransit = transit || node % 5 != 4
            world.add(settings)
        }
        for node in 1..<nodes {
            world.connect(node, Int(world.random.next() % UInt64(node)), delay: 1 + world.random.next() % 20)
        }
        while world.wires.count < links {
            let a = Int(world.random.next() % UInt64(nodes))
            let b = Int(world.random.next() % UInt64(nodes))
            guard a != b else { continue }
            world.connect(
                a, b, delay: 1 + world.random.next() % 20, cost: UInt32(1 + world.random.next() % 3))
        }
        return world
    }

    /// All nodes that are connected know the same, and have the routes that the real links give.
    static func check(_ world: LinkStateWorld, _ note: Comment) {
        let graph = world.truth()
        let expected = ReferencePaths(graph)
        let alive = world.nodes.indices.filter { world.isAlive[$0] }
        #expect(world.malformed.isEmpty, note)
        #expect(world.regressions == 0, note)
        for node in alive {
            let state = world.nodes[node].state!
            #expect(state.isSynchronised || graph.edges(of: node).isEmpty, note)
            for other in alive where other != node {
                let index = world.nodes[node].nodes.known(world.nodes[other].id)
                guard let sum = expected.sums[node][other] else {
                    #expect(index.map { !state.routes.isReachable($0) } ?? true, note)
                    continue
                }
                guard let index else {
                    Issue.record("node \(node) does not know \(other), \(note)")
                    continue
                }
                #expect(state.digest == world.nodes[other].state.digest, note)
                #expect(state.routes.distances[index] == sum.cost, note)
                #expect(
                    [state.routes.link(to: index)] == expected.firstEdges(node, other).map { Int($0.link) }, note)
                // Everybody knows everybody's newest advertisement, number and epoch.
                let theirs = world.nodes[other]
                #expect(state.node(index)?.version == theirs.state.node(NodeTable.own)?.version, note)
                #expect(world.nodes[node].nodes[index].epoch == theirs.nodes[NodeTable.own].epoch, note)
                let number = theirs.nodes[NodeTable.own].shortID
                #expect(number != 0, note)
                #expect(world.nodes[node].nodes.node(shortID: number) == index, note)
            }
        }
        checkTrees(world, graph, expected, alive, note)
    }

    /// Whatever a node floods reaches each other node that it can reach exactly once.
    private static func checkTrees(
        _ world: LinkStateWorld, _ graph: LinkGraph, _ expected: ReferencePaths, _ alive: [Int], _ note: Comment
    ) {
        for origin in alive {
            var parents = [Int](repeating: 0, count: world.nodes.count)
            for node in alive {
                guard let index = world.nodes[node].nodes.known(world.nodes[origin].id) else { continue }
                for link in world.nodes[node].state.routes.children(of: index) {
                    let wire = world.wires[link - 1]
                    parents[wire.a == node ? wire.b : wire.a] += 1
                }
            }
            for node in alive {
                let isReached = node != origin && expected.sums[node][origin] != nil
                #expect(parents[node] == (isReached ? 1 : 0), "origin \(origin), node \(node), \(note)")
            }
        }
    }

    @Test func aMeshAgrees() {
        for seed in UInt64(1)...12 {
            let world = Self.mesh(seed: seed, nodes: 4 + Int(seed) % 9, links: 20, transit: seed % 2 == 0)
            world.run(4_000)
            Self.check(world, "seed \(seed)")
        }
    }

    @Test func theSameSeedGivesTheSameRun() {
        func run() -> ([UInt64], Int, [[WorldNode.Event]]) {
            let world = Self.mesh(seed: 5, nodes: 10, links: 20)
            world.run(1_500)
            world.down(3)
            world.restart(2)
            world.run(3_000)
            return (world.nodes.map(\.state.digest), world.frames, world.nodes.map(\.told))
        }
        let (first, second) = (run(), run())
        #expect(first.0 == second.0)
        #expect(first.1 == second.1)
        #expect(first.2 == second.2)
    }

    /// A ring: a link goes down, and 40 ms later everybody goes the other way; it comes up, and all is as before.
    @Test func aRingHeals() {
        let world = LinkStateWorld(seed: 3)
        for _ in 0..<5 { world.add() }
        for node in 0..<5 { world.connect(node, (node + 1) % 5, delay: 2) }
        world.run(4_000)
        Self.check(world, "whole")
        let before = world.nodes.map { $0.state.routes.links }
        world.down(2)
        world.run(40)
        Self.check(world, "cut")
        world.up(2)
        world.run(1_000)
        Self.check(world, "healed")
        #expect(world.nodes.map { $0.state.routes.links } == before)
    }

    /// Links come and go and nodes crash, at random; afterwards all is right.
    @Test func afterFaultsAllIsRight() {
        for seed in UInt64(100)...109 {
            let world = Self.mesh(seed: seed, nodes: 9, links: 18, transit: seed % 3 != 0)
            world.run(1_000)
            for _ in 0..<40 {
                let wire = Int(world.random.next() % UInt64(world.wires.count))
                switch world.random.next() % 10 {
                case 0...4: world.down(wire, noticedWithin: [0, 5, 400][Int(world.random.next() % 3)])
                case 5...7: world.up(wire)
                case 8: world.restart(Int(world.random.next() % 9), epochStep: world.random.next() % 2)
                default: world.crash(Int(world.random.next() % 9))
                }
                world.run(world.random.next() % 400)
            }
            for node in world.nodes.indices where !world.isAlive[node] { world.restart(node) }
            world.run(1_000)
            for wire in world.wires.indices { world.up(wire) }
            // Those who flapped most wait 30 s, and the number of a node that lost the draw is claimed again.
            world.run(35_000)
            Self.check(world, "seed \(seed)")
        }
    }

    /// Two halves, both of which change while they are apart; then one link joins them.
    @Test func aPartitionHeals() {
        let world = LinkStateWorld(seed: 11)
        for node in 0..<8 {
            // Numbers are claimed twice, once in each half.
            world.add(LinkStateSettings(shortID: UInt16(1 + node % 4)))
        }
        for half in [0, 4] { for node in 0..<4 { world.connect(half + node, half + (node + 1) % 4) } }
        world.run(5_000)
        Self.check(world, "apart")
        world.restart(1)
        world.restart(6)
        world.run(5_000)
        world.connect(0, 4)
        world.run(1_000)
        Self.check(world, "together")
        #expect(Set(world.nodes.map { $0.nodes[NodeTable.own].shortID }).count == 8)
        // Apart for longer than advertisements are good for: the others have left, and come back.
        world.down(world.wires.count - 1)
        world.run(310_000)
        let gone = world.nodes[0].told.filter { if case .left = $0 { true } else { false } }
        #expect(gone.count == 4)
        #expect(world.nodes[0].state.nodes.count == 4)
        world.up(world.wires.count - 1)
        world.run(2_000)
        Self.check(world, "together again")
        #expect(world.nodes[0].state.nodes.count == 8)
    }

    /// A restart that no neighbour has noticed before: the old links' frames and nonces count for nothing.
    @Test func aFastRestartIsNotTakenForTheOldLife() {
        for step in [UInt64(1), 0] {
            let world = LinkStateWorld(seed: 21 + step)
            for _ in 0..<4 { world.add() }
            for node in 0..<3 { world.connect(node, node + 1) }
            world.run(4_000)
            for node in [3, 1] {
                world.nodes[0].told = []
                world.restart(node, epochStep: step)
                world.run(1_000)
                Self.check(world, "node \(node), step \(step)")
                let index = world.nodes[0].nodes.known(world.nodes[node].id)!
                #expect(world.nodes[0].told.contains(.changed(index, isRestart: true)))
            }
            world.restart(3)
            world.restart(1)
            world.run(1_000)
            Self.check(world, "both, step \(step)")
        }
    }

    /// Frames get lost, come twice and late: comparing digests in hellos mends what flooding has missed.
    @Test func lostFramesAreMended() {
        for seed in UInt64(200)...205 {
            let world = Self.mesh(seed: seed, nodes: 8, links: 12)
            world.trouble = 300
            world.run(4_000)
            for _ in 0..<6 {
                let wire = Int(world.random.next() % UInt64(world.wires.count))
                world.down(wire)
                world.run(300)
                world.up(wire)
                world.restart(Int(world.random.next() % 8))
                world.run(700)
            }
            // Still losing; then not.
            world.run(15_000)
            #expect(Set(world.nodes.map(\.state.digest)).count == 1, "seed \(seed)")
            world.trouble = 0
            world.run(35_000)
            Self.check(world, "seed \(seed)")
            #expect(world.nodes.reduce(0) { $0 + $1.state.counters.repairs } > 0)
        }
    }

    /// Everybody wants the same number.
    @Test func numbersAreSharedOut() {
        let world = LinkStateWorld(seed: 51)
        for _ in 0..<16 { world.add(LinkStateSettings(shortID: 1)) }
        for node in 1..<16 { world.connect(node, node / 2) }
        world.run(5_000)
        Self.check(world, "numbers")
        #expect(Set(world.nodes.map { $0.nodes[NodeTable.own].shortID }).count == 16)
        #expect(world.nodes.allSatisfy { $0.state.node(NodeTable.own)?.isJoining == false })
    }

    /// Two processes with one id, at different ends of a chain, alive before they hear of each other: the one with the
    /// larger instance leaves within a second, and the others end up with the one that stays.
    @Test func aCloneElsewhereIsNoticed() {
        for seed in UInt64(61)...66 {
            let world = LinkStateWorld(seed: seed)
            for _ in 0..<4 { world.add() }
            world.add(id: world.nodes[0].id)
            for (a, b) in [(0, 1), (1, 2), (3, 4)] { world.connect(a, b) }
            world.run(4_000)
            world.connect(2, 3)
            world.run(1_000)
            let instances = [0, 4].map { world.nodes[$0].nodes[NodeTable.own].instance }
            let (leaves, stays) = instances[0] < instances[1] ? (4, 0) : (0, 4)
            #expect(world.nodes[leaves].told.contains(.mustLeave), "seed \(seed)")
            #expect(!world.nodes[stays].told.contains(.mustLeave), "seed \(seed)")
            #expect(world.nodes[stays].state.counters.raises < 8)
            world.crash(leaves)
            world.run(5_000)
            Self.check(world, "seed \(seed)")
        }
    }

    @Test func aDrainingNodeIsAvoided() {
        let world = LinkStateWorld(seed: 31)
        for _ in 0..<4 { world.add() }
        for (a, b, cost) in [(0, 1, 1), (1, 2, 1), (0, 3, 100), (3, 2, 100)] {
            world.connect(a, b, cost: UInt32(cost))
        }
        world.run(4_000)
        let two = world.nodes[0].nodes.known(world.nodes[2].id)!
        #expect(world.routes(0).link(to: two) == 1)
        world.nodes[1].state.setDraining(true)
        world.at(world.now, .action {})
        world.run(200)
        #expect(world.routes(0).link(to: two) == 3)
        #expect(world.routes(0).isReachable(world.nodes[0].nodes.known(world.nodes[1].id)!))
    }

    // MARK: Storms

    /// 10,000 a second from one origin, and as many from ever new ones: little is taken, passed on and computed.
    @Test func stormsAreBounded() {
        let node = LinkStateTests.node()
        node.establish(1, to: LinkStateTests.id(1))
        node.establish(2, to: LinkStateTests.id(2))
        node.sent = []
        for n in 0..<20_000 {
            node.advance(to: 1_000 + UInt64(n) / 10)
            let low = n % 2 == 0 ? 5 : UInt64(1_000 + n)
            node.receive(
                LinkStateTests.advertisement(of: low, sequence: UInt64(n + 1), shortID: UInt16(n)).frame(), from: 1)
        }
        let counters = node.state.counters
        #expect(counters.refusedForRate > 9_900)
        #expect(counters.refusedForNodes == 10_000 - 1_022)
        #expect(node.state.nodes.count == LinkStateDatabase.maxNodes)
        #expect(node.nodes.count <= LinkStateDatabase.maxNodes + 2)
        #expect(node.sent.count < 1_200)
        #expect(counters.computations < 2_000)
        #expect(node.lines.count < 5, "one line a minute")
        // It ends: the newest is taken from whoever has it.
        node.advance(to: 4_000)
        node.receive(LinkStateTests.advertisement(of: 5, sequence: 30_000).frame(), from: 2)
        #expect(node.state.node(node.nodes.known(LinkStateTests.id(5))!)?.version.sequence == 30_000)
    }

    /// A mesh of 40 nodes: how many frames a change takes, printed, and that it converges.
    @Test func aLargeMeshConverges() {
        let world = Self.mesh(seed: 77, nodes: 40, links: 80)
        world.run(6_000)
        let frames = world.frames
        world.down(60, noticedWithin: 0)
        var converged: UInt64 = 0
        while Set(world.nodes.map(\.state.digest)).count > 1 || converged == 0 {
            world.run(5)
            converged += 5
            guard converged < 2_000 else { break }
        }
        print("40 nodes, 80 links: \(world.frames - frames) frames, \(converged) ms for a link that goes down")
        #expect(converged < 500)
        world.run(100)
        Self.check(world, "40")
    }
}
