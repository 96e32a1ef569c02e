import Core
import Testing

@testable import Bridge

@Suite("Loops") struct LoopTests {
    private static func trail(_ values: [String]) -> BridgeTrail {
        var writer = EventPropertiesWriter()
        writer.addUser("other".utf8, "apus-bridge".utf8)
        for value in values { writer.addUser("apus-bridge".utf8, value.utf8) }
        return writer.finish().bytes.withUnsafeBytes { BridgeTrail($0) }
    }

    @Test("A trail is read as it was written, also from several properties")
    func readsTrails() {
        #expect(Self.trail([]).places.isEmpty)
        #expect(Self.trail(["a b", "c"]).value == Array("a b c".utf8))
        #expect(Self.trail(["  a   b "]).value == Array("a b".utf8))
        #expect(
            Self.trail([String(repeating: "x ", count: 30_000)]).places.count <= BridgeDefinition.maxHopsAllowed + 2)
    }

    @Test("An event does not go where it has been, nor further than it may")
    func verdicts() {
        let trail = Self.trail(["broker:1 mesh/a"])
        #expect(trail.verdict(to: Array("broker:1".utf8), maxHops: 8) == .returns)
        #expect(trail.verdict(to: Array("broker:2".utf8), maxHops: 8) == .goes)
        #expect(trail.verdict(to: Array("broker".utf8), maxHops: 8) == .goes, "no part of a name is a name")
        #expect(trail.verdict(to: Array("broker:2".utf8), maxHops: 2) == .tooFar)
    }

    /// Brokers, and meshes with bridges to some of them. An event is given to everybody who is connected, as long as
    /// the rules let it.
    private struct World {
        var brokers: Int
        /// The brokers that each mesh has bridges to.
        var meshes: [[Int]]

        /// How often each broker gets an event of the first one.
        func copies(maxHops: Int) -> [Int] {
            var copies = [Int](repeating: 0, count: brokers)
            var underWay: [(broker: Int, trail: BridgeTrail)] = [(0, BridgeTrail())]
            var steps = 0
            while let (broker, trail) = underWay.popLast(), steps < 100_000 {
                steps += 1
                copies[broker] += 1
                for (mesh, bridged) in meshes.enumerated() where bridged.contains(broker) {
                    let place = Array("mesh/\(mesh)".utf8)
                    guard trail.verdict(to: place, maxHops: maxHops) == .goes else { continue }
                    var inside = trail
                    inside.add(Array("broker:\(broker)".utf8))
                    for other in bridged
                    where inside.verdict(to: Array("broker:\(other)".utf8), maxHops: maxHops) == .goes {
                        var outside = inside
                        outside.add(place)
                        underWay.append((other, outside))
                    }
                }
            }
            #expect(steps < 100_000, "it does not end")
            return copies
        }
    }

    @Test("One mesh with bridges to all brokers: each has every event once")
    func star() {
        for brokers in 2...20 {
            let world = World(brokers: brokers, meshes: [Array(0..<brokers)])
            #expect(world.copies(maxHops: 8) == Array(repeating: 1, count: brokers))
        }
    }

    @Test("A triangle of three nodes that know nothing of each other: two ways lead to each, so two copies, and an end")
    func triangle() {
        #expect(World(brokers: 3, meshes: [[0, 1], [1, 2], [2, 0]]).copies(maxHops: 8) == [1, 2, 2])
    }

    @Test("Whatever is bridged with what, it ends, and an event comes to every broker once at least where a way leads")
    func ends() {
        var random = Seeded(state: 7)
        for _ in 0..<300 {
            let brokers = Int.random(in: 2...5, using: &random)
            let meshes = (0..<Int.random(in: 1...4, using: &random)).map { _ in
                (0..<brokers).filter { _ in Bool.random(using: &random) }
            }
            let world = World(brokers: brokers, meshes: meshes)
            let copies = world.copies(maxHops: 32)
            #expect(copies[0] == 1, "the first broker never gets its own event back")
            var reached: Set = [0]
            for _ in 0..<brokers {
                for bridged in meshes where bridged.contains(where: reached.contains) { reached.formUnion(bridged) }
            }
            for broker in 0..<brokers { #expect((copies[broker] > 0) == reached.contains(broker), "\(meshes)") }
        }
    }

    // MARK: Echoes

    private func take(_ memory: inout EchoMemory, _ text: String, _ now: UInt64) -> Bool {
        Array(text.utf8).withUnsafeBytes { memory.take($0, $0, now: now) }
    }

    private func remember(_ memory: inout EchoMemory, _ text: String, _ now: UInt64) {
        Array(text.utf8).withUnsafeBytes { memory.remember($0, $0, now: now) }
    }

    @Test("As many echoes are taken off as were sent, for a minute")
    func echoes() {
        var memory = EchoMemory(key: 5)
        #expect(!take(&memory, "a", 0))
        remember(&memory, "a", 0)
        remember(&memory, "a", 1)
        remember(&memory, "b", 2)
        #expect(take(&memory, "a", 3) && take(&memory, "a", 4) && !take(&memory, "a", 5))
        #expect(take(&memory, "b", 60_001) && !take(&memory, "b", 60_001))
        remember(&memory, "c", 60_002)
        #expect(!take(&memory, "c", 120_002), "it is not waited for any longer")
        #expect(memory.count == 0)
    }

    @Test("It remembers no more than it may, and counts right when the oldest are forgotten")
    func bounded() {
        var memory = EchoMemory(key: 5)
        for number in 0..<EchoMemory.capacity + 10 { remember(&memory, "\(number)", 0) }
        #expect(memory.count == EchoMemory.capacity)
        #expect(!take(&memory, "9", 0) && take(&memory, "10", 0))
        #expect(take(&memory, "\(EchoMemory.capacity + 9)", 0))
    }

    @Test("Like a list of what was sent, in any order of things")
    func likeAList() {
        var random = Seeded(state: 3)
        var memory = EchoMemory(key: 9)
        var model: [(text: String, at: UInt64, isMet: Bool)] = []
        var now: UInt64 = 0
        for _ in 0..<20_000 {
            now += UInt64.random(in: 0...100, using: &random)
            model.removeAll { $0.at + EchoMemory.lifeMilliseconds <= now }
            let text = "\(Int.random(in: 0...50, using: &random))"
            if Bool.random(using: &random) {
                remember(&memory, text, now)
                model.append((text, now, false))
            } else {
                let place = model.firstIndex { $0.text == text && !$0.isMet }
                #expect(take(&memory, text, now) == (place != nil))
                if let place { model[place].isMet = true }
            }
        }
    }
}
