import Core
import Testing
import TestSupport

/// Guaranteed events on their way to a client: the window, identifiers, and what a reconnect sends again (§4.3, §4.4).
@Suite struct WindowTests {
    private func persistent(_ node: TestNode, _ filter: String, qos: UInt8) -> TestClient {
        let client = TestClient(node, "c", clean: false)
        client.subscribe(filter, qos: qos)
        return client
    }

    private func publish(_ node: TestNode, _ numbers: ClosedRange<Int>, qos: UInt8 = 1) {
        let sender = TestClient(node, "s")
        for number in numbers {
            sender.send(Frame.publish("a", "\(number)", qos: qos, id: UInt16(truncatingIfNeeded: number % 60_000 + 1)))
            if qos == 2 { sender.send(Frame.pubrel(UInt16(truncatingIfNeeded: number % 60_000 + 1))) }
        }
    }

    @Test func redeliveryWithDup() throws {
        let node = try TestNode()
        let client = persistent(node, "a", qos: 1)
        publish(node, 1...4)
        #expect(client.events().map(\.id) == [1, 2, 3, 4])
        client.send(Frame.puback(2))
        for _ in 0..<3 {
            client.cut()
            let back = TestClient(node, "c", clean: false)
            #expect(
                back.returned == [
                    .event("a", "1", qos: 1, id: 1, dup: true), .event("a", "3", qos: 1, id: 3, dup: true),
                    .event("a", "4", qos: 1, id: 4, dup: true),
                ])
            back.cut()
        }
        let back = TestClient(node, "c", clean: false)
        publish(node, 5...5)
        #expect(back.events() == [Answer.Publish(topic: "a", payload: Array("5".utf8), qos: 1, id: 5)])
        back.send(Frame.puback(1), Frame.puback(3), Frame.puback(4), Frame.puback(5))
        back.cut()
        #expect(TestClient(node, "c", clean: false).returned.isEmpty)
    }

    @Test func directEventsDoNotOvertakeThoseThatWait() throws {
        var limits = Limits()
        limits.maxInFlight = 1
        let node = try TestNode(limits: limits)
        let client = persistent(node, "a", qos: 1)
        publish(node, 1...2)
        publish(node, 3...3, qos: 0)
        publish(node, 4...4)
        #expect(client.events().map(\.text) == ["1"])
        client.send(Frame.puback(1))
        #expect(client.events().map(\.text) == ["2"])
        client.send(Frame.puback(2))
        #expect(client.events().map { "\($0.text) \($0.qos)" } == ["3 0", "4 1"])
        // Who is away misses direct events, whatever waits.
        client.cut()
        publish(node, 5...5)
        publish(node, 6...6, qos: 0)
        let back = TestClient(node, "c", clean: false)
        back.send(Frame.puback(3))
        #expect((back.returned.count, back.events().map(\.text)) == (1, ["5"]))
    }

    @Test func windowLimit() throws {
        var limits = Limits()
        limits.maxInFlight = 8
        let node = try TestNode(limits: limits)
        let client = persistent(node, "a", qos: 1)
        publish(node, 1...20)
        #expect(client.events().map(\.text) == (1...8).map { "\($0)" })
        // The window's beginning holds the rest: identifiers stay consecutive.
        #expect(client.ask(Frame.puback(2), Frame.puback(3)).isEmpty)
        #expect(client.ask(Frame.puback(1)).count == 3)
        client.send(Frame.puback(7), Frame.puback(11), Frame.puback(4))
        #expect(client.events().map(\.text) == ["12"])
        #expect(client.ask(Frame.puback(5), Frame.puback(6)).count == 3)
        var numbers = Set(8...15)
        numbers.remove(11)
        for id in numbers.sorted(by: >) { client.send(Frame.puback(UInt16(id))) }
        #expect(client.events().map(\.text) == (16...20).map { "\($0)" })
        client.send(Frame.puback(16), Frame.puback(17), Frame.puback(18), Frame.puback(19), Frame.puback(20))
        client.cut()
        #expect(TestClient(node, "c", clean: false).returned.isEmpty)
        #expect(node.dropped(.queueFull) == 0)
    }

    @Test(arguments: [UInt64(1), 2, 3, 4, 5]) func acknowledgedInAnyOrder(seed: UInt64) throws {
        var random = Seeded(seed: seed)
        var limits = Limits()
        limits.maxInFlight = 50
        let node = try TestNode(limits: limits)
        let client = persistent(node, "a", qos: 1)
        publish(node, 1...500)
        var open: [UInt16] = []
        var texts: [String] = []
        while true {
            let events = client.events()
            texts += events.map(\.text)
            open += events.map(\.id)
            #expect(open.count <= 50)
            guard !open.isEmpty else { break }
            client.send(Frame.puback(open.remove(at: Int.random(in: 0..<open.count, using: &random))))
        }
        #expect(texts == (1...500).map { "\($0)" })
    }

    /// Identifiers are 1…65,535 and then 1 again, never 0.
    @Test func identifiersWrap() throws {
        let node = try TestNode()
        let client = persistent(node, "a", qos: 1)
        let sender = TestClient(node, "s")
        var wanted = 1
        for batch in 0..<132 {
            sender.send((0..<500).flatMap { Frame.publish("a", "\(batch * 500 + $0)", qos: 1, id: 1) })
            let events = client.events()
            #expect(events.count == 500)
            for event in events {
                if event.id != UInt16(wanted) { Issue.record("\(event.id) instead of \(wanted)") }
                wanted = wanted == 65_535 ? 1 : wanted + 1
            }
            client.send(events.flatMap { Frame.puback($0.id) })
        }
        #expect(wanted == 132 * 500 - 65_535 + 1)
    }

    @Test func windowAcrossTheWrap() throws {
        var limits = Limits()
        limits.maxInFlight = 65_535
        limits.maxQueuedEvents = 100
        let node = try TestNode(limits: limits)
        let client = persistent(node, "a", qos: 1)
        let sender = TestClient(node, "s")
        for batch in 0..<14 {
            sender.send((0..<5_000).flatMap { Frame.publish("a", "\(batch * 5_000 + $0)", qos: 1, id: 1) })
        }
        let events = client.events()
        #expect(events.count == 65_535, "every identifier is in use")
        #expect(Set(events.map(\.id)).count == 65_535)
        #expect(node.dropped(.queueFull) == 70_000 - 65_535 - 100)
        client.send(events.reversed().flatMap { Frame.puback($0.id) })
        let rest = client.events()
        #expect(rest.map(\.id) == (1...100).map { $0 })
        #expect(rest.map(\.text) == (65_535..<65_635).map { "\($0)" })
        client.send(rest.flatMap { Frame.puback($0.id) })
        client.cut()
        #expect(TestClient(node, "c", clean: false).returned.isEmpty)
    }

    /// Acknowledgements of the wrong kind, twice, or of nothing change nothing.
    @Test func strayAcknowledgements() throws {
        let node = try TestNode()
        let client = persistent(node, "#", qos: 2)
        #expect(client.ask(Frame.puback(1), Frame.puback(65_535), Frame.pubcomp(7)).isEmpty)
        let sender = TestClient(node, "s")
        sender.send(Frame.publish("a", "1", qos: 1, id: 1), Frame.publish("a", "2", qos: 2, id: 2))
        #expect(client.events().map(\.id) == [1, 2])
        // 1 waits for PUBACK, 2 for PUBREC.
        #expect(client.ask(Frame.puback(2), Frame.pubcomp(1), Frame.pubcomp(2), Frame.puback(3)).isEmpty)
        client.cut()
        let back = TestClient(node, "c", clean: false)
        #expect(back.returned.count == 2)
        #expect(
            back.ask(Frame.puback(1), Frame.puback(1), Frame.pubrec(2), Frame.pubrec(2)) == [.pubrel(2), .pubrel(2)])
        #expect(back.ask(Frame.puback(2), Frame.pubcomp(2), Frame.pubcomp(2)).isEmpty)
        back.cut()
        #expect(TestClient(node, "c", clean: false).returned.isEmpty)
        // A PUBREC of nothing is answered, so that the other side can finish (§4.3.3).
        #expect(TestClient(node, "d").ask(Frame.pubrec(9)) == [.pubrel(9)])
    }

    // MARK: QoS 2 to the client, cut at every step

    @Test func exactlyOnceThroughCuts() throws {
        let node = try TestNode()
        var client = persistent(node, "a", qos: 2)
        publish(node, 1...1, qos: 2)
        #expect(client.answers() == [.event("a", "1", qos: 2, id: 1)])
        // Cut before PUBREC: the event again.
        client.cut()
        client = TestClient(node, "c", clean: false)
        #expect(client.returned == [.event("a", "1", qos: 2, id: 1, dup: true)])
        // Cut after PUBREC: PUBREL again, the event never more.
        #expect(client.ask(Frame.pubrec(1)) == [.pubrel(1)])
        for _ in 0..<2 {
            client.cut()
            client = TestClient(node, "c", clean: false)
            #expect(client.returned == [.pubrel(1)])
        }
        // A PUBREC that was on its way: answered again.
        #expect(client.ask(Frame.pubrec(1)) == [.pubrel(1)])
        #expect(client.ask(Frame.pubcomp(1)).isEmpty)
        client.cut()
        #expect(TestClient(node, "c", clean: false).returned.isEmpty)
    }

    @Test func mixedStatesKeepTheirOrder() throws {
        let node = try TestNode()
        let client = persistent(node, "a", qos: 2)
        let sender = TestClient(node, "s")
        sender.send((1...6).flatMap { Frame.publish("a", "\($0)", qos: UInt8($0 % 2 + 1), id: UInt16($0)) })
        #expect(client.events().count == 6)
        // 1, 3, 5 at QoS 2; 2, 4, 6 at QoS 1.
        client.send(Frame.puback(2), Frame.pubrec(3), Frame.pubrec(1), Frame.pubcomp(1))
        _ = client.answers()
        client.cut()
        #expect(
            TestClient(node, "c", clean: false).returned == [
                .pubrel(3), .event("a", "4", qos: 1, id: 4, dup: true), .event("a", "5", qos: 2, id: 5, dup: true),
                .event("a", "6", qos: 1, id: 6, dup: true),
            ])
    }

    /// There is room in the output again before the conversation is told: what is new stays behind what waits.
    @Test func nothingOvertakesWhatWaits() throws {
        let node = try TestNode()
        let client = persistent(node, "a", qos: 1)
        client.connection.link.isCongested = true
        publish(node, 1...1)
        client.connection.link.isCongested = false
        publish(node, 2...2)
        #expect(client.answers().isEmpty)
        node.drain(client.connection)
        #expect(client.events().map(\.text) == ["1", "2"])
        // The same while a reconnect sends the window again.
        client.cut()
        let back = TestClient(node)
        back.connection.link.isCongested = true
        back.send(Frame.connect("c", clean: false))
        back.connection.link.isCongested = false
        publish(node, 3...3)
        #expect(back.answers() == [.connack(present: true, code: 0)])
        node.drain(back.connection)
        #expect(back.events().map(\.text) == ["1", "2", "3"])
    }

    @Test func redeliveryToASlowReader() throws {
        let node = try TestNode()
        let client = persistent(node, "a", qos: 1)
        publish(node, 1...3)
        client.cut()
        publish(node, 4...5)
        let back = TestClient(node)
        back.connection.link.isCongested = true
        #expect(back.ask(Frame.connect("c", clean: false)) == [.connack(present: true, code: 0)])
        publish(node, 6...6)
        #expect(back.ask(Frame.puback(1)).isEmpty)
        node.drain(back.connection)
        #expect(back.events().map(\.text) == ["2", "3", "4", "5", "6"])
    }
}
