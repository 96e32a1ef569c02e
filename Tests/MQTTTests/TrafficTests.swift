import Core
import TestSupport
import Testing

/// What the adapter counts of events and packets, against what was really sent and received.
@Suite struct TrafficTests {
    private func traffic(_ node: TestNode, lane: Int = 0) throws -> TrafficStatistics {
        try #require(node.lanes[lane].statistics().traffic.first { $0.protocolName == "mqtt" })
    }

    @Test func eventsAndTheirBytesByQoS() throws {
        let node = try TestNode()
        let client = TestClient(node, "a")
        client.subscribe("t/#", qos: 2)
        let before = try traffic(node)
        #expect(before.eventsIn == [0, 0, 0] && before.eventsOut == [0, 0, 0])
        let frames = [
            Frame.publish("t/0", "zero"), Frame.publish("t/1", "one", qos: 1, id: 1),
            Frame.publish("t/2", String(repeating: "2", count: 1_000), qos: 2, id: 2), Frame.publish("t/0", "again"),
        ]
        client.send(frames.flatMap { $0 })
        let after = try traffic(node)
        let bytes = [frames[0].count + frames[3].count, frames[1].count, frames[2].count].map(UInt64.init)
        #expect(after.eventsIn == [2, 1, 1] && after.bytesIn == bytes)
        // What goes out has the same topics, payloads and identifiers' lengths.
        #expect(after.eventsOut == [2, 1, 1] && after.bytesOut == bytes)
        #expect(node.counters.eventsIn == 4 && node.counters.eventsOut == 4)
    }

    @Test func bytesOutAreThoseOnTheWire() throws {
        let node = try TestNode()
        let publisher = TestClient(node, "a")
        let old = TestClient(node, "old")
        let new = TestClient(node)
        new.send(Frame.packet(0x10, Frame.text("MQTT") + [5, 2] + Frame.uint16(0) + [0] + Frame.text("new")))
        old.subscribe("#", qos: 1)
        // With a subscription identifier: these events are written one by one.
        new.send(Frame.packet(0x82, Frame.uint16(1) + [2, 0x0B, 5] + Frame.text("#") + [1]))
        _ = (old.connection.link.takeSent(), new.connection.link.takeSent())
        for qos in UInt8(0)...1 {
            let before = try traffic(node).bytesOut[Int(qos)]
            publisher.send(Frame.publish("a/topic", "payload", qos: qos, id: UInt16(qos)))
            let sent = old.connection.link.takeSent().count + new.connection.link.takeSent().count
            #expect(try traffic(node).bytesOut[Int(qos)] - before == UInt64(sent), "QoS \(qos)")
        }
    }

    @Test func packetsOtherThanEvents() throws {
        let node = try TestNode()
        let client = TestClient(node)
        client.send(Frame.connect("a"), Frame.subscribe(1, [("t", 1)]), Frame.pingreq)
        #expect(node.counters.packetsIn == 3 && node.counters.connects == 1)
        client.send(Frame.publish("t", "x", qos: 1, id: 1), Frame.puback(1))
        #expect(node.counters.packetsIn == 4)
        // CONNACK, SUBACK, PINGRESP, PUBACK
        #expect(client.connection.link.packets == 4)
    }

    @Test func eventsThatWaitAreSummedUntilTheyGo() throws {
        let node = try TestNode()
        let client = TestClient(node, "a", clean: false)
        client.subscribe("t", qos: 1)
        client.cut()
        let lane = node.lanes[0]
        #expect(lane.statistics().absentInboxes == 1)
        let publisher = TestClient(node, "b")
        for number in 1...5 { publisher.send(Frame.publish("t", "event", qos: 1, id: UInt16(number))) }
        #expect(lane.queuedEvents == 5 && lane.queuedBytes == 5 * (1 + 5 + 64))
        let back = TestClient(node, "a", clean: false)
        #expect(back.isSessionPresent && back.returned.count == 5)
        #expect(lane.queuedEvents == 0 && lane.queuedBytes == 0 && lane.statistics().absentInboxes == 0)
        back.cut()
        publisher.send(Frame.publish("t", "event", qos: 1, id: 9))
        #expect(lane.queuedEvents == 1)
        // A session that is begun anew forgets what waited.
        #expect(!TestClient(node, "a", clean: true).isSessionPresent)
        #expect(lane.queuedEvents == 0 && lane.queuedBytes == 0)
    }

    @Test func sessionsThatExpireAreCounted() throws {
        var limits = Limits()
        limits.sessionExpirySeconds = 10
        let node = try TestNode(limits: limits)
        let client = TestClient(node, "a", clean: false)
        client.subscribe("t", qos: 1)
        client.cut()
        TestClient(node, "b").send(Frame.publish("t", "event", qos: 1, id: 1))
        node.advance(milliseconds: 9_000)
        #expect(node.counters.sessionsExpired == 0 && node.lanes[0].queuedEvents == 1)
        node.advance(milliseconds: 2_000)
        #expect(node.counters.sessionsExpired == 1 && node.lanes[0].queuedEvents == 0)
        #expect(node.lanes[0].statistics().absentInboxes == 0)
    }
}
