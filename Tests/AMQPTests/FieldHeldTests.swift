import CProton
import Core
import Testing

@testable import AMQP

/// Publishers that wait for a durable subscription, and shared subscriptions.
@Suite struct FieldHeldTests {
    private static var small: Limits {
        var limits = Limits()
        limits.maxQueuedEvents = 10
        limits.amqpCredit = 8
        return limits
    }

    /// A durable subscription without receiver, and a publisher that has filled it.
    private func full(
        _ node: FieldNode, lanes: Int, credit: Int32 = 0
    ) -> (publisher: FieldClient, sender: OpaquePointer, sent: [OpaquePointer], container: String) {
        let container = node.container(on: lanes - 1, "r")
        let reader = FieldClient(node, container)
        reader.leave(reader.receiver("sub", from: "a", keeps: true), closes: false)
        reader.cut()
        let publisher = FieldClient(node, node.container(on: 0, "s"))
        let sender = publisher.sender(to: "a")
        let sent = publisher.send((1...30).map { "\($0)" }, on: sender)
        publisher.pump()
        return (publisher, sender, sent, container)
    }

    private func settled(_ deliveries: [OpaquePointer]) -> Int {
        deliveries.reduce(0) { $0 + (FieldClient.outcome($1) == accepted ? 1 : 0) }
    }

    @Test(arguments: [1, 2]) func runsOutOfCreditAtTheBound(lanes: Int) throws {
        let node = try FieldNode(lanes: lanes, limits: Self.small)
        let (publisher, sender, sent, container) = full(node, lanes: lanes)
        #expect((9...10).contains(settled(sent)), "what is within the bound, or was not published with what is not")
        #expect(pn_link_credit(sender) <= 0)
        #expect(node.counters.eventsIn < 20)
        #expect(node.dropped(.queueFull) == 0)
        // It is read again: all come, in order.
        let reader = FieldClient(node, container)
        let receiver = reader.receiver("sub", from: "a", credit: 100, keeps: true)
        for _ in 0..<4 {
            publisher.pump()
            reader.pump()
        }
        #expect(reader.texts(receiver) == (1...30).map { "\($0)" })
        #expect(settled(sent) == 30)
        #expect(publisher.connection.amqp?.unsettled.isEmpty == true)
    }

    @Test(arguments: [1, 2]) func goesOnWhenTheSubscriptionIsClosed(lanes: Int) throws {
        let node = try FieldNode(lanes: lanes, limits: Self.small)
        let (publisher, _, sent, container) = full(node, lanes: lanes)
        let reader = FieldClient(node, container)
        let known = reader.receiver("sub", from: nil) { pn_terminus_set_type(pn_link_source($0), PN_UNSPECIFIED) }
        reader.leave(known, closes: true)
        publisher.pump()
        #expect(settled(sent) == 30)
    }

    @Test(arguments: [1, 2]) func goesOnWhenTheSubscriptionExpires(lanes: Int) throws {
        var limits = Self.small
        limits.sessionExpirySeconds = 20
        let node = try FieldNode(lanes: lanes, limits: limits)
        let (publisher, _, sent, _) = full(node, lanes: lanes)
        node.advance(milliseconds: 20_000)
        publisher.pump()
        #expect(settled(sent) == 30)
    }

    @Test(arguments: [1, 2]) func goesOnWhenTheClientIsKicked(lanes: Int) throws {
        let node = try FieldNode(lanes: lanes, limits: Self.small)
        let (publisher, _, sent, container) = full(node, lanes: lanes)
        let inbox = try #require(node.inbox("amqp:\(container)/sub"))
        inbox.kick(endsSession: true, on: node.lanes[lanes - 1])
        for lane in node.lanes { lane.pass() }
        node.settle()
        publisher.pump()
        #expect(settled(sent) == 30)
        #expect(node.router.subscriptionCount == 0)
    }

    /// The link goes, then the connection: late receipts find nobody.
    @Test(arguments: [1, 2], [false, true]) func thePublisherLeaves(lanes: Int, isCut: Bool) throws {
        let node = try FieldNode(lanes: lanes, limits: Self.small)
        let (publisher, sender, _, container) = full(node, lanes: lanes)
        if isCut { publisher.cut() } else { publisher.leave(sender, closes: true) }
        let another = FieldClient(node, node.container(on: 0, "t"))
        let other = another.sender(to: "b")
        let delivery = another.send(["x"], on: other)[0]
        let reader = FieldClient(node, container)
        let receiver = reader.receiver("sub", from: "a", credit: 100, keeps: true)
        for client in [reader, another, publisher] { client.pump() }
        #expect(reader.texts(receiver).prefix(10) == (1...10).map { "\($0)" }[...])
        #expect(FieldClient.outcome(delivery) == accepted)
        #expect(publisher.connection.amqp?.unsettled.isEmpty ?? true)
    }

