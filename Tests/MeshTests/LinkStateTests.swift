import Testing
import TestSupport

@testable import Mesh

/// One link state, and neighbours that speak by hand.
@Suite struct LinkStateTests {
    static let epoch: UInt64 = 5 << 16 | 0x1234

    /// A node with the id 100, started at 1,000 ms.
    static func node(shortID: UInt16 = 7, instance: UInt64 = 50) -> WorldNode {
        WorldNode(
            id: NodeID(high: 0, low: 100), name: "own", epoch: epoch, instance: instance, seed: 9, now: 1_000,
            settings: LinkStateSettings(shortID: shortID))
    }

    static func id(_ low: UInt64) -> NodeID { NodeID(high: 0, low: low) }

    static func advertisement(
        of low: UInt64, epoch: UInt64 = 1 << 16, sequence: UInt64 = 1, instance: UInt64 = 1, shortID: UInt16 = 0,
        flags: UInt16 = 0, lifetime: UInt32 = 300_000, claims: UInt32 = 1, _ links: [AdvertisedAdjacency] = []
    ) -> Advertisement {
        var advertisement = Advertisement(
            head: AdvertisementHead(
                flags: flags, lifetime: lifetime, id: id(low),
                version: AdvertisementVersion(epoch: epoch, sequence: sequence), instance: instance, shortID: shortID,
                claims: claims))
        advertisement.name = "n\(low)"
        advertisement.adjacencies = links
        return advertisement
    }

    static func link(
        to low: UInt64, _ link: UInt16, _ remote: UInt16, nonce: UInt64 = 77, cost: UInt32 = 10
    ) -> AdvertisedAdjacency {
        AdvertisedAdjacency(neighbour: id(low), link: link, remoteLink: remote, nonce: nonce, cost: cost)
    }

    /// The advertisements a node has sent on a link, oldest first; they are taken away.
    static func sent(_ node: WorldNode, on link: LinkNumber) -> [Advertisement] {
        defer { node.sent.removeAll { $0.link == link } }
        return node.sent.filter { $0.link == link && $0.frame[3] == FrameType.advertisement.rawValue }
            .compactMap { try? AdvertisementTests.read($0.frame) }
    }

    static func types(_ node: WorldNode, on link: LinkNumber) -> [FrameType?] {
        defer { node.sent.removeAll { $0.link == link } }
        return node.sent.filter { $0.link == link }.map { FrameType(rawValue: $0.frame[3]) }
    }

    static func versions(_ entries: [(UInt64, UInt64, UInt64)]) -> [UInt8] {
        var writer = WireWriter(.advertisementVersions)
        writer.varint(UInt64(entries.count))
        for (low, epoch, sequence) in entries {
            writer.nodeID(id(low))
            writer.u64(epoch)
            writer.u64(sequence)
        }
        return writer.finish()
    }

    // MARK: Freshness and flooding

    @Test func theNewerIsTakenAndPassedOnAndTheOlderIsAnswered() {
        let node = Self.node()
        node.establish(1, to: Self.id(1))
        node.establish(2, to: Self.id(2))
        node.sent = []
        let digest = node.state.digest
        var first = Self.advertisement(of: 3, epoch: 2 << 16, sequence: 4)
        first.extensions = [9, 0, 3, 1, 2, 3]
        #expect(node.receive(first.frame(), from: 1) == nil)
        #expect(Self.sent(node, on: 1).isEmpty)
        #expect(Self.sent(node, on: 2) == [first])
        #expect(node.state.digest != digest)

        // The same again, on both links: nothing.
        let after = node.state.digest
        node.receive(first.frame(), from: 1)
        node.receive(first.frame(), from: 2)
        #expect(node.sent.isEmpty)
        // Older ones, by sequence and by epoch: the newest comes back, byte by byte but for its age.
        node.advance(to: 3_000)
        node.receive(Self.advertisement(of: 3, epoch: 2 << 16, sequence: 3).frame(), from: 2)
        node.receive(Self.advertisement(of: 3, epoch: 1 << 16, sequence: 900).frame(), from: 2)
        first.head.lifetime -= 2_000
        #expect(Self.sent(node, on: 2) == [first, first])
        #expect(node.state.digest == after)
        #expect(node.state.counters.stale == 4)

        // A new life wins over a larger sequence.
        node.told = []
        node.receive(Self.advertisement(of: 3, epoch: 3 << 16, sequence: 1).frame(), from: 2)
        #expect(node.told == [.changed(node.nodes.known(Self.id(3))!, isRestart: true)])
        #expect(node.nodes[node.nodes.known(Self.id(3))!].epoch == 3 << 16)
        node.receive(first.frame(), from: 1)
        #expect(node.nodes[node.nodes.known(Self.id(3))!].epoch == 3 << 16)
    }

