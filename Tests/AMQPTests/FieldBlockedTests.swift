import CProton
import Core
import Testing

@testable import AMQP

/// Links that have something to send and cannot, because the session's window is shut or the connection's output is
/// full: what they hold meanwhile, and what becomes of it when they go.
@Suite struct FieldBlockedTests {
    private static let frameBytes = 32_768

    /// A client whose session takes two frames until it has read them.
    private func narrow(_ node: FieldNode, _ container: String) -> (client: FieldClient, session: OpaquePointer) {
        let client = FieldClient(node, container, opens: false)
        client.proton.open()
        let session = pn_session(client.proton.connection)!
        pn_transport_set_max_frame(client.proton.transport, UInt32(Self.frameBytes))
        pn_session_set_incoming_capacity(session, 2 * Self.frameBytes)
        pn_session_open(session)
        client.pump()
        return (client, session)
    }

    private static func large(_ number: Int, _ count: Int = 1_000) -> String {
        "\(number) \(String(repeating: "x", count: count))"
    }

    /// Answers of `$cbs` wait, and no more of them than its node keeps.
    @Test func claims() throws {
        let node = try FieldNode()
        let (client, session) = narrow(node, "c")
        let receiver = client.proton.receiver(session, "from", from: "$cbs")
        let sender = client.proton.sender(session, "to", to: "$cbs")
        client.proton.grant(receiver, 10_000)
        client.pump()
        // A message-id that the answer repeats, and no body.
        let id = [UInt8](repeating: 1, count: 20_000)
        var claim: [UInt8] = [0x00, 0x53, 0x73, 0xD0]
        claim += withUnsafeBytes(of: UInt32(id.count + 9).bigEndian) { Array($0) } + [0, 0, 0, 1, 0xB0]
        claim += withUnsafeBytes(of: UInt32(id.count).bigEndian) { Array($0) } + id + [0x00, 0x53, 0x77, 0x40]
        for _ in 0..<200 {
            client.proton.send(claim, on: sender, isSettled: true)
            // The client reads nothing meanwhile.
            node.receive(client.connection, client.proton.bytes())
        }
        #expect(client.closing == nil)
        #expect((client.connection.amqp?.engine?.bufferedBytes ?? .max) < 200_000)
        client.pump()
        #expect((3...200).contains(client.received(receiver).count))
    }

    /// What a link had not sent when it was closed holds nobody else back once the window is open again.
    @Test(arguments: [false, true]) func closedWhileTheWindowIsShut(isSettled: Bool) throws {
        let node = try FieldNode()
        let (client, session) = narrow(node, "c")
        let publisher = FieldClient(node, "s")
        let first = client.proton.receiver(session, "first", from: "a")
        let second = client.proton.receiver(session, "second", from: "b")
        client.proton.grant(first, 10_000)
        client.proton.grant(second, 10)
        client.pump()
        let sender = publisher.sender(to: "a")
        for number in 0..<300 {
            publisher.send([Self.large(number)], on: sender, isSettled: isSettled)
            publisher.pump()
        }
        #expect(node.waiting > 100)
        pn_link_close(first)
        node.receive(client.connection, client.proton.bytes())
        // flow: 2 is the next transfer, and 1,000 may come. By hand: Proton would do it on the link that is closed.
        let window: [UInt8] = [0x52, 2, 0x70, 0, 0, 3, 0xE8, 0x43, 0x70, 0, 0, 3, 0xE8]
        node.receive(
            client.connection,
            [0, 0, 0, UInt8(14 + window.count), 2, 0, 0, 0, 0, 0x53, 0x13, 0xC0, UInt8(window.count + 1), 4] + window)
        publisher.send(["x"], on: publisher.sender("other", to: "b"), isSettled: isSettled)
        publisher.pump()
        // The client's own engine does not know that it has opened the window.
        #expect(client.connection.link.takeSent().suffix(6) == FieldClient.message("x")[...])
        #expect(node.waiting == 0)
    }

    /// A link that goes while it waits for room is not asked again: the engine has forgotten it.
    @Test func closedWhileTheOutputIsFull() throws {
        var limits = Limits()
        limits.maxOutputBytes = 20_000
        let node = try FieldNode(limits: limits)
        let (client, publisher) = (FieldClient(node, "c"), FieldClient(node, "s"))
        let receiver = client.receiver(from: "a")
        publisher.send((0..<20).map { Self.large($0, 30_000) }, on: publisher.sender(to: "a"))
        publisher.pump()
        let outgoing = try #require(client.connection.amqp?.outgoingLinks.values.first)
        client.connection.link.isStalled = true
        client.proton.drain(receiver, 1_000)
        let flow = client.proton.bytes()
        pn_link_close(receiver)
        node.receive(client.connection, flow + client.proton.bytes())
        #expect(client.connection.link.isCongested)
        #expect(client.connection.amqp?.outgoingLinks.isEmpty == true)
        #expect(outgoing.credit == 0)
        client.proton.take(node.goOnReading(client.connection))
        client.pump()
        #expect(client.closing == nil)
    }

