import Core
import TestSupport
import Testing

@testable import Mesh

/// Guaranteed events for shared groups that are published while their node is still joining: each goes to one member,
/// by weight if members have said any, as soon as the node knows of them.
@Suite struct EarlyShareTests {
    private static let count = 400

    private func publish(_ station: MeshField.Station, _ field: MeshField) {
        for number in 0..<Self.count { station.publish("t", "\(number)", qos: 1) }
        #expect(!station.node.isJoined)
        field.run(4_000)
        #expect(station.node.isJoined)
    }

    private func expectEachOnce(_ members: [Listening]) {
        #expect(members.flatMap(\.heard).sorted() == (0..<Self.count).map(String.init).sorted())
    }

    @Test func weightsCountForWhatWaited() throws {
        let field = MeshField()
        let (a, c) = (field.start("a:1", links: []), field.start("c:1", links: ["a:1"]))
        let (stable, canary) = (try a.member(weight: 95), try c.member(weight: 5))
        field.run(1_500)
        let b = field.start("b:1", links: ["a:1", "c:1"])
        publish(b, field)
        expectEachOnce([stable, canary])
        #expect(abs(canary.heard.count - Self.count / 20) <= 3, "\(canary.heard.count)")
        field.dismantle()
    }

    @Test func withoutWeightsTheyTakeTurns() throws {
        let field = MeshField()
        let (a, c) = (field.start("a:1", links: []), field.start("c:1", links: ["a:1"]))
        let members = [try a.member(weight: nil), try c.member(weight: nil)]
        field.run(1_500)
        let b = field.start("b:1", links: ["a:1", "c:1"])
        publish(b, field)
        expectEachOnce(members)
        #expect(members.allSatisfy { abs($0.heard.count - Self.count / 2) <= 1 }, "\(members.map(\.heard.count))")
        field.dismantle()
    }

    /// A member at the publisher's node has had everything when weights of others become known.
    @Test func whatAMemberHereHasHadGoesToNobodyElse() throws {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let other = try a.member(weight: 900)
        field.run(1_500)
        let b = field.start("b:1", links: ["a:1"])
        let own = try b.member(weight: nil)
        publish(b, field)
        expectEachOnce([own])
        #expect(other.heard.isEmpty)
        field.dismantle()
    }

    /// So has one whose client is away, and for whom it waits.
    @Test func whatWaitsForAMemberHereGoesToNobodyElse() throws {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let other = try a.member(weight: nil)
        field.run(1_500)
        let b = field.start("b:1", links: ["a:1"])
        let own = try b.member(weight: nil)
        b.router.setPresence(own, false)
        publish(b, field)
        expectEachOnce([own])
        #expect(other.heard.isEmpty)
        field.dismantle()
    }

    /// Who becomes a member while events wait, and what others say of weights is known, gets a part of them.
    @Test func aMemberThatComesMeanwhileHasItsPart() throws {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let other = try a.member(weight: 300)
        field.run(1_500)
        let b = field.start("b:1", links: ["a:1"])
        for number in 0..<Self.count { b.publish("t", "\(number)", qos: 1) }
        let own = try b.member(weight: nil)
        #expect(!b.node.isJoined)
        field.run(4_000)
        expectEachOnce([own, other])
        #expect(abs(own.heard.count - Self.count / 4) <= 3, "\(own.heard.count)")
        field.dismantle()
    }

    /// All nodes keep a retained event, and one member gets it: also one at another node.
    @Test(arguments: [UInt8(0), 1]) func aRetainedEventGoesToAMember(qos: UInt8) throws {
        let field = MeshField()
        let (a, c) = (field.start("a:1", links: []), field.start("c:1", links: ["a:1"]))
        let members = [try a.member(weight: nil), try c.member(weight: nil)]
        let plain = try a.subscribe("t")
        let b = field.start("b:1", links: ["a:1"])
        let early = qos > 0 ? ["early"] : []
        for payload in early { b.publish("t", payload, qos: qos, isRetained: true) }
        field.run(4_000)
        b.publish("t", "one", qos: qos, isRetained: true)
        b.publish("t", "two", qos: qos, isRetained: true)
        field.run(300)
        #expect(members.flatMap(\.heard).sorted() == early + ["one", "two"])
        #expect(plain.heard.suffix(2) == ["one", "two"])
        for station in [a, b, c] {
            let kept = Array("t".utf8).withUnsafeBytes { station.router.retained($0, now: 0) }
            #expect(kept?.payload.elementsEqual("two".utf8) == true)
        }
        field.dismantle()
    }

    /// The members of other nodes are known before the node has joined: what is given to them waits as well.
    @Test func aShareForANodeThatIsKnownAlreadyWaits() throws {
        let field = MeshField()
        let (a, c) = (field.start("a:1", links: []), field.start("c:1", links: ["a:1"]))
        let members = [try a.member(weight: 95), try c.member(weight: 5)]
        field.run(1_500)
        let b = field.start("b:1", links: ["a:1", "c:1"])
        var passed = 0
        while b.router.remoteMatches(Array("t".utf8)).isEmpty, passed < 3_000 {
            field.run(1)
            passed += 1
        }
        publish(b, field)
        expectEachOnce(members)
        field.dismantle()
    }
}

extension Router {
    fileprivate func remoteMatches(_ topic: [UInt8]) -> [RemoteMatches.Group] {
        topic.withUnsafeBytes { remoteMatches($0).groups }
    }
}
