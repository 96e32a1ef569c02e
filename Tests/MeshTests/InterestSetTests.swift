import Core
import Testing
import TestSupport

@testable import Mesh

@Suite("Sets of interest: large ones, refused ones, old ones")
struct InterestSetTests {
    private static func realistic(_ number: Int) -> String {
        let regions = ["north", "south", "east", "west", "centre"]
        let base = "region/\(regions[number % 5])/site/\(number / 5 % 400)/device/\(1_000_000 + number)"
        return number % 50 == 0 ? base + "/#" : base + "/state"
    }

    @Test("A storm of subscriptions, a link that comes back, and a node that joins late")
    func storm() {
        let count = 20_000
        let world = InterestWorld(seed: 5, nodes: 3)
        world.addWire(0, 1, delay: 5)
        world.run(for: 2_000)
        let before = world.bytes
        // In no order, in portions of what clients may say within a millisecond.
        for number in 0..<count {
            world.nodes[0].subscribe(Self.realistic(number &* 7_919 % count))
            if number % 1_000 == 999 { world.run(for: 1) }
        }
        let start = world.now
        while world.nodes[1].interest?.filterCount(of: world.nodes[1].index(of: 0)) != count, world.now < start + 5_000
        {
            world.run(for: 10)
        }
        let each = Double(world.bytes - before) / Double(count)
        print("interest: a storm of \(count) takes \(each) bytes a filter, and \(world.now - start) ms after its end")
        #expect(each <= 24 && world.differences().isEmpty)

        let quiet = world.bytes
        world.down(0)
        world.run(for: 1_000)
        world.up(0)
        world.run(for: 2_000)
        print("interest: a link that comes back takes \(world.bytes - quiet) bytes")
        #expect(world.bytes - quiet <= 1_024 && world.differences().isEmpty)

        // The late one hears it from a neighbour of the origin, while the origin goes on.
        let third = world.bytes
        world.addWire(1, 2, delay: 5)
        for round in 0..<40 {
            world.run(for: 10)
            for number in 0..<50 {
                world.nodes[0].subscribe("late/\(round)/\(number)")
                world.nodes[0].unsubscribe(Self.realistic((round * 50 + number) * 7 + 3))
            }
        }
        world.run(for: 5_000)
        #expect(world.differences() == [])
        let late = world.nodes[2].interest
        #expect(late?.counters.setsTaken == 1 && late?.counters.mismatches == 0)
        #expect(world.nodes[1].interest?.counters.partsSent ?? 0 >= count / 512)
        print("interest: a whole set takes \(Double(world.bytes - third) / Double(count)) bytes a filter")
    }

    @Test("A neighbour that is a little behind gets deltas, not the whole set")
    func behind() {
        let world = InterestTests.ring(3, seed: 3)
        for number in 0..<500 { world.nodes[0].subscribe(Self.realistic(number)) }
        world.run(for: 2_000)
        for wire in world.wires.indices where world.wires[wire].ends.0 == 2 || world.wires[wire].ends.1 == 2 {
            world.down(wire)
        }
        for number in 0..<30 {
            world.nodes[0].subscribe("new/\(number)")
            world.run(for: 30)
        }
        let bytes = world.bytes
        for wire in world.wires.indices { world.up(wire) }
        world.run(for: 300)
        #expect(world.differences() == [])
        #expect(world.nodes[2].interest?.counters.setsTaken == 0)
        #expect(world.bytes - bytes < 30 * 110 + 2_000)
    }

    @Test("A delta of another version than what is here is not applied, and what is missing is asked for")
    func wrongBase() throws {
        let world = InterestWorld(seed: 1, nodes: 2)
        world.addWire(0, 1, delay: 5)
        world.nodes[0].subscribe("a")
        world.run(for: 1_000)
        let node = world.nodes[1]
        let interest = try #require(node.interest)
        var changes = FilterChanges()
        changes.begins = [Array("wrong".utf8)]
        func offer(_ sequence: UInt64, epoch: UInt64) {
            let version = InterestFrames.Version(origin: InterestNode.id(0), epoch: epoch, sequence: sequence, hash: 1)
            node.take(InterestFrames.delta(version, changes), on: 1)
        }
        offer(3, epoch: 1 << 16)
        offer(1, epoch: 1 << 16)
        offer(2, epoch: 1)
        #expect(node.content(of: 0) == ["a true"])
        #expect(interest.counters.deltasEarly == 1 && interest.counters.deltasOld == 2)
        // The right version, but not what it says it is: applied, found out, asked for.
        offer(2, epoch: 1 << 16)
        #expect(interest.counters.mismatches == 1)
        world.nodes[0].subscribe("b")
        world.nodes[0].subscribe("c")
        world.run(for: 4_000)
        world.nodes[0].subscribe("d")
        world.run(for: 4_000)
        #expect(node.content(of: 0) == ["a true", "b true", "c true", "d true"])
        #expect(world.differences() == [])
    }

    @Test("More filters than a node takes are refused and counted; once they are fewer the set is whole again")
    func truncation() {
        let world = InterestWorld(seed: 1, nodes: 3, maxFilters: 100)
        world.addWire(0, 1, delay: 5)
        world.addWire(1, 2, delay: 5)
        for number in 0..<300 { world.nodes[0].subscribe("f/\(number)") }
        world.run(for: 3_000)
        for number in [1, 2] {
            let node = world.nodes[number]
            #expect(node.content(of: 0).count == 100 && node.interest?.isTruncated(node.index(of: 0)) == true)
            #expect(node.interest?.counters.filtersRefused ?? 0 >= 200)
            #expect(node.logged.count == 1, "one line, not one for each")
            #expect(node.refusals.isEmpty)
        }
        // Others' digests agree, so that nobody goes on repairing what cannot be repaired.
        let told = world.nodes.map { $0.interest?.counters.versionsSent ?? 0 }
        world.run(for: 10_000)
        #expect(world.nodes.map { $0.interest?.counters.versionsSent ?? 0 } == told)
        for number in 50..<300 { world.nodes[0].unsubscribe("f/\(number)") }
        world.run(for: 200_000)
        #expect(world.differences() == [])
        #expect(world.nodes.allSatisfy { $0.interest?.isTruncated($0.index(of: 0)) == false })
    }