    @Test func digestsDoNotDependOnTheOrder() {
        let (a, b) = (Self.node(), Self.node())
        let many = (1...20).map { Self.advertisement(of: UInt64($0), sequence: UInt64($0)) }
        for one in many { a.receive(one.frame(), from: 1) }
        for one in many.reversed() { b.receive(one.frame(), from: 1) }
        #expect(a.state.digest == b.state.digest)
        b.receive(Self.advertisement(of: 3, sequence: 99).frame(), from: 1)
        #expect(a.state.digest != b.state.digest)
    }

    @Test func malformedFramesHaveReasons() {
        let node = Self.node()
        let frame = Self.advertisement(of: 3).frame()
        #expect(node.receive(Array(frame.dropLast()), from: 1) != nil)
        #expect(node.receive(Array(frame.prefix(20)), from: 1) != nil)
        var versions = Self.versions([(1, 1, 1)])
        versions.removeLast()
        #expect(node.receive(versions, from: 1) != nil)
        #expect(node.receive(WireWriter(.hello).finish(), from: 1) != nil)
        var request = WireWriter(.advertisementRequest)
        request.varint(1 << 40)
        #expect(node.receive(request.finish(), from: 1) != nil)
        #expect(node.state.nodes == [0])
    }

    /// Whatever a peer sends: a reason or nothing, and the node goes on.
    @Test func garbageIsRefusedOrTaken() {
        var random = Seeded(seed: 8)
        let node = Self.node()
        node.establish(1, to: Self.id(1))
        var refused = 0
        for round in 0..<1_000 {
            var frame: [UInt8]
            switch round % 4 {
            case 0: frame = AdvertisementTests.sample(&random).frame()
            case 1:
                frame = Self.advertisement(of: 100, epoch: random.next() >> 17, instance: 99, [Self.link(to: 1, 1, 1)])
                    .frame()
            case 2: frame = Self.versions((0..<5).map { (100 + $0, random.next(), random.next()) })
            default:
                var writer = WireWriter(.advertisementRequest)
                writer.varint(random.next() % 4)
                writer.raw((0..<48).map { _ in UInt8(truncatingIfNeeded: random.next()) })
                frame = writer.finish()
            }
            for _ in 0..<Int(random.next() % 4) {
                frame[Int.random(in: FrameHeader.size..<frame.count, using: &random)] = UInt8(
                    truncatingIfNeeded: random.next())
            }
            let count =
                random.next() % 5 == 0 ? Int.random(in: FrameHeader.size...frame.count, using: &random) : frame.count
            if node.receive(Array(frame.prefix(count)), from: 1) != nil { refused += 1 }
            node.advance(to: node.now + random.next() % 100)
            node.sent = []
        }
        #expect((100...900).contains(refused))
        #expect(node.state.nodes.count <= LinkStateDatabase.maxNodes)
    }

    @Test func whatHasNoTimeLeftOrIsOfAnotherAreaIsIgnored() {
        let node = Self.node()
        node.receive(Self.advertisement(of: 3, lifetime: 0).frame(), from: 1)
        var other = Self.advertisement(of: 4)
        other.head.area = 1
        node.receive(other.frame(), from: 1)
        #expect(node.state.nodes == [0])
        #expect(node.state.counters.ignored == 2)
    }

    // MARK: Exchange

