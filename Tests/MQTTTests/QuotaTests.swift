import Core
import Testing

@testable import MQTT

@Suite("Quotas, as clients of MQTT are told")
struct QuotaTests {
    private func node(_ limits: [QuotaResource: Int], lanes: Int = 1) throws -> TestNode {
        try TestNode(lanes: lanes, quotas: Quotas([QuotaRule(users: ["anna"], limits: limits)]))
    }

    // MARK: Connecting

    @Test func tooManyConnections() throws {
        let node = try node([.connections: 1])
        let first = TestClient(node, "a", user: "anna")
        let second = TestClient(node)
        #expect(second.ask(Frame.connect("b", user: "anna")) == [.connack(present: false, code: 3)])
        #expect(second.closing == .overQuota)
        let third = TestClient5(node)
        #expect(third.ask(Frame5.connect("c", user: "anna")) == [.connack(present: false, reason: 0x97)])
        #expect(third.closing == .overQuota)
        _ = TestClient(node, "d", user: "bert")
        first.cut()
        _ = TestClient(node, "b", user: "anna")
        #expect(node.counters.refused[QuotaResource.connections.rawValue] == 2)
    }

    /// A device that comes back before its old connection is known to be dead takes that one's place.
    @Test(arguments: [false, true]) func aTakeoverNeedsNoSecondPlace(isClean: Bool) throws {
        let node = try node([.connections: 1, .sessions: 1], lanes: 2)
        let first = TestClient(node, "a", clean: isClean, user: "anna")
        let second = TestClient(node, "a", clean: isClean, lane: 1, user: "anna")
        #expect(first.closing == .takenOver)
        #expect(second.closing == nil)
        let third = TestClient(node)
        #expect(third.ask(Frame.connect("b", user: "anna")) == [.connack(present: false, code: 3)])
    }

    @Test func connectionRate() throws {
        let node = try node([.connectionRate: 1])
        for number in 0..<10 { _ = TestClient(node, "c\(number)", user: "anna") }
        let next = TestClient5(node)
        #expect(next.ask(Frame5.connect("x", user: "anna")) == [.connack(present: false, reason: 0x9F)])
        node.advance(milliseconds: 1_000)
        _ = TestClient(node, "x", user: "anna")
    }

    @Test func tooManySessions() throws {
        let node = try node([.sessions: 1])
        let first = TestClient(node, "a", clean: false, user: "anna")
        first.cut()
        let second = TestClient5(node)
        #expect(second.ask(Frame5.connect("b", user: "anna")) == [.connack(present: false, reason: 0x97)])
        #expect(second.closing == .overQuota)
        #expect(TestClient(node, "a", clean: false, user: "anna").isSessionPresent)
    }

    // MARK: Subscribing

