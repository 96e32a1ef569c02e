import CProton
import Core
import Testing

@testable import AMQP

/// Connections: how they begin, move, are held back, and end.
@Suite struct FieldLifeTests {
    // MARK: Beginning

    /// A client that pipelines: what stands behind open is taken on the container's lane.
    @Test(arguments: [0, 1], [0, 1]) func movesToItsContainersLane(from: Int, to: Int) throws {
        let node = try FieldNode(lanes: 2)
        let client = FieldClient(node, node.container(on: to), lane: from, opens: false)
        client.proton.open()
        let session = client.proton.session()
        let receiver = client.proton.receiver(session, "r", from: "a")
        client.proton.grant(receiver, 10)
        let sender = client.proton.sender(session, "s", to: "a")
        client.pump()
        #expect(client.connection.lane.number == to)
        client.send(["1", "2"], on: sender)
        client.pump()
        #expect(client.texts(receiver) == ["1", "2"])
        #expect(client.closing == nil)
    }

    @Test func slowToBegin() throws {
        let node = try FieldNode()
        let silent = node.accept()
        let halfway = FieldClient(node, opens: false)
        halfway.pump()
        node.advance(milliseconds: 4_999)
        #expect(silent.closing == nil && halfway.closing == nil)
        node.advance(milliseconds: 1)
        #expect(silent.closing == .connectTimeout)
        #expect(halfway.closing == .connectTimeout)
    }

    @Test func severalConnectionsOfAContainer() throws {
        let node = try FieldNode(lanes: 2)
        let clients = (0..<5).map { FieldClient(node, "same", lane: $0 % 2) }
        #expect(node.router.sessionCount == 5)
        #expect(Set(clients.map(\.connection.lane.number)).count == 1)
        for client in clients { client.cut() }
        #expect(node.router.sessionCount == 0)
    }

    // MARK: Idle

