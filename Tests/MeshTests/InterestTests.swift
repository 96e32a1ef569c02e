import Core
import Testing
import TestSupport

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

    @Test("What changes between the taking of many changes and their telling is told as well", arguments: 0..<30)
    func meanwhile(gap: Int) {
        let world = InterestWorld(seed: 1, nodes: 2)
        world.addWire(0, 1, delay: 2)
        world.run(for: 2_000)
        for number in 0..<2 * Int(Interest.burst) { world.nodes[0].subscribe("before/\(number)") }
        for number in 0..<200 { world.nodes[0].subscribe("many/\(number)") }
        world.run(for: UInt64(gap))
        world.nodes[0].subscribe("last")
        world.run(for: 1_000)
        #expect(world.differences().isEmpty && world.nodes[1].content(of: 0).contains("last true"))
    }

    @Test("What changes after a quiet time is told at once, and what goes on changing in batches")
    func atOnce() {
        let world = InterestWorld(seed: 1, nodes: 3)
        world.addWire(0, 1, delay: 2)
        world.addWire(1, 2, delay: 3)
        world.run(for: 2_000)
        for number in 0..<Int(Interest.burst) {
            world.nodes[0].subscribe("at/once/\(number)")
            world.run(for: 5)
            #expect(world.nodes[2].content(of: 0).count == number + 1, "nothing but the way is between")
        }
        // The burst is used up: the next one waits for its batch, and so does all that comes meanwhile.
        world.run(for: 2_000)
        let frames = world.frames
        for number in 0..<1_000 {
            world.nodes[0].subscribe("many/\(number)")
            world.run(for: 1)
        }
        world.run(for: 100)
        #expect(world.nodes[2].content(of: 0).count == Int(Interest.burst) + 1_000 && world.differences().isEmpty)
        let batches = Int(Interest.burst) + 1_100 / Int(Interest.batchMilliseconds)
        #expect((world.frames - frames) / 2 <= batches + 1, "\(world.frames - frames) frames on two links")
        #expect((world.frames - frames) / 2 >= batches / 2)
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
        for _ in 0..<100 { checkRoutes(world, topic: InterestWords.topic(&world.random), "seed \(seed)") }
        for node in world.nodes {
            // Nothing is left of former lives or of sets that were given up.
            let known = world.nodes.indices.filter { $0 != node.number }.map { node.content(of: $0).count }
            #expect(node.router.remoteFilterCount == known.reduce(0, +), "seed \(seed)")
        }
    }

    /// Every node finds exactly the nodes where somebody wants a topic.
    private func checkRoutes(_ world: InterestWorld, topic: String, _ note: String) {
        let bytes = Array(topic.utf8)
        let found = world.nodes.map { node in bytes.withUnsafeBytes { node.router.remoteMatches($0) } }
        for node in world.nodes {
            let wanted = world.nodes.indices.filter { $0 != node.number && found[$0].local > 0 }
            let known = found[node.number].nodes.sorted()
            #expect(known == wanted.map { node.index(of: $0) }.sorted(), "\(topic), \(note)")
        }
    }

    @Test("Others know whether a group's members are there, and learn it again when nobody listens")
    func presence() {
        let world = InterestWorld(seed: 1, nodes: 2)
        world.addWire(0, 1, delay: 5)
        world.nodes[0].subscribe("$share/g/a/+")
        world.run(for: 500)
        #expect(world.nodes[1].content(of: 0) == ["$share/g/a/+ true"])
        for _ in 0..<3 {
            world.nodes[0].router.setPresence(world.nodes[0].client, false)
            world.nodes[0].interest?.localChanged()
            world.run(for: 100)
            #expect(world.nodes[1].content(of: 0) == ["$share/g/a/+ false"])
            world.nodes[0].router.setPresence(world.nodes[0].client, true)
            world.nodes[0].interest?.localChanged()
            world.run(for: 100)
            #expect(world.nodes[1].content(of: 0) == ["$share/g/a/+ true"])
        }
        world.nodes[0].router.setPresence(world.nodes[0].client, false)
        world.nodes[0].interest?.localChanged()
        world.run(for: 100)
        world.nodes[0].unsubscribe("$share/g/a/+")
        world.run(for: 100)
        #expect(world.nodes[1].content(of: 0) == [] && world.differences() == [])
        #expect(world.nodes[0].interest?.own.hash == 0 && world.nodes[1].interest?.counters.mismatches == 0)
    }

    @Test("A node whose epoch is raised while it lives is known under it, with all it wants")
    func raisedEpoch() {
        let world = Self.ring(4, seed: 2)
        for number in 0..<50 { world.nodes[0].subscribe("a/\(number)") }
        world.run(for: 1_000)
        let epoch: UInt64 = 9 << 16
        for node in world.nodes { node.hear(of: 0, epoch) }
        world.run(for: 2_000)
        #expect(world.differences() == [])
        #expect(world.nodes.allSatisfy { $0.interest?.version(of: $0.index(of: 0))?.epoch == epoch })
        world.nodes[0].unsubscribe("a/7")
        world.run(for: 200)
        #expect(world.differences() == [] && world.nodes[2].content(of: 0).count == 49)
    }

    @Test("A filter that stops being covered is known everywhere before its cover is gone")
    func makeBeforeBreak() {
        let world = InterestWorld(seed: 1, nodes: 2)
        world.addWire(0, 1, delay: 5)
        for number in 0..<2_000 { world.nodes[0].subscribe("a/\(number)") }
        world.nodes[0].subscribe("a/#")
        world.run(for: 2_000)
        #expect(world.nodes[1].content(of: 0) == ["a/# true"])
        world.nodes[0].unsubscribe("a/#")
        for _ in 0..<300 {
            world.run(for: 1)
            for number in [0, 999, 1_999] {
                let matches = Array("a/\(number)".utf8).withUnsafeBytes { world.nodes[1].router.remoteMatches($0) }
                #expect(matches.nodes == [1], "at any time")
            }
        }
        #expect(world.nodes[1].content(of: 0).count == 2_000 && world.differences() == [])
    }
}

/// Random filters from few words.
enum InterestWords {
    static let levels = ["a", "b", "c", "dd", "site-17", "ü", ""]

    static func topic(_ random: inout Seeded) -> String {
        let text = (0...random.below(5)).map { _ in random.pick(levels) }.joined(separator: "/")
        return text.isEmpty ? "empty" : text
    }

    static func filter(_ random: inout Seeded) -> String {
        var parts = (0...random.below(4)).map { _ in random.once(in: 5) ? "+" : random.pick(levels) }
        if random.once(in: 6) { parts.append("#") }
        let text = parts.joined(separator: "/")
        if text.isEmpty { return "empty" }
        return random.once(in: 8) ? "$share/\(random.pick(["g", "h"]))/\(text)" : text
    }
}
