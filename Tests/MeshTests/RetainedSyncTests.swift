import Testing
import TestSupport

@testable import Core
@testable import Mesh

/// Neighbours bring their retained events together, whatever they have missed.
@Suite("Retained events of neighbours")
struct RetainedSyncTests {
    @Test("A node that begins with nothing gets everything, and tells its subscribers")
    func empty() throws {
        let world = RetainedWorld(2, seed: 1)
        for number in 0..<500 { world.nodes[0].publish("a/\(number)", "v\(number)") }
        world.link(0, 1)
        #expect(try #require(world.converge(within: 2_000)) < 500)
        #expect(world.nodes[1].contents == world.nodes[0].contents && world.nodes[1].contents.count == 500)
        #expect(world.nodes[1].subscriber.events == 500 && world.nodes[0].sync.counters.sent == 500)
        #expect(world.nodes[0].complaints.isEmpty && world.nodes[1].complaints.isEmpty)
        #expect(world.nodes[1].sync.isSynchronised && world.nodes[0].sync.isSynchronised)
    }

    @Test("A restarted node gets everything back through the only neighbour it has, several links away")
    func chain() throws {
        let world = RetainedWorld(5, seed: 2)
        for node in 0..<4 { world.link(node, node + 1) }
        for number in 0..<300 { world.nodes[number % 5].publish("a/\(number)", "v\(number)") }
        _ = try #require(world.converge(within: 5_000))
        world.restart(4)
        world.restart(3)
        #expect(world.nodes[4].contents.isEmpty && world.nodes[3].contents.isEmpty)
        _ = try #require(world.converge(within: 10_000))
        #expect(world.nodes.allSatisfy { $0.contents == world.nodes[0].contents && $0.contents.count == 300 })
    }

    @Test("What a node has taken over it offers to its other neighbours at once, without hellos that say so")
    func offering() throws {
        let world = RetainedWorld(5, seed: 17)
        world.greets = false
        for node in 0..<4 { world.link(node, node + 1) }
        world.run(5_000)
        world.carriesEvents = false
        world.cut(0, 1)
        for number in 0..<300 { world.nodes[0].publish("a/\(number)", "v\(number)") }
        world.link(0, 1)
        #expect(try #require(world.converge(within: 20_000)) < 5_000)
        #expect(world.nodes[4].contents.count == 300)
    }