    @Test func silentClientIsGivenUp() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        node.advance(milliseconds: 59_000)
        #expect(client.closing == nil)
        // The engine looks once in that time whether anything has come.
        for _ in 0..<7 { node.advance(milliseconds: 10_000) }
        #expect(client.closing == .keepAliveTimeout)
        client.hear()
        let condition = ProtonClient.condition(pn_connection_remote_condition(client.proton.connection))
        #expect(condition?.name == "amqp:resource-limit-exceeded")
    }

    /// The node speaks as often as the client wants, and the client as often as the node does.
    @Test func bothStayAlive() throws {
        let node = try FieldNode()
        let client = FieldClient(node) { transport, _ in pn_transport_set_idle_timeout(transport, 10_000) }
        for _ in 0..<200 {
            node.advance(milliseconds: 1_000)
            _ = pn_transport_tick(client.proton.transport, Int64(node.now))
            client.pump()
        }
        #expect(client.closing == nil)
        #expect(ProtonClient.condition(pn_transport_condition(client.proton.transport)) == nil)
    }

    /// A connection that waits for its turn while its time comes.
    @Test func tickBetweenTurns() throws {
        let node = try FieldNode()
        let (client, other) = (FieldClient(node, "one"), FieldClient(node, "two"))
        let receiver = other.receiver(from: "#", credit: 1_000)
        let senders = (0..<20).map { client.sender("s\($0)", to: "t/\($0)") }
        node.lanes[0].yieldsAlways = true
        for sender in senders { client.send(["x"], on: sender) }
        node.receive(client.connection, client.proton.bytes())
        #expect(client.connection.isPaused, "it lets others go first")
        _ = client.connection.conversation?.tick(on: node.lanes[0])
        #expect(node.lanes[0].turn.isEmpty, "nobody's turn is filled from outside")
        node.settle()
        client.pump()
        other.pump()
        #expect(other.texts(receiver).count == 20)
    }

    // MARK: Slow readers

    @Test(arguments: [false, true]) func congestion(isSettled: Bool) throws {
        var limits = Limits()
        limits.maxOutputBytes = 50_000
        limits.maxQueuedEvents = 300
        let node = try FieldNode(limits: limits)
        let (reader, publisher) = (FieldClient(node, "r"), FieldClient(node, "s"))
        let receiver = reader.receiver(from: "a", credit: 10_000)
        reader.connection.link.isStalled = true
        let sender = publisher.sender(to: "a")
        let texts = (0..<400).map { "\($0) \(String(repeating: "x", count: 1_000))" }
        for text in texts {
            publisher.send([text], on: sender, isSettled: isSettled)
            publisher.pump()
        }
        #expect(reader.connection.link.isCongested)
        #expect(reader.connection.link.collected.count < 200_000)
        #expect((reader.connection.amqp?.engine?.bufferedBytes ?? .max) < 100_000)
        #expect((200...300).contains(node.waiting))
        reader.proton.take(node.goOnReading(reader.connection))
        reader.pump()
        #expect(node.waiting == 0)
        let got = reader.texts(receiver)
        #expect(got == Array(texts.prefix(got.count)))
        #expect(got.count + node.dropped(.queueFull) == 400)
    }

    /// Credit without a session window: what the peer's window does not let go must not collect in the engine.
    @Test(arguments: [false, true]) func sessionWindowOfTwo(drains: Bool) throws {
        let node = try FieldNode()
        let (reader, publisher) = (FieldClient(node, "r", opens: false), FieldClient(node, "s"))
        reader.proton.open()
        let session = pn_session(reader.proton.connection)
        // Two frames.
        pn_session_set_incoming_capacity(session, 2 * 32_768)
        pn_transport_set_max_frame(reader.proton.transport, 32_768)
        pn_session_open(session)
        let receiver = try reader.proton.receiver(#require(session), "r", from: "a")
        if !drains { reader.proton.grant(receiver, 10_000) }
        reader.pump()
        let sender = publisher.sender(to: "a")
        let texts = (0..<500).map { "\($0) \(String(repeating: "x", count: 1_000))" }
        // The reader takes nothing meanwhile.
        for text in texts {
            publisher.send([text], on: sender, isSettled: true)
            publisher.pump()
        }
        #expect((reader.connection.amqp?.engine?.bufferedBytes ?? .max) < 80_000)
        #expect(node.waiting > 400)
        if drains { reader.proton.drain(receiver, 10_000) }
        reader.pump()
        if drains { #expect(!pn_link_draining(receiver), "what is left was given up when all had been sent") }
        #expect(reader.texts(receiver) == texts)
    }

    /// Answers of `$cbs` wait as messages do.
    @Test func claimsWithoutRoom() throws {
        let node = try FieldNode()
        let client = FieldClient(node, opens: false)
        client.proton.open()
        let session = pn_session(client.proton.connection)
        pn_session_set_incoming_capacity(session, 2 * 512)
        pn_transport_set_max_frame(client.proton.transport, 512)
        pn_session_open(session)
        let replies = try client.proton.receiver(#require(session), "replies", from: "$cbs")
        client.proton.grant(replies, 10_000)
        let requests = try client.proton.sender(#require(session), "requests", to: "$cbs")
        client.pump()
        for _ in 0..<10 {
            let links = (0..<10).map { client.proton.receiver(session!, "more\($0)", from: "$cbs") }
            client.pump()
            #expect(links.filter { client.condition($0) == nil }.count == 3)
            for link in links { pn_link_close(link) }
            client.pump()
            for link in links { pn_link_free(link) }
        }
        for _ in 0..<40 {
            client.send(["token"], on: requests)
            client.pump()
        }
        #expect(client.received(replies).count == 40)
        #expect(client.connection.amqp?.claimsLinks.count == 1)
    }

    // MARK: The end

    @Test func kickedByManagement() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        _ = client.receiver("sub", from: "a", keeps: true)
        let inbox = try #require(node.inbox("amqp:c"))
        #expect(!inbox.setTrace(true, on: node.lanes[0]), "there is no log of frames")
        inbox.kick(endsSession: false, on: node.lanes[0])
        node.settle()
        client.hear()
        #expect(client.closing == .administrative)
        let condition = ProtonClient.condition(pn_connection_remote_condition(client.proton.connection))
        #expect(condition?.name == "amqp:connection:forced")
        #expect(node.router.subscriptionCount == 1, "what is durable stays")
        #expect(node.router.sessionCount == 1)
    }

    @Test func theNodeStops() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let receiver = client.receiver(from: "a", credit: 10)
        let sender = client.sender(to: "a")
        client.send(["last"], on: sender)
        client.step()
        node.stop(client.connection)
        client.hear()
        #expect(client.texts(receiver) == ["last"])
        let condition = ProtonClient.condition(pn_connection_remote_condition(client.proton.connection))
        #expect(condition?.name == "amqp:connection:forced")
        #expect(node.router.subscriptionCount == 0)
    }

    @Test func clientCloses() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        _ = client.receiver(from: "a", credit: 10)
        client.proton.close()
        client.pump()
        #expect(client.closing == .clientDisconnected)
        #expect(pn_connection_state(client.proton.connection) & PN_REMOTE_CLOSED != 0)
        #expect(node.router.sessionCount == 0)
    }

    /// Receipts that come when the connection has gone find nobody, and nobody else either.
    @Test func cutWhileReceiptsArePending() throws {
        let node = try FieldNode(lanes: 2)
        let far = FieldClient(node, node.container(on: 1, "far"))
        let receiver = far.receiver(from: "a", credit: 100)
        let client = FieldClient(node, node.container(on: 0))
        client.send(["1"], on: client.sender(to: "a"))
        client.step()
        node.cut(client.connection)
        let next = FieldClient(node, node.container(on: 0, "next"))
        let delivery = next.send(["2"], on: next.sender(to: "a"))[0]
        next.pump()
        far.pump()
        #expect(far.texts(receiver) == ["1", "2"])
        #expect(FieldClient.outcome(delivery) == accepted)
        #expect(next.connection.amqp?.unsettled.isEmpty == true)
    }

    // MARK: Nothing stays

    /// What a connection has made goes with it, however it ends.
    @Test(arguments: ["cut", "close", "end", "kick"]) func everythingIsFreed(how: String) throws {
        let node = try FieldNode(
            lanes: 2,
            limits: {
                var limits = Limits(); limits.maxQueuedEvents = 3; return limits
            }())
        weak var conversation: AMQPConversation?
        weak var engine: Engine?
        weak var port: ConnectionPort?
        var links: [() -> LinkEnd?] = []
        var subscribers: [() -> Subscriber?] = []
        try {
            let client = FieldClient(node, node.container(on: 0))
            let far = FieldClient(node, node.container(on: 1, "far"))
            far.leave(far.receiver("sub", from: "#", keeps: true), closes: false)
            _ = client.receiver("r1", from: "a/#", credit: 3)
            _ = client.receiver("r2", from: "a/b", credit: 3, keeps: true, seconds: 10)
            let sender = client.sender(to: "a/b")
            client.send((1...20).map { "\($0)" }, on: sender)
            client.pump()
            let amqp = try #require(client.connection.amqp)
            (conversation, engine, port) = (amqp, amqp.engine, amqp.port)
            #expect(!amqp.unsettled.isEmpty)
            for link in amqp.incomingLinks.values { links.append { [weak link] in link } }
            for link in amqp.outgoingLinks.values {
                links.append { [weak link] in link }
                subscribers.append { [weak subscriber = link.subscriber] in subscriber }
            }
            #expect(links.count == 3)
            switch how {
            case "cut": client.cut()
            case "close":
                client.proton.close()
                client.pump()
            case "kick":
                node.inbox("amqp:" + amqp.label)?.kick(endsSession: true, on: node.lanes[0])
                node.settle()
            default:
                pn_session_close(client.session)
                client.pump()
                client.cut()
            }
        }()
        node.settle()
        #expect(conversation == nil)
        #expect(engine == nil)
        #expect(port == nil)
        #expect(links.allSatisfy { $0() == nil })
        node.advance(milliseconds: 10_000)
        #expect(subscribers.allSatisfy { $0() == nil })
        #expect(node.router.subscriptionCount == 1, "the one that somebody else has")
    }

    /// Many cycles of connect, attach, transfer, cut; a sanitizer sees what stays.
    @Test func athousandCycles() throws {
        let node = try FieldNode(lanes: 2)
        for cycle in 0..<1_000 {
            let client = FieldClient(node, "c\(cycle % 7)", lane: cycle % 2)
            let receiver = client.receiver(from: "a/#", credit: 5, keeps: cycle % 3 == 0, seconds: 1)
            let sender = client.sender(to: "a/b")
            client.send(["1", "2", "3"], on: sender, isSettled: cycle % 2 == 0)
            if cycle % 5 == 0 { client.proton.send([0, 0x53, 0x75], on: sender, hasMore: true) }
            client.pump()
            #expect(client.texts(receiver).count >= 3)
            if cycle % 4 == 0 { client.leave(receiver, closes: cycle % 8 == 0) }
            client.cut()
        }
        node.advance(milliseconds: 2_000)
        #expect(node.router.sessionCount == 0)
        #expect(node.router.subscriptionCount == 0)
        #expect(node.waiting == 0)
    }
}
