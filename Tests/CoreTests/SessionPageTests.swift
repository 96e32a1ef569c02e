import Testing

@testable import Core

/// Listings of sessions, page by page.
@Suite struct SessionPageTests {
    @Test(arguments: [0, 1, 300, 30_000])
    func everySessionIsListedOnce(count: Int) {
        let router = Router(limits: Limits(), hashKey: 1)
        let ids = (0..<count).map { "\($0 % 3 == 0 ? "pump" : "é")-\($0)" }
        for (number, id) in ids.enumerated() {
            #expect(router.claimSession(id, for: PortAddress(lane: 0, slot: number, generation: 1)) == .held)
        }
        for (limit, prefix) in [(1_000, ""), (max(1, count / 2), "pump"), (700, "nobody"), (7, "pump-1")] {
            let wanted = ids.filter { $0.hasPrefix(prefix) }
            var found: [SessionPage.Entry] = []
            var after: String?
            repeat {
                let page = router.sessions(after: after, limit: limit, prefix: prefix)
                #expect(page.sessions.count <= limit)
                found += page.sessions
                after = page.next
            } while after != nil
            #expect(found.map(\.clientID).sorted() == wanted.sorted(), "\(limit) \(prefix)")
            for entry in found { #expect(router.session(of: entry.clientID) == entry.address) }
        }
        for (number, id) in ids.enumerated() {
            router.releaseSession(id, at: PortAddress(lane: 0, slot: number, generation: 1))
        }
        #expect(router.sessionCount == 0)
    }

    @Test func spellingsAreDifferentClients() {
        let router = Router(limits: Limits(), hashKey: 1)
        for (slot, id) in ["\u{E9}", "e\u{301}"].enumerated() {
            #expect(router.claimSession(id, for: PortAddress(lane: 0, slot: slot, generation: 1)) == .held)
        }
        #expect(router.sessions(after: nil, limit: 10, prefix: "").sessions.count == 2)
        #expect(router.sessions(after: nil, limit: 10, prefix: "e").sessions.count == 1)
    }
}
