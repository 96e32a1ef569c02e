import CProton
import Core
import Testing

@testable import AMQP

/// Outcomes, and subscriptions that outlive their links.
@Suite struct FieldDurableTests {
    /// Publishes and waits until everybody has been told.
    private func publish(_ node: FieldNode, _ texts: [String], to topic: String = "a") {
        let client = FieldClient(node, "publisher")
        client.send(texts, on: client.sender(to: topic))
        client.pump()
        client.cut()
    }

    // MARK: Outcomes

    @Test func outcomesOfADurableSubscription() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let receiver = client.receiver(from: "a", credit: 6, keeps: true)
        publish(node, ["accepted", "rejected", "released", "failed", "not here", "settled"])
        client.pump()
        let got = client.received(receiver)
        #expect(got.count == 6)
        client.proton.settle(got[0].delivery, accepted)
        client.proton.settle(got[1].delivery, rejected)
        client.proton.settle(got[2].delivery, released)
        pn_disposition_set_failed(pn_delivery_local(got[3].delivery), true)
        client.proton.settle(got[3].delivery, modified)
        pn_disposition_set_undeliverable(pn_delivery_local(got[4].delivery), true)
        client.proton.settle(got[4].delivery, modified)
        client.proton.settle(got[5].delivery, nil)
        client.pump()
        client.proton.grant(receiver, 10)
        client.pump()
        let again = client.received(receiver).dropFirst(6)
        // Settled without a word is as the default outcome (§3.5.3).
        #expect(again.map { FieldClient.text($0.bytes) } == ["released", "failed", "settled"])
        #expect(again.map { client.deliveryCount($0) } == [0, 1, 0])
        #expect(node.dropped(.rejected) == 2)
        #expect(node.dropped(.released) == 0)
    }

    @Test func outcomesOfAnother() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let receiver = client.receiver(from: "a", credit: 10)
        publish(node, ["1", "2", "3", "4"])
        client.pump()
        let got = client.received(receiver)
        for (delivery, outcome) in zip(got, [accepted, rejected, released, modified]) {
            client.proton.settle(delivery.delivery, outcome)
        }
        client.pump()
        #expect(client.received(receiver).count == 4)
        #expect(node.dropped(.rejected) == 1)
        #expect(node.dropped(.released) == 2)
    }

    /// Whatever the order in which events come back, they go out in the one in which they were first sent.
    @Test func orderOfWhatComesBack() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let receiver = client.receiver(from: "a", credit: 8, keeps: true)
        publish(node, (1...10).map { "\($0)" })
        client.pump()
        for place in [5, 2, 7, 0, 3] { client.proton.settle(client.received(receiver)[place].delivery, released) }
        client.pump()
        #expect(client.received(receiver).count == 8, "there is no credit")
        client.proton.grant(receiver, 10)
        client.pump()
        #expect(client.texts(receiver).dropFirst(8) == ["1", "3", "4", "6", "8", "9", "10"])
    }

    // MARK: Going and coming back

    @Test(arguments: [false, true]) func waitsForItsReceiver(isCut: Bool) throws {
        let node = try FieldNode(lanes: 2)
        let container = node.container(on: 1)
        let first = FieldClient(node, container)
        let receiver = first.receiver("sub", from: "a", credit: 2, keeps: true)
        publish(node, ["1", "2", "3"])
        first.pump()
        first.proton.settle(first.received(receiver)[0].delivery, accepted)
        first.pump()
        if isCut { first.cut() } else { first.leave(receiver, closes: false) }
        publish(node, ["4"])
        #expect(node.waiting == 2)
        let second = FieldClient(node, container)
        let again = second.receiver("sub", from: "a", credit: 10, keeps: true)
        #expect(second.texts(again) == ["2", "3", "4"])
        #expect(second.received(again).map { second.deliveryCount($0) } == [1, 0, 0])
        #expect(node.router.subscriptionCount == 1)
    }

    @Test func closeEndsIt() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let receiver = client.receiver("sub", from: "a", keeps: true)
        publish(node, ["1"])
        client.leave(receiver, closes: true)
        #expect(node.router.subscriptionCount == 0)
        #expect(node.router.sessionCount == 1)
        #expect(node.waiting == 0)
    }

    @Test func expires() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        _ = client.receiver("sub", from: "a", keeps: true, seconds: 10)
        client.cut()
        publish(node, ["1"])
        node.advance(milliseconds: 9_999)
        #expect(node.router.subscriptionCount == 1)
        node.advance(milliseconds: 1)
        #expect(node.router.subscriptionCount == 0)
        #expect(node.router.sessionCount == 0)
        #expect(node.waiting == 0)
        #expect(node.counters.sessionsExpired == 1)
    }

    @Test func comingBackStopsTheClock() throws {
        let node = try FieldNode()
        let client = FieldClient(node) { transport, _ in pn_transport_set_idle_timeout(transport, 0) }
        _ = client.receiver("sub", from: "a", keeps: true, seconds: 10)
        client.cut()
        node.advance(milliseconds: 9_000)
        let again = FieldClient(node)
        _ = again.receiver("sub", from: "a", keeps: true, seconds: 10)
        node.advance(milliseconds: 9_000)
        #expect(node.router.subscriptionCount == 1)
    }

    /// A client asks for what a name stands for, and ends it.
    @Test func sourceOfNull() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let none = client.receiver("sub", from: nil) { pn_terminus_set_type(pn_link_source($0), PN_UNSPECIFIED) }
        #expect(client.condition(none) == "amqp:not-found")
        client.leave(none, closes: true)
        client.leave(client.receiver("sub", from: "a/b", keeps: true), closes: false)
        let known = client.receiver("sub", from: nil) { pn_terminus_set_type(pn_link_source($0), PN_UNSPECIFIED) }
        #expect(pn_terminus_get_address(pn_link_remote_source(known)).map { String(cString: $0) } == "a/b")
        client.leave(known, closes: true)
        #expect(node.router.subscriptionCount == 0)
    }

    @Test func anotherTopicUnderTheName() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        client.leave(client.receiver("sub", from: "a", keeps: true), closes: false)
        publish(node, ["1"])
        let receiver = client.receiver("sub", from: "b", credit: 10, keeps: true)
        publish(node, ["2"])
        publish(node, ["3"], to: "b")
        client.pump()
        #expect(client.texts(receiver) == ["3"])
        #expect(node.router.subscriptionCount == 1)
        #expect(node.waiting == 0)
    }

    @Test func anotherUser() throws {
        let node = try FieldNode()
        let one = FieldClient(node, user: "one")
        one.leave(one.receiver("sub", from: "a", keeps: true), closes: false)
        publish(node, ["1"])
        let two = FieldClient(node, user: "two")
        let refused = two.receiver("sub", from: "a", credit: 10, keeps: true)
        #expect(two.condition(refused) == "amqp:resource-locked")
        two.leave(refused, closes: true)
        let found = two.receiver("sub", from: nil) { pn_terminus_set_type(pn_link_source($0), PN_UNSPECIFIED) }
        #expect(two.condition(found) == "amqp:not-found")
        #expect(one.texts(one.receiver("sub", from: "a", credit: 10, keeps: true)) == ["1"])
    }

    /// Nobody can occupy the names of links that leave nothing behind.
    @Test func linksOfAnotherUser() throws {
        let node = try FieldNode()
        let (one, two) = (FieldClient(node, user: "one"), FieldClient(node, user: "two"))
        let links = [one, two].map { $0.receiver("sub", from: "a", credit: 10) }
        // Nor does a durable one keep its name from them, and they do not keep it from a durable one.
        let kept = one.receiver("kept", from: "a", credit: 10, keeps: true)
        let beside = two.receiver("kept", from: "a", credit: 10)
        let three = FieldClient(node, user: "three")
        let later = three.receiver("sub", from: "b", keeps: true)
        publish(node, ["1"])
        for client in [one, two] { client.pump() }
        #expect([one.texts(links[0]), two.texts(links[1])] == [["1"], ["1"]])
        #expect([one.texts(kept), two.texts(beside)] == [["1"], ["1"]])
        #expect(three.condition(later) == nil && pn_link_state(later) & PN_REMOTE_CLOSED == 0)
        // The same user's are one name, durable or not.
        let again = FieldClient(node, user: "two")
        let stolen = again.receiver("sub", from: "a", credit: 10)
        two.pump()
        #expect(two.condition(links[1]) == "amqp:link:stolen" && one.condition(links[0]) == nil)
        let instead = FieldClient(node, user: "one")
        let replaced = instead.receiver("kept", from: "b", credit: 10)
        one.pump()
        #expect(one.condition(kept) == "amqp:link:stolen" && two.condition(beside) == nil)
        publish(node, ["2"])
        for client in [one, two, again, instead] { client.pump() }
        #expect(one.texts(links[0]) == ["1", "2"] && again.texts(stolen) == ["2"] && two.texts(beside) == ["1", "2"])
        #expect(instead.texts(replaced).isEmpty)
        for client in [one, two, again, instead] { client.cut() }
        #expect(node.router.subscriptionCount == 1)
    }

    /// Two names that read the same are two subscriptions.
    @Test func namesThatReadTheSame() throws {
        let node = try FieldNode()
        let (one, two) = (FieldClient(node, "c/d"), FieldClient(node, "c"))
        let (first, second) = (
            one.receiver("e", from: "a", credit: 1, keeps: true), two.receiver("d/e", from: "a", credit: 1, keeps: true)
        )
        publish(node, ["1"])
        for client in [one, two] { client.pump() }
        #expect(one.texts(first) == ["1"])
        #expect(two.texts(second) == ["1"])
        #expect(node.router.sessionCount == 4)
    }

    // MARK: Stealing

    @Test(arguments: [false, true]) func anotherConnectionTakesTheLink(keeps: Bool) throws {
        let node = try FieldNode(lanes: 2)
        let container = node.container(on: 1)
        let (old, new) = (FieldClient(node, container), FieldClient(node, container))
        let stolen = old.receiver("sub", from: "a", credit: 3, keeps: keeps)
        publish(node, ["1", "2", "3", "4"])
        old.pump()
        old.proton.settle(old.received(stolen)[1].delivery, accepted)
        old.pump()
        let receiver = new.receiver("sub", from: "a", credit: 10, keeps: keeps)
        old.pump()
        #expect(old.condition(stolen) == "amqp:link:stolen")
        #expect(new.texts(receiver) == (keeps ? ["1", "3", "4"] : []))
        // What is said of the old link's deliveries comes too late.
        old.proton.settle(old.received(stolen)[0].delivery, released)
        old.leave(stolen, closes: true)
        publish(node, ["5"])
        new.pump()
        #expect(new.texts(receiver).last == "5")
        #expect(node.router.subscriptionCount == 1)
        old.cut()
        #expect(node.router.subscriptionCount == 1)
    }

    @Test func anotherSessionTakesTheLink() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let stolen = client.receiver("sub", from: "a", credit: 10, keeps: true)
        let session = client.proton.session()
        let receiver = client.proton.receiver(session, "sub", from: "a") { link in
            pn_terminus_set_durability(pn_link_source(link), PN_DELIVERIES)
            pn_terminus_set_expiry_policy(pn_link_source(link), PN_EXPIRE_NEVER)
        }
        client.proton.grant(receiver, 10)
        client.pump()
        #expect(client.condition(stolen) == "amqp:link:stolen")
        publish(node, ["1"])
        client.pump()
        #expect(client.texts(receiver) == ["1"])
        #expect(client.texts(stolen).isEmpty)
    }

    // MARK: Sessions

    @Test func aSessionEndsWithItsLinks() throws {
        let node = try FieldNode(lanes: 2)
        let client = FieldClient(node, node.container(on: 0))
        let far = FieldClient(node, node.container(on: 1, "far"))
        _ = far.receiver(from: "a", credit: 100)
        _ = client.receiver("kept", from: "a", credit: 5, keeps: true)
        _ = client.receiver("gone", from: "a", credit: 5)
        let sender = client.sender(to: "a")
        client.send(["1", "2"], on: sender)
        client.step()
        #expect(client.connection.amqp?.unsettled.isEmpty == false)
        pn_session_close(client.session)
        client.step()
        #expect(client.connection.amqp?.incomingLinks.isEmpty == true)
        #expect(client.connection.amqp?.outgoingLinks.isEmpty == true)
        // The receipts of the other lane find nobody.
        node.settle()
        client.pump()
        #expect(client.connection.amqp?.unsettled.isEmpty == true)
        #expect(client.closing == nil)
        #expect(node.router.subscriptionCount == 2)
        let session = client.proton.session()
        let again = client.proton.sender(session, "s", to: "a")
        client.pump()
        let delivery = client.send(["3"], on: again)[0]
        client.pump()
        #expect(FieldClient.outcome(delivery) == accepted)
    }

    /// A session that this end ends in the same read in which messages came on it: receipts come when the engine has
    /// forgotten them.
    @Test func aSessionIsEndedWithMessagesUnderWay() throws {
        let node = try FieldNode(lanes: 2)
        let client = FieldClient(node, node.container(on: 0))
        let far = FieldClient(node, node.container(on: 1, "far"))
        let receiver = far.receiver(from: "a", credit: 100)
        let sender = client.sender(to: "a")
        client.send(["1", "2"], on: sender)
        // A flow for a handle that is attached to nothing.
        let fields: [UInt8] = [0x43, 0x52, 10, 0x43, 0x52, 10, 0x52, 77, 0x43, 0x52, 1]
        let flow = [0, 0, 0, 25, 2, 0, 0, 0, 0, 0x53, 0x13, 0xC0, 12, 7] + fields
        node.receive(client.connection, client.proton.bytes() + flow)
        client.hear()
        #expect(pn_session_state(client.session) & PN_REMOTE_CLOSED != 0)
        pn_session_close(client.session)
        client.step()
        node.settle()
        client.pump()
        far.pump()
        #expect(far.texts(receiver) == ["1", "2"])
        #expect(client.closing == nil)
    }
}
