import Core
import Testing

@testable import Mesh

/// What becomes of a member's share when its node is gone for good.
@Suite struct GivenUpShareTests {
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
}
