import Testing

@testable import Core

@Suite struct TopicIndexTests {
    /// A subscription as the naive list knows it.
    private struct Known: Hashable {
        var port: UInt32
        var text: String
        var isMQTT: Bool
        var group: Int
    }

    private struct Hit: Hashable, Comparable {
        var address: UInt64
        var options: UInt8
        var identifier: UInt32
        static func < (a: Hit, b: Hit) -> Bool {
            (a.address, a.identifier, a.options) < (b.address, b.identifier, b.options)
        }
    }

    /// A million pairs of topic and subscription: 20 rounds of 100 topics against 500 subscriptions that come and go.
    @Test func agreesWithANaiveList() throws {
        var random = Seeded(10)
        var index = TopicIndex(key: random.next())
        let ports = (0..<40).map { index.addPort(PortAddress(lane: $0 % 3, slot: $0, generation: 1)) }
        var known: [Known: (DeliveryOptions, UInt32)] = [:]
        for _ in 0..<20 {
            while known.count < 500 { change(&index, &known, ports, &random) }
            for _ in 0..<300 { change(&index, &known, ports, &random) }
            for _ in 0..<100 { compare(random.topic(), index, known) }
            let count = index.subscriptionCount
            #expect(count == known.count)
        }
        for entry in known.keys { _ = index.unsubscribe(entry.port, try filter(entry)) }
        let left = (index.subscriptionCount, index.records.count, index.groups.count, index.tree.count)
        #expect(left == (0, 0, 0, 0), "everything is pruned")
    }

    private func filter(_ known: Known) throws -> TopicFilter {
        let prefix = known.group == 0 ? "" : "$share/g\(known.group)/"
        return try TopicFilter(prefix + known.text, grammar: known.isMQTT ? .mqtt : .smf)
    }

    private func change(
        _ index: inout TopicIndex, _ known: inout [Known: (DeliveryOptions, UInt32)], _ ports: [UInt32],
        _ random: inout Seeded
    ) {
        if random.below(3) == 0, let old = known.keys.min(by: { ($0.text, $0.port) < ($1.text, $1.port) }) {
            guard let filter = try? filter(old) else { return }
            let wasThere = index.unsubscribe(old.port, filter)
            let isThere = index.unsubscribe(old.port, filter)
            #expect(wasThere && !isThere)
            known[old] = nil
            return
        }
        let isMQTT = random.below(2) == 0
        let entry = Known(
            port: random.pick(ports), text: random.filter(isMQTT ? .mqtt : .smf), isMQTT: isMQTT,
            group: max(0, random.below(6) - 3))
        guard let filter = try? filter(entry) else { return }
        // The same filter may be written in both grammars: then the later one replaces the earlier.
        let twin = known.keys.first {
            $0.port == entry.port && $0.group == entry.group && (try? self.filter($0))?.isSame(as: filter) == true
        }
        let options = DeliveryOptions.qos(UInt8(random.below(3)))
        let identifier = UInt32(random.below(4))
        let isNew = index.subscribe(
            entry.port, Subscription(filter: filter, options: options, identifier: identifier))
        #expect(isNew == (twin == nil), "\(entry)")
        if let twin { known[twin] = nil }
        known[entry] = (options, identifier)
    }

    private func compare(
        _ topic: String, _ index: borrowing TopicIndex, _ known: [Known: (DeliveryOptions, UInt32)]
    ) {
        var raw = RawMatch()
        var scratch = MatchScratch()
        Array(topic.utf8).withUnsafeBytes { index.match($0, into: &raw, scratch: &scratch) }
        var direct: [Hit] = []
        var groups: [String: [Hit]] = [:]
        for (entry, (options, identifier)) in known
        where Oracle.matches(entry.text, entry.isMQTT ? .mqtt : .smf, topic) {
            let hit = Hit(
                address: index.ports[entry.port].address.packed, options: options.rawValue, identifier: identifier)
            guard entry.group > 0, let filter = try? filter(entry) else {
                direct.append(hit)
                continue
            }
            groups["\(entry.group) \(filter.levels.map(\.kind)) \(filter.literal)", default: []].append(hit)
        }
        #expect(raw.hits.map(hit).sorted() == direct.sorted(), "\(topic)")
        var found: [[Hit]] = []
        var start = 0
        for end in raw.groupEnds {
            found.append(raw.members[start..<end].map(hit).sorted())
            start = end
        }
        #expect(Set(found) == Set(groups.values.map { $0.sorted() }), "\(topic)")
        #expect(found.count == groups.count)
    }

