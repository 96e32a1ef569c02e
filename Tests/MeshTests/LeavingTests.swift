import Core
import Testing

@testable import Mesh

/// Nodes that leave for good, and nodes that somebody has invented.
@Suite struct LeavingTests {
    @Test func whoLeavesIsForgottenAtOnce() throws {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"])
        let c = field.start("c:1", links: ["b:1"])
        field.run(1_500)
        _ = try c.subscribe("x/#")
        let listener = try b.subscribe("x/#")
        field.run(100)
        a.publish("x/1", "before", qos: 1)
        var isDone = false
        c.node.leaveForGood { isDone = true }
        field.run(400)
        #expect(isDone && c.node.hasLeft != nil && c.node.links.isEmpty)
        for station in [a, b] {
            let known = try #require(station.node.nodes.known(c.node.identity.id))
            #expect(station.node.linkState.node(known) == nil, "no node of that name any more")
            #expect(station.node.interest.filterCount(of: known) == 0)
            #expect(station.node.streams.spool.bytes(for: known) == 0)
            #expect(station.lines.contains { $0.contains("has left the mesh for good") })
        }
        // The rest goes on, and so does it, alone.
        let before = listener.heard.count
        a.publish("x/1", "after", qos: 1)
        let own = try c.subscribe("y")
        c.publish("y", "alone", qos: 1)
        c.publish("x/2", "kept", qos: 1, isRetained: true)
        field.run(200)
        #expect(listener.heard.count == before + 1 && own.heard == ["alone"])
        #expect(c.node.streams.spool.count == 0, "nothing waits for nodes that it does not belong to any more")
        // Another life of it may come back.
        field.kill(c)
        let again = field.start("c:1", links: ["b:1"])
        field.run(1_500)
        #expect(again.node.links.count == 1 && a.node.isReachable(a.node.nodes.known(again.node.identity.id) ?? -1))
    }

    @Test func whoWasAwayHearsOfItLater() {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"])
        let c = field.start("c:1", links: ["b:1"])
        field.run(1_500)
        field.kill(b)
        field.run(1_000)
        c.node.leaveForGood {}
        field.run(4_000)
        let known = a.node.nodes.known(c.node.identity.id) ?? -1
        #expect(c.node.hasLeft != nil && a.node.linkState.node(known) != nil, "it has not heard of it")
        field.run(400_000)
        #expect(a.node.linkState.node(known) == nil)
    }

    private func advertisement(_ number: UInt64, neighbours: [NodeID] = [], sequence: UInt64 = 1) -> [UInt8] {
        var advertisement = Advertisement(
            head: AdvertisementHead(
                lifetime: 30_000, id: NodeID(high: 0xF0, low: number),
                version: AdvertisementVersion(epoch: 1 << 16, sequence: sequence), instance: 9,
                shortID: UInt16(number % 60_000 + 1), claims: 1), name: "invented")
        advertisement.adjacencies = neighbours.enumerated().map { place, neighbour in
            AdvertisedAdjacency(
                neighbour: neighbour, link: UInt16(place + 1), remoteLink: 1, nonce: 7, cost: 1)
        }
        return advertisement.frame()
    }

    private func hear(_ frame: [UInt8], at station: MeshField.Station) {
        frame.withUnsafeBytes {
            var reader = WireReader(UnsafeRawBufferPointer(rebasing: $0[FrameHeader.size...]))
            _ = station.node.linkState.receive(.advertisement, &reader, from: station.node.links[0].number)
        }
    }

    @Test func inventedNodesMakeRoomForReal() {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"])
        field.run(1_500)
        for number in 0..<3_000 { hear(advertisement(UInt64(number)), at: a) }
        #expect(a.node.linkState.nodes.count == LinkStateDatabase.maxNodes)
        let c = field.start("c:1", links: ["a:1"])
        let d = field.start("d:1", links: ["b:1"])
        field.run(5_000)
        for (from, to) in [(a, c), (b, c), (a, d), (c, d), (d, a)] {
            let index = from.node.nodes.known(to.node.identity.id)
            #expect(index.map { from.node.isReachable($0) } ?? false, "\(from.address) to \(to.address)")
        }
        #expect(a.node.linkState.counters.evicted >= 2)
    }

    @Test func indicesOfInventedNodesAreUsedAgain() throws {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        field.start("b:1", links: ["a:1"])
        field.run(1_500)
        for round in 0..<4 {
            // More than there may be, as if hours had passed, then silence for longer than they last.
            let full = UInt64(LinkStateDatabase.maxNodes)
            a.node.linkState.newcomers = TokenBucket(capacity: full, interval: 1_000, now: field.now)
            for number in 0..<1_200 { hear(advertisement(UInt64(round * 10_000 + number)), at: a) }
            field.run(65_000)
        }
        #expect(a.node.nodes.count < LinkStateDatabase.maxUnnamed + 10, "\(a.node.nodes.count)")
        #expect(a.node.nodes.inUse < 10, "\(a.node.nodes.inUse)")
        let c = field.start("c:1", links: ["b:1"])
        let listener = try c.subscribe("x")
        field.run(2_000)
        a.publish("x", "there", qos: 1)
        a.publish("x", "direct")
        field.run(200)
        #expect(listener.heard.sorted() == ["direct", "there"])
    }
}
