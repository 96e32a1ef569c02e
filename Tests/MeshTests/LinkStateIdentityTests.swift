import Testing
import TestSupport

@testable import Mesh

/// Numbers in destination sets, earlier lives and clones.
@Suite struct LinkStateIdentityTests {
    typealias Base = LinkStateTests

    static func claim(
        _ node: NodeIndex, _ shortID: UInt16, claims: UInt32 = 1, isUp: Bool = true, isReachable: Bool = true
    ) -> ShortIDClaim {
        ShortIDClaim(
            node: node, id: NodeID(high: 0, low: UInt64(node)), shortID: shortID, claims: claims, isUp: isUp,
            isReachable: isReachable)
    }

    @Test func whoHasANumber() {
        func numbers(_ claims: [ShortIDClaim]) -> [UInt16] { ShortIDs.assign(claims).numbers }
        func losers(_ claims: [ShortIDClaim]) -> [Int] { ShortIDs.assign(claims).losers }
        #expect(numbers([Self.claim(1, 5), Self.claim(2, 6), Self.claim(3, 0)]) == [5, 6, 0])
        #expect(losers([Self.claim(1, 5), Self.claim(2, 6), Self.claim(3, 0), Self.claim(4, 0)]) == [])
        // Equals: nobody has it, the larger id gives way.
        #expect(numbers([Self.claim(2, 5), Self.claim(1, 5)]) == [0, 0])
        #expect(losers([Self.claim(2, 5), Self.claim(1, 5)]) == [0])
        // Who has given way less stays.
        #expect(losers([Self.claim(2, 5, claims: 1), Self.claim(1, 5, claims: 2)]) == [1])
        // One that is up keeps its number from those that join; one that can be reached from those that cannot.
        #expect(numbers([Self.claim(1, 5, isUp: false), Self.claim(2, 5, claims: 9)]) == [0, 5])
        #expect(losers([Self.claim(1, 5, isUp: false), Self.claim(2, 5, claims: 9)]) == [0])
        #expect(numbers([Self.claim(1, 5, isReachable: false), Self.claim(2, 5, isUp: false)]) == [0, 5])
        #expect(numbers([Self.claim(3, 5), Self.claim(1, 5), Self.claim(2, 5, isUp: false)]) == [0, 0, 0])
    }

    @Test func aFreeNumberIsFree() {
        var random = Seeded(seed: 1)
        for _ in 0..<100 {
            let claims = (1...20).map { Self.claim($0, UInt16.random(in: 1...30, using: &random)) }
            let number = ShortIDs.free(claims) { UInt64.random(in: 0..<30, using: &random) }
            #expect(number != 0 && !claims.contains { $0.shortID == number })
        }
        #expect(ShortIDs.free([Self.claim(1, 0xFFFF)]) { 0xFFFE } == 1)
    }

    /// A node that joins with a number that another has claims a new one before it leaves joining.
    @Test func whoJoinsGivesWay() {
        let node = Base.node(shortID: 7)
        node.advance(to: 1_010)
        #expect(node.told.contains(.shortID(7)))
        node.establish(1, to: Base.id(1))
        let peer = node.nodes.known(Base.id(1))!
        node.state.adjacencyUp(Adjacency(link: 1, peer: peer, nonce: 77, cost: 1, remoteLink: 1))
        node.told = []
        node.receive(Base.versions([(1, 1 << 16, 1)]), from: 1)
        node.receive(Base.advertisement(of: 1, shortID: 7, [Base.link(to: 100, 1, 1)]).frame(), from: 1)
        node.advance(to: 1_500)
        let own = node.nodes[NodeTable.own].shortID
        #expect(own != 0 && own != 7)
        #expect(node.told.contains(.shortID(own)))
        #expect(node.nodes.node(shortID: 7) == peer)
        #expect(node.nodes.node(shortID: own) == NodeTable.own)
        let details = node.state.node(NodeTable.own)
        #expect(details?.shortID == own)
        #expect(details?.isJoining == false)
        // Whatever was advertised as no longer joining has the new number.
        for one in Base.sent(node, on: 1) where one.head.flags & AdvertisementHead.joining == 0 {
            #expect(one.head.shortID == own)
        }
    }

    /// Two that are up, after a partition has healed: nobody has the number until one has claimed another.
    @Test func aContestedNumberIsNobodys() {
        let node = Base.node(shortID: 7)
        node.establish(1, to: Base.id(200))
        let peer = node.nodes.known(Base.id(200))!
        node.advance(to: 5_000)
        #expect(node.state.node(NodeTable.own)?.isJoining == false)
        node.state.adjacencyUp(Adjacency(link: 1, peer: peer, nonce: 77, cost: 1, remoteLink: 1))
        node.receive(Base.advertisement(of: 200, shortID: 7, [Base.link(to: 100, 1, 1)]).frame(), from: 1)
        node.advance(to: 5_100)
        #expect(node.nodes.node(shortID: 7) == nil)
        #expect(node.told.last { if case .shortID = $0 { true } else { false } } == .shortID(0))
        // The other has the larger id: it claims another, and all is well.
        node.receive(
            Base.advertisement(of: 200, sequence: 2, shortID: 8, claims: 2, [Base.link(to: 100, 1, 1)]).frame(),
            from: 1)
        node.advance(to: 5_200)
        #expect(node.nodes.node(shortID: 7) == NodeTable.own)
        #expect(node.nodes.node(shortID: 8) == peer)
    }