    private func hit(_ raw: RawMatch.Hit) -> Hit {
        Hit(address: raw.address, options: raw.options.rawValue, identifier: raw.identifier)
    }

    @Test func filtersComeBackAsTheyWere() throws {
        var index = TopicIndex(key: 7)
        let port = index.addPort(PortAddress(lane: 0, slot: 0, generation: 1))
        let texts = ["a/+/b", "#", "a//b", "/", "$share/g/x/#", "$local/l/+"]
        for text in texts {
            let filter = try TopicFilter(text, grammar: .mqtt)
            _ = index.subscribe(port, Subscription(filter: filter, options: .qos(1)))
        }
        for text in ["a/red*/b", "x/>", "*/y/>"] {
            let filter = try TopicFilter(text, grammar: .smf)
            _ = index.subscribe(port, Subscription(filter: filter, options: .qos(1)))
        }
        var found: [String] = []
        index.forEachSubscription(of: port) { subscription in
            let filter = subscription.filter
            let group = filter.group.map { "$share/\(String(decoding: $0, as: UTF8.self))/" } ?? ""
            found.append((filter.isLocalOnly ? "$local/" : "") + group + filter.text)
        }
        #expect(Set(found) == Set(texts + ["a/red*/b", "x/>", "*/y/>"]))
        var changed = 0
        index.removePort(port) { _ in changed += 1 }
        let left = index.tree.count
        #expect(changed == texts.count + 3 && left == 0)
    }

    @Test func groupsPreferMembersThatAreThere() throws {
        var index = TopicIndex(key: 7)
        let ports = (0..<2).map { index.addPort(PortAddress(lane: 0, slot: $0, generation: 1)) }
        let filter = try TopicFilter("$share/g/a", grammar: .mqtt)
        for port in ports { _ = index.subscribe(port, Subscription(filter: filter, options: .qos(1))) }
        func members() -> Int {
            var raw = RawMatch()
            var scratch = MatchScratch()
            Array("a".utf8).withUnsafeBytes { index.match($0, into: &raw, scratch: &scratch) }
            return raw.members.count
        }
        var changes = 0
        #expect(members() == 2)
        index.setPresence(ports[0], false) { _ in changes += 1 }
        #expect(members() == 1)
        index.setPresence(ports[1], false) { _ in changes += 1 }
        #expect(members() == 2, "nobody is there: any of them may keep the event")
        #expect(changes == 2)
    }

    @Test func numberTableAgreesWithADictionary() {
        var random = Seeded(11)
        var table = NumberTable()
        var known: [UInt32: UInt32] = [:]
        for round in 1...200_000 {
            // Few distinct hashes make long runs, which deletion must not tear.
            let hash = UInt32(truncatingIfNeeded: random.next() % 5_000 * 7)
            if random.below(3) > 0 || known.isEmpty {
                known[UInt32(round)] = hash
                table.insert(UInt32(round), hash: hash)
            } else if let (number, hash) = known.first {
                known[number] = nil
                table.remove(number, hash: hash)
                let found = table.find(hash) { $0 == number }
                #expect(found == 0)
            }
            if round % 20_000 == 0 {
                let count = table.count
                #expect(count == known.count)
                let lost = known.filter { number, hash in table.find(hash) { $0 == number } != number }
                #expect(lost.isEmpty)
            }
        }
    }
}

extension TopicFilter {
    /// The literal parts, joined.
    fileprivate var literal: String {
        levels.filter { $0.kind == .literal || $0.kind == .prefix }
            .map { String(decoding: label($0), as: UTF8.self) }.joined(separator: "/")
    }

    /// Whether both say the same, however written.
    fileprivate func isSame(as other: TopicFilter) -> Bool {
        levels.map(\.kind) == other.levels.map(\.kind) && literal == other.literal && group == other.group
    }
}
