import Testing

@testable import Core

@Suite("Groups prefer members that are present")
struct PresenceTests {
    @Test("An absent member is passed over while another is there")
    func presence() throws {
        var index = TopicIndex(key: 7)
        let ports = (0..<2).map { index.addPort(PortAddress(lane: 0, slot: $0, generation: 1)) }
        let filter = try TopicFilter("$share/g/a", grammar: .mqtt)
        for port in ports { _ = index.subscribe(port, Subscription(filter: filter, options: .qos(1))) }
        var changes = 0
        let all = Self.members(index)
        index.setPresence(ports[0], false) { _ in changes += 1 }
        let one = Self.members(index)
        index.setPresence(ports[1], false) { _ in changes += 1 }
        let none = Self.members(index)
        // Said twice, it changes nothing.
        index.setPresence(ports[1], false) { _ in changes += 1 }
        index.setPresence(ports[0], true) { _ in changes += 1 }
        let back = Self.members(index)
        #expect([all, one, none, back] == [2, 1, 2, 1], "when nobody is there any of them may keep the event")
        #expect(changes == 3)
    }

    @Test("A group may be local-only")
    func localGroup() throws {
        let filter = try TopicFilter("$local/$share/g/a/#", grammar: .mqtt)
        #expect(filter.isLocalOnly && filter.group == Array("g".utf8) && filter.text == "a/#")
        #expect(throws: TopicFilter.Failure.malformedShare) { try TopicFilter("$local/$share/g", grammar: .mqtt) }
    }

    @Test("Client ids are bytes: two spellings of one letter are two clients")
    func clientIDs() {
        let router = Router(limits: Limits(), hashKey: 1)
        let (one, two) = (PortAddress(lane: 0, slot: 1, generation: 1), PortAddress(lane: 0, slot: 2, generation: 1))
        #expect(router.claimSession("caf\u{E9}", for: one) == .held)
        #expect(router.claimSession("cafe\u{301}", for: two) == .held)
        #expect(router.claimSession("caf\u{E9}", for: two) == .taken(one))
        router.releaseSession("caf\u{E9}", at: one)
        #expect(router.sessionCount == 1 && router.session(of: "cafe\u{301}") == two)
    }

    private static func members(_ index: borrowing TopicIndex) -> Int {
        var raw = RawMatch()
        var scratch = MatchScratch()
        Array("a".utf8).withUnsafeBytes { index.match($0, into: &raw, scratch: &scratch) }
        return raw.members.count
    }
}
