import CProton
import Core
import Testing

@testable import AMQP

/// Messages from client to client, over one lane and over two.
@Suite struct FieldTrafficTests {
    static let numbers = (1...40).map { "\($0)" }

    private func pair(_ node: FieldNode, lanes: Int) -> (FieldClient, FieldClient) {
        (
            FieldClient(node, node.container(on: 0, "s")),
            FieldClient(node, node.container(on: lanes - 1, "r"))
        )
    }

    // MARK: Settlement

    @Test(arguments: [1, 2], [false, true]) func arriveInOrder(lanes: Int, isSettled: Bool) throws {
        let node = try FieldNode(lanes: lanes)
        let (publisher, reader) = pair(node, lanes: lanes)
        let receiver = reader.receiver(from: "a/b", credit: 100)
        let sender = publisher.sender(to: "a/b")
        let deliveries = publisher.send(Self.numbers, on: sender, isSettled: isSettled)
        publisher.pump()
        reader.pump()
        #expect(reader.texts(receiver) == Self.numbers)
        #expect(reader.received(receiver).allSatisfy { $0.isSettled == isSettled })
        #expect(deliveries.allSatisfy { FieldClient.outcome($0) == accepted && pn_delivery_settled($0) })
        #expect(deliveries.count == (isSettled ? 0 : 40))
        #expect(node.counters.eventsIn == 40)
        #expect(node.counters.eventsOut == 40)
    }

    @Test func otherLanesHoldTheSettlement() throws {
        let node = try FieldNode(lanes: 2)
        let (publisher, reader) = pair(node, lanes: 2)
        _ = reader.receiver(from: "a", credit: 100)
        let sender = publisher.sender(to: "a")
        let deliveries = publisher.send(["1", "2"], on: sender)
        publisher.step()
        #expect(deliveries.allSatisfy { FieldClient.outcome($0) == nil })
        node.lanes[1].pass()
        publisher.hear()
        #expect(deliveries.allSatisfy { FieldClient.outcome($0) == nil }, "the receipt is on its way")
        node.lanes[0].pass()
        publisher.hear()
        #expect(deliveries.allSatisfy { FieldClient.outcome($0) == accepted })
    }