    /// A subscription that is full takes no more than twice its bytes, whoever waits.
    @Test func boundInBytes() throws {
        var limits = Limits()
        limits.maxQueuedBytes = 100_000
        limits.amqpCredit = 500
        let node = try FieldNode(limits: limits)
        let reader = FieldClient(node, "r")
        reader.leave(reader.receiver("sub", from: "a", keeps: true), closes: false)
        for number in 0..<5 {
            let publisher = FieldClient(node, "p\(number)")
            publisher.send(
                (0..<400).map { "\($0) \(String(repeating: "x", count: 100))" }, on: publisher.sender(to: "a"))
            publisher.pump()
        }
        let bytes = node.lanes.reduce(0) { $0 + $1.queuedBytes }
        // Which run is the last to be held is seen before it, not after it.
        #expect((200_000..<300_000).contains(bytes))
        #expect(node.dropped(.queueFull) > 0)
    }

    /// MQTT's publishers are never made to wait.
    @Test func othersDoNotWait() throws {
        let node = try FieldNode(limits: Self.small)
        let reader = FieldClient(node, "r")
        reader.leave(reader.receiver("sub", from: "a", keeps: true), closes: false)
        let publisher = node.accept(isMQTT: true)
        node.receive(publisher, [0x10, 13, 0, 4] + Array("MQTT".utf8) + [4, 2, 0, 0, 0, 1, 0x6D])
        for number in UInt8(1)...20 { node.receive(publisher, [0x32, 6, 0, 1, 0x61, 0, number, 0x78]) }
        node.settle()
        #expect(publisher.link.takeSent().count == 4 + 20 * 4, "all are acknowledged")
        #expect(node.waiting == 10)
        #expect(node.dropped(.queueFull) == 10)
    }

    /// Held receipts move with the subscription from one link to another, and over lanes.
    @Test func takenOverWhileFull() throws {
        let node = try FieldNode(lanes: 2, limits: Self.small)
        let (publisher, _, sent, container) = full(node, lanes: 2)
        var texts: [String] = []
        for _ in 0..<30 {
            let reader = FieldClient(node, container)
            let receiver = reader.receiver("sub", from: "a", credit: 1, keeps: true)
            publisher.pump()
            reader.pump()
            texts += reader.texts(receiver)
            for got in reader.received(receiver) { reader.proton.settle(got.delivery, accepted) }
            reader.pump()
            reader.cut()
        }
        publisher.pump()
        #expect(texts == (1...30).map { "\($0)" })
        #expect(settled(sent) == 30)
    }

    // MARK: Shared subscriptions

    private func member(
        _ client: FieldClient, _ name: String, credit: Int32 = 100, keeps: Bool = false, isGlobal: Bool = false
    ) -> OpaquePointer {
        client.receiver(
            name, from: "a", credit: credit, keeps: keeps, capabilities: isGlobal ? ["shared", "global"] : ["shared"])
    }

    /// A member with the link property `apus:weight`; nil for none.
    private func weighted(
        _ client: FieldClient, _ name: String, keeps: Bool = false, _ put: ((OpaquePointer) -> Void)?
    ) -> OpaquePointer {
        client.receiver(name, from: "a", credit: 1_000, keeps: keeps, capabilities: ["shared", "global"]) { link in
            guard let put, let data = pn_link_properties(link) else { return }
            pn_data_put_map(data)
            pn_data_enter(data)
            for (name, value) in [("other", nil), ("apus:weight", put)] as [(String, ((OpaquePointer) -> Void)?)] {
                name.withCString { _ = pn_data_put_symbol(data, pn_bytes_t(size: name.utf8.count, start: $0)) }
                if let value { value(data) } else { pn_data_put_int(data, 1) }
            }
            pn_data_exit(data)
        }
    }

    @Test func theWeightIsALinkProperty() throws {
        let node = try FieldNode(lanes: 2)
        let client = FieldClient(node, node.container(on: 1))
        let canary = weighted(client, "g|1", keeps: true) { pn_data_put_ubyte($0, 10) }
        let other = weighted(client, "g|2") { pn_data_put_long($0, 190) }
        publish(node, 1...400)
        client.pump()
        let counts = [client.texts(canary).count, client.texts(other).count]
        #expect(counts.reduce(0, +) == 400 && abs(counts[0] - 20) <= 3, "\(counts)")
        // A durable subscription keeps it; attached again with another, it has that.
        client.leave(canary, closes: false)
        let again = weighted(client, "g|1", keeps: true) { pn_data_put_ushort($0, 190) }
        publish(node, 1...400)
        client.pump()
        #expect(abs(client.texts(again).count - 200) <= 4)
    }

