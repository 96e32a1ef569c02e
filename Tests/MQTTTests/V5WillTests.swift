import Core
import Testing

/// MQTT 5: wills, now or later (§3.1.2.5, §3.1.3.2.2).
@Suite struct V5WillTests {
    private func witness(_ node: TestNode) -> TestClient5 {
        let witness = TestClient5(node, "witness")
        witness.subscribe("will/#", qos: 2)
        return witness
    }

    private func will(_ delay: UInt32? = nil, qos: UInt8 = 1) -> Frame5.Will {
        .init(topic: "will/c", qos: qos, properties: delay.map { [.willDelay($0)] } ?? [])
    }

    // MARK: When

    @Test func publishedAtOnceWithoutADelay() throws {
        for delay in [UInt32?.none, 0] {
            let node = try TestNode()
            let witness = witness(node)
            TestClient5(node, "c", expiry: 100, will: will(delay)).cut()
            #expect(witness.answers() == [.event("will/c", "gone", qos: 1, id: 1)])
            node.advance(milliseconds: 1_000_000)
            #expect(witness.answers().isEmpty, "once")
        }
    }

    @Test func publishedAfterItsDelay() throws {
        let node = try TestNode()
        let witness = witness(node)
        TestClient5(node, "c", expiry: 100, will: will(30)).cut()
        node.advance(milliseconds: 29_999)
        #expect(witness.answers().isEmpty)
        node.advance(milliseconds: 1)
        #expect(witness.events().map(\.text) == ["gone"])
        #expect(node.router.session(of: "c") != nil)
        node.advance(milliseconds: 100_000)
        #expect(witness.answers().isEmpty, "the session's end publishes it no second time")
    }

    @Test func publishedWhenTheSessionEndsBeforeItsDelay() throws {
        let node = try TestNode()
        let witness = witness(node)
        TestClient5(node, "c", expiry: 10, will: will(30)).cut()
        node.advance(milliseconds: 9_999)
        #expect(witness.answers().isEmpty)
        node.advance(milliseconds: 1)
        #expect(witness.events().count == 1)
        TestClient5(node, "d", will: will(30)).cut()
        #expect(witness.events().count == 1, "a session that ends with its connection has no time for a delay")
    }

    @Test(arguments: [false, true], [0, 1]) func cancelledWhenTheClientIsBackBefore(isOlder: Bool, lane: Int) throws {
        let node = try TestNode(lanes: 2)
        let witness = witness(node)
        TestClient5(node, "c", expiry: 100, will: will(30)).cut()
        node.advance(milliseconds: 29_000)
        if isOlder {
            _ = TestClient(node, "c", clean: false, lane: lane)
        } else {
            _ = TestClient5(node, "c", clean: false, expiry: 100, lane: lane)
        }
        node.advance(milliseconds: 1_000_000)
        #expect(witness.answers().isEmpty)
    }

    /// A clean start ends the session, and with it the wait.
    @Test func publishedWhenACleanStartEndsTheSession() throws {
        let node = try TestNode()
        let witness = witness(node)
        TestClient5(node, "c", expiry: 100, will: will(30)).cut()
        _ = TestClient5(node, "c", clean: true, expiry: 100)
        #expect(witness.events().count == 1)
    }

    @Test(arguments: [false, true], [UInt32(0), 30]) func takeover(clean: Bool, delay: UInt32) throws {
        let node = try TestNode()
        let witness = witness(node)
        let old = TestClient5(node, "c", expiry: 100, will: will(delay))
        let new = TestClient5(node, "c", clean: clean, expiry: 100)
        #expect(old.answers() == [.disconnect(0x8E)])
        // With a delay, a connection that is there at once cancels it; a session that ends does not wait.
        #expect(witness.events().count == (clean || delay == 0 ? 1 : 0))
        node.advance(milliseconds: 1_000_000)
        #expect(witness.answers().isEmpty)
        #expect(new.closing == nil)
    }

    @Test func discardedByANormalDisconnect() throws {
        for frame in [Frame5.disconnect(), Frame5.disconnect(0), Frame5.disconnect(0, [.reasonString("bye")])] {
            let node = try TestNode()
            let witness = witness(node)
            let client = TestClient5(node, "c", expiry: 100, will: will(10))
            client.send(frame)
            node.advance(milliseconds: 1_000_000)
            #expect(witness.answers().isEmpty)
        }
    }

