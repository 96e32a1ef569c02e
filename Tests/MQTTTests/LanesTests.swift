import Core
import Synchronization
import Testing

/// Two lanes: receipts, and connections that move to their session's lane.
@Suite struct LanesTests {
    @Test func acknowledgedAfterTheOtherLaneHasTakenIt() throws {
        let node = try TestNode(lanes: 2)
        let far = TestClient(node, "far", lane: 1)
        far.subscribe("far/#", qos: 2)
        let client = TestClient(node, "c")
        client.step(Frame.publish("far/1", "x", qos: 1, id: 1))
        #expect(client.answers().isEmpty)
        node.lanes[0].pass()
        #expect(client.answers().isEmpty)
        #expect(far.answers().isEmpty, "it lies in the mailbox")
        node.lanes[1].pass()
        #expect(far.events().count == 1)
        #expect(client.answers().isEmpty, "the receipt is on its way")
        node.lanes[0].pass()
        #expect(client.answers() == [.puback(1)])
    }

    @Test func acknowledgementsKeepTheirOrder() throws {
        let node = try TestNode(lanes: 3)
        let near = TestClient(node, "near")
        near.subscribe("near", qos: 1)
        for lane in [1, 2] { TestClient(node, "far\(lane)", lane: lane).subscribe("far/\(lane)", qos: 1) }
        let client = TestClient(node, "c")
        client.step(
            Frame.publish("near", "1", qos: 1, id: 1), Frame.publish("far/1", "2", qos: 1, id: 2),
            Frame.publish("near", "3", qos: 2, id: 3), Frame.publish("far/2", "4", qos: 1, id: 4),
            Frame.publish("nobody", "5", qos: 1, id: 5), Frame.publish("near", "3", qos: 2, id: 3, dup: true))
        #expect(client.answers() == [.puback(1)], "nothing waits before the first")
        // The later one is taken first, and waits for the earlier one.
        node.lanes[2].pass()
        node.lanes[0].pass()
        #expect(client.answers().isEmpty)
        client.step(Frame.publish("near", "6", qos: 1, id: 6), Frame.pingreq)
        #expect(client.answers() == [.pingresp])
        node.lanes[1].pass()
        node.lanes[0].pass()
        #expect(client.answers() == [.puback(2), .pubrec(3), .puback(4), .puback(5), .pubrec(3), .puback(6)])
    }

    @Test func everyLaneHasToTakeIt() throws {
        let node = try TestNode(lanes: 4)
        let far = (1...3).map { TestClient(node, "far\($0)", lane: $0) }
        for client in far { client.subscribe("a", qos: 1) }
        far[2].subscribe("$share/g/a", qos: 1)
        let client = TestClient(node, "c")
        client.step(Frame.publish("a", "x", qos: 1, id: 1), Frame.publish("a", "y", qos: 1, id: 2))
        for lane in [2, 1, 3] {
            node.lanes[0].pass()
            #expect(client.answers().isEmpty)
            node.lanes[lane].pass()
        }
        node.lanes[0].pass()
        #expect(client.answers() == [.puback(1), .puback(2)])
        #expect(far.map { $0.events().count } == [2, 2, 4])
    }

    /// Receipts for a connection that has gone, or for its successor, are nobody's.
    @Test func receiptsAfterTheConnectionHasGone() throws {
        let node = try TestNode(lanes: 2)
        let far = TestClient(node, "far", lane: 1)
        far.subscribe("a", qos: 1)
        let client = TestClient(node, "c", clean: false)
        client.step(Frame.publish("a", "x", qos: 1, id: 1))
        node.cut(client.connection)
        let back = TestClient(node)
        back.step(Frame.connect("c", clean: false), Frame.publish("a", "y", qos: 1, id: 2))
        #expect(back.answers() == [.connack(present: true, code: 0)])
        node.settle()
        #expect(back.answers() == [.puback(2)])
        #expect(far.events().map(\.text) == ["x", "y"])
        let clean = TestClient(node, "d")
        clean.step(Frame.publish("a", "z", qos: 1, id: 1))
        node.cut(clean.connection)
        node.settle()
        #expect(far.events().count == 1)
    }

    /// A publisher whose events another lane does not take is no longer read.
    @Test func publisherIsHeld() throws {
        var limits = Limits()
        limits.maxUnsettled = 10
        let node = try TestNode(lanes: 2, limits: limits)
        let far = TestClient(node, "far", lane: 1)
        far.subscribe("a", qos: 1)
        let client = TestClient(node, "c", keepAlive: 10)
        for id in UInt16(1)...40 { client.step(Frame.publish("a", "\(id)", qos: 1, id: id)) }
        #expect(client.connection.isPaused)
        #expect(client.answers().isEmpty)
        node.settle()
        #expect(!client.connection.isPaused)
        #expect(client.answers() == (1...40).map { .puback($0) })
        #expect(far.events().map(\.text) == (1...40).map { "\($0)" })
    }

    @Test func heldPublisherKeepsItsKeepAlive() throws {
        var limits = Limits()
        limits.maxUnsettled = 2
        let node = try TestNode(lanes: 2, limits: limits)
        TestClient(node, "far", lane: 1).subscribe("a", qos: 1)
        let client = TestClient(node, "c", keepAlive: 1)
        for id in UInt16(1)...4 { client.step(Frame.publish("a", "x", qos: 1, id: id)) }
        #expect(client.connection.isPaused)
        // The other lane does nothing all that time.
        node.tick(milliseconds: 1_500)
        node.tick(milliseconds: 1_500)
        #expect(client.closing == nil)
        node.settle()
        #expect(client.answers().count == 4)
        node.advance(milliseconds: 3_000)
        #expect(client.closing == .keepAliveTimeout)
    }