    @Test func anIsolatedNodeLeavesJoiningAfterAWhile() {
        let node = Base.node()
        node.advance(to: 1_000 + LinkState.joinPatience - 1)
        #expect(node.state.node(NodeTable.own)?.isJoining == true)
        node.advance(to: 1_000 + LinkState.joinPatience + 200)
        #expect(node.state.node(NodeTable.own)?.isJoining == false)
        #expect(!node.state.isSynchronised)
    }

    // MARK: Earlier lives and clones

    /// The disk was older than the last life: the epoch is raised above what the others know.
    @Test func anEarlierLifeIsExceeded() throws {
        let node = Base.node()
        node.establish(1, to: Base.id(1))
        node.advance(to: 2_000)
        node.sent = []
        node.told = []
        let old = Base.advertisement(of: 100, epoch: 9 << 16 | 5, sequence: 40, instance: 1)
        node.receive(old.frame(), from: 1)
        let own = node.nodes[NodeTable.own]
        #expect(own.epoch >> 16 == 10)
        #expect(node.told == [.changed(NodeTable.own, isRestart: true)])
        let sent = try #require(Base.sent(node, on: 1).last)
        #expect(sent.head.version == AdvertisementVersion(epoch: own.epoch, sequence: 1))
        // The same comes on other links, too: it is answered, and no reason for anything else.
        for _ in 0..<20 { node.receive(old.frame(), from: 1) }
        #expect(node.nodes[NodeTable.own].epoch == own.epoch)
        #expect(!node.told.contains(.mustLeave))
        #expect(node.state.counters.raises == 1)
    }

    @Test func anOlderOfOneselfIsAnswered() {
        let node = Base.node()
        node.establish(1, to: Base.id(1))
        node.sent = []
        node.receive(Base.advertisement(of: 100, epoch: 4 << 16, sequence: 400).frame(), from: 1)
        #expect(Base.sent(node, on: 1).map(\.head.version.epoch) == [Base.epoch])
        #expect(node.state.counters.raises == 0)
    }

    @Test func thereIsAnEndToEpochs() {
        let node = Base.node()
        node.establish(1, to: Base.id(1))
        node.receive(Base.advertisement(of: 100, epoch: .max, sequence: .max, instance: 1).frame(), from: 1)
        #expect(node.told.contains(.mustLeave))
        #expect(OwnIdentity.epoch(above: 7 << 16 | 9, random: 0xABCD_1234) == 8 << 16 | 0x1234)
    }

    /// Two processes with the same id raise their epochs in turn; the one with the larger instance leaves, soon.
    @Test func ofTwoClonesTheLargerInstanceLeaves() {
        func clone(_ instance: UInt64) -> WorldNode {
            WorldNode(
                id: Base.id(100), epoch: 5 << 16 | instance, instance: instance, seed: instance, now: 1_000,
                settings: LinkStateSettings(shortID: 7))
        }
        let (small, large) = (clone(10), clone(20))
        var rounds = 0
        for node in [small, large] { node.establish(1, to: Base.id(1)) }
        while !large.told.contains(.mustLeave), rounds < 50 {
            rounds += 1
            for (from, to) in [(small, large), (large, small)] {
                let frames = from.sent
                from.sent = []
                for (_, frame) in frames { to.receive(frame, from: 1) }
                to.advance(to: to.now + 10)
            }
        }
        #expect(large.told.contains(.mustLeave))
        #expect(!small.told.contains(.mustLeave))
        #expect(rounds < 50, "\(rounds)")
        #expect(small.state.counters.raises <= 6)
        // The one that has left says nothing more, and the other is heard.
        large.sent = []
        large.advance(to: large.now + 500_000)
        large.receive(Base.advertisement(of: 100, epoch: 900 << 16, instance: 10).frame(), from: 1)
        #expect(large.sent.isEmpty)
    }

    /// A copy of a process with its memory has the same instance; the two become different and are treated as clones.
    @Test func copiesOfOneProcessBecomeDifferent() {
        let node = Base.node(instance: 10)
        node.establish(1, to: Base.id(1))
        node.receive(Base.advertisement(of: 100, epoch: Base.epoch, sequence: 1_000, instance: 10).frame(), from: 1)
        #expect(node.nodes[NodeTable.own].instance != 10)
        #expect(node.nodes[NodeTable.own].epoch > Base.epoch)
    }
}