    /// Any other goodbye leaves it where it is (§3.14.4).
    @Test(arguments: [UInt8(0x04), 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99])
    func publishedAfterAnyOtherDisconnect(reason: UInt8) throws {
        let node = try TestNode()
        let witness = witness(node)
        let client = TestClient5(node, "c", will: will())
        #expect(client.ask(Frame5.disconnect(reason)).isEmpty)
        #expect(client.closing != nil)
        #expect(witness.events().count == 1)
        let delayed = TestClient5(node, "d", expiry: 100, will: will(10))
        delayed.send(Frame5.disconnect(reason, []))
        #expect(witness.answers().isEmpty, "its delay holds")
        node.advance(milliseconds: 10_000)
        #expect(witness.events().count == 1)
    }

    @Test func publishedWhenTheNodeEndsTheConnection() throws {
        let node = try TestNode()
        let witness = witness(node)
        TestClient5(node, "c", will: will()).send([0x30, 1, 0])
        #expect(witness.events().count == 1, "after something malformed")
        _ = TestClient5(node, "c", keepAlive: 2, will: will())
        node.advance(milliseconds: 3_000)
        #expect(witness.events().count == 1, "after silence")
    }

    @Test func withoutAWillNothingIsPublished() throws {
        let node = try TestNode()
        let witness = TestClient5(node, "witness")
        witness.subscribe("#", qos: 2)
        TestClient5(node, "c").cut()
        TestClient5(node, "c").send(Frame5.disconnect(4))
        #expect(witness.answers().isEmpty)
    }

    /// The will belongs to its connection: the next one without a will has none.
    @Test func aWillIsNotKeptForTheNextConnection() throws {
        let node = try TestNode()
        let witness = witness(node)
        TestClient5(node, "c", expiry: 100, will: will()).send(Frame5.disconnect())
        TestClient5(node, "c", clean: false, expiry: 100).cut()
        node.advance(milliseconds: 1_000_000)
        #expect(witness.answers().isEmpty)
    }

    // MARK: What

    @Test(arguments: [UInt8(0), 1, 2]) func theWillsQoSHolds(qos: UInt8) throws {
        let node = try TestNode()
        let witness = witness(node)
        TestClient5(node, "c", will: will(qos: qos)).cut()
        #expect(witness.events().map(\.qos) == [qos])
    }

    @Test func theWillsRetainFlagHolds() throws {
        let node = try TestNode()
        let witness = witness(node)
        TestClient5(node, "c", will: .init(topic: "will/c")).cut()
        #expect(node.router.retainedCount == 0)
        TestClient5(node, "c", will: .init(topic: "will/c", isRetained: true, properties: [.contentType("t")])).cut()
        #expect(node.router.retainedCount == 1)
        #expect(witness.events().map(\.retain) == [false, false])
        let late = TestClient5(node, "late")
        #expect(
            late.ask(Frame5.subscribe(1, [.init("will/c")]))
                == [.suback(1, [0]), .event("will/c", "gone", retain: true, [.contentType("t")])])
    }

    @Test func theOrderOfUserPropertiesIsKept() throws {
        let node = try TestNode()
        let witness = witness(node)
        let users: [Property5] = [.user("b", "1"), .user("a", "2"), .user("b", "0"), .user("b", "1")]
        TestClient5(
            node, "c", expiry: 100,
            will: .init(topic: "will/c", properties: [users[0], .willDelay(5), users[1], users[2], users[3]])
        ).cut()
        node.advance(milliseconds: 5_000)
        #expect(witness.events().map(\.properties) == [users])
    }

    /// A payload that claims to be text and is not (§3.1.3.2.3): refused with the CONNECT.
    @Test func aWillThatIsNotTheTextItClaimsToBe() throws {
        let client = TestClient5(try TestNode())
        let will = Frame5.Will(topic: "t", payload: [0xFF], properties: [.payloadFormat(1)])
        #expect(client.ask(Frame5.connect("c", will: will)) == [.connack(present: false, reason: 0x99)])
        #expect(client.closing != nil)
    }

    @Test(arguments: ["t/#", "+", "a/+/b", "#"]) func aWillToSomethingThatIsNoTopic(topic: String) throws {
        let client = TestClient5(try TestNode())
        #expect(
            client.ask(Frame5.connect("c", will: .init(topic: topic))) == [.connack(present: false, reason: 0x90)])
        #expect(client.closing != nil)
    }
}
