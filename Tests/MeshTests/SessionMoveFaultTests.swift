import Testing

@testable import Core
@testable import Mesh

/// Sessions that move while nodes and links fail, or that must not move.
struct SessionMoveFaultTests {
    private typealias Publisher = SessionMoveTests.Publisher

    /// A client at node 0 with a subscription, gone, and `count` events that wait for it.
    private func leave(_ stage: Stage, _ id: String, events count: Int, user: String? = nil) -> Publisher {
        let old = StageClient(stage, at: 0, id, user: user).connected()
        old.subscribe("t/#")
        stage.advance(100)
        old.disconnect()
        let publisher = Publisher(stage, at: 0, "a")
        publisher.publish(count)
        stage.advance(20)
        return publisher
    }

    @Test func whereTheHolderHasDiedTheClientGoesOnAtOnce() {
        let stage = Stage(3)
        let id = stage.clientID(homeAt: 2)
        _ = leave(stage, id, events: 3)
        stage.kill(0)
        stage.advance(400)
        let begun = stage.now
        let new = StageClient(stage, at: 1, id).connected()
        #expect(new.isPresent == false)
        #expect(stage.now - begun < 50)
    }

    @Test func theHolderDiesInTheMiddle() {
        let stage = Stage(3)
        let id = stage.clientID(homeAt: 2)
        _ = leave(stage, id, events: 3)
        let begun = stage.now
        let new = StageClient(stage, at: 1, id)
        stage.advance(60)
        #expect(stage.nodes[1].moves.movesIn == 1)
        stage.kill(0)
        new.connected()
        #expect(new.isPresent == false)
        #expect(stage.now - begun <= SessionMoves.waitMilliseconds + 10)
        #expect(stage.nodes[1].moves.counters.timedOut == 1)
        stage.advance(12_000)
        #expect(stage.nodes[1].moves.arrivals.isEmpty)
        #expect(stage.nodes[1].moves.movesIn == 0)
        #expect(new.closing == nil)
        // Only what the client itself has now.
        #expect(stage.nodes[1].router.subscriptionCount == 1)
    }

    @Test(arguments: [0, 1, 2, 5]) func theHomeDiesInTheMiddle(after milliseconds: Int) {
        let stage = Stage(4)
        let id = stage.clientID(homeAt: 3)
        let publisher = leave(stage, id, events: 50)
        let new = StageClient(stage, at: 1, id)
        stage.advance(milliseconds)
        stage.kill(3)
        new.connected()
        stage.advance(50)
        new.read()
        #expect(new.isPresent == true)
        #expect(new.texts == publisher.all)
    }

    @Test func newHomesAreTold() {
        let stage = Stage(4)
        var publishers: [Publisher] = []
        let ids = (0..<40).map { "many\($0)" }
        for id in ids { StageClient(stage, at: 0, id).connected().disconnect() }
        publishers.append(leave(stage, "c", events: 5))
        // The one that knew everything goes; some others that know nothing stay.
        stage.kill(2)
        stage.advance(400)
        for id in ids {
            let new = StageClient(stage, at: 1, id).connected()
            #expect(new.isPresent == true)
        }
        let new = StageClient(stage, at: 3, "c").connected()
        stage.advance(20)
        new.read()
        #expect(new.texts == publishers[0].all)
    }

