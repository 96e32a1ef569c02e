import TestSupport
import Testing

@testable import Core

@Suite("Weights of members of shared groups")
struct WeightTests {
    private static let group = "$share/g/t"

    private func entry(_ text: String, present: Bool = true) throws -> RemoteEntry {
        try RemoteTests.entry(text, present: present)
    }

    private func key(_ filter: String = Self.group) throws -> UInt64 {
        TopicIndex.key(of: try TopicFilter(filter, grammar: .mqtt))
    }

    @Test("What is a weight, and what is not")
    func parsing() {
        for number in 0...1_000 { #expect(MemberWeight.parse(Array("\(number)".utf8)) == UInt16(number)) }
        #expect(MemberWeight.parse(Array("0007".utf8)) == 7)
        for text in ["", "1001", "9999", "65536", "00001", "-1", "+1", " 1", "1 ", "1.0", "x", "१"] {
            #expect(MemberWeight.parse(Array(text.utf8)) == nil, "\(text)")
        }
        #expect(MemberWeight.parse(1_000) == 1_000 && MemberWeight.parse(1_001) == nil && MemberWeight.parse(-1) == nil)
        #expect(MemberWeight.parse(UInt64.max) == nil && MemberWeight.parse(Int64.min) == nil)
    }

    @Test("A canary gets its 5 % after some hundred events already, spread evenly", arguments: [1, 7])
    func canary(_ runLength: Int) throws {
        let field = Field(lanes: 2)
        let stable = [field.recorder(), field.recorder(on: 1)]
        let canary = field.recorder(on: 1)
        for member in stable { try field.subscribe(member, Self.group, weight: 95) }
        try field.subscribe(canary, Self.group, weight: 10)
        var numbers: [Int] = []
        for number in 0..<(2_100 / runLength) {
            field.publish("t", (0..<runLength).map { "\(number * runLength + $0)" })
            if number * runLength < 300, (number + 1) * runLength >= 300 {
                field.settle()
                #expect(abs(canary.deliveries.count - 15) <= 3, "of the first 300")
            }
        }
        field.settle()
        numbers = canary.payloads.compactMap { Int($0) }.sorted()
        #expect(abs(numbers.count - 105) <= 5)
        #expect(stable.map(\.deliveries.count).reduce(numbers.count, +) == 2_100 / runLength * runLength)
        #expect(stable.allSatisfy { abs($0.deliveries.count - 997) <= 8 })
        let gaps = zip(numbers, numbers.dropFirst()).map { $1 - $0 }
        #expect((gaps.min() ?? 0) >= 10 && (gaps.max() ?? 99) <= 40, "\(gaps)")
    }

    @Test("A group in which nobody has said anything stays as it is, beside one that has weights")
    func withoutWeights() throws {
        let (field, mesh) = RemoteTests.meshed()
        let node = field.router.addRemoteNode(3)
        let members = [field.recorder(), field.recorder()]
        for member in members { try field.subscribe(member, Self.group) }
        let others = [field.recorder(), field.recorder()]
        for (number, member) in others.enumerated() {
            try field.subscribe(member, "$share/w/t", weight: UInt16(1 + 2 * number))
        }
        field.router.subscribe(node, [try entry(Self.group), try entry("$share/w/t")])
        for number in 0..<416 { #expect(field.publish("t", ["\(number)"]).matched == 2) }
        #expect(members.map(\.deliveries.count) == [208, 208], "in turn, and nothing for other nodes")
        // 1, 3, and 100 of the node that says nothing of it.
        #expect(abs(others[0].deliveries.count - 4) <= 2 && abs(others[1].deliveries.count - 12) <= 2)
        #expect(abs(mesh.deliveries.count - 400) <= 4)
        // When those who have said something are away the group is again as it was.
        for other in others { field.router.setPresence(other, false) }
        let here = field.recorder()
        try field.subscribe(here, "$share/w/t")
        _ = mesh.takeAll()
        for _ in 0..<20 { field.publish("t") }
        #expect(here.deliveries.count == 20 && mesh.deliveries.isEmpty)
    }

    @Test("Weight 0 takes events only while nobody else is there")
    func zero() throws {
        let field = Field()
        let (spare, second, main) = (field.recorder(), field.recorder(), field.recorder())
        try field.subscribe(spare, Self.group, weight: 0)
        try field.subscribe(second, Self.group, weight: 0)
        for _ in 0..<10 { field.publish("t") }
        #expect(spare.deliveries.count == 5 && second.deliveries.count == 5)
        try field.subscribe(main, Self.group)
        for _ in 0..<50 { field.publish("t") }
        #expect(main.deliveries.count == 50)
        field.router.setPresence(main, false)
        for _ in 0..<10 { field.publish("t") }
        #expect(spare.deliveries.count == 10 && second.deliveries.count == 10 && main.deliveries.count == 50)
    }

    @Test("Subscribing again says another weight, or none")
    func again() throws {
        let field = Field()
        let (a, b) = (field.recorder(), field.recorder())
        try field.subscribe(a, Self.group, weight: 10)
        try field.subscribe(b, Self.group)
        func counts() -> [Int] {
            for _ in 0..<1_100 { field.publish("t") }
            return [a.takeAll().count, b.takeAll().count]
        }
        #expect(abs(counts()[0] - 100) <= 3)
        #expect(field.router.subscriptions(of: a).map(\.weight) == [10])
        try field.subscribe(a, Self.group, weight: 1_000)
        #expect(abs(counts()[0] - 1_000) <= 3)
        try field.subscribe(a, Self.group)
        #expect(counts() == [550, 550])
        #expect(field.router.subscriptions(of: a).map(\.weight) == [nil])
        // Nothing is left of a member that has gone.
        try field.subscribe(b, Self.group, weight: 7)
        #expect(try field.unsubscribe(b, Self.group))
        try field.subscribe(b, Self.group)
        #expect(counts() == [550, 550])
        try field.subscribe(a, "t", weight: 7)
        #expect(field.router.subscriptions(of: a).first { $0.filter.group == nil }?.weight == nil)
    }

    @Test("Nodes count with what they say, 100 if they say nothing, and not while they cannot be reached")
    func nodes() throws {
        let (field, mesh) = RemoteTests.meshed()
        let nodes = (1...3).map { field.router.addRemoteNode($0) }
        let local = field.recorder()
        try field.subscribe(local, Self.group)
        for node in nodes { field.router.subscribe(node, [try entry(Self.group)]) }
        func shares() -> [Int] {
            for _ in 0..<1_000 { field.publish("t") }
            let far = mesh.takeAll().map { $0.identifiers[0] }
            return [local.takeAll().count] + (2...4).map { number in far.count { $0 == UInt32(number) } }
        }
        #expect(shares() == [1_000, 0, 0, 0])
        field.router.setWeights([GroupWeight(key: try key(), sum: 50, isSaid: true)], of: nodes[0])
        field.router.setWeights([GroupWeight(key: try key(), sum: 250, isSaid: false)], of: nodes[1])
        func expect(_ shares: [Int], _ wanted: [Int]) {
            for (count, wanted) in zip(shares, wanted) { #expect(abs(count - wanted) <= 4, "\(shares)") }
        }
        expect(shares(), [200, 100, 500, 200])
        // The one that has said it, and so is the reason for all of this, cannot be reached.
        field.router.setReachable(nodes[0], false)
        #expect(shares() == [1_000, 0, 0, 0])
        field.router.setReachable(nodes[0], true)
        expect(shares(), [200, 100, 500, 200])
        field.router.unsubscribe(nodes[2], [try TopicFilter(Self.group, grammar: .mqtt)])
        field.router.subscribe(nodes[1], [try entry(Self.group, present: false)])
        expect(shares(), [667, 333, 0, 0])
        field.router.setWeights([], of: nodes[0])
        #expect(shares() == [1_000, 0, 0, 0])
        // A node that goes takes along what it has said.
        field.router.setWeights([GroupWeight(key: try key(), sum: 50, isSaid: true)], of: nodes[0])
        var cursor: UInt32? = 0
        while let place = cursor { cursor = field.router.removeRemoteNode(nodes[0], after: place, max: 1) }
        #expect(shares() == [1_000, 0, 0, 0])
        #expect(!field.router.index.remoteWeights.isSaid(try key()))
    }

    @Test("What this node tells others: its sum as soon as somebody, here or there, has said a weight")
    func telling() throws {
        let (field, _) = RemoteTests.meshed()
        let filter = try TopicFilter(Self.group, grammar: .mqtt)
        let node = field.router.addRemoteNode(1)
        let (a, b) = (field.recorder(), field.recorder())
        func touched() -> Bool { field.router.takeInterestChanges(max: 9).contains { $0 == filter } }
        #expect(field.router.localWeight(of: filter) == nil)
        try field.subscribe(a, Self.group)
        try field.subscribe(b, Self.group)
        _ = touched()
        #expect(field.router.localWeight(of: filter) == nil)
        field.router.setWeights([GroupWeight(key: try key(), sum: 7, isSaid: true)], of: node)
        #expect(touched(), "the mesh looks at it again")
        #expect(field.router.localWeight(of: filter) == GroupWeight(key: try key(), sum: 200, isSaid: false))
        field.router.setReachable(node, false)
        #expect(touched() && field.router.localWeight(of: filter) == nil)
        try field.subscribe(b, Self.group, weight: 30)
        #expect(touched())
        #expect(field.router.localWeight(of: filter) == GroupWeight(key: try key(), sum: 130, isSaid: true))
        field.router.setPresence(b, false)
        #expect(touched() && field.router.localWeight(of: filter) == nil)
        field.router.setReachable(node, true)
        #expect(touched())
        #expect(field.router.localWeight(of: filter) == GroupWeight(key: try key(), sum: 100, isSaid: false))
        field.router.setPresence(a, false)
        #expect(touched() && field.router.localWeight(of: filter) == nil, "nobody is there")
        // What may not leave the node is not counted.
        let hidden = field.recorder()
        try field.subscribe(hidden, "$local/" + Self.group, weight: 9)
        #expect(field.router.localWeight(of: filter) == nil)
    }

    @Test("What is given to another member, and a share from another node, goes by weight as well")
    func redistribution() throws {
        let (field, mesh) = RemoteTests.meshed()
        let node = field.router.addRemoteNode(4)
        let (a, b) = (field.recorder(), field.recorder())
        a.keeps = true
        try field.subscribe(a, Self.group, .qos(1), weight: 100)
        field.publish("t", ["x"], qos: 1)
        let event = try #require(a.owned.first)
        _ = a.takeAll()
        let group = try #require(field.router.groupNumber(try key()))
        try field.subscribe(b, Self.group, .qos(1), weight: 300)
        field.router.subscribe(node, [try entry(Self.group)])
        field.router.setWeights([GroupWeight(key: try key(), sum: 600, isSaid: true)], of: node)
        for _ in 0..<500 { field.router.redistribute(event, group: group, on: field.all[0]) }
        #expect(abs(a.takeAll().count - 50) <= 4 && abs(b.takeAll().count - 150) <= 4)
        #expect(abs(mesh.takeAll().count - 300) <= 4)
        for _ in 0..<400 { #expect(RemoteGroupTests.deliver(field, "t", try key(), qos: 0).matched == 1) }
        #expect(abs(a.takeAll().count - 100) <= 4 && abs(b.takeAll().count - 300) <= 4 && mesh.deliveries.isEmpty)
        // A group's turns are its own, however many others come in between.
        try field.subscribe(b, "$share/h/t", .qos(1), weight: 300)
        field.router.setPresence(b, false)
        #expect(field.router.hasPresentMember(group))
    }

    @Test("Whoever may not read a topic has no share of it")
    func access() throws {
        let open = [
            AccessRule(effect: .allow, action: .subscribe, topics: ["#"]),
            AccessRule(effect: .allow, action: .publish, topics: ["#"]),
        ]
        let field = Field(rules: try AccessRules(open))
        let (guest, member) = (field.recorder(), field.recorder())
        try field.subscribe(guest, "$share/g/t/+", weight: 900, as: field.principal("guest"))
        try field.subscribe(member, "$share/g/t/+", weight: 100, as: field.principal("member"))
        // Until the subscriptions have been judged by the new rules each topic is looked at.
        let deny = AccessRule(effect: .deny, action: .subscribe, topics: ["t/secret"], users: ["guest"])
        _ = field.router.replaceRules(try AccessRules([deny] + open))
        for _ in 0..<100 { field.publish("t/open") }
        #expect(abs(guest.takeAll().count - 90) <= 2 && abs(member.takeAll().count - 10) <= 2)
        for _ in 0..<100 { field.publish("t/secret") }
        #expect(guest.deliveries.isEmpty && member.takeAll().count == 100)
    }

    /// What a group should do, worked out anew from what everybody has said.
    private struct Naive {
        struct Member {
            var weight: UInt16?
            var isPresent = true
        }
        struct Node {
            var isMember = false
            var isPresent = true
            var isReachable = true
            var told: GroupWeight?
        }

        var members: [Int: Member] = [:]
        var nodes: [Node]

        /// By member, then by node: how much of the group's events it should have; nil for in turn.
        func shares(of count: Int) -> (members: [Double], nodes: [Double]) {
            var here = [Double](repeating: 0, count: count)
            var there = [Double](repeating: 0, count: nodes.count)
            let isSaid =
                members.values.contains { $0.isPresent && $0.weight != nil }
                || nodes.contains { $0.isReachable && $0.told?.isSaid == true }
            for (number, member) in members where member.isPresent { here[number] = Double(member.weight ?? 100) }
            for (number, node) in nodes.enumerated() where node.isMember && node.isPresent && node.isReachable {
                there[number] = Double(node.told?.sum ?? 100)
            }
            if !isSaid || (here + there).reduce(0, +) == 0 {
                // Members here first, each the same; else nodes.
                for (number, member) in members { here[number] = member.isPresent ? 1 : 0 }
                let isHere = here.contains(1)
                for (number, node) in nodes.enumerated() {
                    there[number] = !isHere && node.isMember && node.isPresent && node.isReachable ? 1 : 0
                }
            }
            let total = (here + there).reduce(0, +)
            return total == 0 ? (here, there) : (here.map { $0 / total }, there.map { $0 / total })
        }
    }

    @Test("Whoever joins, leaves and says whatever: everybody gets what it should")
    func oracle() throws {
        var random = Seeded(321)
        let (field, mesh) = RemoteTests.meshed(lanes: 2)
        let nodes = (1...3).map { field.router.addRemoteNode($0) }
        let ports = (0..<5).map { field.recorder(on: $0 % 2) }
        var naive = Naive(nodes: Array(repeating: Naive.Node(), count: 3))
        let key = try key()
        let filter = try TopicFilter(Self.group, grammar: .mqtt)
        let count = 400
        for round in 0..<250 {
            let (member, node) = (random.below(5), random.below(3))
            let weight: UInt16? = random.once(in: 3) ? nil : UInt16(random.pick([0, 1, 5, 50, 95, 100, 400, 1_000]))
            switch random.below(7) {
            case 0, 1:
                try field.subscribe(ports[member], Self.group, weight: weight)
                naive.members[member] = .init(weight: weight, isPresent: naive.members[member]?.isPresent ?? true)
                if naive.members[member]?.isPresent == true { field.router.setPresence(ports[member], true) }
            case 2:
                _ = try field.unsubscribe(ports[member], Self.group)
                naive.members[member] = nil
                field.router.setPresence(ports[member], true)
            case 3:
                guard let known = naive.members[member] else { continue }
                naive.members[member]?.isPresent = !known.isPresent
                field.router.setPresence(ports[member], !known.isPresent)
            case 4:
                naive.nodes[node].isMember = !random.once(in: 3)
                naive.nodes[node].isPresent = !random.once(in: 3)
                if naive.nodes[node].isMember {
                    field.router.subscribe(nodes[node], [try entry(Self.group, present: naive.nodes[node].isPresent)])
                } else {
                    field.router.unsubscribe(nodes[node], [filter])
                }
            case 5:
                naive.nodes[node].isReachable.toggle()
                field.router.setReachable(nodes[node], naive.nodes[node].isReachable)
            default:
                let told = weight.map { GroupWeight(key: key, sum: UInt32($0), isSaid: random.once(in: 2)) }
                naive.nodes[node].told = told
                field.router.setWeights(told.map { [$0] } ?? [], of: nodes[node])
            }
            let wanted = naive.shares(of: ports.count)
            guard (wanted.members + wanted.nodes).reduce(0, +) > 0 else { continue }
            for _ in 0..<count { field.publish("t", on: random.below(2)) }
            field.settle()
            let far = mesh.takeAll().map { Int($0.identifiers[0]) }
            for (number, share) in wanted.members.enumerated() {
                let got = ports[number].takeAll().count
                #expect(
                    abs(Double(got) - share * Double(count)) <= 8, "member \(number), round \(round), \(random.note)")
                #expect(share > 0 || got == 0, "member \(number), round \(round), \(random.note)")
            }
            for (number, share) in wanted.nodes.enumerated() {
                let got = far.count { $0 == number + 2 }
                #expect(abs(Double(got) - share * Double(count)) <= 8, "node \(number), round \(round), \(random.note)")
            }
        }
    }
}