    /// Publishers hear that there is room as soon as there is, not when something else happens.
    @Test(arguments: [1, 2]) func heldPublishersGoOn(lanes: Int) throws {
        var limits = Limits()
        limits.maxQueuedEvents = 10
        limits.amqpCredit = 8
        limits.maxOutputBytes = 5_000
        let node = try FieldNode(lanes: lanes, limits: limits)
        let container = node.container(on: lanes - 1, "r")
        let reader = FieldClient(node, container)
        let receiver = reader.receiver("sub", from: "a", keeps: true) {
            pn_link_set_snd_settle_mode($0, PN_SND_SETTLED)
        }
        let publisher = FieldClient(node, node.container(on: 0, "s"))
        // Nothing retained is waited for.
        reader.proton.grant(receiver, 1)
        reader.pump()
        let sent = publisher.send((0..<17).map { Self.large($0, 30_000) }, on: publisher.sender(to: "a"))
        publisher.pump()
        reader.pump()
        reader.connection.link.isStalled = true
        reader.proton.grant(receiver, 1_000)
        node.receive(reader.connection, reader.proton.bytes())
        node.settle()
        #expect(reader.connection.link.isCongested)
        let before = publisher.connection.amqp?.unsettled.count ?? 0
        #expect(before > 0)
        _ = node.goOnReading(reader.connection)
        node.settle()
        #expect(publisher.connection.amqp?.unsettled.isEmpty == true)
        publisher.pump()
        #expect(sent.allSatisfy { FieldClient.outcome($0) == accepted })
    }

    /// A client need not wait for the answer to its detach before it uses a name again.
    @Test(arguments: [false, true], [false, true]) func nameUsedAgainAtOnce(closes: Bool, keeps: Bool) throws {
        let node = try FieldNode()
        let (client, publisher) = (FieldClient(node, "c"), FieldClient(node, "s"))
        let first = client.receiver("r", from: "a", credit: 10, keeps: keeps)
        if closes { pn_link_close(first) } else { pn_link_detach(first) }
        pn_link_free(first)
        let bytes = client.proton.bytes()
        let second = client.proton.receiver(client.session, "r", from: "a") {
            if keeps { pn_terminus_set_expiry_policy(pn_link_source($0), PN_EXPIRE_NEVER) }
        }
        client.proton.grant(second, 10)
        node.receive(client.connection, bytes + client.proton.bytes())
        client.hear()
        client.pump()
        #expect(client.closing == nil)
        #expect(pn_link_state(second) & PN_REMOTE_ACTIVE != 0)
        publisher.send(["x"], on: publisher.sender(to: "a"))
        publisher.pump()
        client.pump()
        #expect(client.texts(second) == ["x"])
    }

    // MARK: How many, and who may

    /// Sessions share what a connection may have.
    @Test func linksOfAConnection() throws {
        var limits = Limits()
        limits.maxAMQPLinks = 2
        let node = try FieldNode(limits: limits)
        let client = FieldClient(node)
        for number in 0..<8 {
            let session = client.proton.session()
            // What was refused counts until it is detached.
            let refused = client.proton.sender(session, "s\(number)", to: "queue://q")
            _ = client.proton.receiver(session, "r\(number)", from: "a")
            client.pump()
            #expect(client.closing == nil)
            guard number == 0 else { continue }
            client.leave(refused, closes: true)
            _ = client.proton.sender(session, "again", to: "a")
            client.pump()
        }
        _ = client.sender(to: "a")
        #expect(client.closing == .overLimit)
        let condition = ProtonClient.condition(pn_connection_remote_condition(client.proton.connection))
        #expect(condition?.name == "amqp:resource-limit-exceeded")
        #expect(node.router.subscriptionCount == 0)
    }

    @Test func refusedSubscriptionsAreCountedOnce() throws {
        let node = try FieldNode(rules: [AccessRule(effect: .allow, action: .subscribe, topics: ["in/a"])])
        let client = FieldClient(node)
        #expect(client.condition(client.receiver("1", from: "in/#")) == "amqp:unauthorized-access")
        #expect(node.counters.subscriptionsRefused == 1)
        #expect(client.condition(client.receiver("2", from: "queue://q")) == "amqp:not-implemented")
        #expect(node.counters.subscriptionsRefused == 2)
    }

    /// Who attaches to a durable subscription again asks for its events anew.
    @Test func rulesThatHaveChanged() throws {
        let node = try FieldNode(rules: [AccessRule(effect: .allow, action: .all, topics: ["a"])])
        let first = FieldClient(node)
        first.leave(first.receiver("sub", from: "a", keeps: true), closes: false)
        node.router.reload(try AccessRules([AccessRule(effect: .allow, action: .publish, topics: ["a"])]))
        let again = first.receiver("sub", from: "a", keeps: true)
        #expect(first.condition(again) == "amqp:unauthorized-access")
        #expect(node.counters.subscriptionsRefused == 1)
        #expect(node.router.subscriptionCount == 0, "what is not allowed any more ends")
    }
}