    @Test func nobodyThere() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let deliveries = client.send(["1"], on: client.sender(to: "a"))
        client.pump()
        #expect(FieldClient.outcome(deliveries[0]) == accepted)
    }

    /// A connection that reads what it publishes itself.
    @Test(arguments: [false, true]) func selfSubscriber(isSettled: Bool) throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let receiver = client.receiver(from: "a/+", credit: 100)
        let sender = client.sender(to: "a/b")
        client.send(Self.numbers, on: sender, isSettled: isSettled)
        client.pump()
        #expect(client.texts(receiver) == Self.numbers)
    }

    /// What two links publish in turns keeps the order of each, and the order of both.
    @Test func severalLinksInOneRead() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let receiver = client.receiver(from: "a/#", credit: 100)
        let (one, two) = (client.sender("s1", to: "a/1"), client.sender("s2", to: "a/2"))
        var bytes: [UInt8] = []
        for number in 1...20 {
            client.send(["\(number)"], on: number % 3 == 0 ? one : two, isSettled: number % 2 == 0)
            bytes += client.proton.bytes()
        }
        node.receive(client.connection, bytes)
        client.pump()
        #expect(client.texts(receiver) == (1...20).map { "\($0)" })
    }

    // MARK: Credit

    @Test(arguments: [false, true]) func tenCreditsHoldExactlyTen(isSettled: Bool) throws {
        let node = try FieldNode()
        let (publisher, reader) = pair(node, lanes: 1)
        let receiver = reader.receiver(from: "a", credit: 10)
        publisher.send(Self.numbers, on: publisher.sender(to: "a"), isSettled: isSettled)
        publisher.pump()
        reader.pump()
        #expect(reader.texts(receiver) == (1...10).map { "\($0)" })
        #expect(node.waiting == 30)
        reader.proton.grant(receiver, 7)
        reader.pump()
        #expect(reader.texts(receiver).count == 17)
        reader.proton.grant(receiver, 100)
        reader.pump()
        #expect(reader.texts(receiver) == Self.numbers)
        #expect(node.waiting == 0)
    }

    @Test func creditComesBackInBatches() throws {
        var limits = Limits()
        limits.amqpCredit = 20
        let node = try FieldNode(limits: limits)
        let client = FieldClient(node)
        let sender = client.sender(to: "a")
        #expect(pn_link_credit(sender) == 20)
        for number in 1...100 {
            client.send(["x"], on: sender, isSettled: number % 2 == 0)
            client.pump()
            #expect(pn_link_credit(sender) == 20 - Int32(number % 5), "after \(number)")
        }
    }

    /// What is not settled yet is not given back.
    @Test func neverMoreThanTheWindow() throws {
        var limits = Limits()
        limits.amqpCredit = 20
        let node = try FieldNode(lanes: 2, limits: limits)
        let (publisher, reader) = pair(node, lanes: 2)
        _ = reader.receiver(from: "a", credit: 100)
        let sender = publisher.sender(to: "a")
        for _ in 0..<30 {
            publisher.send(["x"], on: sender)
            publisher.step()
        }
        #expect(pn_link_credit(sender) == -10, "twenty are under way, and ten have not been sent")
        publisher.pump()
        #expect(node.counters.eventsIn == 30)
        #expect((16...20).contains(pn_link_credit(sender)))
    }

    @Test func drainUsesOrGivesUpCredit() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let receiver = client.receiver(from: "a", credit: 0)
        client.send(["1", "2", "3"], on: client.sender(to: "a"))
        client.pump()
        #expect(client.texts(receiver).isEmpty)
        client.proton.drain(receiver, 10)
        client.pump()
        #expect(client.texts(receiver) == ["1", "2", "3"])
        #expect(pn_link_credit(receiver) == 0)
        #expect(!pn_link_draining(receiver))
        client.proton.drain(receiver, 5)
        client.pump()
        #expect(!pn_link_draining(receiver), "nothing was there")
    }

    /// More waits than the engine takes at once: the rest is given up only when all has been sent.
    @Test func drainOfMuch() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let receiver = client.receiver(from: "a", credit: 0)
        let texts = (0..<50).map { String(repeating: "\($0)", count: 4_000) }
        client.send(texts, on: client.sender(to: "a"))
        client.pump()
        client.proton.drain(receiver, 100)
        client.pump()
        #expect(client.texts(receiver) == texts)
        #expect(!pn_link_draining(receiver))
    }

    /// flow with echo is answered by a flow (§2.7.4), of a link and of a session.
    @Test(arguments: [false, true]) func echo(hasLink: Bool) throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        _ = client.receiver(from: "a", credit: 3)
        _ = client.connection.link.takeSent()
        let flow = Self.flow(handle: hasLink ? 0 : nil, echo: true)
        node.receive(client.connection, Self.flow(handle: hasLink ? 0 : nil, echo: false))
        #expect(client.connection.link.takeSent().isEmpty)
        node.receive(client.connection, flow)
        let answer = client.connection.link.takeSent()
        #expect(answer.count > 11 && Array(answer[8..<11]) == [0, 0x53, 0x13])
        client.proton.take(answer)
        client.pump()
        #expect(client.closing == nil)
    }

    private static func flow(handle: UInt8?, echo: Bool) -> [UInt8] {
        let window: [UInt8] = [0x43, 0x70, 0, 0, 4, 0, 0x43, 0x70, 0, 0, 4, 0]
        let link: [UInt8] = handle.map { [0x52, $0, 0x43, 0x52, 3] } ?? [0x40, 0x40, 0x40]
        // available, drain, echo.
        let fields = window + link + [0x40, 0x42, echo ? 0x41 : 0x42]
        let body = [0, 0x53, 0x13, 0xC0, UInt8(fields.count + 1), 10] + fields
        return [0, 0, 0, UInt8(body.count + 8), 2, 0, 0, 0] + body
    }

    /// A transfer that was not granted ends its link, and nothing else.
    @Test func transferWithoutCredit() throws {
        var limits = Limits()
        limits.amqpCredit = 4
        let node = try FieldNode(limits: limits)
        let (client, other) = (FieldClient(node, "one"), FieldClient(node, "two"))
        let (bad, receiver) = (client.sender("bad", to: "a"), client.receiver(from: "b", credit: 10))
        Self.overdraw(client, 10)
        client.pump()
        #expect(client.condition(bad) == "amqp:link:transfer-limit-exceeded")
        other.send(["x"], on: other.sender(to: "b"))
        other.pump()
        client.pump()
        #expect(client.texts(receiver) == ["x"], "the session and its other link are as they were")
        #expect(client.closing == nil)
    }

    /// Sends on handle 0 of channel 0, however much was granted, by frames of its own.
    static func overdraw(_ client: FieldClient, _ count: Int) {
        let body = FieldClient.message("x")
        var bytes: [UInt8] = []
        for number in 0..<count {
            let fields: [UInt8] = [0x43, 0x52, UInt8(number), 0xA0, 1, UInt8(number), 0x43, 0x42]
            let performative: [UInt8] = [0x00, 0x53, 0x14, 0xC0, UInt8(fields.count + 1), 5] + fields
            bytes += [0, 0, 0, UInt8(8 + performative.count + body.count), 2, 0, 0, 0] + performative + body
        }
        client.node.receive(client.connection, bytes)
    }

    /// A link that was refused gets nothing, and holds nothing of what is sent on it all the same.
    @Test func transfersOnARefusedLink() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let link = client.proton.sender(client.session, "q", to: "queue://x")
        node.receive(client.connection, client.proton.bytes())
        Self.overdraw(client, 100)
        let engine = try #require(client.connection.amqp?.engine)
        let session = pn_session_head(engine.connection, 0)
        #expect(session.map { pn_session_incoming_bytes($0) } == 0)
        #expect(client.closing == nil)
        client.hear()
        #expect(client.condition(link) == "amqp:not-implemented")
    }

    // MARK: Large messages

    @Test(arguments: [1, 2]) func manyFrames(lanes: Int) throws {
        let node = try FieldNode(lanes: lanes)
        let (publisher, reader) = pair(node, lanes: lanes)
        let receiver = reader.receiver(from: "a", credit: 10)
        let sender = publisher.sender(to: "a")
        let payload = (0..<700_000).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }
        let delivery = publisher.proton.send(FieldClient.message(payload), on: sender)
        publisher.send(["behind"], on: sender)
        publisher.pump()
        reader.pump()
        let got = reader.received(receiver)
        #expect(got.count == 2)
        #expect(got.first?.bytes == FieldClient.message(payload))
        #expect(delivery.flatMap { FieldClient.outcome($0) } == accepted)
    }

    @Test func tooLargeAMessage() throws {
        var limits = Limits()
        limits.maxPacketBytes = 100_000
        let node = try FieldNode(limits: limits)
        let client = FieldClient(node)
        let (bad, good) = (client.sender("bad", to: "a"), client.sender("good", to: "b"))
        #expect(pn_link_remote_max_message_size(bad) == 100_000)
        client.proton.send(FieldClient.message([UInt8](repeating: 1, count: 400_000)), on: bad)
        client.pump()
        #expect(client.condition(bad) == "amqp:link:message-size-exceeded")
        let delivery = client.send(["x"], on: good)[0]
        client.pump()
        #expect(FieldClient.outcome(delivery) == accepted)
        #expect(client.connection.amqp?.partialBytes == 0)
    }

    /// Messages that are never completed have a bound together.
    @Test func manyIncompleteMessages() throws {
        var limits = Limits()
        limits.maxPacketBytes = 100_000
        let node = try FieldNode(limits: limits)
        let client = FieldClient(node)
        let links = (0..<5).map { client.sender("s\($0)", to: "a") }
        for link in links {
            client.proton.send([UInt8](repeating: 0, count: 90_000), on: link, hasMore: true)
            client.pump()
        }
        #expect(links.compactMap { client.condition($0) }.contains("amqp:resource-limit-exceeded"))
        #expect((client.connection.amqp?.partialBytes ?? .max) <= 200_000)
        #expect(client.closing == nil)
    }

    @Test func abortedMessage() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let receiver = client.receiver(from: "a", credit: 10)
        let sender = client.sender(to: "a")
        let delivery = client.proton.send([UInt8](repeating: 0, count: 90_000), on: sender, hasMore: true)
        client.pump()
        #expect((client.connection.amqp?.partialBytes ?? 0) > 0)
        if let delivery { pn_delivery_abort(delivery) }
        client.send(["next"], on: sender)
        client.pump()
        #expect(client.connection.amqp?.partialBytes == 0)
        #expect(client.texts(receiver) == ["next"])
    }

    // MARK: Who may

    @Test func accessRules() throws {
        let rules = [
            AccessRule(effect: .allow, action: .publish, topics: ["in/#"]),
            AccessRule(effect: .allow, action: .subscribe, topics: ["in/a", "out/#"]),
        ]
        let node = try FieldNode(rules: rules)
        let client = FieldClient(node)
        let refused = client.receiver("no", from: "in/#")
        #expect(client.condition(refused) == "amqp:unauthorized-access")
        let receiver = client.receiver(from: "in/a", credit: 10)
        #expect(client.condition(receiver) == nil)
        let (may, mayNot) = (client.sender("s1", to: "in/a"), client.sender("s2", to: "out/a"))
        let fine = client.send(["1"], on: may)[0]
        let wrong = client.send(["2"], on: mayNot)[0]
        client.pump()
        #expect(FieldClient.outcome(fine) == accepted)
        #expect(FieldClient.outcome(wrong) == rejected)
        let condition = ProtonClient.condition(pn_disposition_condition(pn_delivery_remote(wrong)))
        #expect(condition?.name == "amqp:unauthorized-access")
        #expect(client.texts(receiver) == ["1"])
        #expect(node.router.subscriptionCount == 1, "what was refused has left nothing")
        #expect(node.router.sessionCount == 2)
    }

    @Test func noLocal() throws {
        let node = try FieldNode()
        let client = FieldClient(node, "one")
        let other = FieldClient(node, "two")
        let receiver = client.receiver(from: "a", credit: 10) { link in
            let filter = pn_terminus_filter(pn_link_source(link))
            pn_data_put_map(filter)
            pn_data_enter(filter)
            "no-local".withCString { _ = pn_data_put_symbol(filter, pn_bytes_t(size: 8, start: $0)) }
            pn_data_put_described(filter)
            pn_data_enter(filter)
            pn_data_put_ulong(filter, 0x0000_468C_0000_0003)
            pn_data_put_list(filter)
            pn_data_exit(filter)
            pn_data_exit(filter)
        }
        client.send(["own"], on: client.sender(to: "a"))
        other.send(["other"], on: other.sender(to: "a"))
        client.pump()
        other.pump()
        client.pump()
        #expect(client.texts(receiver) == ["other"])
    }

    @Test func dynamicSource() throws {
        let rules = [AccessRule(effect: .allow, action: .publish, topics: ["#"])]
        let node = try FieldNode(rules: rules)
        let client = FieldClient(node, "one")
        let other = FieldClient(node, "two")
        let receiver = client.receiver(from: nil, credit: 10) { pn_terminus_set_dynamic(pn_link_source($0), true) }
        let address = try #require(pn_terminus_get_address(pn_link_remote_source(receiver)).map { String(cString: $0) })
        #expect(address.hasPrefix("apus/reply/"))
        other.send(["answer"], on: other.sender(to: address))
        other.pump()
        client.pump()
        #expect(client.texts(receiver) == ["answer"])
        client.leave(receiver, closes: true)
        #expect(node.router.subscriptionCount == 0)
    }

    /// A temporary destination of JMS: a dynamic target whose address its connection, and nobody else, listens at.
    @Test func dynamicTarget() throws {
        let rules = [AccessRule(effect: .allow, action: .publish, topics: ["#"])]
        let node = try FieldNode(rules: rules)
        let client = FieldClient(node, "one")
        let other = FieldClient(node, "two")
        let target = client.sender("t", to: nil) { pn_terminus_set_dynamic(pn_link_target($0), true) }
        let address = try #require(pn_terminus_get_address(pn_link_remote_target(target)).map { String(cString: $0) })
        #expect(address.hasPrefix("apus/reply/"))
        let receiver = client.receiver(from: address, credit: 10)
        #expect(client.condition(receiver) == nil)
        other.send(["answer"], on: other.sender(to: address))
        other.pump()
        client.pump()
        #expect(client.texts(receiver) == ["answer"])
        #expect(other.condition(other.receiver(from: address)) == "amqp:unauthorized-access")
        #expect(client.condition(client.receiver("wild", from: "apus/reply/+")) == "amqp:unauthorized-access")
        client.leave(target, closes: true)
        #expect(client.condition(client.receiver("late", from: address)) == "amqp:unauthorized-access")
    }

    /// Retained events come as credit does.
    @Test func retainedOneAtATime() throws {
        let node = try FieldNode()
        for number in 1...5 {
            let payload = Array("\(number)".utf8)
            "r/\(number)".withCString { topic in
                payload.withUnsafeBytes { payload in
                    let event = Event(
                        topic: UnsafeRawBufferPointer(start: topic, count: 3),
                        properties: UnsafeRawBufferPointer(start: nil, count: 0), payload: payload, qos: 1,
                        isRetained: true)
                    node.router.publish(event, as: .node(node.router), on: node.lanes[0])
                }
            }
        }
        let client = FieldClient(node)
        let receiver = client.receiver(from: "r/#")
        for count in 0...5 {
            #expect(client.texts(receiver).count == count)
            client.proton.grant(receiver, 1)
            client.pump()
        }
        #expect(Set(client.texts(receiver)) == Set((1...5).map { "\($0)" }))
        client.send(["live"], on: client.sender(to: "r/9"))
        client.pump()
        #expect(client.texts(receiver).last == "live")
    }
}
