import Core
import Testing

/// Last wills (§3.1.2.5).
@Suite struct WillTests {
    private static let will = Frame.Will(topic: "will/c", payload: Array("gone".utf8), qos: 1, isRetained: false)

    private func witness(_ node: TestNode, lane: Int = 0) -> TestClient {
        let witness = TestClient(node, "witness", lane: lane)
        witness.subscribe("will/#", qos: 2)
        return witness
    }

    @Test func publishedWhenTheConnectionIsLost() throws {
        let node = try TestNode()
        let witness = witness(node)
        let client = TestClient(node, "c", will: Self.will)
        client.cut()
        #expect(witness.answers() == [.event("will/c", "gone", qos: 1, id: 1)])
        node.advance(milliseconds: 10_000)
        #expect(witness.answers().isEmpty, "once")
    }

    @Test func notPublishedAfterDisconnect() throws {
        let node = try TestNode()
        let witness = witness(node)
        let client = TestClient(node, "c", will: Self.will)
        client.send(Frame.disconnect)
        client.cut()
        #expect(witness.answers().isEmpty)
    }

    /// What stands behind a DISCONNECT is not looked at.
    @Test func notPublishedAfterDisconnectAndGarbage() throws {
        let node = try TestNode()
        let witness = witness(node)
        let client = TestClient(node, "c", will: Self.will)
        client.send(Frame.disconnect, [0xFF, 0xFF, 0xFF])
        #expect(client.closing == .clientDisconnected)
        #expect(witness.answers().isEmpty)
    }

    @Test func publishedWhenThePacketIsMalformed() throws {
        let node = try TestNode()
        let witness = witness(node)
        TestClient(node, "c", will: Self.will).send([0, 0])
        #expect(witness.events().count == 1)
    }

    @Test func publishedWhenTheKeepAliveRunsOut() throws {
        let node = try TestNode()
        let witness = witness(node)
        let client = TestClient(node, "c", keepAlive: 2, will: Self.will)
        node.advance(milliseconds: 3_000)
        #expect(client.closing == .keepAliveTimeout)
        #expect(witness.events().count == 1)
    }

    @Test(arguments: [0, 1]) func publishedWhenTakenOver(lane: Int) throws {
        let node = try TestNode(lanes: 2)
        let witness = witness(node)
        _ = TestClient(node, "c", clean: false, will: Self.will)
        let new = TestClient(node, "c", clean: false, lane: lane)
        #expect(witness.events().map(\.text) == ["gone"])
        new.send(Frame.disconnect)
        #expect(witness.answers().isEmpty, "the will went with its connection")
    }

    @Test func onlyWillsOfThoseWhoGotIn() throws {
        let node = try TestNode()
        let witness = witness(node)
        node.authenticator.answers { _ in .refused(.badCredentials) }
        TestClient(node).send(Frame.connect("c", will: Self.will))
        #expect(witness.answers().isEmpty)
    }

    @Test(arguments: [UInt8(0), 1, 2]) func qualityOfService(qos: UInt8) throws {
        let node = try TestNode()
        let witness = witness(node)
        TestClient(node, "c", will: Frame.Will(topic: "will/c", qos: qos)).cut()
        #expect(witness.events().map(\.qos) == [qos])
    }

    @Test func retained() throws {
        let node = try TestNode()
        let witness = witness(node)
        TestClient(node, "c", will: Frame.Will(topic: "will/c", qos: 1, isRetained: true)).cut()
        #expect(witness.events().map(\.retain) == [false], "a live event")
        let late = TestClient(node, "late")
        #expect(
            late.ask(Frame.subscribe(1, [("will/#", 1)]))
                == [.suback(1, [1]), .event("will/c", "gone", qos: 1, id: 1, retain: true)])
        TestClient(node, "d", will: Frame.Will(topic: "will/c", payload: [], isRetained: true)).cut()
        #expect(node.router.retainedCount == 0, "an empty one deletes")
        #expect(witness.events().map(\.payload) == [[]])
    }

    @Test func toItsOwnSessionAndOthersOnAllLanes() throws {
        let node = try TestNode(lanes: 2)
        let near = witness(node)
        let far = TestClient(node, "far", lane: 1)
        far.subscribe("will/c", qos: 1)
        let client = TestClient(node, "c", clean: false, will: Self.will)
        client.subscribe("will/c", qos: 1)
        client.cut()
        #expect(near.events().count == 1)
        #expect(far.events().count == 1)
        #expect(
            TestClient(node, "c", clean: false).returned == [.event("will/c", "gone", qos: 1, id: 1)],
            "the session's own will waits for it")
    }

    @Test func willsOfSubscribersToEachOthersWills() throws {
        let node = try TestNode(lanes: 2)
        let clients = (0..<20).map { number in
            let client = TestClient(
                node, "c\(number)", lane: number % 2, will: Frame.Will(topic: "will/\(number)", qos: 1))
            client.subscribe("will/#", qos: 1)
            return client
        }
        for client in clients { client.step([0, 0]) }
        node.settle()
        #expect(clients.allSatisfy { $0.closing == .malformedPacket })
        #expect(node.router.sessionCount == 0)
    }

    @Test func accessRulesJudgeWills() throws {
        let node = try TestNode(rules: [
            AccessRule(effect: .allow, action: .subscribe, topics: ["#"]),
            AccessRule(effect: .allow, action: .publish, topics: ["will/mine"]),
        ])
        let witness = witness(node)
        let refused = TestClient(node)
        #expect(
            refused.ask(Frame.connect("c", will: Frame.Will(topic: "will/other", qos: 1, isRetained: true)))
                == [.connack(present: false, code: 5)])
        #expect(witness.answers().isEmpty)
        #expect(node.dropped(.notAuthorized) == 1)
        #expect(node.router.retainedCount == 0)
        TestClient(node, "c", will: Frame.Will(topic: "will/mine")).cut()
        #expect(witness.events().count == 1)
        let again = TestClient(node)
        #expect(
            again.ask(Frame.connect("c", will: Frame.Will(topic: "$SYS/x"))) == [.connack(present: false, code: 5)])
        #expect(node.dropped(.notAuthorized) == 2)
    }
}
