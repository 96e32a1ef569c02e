import Core
import Testing

/// Sessions: what waits for a client, and for how long.
@Suite struct SessionTests {
    @Test func cleanSessionLeavesNothing() throws {
        let node = try TestNode()
        let client = TestClient(node, "c")
        client.subscribe("a", qos: 1)
        client.cut()
        #expect(node.router.subscriptionCount == 0)
        #expect(node.router.sessionCount == 0)
        TestClient(node, "s").send(Frame.publish("a", "x", qos: 1, id: 1))
        let again = TestClient(node, "c", clean: false)
        #expect(!again.isSessionPresent)
        #expect(again.returned.isEmpty)
    }

    @Test func persistentSessionWaits() throws {
        let node = try TestNode()
        let client = TestClient(node, "c", clean: false)
        #expect(!client.isSessionPresent)
        _ = client.ask(Frame.subscribe(1, [("a", 2), ("b", 1)]))
        client.send(Frame.disconnect)
        #expect(client.closing == .clientDisconnected)
        let sender = TestClient(node, "s")
        sender.send(Frame.publish("a", "lost"))
        sender.send(Frame.publish("a", "1", qos: 1, id: 1))
        sender.send(Frame.publish("b", "lost"))
        sender.send(Frame.publish("b", "2", qos: 2, id: 2), Frame.publish("a", "3", qos: 2, id: 3))
        #expect(sender.answers() == [.puback(1), .pubrec(2), .pubrec(3)])
        let again = TestClient(node, "c", clean: false)
        #expect(again.isSessionPresent)
        // At what both allow, in order; sent for the first time, so without DUP.
        #expect(
            again.returned == [
                .event("a", "1", qos: 1, id: 1), .event("b", "2", qos: 1, id: 2), .event("a", "3", qos: 2, id: 3),
            ])
    }

    @Test func cleanConnectEndsPersistentSession() throws {
        let node = try TestNode()
        let client = TestClient(node, "c", clean: false)
        client.subscribe("a", qos: 1)
        client.cut()
        TestClient(node, "s").send(Frame.publish("a", "x", qos: 1, id: 1))
        let clean = TestClient(node, "c", clean: true)
        #expect(!clean.isSessionPresent && clean.returned.isEmpty)
        #expect(node.router.subscriptionCount == 0)
        clean.cut()
        #expect(!TestClient(node, "c", clean: false).isSessionPresent)
    }

    @Test func expiry() throws {
        var limits = Limits()
        limits.sessionExpirySeconds = 100
        let node = try TestNode(limits: limits)
        let client = TestClient(node, "c", clean: false)
        client.subscribe("a", qos: 1)
        client.cut()
        node.advance(milliseconds: 99_999)
        let back = TestClient(node, "c", clean: false)
        #expect(back.isSessionPresent)
        // Connected, it does not expire, though it was away before.
        node.advance(milliseconds: 200_000)
        #expect(node.router.sessionCount == 1)
        back.cut()
        node.advance(milliseconds: 99_999)
        #expect(node.router.sessionCount == 1)
        node.advance(milliseconds: 1)
        #expect(node.router.sessionCount == 0)
        #expect(node.router.subscriptionCount == 0)
        TestClient(node, "s").send(Frame.publish("a", "x", qos: 1, id: 1))
        #expect(!TestClient(node, "c", clean: false).isSessionPresent)
    }

    @Test func manyComeAndGo() throws {
        var limits = Limits()
        limits.sessionExpirySeconds = 10
        let node = try TestNode(lanes: 2, limits: limits)
        for round in 0..<3_000 {
            let client = TestClient(node, "c\(round)", clean: false, lane: round % 2)
            client.subscribe("a/\(round)", qos: 1)
            client.cut()
            node.advance(milliseconds: 10)
        }
        // The last moment is that of the session that left a thousand rounds ago.
        #expect(node.router.sessionCount == 999)
        #expect(node.router.subscriptionCount == 999)
        node.advance(milliseconds: 10_000)
        #expect(node.router.sessionCount == 0)
        #expect(node.router.subscriptionCount == 0)
    }

    @Test func queueLimitInEvents() throws {
        var limits = Limits()
        limits.maxQueuedEvents = 10
        let node = try TestNode(limits: limits)
        let client = TestClient(node, "c", clean: false)
        client.subscribe("#", qos: 1)
        client.cut()
        let sender = TestClient(node, "s")
        let answers = sender.ask((1...15).flatMap { Frame.publish("a", "\($0)", qos: 1, id: UInt16($0)) })
        #expect(answers == (1...15).map { .puback($0) }, "QoS 1 is answered even when a subscriber's queue is full")
        #expect(node.dropped(.queueFull) == 5)
        let back = TestClient(node, "c", clean: false)
        #expect(back.returned == (1...10).map { .event("a", "\($0)", qos: 1, id: UInt16($0)) })
    }

    @Test func queueLimitInBytes() throws {
        var limits = Limits()
        limits.maxQueuedBytes = 10_000
        let node = try TestNode(limits: limits)
        let client = TestClient(node, "c", clean: false)
        client.subscribe("#", qos: 1)
        client.cut()
        let sender = TestClient(node, "s")
        let payload = [UInt8](repeating: 7, count: 1_000)
        for id in 1...20 { sender.send(Frame.publish("a", payload, qos: 1, id: UInt16(id))) }
        let kept = 10_000 / (1_000 + 1 + 64)
        #expect(node.dropped(.queueFull) == 20 - kept)
        // The window has the same limit in bytes, so what is kept may come in portions.
        let back = TestClient(node, "c", clean: false)
        var received = 0
        var answers = back.returned
        while !answers.isEmpty {
            received += answers.count
            answers = back.ask(
                answers.flatMap { answer in
                    if case .publish(let event) = answer { Frame.puback(event.id) } else { [UInt8]() }
                })
        }
        #expect(received == kept)
        sender.send(Frame.publish("a", payload, qos: 1, id: 99))
        #expect(back.events().count == 1)
    }

    /// The limit counts what waits now, not what ever waited.
    @Test func queueIsEmptiedAndFilledAgain() throws {
        var limits = Limits()
        limits.maxQueuedEvents = 2_000
        limits.maxInFlight = 100
        let node = try TestNode(limits: limits)
        let sender = TestClient(node, "s")
        let client = TestClient(node, "c", clean: false)
        client.subscribe("#", qos: 1)
        client.cut()
        for round in 0..<5 {
            for number in 0..<2_000 { sender.send(Frame.publish("a", "\(round * 2_000 + number)", qos: 1, id: 1)) }
            let back = TestClient(node, "c", clean: false)
            var texts: [String] = []
            var answers = back.returned
            while !answers.isEmpty {
                let events = answers.compactMap { answer -> Answer.Publish? in
                    if case .publish(let event) = answer { event } else { nil }
                }
                texts += events.map(\.text)
                #expect(events.count <= 100)
                answers = back.ask(events.flatMap { Frame.puback($0.id) })
            }
            #expect(texts == (round * 2_000..<round * 2_000 + 2_000).map { "\($0)" })
            back.cut()
        }
        #expect(node.dropped(.queueFull) == 0)
    }

    @Test func directEventsPassSlowReaders() throws {
        let node = try TestNode()
        let slow = TestClient(node, "slow")
        _ = slow.ask(Frame.subscribe(1, [("d", 0), ("g", 1)]))
        slow.connection.link.isCongested = true
        let sender = TestClient(node, "s")
        sender.send(
            Frame.publish("d", "1"), Frame.publish("g", "2", qos: 1, id: 1), Frame.publish("d", "3"),
            Frame.publish("g", "4", qos: 1, id: 2))
        #expect(slow.answers().isEmpty)
        #expect(node.dropped(.outputFull) == 2)
        node.drain(slow.connection)
        #expect(slow.answers() == [.event("g", "2", qos: 1, id: 1), .event("g", "4", qos: 1, id: 2)])
        sender.send(Frame.publish("d", "5"))
        #expect(slow.answers() == [.event("d", "5")])
    }
}
