import Testing

@testable import Core
@testable import Mesh

/// Sessions that follow their clients: takeovers of all kinds, with events under way.
struct SessionMoveTests {
    /// Who publishes, and what.
    final class Publisher {
        let client: StageClient
        private(set) var count = 0
        let name: String

        init(_ stage: Stage, at node: Int, _ name: String) {
            self.name = name
            client = StageClient(stage, at: node, name, clean: true, expiry: 0, lane: 1).connected()
        }

        func publish(_ times: Int = 1, qos: UInt8 = 1) {
            for _ in 0..<times {
                count += 1
                client.publish("t/x", "\(name)\(count)", qos: qos, id: UInt16(count % 60_000) + 1)
                client.read()
            }
        }

        var all: [String] { (1...max(count, 1)).prefix(count).map { "\(name)\($0)" } }
    }

    private func of(_ name: String, _ texts: [String]) -> [String] { texts.filter { $0.hasPrefix(name) } }

    @Test func aCleanStartElsewhereClosesTheOldConnection() {
        let stage = Stage(2)
        let old = StageClient(stage, at: 0, "c", expiry: 3_600).connected()
        #expect(old.isPresent == false)
        old.subscribe("t/#")
        let new = StageClient(stage, at: 1, "c", clean: true).connected()
        #expect(new.isPresent == false)
        stage.advance(200)
        old.read()
        #expect(old.packets.last == .disconnect(0x8E))
        #expect(old.closing == .takenOver)
        // Its session has ended with it.
        #expect(stage.nodes[0].router.session(of: "c") == nil)
        #expect(stage.nodes[1].router.session(of: "c") != nil)
        #expect(new.closing == nil)
        #expect(stage.nodes[0].router.subscriptionCount == 1)
    }

    @Test func anOldClientIsOnlyClosed() {
        let stage = Stage(2)
        let old = StageClient(stage, at: 0, "c", clean: true, version5: false).connected()
        stage.advance(20)
        let new = StageClient(stage, at: 1, "c", clean: true, version5: false).connected()
        stage.advance(200)
        old.read()
        #expect(old.packets == [.connack(present: false, code: 0)])
        #expect(old.closing == .takenOver)
        #expect(new.closing == nil)
    }

    @Test(arguments: [UInt8(1), 2], [0, 1, 2]) func whatWaitedArrivesOnceAndInOrder(qos: UInt8, home: Int) {
        let stage = Stage(3)
        let id = stage.clientID(homeAt: home)
        let old = StageClient(stage, at: 0, id).connected()
        old.subscribe("t/#", id: 7)
        stage.advance(100)
        old.disconnect()
        let (near, far) = (Publisher(stage, at: 0, "a"), Publisher(stage, at: 2, "b"))
        near.publish(20, qos: qos)
        far.publish(20, qos: qos)
        stage.advance(50)
        let new = StageClient(stage, at: 1, id)
        for _ in 0..<300 {
            near.publish(qos: qos)
            far.publish(qos: qos)
            stage.advance(1)
            new.read()
        }
        #expect(new.isPresent == true)
        stage.advance(6_000)
        near.publish(qos: qos)
        far.publish(qos: qos)
        stage.advance(100)
        new.read()
        #expect(of("a", new.texts) == near.all)
        #expect(of("b", new.texts) == far.all)
        #expect(stage.nodes[0].router.session(of: id) == nil)
        #expect(stage.nodes[0].moves.counters.movedOut == 1)
        #expect(stage.nodes[1].moves.counters.movedIn == 1)
        // The ghost is gone too.
        #expect(stage.nodes[0].router.subscriptionCount == 1)
        #expect(stage.nodes[0].moves.departures.isEmpty)
        #expect(stage.nodes[1].moves.arrivals.isEmpty)
        #expect(stage.nodes.allSatisfy { $0.complaints.isEmpty })
        // The subscription has moved as it was.
        let port = stage.nodes[1].router.session(of: id).flatMap { stage.nodes[1].lanes[$0.lane].port(at: $0) }
        let moved = port.map { stage.nodes[1].router.subscriptions(of: $0) } ?? []
        #expect(moved.map(\.filter.text) == ["t/#"])
        #expect(moved.map(\.identifier) == [7])
    }

