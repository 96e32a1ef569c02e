import Core
import Testing

@testable import Mesh

@Suite("Interest among nodes")
struct InterestTests {
    /// A ring with a chord.
    static func ring(_ count: Int, seed: UInt64, maxFilters: Int = 1_000_000) -> InterestWorld {
        let world = InterestWorld(seed: seed, nodes: count, maxFilters: maxFilters)
        for number in 0..<count {
            world.addWire(number, (number + 1) % count, delay: UInt64(1 + world.random.below(15)))
        }
        if count > 3 { world.addWire(0, count / 2, delay: 4) }
        return world
    }

    @Test("A subscription is known everywhere within a batch and the way, in one frame on each link of the tree")
    func oneChange() {
        let world = Self.ring(5, seed: 1)
        world.run(for: 2_000)
        #expect(world.differences().isEmpty)
        let (frames, bytes) = (world.frames, world.bytes)
        world.nodes[2].subscribe("region/north/site/17/device/1000234/state")
        world.run(for: 60)
        #expect(world.differences().isEmpty)
        #expect(world.nodes.allSatisfy { $0.number == 2 || $0.content(of: 2).count == 1 })
        #expect(world.frames - frames == 4, "one frame to each other node")
        print("interest: a single change takes \((world.bytes - bytes) / 4) bytes on a link")
        #expect((world.bytes - bytes) / 4 <= 120)
        world.nodes[2].unsubscribe("region/north/site/17/device/1000234/state")
        world.run(for: 60)
        #expect(world.differences().isEmpty && world.nodes[0].content(of: 2).isEmpty)
    }

    @Test("After faults have stopped everybody has everything", arguments: 1...24)
    func randomFaults(_ seed: Int) {
        let world = Self.ring(4 + seed % 4, seed: UInt64(seed))
        world.loses = seed % 3 == 0 ? 20 : 0
        var subscribed: [[String]] = Array(repeating: [], count: world.nodes.count)
        for _ in 0..<150 {
            world.run(for: UInt64(world.random.below(60)))
            let number = world.random.below(world.nodes.count)
            switch world.random.below(20) {
            case 0:
                world.restart(number)
                subscribed[number] = []
            case 1, 2: world.down(world.random.below(world.wires.count))
            case 3, 4, 5: world.up(world.random.below(world.wires.count))
            case 6...14:
                for _ in 0..<1 + world.random.below(30) {
                    let filter = InterestWords.filter(&world.random)
                    subscribed[number].append(filter)
                    world.nodes[number].subscribe(filter)
                }
            default:
                for _ in 0..<1 + world.random.below(20) {
                    guard let filter = subscribed[number].randomElement(using: &world.random) else { break }
                    subscribed[number].removeAll { $0 == filter }
                    world.nodes[number].unsubscribe(filter)
                }
            }
        }
        world.loses = 0
        for wire in world.wires.indices { world.up(wire) }
        world.run(for: 6_000)
        #expect(world.differences() == [], "seed \(seed)")
        #expect(Set(world.nodes.map { $0.interest?.digest }).count == 1)
        #expect(world.nodes.allSatisfy { $0.refusals.isEmpty && $0.interest?.isSynchronised == true })
        for node in world.nodes {
            // Nothing is left of former lives or of sets that were given up.
            let known = world.nodes.indices.filter { $0 != node.number }.map { node.content(of: $0).count }
            #expect(node.router.remoteFilterCount == known.reduce(0, +), "seed \(seed)")
        }
    }
}

/// Random filters from few words.
enum InterestWords {
    static let levels = ["a", "b", "c", "dd", "site-17", "ü", ""]

    static func filter(_ random: inout InterestRandom) -> String {
        var parts = (0...random.below(4)).map { _ in random.once(in: 5) ? "+" : random.pick(levels) }
        if random.once(in: 6) { parts.append("#") }
        let text = parts.joined(separator: "/")
        if text.isEmpty { return "empty" }
        return random.once(in: 8) ? "$share/\(random.pick(["g", "h"]))/\(text)" : text
    }
}
