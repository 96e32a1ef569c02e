import Testing

@testable import Core

@Suite("Shared groups over several nodes")
struct RemoteGroupTests {
    private func entry(_ text: String, present: Bool = true) throws -> RemoteEntry {
        try RemoteTests.entry(text, present: present)
    }

    @Test("Members here come first, then present ones elsewhere, then absent ones here, then elsewhere")
    func preference() throws {
        let (field, mesh) = RemoteTests.meshed(lanes: 2)
        let nodes = (1...2).map { field.router.addRemoteNode($0) }
        let local = field.recorder(on: 1)
        try field.subscribe(local, "$share/g/job/+", .qos(1))
        field.router.subscribe(nodes[0], [try entry("$share/g/job/+")])
        field.router.subscribe(nodes[1], [try entry("$share/g/job/+", present: false)])
        func shares() -> [[UInt32]] {
            for number in 0..<4 { #expect(field.publish("job/1", ["\(number)"]).matched == 1) }
            field.settle()
            #expect(mesh.deliveries.count + local.deliveries.count == 4, "each goes to one")
            defer { _ = local.takeAll() }
            return mesh.takeAll().map(\.identifiers)
        }
        #expect(shares() == [])
        field.router.setPresence(local, false)
        #expect(shares() == [[2], [2], [2], [2]])
        field.router.setReachable(nodes[0], false)
        #expect(shares() == [], "the absent one here keeps it")
        field.router.unregister(local, on: field.all[1])
        #expect(shares() == [[3], [3], [3], [3]])
        #expect(field.router.subscribe(nodes[1], [try entry("$share/g/job/+")]) == [.changed])
        field.publish("job/1")
        #expect(mesh.takeAll().map { $0.options.contains(.absentMember) } == [false])
        field.router.subscribe(nodes[1], [try entry("$share/g/job/+", present: false)])
        field.publish("job/1")
        #expect(mesh.takeAll().map { $0.options.contains(.absentMember) } == [true])
        field.router.setReachable(nodes[0], true)
        #expect(Set(shares()) == [[2]])
        field.router.subscribe(nodes[1], [try entry("$share/g/job/+")])
        #expect(shares().sorted { $0[0] < $1[0] } == [[2], [2], [3], [3]], "nodes take turns")
        for node in nodes { field.router.unsubscribe(node, [try TopicFilter("$share/g/job/+", grammar: .mqtt)]) }
        #expect(field.publish("job/1").matched == 0 && field.router.remoteFilterCount == 0)
    }

    @Test("A group has the same key on every node, and a share finds a member by it")
    func shares() throws {
        let (one, _) = RemoteTests.meshed()
        let (two, _) = RemoteTests.meshed(lanes: 2)
        let first = one.recorder()
        try one.subscribe(first, "$share/g/job/*", grammar: .smf)
        try one.subscribe(first, "$share/h/job/+")
        let members = [two.recorder(), two.recorder(on: 1)]
        for member in members { try two.subscribe(member, "$share/g/job/+", .qos(1), identifier: 5) }
        let keys = Self.keys(one, "job/7")
        let key = try #require(Self.keys(two, "job/7")["$share/g/job/+"])
        #expect(keys["$share/g/job/+"] == key && keys["$share/h/job/+"] != key && keys.count == 2)
        #expect(Self.deliver(two, "job/7", key, qos: 1).matched == 1)
        two.router.setPresence(members[0], false)
        for _ in 0..<4 { #expect(Self.deliver(two, "job/7", key, qos: 1).matched == 1) }
        two.settle()
        #expect(members[0].deliveries.count + members[1].deliveries.count == 5 && members[1].deliveries.count >= 4)
        #expect(members.flatMap(\.deliveries).allSatisfy { $0.identifiers == [5] })
        #expect(Self.deliver(two, "other/7", key, qos: 0).matched == 0, "a key is not enough: the topic must match")
        #expect(Self.deliver(two, "job/7", key &+ 1, qos: 0).matched == 0)
        // Another node's members are none of this one's business here.
        let node = two.router.addRemoteNode(4)
        two.router.subscribe(node, [try entry("$share/g/job/+")])
        for member in members { two.router.unregister(member, on: two.all[member.address.lane]) }
        #expect(Self.deliver(two, "job/7", key, qos: 0).matched == 0)
    }

    @Test("What was meant for a member that leaves goes to one on another node")
    func redistribution() throws {
        let (field, mesh) = RemoteTests.meshed()
        let node = field.router.addRemoteNode(4)
        let local = field.recorder()
        local.keeps = true
        try field.subscribe(local, "$share/g/t", .qos(1))
        field.publish("t", ["x"], qos: 1)
        let group = try #require(Self.numbers(field, "t").first)
        #expect(!(field.router.hasPresentMember(group + 1)))
        field.router.setPresence(local, false)
        #expect(!field.router.hasPresentMember(group))
        field.router.subscribe(node, [try entry("$share/g/t")])
        #expect(field.router.hasPresentMember(group))
        field.router.redistribute(local.owned[0], group: group, on: field.all[0])
        #expect(mesh.deliveries.map(\.identifiers) == [[5]] && mesh.payloads == ["x"])
        #expect(field.router.groupKey(group) == Self.keys(field, "t")["$share/g/t"])
    }

    @Test("Explanations name nodes and groups")
    func explain() throws {
        let (field, _) = RemoteTests.meshed()
        let node = field.router.addRemoteNode(4)
        try field.subscribe(field.recorder(), "t/+")
        try field.subscribe(field.recorder(), "$share/g/t/x")
        field.router.subscribe(node, [try entry("t/x"), try entry("$share/g/t/x"), try entry("$share/h/t/#")])
        let matches = Array("t/x".utf8).withUnsafeBytes { field.router.remoteMatches($0) }
        #expect(matches.nodes == [4] && matches.local == 1)
        let groups = matches.groups.sorted { $0.filter < $1.filter }
        #expect(groups.map(\.filter) == ["$share/g/t/x", "$share/h/t/#"])
        #expect(groups.map(\.localMembers) == [1, 0] && groups.map(\.nodes) == [[], [4]])
        #expect(groups.allSatisfy { $0.localWeights.isEmpty && $0.nodeWeights.isEmpty })
    }

    @Test("Of a group with weights it is told what members and nodes weigh")
    func weights() throws {
        let (field, _) = RemoteTests.meshed()
        let nodes = [4, 5].map { field.router.addRemoteNode($0) }
        for node in nodes { field.router.subscribe(node, [try entry("$share/g/t")]) }
        for weight in [nil, 5, 0] as [UInt16?] { try field.subscribe(field.recorder(), "$share/g/t", weight: weight) }
        let key = try #require(Self.keys(field, "t")["$share/g/t"])
        field.router.setWeights([GroupWeight(key: key, sum: 300, isSaid: true)], of: nodes[1])
        let matches = Array("t".utf8).withUnsafeBytes { field.router.remoteMatches($0) }
        let group = try #require(matches.groups.first)
        #expect(group.localMembers == 3 && group.localWeights.sorted() == [0, 5, 100])
        #expect(Dictionary(uniqueKeysWithValues: zip(group.nodes, group.nodeWeights)) == [4: 100, 5: 300])
    }

    private static func keys(_ field: Field, _ topic: String) -> [String: UInt64] {
        let matches = Array(topic.utf8).withUnsafeBytes { field.router.remoteMatches($0) }
        return Dictionary(uniqueKeysWithValues: matches.groups.map { ($0.filter, $0.key) })
    }

    private static func numbers(_ field: Field, _ topic: String) -> [UInt32] {
        var raw = RawMatch()
        var scratch = MatchScratch()
        Array(topic.utf8).withUnsafeBytes { field.router.index.match($0, into: &raw, scratch: &scratch) }
        return raw.groupNumbers
    }

    static func deliver(_ field: Field, _ topic: String, _ key: UInt64, qos: UInt8) -> PublishOutcome {
        let event = Array(topic.utf8).withUnsafeBytes {
            Event(
                topic: $0, properties: UnsafeRawBufferPointer(start: nil, count: 0),
                payload: UnsafeRawBufferPointer(start: nil, count: 0), qos: qos, isRetained: false)
        }
        let lane = field.all[0]
        var run = EventRun(event: event, view: lane.singleEvent, publisher: .none)
        run.isFromMesh = true
        return field.router.deliverShare(&run, key: key, on: lane)
    }
}
