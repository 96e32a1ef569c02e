import Core
import Testing

/// MQTT 5: how long sessions live (§3.1.2.4, §3.1.2.11.2, §4.1).
@Suite struct V5SessionTests {
    /// A session with something in it: a subscription, an event that waits, an unfinished exchange each way.
    private func fill(_ node: TestNode, expiry: UInt32?) -> TestClient5 {
        let client = TestClient5(node, "c", expiry: expiry)
        client.subscribe("t", qos: 2)
        client.send(Frame5.publish("other", "x", qos: 2, id: 9))
        let sender = TestClient5(node, "s")
        sender.send(Frame5.publish("t", "1", qos: 1, id: 1))
        sender.cut()
        return client
    }

    @Test(arguments: [UInt32?.none, 0]) func withoutAnIntervalTheSessionEndsWithTheConnection(expiry: UInt32?) throws {
        let node = try TestNode()
        let client = fill(node, expiry: expiry)
        node.advance(milliseconds: 100_000_000)
        #expect(client.closing == nil)
        #expect(node.router.subscriptionCount == 1, "not while the connection is open")
        client.cut()
        #expect(node.router.sessionCount == 0 && node.router.subscriptionCount == 0)
        let back = TestClient5(node, "c", clean: false)
        #expect(!back.isSessionPresent && back.returned.isEmpty)
    }

    @Test func theSessionIsKeptForItsInterval() throws {
        let node = try TestNode()
        let client = fill(node, expiry: 100)
        node.advance(milliseconds: 500_000)
        client.cut()
        node.advance(milliseconds: 99_999)
        let back = TestClient5(node, "c", clean: false, expiry: 10)
        #expect(back.isSessionPresent)
        #expect(back.returned.contains(.event("t", "1", qos: 1, id: 1, dup: true)))
        #expect(back.ask(Frame5.pubrel(9)) == [.pubcomp(9)], "what was received is remembered, too")
        // The new connection's interval holds now.
        back.cut()
        node.advance(milliseconds: 9_999)
        #expect(node.router.sessionCount == 1)
        node.advance(milliseconds: 1)
        #expect(node.router.sessionCount == 0 && node.router.subscriptionCount == 0)
        #expect(!TestClient5(node, "c", clean: false).isSessionPresent)
    }

    @Test(arguments: [UInt32(101), 0xFFFF_FFFE, 0xFFFF_FFFF]) func theNodesLimitHolds(expiry: UInt32) throws {
        var limits = Limits()
        limits.sessionExpirySeconds = 100
        let node = try TestNode(limits: limits)
        let client = fill(node, expiry: expiry)
        #expect(client.connack.contains(.sessionExpiry(100)))
        client.cut()
        node.advance(milliseconds: 99_999)
        #expect(node.router.sessionCount == 1)
        node.advance(milliseconds: 1)
        #expect(node.router.sessionCount == 0)
    }

    @Test func aCleanStartForgetsEverything() throws {
        let node = try TestNode()
        fill(node, expiry: 1_000).cut()
        let clean = TestClient5(node, "c", clean: true, expiry: 1_000)
        #expect(!clean.isSessionPresent && clean.returned.isEmpty)
        #expect(node.router.subscriptionCount == 0)
        #expect(clean.ask(Frame5.pubrel(9)) == [.pubcomp(9, 0x92)])
        TestClient5(node, "s").send(Frame5.publish("t", "2", qos: 1, id: 1))
        #expect(clean.answers().isEmpty)
        // It is a session of its own, which a later connection finds.
        clean.subscribe("new", qos: 1)
        clean.cut()
        #expect(TestClient5(node, "c", clean: false).isSessionPresent)
    }

    @Test func withoutASessionANewOneIsMade() throws {
        let node = try TestNode()
        let client = TestClient5(node, "c", clean: false, expiry: 60)
        #expect(!client.isSessionPresent)
        client.subscribe("t", qos: 1)
        client.cut()
        #expect(TestClient5(node, "c", clean: false).isSessionPresent)
    }

    @Test func theSessionIsResumedOnAnyLane() throws {
        let node = try TestNode(lanes: 2)
        fill(node, expiry: 60).cut()
        for lane in [1, 0, 1] {
            let back = TestClient5(node, "c", clean: false, expiry: 60, lane: lane)
            #expect(back.isSessionPresent)
            #expect(back.returned.contains(.event("t", "1", qos: 1, id: 1, dup: true)))
            back.cut()
        }
    }

    // MARK: DISCONNECT changes the interval (§3.14.2.2.2)

    @Test(arguments: [(UInt32(100), UInt32(10)), (10, 100), (10, 0), (10, 0xFFFF_FFFF)])
    func disconnectChangesTheInterval(before: UInt32, after: UInt32) throws {
        var limits = Limits()
        limits.sessionExpirySeconds = 1_000
        let node = try TestNode(limits: limits)
        let client = fill(node, expiry: before)
        client.send(Frame5.disconnect(0, [.sessionExpiry(after)]))
        #expect(client.closing == .clientDisconnected)
        let seconds = UInt64(min(after, 1_000))
        if seconds > 0 {
            node.advance(milliseconds: seconds * 1_000 - 1)
            #expect(node.router.sessionCount == 1)
            node.advance(milliseconds: 1)
        }
        #expect(node.router.sessionCount == 0)
    }

    @Test func withoutAnIntervalInDisconnectTheOldOneHolds() throws {
        for frame in [Frame5.disconnect(), Frame5.disconnect(0), Frame5.disconnect(0, []), Frame5.disconnect(4)] {
            let node = try TestNode()
            let client = fill(node, expiry: 100)
            client.send(frame)
            node.advance(milliseconds: 99_999)
            #expect(node.router.sessionCount == 1)
            node.advance(milliseconds: 1)
            #expect(node.router.sessionCount == 0)
        }
    }

    @Test(arguments: [UInt32?.none, 0]) func anIntervalAfterNoneIsAProtocolError(before: UInt32?) throws {
        let node = try TestNode()
        let witness = TestClient5(node, "w")
        witness.subscribe("will")
        let client = TestClient5(node, "c", expiry: before, will: .init())
        #expect(client.ask(Frame5.disconnect(0, [.sessionExpiry(5)])) == [.disconnect(0x82)])
        #expect(node.router.session(of: "c") == nil)
        #expect(witness.events().count == 1, "it was no goodbye")
        let allowed = TestClient5(node, "d", expiry: before)
        #expect(allowed.ask(Frame5.disconnect(0, [.sessionExpiry(0)])).isEmpty, "0 after 0 changes nothing")
    }

    // MARK: Older versions (§3.1.2.4 of 3.1.1)

    @Test func olderVersionsResumeAndAreResumed() throws {
        let node = try TestNode()
        let five = fill(node, expiry: 10)
        five.cut()
        let older = TestClient(node, "c", clean: false)
        #expect(older.isSessionPresent)
        #expect(older.returned.contains(.event("t", "1", qos: 1, id: 1, dup: true)))
        older.cut()
        node.advance(milliseconds: 86_400_000)
        #expect(node.router.sessionCount == 1, "without clean session it is kept as long as the node keeps any")
        #expect(TestClient5(node, "c", clean: false).isSessionPresent)
        #expect(node.router.sessionCount == 1)
    }
}
