import Testing

@testable import Core
@testable import Mesh

/// A node that is about to stop gives its sessions to the nodes where their clients come back, and lets nobody wait
/// for those that it does not give any more.
struct SessionStopTests {
    private typealias Publisher = SessionMoveTests.Publisher

    @Test func clientsThatAreSentAwayFetchTheirSessionsAndWhatComesMeanwhile() {
        let stage = Stage(3)
        let publisher = Publisher(stage, at: 2, "a")
        let ids = (0..<20).map { "c\($0)" }
        let old = ids.map { StageClient(stage, at: 0, $0).connected() }
        for client in old { client.subscribe("t/#") }
        stage.advance(100)
        publisher.publish(3)
        let moves: SessionMoves = stage.nodes[0].moves
        #expect(moves.held.count == 20)
        moves.beginStopping()
        let begun = stage.now
        for client in old { stage.nodes[0].cut(client.connection) }
        let new = ids.map { StageClient(stage, at: 1, $0) }
        while moves.held.count > 0 || moves.isGivingAway, stage.now < begun + 2_000 {
            if (stage.now - begun) % 20 == 0 { publisher.publish() }
            stage.advance(1)
        }
        // A move and what comes late, far below the three seconds of a node that stays.
        #expect(stage.now - begun < 1_000)
        stage.kill(0)
        publisher.publish(3)
        stage.advance(500)
        // The old connections have acknowledged nothing.
        for client in new {
            client.read()
            #expect(client.isPresent == true)
            #expect(client.texts == publisher.all)
        }
        #expect(moves.counters.movedOut == 20)
    }

    @Test func aSessionThatNobodyFetchedKeepsNobodyWaiting() {
        let stage = Stage(3)
        let id = stage.clientID(homeAt: 2)
        StageClient(stage, at: 0, id).connected().disconnect()
        let moves: SessionMoves = stage.nodes[0].moves
        moves.beginStopping()
        stage.advance(1_000)
        #expect(moves.held.count == 1)
        #expect(!moves.isGivingAway)
        moves.close()
        let begun = stage.now
        let new = StageClient(stage, at: 1, id).connected()
        #expect(new.isPresent == false)
        #expect(stage.now - begun < 50)
    }

    @Test(arguments: [4, 40, 90]) func aMoveThatIsCutOffKeepsNobodyWaiting(after milliseconds: Int) {
        let stage = Stage(3)
        let id = stage.clientID(homeAt: 2)
        StageClient(stage, at: 0, id).connected().disconnect()
        let moves: SessionMoves = stage.nodes[0].moves
        moves.beginStopping()
        let new = StageClient(stage, at: 1, id)
        stage.advance(milliseconds)
        #expect(moves.isGivingAway)
        let begun = stage.now
        moves.close()
        new.connected()
        #expect(new.isPresent == false)
        // Who is just making the session hears of it when it asks for the contents.
        #expect(stage.now - begun < 130)
        stage.advance(20)
        #expect(!moves.isGivingAway)
        #expect(stage.nodes[1].moves.movesIn == 0)
    }

    @Test func followingEndsSoonerForSessionsThatHadGoneBefore() {
        let stage = Stage(3)
        let id = stage.clientID(homeAt: 2)
        StageClient(stage, at: 0, id).connected().disconnect()
        #expect(StageClient(stage, at: 1, id).connected().isPresent == true)
        stage.advance(20)
        let moves: SessionMoves = stage.nodes[0].moves
        #expect(moves.isGivingAway)
        moves.beginStopping()
        stage.advance(Int(SessionMoves.stoppingGhostMilliseconds) + 200)
        #expect(!moves.isGivingAway)
    }

    // MARK: How long a node waits

    private func hold(_ station: MeshField.Station) {
        let client = ClientHash("c", namespace: "default")
        station.node.sessions.held.set(client, .init(clientID: "c", count: 1, home: NodeTable.own))
    }

    @Test func whoIsAloneOrHasNoSessionsDoesNotWait() {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        field.run(1_500)
        hold(a)
        var isDone = false
        a.node.empty(within: 5_000) { isDone = true }
        #expect(isDone, "no other node")
        let b = field.start("b:1", links: [])
        _ = field.start("c:1", links: ["b:1"])
        field.run(1_500)
        isDone = false
        b.node.empty(within: 5_000) { isDone = true }
        #expect(isDone, "no session")
        // Asked again, or late: nobody waits for an answer that does not come.
        isDone = false
        b.node.empty(within: 5_000) { isDone = true }
        #expect(isDone)
    }

    @Test(arguments: [300, 5_000]) func clientsThatDoNotComeAreWaitedForForAMoment(limit: UInt64) {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"])
        field.run(1_500)
        hold(b)
        var isDone = false
        b.node.empty(within: limit) { isDone = true }
        // What the reactor tells connections of the mesh when everybody is sent away.
        b.node.drain()
        let patience = Int(min(limit, 1_000))
        field.run(patience - 50)
        #expect(!isDone && !b.node.links.isEmpty)
        field.run(100)
        #expect(isDone)
        field.run(400)
        #expect(b.node.links.isEmpty && a.node.links.isEmpty, "it has said goodbye")
    }

    @Test func whatElseGivesToOthersIsWaitedFor() {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"])
        field.run(1_500)
        var done = 0
        b.node.empty(within: 1_000, isHeld: true) { done += 1 }
        // What the reactor tells connections of the mesh when everybody is sent away.
        b.node.drain()
        field.run(3_000)
        #expect(done == 0 && !b.node.links.isEmpty, "it stays, whatever its own time")
        b.node.letGo()
        #expect(done == 1)
        field.run(400)
        #expect(b.node.links.isEmpty && a.node.links.isEmpty, "it has said goodbye")
        b.node.letGo()
        #expect(done == 1)
    }

    @Test func whereAllStopNobodyWaits() {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let b = field.start("b:1", links: ["a:1"])
        field.run(1_500)
        var done = 0
        for station in [a, b] {
            hold(station)
            station.node.empty(within: 5_000) { done += 1 }
        }
        field.run(200)
        #expect(done == 2)
    }
}
