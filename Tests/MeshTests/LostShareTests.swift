import Testing

@testable import Core
@testable import Mesh

/// Members' shares on their way to nodes that are gone, or have no member any more.
@Suite struct LostShareTests {
    private static let count = 100

    /// A node that publishes for members at two others, one of which is killed before it has taken anything.
    private func killed(qos: UInt8, others: Bool) throws -> (MeshField, MeshField.Station, [Listening]) {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let (b, c) = (field.start("b:1", links: ["a:1"]), field.start("c:1", links: ["a:1"]))
        let members = [try b.member(weight: nil)] + (others ? [try c.member(weight: nil)] : [])
        field.run(1_500)
        for number in 0..<Self.count { a.publish("t", "\(number)", qos: qos) }
        field.kill(b)
        return (field, a, members)
    }

    private func dropped(_ station: MeshField.Station) -> Int {
        station.node.streams.counters.droppedUnreachable + Int(station.node.counters.noMember)
            + Int(station.lane.counters.dropped[DropReason.noMember.rawValue])
    }

    @Test func ofQoS1ItGoesToAnotherMember() throws {
        let (field, a, members) = try killed(qos: 1, others: true)
        field.run(5_000)
        #expect(members[0].heard.isEmpty && members[1].heard.count == Self.count / 2, "the node may come back")
        field.run(30_000)
        #expect(members[1].heard.sorted() == (0..<Self.count).map(String.init).sorted())
        #expect(dropped(a) == 0)
        field.dismantle()
    }

    /// The member may have had it.
    @Test func ofQoS2ItIsDroppedIfItWasSent() throws {
        let (field, a, members) = try killed(qos: 2, others: true)
        field.run(35_000)
        #expect(members[1].heard.count == Self.count / 2)
        #expect(dropped(a) == Self.count / 2)
        field.dismantle()
    }

    @Test func withoutAnotherMemberItIsDropped() throws {
        let (field, a, members) = try killed(qos: 1, others: false)
        field.run(70_000)
        #expect(members[0].heard.isEmpty)
        #expect(dropped(a) == Self.count)
        field.dismantle()
    }

    // MARK: Nodes that leave

    /// Nothing is sent to a node that has said good-bye. What had been sent is with it: of QoS 2 that is nobody else's.
    @Test func aNodeThatLeavesIsNotChosenAgain() throws {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let (b, c) = (field.start("b:1", links: ["a:1"]), field.start("c:1", links: ["a:1"]))
        let members = [try b.member(weight: nil), try c.member(weight: nil)]
        field.run(1_500)
        b.node.leaveForGood {}
        for number in 0..<500 {
            a.publish("t", "\(number)", qos: 2)
            field.run(1)
        }
        field.run(1_000)
        let lost = dropped(a)
        #expect(lost <= 1 && Set(members.flatMap(\.heard)).count == 500 - lost)
        #expect(a.node.streams.spool.count == 0)
        field.run(35_000)
        #expect(dropped(a) == lost)
        field.dismantle()
    }

    /// Who is back before others have computed their routes anew is reached again.
    @Test func aNodeThatLeavesAndComesBackIsReached() throws {
        let field = MeshField()
        let (a, b) = (field.start("a:1", links: []), field.start("b:1", links: ["a:1"]))
        let before = try b.subscribe("t")
        field.run(1_500)
        for _ in 0..<3 {
            b.node.leaveForGood {}
            field.run(3)
        }
        field.kill(b)
        let again = field.start("b:1", links: ["a:1"])
        let after = try again.subscribe("t")
        field.run(3_000)
        a.publish("t", "here", qos: 1)
        field.run(200)
        #expect(before.heard.isEmpty && after.heard == ["here"])
        field.dismantle()
    }

    /// Shares name a node by its number, which another life of it may not have.
    @Test func aNodeThatComesBackWithAnotherNumberIsAskedAnew() throws {
        let (field, a, _) = try killed(qos: 1, others: false)
        field.run(2_000)
        let again = field.start("b:1", links: ["a:1"])
        let member = try again.member(weight: nil)
        field.run(5_000)
        #expect(member.heard.count + dropped(a) == Self.count)
        field.dismantle()
    }

    // MARK: Large ones

    /// What came in parts is only together at the node whose member has just gone.
    @Test func aLargeOneGoesToAnotherMember() throws {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let (b, c) = (field.start("b:1", links: ["a:1"]), field.start("c:1", links: ["a:1"]))
        let (gone, other) = (try b.member(weight: nil), try c.member(weight: nil))
        field.run(1_500)
        b.router.unregister(gone, on: b.lane)
        let payloads = (0..<4).map { String(repeating: "\($0)", count: 200_000) }
        for payload in payloads { a.publish("t", payload, qos: 1) }
        field.run(3_000)
        #expect(other.heard.count == payloads.count && Set(other.heard) == Set(payloads))
        field.dismantle()
    }

    /// Nothing is kept of them once their member has them.
    @Test func copiesAreFreed() throws {
        let field = MeshField()
        let (a, b) = (field.start("a:1", links: []), field.start("b:1", links: ["a:1"]))
        let member = try b.member(weight: nil)
        field.run(1_500)
        for _ in 0..<50 { a.publish("t", String(repeating: "x", count: 100_000), qos: 1) }
        field.run(2_000)
        #expect(member.heard.count == 50)
        #expect(b.lane.turn.scratchCount == 0)
        field.dismantle()
    }

    /// A client chooses the bytes of a part.
    @Test func aPartIsNotReadAsAnEvent() {
        let content: [UInt8] = Array(repeating: 0, count: 64)
        for flags in [UInt8(0), 1, 2, EventContent.firstPartFlag, EventContent.lastPartFlag] {
            let part = EventContent.Part.seal(
                content[...], topic: Array("a".utf8).withUnsafeBytes { $0 }, flags: EventContent.partFlag | flags)
            #expect(part.withUnsafeBytes { EventContent($0) } == nil)
        }
        var whole: [UInt8] = [0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        whole += Array("a".utf8) + [0, 0, 0, 0]
        #expect(whole.withUnsafeBytes { EventContent($0) } != nil)
        whole[0] |= EventContent.partFlag
        #expect(whole.withUnsafeBytes { EventContent($0) } == nil)
    }
}
