import CProton
import Core
import Testing

@testable import AMQP

/// Access rules at links: broader than the rule, past the rule, and rules that change.
@Suite struct AccessLinkTests {
    private static func rules(_ topics: [String], _ broad: BroadSubscriptions = .filter) throws -> AccessRules {
        try AccessRules(
            [
                AccessRule(effect: .deny, action: .retain, topics: ["in/fixed"]),
                AccessRule(effect: .allow, action: .publish, topics: ["in/#"]),
                AccessRule(effect: .allow, action: .subscribe, topics: topics),
            ], broadSubscriptions: broad)
    }

    @Test func wildcardPastTheRule() throws {
        let node = try FieldNode()
        node.router.reload(try Self.rules(["in/open/#"], .refuse))
        let client = FieldClient(node)
        #expect(client.condition(client.receiver("1", from: "in/#")) == "amqp:unauthorized-access")
        node.router.reload(try Self.rules(["in/open/#"]))
        #expect(client.condition(client.receiver("2", from: "closed/#")) == "amqp:unauthorized-access")
        let receiver = client.receiver("3", from: "in/#", credit: 10)
        #expect(client.condition(receiver) == nil)
        let sender = client.sender(to: nil)
        let (open, closed) = (client.sender("a", to: "in/open/1"), client.sender("b", to: "in/closed/1"))
        _ = client.send(["1"], on: open)
        _ = client.send(["2"], on: closed)
        client.pump()
        #expect(client.texts(receiver) == ["1"] && client.condition(sender) == nil)
        #expect(node.counters.dropped[DropReason.notReadable.rawValue] == 1)
    }

    /// A link whose subscription the new rules do not allow is detached with the reason; one that is absent ends.
    @Test func rulesThatChange() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let (gone, stays) = (client.receiver("gone", from: "in/a"), client.receiver("stays", from: "in/b", credit: 10))
        client.leave(client.receiver("durable", from: "in/c", keeps: true), closes: false)
        #expect(node.router.subscriptionCount == 3)
        node.router.reload(try Self.rules(["in/b"], .refuse))
        client.pump()
        #expect(client.condition(gone) == "amqp:unauthorized-access" && client.condition(stays) == nil)
        #expect(node.router.subscriptionCount == 1 && client.closing == nil)
        _ = client.send(["1"], on: client.sender(to: "in/b"))
        client.pump()
        #expect(client.texts(stays) == ["1"])
        #expect(client.condition(client.receiver("durable", from: nil, keeps: true)) == "amqp:not-found")
    }

    /// A dynamic source is the node's own word that its client may listen there; a reload does not take it back.
    @Test func repliesStay() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let receiver = client.receiver("reply", from: nil, credit: 10) { link in
            pn_terminus_set_dynamic(pn_link_source(link), true)
        }
        let address = try #require(pn_terminus_get_address(pn_link_remote_source(receiver)).map { String(cString: $0) })
        node.router.reload(
            try AccessRules([AccessRule(effect: .allow, action: .publish, topics: ["apus/reply/#"])]))
        client.pump()
        #expect(client.condition(receiver) == nil && node.router.subscriptionCount == 1)
        _ = client.send(["answer"], on: client.sender(to: address))
        client.pump()
        #expect(client.texts(receiver) == ["answer"])
    }

    /// What was sent and comes back is sent again only if its client may still read it.
    @Test func whatComesBack() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        client.leave(client.receiver("durable", from: "in/#", keeps: true), closes: false)
        let (open, closed) = (client.sender("a", to: "in/open/1"), client.sender("b", to: "in/closed/1"))
        _ = client.send(["1"], on: open)
        _ = client.send(["2"], on: closed)
        client.pump()
        let receiver = client.receiver("durable", from: "in/#", credit: 10, keeps: true)
        #expect(client.texts(receiver) == ["1", "2"], "neither is settled")
        client.leave(receiver, closes: false)
        node.router.reload(try Self.rules(["in/open/#"]))
        client.pump()
        let again = client.receiver("durable", from: "in/#", credit: 10, keeps: true)
        client.pump()
        #expect(client.texts(again) == ["1"])
        #expect(node.counters.dropped[DropReason.notReadable.rawValue] == 1)
    }

    /// Replies that wait for credit while rules are reloaded.
    @Test func repliesThatWait() throws {
        let node = try FieldNode()
        let client = FieldClient(node)
        let receiver = client.receiver("reply", from: nil) { link in
            pn_terminus_set_dynamic(pn_link_source(link), true)
        }
        let address = try #require(pn_terminus_get_address(pn_link_remote_source(receiver)).map { String(cString: $0) })
        _ = client.send(["answer"], on: client.sender(to: address))
        client.pump()
        node.router.reload(
            try AccessRules([AccessRule(effect: .allow, action: .publish, topics: ["apus/reply/#"])]))
        client.pump()
        pn_link_flow(receiver, 10)
        client.pump()
        #expect(client.texts(receiver) == ["answer"])
    }
}
