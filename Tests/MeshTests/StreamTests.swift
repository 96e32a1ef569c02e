import Testing

@testable import Mesh

/// Streams, frame by frame: what is sent when, and what is refused.
@Suite("Streams frame by frame") struct StreamTests {
    /// A node that writes down what its streams ask for. It knows nodes 1 and up, reachable by link 1.
    final class Desk: ControlPlane, StreamForwarding {
        struct Sent: Equatable {
            var targets: [StreamTarget]
            var flags: UInt8
            var sealed: [UInt8]
            var counters: [UInt32] { targets.map(\.counter) }
        }

        var now: UInt64 = 1_000
        let nodes = NodeTable(own: NodeID(high: 1, low: 0), epoch: 1 << 16, instance: 1, name: "")
        var routes = Routes()
        var sent: [Sent] = []
        var routed: [(frame: [UInt8], node: NodeIndex)] = []
        var releases: [UInt64] = []
        var homeless: [(sealed: [UInt8], node: NodeIndex)] = []
        var wakes: [UInt64] = []
        let settings: StreamSettings
        private var made: Streams?
        var streams: Streams { made.unsafelyUnwrapped }
        /// What is published when somebody has no member.
        var alternative: NodeIndex?

        init(_ settings: StreamSettings = StreamSettings(), others: Int = 3) {
            self.settings = settings
            for other in 1...others {
                guard let index = nodes.index(of: NodeID(high: 1, low: UInt64(other))) else { continue }
                nodes.update(index, epoch: UInt64(other) << 32, instance: 1, name: "")
            }
            made = Streams(plane: self, forwarding: self, settings: settings)
            setLinks([0] + Array(repeating: 1, count: others))
        }

        func setLinks(_ links: [LinkNumber]) {
            routes.links = links
            streams.routesChanged(routes)
        }

        func wallClock() -> UInt64 { now }
        func random() -> UInt64 { 4 }
        var establishedLinks: [LinkNumber] { [] }
        func peer(of link: LinkNumber) -> NodeIndex { 0 }
        func send(_ frame: [UInt8], on link: LinkNumber) {}
        func log(_ level: MeshLogLevel, _ message: String) {}
        func isReachable(_ node: NodeIndex) -> Bool { routes.isReachable(node) }
        func wake(at time: UInt64) { wakes.append(time) }
        func route(_ frame: [UInt8], to node: NodeIndex, isBulk: Bool) -> Bool {
            guard isReachable(node) else { return false }
            routed.append((frame, node))
            return true
        }
        func forwardStream(_ sealed: UnsafeRawBufferPointer, flags: UInt8, to targets: [StreamTarget]) {
            sent.append(Sent(targets: targets, flags: flags, sealed: Array(sealed)))
        }
        func released(_ hold: UInt64) { releases.append(hold) }
        func noMember(_ sealed: UnsafeRawBufferPointer, at node: NodeIndex, expiresAt: UInt64) {
            homeless.append((Array(sealed), node))
            if let alternative { publish(to: [alternative], Array(sealed)) }
        }
        func givenUp(_ sealed: UnsafeRawBufferPointer, expiresAt: UInt64, wasSent: Bool) -> Bool { false }

        @discardableResult
        func publish(
            to nodes: [NodeIndex], _ sealed: [UInt8] = [UInt8](repeating: 1, count: 100), expiresAt: UInt64 = 0
        ) -> Streams.Publication {
            streams.publish(sealed, events: 1, to: nodes, expiresAt: expiresAt)
        }

        func takeSent() -> [Sent] {
            defer { sent = [] }
            return sent
        }

        /// What a node would say.
        func said(_ cumulative: UInt64, by node: NodeIndex = 1) -> StreamAcknowledgement {
            StreamAcknowledgement(
                originEpoch: nodes[0].epoch, destinationEpoch: nodes[node].epoch, cumulative: cumulative,
                windowFrames: 8_192, windowBytes: 8 << 20)
        }

        @discardableResult
        func hear(_ said: StreamAcknowledgement, from node: NodeIndex = 1) -> String? {
            hear(said.frame(), .streamAcknowledgement, from: node)
        }

