import Testing

@testable import Core

@Suite("Shared subscriptions")
struct GroupTests {
    @Test("Each event goes to exactly one member, in turn, across lanes", arguments: [1, 4])
    func exactlyOne(_ runLength: Int) throws {
        let field = Field(lanes: 3)
        let members = (0..<6).map { field.recorder(on: $0 % 3) }
        for (number, member) in members.enumerated() {
            try field.subscribe(member, "$share/g/job/+", .qos(1), identifier: UInt32(number + 1))
        }
        for round in 0..<300 {
            let outcome = field.publish("job/7", (0..<runLength).map { "\(round).\($0)" }, on: round % 3)
            #expect(outcome.matched == 1)
        }
        field.settle()
        let expected = (0..<300).flatMap { round in (0..<runLength).map { "\(round).\($0)" } }
        #expect(members.flatMap(\.payloads).sorted() == expected.sorted())
        for (number, member) in members.enumerated() {
            // Each publishing lane takes turns of its own.
            #expect(abs(member.deliveries.count - 50 * runLength) <= 3, "member \(number)")
            #expect(member.deliveries.allSatisfy { $0.identifiers == [UInt32(number + 1)] && $0.options.qos == 1 })
        }
    }

    @Test("Several groups and ordinary subscribers each have their own")
    func severalGroups() throws {
        let field = Field(lanes: 2)
        let (a, b, c, d) = (field.recorder(), field.recorder(on: 1), field.recorder(), field.recorder(on: 1))
        try field.subscribe(a, "$share/g/t/#")
        try field.subscribe(b, "$share/g/t/#")
        try field.subscribe(b, "$share/h/t/+")
        try field.subscribe(c, "$share/h/t/+")
        try field.subscribe(d, "t/#")
        for number in 0..<40 { #expect(field.publish("t/x", ["\(number)"]).matched == 3) }
        field.settle()
        #expect(d.payloads == (0..<40).map(String.init))
        #expect(a.deliveries.count + b.deliveries.count + c.deliveries.count == 80)
        #expect(a.deliveries.count == 20 && c.deliveries.count == 20)
        // `#` takes the parent as well, `+` does not.
        #expect(field.publish("t").matched == 2)
    }

    @Test("The same group name with another filter is another group")
    func sameName() throws {
        let field = Field()
        let (a, b) = (field.recorder(), field.recorder())
        try field.subscribe(a, "$share/g/t/+")
        try field.subscribe(b, "$share/g/t/x")
        #expect(field.publish("t/x").matched == 2)
        #expect(a.deliveries.count == 1 && b.deliveries.count == 1)
    }

    @Test("What is on its way to a member's lane when that leaves goes to another one; direct events are counted")
    func leavesMeanwhile() throws {
        let field = Field(lanes: 3)
        let (stays, goes) = (field.recorder(on: 2), field.recorder(on: 1))
        let alone = field.recorder(on: 1)
        for member in [stays, goes] { try field.subscribe(member, "$share/g/t/+", .qos(1)) }
        try field.subscribe(alone, "t/+", .qos(1))
        for number in 0..<20 {
            field.publish("t/x", ["\(number).0", "\(number).1"], qos: 1)
            field.publish("t/x", ["direct"])
        }
        field.all[0].postMail()
        field.router.unregister(goes, on: field.all[1])
        field.router.unregister(alone, on: field.all[1])
        // Another one has their places.
        let tenants = [field.recorder(on: 1), field.recorder(on: 1)]
        field.settle()
        let guaranteed = stays.payloads.filter { $0 != "direct" }
        #expect(guaranteed.sorted() == (0..<20).flatMap { ["\($0).0", "\($0).1"] }.sorted())
        #expect(goes.deliveries.isEmpty && tenants.allSatisfy { $0.deliveries.isEmpty })
        let direct = stays.payloads.count { $0 == "direct" }
        #expect(direct < 20 && Int(field.dropped(.noMember, on: 1)) == 20 - direct)
        // With nobody left they are counted.
        field.publish("t/x", ["last"], qos: 1)
        field.all[0].postMail()
        field.router.unregister(stays, on: field.all[2])
        field.settle()
        #expect(field.dropped(.noMember, on: 2) == 1)
    }

    @Test("What was on its way to one that left stays in its namespace, whoever has the place by then")
    func leavesForAnotherNamespace() throws {
        let field = Field(lanes: 2)
        let (stays, goes) = (field.recorder(), field.recorder(on: 1))
        for member in [stays, goes] { try field.subscribe(member, "$share/g/t", .qos(1)) }
        // Another namespace has a group with the same number and the same filter.
        let other = Router(name: "other", number: 1, limits: Limits(), hashKey: 815)
        let strangers = [Recorder(), Recorder()]
        other.register(strangers[0], on: field.all[0])
        let principal = Principal(identity: Identity(user: nil), clientID: "stranger", router: other)
        try field.subscribe(strangers[0], "$share/g/t", .qos(1), as: principal, in: other)
        for number in 0..<20 { field.publish("t", ["\(number)"], qos: 1) }
        field.all[0].postMail()
        let place = goes.address.slot
        field.router.unregister(goes, on: field.all[1])
        other.register(strangers[1], on: field.all[1])
        #expect(strangers[1].address.slot == place)
        field.settle()
        #expect(stays.payloads.sorted() == (0..<20).map(String.init).sorted())
        #expect(goes.deliveries.isEmpty && strangers.allSatisfy { $0.deliveries.isEmpty })
        #expect(field.all.allSatisfy { $0.counters.dropped[DropReason.noMember.rawValue] == 0 })
    }

    @Test("Members come and go; with the last the group is gone")
    func membership() throws {
        let field = Field()
        let members = (0..<3).map { _ in field.recorder() }
        for member in members { try field.subscribe(member, "$share/g/t") }
        for _ in 0..<9 { field.publish("t") }
        #expect(members.map(\.deliveries.count) == [3, 3, 3])
        #expect(try field.unsubscribe(members[0], "$share/g/t"))
        #expect(try !field.unsubscribe(members[1], "t"), "a member is no ordinary subscriber")
        for _ in 0..<10 { field.publish("t") }
        #expect(members[0].deliveries.count == 3)
        #expect(members[1].deliveries.count == 8 && members[2].deliveries.count == 8)
        field.router.unregister(members[1], on: field.all[0])
        field.router.unregister(members[2], on: field.all[0])
        #expect(field.publish("t").matched == 0)
        #expect(field.router.subscriptionCount == 0)
    }

    @Test("A single event keeps its wire form, a run that is split does not")
    func wire() throws {
        let field = Field()
        let member = field.recorder()
        try field.subscribe(member, "$share/g/t")
        field.publish("t", ["one"], layout: WireLayout(rawValue: 3))
        #expect(member.runs[0].wire == "[one]" && member.runs[0].layout.rawValue == 3)
        field.publish("t", ["two", "three"], layout: WireLayout(rawValue: 3))
        #expect(member.payloads == ["one", "two", "three"])
        #expect(member.runs[1].layout == .none && member.runs[2].layout == .none)
    }

    @Test("Guaranteed events to members on another lane are answered, one receipt for each")
    func receipts() throws {
        let field = Field(lanes: 2)
        let publisher = field.recorder(on: 0)
        let members = [field.recorder(on: 1), field.recorder(on: 1)]
        for member in members { try field.subscribe(member, "$share/g/t", .qos(1)) }
        let outcome = field.publish("t", ["a", "b", "c"], qos: 1, publisher: publisher.address)
        #expect(outcome.pending == 3)
        field.settle()
        #expect(publisher.receipts == Array(repeating: .init(token: outcome.token, refused: 0), count: 3))
        #expect(members.map(\.deliveries.count).sorted() == [1, 2])
    }
}