    @Test func aConnectedClientIsTakenOverWhileEventsFlow() {
        let stage = Stage(2)
        let old = StageClient(stage, at: 0, "c").connected()
        old.subscribe("t/#")
        stage.advance(100)
        let publishers = [Publisher(stage, at: 0, "a"), Publisher(stage, at: 1, "b")]
        func flow(_ milliseconds: Int, _ readers: StageClient...) {
            for _ in 0..<milliseconds {
                for publisher in publishers { publisher.publish() }
                stage.advance(1)
                for reader in readers { reader.read() }
            }
        }
        flow(100, old)
        let new = StageClient(stage, at: 1, "c")
        flow(500, old, new)
        #expect(old.closing == .takenOver)
        #expect(new.isPresent == true)
        stage.advance(4_000)
        new.read()
        for publisher in publishers {
            let all = of(publisher.name, old.texts) + of(publisher.name, new.texts)
            // What the old connection was sent and not acknowledged is sent again, and only that may be.
            #expect(Set(all).count == publisher.count)
            #expect(all.count - publisher.count <= 3)
            let mine = of(publisher.name, new.texts)
            #expect(mine == mine.sorted { ($0.count, $0) < ($1.count, $1) })
        }
    }

    @Test func whatWasInFlightGoesOn() {
        let stage = Stage(2)
        let old = StageClient(stage, at: 0, "c").connected()
        old.acknowledges = false
        old.subscribe("t/#")
        stage.advance(50)
        let publisher = Publisher(stage, at: 0, "a")
        publisher.publish(qos: 1)
        publisher.publish(qos: 2)
        publisher.publish(qos: 2)
        publisher.publish(qos: 1)
        stage.advance(10)
        old.read()
        #expect(old.texts == ["a1", "a2", "a3", "a4"])
        // 2 is received, 4 is settled out of turn.
        old.acknowledge(0x50, 2)
        old.acknowledge(0x40, 4)
        // And this one's PUBREL is outstanding.
        old.publish("t/own", "own", qos: 2, id: 9)
        stage.advance(10)
        old.read()
        #expect(old.packets.contains(.acknowledge(0x50, 9)))
        let new = StageClient(stage, at: 1, "c")
        new.acknowledges = false
        new.connected()
        stage.advance(10)
        new.read()
        #expect(
            new.packets.dropFirst() == [
                .publish(text: "a1", qos: 1, id: 1, dup: true), .acknowledge(0x62, 2),
                .publish(text: "a3", qos: 2, id: 3, dup: true), .publish(text: "own", qos: 2, id: 5, dup: true),
            ])
        // Sent again because its PUBREC may have got lost: it is known, and not published a second time.
        new.publish("t/own", "own", qos: 2, id: 9, dup: true)
        stage.advance(50)
        new.read()
        #expect(new.packets.last == .acknowledge(0x50, 9))
        new.acknowledge(0x62, 9)
        new.read()
        #expect(new.packets.last == .acknowledge(0x70, 9))
        #expect(new.texts.filter { $0 == "own" }.count == 1)
        // Packet identifiers go on where they were.
        publisher.publish(qos: 1)
        stage.advance(50)
        new.read()
        #expect(new.packets.last == .publish(text: "a5", qos: 1, id: 6, dup: false))
    }

    /// - Parameter interest: milliseconds until other nodes know what is subscribed to; then more comes late.
    @Test(arguments: [UInt64(25), 300]) func backAndForthManyTimes(interest: UInt64) {
        let stage = Stage(3)
        stage.interestDelay = interest
        var clients: [StageClient] = []
        let memory = StageClient.Memory()
        let first = StageClient(stage, at: 0, "c", memory: memory).connected()
        first.subscribe("t/#", qos: 2)
        stage.advance(500)
        clients.append(first)
        let publishers = (0..<3).map { Publisher(stage, at: $0, ["x", "y", "z"][$0]) }
        for round in 0..<(interest == 25 ? 200 : 50) {
            // From in the middle of a move to long after one.
            let next = StageClient(stage, at: (round + 1) % 2, "c", memory: memory, lane: round % 2)
            clients.append(next)
            for step in 0..<[30, 120, 180, 260, 400][round % 5] {
                if step % 5 == 0 { publishers[(step / 5) % 3].publish(qos: 2) }
                stage.advance(1)
                for client in clients.suffix(3) { client.read() }
            }
        }
        for _ in 0..<8_000 {
            stage.advance(1)
            for client in clients.suffix(2) { client.read() }
        }
        let texts = clients.flatMap(\.texts)
        for publisher in publishers {
            let mine = of(publisher.name, texts)
            #expect(publisher.all.filter { !mine.contains($0) } == [])
            #expect(mine.count == publisher.count)
            let late = zip(mine, publisher.all).filter { $0 != $1 }
            if interest < SessionMoves.settleMilliseconds { #expect(late.isEmpty) }
        }
        #expect(clients.filter { $0.closing == nil }.count == 1)
        #expect(stage.nodes.allSatisfy { $0.moves.departures.isEmpty && $0.moves.arrivals.isEmpty })
        #expect(stage.nodes.allSatisfy { $0.moves.movesIn == 0 && $0.moves.departing == 0 })
        #expect(stage.nodes.allSatisfy { $0.moves.incomingBytes == 0 })
    }
}