    @Test func aWeightThatIsNoneIsRefused() throws {
        let node = try FieldNode()
        let client = FieldClient(node, "c")
        for put: (OpaquePointer) -> Void in [
            { pn_data_put_uint($0, 1_001) }, { pn_data_put_int($0, -1) }, { pn_data_put_double($0, 5) },
            { pn_data_put_null($0) }, { pn_data_put_ulong($0, .max) },
        ] {
            let link = weighted(client, "g|1", put)
            let condition = pn_link_remote_condition(link)
            #expect(pn_condition_get_name(condition).map { String(cString: $0) } == "amqp:invalid-field")
            client.leave(link, closes: true)
        }
        #expect(node.router.subscriptionCount == 0)
    }

    private func publish(_ node: FieldNode, _ range: ClosedRange<Int>) {
        let publisher = FieldClient(node, "publisher")
        publisher.send(range.map { "\($0)" }, on: publisher.sender(to: "a"))
        publisher.pump()
        publisher.cut()
    }

    @Test func membersShare() throws {
        let node = try FieldNode(lanes: 2)
        let client = FieldClient(node, node.container(on: 1))
        let (one, two) = (member(client, "g|1"), member(client, "g|2"))
        let alone = client.receiver("alone", from: "a", credit: 100)
        publish(node, 1...20)
        client.pump()
        #expect(Set(client.texts(one) + client.texts(two)).count == 20)
        #expect(client.texts(one).count == 10)
        #expect(client.texts(alone).count == 20)
    }

    /// Groups of two containers are two, unless they are global.
    @Test(arguments: [false, true]) func global(isGlobal: Bool) throws {
        let node = try FieldNode(lanes: 2)
        let clients = [0, 1].map { FieldClient(node, node.container(on: $0)) }
        let links = clients.map { member($0, "g", isGlobal: isGlobal) }
        publish(node, 1...20)
        for client in clients { client.pump() }
        let counts = zip(clients, links).map { $0.texts($1).count }
        #expect(counts == (isGlobal ? [10, 10] : [20, 20]))
    }

    /// What a member has not settled goes to another one, whether or not it may come back itself.
    @Test(arguments: [false, true], [false, true]) func memberLeaves(keeps: Bool, isCut: Bool) throws {
        let node = try FieldNode()
        let (first, second) = (FieldClient(node, "one"), FieldClient(node, "two"))
        let leaving = member(first, "g", credit: 3, keeps: keeps, isGlobal: true)
        let staying = member(second, "g", keeps: keeps, isGlobal: true)
        publish(node, 1...12)
        for client in [first, second] { client.pump() }
        #expect(first.texts(leaving).count == 3)
        first.proton.settle(first.received(leaving)[0].delivery, accepted)
        first.pump()
        if isCut { first.cut() } else { first.leave(leaving, closes: false) }
        node.settle()
        second.pump()
        #expect(second.texts(staying).count == 6 + 5)
        #expect(node.waiting == 0)
        publish(node, 13...14)
        second.pump()
        #expect(second.texts(staying).count == 13, "those who are away are left out")
    }

    /// What a full member cannot take goes to another one when it leaves, and who waited for it goes on.
    @Test func fullMemberLeaves() throws {
        let node = try FieldNode(limits: Self.small)
        let (first, second) = (FieldClient(node, "one"), FieldClient(node, "two"))
        let leaving = member(first, "g", credit: 0, keeps: true, isGlobal: true)
        let publisher = FieldClient(node, "publisher")
        let sent = publisher.send((1...18).map { "\($0)" }, on: publisher.sender(to: "a"))
        publisher.pump()
        #expect(settled(sent) < 18)
        let staying = member(second, "g", keeps: true, isGlobal: true)
        first.leave(leaving, closes: false)
        for _ in 0..<3 {
            publisher.pump()
            second.pump()
        }
        #expect(settled(sent) == 18)
        #expect(Set(second.texts(staying)).count == 18)
    }

    @Test func nobodyOfADurableGroupIsThere() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        client.leave(member(client, "g|1", keeps: true), closes: false)
        publish(node, 1...5)
        #expect(node.waiting == 5)
        #expect(client.texts(member(client, "g|1", keeps: true)) == (1...5).map { "\($0)" })
    }
}