    @Test func whatANeighbourHasNewerIsAskedForAndThenAllIsThere() throws {
        let node = Self.node()
        node.receive(Self.advertisement(of: 3, sequence: 5).frame(), from: 1)
        node.establish(1, to: Self.id(1))
        #expect(Self.types(node, on: 1) == [.advertisementVersions])
        node.receive(Self.versions([(3, 1 << 16, 5), (4, 1 << 16, 1), (1, 1 << 16, 2)]), from: 1)
        let request = try #require(node.sent.last)
        #expect(request.frame[3] == FrameType.advertisementRequest.rawValue)
        request.frame.withUnsafeBytes { bytes in
            var reader = WireReader(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]))
            #expect(reader.count(each: 16) == 2)
            #expect([reader.nodeID(), reader.nodeID()] == [Self.id(4), Self.id(1)])
            #expect(reader.isWhole)
        }
        #expect(!node.state.isSynchronised)
        node.receive(Self.advertisement(of: 4).frame(), from: 1)
        #expect(!node.state.isSynchronised)
        node.receive(Self.advertisement(of: 1, sequence: 3).frame(), from: 1)
        #expect(node.state.isSynchronised)

        // What is asked for is sent, what is not known is not.
        node.sent = []
        var wanted = WireWriter(.advertisementRequest)
        wanted.varint(3)
        for low: UInt64 in [100, 77, 4] { wanted.nodeID(Self.id(low)) }
        #expect(node.receive(wanted.finish(), from: 1) == nil)
        #expect(Self.sent(node, on: 1).map(\.head.id) == [Self.id(100), Self.id(4)])
    }

    @Test func aNeighbourThatAsksTooMuchIsNotAnswered() {
        let node = Self.node()
        node.establish(1, to: Self.id(1))
        node.sent = []
        var wanted = WireWriter(.advertisementRequest)
        wanted.varint(1_000)
        for _ in 0..<1_000 { wanted.nodeID(Self.id(100)) }
        let frame = wanted.finish()
        for _ in 0..<10 { node.receive(frame, from: 1) }
        #expect(node.sent.count == Int(LinkExchange.answerBurst))
        #expect(node.state.counters.refusedAnswers == 10_000 - LinkExchange.answerBurst)
    }

    @Test func theSameMismatchTwiceIsRepairedOnceASecond() {
        let node = Self.node()
        node.establish(1, to: Self.id(1))
        node.sent = []
        node.state.heard(digest: node.state.digest, on: 1)
        node.state.heard(digest: 1, on: 1)
        node.state.heard(digest: 2, on: 1)
        #expect(node.sent.isEmpty)
        node.state.heard(digest: 2, on: 1)
        #expect(Self.types(node, on: 1) == [.advertisementVersions])
        for time in stride(from: UInt64(1_100), to: 1_990, by: 100) {
            node.now = time
            node.state.heard(digest: 2, on: 1)
        }
        #expect(node.sent.isEmpty)
        node.now = 2_000
        node.state.heard(digest: 2, on: 1)
        #expect(Self.types(node, on: 1) == [.advertisementVersions])
        // Digests that change with every hello are compared in the end, too.
        node.now = 4_000
        for digest in UInt64(10)...60 { node.state.heard(digest: digest, on: 1) }
        #expect(Self.types(node, on: 1) == [.advertisementVersions])
    }

    // MARK: Age

    @Test func whatExpiresIsForgottenAndNobodyBringsItBack() {
        let node = Self.node()
        node.establish(1, to: Self.id(1))
        var one = Self.advertisement(of: 3, sequence: 5, shortID: 33, [Self.link(to: 100, 1, 1)])
        one.head.lifetime = 4_000_000
        node.receive(one.frame(), from: 1)
        let index = node.nodes.known(Self.id(3))!
        node.advance(to: 1_000 + LinkStateDatabase.maxLifetime - 1)
        #expect(node.state.node(index)?.name == "n3")
        #expect(node.nodes[index].shortID == 33)
        node.told = []
        node.advance(to: 1_000 + LinkStateDatabase.maxLifetime)
        #expect(node.told.filter { $0 == .left(index) } == [.left(index)])
        #expect(node.state.node(index) == nil)
        #expect(node.nodes[index].shortID == 0)
        #expect(node.nodes.node(shortID: 33) == nil)
        #expect(node.state.counters.expired == 1)
        // A neighbour whose time is a little later still has it: it stays out, and is not asked for.
        node.sent = []
        node.receive(one.frame(), from: 1)
        node.receive(Self.versions([(3, 1 << 16, 5)]), from: 1)
        #expect(node.state.node(index) == nil)
        #expect(node.sent.isEmpty)
        // An older one of a node that has lost its disk is answered, so that it learns what to exceed.
        node.receive(Self.advertisement(of: 3, sequence: 2).frame(), from: 1)
        #expect(Self.sent(node, on: 1).map(\.head.version.sequence) == [5])
        // A newer one is a node that is back.
        node.receive(Self.advertisement(of: 3, sequence: 6).frame(), from: 1)
        #expect(node.state.node(index) != nil)
    }

    @Test func theOwnIsRefreshedAndNeverExpires() {
        let node = Self.node()
        node.establish(1, to: Self.id(1))
        var times: [UInt64] = []
        var sequence: UInt64 = 0
        node.advance(to: 10_000)
        _ = Self.sent(node, on: 1)
        for time in stride(from: UInt64(10_000), through: 900_000, by: 100) {
            node.advance(to: time)
            for one in Self.sent(node, on: 1) {
                times.append(time)
                #expect(one.head.version.sequence > sequence)
                sequence = one.head.version.sequence
                #expect(one.head.lifetime == 300_000)
            }
        }
        #expect((7...11).contains(times.count))
        for (a, b) in zip(times, times.dropFirst()) { #expect((79_900...120_100).contains(b - a)) }
        #expect(Set(zip(times, times.dropFirst()).map { $1 - $0 }).count > 2, "jitter")
        #expect(node.state.nodes == [0])
        // Nothing but the sequence changes: no routes are computed.
        #expect(node.state.counters.computations <= 3)
    }

    // MARK: Two ways

    @Test func aLinkIsUsedOnlyWhenBothEndsTellOfTheSame() {
        let node = Self.node()
        node.establish(1, to: Self.id(1))
        let peer = node.nodes.known(Self.id(1))!
        func reachable(_ links: [AdvertisedAdjacency], _ sequence: UInt64) -> Bool {
            node.receive(Self.advertisement(of: 1, sequence: sequence, shortID: 11, links).frame(), from: 1)
            node.advance(to: node.now + 500)
            return node.state.routes.isReachable(peer)
        }
        #expect(!reachable([Self.link(to: 100, 9, 1)], 1), "only they tell of it")
        node.state.adjacencyUp(Adjacency(link: 1, peer: peer, nonce: 77, cost: 20, remoteLink: 9))
        #expect(reachable([Self.link(to: 100, 9, 1)], 2))
        #expect(node.state.routes.link(to: peer) == 1)
        #expect(node.state.routes.distances[peer] == 20, "the larger cost")
        #expect(!reachable([], 3), "only this node tells of it")
        #expect(!reachable([Self.link(to: 100, 9, 1, nonce: 78)], 4), "of an earlier handshake")
        #expect(!reachable([Self.link(to: 100, 8, 1)], 5), "another of their links")
        #expect(!reachable([Self.link(to: 100, 9, 2)], 6), "another of this node's links")
        #expect(!reachable([Self.link(to: 101, 9, 1)], 7), "a link to someone else")
        #expect(reachable([Self.link(to: 100, 9, 1, cost: 30)], 8))
        #expect(node.state.routes.distances[peer] == 30)
        #expect(node.state.node(0)?.links.map(\.isTwoWay) == [true])
        node.state.setCost(500, of: 1)
        node.advance(to: node.now + 500)
        #expect(node.state.routes.distances[peer] == 500)
        node.state.setDraining(true)
        node.advance(to: node.now + 500)
        #expect(node.state.routes.distances[peer] == 500 + 1 << 20)
        // Down here: gone at once, whatever they say.
        node.sent = []
        node.state.adjacencyDown(1)
        #expect(Self.sent(node, on: 1).map(\.adjacencies) == [[]])
        node.advance(to: node.now + 1)
        #expect(!node.state.routes.isReachable(peer))
    }

    /// Going down is told at once, sixteen times in a row; what comes up has to wait longer and longer.
    @Test func onlyComingUpIsDamped() {
        let node = Self.node()
        node.establish(1, to: Self.id(1))
        let peer = node.nodes.known(Self.id(1))!
        node.advance(to: 100_000)
        var waits: [UInt64] = []
        for flap in 1...9 {
            _ = Self.sent(node, on: 1)
            let up = node.now
            node.state.adjacencyUp(
                Adjacency(link: 1, peer: peer, nonce: UInt64(flap), cost: 10, remoteLink: 1))
            while !(node.state.node(0)?.links.contains { $0.adjacency.nonce == UInt64(flap) } ?? false) {
                node.advance(to: node.now + 10)
                guard node.now - up < 60_000 else { break }
            }
            waits.append((node.now - up) / 100 * 100)
            _ = Self.sent(node, on: 1)
            node.state.adjacencyDown(1)
            #expect(Self.sent(node, on: 1).map(\.adjacencies) == [[]], "at once")
        }
        // Nothing else leads there: then a second is the longest wait.
        #expect(waits == [0, 0, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000])
        // A neighbour that was started anew begins anew.
        node.state.adjacencyUp(Adjacency(link: 1, peer: peer, nonce: 100, cost: 10, remoteLink: 1))
        node.receive(Self.advertisement(of: 1, epoch: 1 << 16).frame(), from: 1)
        node.receive(Self.advertisement(of: 1, epoch: 2 << 16).frame(), from: 1)
        node.advance(to: node.now + 100)
        #expect(node.state.node(0)?.links.map(\.adjacency.nonce) == [100])
    }

    /// When others cannot be told at once, this node does not use what is down all the same.
    @Test func aLinkThatIsDownIsNotUsedBeforeOthersKnow() {
        let node = Self.node()
        node.establish(1, to: Self.id(1))
        let peer = node.nodes.known(Self.id(1))!
        for link in 1...20 {
            node.state.adjacencyUp(Adjacency(link: link, peer: peer, nonce: 77, cost: 1, remoteLink: UInt16(link)))
        }
        let links = (1...20).map { Self.link(to: 100, UInt16($0), UInt16($0), cost: 1) }
        node.receive(Self.advertisement(of: 1, links).frame(), from: 1)
        node.advance(to: 60_000)
        node.sent = []
        for link in 1...20 {
            #expect(node.state.routes.isReachable(peer))
            node.state.adjacencyDown(link)
        }
        #expect(Self.sent(node, on: 1).last?.adjacencies.count == 4)
        node.advance(to: 60_002)
        #expect(Self.sent(node, on: 1).isEmpty)
        #expect(!node.state.routes.isReachable(peer))
    }

    /// Who joins has no routes yet that others could rely on.
    @Test func nothingPassesThroughWhoJoins() {
        let node = Self.node()
        node.establish(1, to: Self.id(1))
        let peer = node.nodes.known(Self.id(1))!
        node.state.adjacencyUp(Adjacency(link: 1, peer: peer, nonce: 77, cost: 1, remoteLink: 1))
        let links = [Self.link(to: 100, 1, 1), Self.link(to: 2, 2, 1)]
        node.receive(
            Self.advertisement(of: 1, sequence: 1, flags: AdvertisementHead.joining, links).frame(), from: 1)
        node.receive(Self.advertisement(of: 2, [Self.link(to: 1, 1, 2)]).frame(), from: 1)
        let far = node.nodes.known(Self.id(2))!
        node.advance(to: 2_000)
        #expect(node.state.routes.isReachable(peer))
        #expect(!node.state.routes.isReachable(far))
        node.receive(Self.advertisement(of: 1, sequence: 2, links).frame(), from: 1)
        node.advance(to: 3_000)
        #expect(node.state.routes.isReachable(far))
    }

    @Test func aBurstOfLinksGoingDownIsLimited() {
        let node = Self.node()
        node.establish(1, to: Self.id(1))
        let peer = node.nodes.known(Self.id(1))!
        for link in 1...70 {
            node.state.adjacencyUp(Adjacency(link: link, peer: peer, nonce: 5, cost: 1, remoteLink: UInt16(link)))
        }
        #expect(node.state.counters.refusedAdjacencies == 6)
        node.advance(to: 60_000)
        #expect(node.state.node(0)?.links.count == 64)
        node.sent = []
        for link in 1...64 { node.state.adjacencyDown(link) }
        #expect(Self.sent(node, on: 1).count == 16)
        node.advance(to: node.now + 150)
        #expect(Self.sent(node, on: 1).map(\.adjacencies.count) == [0])
    }
}