    @Test("Both sides of a partition write: the newer value stays everywhere, and a delete stays deleted")
    func partition() throws {
        let world = RetainedWorld(4, seed: 3)
        for (a, b) in [(0, 1), (1, 2), (2, 3), (3, 0)] { world.link(a, b) }
        for number in 0..<40 { world.nodes[0].publish("a/\(number)", "first") }
        _ = try #require(world.converge(within: 5_000))
        world.cut(1, 2)
        world.cut(3, 0)
        world.run(1_000)
        for number in 0..<10 { world.nodes[0].publish("a/\(number)", "") }
        for number in 10..<20 { world.nodes[3].publish("a/\(number)", "") }
        for number in 20..<30 { world.nodes[0].publish("a/\(number)", "left") }
        world.run(1_000)
        for number in 25..<35 { world.nodes[2].publish("a/\(number)", "right") }
        // Set again on one side after the delete on the other.
        world.nodes[3].publish("a/0", "again")
        world.run(1_000)
        let before = world.nodes[2].subscriber.events
        world.link(1, 2)
        _ = try #require(world.converge(within: 10_000))
        var expected = ["a/0=again"]
        for number in 20..<25 { expected.append("a/\(number)=left") }
        for number in 25..<35 { expected.append("a/\(number)=right") }
        for number in 35..<40 { expected.append("a/\(number)=first") }
        for node in world.nodes { #expect(node.contents == expected.sorted()) }
        // Subscribers on the other side hear of what they missed, deletions included: once each.
        #expect(world.nodes[2].subscriber.events - before == 9 + 5)
        #expect(world.nodes[2].subscriber.last["a/5"] == "")
        world.link(3, 0)
        world.run(60_000)
        for node in world.nodes { #expect(node.contents == expected.sorted()) }
        #expect(world.nodes.allSatisfy { $0.regressed == 0 && $0.complaints.isEmpty })
    }

    @Test("What management deletes goes everywhere, and no subscriber is told")
    func management() throws {
        let world = RetainedWorld(3, seed: 4)
        world.link(0, 1)
        world.link(1, 2)
        world.nodes[0].publish("a", "1")
        _ = try #require(world.converge(within: 1_000))
        let before = world.nodes[2].subscriber.events
        world.nodes[0].remove("a")
        #expect(try #require(world.converge(within: 10_000)) < 3_000)
        #expect(world.nodes.allSatisfy { $0.value("a") == nil && $0.sync.digest != 0 })
        #expect(world.nodes[2].subscriber.events == before)
    }

    @Test("A value that expires is gone everywhere and does not come back, nor an older one")
    func expiry() throws {
        let world = RetainedWorld(2, seed: 5)
        world.nodes[0].publish("a", "old")
        world.link(0, 1)
        _ = try #require(world.converge(within: 1_000))
        world.cut(0, 1)
        world.nodes[1].publish("a", "new", expiresIn: 500)
        world.run(2_000)
        #expect(world.nodes[1].value("a") == nil && world.nodes[0].value("a") == "old")
        world.link(0, 1)
        _ = try #require(world.converge(within: 5_000))
        #expect(world.nodes[0].value("a") == nil && world.nodes[1].value("a") == nil)
    }

    @Test("A value larger than a frame comes in parts, and complete")
    func large() throws {
        let world = RetainedWorld(2, seed: 6)
        var bytes = [UInt8](repeating: 0, count: 300_003)
        for index in bytes.indices { bytes[index] = UInt8(truncatingIfNeeded: index &* 31 >> 3) }
        world.nodes[0].publish("big", bytes: bytes)
        for number in 0..<50 { world.nodes[0].publish("small/\(number)", "v") }
        world.link(0, 1)
        _ = try #require(world.converge(within: 10_000))
        let event = Array("big".utf8).withUnsafeBytes { world.nodes[1].router.retained($0, now: world.now) }
        let isSame = event.map { $0.payload.elementsEqual(bytes) } ?? false
        #expect(isSame)
        #expect(world.nodes[1].contents.count == 51)
        #expect(world.largestFrame <= 64 << 10)
    }

    @Test("A large value that changes while it travels arrives as it is in the end")
    func largeChanging() throws {
        let world = RetainedWorld(2, seed: 7)
        world.carriesEvents = false
        world.nodes[0].publish("big", bytes: [UInt8](repeating: 1, count: 600_000))
        world.link(0, 1)
        world.run(20)
        world.nodes[0].publish("big", bytes: [UInt8](repeating: 2, count: 500_000))
        _ = try #require(world.converge(within: 60_000))
        let event = Array("big".utf8).withUnsafeBytes { world.nodes[1].router.retained($0, now: world.now) }
        let isSame = event.map { $0.payloadLength == 500_000 && $0.payload.allSatisfy { $0 == 2 } } ?? false
        #expect(isSame)
    }

    @Test("Lost frames of class bulk only take time")
    func lossy() throws {
        let world = RetainedWorld(3, seed: 8)
        for number in 0..<2_000 { world.nodes[number % 2].publish("a/\(number)", "v\(number)") }
        world.loss = 20
        world.link(0, 1)
        world.link(1, 2)
        world.run(30_000)
        world.loss = 0
        _ = try #require(world.converge(within: 120_000))
        #expect(world.nodes[2].contents.count == 2_000)
    }

    @Test("A store that is full gives up after a while instead of asking for ever")
    func full() throws {
        var limits = Limits()
        limits.maxRetainedEvents = 100
        let world = RetainedWorld(2, seed: 9, limits: limits)
        for number in 0..<100 { world.nodes[0].publish("a/\(number)", "v") }
        for number in 0..<50 { world.nodes[1].publish("b/\(number)", "v") }
        world.link(0, 1)
        world.run(120_000)
        let rounds = world.nodes[0].sync.counters.rounds + world.nodes[1].sync.counters.rounds
        world.run(300_000)
        let later = world.nodes[0].sync.counters.rounds + world.nodes[1].sync.counters.rounds
        #expect(world.nodes[1].contents.count == 100 && world.nodes[0].contents.count == 100)
        #expect(world.nodes[1].sync.counters.refused > 0)
        #expect(rounds < 10 && later - rounds <= 1)
    }

    @Test("A node that was away for longer than deletions are remembered gives up what others have deleted")
    func away() throws {
        var limits = Limits()
        limits.tombstoneSeconds = 100
        let world = RetainedWorld(3, seed: 10, limits: limits)
        for (a, b) in [(0, 1), (1, 2), (0, 2)] { world.link(a, b) }
        for number in 0..<30 { world.nodes[0].publish("a/\(number)", "v") }
        _ = try #require(world.converge(within: 5_000))
        world.cut(0, 2)
        world.cut(1, 2)
        world.run(1_000)
        for number in 0..<10 { world.nodes[0].publish("a/\(number)", "") }
        world.nodes[1].publish("new", "1")
        world.nodes[2].publish("mine", "1")
        world.run(300_000)
        #expect(world.nodes[0].router.retainedVersionCounts.tombstones == 0)
        world.link(2, 0)
        _ = try #require(world.converge(within: 10_000))
        for node in world.nodes {
            #expect(node.contents.count == 22 && node.value("mine") == "1" && node.value("new") == "1")
            #expect((0..<10).allSatisfy { node.value("a/\($0)") == nil })
        }
        #expect(world.nodes[2].sync.counters.adopted == 10)
    }

    @Test("A node that was away for long does not give up anything for one that began with nothing")
    func awayFromRestarted() throws {
        var limits = Limits()
        limits.tombstoneSeconds = 100
        let world = RetainedWorld(2, seed: 11, limits: limits)
        world.link(0, 1)
        for number in 0..<30 { world.nodes[0].publish("a/\(number)", "v") }
        _ = try #require(world.converge(within: 5_000))
        world.cut(0, 1)
        world.run(300_000)
        world.restart(1)
        world.link(0, 1)
        _ = try #require(world.converge(within: 10_000))
        #expect(world.nodes[1].contents.count == 30 && world.nodes[0].sync.counters.adopted == 0)
    }

    @Test("A clock an hour off: everybody agrees, and whoever writes later wins all the same")
    func skewed() throws {
        let world = RetainedWorld(3, seed: 12)
        world.nodes[1].skew = 3_600_000
        for (a, b) in [(0, 1), (1, 2)] { world.link(a, b) }
        world.nodes[1].publish("a", "ahead")
        _ = try #require(world.converge(within: 5_000))
        world.nodes[0].publish("a", "later")
        _ = try #require(world.converge(within: 5_000))
        #expect(world.nodes.allSatisfy { $0.value("a") == "later" })
        #expect(world.nodes[0].router.retainedVersionCounts.clockClamped > 0)
        world.nodes[1].skew = -3_600_000
        world.nodes[1].publish("a", "behind")
        _ = try #require(world.converge(within: 5_000))
        #expect(world.nodes.allSatisfy { $0.value("a") == "behind" })
    }

    @Test(
        "A hundred thousand values: bounded work at a time, and not more than a frame on its way",
        .timeLimit(.minutes(5)))
    func many() throws {
        let world = RetainedWorld(2, seed: 13)
        for number in 0..<100_000 { world.nodes[0].publish("site/\(number % 100)/sensor/\(number)", "\(number)") }
        world.link(0, 1)
        let took = try #require(world.converge(within: 60_000))
        #expect(world.nodes[1].router.retainedCount == 100_000)
        #expect(world.nodes[1].mostWork <= RetainedFrame.maxWants)
        #expect(world.largestFrame <= 64 << 10 && world.mostBulkBytes <= 128 << 10)
        #expect(took < 10_000)
        // One value more is found without listing all of them.
        let before = world.nodes[0].sync.counters.bytesSent
        world.carriesEvents = false
        world.nodes[0].publish("one/more", "1")
        _ = try #require(world.converge(within: 60_000))
        #expect(world.nodes[0].sync.counters.bytesSent - before < 200)
    }

    @Test("Links that come and go, nodes that restart, writes and deletes everywhere", arguments: 0..<12)
    func chaos(seed: UInt64) throws {
        var limits = Limits()
        limits.maxPacketBytes = 1 << 18
        let count = 3 + Int(seed % 4)
        let world = RetainedWorld(count, seed: 100 + seed, limits: limits)
        for node in 1..<count { world.link(node - 1, node) }
        var newest: [String: (payload: String, version: EventVersion)] = [:]
        var writes = 0
        for _ in 0..<150 {
            let (a, b) = (world.random.below(count), world.random.below(count))
            switch world.random.below(12) {
            case 0 where a != b: world.link(a, b)
            case 1 where a != b: world.cut(a, b)
            case 2 where seed % 3 == 0: world.restart(a)
            case 3: world.loss = world.random.below(10)
            case 4: world.carriesEvents = world.random.below(3) > 0
            default:
                let topic = "t/\(world.random.below(60))"
                writes += 1
                let payload = world.random.below(4) == 0 ? "" : "w\(writes)"
                world.nodes[a].publish(topic, payload)
                let version = try #require(world.nodes[a].seen[topic])
                if (newest[topic]?.version ?? .none) < version { newest[topic] = (payload, version) }
            }
            world.run(UInt64(world.random.below(400)))
        }
        world.loss = 0
        for a in 0..<count { for b in 0..<a where world.random.below(2) == 0 || b == a - 1 { world.link(a, b) } }
        _ = try #require(world.converge(within: 120_000), "seed \(seed)")
        let first = world.nodes[0]
        for node in world.nodes {
            #expect(node.contents == first.contents && node.versions == first.versions)
            #expect(node.regressed == 0 && node.complaints.isEmpty)
        }
        // Without restarts nothing is lost: everywhere stands what was written last.
        guard seed % 3 != 0 else { return }
        let expected = newest.filter { !$0.value.payload.isEmpty }.map { "\($0.key)=\($0.value.payload)" }
        #expect(first.contents == expected.sorted())
    }

    @Test("The same seed gives the same course of things")
    func deterministic() throws {
        func trace() -> [[String]] {
            let world = RetainedWorld(4, seed: 14)
            for number in 0..<200 { world.nodes[number % 4].publish("a/\(number)", "v") }
            world.loss = 5
            for (a, b) in [(0, 1), (1, 2), (2, 3), (3, 0)] { world.link(a, b) }
            world.run(5_000)
            return world.nodes.map(\.replicated)
        }
        #expect(trace() == trace())
    }

    @Test("Frames that make no sense are refused, whatever they are")
    func garbage() throws {
        let world = RetainedWorld(2, seed: 15)
        for number in 0..<100 { world.nodes[number % 2].publish("a/\(number)", "v") }
        world.link(0, 1)
        world.run(3)
        var refused = 0
        let types: [FrameType] = [.retainedDigests, .retainedRequest, .retainedValues, .hello]
        for _ in 0..<20_000 {
            var body = (0..<world.random.below(120)).map { _ in UInt8(truncatingIfNeeded: world.random.next()) }
            if !body.isEmpty, world.random.below(2) == 0 { body[0] = UInt8(world.random.below(6)) }
            let type = types[world.random.below(4)]
            let reason = body.withUnsafeBytes { bytes in
                var reader = WireReader(bytes)
                return world.nodes[world.random.below(2)].sync.receive(type, &reader, fromNode: 1)
            }
            if reason != nil { refused += 1 }
            if world.random.below(100) == 0 { world.run(1) }
        }
        #expect(refused > 10_000)
        _ = try #require(world.converge(within: 120_000))
        #expect(world.nodes[0].contents.count == 100)
    }

    @Test("Real frames with a byte changed or an end missing do no harm")
    func mutated() throws {
        let world = RetainedWorld(2, seed: 16)
        for number in 0..<300 { world.nodes[number % 2].publish("a/\(number)", "v\(number)") }
        world.link(0, 1)
        world.mutates = true
        world.run(20_000)
        world.mutates = false
        #expect(world.nodes.allSatisfy { !$0.complaints.isEmpty })
        // A changed byte of a value is a value like any other: only that they agree again can be asked.
        _ = try #require(world.converge(within: 200_000))
    }
}