    @Test func tooManySubscriptions() throws {
        let node = try node([.subscriptions: 2])
        let client = TestClient5(node, "a", user: "anna")
        #expect(
            client.ask(Frame5.subscribe(1, [.init("a"), .init("b", qos: 1), .init("c"), .init("a", qos: 1)])) == [
                .suback(1, [0, 1, 0x97, 1])
            ])
        let other = TestClient(node, "b", user: "anna")
        #expect(other.ask(Frame.subscribe(1, [("a", 0)])) == [.suback(1, [0x80])])
        client.cut()
        #expect(other.ask(Frame.subscribe(1, [("a", 0)])) == [.suback(1, [0])])
    }

    // MARK: Publishing

    /// Whatever is too fast is read later, in order and without loss; QoS 1 and 2 as well, for whom MQTT 3.1.1 has no
    /// other answer.
    @Test(arguments: [UInt8(0), 1, 2]) func olderClientsAreSlowedDown(qos: UInt8) throws {
        let node = try node([.publishRate: 100])
        let witness = TestClient(node, "w", user: "bert")
        witness.subscribe("t", qos: 0)
        let client = TestClient(node, "c", keepAlive: 1, user: "anna")
        let frames = (0..<300).map { Frame.publish("t", "\($0)", qos: qos, id: qos == 0 ? 0 : UInt16($0 + 1)) }
        client.send(frames.flatMap { $0 } + Frame.pingreq)
        #expect(witness.events().count == 100)
        var seen = 100
        for _ in 0..<20 {
            node.advance(milliseconds: 100)
            let more = witness.events().map(\.text)
            #expect(more.count <= 11)
            #expect(more == (seen..<seen + more.count).map(String.init))
            seen += more.count
        }
        #expect(seen == 300)
        #expect(client.closing == nil, "a client that is not read is not silent")
        #expect(client.answers().contains(.pingresp))
        #expect(node.dropped(.quotaExceeded) == 0)
    }

    @Test func guaranteedOnesOfMQTT5AreRefused() throws {
        let node = try node([.publishRate: 5])
        let witness = TestClient(node, "w", user: "bert")
        witness.subscribe("t")
        let client = TestClient5(node, "c", user: "anna")
        let other = TestClient5(node, "d", user: "anna")
        for _ in 0..<5 { client.send(Frame5.publish("t", "x")) }
        #expect(client.ask(Frame5.publish("t", "1", qos: 1, id: 1)) == [.puback(1, 0x97)])
        #expect(other.ask(Frame5.publish("t", "2", qos: 2, id: 2)) == [.pubrec(2, 0x97)], "one allowance for both")
        client.send(Frame5.publish("t", "later"))
        #expect(client.ask(Frame5.publish("t", "3", qos: 1, id: 3)).isEmpty, "what comes behind waits with it")
        #expect(witness.events().count == 5)
        node.advance(milliseconds: 200)
        #expect(witness.events().map(\.text) == ["later"])
        #expect(client.answers() == [.puback(3, 0x97)])
    }

    @Test func bytesAreSlowedDown() throws {
        let node = try node([.publishBytes: 10_000])
        let witness = TestClient(node, "w", user: "bert")
        witness.subscribe("t")
        let client = TestClient(node, "c", user: "anna")
        let payload = String(repeating: "x", count: 995)
        client.send((0..<40).flatMap { _ in Frame.publish("t", payload) })
        var seen = witness.events().count
        #expect((10...11).contains(seen))
        for _ in 0..<10 {
            node.advance(milliseconds: 100)
            let more = witness.events().count
            #expect(more <= 2)
            seen += more
        }
        #expect((19...22).contains(seen))
    }

    @Test func anEventOfSeveralSecondsWorth() throws {
        let node = try node([.publishBytes: 1_000])
        let witness = TestClient(node, "w", user: "bert")
        witness.subscribe("t")
        let client = TestClient(node, "c", user: "anna")
        client.send(Frame.publish("t", String(repeating: "x", count: 1 << 18)), Frame.publish("t", "2"))
        #expect(witness.events().count == 1)
        node.advance(milliseconds: 9_900)
        #expect(witness.events().isEmpty)
        node.advance(milliseconds: 200)
        #expect(witness.events().map(\.text) == ["2"], "nobody waits longer than ten seconds")
    }

    @Test func largePayloads() throws {
        let node = try node([.payload: 10])
        let witness = TestClient(node, "w", user: "bert")
        witness.subscribe("t")
        let large = "12345678901"
        for qos in UInt8(0)...2 {
            let old = TestClient(node, "old", user: "anna")
            old.send(Frame.publish("t", "1234567890"), Frame.publish("t", large, qos: qos, id: 1))
            #expect(old.closing == .packetTooLarge)
        }
        #expect(witness.events().count == 3)
        let new = TestClient5(node, "new", user: "anna")
        #expect(new.ask(Frame5.publish("t", large, qos: 1, id: 1)) == [.puback(1, 0x97)])
        #expect(
            new.ask(
                Frame5.publish("t", "1", qos: 2, id: 2), Frame5.publish("t", large, qos: 2, id: 3),
                Frame5.publish("t", "2", qos: 2, id: 4)) == [.pubrec(2), .pubrec(3, 0x97), .pubrec(4)])
        #expect(witness.events().map(\.text) == ["1", "2"])
        #expect(new.ask(Frame5.publish("t", "3"), Frame5.publish("t", large)) == [.disconnect(0x95)])
        #expect(new.closing == .packetTooLarge)
        #expect(witness.events().map(\.text) == ["3"])
        #expect(node.counters.refused[QuotaResource.payload.rawValue] == 6)
        #expect(node.dropped(.quotaExceeded) == 6)
    }

    @Test func retainedOverTheQuota() throws {
        let node = try node([.retainedEvents: 1])
        let witness = TestClient(node, "w", user: "bert")
        witness.subscribe("#")
        let client = TestClient5(node, "c", user: "anna")
        #expect(client.ask(Frame5.publish("a", "1", qos: 1, id: 1, retain: true)) == [.puback(1)])
        #expect(client.ask(Frame5.publish("b", "2", qos: 1, id: 2, retain: true)) == [.puback(2, 0x97)])
        #expect(client.ask(Frame5.publish("c", "3", qos: 2, id: 3, retain: true)) == [.pubrec(3, 0x97)])
        client.send(Frame5.publish("d", "4", retain: true))
        #expect(witness.events().map(\.text) == ["1", "2", "3", "4"])
        #expect(node.router.retainedCount == 1)
        #expect(node.dropped(.retainedFull) == 3)
        #expect(client.closing == nil)
    }
}