    // MARK: Moving

    @Test func connectionMovesToItsSession() throws {
        let node = try TestNode(lanes: 2)
        let first = TestClient(node, "c", clean: false, lane: 1)
        first.subscribe("a", qos: 1)
        first.cut()
        let sender = TestClient(node, "s")
        sender.send((1...3).flatMap { Frame.publish("a", "\($0)", qos: 1, id: UInt16($0)) })
        let back = TestClient(node, lane: 0)
        // With more behind CONNECT, which moves along and is taken in order.
        back.send(
            Frame.connect("c", clean: false), Frame.publish("b", "own", qos: 1, id: 9), Frame.subscribe(4, [("b", 0)]))
        #expect(back.connection.lane.number == 1)
        #expect(
            back.answers() == [
                .connack(present: true, code: 0), .event("a", "1", qos: 1, id: 1), .event("a", "2", qos: 1, id: 2),
                .event("a", "3", qos: 1, id: 3), .puback(9), .suback(4, [0]),
            ])
        node.advance(milliseconds: 100_000)
        #expect(back.closing == nil)
    }

    /// Events on their way to the session's lane come before the connection does, or after: never out of order.
    @Test func orderIsKeptWhileMoving() throws {
        let node = try TestNode(lanes: 2)
        let far = TestClient(node, "c", clean: false, lane: 1)
        far.subscribe("a", qos: 1)
        let sender = TestClient(node, "s", lane: 0)
        var texts: [String] = []
        var old = far
        var id: UInt16 = 0
        func publish() {
            id += 1
            sender.step(Frame.publish("a", "\(id)", qos: 1, id: id))
        }
        func take(_ client: TestClient) {
            for event in client.events() where !texts.contains(event.text) { texts.append(event.text) }
        }
        for _ in 0..<50 {
            publish()
            let new = TestClient(node, lane: 0)
            new.step(Frame.connect("c", clean: false))
            publish()
            node.lanes[0].pass()
            publish()
            node.lanes[1].pass()
            publish()
            node.settle()
            #expect(old.closing == .takenOver)
            take(old)
            take(new)
            new.send((1...id).flatMap { Frame.puback($0) })
            old = new
        }
        #expect(texts == (1...200).map { "\($0)" })
    }

    /// Two connections of one client id on two lanes at once: one of them has the session, the other is told.
    @Test(arguments: [false, true]) func twoAtOnce(isClean: Bool) throws {
        let node = try TestNode(lanes: 3)
        let clients = (0..<3).map { TestClient(node, lane: $0) }
        for client in clients { client.step(Frame.connect("c", clean: isClean)) }
        node.settle()
        #expect(clients.filter { $0.closing == nil }.count == 1)
        #expect(node.router.sessionCount == 1)
        #expect(clients.filter { $0.closing == .takenOver }.count == 2)
    }

    /// The session ends while the connection is on its way to it.
    @Test func sessionGoneOnArrival() throws {
        let node = try TestNode(lanes: 2)
        let old = TestClient(node, "c", lane: 1)
        let new = TestClient(node, lane: 0)
        new.step(Frame.connect("c", clean: false))
        node.cut(old.connection)
        node.settle()
        #expect(new.answers() == [.connack(present: false, code: 0)])
        #expect(node.router.session(of: "c")?.lane == 1)
    }

    /// A journey longer than the connect timeout: nothing ends it on the way, and nothing that was asked for before.
    @Test func aLongJourney() throws {
        let node = try TestNode(lanes: 2)
        _ = TestClient(node, "c", clean: false, lane: 1)
        let new = TestClient(node, lane: 0)
        new.step(Frame.connect("c", clean: false, keepAlive: 10))
        node.tick(milliseconds: 6_000)
        #expect(new.answers().isEmpty)
        node.settle()
        #expect(new.answers() == [.connack(present: true, code: 0)])
        node.advance(milliseconds: 14_999)
        #expect(new.closing == nil)
        node.advance(milliseconds: 1)
        #expect(new.closing == .keepAliveTimeout)
    }

    /// A session ends because the same client begins anew: at no moment is the client id free for somebody else on
    /// another lane, whatever kind of session it was.
    @Test(arguments: [(old: true, new: true), (old: false, new: true), (old: true, new: false)])
    func theIdIsNeverFree(_ clean: (old: Bool, new: Bool)) throws {
        let node = try TestNode(lanes: 2)
        let old = TestClient(node, "c", clean: clean.old, user: "anna")
        let thief = Thief(node.router)
        node.router.attach(thief, identityBase: 1)
        let new = TestClient(node, "c", clean: clean.new, user: "anna")
        #expect(old.closing == .takenOver && new.closing == nil && !new.isSessionPresent)
        #expect(thief.stolen == 0 && node.router.sessionCount == 1)
        // It is when the client leaves.
        new.send(Frame.disconnect)
        #expect(thief.stolen == (clean.new ? 1 : 0))
    }
}

/// Takes every client id at the moment that it is given up.
private final class Thief: SessionMover {
    private let router: Router
    private let count = Atomic<Int>(0)
    var stolen: Int { count.load(ordering: .relaxed) }

    init(_ router: Router) { self.router = router }

    func claim(_ claim: SessionClaim, on lane: Lane, answer: (@Sendable (SessionClaimAnswer) -> Void)?) {
        answer?(.proceed)
    }

    func sessionEnded(_ clientID: String) {
        guard router.claimSession(clientID, for: PortAddress(lane: 1, slot: 1, generation: 1)) == .held else { return }
        count.add(1, ordering: .relaxed)
    }
}
