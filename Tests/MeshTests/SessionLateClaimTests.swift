import Testing

@testable import Core
@testable import Mesh

/// Claims that reach a home after that of a client that came later, to another node.
struct SessionLateClaimTests {
    /// The client at node 2 stays, whatever became of the one that was at node 0 before.
    private func check(_ stage: Stage, _ early: StageClient, _ late: StageClient, _ id: String) {
        stage.advance(7_000)
        early.read()
        late.read()
        #expect(late.closing == nil)
        #expect(early.closing != nil)
        #expect(stage.nodes.filter { $0.router.session(of: id) != nil }.map(\.number) == [2])
        #expect(stage.nodes.filter { $0.moves.held.count > 0 }.map(\.number) == [2])
        let entry = stage.nodes[2].moves.home.table[ClientHash(id, namespace: "default")]
        #expect(entry?.holder == NodeTable.own)
        #expect(stage.nodes.allSatisfy { $0.moves.claiming.isEmpty && $0.complaints.isEmpty })
    }

    /// Homes change while a claim waits, and it is asked again of the new one. With `isFirstLast` the former home is
    /// the last to be certain of what it knows.
    @Test(arguments: [false, true], [false, true]) func homesChange(leaves: Bool, isFirstLast: Bool) throws {
        let stage = Stage(4)
        stage.setCut(0, 2, true)
        stage.setCut(1, 3, true)
        let id = try #require(
            (0..<1_000).map { "client\($0)" }.first {
                let client = ClientHash($0, namespace: "default")
                let homes = [0, 2].map { stage.nodes[$0].nodes[stage.nodes[$0].moves.home(of: client)].id }
                return homes == [Stage.id(1), Stage.id(2)]
            })
        let early = StageClient(stage, at: 0, id, clean: true, expiry: 0).connected()
        stage.advance(20)
        if leaves { early.disconnect() }
        stage.advance(10)
        stage.setCut(0, 2, false)
        let late = StageClient(stage, at: 2, id, clean: true, expiry: 0).connected()
        late.subscribe("t/#")
        stage.advance(10)
        if isFirstLast { stage.setCut(1, 3, false) }
        check(stage, early, late, id)
        if !leaves { #expect(early.packets.last == .disconnect(0x8E)) }
    }

    /// The claim gets lost on its way, and is asked again.
    @Test(arguments: [false, true], [false, true]) func theClaimIsRepeated(isClean: Bool, leaves: Bool) {
        let stage = Stage(3)
        let id = stage.clientID(homeAt: 2)
        stage.loses = { from, _, kind in from == 0 && kind == .claim }
        let early = StageClient(stage, at: 0, id, clean: isClean, expiry: 0)
        stage.advance(20)
        if leaves { early.cut() }
        let late = StageClient(stage, at: 2, id, clean: isClean, expiry: 0).connected()
        stage.loses = { _, _, _ in false }
        check(stage, early, late, id)
        if !leaves {
            #expect(early.packets.last == (isClean ? .disconnect(0x8E) : .connack(present: false, code: 0x88)))
            #expect(stage.nodes[0].moves.counters.lost == 1)
        }
    }

    /// A client that starts clean to be rid of its session, and leaves before its claim is heard.
    @Test func whoLeavesAtOnceIsRidOfItsSession() {
        let stage = Stage(3)
        let id = stage.clientID(homeAt: 2)
        StageClient(stage, at: 0, id).connected().disconnect()
        stage.advance(50)
        StageClient(stage, at: 1, id, clean: true, expiry: 0).connected().disconnect()
        stage.advance(7_000)
        #expect(stage.nodes.allSatisfy { $0.router.session(of: id) == nil && $0.moves.held.count == 0 })
    }
}
