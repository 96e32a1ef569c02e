import Core
import Testing

/// A port that takes what it is given and holds its publishers, patient or not: as the way to other nodes does when it
/// is full.
final class HoldingPort: Port {
    private(set) var held: [Lane.Receipt] = []
    private(set) var payloads: [String] = []
    /// Runs that nobody waits for.
    private(set) var unheld = 0
    var holds = true

    init(_ node: TestNode, _ filter: String, lane: Int) throws {
        super.init()
        let lane = node.lanes[lane]
        node.router.register(self, on: lane)
        let principal = Principal(identity: Identity(user: nil), clientID: "port", router: node.router)
        let subscription = Subscription(filter: try TopicFilter(filter, grammar: .mqtt), options: .qos(1))
        _ = node.router.subscribe(self, subscription, as: principal, on: lane)
    }

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        for index in 0..<run.pointee.count {
            let view = run.pointee.events[index]
            payloads.append(
                String(
                    decoding: UnsafeRawBufferPointer(start: view.payload, count: Int(view.payloadLength)),
                    as: UTF8.self))
        }
        guard holds else { return 0 }
        if let receipt = lane.hold(run, evenImpatient: true) { held.append(receipt) } else { unheld += 1 }
        return 0
    }

    /// There is room for some.
    func release(_ count: Int, _ node: TestNode) {
        let lane = node.lanes[address.lane]
        for _ in 0..<min(count, held.count) { lane.answer(held.removeFirst()) }
        lane.pass()
        node.settle()
    }
}

@Suite("Publishers of MQTT that a full port holds") struct HeldPublisherTests {
    @Test(arguments: [0, 1], [UInt8(1), 2]) func theAcknowledgementWaits(lane: Int, qos: UInt8) throws {
        let node = try TestNode(lanes: 2)
        let port = try HoldingPort(node, "far/#", lane: lane)
        let near = TestClient(node, "near")
        near.subscribe("far/#", qos: 1)
        let old = TestClient(node, "old")
        let new = TestClient5(node, "new")
        old.send(Frame.publish("far/a", "1", qos: qos, id: 7), Frame.pingreq)
        new.send(Frame5.publish("far/b", "2", qos: qos, id: 8))
        #expect(old.answers() == [.pingresp])
        #expect(new.answers().isEmpty)
        #expect(near.events().map(\.text) == ["1", "2"], "others have it already")
        #expect(port.payloads == ["1", "2"] && port.held.count == 2)
        #expect(node.lanes[lane].heldRuns == 2)
        port.release(1, node)
        #expect(old.answers() == [qos == 1 ? .puback(7) : .pubrec(7)])
        #expect(new.answers().isEmpty)
        port.release(1, node)
        #expect(new.answers() == [qos == 1 ? .puback(8) : .pubrec(8)])
        #expect(node.lanes[lane].heldRuns == 0)
    }

    @Test(arguments: [0, 1]) func severalPortsAreWaitedForOneByOne(lane: Int) throws {
        let node = try TestNode(lanes: 3)
        let ports = try [
            HoldingPort(node, "a", lane: lane), HoldingPort(node, "a", lane: lane), HoldingPort(node, "+", lane: 2),
        ]
        let client = TestClient(node, "c")
        // One run of two, one that nobody holds, one more.
        client.send(
            Frame.publish("a", "1", qos: 1, id: 1), Frame.publish("a", "2", qos: 1, id: 2),
            Frame.publish("b/b", "3", qos: 1, id: 3), Frame.publish("a", "4", qos: 2, id: 4))
        #expect(client.answers().isEmpty)
        ports[2].release(.max, node)
        ports[1].release(.max, node)
        #expect(client.answers().isEmpty)
        ports[0].release(1, node)
        #expect(client.answers() == [.puback(1), .puback(2), .puback(3)])
        ports[0].release(.max, node)
        #expect(client.answers() == [.pubrec(4)])
    }

    /// MQTT 3.1.1 has no other way: whoever publishes on is no longer read.
    @Test(arguments: [0, 1]) func whoPublishesOnIsNoLongerRead(lane: Int) throws {
        var limits = Limits()
        limits.maxUnsettled = 10
        let node = try TestNode(lanes: 2, limits: limits)
        let port = try HoldingPort(node, "a", lane: lane)
        let client = TestClient(node, "c", keepAlive: 10)
        for id in UInt16(1)...40 { client.send(Frame.publish("a", "\(id)", qos: 1, id: id)) }
        #expect(client.connection.isPaused && client.answers().isEmpty)
        #expect(port.payloads.count == 10)
        // It keeps its connection, however long that takes.
        node.advance(milliseconds: 100_000)
        #expect(client.closing == nil)
        var answers: [Answer] = []
        while !port.held.isEmpty {
            port.release(1, node)
            answers += client.answers()
        }
        #expect(answers == (1...40).map { .puback($0) })
        #expect(port.payloads == (1...40).map { "\($0)" })
        #expect(!client.connection.isPaused)
    }

    /// A client of MQTT 5 was told how many it may have.
    @Test func theReceiveMaximumHoldsMQTT5() throws {
        var limits = Limits()
        limits.maxUnsettled = 3
        let node = try TestNode(limits: limits)
        let port = try HoldingPort(node, "a", lane: 0)
        let client = TestClient5(node, "c")
        for id in UInt16(1)...3 { client.send(Frame5.publish("a", "x", qos: 1, id: id)) }
        port.release(1, node)
        #expect(client.answers() == [.puback(1)])
        client.send(Frame5.publish("a", "x", qos: 1, id: 4))
        #expect(client.closing == nil && client.answers().isEmpty)
        client.send(Frame5.publish("a", "x", qos: 1, id: 5))
        #expect(client.closing == .receiveMaximumExceeded)
        port.release(.max, node)
        #expect(node.lanes[0].heldRuns == 0)
    }

    @Test(arguments: [0, 1]) func answersForWhoHasLeftAreNobodys(lane: Int) throws {
        let node = try TestNode(lanes: 2)
        let port = try HoldingPort(node, "a", lane: lane)
        let client = TestClient(node, "c", clean: false)
        client.send(Frame.publish("a", "x", qos: 1, id: 1))
        client.cut()
        let back = TestClient(node, "c", clean: false)
        back.send(Frame.publish("a", "y", qos: 1, id: 1))
        port.release(1, node)
        #expect(back.answers().isEmpty, "that was the former connection's")
        port.release(1, node)
        #expect(back.answers() == [.puback(1)])
    }

    @Test func directEventsAndWillsHoldNobody() throws {
        let node = try TestNode()
        let port = try HoldingPort(node, "a", lane: 0)
        let client = TestClient(
            node, "c", will: Frame.Will(topic: "a", payload: Array("will".utf8), qos: 1))
        client.send(Frame.publish("a", "x"), Frame.pingreq)
        #expect(client.answers() == [.pingresp])
        client.cut()
        #expect(port.payloads == ["x", "will"] && port.held.isEmpty && port.unheld == 2)
    }
}