    @Test("What an unreachable node wants is kept for half a minute, and is back when it is")
    func unreachable() {
        let world = InterestWorld(seed: 1, nodes: 3)
        world.addWire(0, 1, delay: 5)
        world.addWire(1, 2, delay: 5)
        world.nodes[2].subscribe("a/#")
        world.nodes[2].subscribe("$share/g/b")
        world.run(for: 1_000)
        world.down(1)
        world.run(for: 29_000)
        #expect(world.nodes[0].content(of: 2).count == 2)
        world.run(for: 2_000)
        #expect(world.nodes[0].content(of: 2).isEmpty && world.nodes[0].router.remoteFilterCount == 0)
        #expect(world.nodes[1].interest?.digest == world.nodes[0].interest?.digest)
        world.nodes[2].subscribe("c")
        world.run(for: 1_000)
        world.up(1)
        world.run(for: 300)
        #expect(world.differences() == [] && world.nodes[0].content(of: 2).count == 3)
    }

    @Test("A chain in which nodes restart: what is wanted is right within a second", arguments: [[3], [1], [1, 3]])
    func chain(_ restarted: [Int]) {
        let world = InterestWorld(seed: 9, nodes: 4)
        for number in 0..<3 { world.addWire(number, number + 1, delay: 3) }
        for node in world.nodes { for number in 0..<20 { node.subscribe("node/\(node.number)/\(number)") } }
        world.run(for: 1_000)
        for number in restarted { world.restart(number) }
        for number in restarted { for other in 0..<5 { world.nodes[number].subscribe("again/\(number)/\(other)") } }
        world.run(for: 1_000)
        #expect(world.differences() == [])
        for number in restarted { #expect(world.nodes[0].content(of: number).count == 5) }
    }

    @Test("Frames that are cut short or wrong in any byte never do harm")
    func garbage() throws {
        let world = InterestWorld(seed: 1, nodes: 2)
        world.addWire(0, 1, delay: 5)
        world.run(for: 500)
        var changes = FilterChanges()
        changes.begins = ["a/b/c", "a/b/d", "x"].map { Array($0.utf8) }
        changes.absent = [try TopicFilter("$share/g/a/+", grammar: .mqtt).canonical]
        changes.ends = [try TopicFilter("q/#", grammar: .mqtt).canonical]
        let version = InterestFrames.Version(origin: InterestNode.id(0), epoch: 1 << 16, sequence: 1, hash: 9)
        var part = InterestFrames.Part(origin: InterestNode.id(0), epoch: 1 << 16, job: 1, number: 0)
        part.isLast = true
        var begins = changes
        begins.ends = []
        let frames = [
            InterestFrames.delta(version, changes), InterestFrames.snapshot(part, begins),
            InterestFrames.request(.ask(version.origin, epoch: 7, have: 1, isWhole: false)),
            InterestFrames.request(.grant(job: 1, granted: 9)), InterestFrames.versions([version], areAll: true),
        ]
        let node = world.nodes[1]
        for frame in frames {
            for length in FrameHeader.size..<frame.count {
                node.refusals = []
                node.take(Array(frame[..<length]), on: 1)
                #expect(!node.refusals.isEmpty, "cut short at \(length)")
            }
            for _ in 0..<2_000 {
                var wrong = frame
                for _ in 0...world.random.below(3) {
                    wrong[FrameHeader.size + world.random.below(frame.count - FrameHeader.size)] = UInt8(
                        truncatingIfNeeded: world.random.next())
                }
                node.take(wrong, on: 1)
            }
        }
        world.run(for: 5_000)
        let name = "filters that begin with $ are not taken"
        node.refusals = []
        changes = FilterChanges()
        changes.begins = [Array("$SYS/a".utf8)]
        node.take(InterestFrames.delta(version, changes), on: 1)
        #expect(node.refusals == ["malformed interest delta"], "\(name)")
        world.restart(0)
        world.run(for: 2_000)
        world.nodes[0].subscribe("z")
        world.run(for: 2_000)
        #expect(world.differences() == [])
    }

    @Test("Filters come back from their coding as they were, and take little")
    func coding() throws {
        var random = Seeded(seed: 4)
        for _ in 0..<200 {
            var changes = FilterChanges()
            for _ in 0..<random.below(60) {
                let filter = try TopicFilter(InterestWords.filter(&random), grammar: .mqtt)
                let canonical = filter.canonical
                switch random.below(3) {
                case 0: changes.begins.append(canonical)
                case 1 where filter.group != nil: changes.absent.append(canonical)
                default: changes.ends.append(canonical)
                }
            }
            var writer = WireWriter(.interestDelta)
            changes.write(to: &writer)
            let frame = writer.finish()
            let read = frame.withUnsafeBytes { bytes -> [FilterChange]? in
                var reader = WireReader(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]))
                return FilterChange.read(&reader)
            }
            let back = try #require(read)
            #expect(back.filter { $0.kind == .begins }.map(\.filter.canonical) == changes.begins)
            #expect(back.filter { $0.kind == .absent }.map(\.filter.canonical) == changes.absent)
            #expect(back.filter { $0.kind == .ends }.map(\.filter.canonical) == changes.ends)
        }
    }
}