    @Test(arguments: [0, 1, 3, 50, 104, 106, 108, 110, 150, 300]) func twoClaimAtOnce(apart milliseconds: Int) {
        let stage = Stage(4)
        let id = stage.clientID(homeAt: 3)
        let publisher = leave(stage, id, events: 30)
        let memory = StageClient.Memory()
        let first = StageClient(stage, at: 1, id, memory: memory)
        stage.advance(milliseconds)
        let second = StageClient(stage, at: 2, id, memory: memory)
        for _ in 0..<4_000 {
            stage.advance(1)
            first.read()
            second.read()
        }
        #expect((first.closing == nil) != (second.closing == nil))
        if milliseconds > 0 { #expect(second.closing == nil) }
        let winner = first.closing == nil ? first : second
        #expect(winner.isPresent == true)
        publisher.publish(5)
        stage.advance(50)
        winner.read()
        let all = first.texts + second.texts
        #expect(Set(all) == Set(publisher.all))
        #expect(all.count == publisher.count)
        let sessions = stage.nodes.filter { $0.router.session(of: id) != nil }
        #expect(sessions.count == 1)
    }

    @Test(arguments: [false, true]) func anotherUserIsRefused(isClean: Bool) {
        let stage = Stage(3)
        let old = StageClient(stage, at: 0, "c", user: "ann").connected()
        old.subscribe("t/#")
        stage.advance(50)
        let thief = StageClient(stage, at: 1, "c", clean: isClean, user: "bob").connected()
        stage.advance(100)
        thief.read()
        #expect(thief.closing != nil)
        if !isClean { #expect(thief.packets == [.connack(present: false, code: 0x87)]) }
        #expect(old.closing == nil)
        #expect(stage.nodes[1].router.session(of: "c") == nil)
        #expect(stage.nodes[1].moves.counters.refused == 1)
        // The home believes its owner again.
        let publisher = Publisher(stage, at: 2, "a")
        publisher.publish(3)
        stage.advance(50)
        let new = StageClient(stage, at: 2, "c", user: "ann").connected()
        #expect(new.isPresent == true)
        #expect(old.closing == .takenOver)
    }

    /// The old node does not answer: the client goes on without its session, which stays there.
    private func timeOut(_ stage: Stage, _ id: String) -> (old: StageClient, new: StageClient) {
        let old = StageClient(stage, at: 0, id).connected()
        old.acknowledges = false
        old.subscribe("t/#")
        stage.advance(50)
        Publisher(stage, at: 0, "old").publish(3)
        stage.advance(50)
        stage.setCut(0, 1, true, isNoticed: false)
        let begun = stage.now
        let new = StageClient(stage, at: 1, id).connected()
        #expect(stage.now - begun >= SessionMoves.waitMilliseconds - 10)
        #expect(stage.now - begun <= SessionMoves.waitMilliseconds + 10)
        #expect(new.isPresent == false)
        #expect(stage.nodes[1].moves.counters.timedOut == 1)
        new.subscribe("t/#")
        stage.advance(100)
        stage.setCut(0, 1, false, isNoticed: false)
        stage.advance(1_000)
        // It hears of it as soon as it can.
        #expect(old.closing == .takenOver)
        #expect(stage.nodes[0].router.session(of: id) != nil)
        #expect(new.closing == nil)
        return (old, new)
    }

    @Test func aClientThatWaitedInVainGoesOn() {
        let stage = Stage(3)
        let id = stage.clientID(homeAt: 2)
        let (_, new) = timeOut(stage, id)
        new.disconnect()
        let publisher = Publisher(stage, at: 2, "a")
        publisher.publish(5)
        stage.advance(50)
        // Its newer session is the one that counts; the events that were left behind are not lost.
        let back = StageClient(stage, at: 0, id).connected()
        #expect(back.isPresent == true)
        stage.advance(100)
        back.read()
        #expect(back.texts == ["old1", "old2", "old3"] + publisher.all)
        #expect(stage.nodes[1].router.session(of: id) == nil)
    }

    @Test func whatWasLeftBehindIsFound() {
        let stage = Stage(3)
        let id = stage.clientID(homeAt: 2)
        let (_, new) = timeOut(stage, id)
        // What comes while the client is elsewhere goes there alone.
        Publisher(stage, at: 0, "a").publish(5)
        stage.advance(50)
        new.read()
        #expect(new.texts == ["a1", "a2", "a3", "a4", "a5"])
        stage.kill(1)
        stage.advance(400)
        let back = StageClient(stage, at: 0, id).connected()
        Publisher(stage, at: 0, "b").publish(1)
        stage.advance(50)
        back.read()
        #expect(back.isPresent == true)
        #expect(back.texts == ["old1", "old2", "old3", "b1"])
    }

    @Test func whatWasLeftBehindStaysWhenTheNewerSessionDoesNotCome() {
        let stage = Stage(3)
        let id = stage.clientID(homeAt: 2)
        let (_, new) = timeOut(stage, id)
        new.disconnect()
        let back = StageClient(stage, at: 0, id)
        stage.advance(60)
        #expect(stage.nodes[0].moves.movesIn == 1)
        stage.setCut(0, 1, true, isNoticed: false)
        back.connected()
        stage.advance(50)
        back.read()
        #expect(back.isPresent == true)
        #expect(back.texts == ["old1", "old2", "old3"])
    }

    @Test func ofTwoSidesTheLaterConnectionHolds() {
        let stage = Stage(2)
        let old = StageClient(stage, at: 0, "c").connected()
        stage.advance(50)
        stage.setCut(0, 1, true)
        stage.advance(500)
        let new = StageClient(stage, at: 1, "c").connected()
        #expect(new.isPresent == false)
        #expect(old.closing == nil)
        stage.setCut(0, 1, false)
        stage.advance(500)
        #expect(old.closing == .takenOver)
        old.read()
        #expect(old.packets.last == .disconnect(0x8E))
        #expect(new.closing == nil)
        #expect(stage.nodes.filter { $0.moves.held.count == 1 }.map(\.number) == [1])
    }

    @Test(arguments: 0..<6) func framesGetLost(seed: Int) {
        let stage = Stage(3)
        var random = UInt64(seed) &* 99_991 &+ 3
        stage.loses = { _, _, _ in
            random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return random >> 60 == 0
        }
        let memory = StageClient.Memory()
        let first = StageClient(stage, at: 0, "c", memory: memory).connected()
        first.subscribe("t/#")
        stage.advance(100)
        var clients = [first]
        let publishers = (0..<3).map { Publisher(stage, at: $0, ["x", "y", "z"][$0]) }
        for round in 0..<10 {
            clients.append(StageClient(stage, at: (round + 1) % 3, "c", memory: memory))
            for step in 0..<2_500 {
                if step % 10 == 0 { publishers[(step / 10) % 3].publish(qos: 2) }
                stage.advance(1)
                for client in clients.suffix(2) { client.read() }
            }
        }
        for _ in 0..<12_000 {
            stage.advance(1)
            for client in clients.suffix(2) { client.read() }
        }
        #expect(stage.nodes.allSatisfy { $0.moves.counters.timedOut == 0 })
        let texts = clients.flatMap(\.texts)
        for publisher in publishers {
            let mine = texts.filter { $0.hasPrefix(publisher.name) }
            #expect(mine.count == publisher.count)
            #expect(Set(mine) == Set(publisher.all))
        }
        #expect(stage.nodes.allSatisfy { $0.moves.departures.isEmpty && $0.moves.arrivals.isEmpty })
    }

    /// A session with 4,001 subscriptions and 200 events of 10 KB, whose client has left.
    private func leaveLarge(_ stage: Stage) {
        let old = StageClient(stage, at: 0, "c").connected()
        old.subscribe("t/#")
        for number in 0..<4_000 { old.subscribe("some/long/filter/of/a/session/\(number)/#", qos: 1) }
        stage.advance(100)
        old.disconnect()
        let publisher = StageClient(stage, at: 0, "p", clean: true).connected()
        let text = String(repeating: "x", count: 10_000)
        for number in 0..<200 { publisher.publish("t/x", "\(number) \(text)", id: UInt16(number + 1)) }
        stage.advance(50)
    }

    private func numbers(_ client: StageClient, _ stage: Stage) -> [Int?] {
        for _ in 0..<20 {
            stage.advance(10)
            client.read()
        }
        return client.texts.map { Int($0.split(separator: " ")[0]) }
    }

    @Test func aLargeSessionMovesInParts() {
        let stage = Stage(2)
        leaveLarge(stage)
        let new = StageClient(stage, at: 1, "c").connected()
        #expect(new.isPresent == true)
        #expect(numbers(new, stage) == Array(0..<200))
        #expect(stage.largestFrame <= 64 << 10)
        #expect(stage.nodes[1].router.subscriptionCount == 4_002)
    }

    @Test func aSessionThatIsTooLargeStays() {
        let stage = Stage(2)
        leaveLarge(stage)
        stage.nodes[0].moves.maxSessionBytes = 1_000_000
        let new = StageClient(stage, at: 1, "c", expiry: 0).connected()
        #expect(new.isPresent == false)
        #expect(stage.nodes[0].moves.counters.tooLarge == 1)
        #expect(stage.nodes[1].router.subscriptionCount == 1)
        // The old one takes nothing while the client is elsewhere.
        #expect(stage.nodes[0].router.subscriptionCount == 1)
        new.disconnect()
        stage.advance(100)
        let back = StageClient(stage, at: 0, "c").connected()
        #expect(back.isPresent == true)
        #expect(numbers(back, stage) == Array(0..<200))
        #expect(stage.nodes[0].router.subscriptionCount == 4_002)
    }

    /// While a session is on its way its members' shares of groups may have come to either side.
    @Test func sharesOfASessionThatDoesNotMoveAreNotLost() {
        let stage = Stage(2)
        let old = StageClient(stage, at: 0, "c").connected()
        old.subscribe("$share/g/s/#")
        old.subscribe("t/#")
        stage.advance(100)
        old.disconnect()
        let publisher = StageClient(stage, at: 0, "p", clean: true).connected()
        let text = String(repeating: "x", count: 10_000)
        for number in 0..<200 { publisher.publish("t/x", "\(number) \(text)", id: UInt16(number + 1)) }
        stage.advance(50)
        stage.nodes[0].moves.maxSessionBytes = 1_000_000
        let other = StageClient(stage, at: 1, "q", clean: true).connected()
        stage.advance(100)
        let new = StageClient(stage, at: 1, "c", expiry: 0)
        var count = 0
        while new.isPresent == nil, count < 500 {
            if stage.nodes[1].router.sharedSubscriptionCount > 0 {
                count += 1
                other.publish("s/x", "\(count)", id: UInt16(count))
            }
            stage.advance(1)
        }
        #expect(new.isPresent == false && stage.nodes[0].moves.counters.tooLarge == 1 && count > 20)
        stage.advance(2_000)
        new.disconnect()
        stage.advance(100)
        let back = StageClient(stage, at: 0, "c").connected()
        for _ in 0..<300 {
            stage.advance(10)
            back.read()
        }
        let kept = back.texts.count { !$0.contains("xx") }
        #expect(kept + stage.nodes[0].dropped(.noMember) + stage.nodes[1].dropped(.noMember) == count)
    }

    /// A share that a session gave to another member comes back to it when that one has gone.
    @Test func aShareMayComeBackToASessionThatHasMoved() {
        let stage = Stage(2)
        let old = StageClient(stage, at: 0, "c").connected()
        old.subscribe("$share/g/t/#")
        stage.advance(100)
        old.disconnect()
        let first = StageClient(stage, at: 1, "c").connected()
        first.acknowledges = false
        #expect(first.isPresent == true)
        let publisher = StageClient(stage, at: 1, "p", clean: true).connected()
        publisher.publish("t/x", "work")
        stage.advance(10)
        first.read()
        #expect(first.texts == ["work"])
        let other = StageClient(stage, at: 1, "o", clean: true, expiry: 0).connected()
        other.acknowledges = false
        other.subscribe("$share/g/t/#")
        first.disconnect()
        stage.advance(10)
        other.read()
        #expect(other.texts == ["work"])
        other.disconnect()
        stage.advance(10)
        let back = StageClient(stage, at: 1, "c").connected()
        stage.advance(10)
        back.read()
        #expect(back.texts == ["work"])
    }

    /// Homes count on from what others say.
    @Test(arguments: [SessionFrame.claim, .announce]) func countsAreBounded(kind: SessionFrame) {
        let stage = Stage(2)
        let id = stage.clientID(homeAt: 0)
        StageClient(stage, at: 0, id).connected().disconnect()
        var writer = WireWriter.session(kind)
        if kind == .claim { writer.u64(1) }
        writer.client(ClientHash(high: 1, low: 2))
        writer.u64(.max)
        if kind == .claim { writer.u32(0) }
        stage.nodes[0].receive(writer.finish(), from: 1)
        #expect(stage.nodes[0].complaints == ["a frame of sessions is malformed"])
        stage.advance(100)
    }

    @Test func limitsLetClaimsWait() {
        let stage = Stage(2)
        let ids = (0..<8).map { "client\($0)" }
        for id in ids { StageClient(stage, at: 0, id).connected().disconnect() }
        stage.nodes[1].moves.maxArrivals = 3
        stage.nodes[0].moves.maxDepartures = 2
        let clients = ids.map { StageClient(stage, at: 1, $0) }
        for client in clients { #expect(client.connected().isPresent == true) }
        #expect(stage.nodes[0].moves.counters.delayed > 0)
        #expect(stage.nodes[1].moves.counters.delayed > 0)
        #expect(stage.nodes[1].moves.counters.timedOut == 0)
    }

    @Test(arguments: [UInt32(0), 10]) func wills(delay: UInt32) {
        let stage = Stage(2)
        let watcher = StageClient(stage, at: 0, "w", clean: true).connected()
        watcher.subscribe("t/will")
        let old = StageClient(stage, at: 0, "c", will: "gone", willDelay: delay).connected()
        stage.advance(50)
        let new = StageClient(stage, at: 1, "c").connected()
        #expect(new.isPresent == true)
        stage.advance(20_000)
        watcher.read()
        #expect(old.closing == .takenOver)
        // As on one node: the connection ended without a DISCONNECT of its client, and was back within the delay.
        #expect(watcher.texts == (delay == 0 ? ["gone"] : []))
    }

    @Test func sessionsThatEndAreForgotten() {
        let stage = Stage(3)
        for number in 0..<30 {
            StageClient(stage, at: number % 3, "c\(number)", clean: true, expiry: 0).connected().disconnect()
        }
        stage.advance(6_000)
        #expect(stage.nodes.allSatisfy { $0.moves.held.count == 0 && $0.moves.home.table.count == 0 })
        // A connection that ended before it had a session is found later.
        let lost = StageClient(stage, at: 0, "x")
        lost.cut()
        stage.advance(500)
        #expect(stage.nodes[0].moves.held.count == 1)
        stage.advance(6_000)
        #expect(stage.nodes.allSatisfy { $0.moves.held.count == 0 && $0.moves.home.table.count == 0 })
    }
}
