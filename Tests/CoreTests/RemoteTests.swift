import Glibc
import Synchronization
import Testing
import TestSupport

@testable import Core

@Suite("What other nodes want, in the router's index")
struct RemoteTests {
    static func entry(_ text: String, present: Bool = true, smf: Bool = false) throws -> RemoteEntry {
        RemoteEntry(filter: try TopicFilter(text, grammar: smf ? .smf : .mqtt), isPresent: present)
    }

    /// A field with a mesh's port on lane 0.
    static func meshed(lanes: Int = 1) -> (Field, Recorder) {
        let field = Field(lanes: lanes)
        let port = Recorder()
        field.router.attachMesh(port, on: field.all[0]) {}
        return (field, port)
    }

    @Test("The mesh's port gets an event once, with every node that wants it", arguments: [0, 1])
    func oneDelivery(_ lane: Int) throws {
        let (field, mesh) = Self.meshed(lanes: 2)
        let local = field.recorder()
        try field.subscribe(local, "a/+", .qos(1), identifier: 7)
        let nodes = (1...3).map { field.router.addRemoteNode($0) }
        field.router.subscribe(nodes[0], [try Self.entry("a/b"), try Self.entry("a/+"), try Self.entry("#")])
        field.router.subscribe(nodes[1], [try Self.entry("a/b")])
        field.router.subscribe(nodes[2], [try Self.entry("a/>", smf: true), try Self.entry("b")])
        let outcome = field.publish("a/b", on: lane)
        field.settle()
        #expect(outcome.matched == 4)
        #expect(mesh.deliveries.map(\.identifiers) == [[2, 3, 4]])
        #expect(mesh.deliveries.allSatisfy { $0.options.qos == 2 && !$0.options.contains(.noLocal) })
        #expect(local.deliveries.map(\.identifiers) == [[7]])
        field.publish("b", on: lane)
        field.settle()
        #expect(mesh.deliveries.last?.identifiers == [2, 4])
        field.publish("$SYS/x", on: lane)
        field.settle()
        #expect(mesh.deliveries.count == 2)
        // What is remembered of the topic is forgotten when a node wants less.
        #expect(field.router.unsubscribe(nodes[1], [try TopicFilter("a/b", grammar: .mqtt)]) == [.present])
        field.publish("a/b", on: lane)
        field.settle()
        #expect(mesh.deliveries.last?.identifiers == [2, 4])
        #expect(field.router.subscriptionCount == 1, "other nodes' filters are not this node's subscriptions")
    }

    /// An index and what must be in it.
    private struct Model: ~Copyable {
        var index = TopicIndex(key: 12)
        var local: [String: (NaiveFilter, Int)] = [:]
        var remote: [String: (NaiveFilter, Int, TopicFilter)] = [:]
        var ports: [UInt32] = []
    }