        func hear(_ frame: [UInt8], _ type: FrameType, from node: NodeIndex) -> String? {
            frame.withUnsafeBytes { bytes in
                var reader = WireReader(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]))
                return streams.receive(type, &reader, from: node)
            }
        }

        /// A frame from a node arrives.
        func arrive(
            _ counter: UInt32, from node: NodeIndex = 1, flags: UInt8 = 0, epoch: UInt64? = nil, tag: UInt16? = nil,
            _ sealed: [UInt8] = [7]
        ) -> Streams.Arrival {
            let destination = Destination(
                shortID: 9, epochTag: tag ?? Destination.tag(ofEpoch: nodes[0].epoch), counter: counter)
            return sealed.withUnsafeBytes {
                streams.arrived(
                    from: node, originEpoch: epoch ?? nodes[node].epoch, destination, flags: flags, $0)
            }
        }

        func takeAcknowledgement() -> StreamAcknowledgement? {
            guard let last = routed.popLast() else { return nil }
            return last.frame.withUnsafeBytes { bytes in
                var reader = WireReader(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...]))
                return StreamAcknowledgement(&reader)
            }
        }

        func pass(_ milliseconds: UInt64) {
            now += milliseconds
            _ = streams.tick()
        }
    }

    typealias Range = StreamAcknowledgement.Range

    @Test func oneFrameCarriesAllWhoseWindowsAreOpen() {
        var settings = StreamSettings()
        settings.windowFrames = 2
        let desk = Desk(settings)
        desk.publish(to: [1])
        desk.publish(to: [1, 2, 3])
        desk.publish(to: [1, 2])
        let sent = desk.takeSent()
        #expect(sent.map { $0.targets.map(\.node) } == [[1], [1, 2, 3], [2]])
        #expect(sent.map(\.counters) == [[1], [2, 1, 1], [2]])
        #expect(desk.streams.spool.count == 3, "one payload for all")
        #expect(desk.streams.status(of: 1).waiting == 1)
        // The window opens, and the payload of the first is no longer needed.
        desk.hear(desk.said(1))
        #expect(desk.takeSent().map(\.targets) == [[StreamTarget(node: 1, counter: 3)]])
        #expect(desk.streams.spool.count == 2)
        desk.hear(desk.said(3))
        for node in [2, 3] { desk.hear(desk.said(node == 2 ? 2 : 1, by: node), from: node) }
        #expect(desk.streams.spool.count == 0 && desk.streams.spool.bytes == 0)
        #expect(desk.streams.tick() == nil, "nothing is left to wait for")
    }

    @Test func aHoleIsSentAgainAtOnceAndNothingElse() {
        let desk = Desk()
        for _ in 1...10 { desk.publish(to: [1]) }
        _ = desk.takeSent()
        desk.now += 20
        var said = desk.said(3)
        said.ranges = [Range(first: 5, last: 6)]
        desk.hear(said)
        #expect(desk.takeSent().isEmpty, "it may only have been overtaken")
        said.ranges = [Range(first: 5, last: 7)]
        desk.hear(said)
        #expect(desk.takeSent().map(\.counters) == [[4]])
        desk.hear(said)
        #expect(desk.takeSent().isEmpty, "once is enough")
        desk.hear(desk.said(7))
        #expect(desk.streams.spool.count == 3 && desk.takeSent().isEmpty)
    }

    @Test func whatIsNeverHeardOfIsSentAgainLaterAndLater() {
        let desk = Desk()
        desk.publish(to: [1])
        _ = desk.takeSent()
        var times: [UInt64] = []
        let start = desk.now
        for _ in 0..<20_000 {
            desk.pass(1)
            if !desk.takeSent().isEmpty { times.append(desk.now - start) }
        }
        #expect(times == [1_000, 3_000, 7_000, 15_000])
        // Once the way has been measured the first is much earlier.
        desk.hear(desk.said(1))
        for _ in 0..<50 {
            desk.publish(to: [1])
            desk.now += 10
            desk.hear(desk.said(UInt64(desk.streams.outgoing[1]?.lastSent ?? 0)))
        }
        desk.publish(to: [1])
        _ = desk.takeSent()
        desk.pass(49)
        #expect(desk.takeSent().isEmpty)
        desk.pass(20)
        #expect(desk.takeSent().count == 1)
    }

    @Test func anotherRouteIsAskedAboutBeforeAnythingIsSentAgain() throws {
        let desk = Desk()
        for _ in 1...100 { desk.publish(to: [1]) }
        _ = desk.takeSent()
        desk.setLinks([0, 2, 1, 1])
        #expect(desk.takeSent().isEmpty && desk.routed.count == 1)
        let frame = try #require(desk.routed.first?.frame)
        #expect(frame[3] == FrameType.streamSync.rawValue)
        var said = desk.said(40)
        said.ranges = [Range(first: 42, last: 90)]
        said.echo = 1
        desk.hear(said)
        #expect(desk.takeSent().map { Int($0.counters[0]) } == [41] + Array(91...100))
    }

    @Test func settledByWindowsOfThousandsOfFrames() {
        let desk = Desk()
        for _ in 1...9_000 { desk.publish(to: [1], [1]) }
        #expect(desk.takeSent().count == 8_192)
        desk.hear(desk.said(808))
        #expect(desk.takeSent().count == 808)
        var said = desk.said(9_000)
        said.windowFrames = 3
        desk.hear(said)
        for _ in 1...5 { desk.publish(to: [1], [1]) }
        #expect(desk.takeSent().count == 3, "the destination can take no more")
    }

    @Test func aFullShareHoldsPublishersAndLetsThemGoOneByOne() {
        var settings = StreamSettings()
        (settings.windowFrames, settings.maxStreamBytes) = (2, 1_000)
        let desk = Desk(settings)
        let cost = MemorySpool.cost(of: 100)
        let holds = (0..<20).map { _ in desk.publish(to: [1, 2]) }
        let free = 1_000 / cost
        let hard = 2_000 / cost
        #expect(holds.prefix(free).allSatisfy { $0.hold == 0 })
        #expect(holds[free..<hard].map(\.hold) == (1...UInt64(hard - free)).map { $0 })
        #expect(holds.dropFirst(hard).allSatisfy { $0.refused == 2 && $0.hold == 0 })
        #expect(desk.streams.spool.bytes(for: 1) <= 2_000)
        desk.hear(desk.said(1))
        #expect(desk.releases.isEmpty, "the other destination is still full")
        desk.hear(desk.said(1, by: 2), from: 2)
        #expect(desk.releases == [1])
        desk.hear(desk.said(2))
        desk.hear(desk.said(2, by: 2), from: 2)
        #expect(desk.releases == [1, 2])
        // Who cannot be reached holds nobody.
        desk.setLinks([0, 0, 1, 1])
        desk.setLinks([0, 0, 0, 1])
        #expect(desk.releases == (1...UInt64(hard - free)).map { $0 })
    }

    @Test func anUnreachableNodeHasItsShareForAWhile() {
        var settings = StreamSettings()
        settings.maxStreamBytes = 10 * MemorySpool.cost(of: 100)
        let desk = Desk(settings)
        for _ in 0..<3 { desk.publish(to: [1]) }
        desk.setLinks([0, 0, 1, 1])
        _ = desk.takeSent()
        let publications = (0..<9).map { _ in desk.publish(to: [1]) }
        #expect(publications.map(\.dropped) == [0, 0, 0, 0, 0, 0, 0, 1, 1])
        #expect(desk.streams.counters.droppedUnreachable == 2)
        #expect(desk.takeSent().isEmpty)
        desk.pass(29_999)
        #expect(desk.streams.spool.count == 10)
        desk.pass(1)
        #expect(desk.streams.spool.count == 0 && desk.streams.counters.droppedUnreachable == 12)
        #expect(desk.publish(to: [1]).dropped == 1)
        // It comes back, the same life of it: what had numbers is void.
        desk.setLinks([0, 1, 1, 1])
        desk.publish(to: [1])
        var said = desk.said(0)
        said.echo = 1
        desk.hear(said)
        let sent = desk.takeSent()
        #expect(sent.map(\.counters) == [[4], [1], [2], [3]])
        #expect(sent.map(\.flags) == [0, 2, 2, 2] && sent[1].sealed.isEmpty)
        desk.hear(desk.said(4))
        #expect(desk.streams.status(of: 1).numbered == 0)
    }

    @Test func whatHasExpiredIsVoidWhenItIsSentAgain() {
        let desk = Desk()
        desk.publish(to: [1], expiresAt: desk.now + 2_000)
        desk.publish(to: [1], expiresAt: desk.now + 500)
        _ = desk.takeSent()
        desk.pass(1_000)
        let sent = desk.takeSent()
        #expect(sent.map(\.flags) == [0, StreamFlags.void])
        // Milliseconds left.
        #expect(Array(sent[0].sealed[12..<16]) == [0xE8, 3, 0, 0])
        #expect(desk.streams.counters.droppedExpired == 1 && desk.streams.spool.count == 1)
    }

    @Test func anotherLifeOfTheDestinationIsNumberedAnew() {
        let desk = Desk()
        for byte in UInt8(1)...5 { desk.publish(to: [1], [byte]) }
        desk.hear(desk.said(2))
        _ = desk.takeSent()
        let old = desk.said(5)
        desk.nodes.update(1, epoch: 9 << 32, instance: 2, name: "")
        // Not even told yet: nothing may go out under old numbers.
        desk.publish(to: [1], [6])
        desk.streams.nodeRestarted(1)
        let sent = desk.takeSent()
        #expect(sent.flatMap(\.counters) == [1, 2, 3, 4] && sent.map { $0.sealed[0] } == [3, 4, 5, 6])
        #expect(sent.map(\.flags) == [1, 1, 1, 0])
        #expect(desk.hear(old) == nil)
        #expect(desk.streams.spool.count == 4, "what the former life says is nothing")
        desk.hear(desk.said(4))
        #expect(desk.streams.spool.count == 0)
    }

    @Test func anotherEpochOfThisNodeBeginsAnew() {
        let desk = Desk()
        for byte in UInt8(1)...3 { desk.publish(to: [1], [byte]) }
        #expect(desk.arrive(2) == .held)
        _ = desk.takeSent()
        desk.nodes.update(0, epoch: 7 << 16, instance: 1, name: "")
        _ = desk.streams.tick()
        let sent = desk.takeSent()
        #expect(sent.flatMap(\.counters) == [1, 2, 3] && sent.allSatisfy { $0.flags == 1 })
        #expect(desk.streams.heldBytes == 0)
        #expect(desk.arrive(1, tag: 1) == .refused)
    }

    @Test func aShareWithoutAMemberGoesElsewhere() {
        let desk = Desk()
        desk.alternative = 2
        for byte in UInt8(1)...3 { desk.publish(to: [1], [byte]) }
        _ = desk.takeSent()
        var said = desk.said(1)
        said.ranges = [Range(first: 3, last: 3)]
        said.refusals = [2]
        desk.hear(said)
        #expect(desk.homeless.map(\.sealed) == [[2]] && desk.homeless.map(\.node) == [1])
        let sent = desk.takeSent()
        #expect(sent.map(\.targets) == [[StreamTarget(node: 1, counter: 2)], [StreamTarget(node: 2, counter: 1)]])
        #expect(sent.map(\.flags) == [StreamFlags.void, 0])
        desk.hear(said)
        #expect(desk.homeless.count == 1 && desk.takeSent().isEmpty, "said again, done once")
        desk.hear(desk.said(3))
        desk.hear(desk.said(1, by: 2), from: 2)
        #expect(desk.streams.spool.count == 0)
    }

    // MARK: The destination's side

    @Test func handedOnInOrderAndAcknowledgedWhenSettled() throws {
        let desk = Desk()
        guard case .deliver(let first) = desk.arrive(1) else { return #expect(Bool(false)) }
        #expect(desk.arrive(3, [3]) == .held && desk.arrive(4, [4]) == .held && desk.arrive(3) == .duplicate)
        var said = try #require(desk.takeAcknowledgement())
        #expect(said.cumulative == 0 && said.ranges == [Range(first: 1, last: 1), Range(first: 3, last: 3)])
        #expect(desk.arrive(1) == .duplicate)
        guard case .deliver(let second) = desk.arrive(2) else { return #expect(Bool(false)) }
        let third = try #require(desk.streams.take())
        let fourth = try #require(desk.streams.take())
        #expect(third.sealed == [3] && fourth.sealed == [4] && desk.streams.take() == nil)
        #expect(desk.streams.heldBytes == 0)
        // Later ones are settled before earlier ones.
        desk.streams.settled(third.delivery)
        desk.streams.settled(first)
        desk.pass(5)
        said = try #require(desk.takeAcknowledgement())
        #expect(said.cumulative == 1 && said.ranges == [Range(first: 2, last: 4)])
        desk.streams.settled(second)
        desk.streams.settled(fourth.delivery)
        desk.streams.settled(fourth.delivery)
        desk.pass(5)
        said = try #require(desk.takeAcknowledgement())
        #expect(said.cumulative == 4 && said.ranges.isEmpty)
        desk.pass(1_000)
        #expect(desk.routed.isEmpty)
    }

    @Test func acknowledgedEveryThirtyTwoFrames() {
        let desk = Desk()
        for counter in UInt32(1)...100 {
            if case .deliver(let delivery) = desk.arrive(counter) { desk.streams.settled(delivery) }
        }
        #expect(desk.routed.count == 3)
        desk.pass(5)
        #expect(desk.takeAcknowledgement()?.cumulative == 100)
    }

    @Test func refusedFramesWaitForTheirVoids() throws {
        let desk = Desk()
        for counter in UInt32(1)...5 {
            if case .deliver(let delivery) = desk.arrive(counter) {
                desk.streams.settled(delivery, hasMember: counter != 2 && counter != 4)
            }
        }
        desk.pass(5)
        let said = try #require(desk.takeAcknowledgement())
        #expect(said.cumulative == 1 && said.refusals == [2, 4])
        #expect(said.ranges == [Range(first: 3, last: 3), Range(first: 5, last: 5)])
        #expect(desk.arrive(2) == .duplicate)
        #expect(desk.arrive(2, flags: StreamFlags.void) == .void && desk.arrive(4, flags: StreamFlags.void) == .void)
        desk.pass(5)
        #expect(desk.takeAcknowledgement()?.cumulative == 5)
    }

    @Test func memoryForFramesThatWaitIsBounded() {
        var settings = StreamSettings()
        (settings.maxHeldBytes, settings.maxHeldBytesOfAll, settings.windowFrames) = (1_000, 1_500, 100)
        let desk = Desk(settings)
        func fill(from node: NodeIndex) -> Int {
            (UInt32(2)...90).count { desk.arrive($0, from: node, [UInt8](repeating: 0, count: 100)) == .held }
        }
        #expect(fill(from: 1) == 1_000 / IncomingStream.cost(100))
        // The other origin has what is left.
        #expect(fill(from: 2) == (1_500 - 5 * IncomingStream.cost(100)) / IncomingStream.cost(100))
        #expect(desk.streams.heldBytes == 7 * IncomingStream.cost(100))
        #expect(desk.arrive(102) == .refused && desk.arrive(.max) == .duplicate && desk.arrive(0) == .duplicate)
        #expect(desk.streams.counters.beyondWindow > 0)
        desk.streams.nodeLeft(1)
        desk.streams.nodeLeft(2)
        #expect(desk.streams.heldBytes == 0)
    }

    @Test func anotherLifeOfTheOriginBeginsAnew() throws {
        let desk = Desk()
        guard case .deliver(let old) = desk.arrive(1) else { return #expect(Bool(false)) }
        #expect(desk.arrive(3) == .held)
        let epoch = desk.nodes[1].epoch + (1 << 16)
        guard case .deliver(let new) = desk.arrive(1, epoch: epoch) else { return #expect(Bool(false)) }
        #expect(desk.streams.heldBytes == 0 && desk.arrive(2) == .refused, "the former life is over")
        desk.streams.settled(old)
        desk.pass(5)
        #expect(desk.takeAcknowledgement()?.cumulative == 0)
        desk.streams.settled(new)
        desk.pass(5)
        let said = try #require(desk.takeAcknowledgement())
        #expect(said.cumulative == 1 && said.originEpoch == epoch)
    }

    @Test func aProbeIsAnsweredAtOnce() throws {
        let desk = Desk()
        if case .deliver(let delivery) = desk.arrive(1) { desk.streams.settled(delivery) }
        var probe = StreamProbe(originEpoch: desk.nodes[1].epoch, destinationEpoch: desk.nodes[0].epoch, number: 77)
        #expect(desk.hear(probe.frame(), .streamSync, from: 1) == nil)
        let said = try #require(desk.takeAcknowledgement())
        #expect(said.echo == 77 && said.cumulative == 1)
        probe.destinationEpoch = 5
        #expect(desk.hear(probe.frame(), .streamSync, from: 1) == nil)
        probe.number = 0
        #expect(desk.hear(probe.frame(), .streamSync, from: 1) != nil)
        #expect(desk.routed.isEmpty)
    }
}