    @Test("Random filters of nodes and clients together, against the naive matcher", arguments: 1...4)
    func againstNaive(_ stream: UInt64) throws {
        var random = Seeded(stream &+ 900)
        var model = Model()
        for node in 1...5 { model.index.addRemoteNode(node) }
        for port in 0..<4 {
            model.ports.append(model.index.addPort(PortAddress(lane: 0, slot: port, generation: 1)))
        }
        var raw = RawMatch()
        var scratch = MatchScratch()
        for round in 0..<1_500 {
            try change(&model, &random)
            guard round % 5 == 0 else { continue }
            let topic = Words.topic(&random)
            let levels = NaiveFilter.split(topic)
            Array(topic.utf8).withUnsafeBytes { model.index.match($0, into: &raw, scratch: &scratch) }
            let nodes = Set(model.remote.values.filter { $0.0.matches(levels) }.map { UInt32($0.1 + 1) })
            #expect(raw.remotes == nodes.sorted(), "\(topic), \(random.note)")
            let here = model.local.values.filter { $0.0.matches(levels) }.map { UInt32($0.1) }
            #expect(raw.hits.map { $0.identifier }.sorted() == here.sorted(), "\(topic), \(random.note)")
        }
        for node in 1...5 { #expect(listed(model.index, node) == wanted(model, node), "\(random.note)") }
        for (_, (_, node, filter)) in model.remote { #expect(model.index.unsubscribeRemote(node, filter) != nil) }
        for port in model.ports { model.index.removePort(port) { _ in } }
        #expect(model.index.tree.count == 0 && model.index.remote.records.count == 0 && !model.index.remote.hasLiterals)
    }

    private func change(_ model: inout Model, _ random: inout Seeded) throws {
        let naive = Words.filter(&random)
        let filter = try TopicFilter(naive.text, grammar: naive.grammar)
        guard filter.group == nil, !filter.isLocalOnly else { return }
        let owner = random.below(4)
        switch random.below(6) {
        case 0, 1:
            let isNew = model.index.subscribe(
                model.ports[owner], Subscription(filter: filter, options: .qos(0), identifier: UInt32(owner)))
            #expect(isNew == (model.local["\(owner) \(naive.meaning)"] == nil))
            model.local["\(owner) \(naive.meaning)"] = (naive, owner)
        case 2:
            guard let (key, (gone, port)) = model.local.randomElement(using: &random) else { return }
            let filter = try TopicFilter(gone.text, grammar: gone.grammar)
            let isGone = model.index.unsubscribe(model.ports[port], filter)
            #expect(isGone)
            model.local[key] = nil
        case 3, 4:
            let node = owner + 1
            let change = model.index.subscribeRemote(node, RemoteEntry(filter: filter)).change
            #expect((change == .added) == (model.remote["\(node) \(naive.meaning)"] == nil))
            model.remote["\(node) \(naive.meaning)"] = (naive, node, filter)
        default:
            guard let (key, (_, node, filter)) = model.remote.randomElement(using: &random) else { return }
            let was = model.index.unsubscribeRemote(node, filter)
            #expect(was?.wasFresh == true && was?.wasPresent == true)
            let isThere = model.index.unsubscribeRemote(node, filter) != nil
            #expect(!isThere)
            model.remote[key] = nil
        }
    }

    private func listed(_ index: borrowing TopicIndex, _ node: Int) -> [String] {
        var found: [String] = []
        guard index.remote.records.highestUsed > 0 else { return [] }
        for number in 1...index.remote.records.highestUsed where index.remote.records[number].owner == node {
            if let filter = index.remoteFilter(of: number) { found.append("\(filter.canonical)") }
        }
        return found.sorted()
    }

    private func wanted(_ model: borrowing Model, _ node: Int) -> [String] {
        model.remote.values.filter { $0.1 == node }.map { "\($0.2.canonical)" }.sorted()
    }

    @Test("A set that begins anew keeps what stays, and loses the rest only when it is swept")
    func sweeping() throws {
        let (field, mesh) = Self.meshed()
        let node = field.router.addRemoteNode(9)
        let texts = ["a", "b", "c/+", "d/#", "$share/g/e"]
        #expect(field.router.subscribe(node, try texts.map { try Self.entry($0) }).allSatisfy { $0 == .added })
        for _ in 0..<5 {
            // Several that are never completed.
            field.router.beginSet(of: node)
            #expect(field.router.subscribe(node, [try Self.entry("a")]) == [.added])
        }
        #expect(field.router.subscribe(node, [try Self.entry("a"), try Self.entry("d/#")]) == [.same, .added])
        for topic in ["a", "b", "c/x", "d/x"] { field.publish(topic) }
        #expect(mesh.topics == ["a", "b", "c/x", "d/x"], "all are still found")
        #expect(Self.filters(field, node) == ["a", "d/#"], "but not listed")
        // One that ends while it is on its way out counts for nothing.
        #expect(field.router.unsubscribe(node, [try TopicFilter("b", grammar: .mqtt)]) == [.none])
        var cursor: UInt32? = 0
        while let place = cursor { cursor = field.router.sweep(node, after: place, places: 1) }
        _ = mesh.takeAll()
        for topic in ["a", "b", "c/x", "d/x", "e"] { field.publish(topic) }
        #expect(mesh.topics == ["a", "d/x"])
        cursor = 0
        while let place = cursor { cursor = field.router.removeRemoteNode(node, after: place, max: 1) }
        #expect(field.router.remoteFilterCount == 0 && field.publish("a").matched == 0)
    }

    private static func filters(_ field: Field, _ node: RemoteNode) -> [String] {
        var found: [String] = []
        var cursor: UInt32? = 0
        while let place = cursor {
            let page = field.router.remoteFilters(of: node, after: place, limit: 1, places: 2)
            found += page.entries.map(\.filter.wholeText)
            cursor = page.next
        }
        return found.sorted()
    }

    @Test("The mesh is told once of what begins and ends here, and asks who wants it")
    func hook() throws {
        let field = Field()
        let calls = Field.Wakes()
        field.router.attachMesh(Recorder(), on: field.all[0]) { calls.count.add(1, ordering: .relaxed) }
        #expect(field.router.takeInterestOverflow(), "what was there before must be looked through")
        _ = field.router.takeInterestChanges(max: 9)
        let before = calls.count.load(ordering: .relaxed)
        let (a, b) = (field.recorder(), field.recorder())
        try field.subscribe(a, "x/+")
        try field.subscribe(a, "$local/y")
        try field.subscribe(b, "$share/g/z")
        try field.subscribe(b, "$SYS/#")
        #expect(calls.count.load(ordering: .relaxed) == before + 1)
        let touched = field.router.takeInterestChanges(max: 9)
        #expect(touched.map(\.text) == ["x/+", "y", "z"])
        #expect(field.router.localInterest(in: touched) == [.present, .none, .present])
        field.router.setPresence(b, false)
        field.router.setPresence(a, false)
        #expect(field.router.takeInterestChanges(max: 9).map(\.text) == ["z"])
        #expect(field.router.localInterest(in: touched) == [.present, .none, .absent])
        field.router.unregister(a, on: field.all[0])
        field.router.unregister(b, on: field.all[0])
        #expect(field.router.takeInterestChanges(max: 2).count == 2)
        #expect(field.router.takeInterestChanges(max: 9).map(\.text) == ["z"])
        #expect(field.router.localInterest(in: touched) == [.none, .none, .none])
        #expect(field.router.localInterest(in: try TopicFilter("$SYS/#", grammar: .mqtt)) == .none)
    }

    @Test("A subscription that becomes local-only is no interest any more")
    func becomesLocal() throws {
        let (field, _) = Self.meshed()
        let port = field.recorder()
        try field.subscribe(port, "a")
        _ = field.router.takeInterestChanges(max: 9)
        try field.subscribe(port, "$local/a")
        let touched = field.router.takeInterestChanges(max: 9)
        #expect(touched.count == 1 && field.router.localInterest(in: touched) == [.none])
    }

    @Test("Realistic filters of another node take at most 96 bytes each")
    func memory() throws {
        for (wildcards, count) in [(50, 100_000), (1, 20_000)] {
            let filters = try (0..<count).map { number in
                let text = Self.realistic(number, wildcardEvery: wildcards)
                return RemoteEntry(filter: try TopicFilter(text, grammar: .mqtt))
            }
            let mean = filters.reduce(0) { $0 + $1.filter.bytes.count } / filters.count
            let (field, _) = Self.meshed()
            let node = field.router.addRemoteNode(1)
            let before = (Self.resident(), field.router.index.tree.bytesHeld + field.router.index.remote.bytesHeld)
            for start in stride(from: 0, to: filters.count, by: 50) {
                field.router.subscribe(node, filters[start..<start + 50])
            }
            let used = field.router.index.tree.bytesHeld + field.router.index.remote.bytesHeld - before.1
            let each = used / filters.count
            // The process's own size says the same when no other test runs beside this one.
            let resident = (Self.resident() - before.0) / filters.count
            print(
                "interest: \(each) bytes (resident \(resident)) for a remote filter of \(mean) bytes,",
                "one in \(wildcards) a wildcard")
            #expect(field.router.remoteFilterCount == filters.count)
            if wildcards == 50 { #expect(each <= 96) }
        }
    }

    /// Bytes of this process in memory.
    private static func resident() -> Int {
        guard let file = fopen("/proc/self/statm", "r") else { return 0 }
        defer { fclose(file) }
        var text = [CChar](repeating: 0, count: 128)
        guard fgets(&text, 128, file) != nil else { return 0 }
        let words = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            .split(separator: " ")
        return words.count > 1 ? (Int(words[1]) ?? 0) * 4_096 : 0
    }

    static func realistic(_ number: Int, wildcardEvery: Int) -> String {
        let regions = ["north", "south", "east", "west", "centre"]
        let base = "region/\(regions[number % 5])/site/\(number / 5 % 400)/device/\(1_000_000 + number)"
        return number % wildcardEvery == 0 ? base + "/#" : base + "/state"
    }
}
