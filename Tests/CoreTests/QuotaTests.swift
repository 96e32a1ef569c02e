import Synchronization
import Testing
import TestSupport

@testable import Core

/// A link from somewhere.
final class Place: Link {
    private let name: String
    private let from: NetworkAddress?

    init(_ address: String? = nil, listener: String = "") {
        from = address.flatMap { NetworkAddress($0) }
        name = listener
    }

    override var address: NetworkAddress? { from }
    override var listenerName: String { name }
    override var peer: String { from?.description ?? "unix" }
}

/// Writes records down.
final class Clerk: AuditSink {
    private let kept = Mutex<[AuditRecord]>([])

    func record(_ record: AuditRecord) { kept.withLock { $0.append(record) } }

    func takeAll() -> [AuditRecord] {
        kept.withLock { kept in
            defer { kept = [] }
            return kept
        }
    }
}

@Suite("Quotas")
struct QuotaTests {
    private func range(_ text: String) throws -> AddressRange { try #require(AddressRange(text)) }

    // MARK: Who is judged by what

    @Test("For each resource the first rule that fits and names it decides")
    func firstRule() throws {
        let quotas = Quotas([
            QuotaRule(users: ["anna"], limits: [.sessions: 1]),
            QuotaRule(groups: ["fleet"], listeners: ["tls"], limits: [.sessions: 2, .subscriptions: 2]),
            QuotaRule(addresses: [try range("10.0.0.0/8")], limits: [.subscriptions: 3]),
            QuotaRule(limits: [.sessions: 4, .subscriptions: 4]),
        ])
        let field = Field(quotas: quotas)
        func limits(_ user: String?, _ groups: [String], _ link: Link?) -> [Int] {
            let allowance = field.principal(user, groups: groups, link: link).allowance
            return [
                allowance?.sessions?.limits[.sessions] ?? 0, allowance?.subscriptions?.limits[.subscriptions] ?? 0,
            ]
        }
        #expect(limits("anna", ["fleet"], Place(listener: "tls")) == [1, 2])
        #expect(limits("anna", [], nil) == [1, 4])
        #expect(limits("bert", ["fleet"], Place("10.1.1.1", listener: "tcp")) == [4, 3])
        #expect(limits("bert", ["fleet"], Place("10.1.1.1", listener: "tls")) == [2, 2])
        #expect(limits(nil, [], Place("192.0.2.1")) == [4, 4])
        #expect(Field(quotas: Quotas([])).principal("anna").allowance == nil)
        #expect(Principal.node(field.router).allowance == nil, "the node itself has none")
    }

    @Test("A user's connections share an allowance; others have their own")
    func sharing() throws {
        let quotas = Quotas([
            QuotaRule(users: ["anna", "bert", "anonymous"], limits: [.subscriptions: 9]),
            QuotaRule(addresses: [try range("::/0")], limits: [.subscriptions: 9]),
            QuotaRule(listeners: ["a", "b"], limits: [.subscriptions: 9]),
        ])
        let field = Field(quotas: quotas)
        func usage(_ user: String?, _ link: Link? = nil) -> Usage? {
            field.principal(user, link: link).allowance?.subscriptions
        }
        #expect(usage("anna") === usage("anna", Place("::1")))
        #expect(usage("anna") !== usage("bert"))
        #expect(usage(nil) === usage(nil))
        #expect(usage("x", Place("2001:db8::1")) === usage("y", Place("2001:db8::ffff:1")), "one network")
        #expect(usage("x", Place("2001:db8::1")) !== usage("x", Place("2001:db8:0:1::1")))
        #expect(usage("x", Place(listener: "a")) === usage("y", Place(listener: "a")))
        #expect(usage("x", Place(listener: "a")) !== usage("x", Place(listener: "b")))
        #expect(usage("x", Place(listener: "c")) == nil)
    }

    // MARK: Connections

    @Test("Connections count from the login to the end of their link")
    func connections() {
        let clerk = Clerk()
        let field = Field(quotas: Quotas([QuotaRule(users: ["anna"], limits: [.connections: 2])], audit: clerk))
        let lane = field.all[0]
        var links = (0..<3).map { _ in Place("192.0.2.1") }
        #expect(field.principal("anna").join(links[0], on: lane) == nil)
        #expect(field.principal("anna").join(links[1], on: lane) == nil)
        #expect(field.principal("anna").join(links[2], on: lane) == .connections)
        #expect(field.principal("bert").join(links[2], on: lane) == nil)
        #expect(links[2].stay == nil, "nobody limits this one")
        // The same connection once more takes no second place.
        #expect(field.principal("anna").join(links[1], on: lane) == nil)
        #expect(field.principal("anna").join(Place(), on: lane) == .connections)
        links.removeFirst()
        #expect(field.principal("anna").join(Place(), on: lane) == nil)
        #expect(lane.counters.refused[QuotaResource.connections.rawValue] == 2)
        let records = clerk.takeAll()
        #expect(records.count == 1)
        #expect(records.first?.user == "anna" && records.first?.object == "max_connections")
        #expect(records.first?.kind == .quota)
    }

    @Test("A rate of connections has a burst, and is used up by those alone who come in")
    func connectionRate() {
        let field = Field(quotas: Quotas([QuotaRule(limits: [.connectionRate: 2, .connections: 50])]))
        let lane = field.all[0]
        lane.now = 1_000
        func joined(_ count: Int) -> [Place] {
            (0..<count).map { _ in Place() }.filter { field.principal("anna").join($0, on: lane) == nil }
        }
        #expect(joined(30).count == 10, "a burst of ten at least")
        lane.now = 1_400
        #expect(joined(5).isEmpty)
        lane.now = 1_500
        #expect(joined(5).count == 1)
        lane.now = 100_000
        #expect(joined(30).count == 10)
    }

    @Test("Addresses and listeners are counted before anybody says who it is")
    func admission() throws {
        let quotas = Quotas([
            QuotaRule(users: ["anna"], limits: [.connections: 0]),
            QuotaRule(addresses: [try range("192.0.2.0/24")], limits: [.connections: 2]),
            QuotaRule(listeners: ["tcp"], limits: [.connections: 3]),
        ])
        func admit(_ address: String?, _ listener: String = "tcp") throws -> QuotaStay? {
            try quotas.admit(
                listener: listener, address: address.flatMap { NetworkAddress($0) }, peer: "", now: 1_000
            ).get()
        }
        var stays = [try admit("192.0.2.1"), try admit("192.0.2.1"), try admit("192.0.2.2")]
        #expect(throws: OverQuota(resource: .connections)) { try admit("192.0.2.1") }
        #expect(try admit("10.0.0.1", "other") == nil)
        stays += [try admit("10.0.0.1"), try admit(nil), try admit("2001:db8::1")]
        #expect(throws: OverQuota(resource: .connections)) { try admit("2001:db8::2") }
        #expect(quotas.rowCount == 3)
        stays.removeAll()
        quotas.sweep(now: 2_000)
        #expect(quotas.rowCount == 0)
        // What the accept has judged is not judged again at the login.
        let field = Field(quotas: quotas)
        #expect(field.principal("bert", link: Place("192.0.2.1", listener: "tcp")).allowance == nil)
        #expect(field.principal("anna").join(Place(), on: field.all[0]) == .connections)
    }

    // MARK: Sessions and subscriptions

    @Test("Sessions count until they end, wherever the client is")
    func sessions() {
        let field = Field(quotas: Quotas([QuotaRule(limits: [.sessions: 2])]))
        let (anna, bert) = (field.principal("anna"), field.principal("bert"))
        func claim(_ id: String, _ principal: Principal, even: Bool = false) -> Router.SessionClaim {
            field.router.claimSession(
                id, for: PortAddress(lane: 0, slot: 1, generation: 1), as: principal, evenOverQuota: even,
                on: field.all[0])
        }
        #expect(claim("a", anna) == .held)
        #expect(claim("b", anna) == .held)
        #expect(claim("c", anna) == .overQuota)
        #expect(claim("a", anna) == .taken(PortAddress(lane: 0, slot: 1, generation: 1)))
        #expect(claim("c", bert) == .held)
        #expect(claim("d", anna, even: true) == .held)
        field.router.releaseSession("d", at: PortAddress(lane: 0, slot: 2, generation: 1))
        #expect(claim("e", anna) == .overQuota)
        for id in ["d", "a"] { field.router.releaseSession(id, at: PortAddress(lane: 0, slot: 1, generation: 1)) }
        #expect(claim("e", anna) == .held)
        #expect(anna.allowance?.sessions?.count(.sessions) == 2)
    }

    @Test("A session that follows another of its client id takes its place in one step")
    func succession() {
        var limits = Limits()
        limits.maxSessions = 2
        let rules = [
            QuotaRule(groups: ["fleet"], limits: [.sessions: 2]), QuotaRule(users: ["anna"], limits: [.sessions: 1]),
        ]
        let field = Field(limits: limits, quotas: Quotas(rules))
        let (anna, fleet) = (field.principal("anna"), field.principal("anna", groups: ["fleet"]))
        let places = (0..<4).map { PortAddress(lane: 0, slot: $0, generation: 1) }
        func claim(
            _ id: String, _ place: Int, after former: Int? = nil, _ principal: Principal
        ) -> Router.SessionClaim {
            field.router.claimSession(
                id, for: places[place], after: former.map { places[$0] }, as: principal, on: field.all[0])
        }
        func counts() -> [Int] { [anna, fleet].map { $0.allowance?.sessions?.count(.sessions) ?? -1 } }
        #expect(claim("a", 0, anna) == .held && claim("b", 1, fleet) == .held)
        #expect(claim("a", 2, after: 0, anna) == .held, "neither limit counts it twice")
        #expect(field.router.session(of: "a") == places[2] && counts() == [1, 1] && field.router.sessionCount == 2)
        #expect(claim("a", 3, after: 0, anna) == .taken(places[2]), "it is another's by now")
        #expect(claim("b", 3, after: 1, anna) == .overQuota && field.router.session(of: "b") == places[1])
        #expect(counts() == [1, 1])
        #expect(claim("a", 3, after: 2, fleet) == .held && counts() == [0, 2], "it counts for whom it is now")
        field.router.releaseSession("a", at: places[2])
        #expect(field.router.session(of: "a") == places[3], "the former has nothing to give up")
        field.router.releaseSession("a", at: places[3])
        #expect(counts() == [0, 1] && claim("a", 0, after: 3, anna) == .held)
    }

    @Test("Subscriptions of all a user's ports count, and stop to when they end in any way")
    func subscriptions() throws {
        let field = Field(quotas: Quotas([QuotaRule(limits: [.subscriptions: 3])]))
        let anna = field.principal("anna")
        let (one, other) = (field.recorder(), field.recorder())
        #expect(try field.subscribe(one, "a", as: anna) == .granted(isNew: true))
        #expect(try field.subscribe(one, "a", .qos(1), as: anna) == .granted(isNew: false))
        #expect(try field.subscribe(one, "b", as: anna) == .granted(isNew: true))
        #expect(try field.subscribe(other, "b", as: field.principal("anna")) == .granted(isNew: true))
        #expect(try field.subscribe(other, "c", as: anna) == .overQuota)
        #expect(try field.subscribe(one, "a", as: anna) == .granted(isNew: false), "what is there may be repeated")
        #expect(try field.unsubscribe(one, "a"))
        #expect(try !field.unsubscribe(one, "a"))
        #expect(try field.subscribe(other, "c", as: anna) == .granted(isNew: true))
        field.router.unregister(other, on: field.all[0])
        #expect(anna.allowance?.subscriptions?.count(.subscriptions) == 1)
        #expect(field.all[0].counters.refused[QuotaResource.subscriptions.rawValue] == 1)
    }

    // MARK: Publishing

    @Test("A user publishes no faster with more connections, and a refused run costs nothing")
    func publishRate() {
        let field = Field(lanes: 2, quotas: Quotas([QuotaRule(limits: [.publishRate: 100])]))
        for lane in field.all { lane.now = 5_000 }
        let principals = (0..<4).map { _ in field.principal("anna") }
        var routed = 0
        for number in 0..<400 {
            let outcome = field.publish("a", as: principals[number % 4], on: number % 2)
            if outcome.verdict == .routed { routed += 1 }
        }
        #expect(routed == 100)
        #expect(field.publish("a", as: field.principal("bert")).verdict == .routed)
        #expect(field.dropped(.quotaExceeded) + field.dropped(.quotaExceeded, on: 1) == 300)
        for lane in field.all { lane.now = 5_020 }
        let two = (0..<10).map { _ in field.publish("a", as: principals[0]).verdict }
        #expect(two.filter { $0 == .routed }.count == 2)
    }

    @Test("A run is taken whole while a token is left, but nobody owes more than ten seconds")
    func debt() {
        let field = Field(quotas: Quotas([QuotaRule(limits: [.publishRate: 10])]))
        let lane = field.all[0]
        lane.now = 1_000
        let anna = field.principal("anna")
        #expect(field.publish("a", Array(repeating: "", count: 1_000), as: anna).verdict == .routed)
        lane.now = 10_900
        #expect(field.publish("a", as: anna).verdict == .quotaExceeded)
        #expect(anna.waitToPublish(lane.now) > 0)
        lane.now = 11_200
        #expect(anna.waitToPublish(lane.now) == 0)
        #expect(field.publish("a", as: anna).verdict == .routed)
    }

    @Test("Over any time there are never more events than rate and burst allow, nor fewer than could be")
    func bucket() {
        var random = Seeded(77)
        for _ in 0..<50 {
            let rate = 1 + random.below(20_000)
            let limits = QuotaLimits(QuotaRule(limits: [.publishRate: rate]), number: 0)
            let usage = Usage(limits, .listener(""))
            var (now, taken, largest) = (UInt64(1_000_000), 0, 0)
            let start = now
            for _ in 0..<2_000 {
                now += UInt64(random.below(30))
                let count = 1 + random.below(max(rate / 50, 1))
                let left = usage.left(.publishRate, now)
                let isTaken = usage.take(count, .publishRate, now)
                #expect(isTaken == (left > 0), "\(random.note)")
                #expect((usage.wait(.publishRate, now) == 0) == (usage.left(.publishRate, now) >= max(rate / 100, 1)))
                if isTaken { taken += count }
                largest = max(largest, count)
            }
            let seconds = Double(now - start) / 1_000
            let most = Double(rate) * (1 + seconds) + Double(largest)
            #expect(Double(taken) <= most + 1, "rate \(rate), \(random.note)")
        }
    }

    @Test("Bytes and payloads are limited, too")
    func bytesAndPayload() {
        let clerk = Clerk()
        let field = Field(quotas: Quotas([QuotaRule(limits: [.publishBytes: 1_000, .payload: 400])], audit: clerk))
        field.all[0].now = 1_000
        let anna = field.principal("anna")
        let large = String(repeating: "x", count: 401)
        #expect(field.publish("a", [large], as: anna).verdict == .payloadTooLarge)
        #expect(field.publish("a", ["", large], as: anna).verdict == .payloadTooLarge)
        let fits = String(repeating: "x", count: 399)
        let verdicts = (0..<5).map { _ in field.publish("a", [fits], as: anna).verdict }
        #expect(verdicts == [.routed, .routed, .routed, .quotaExceeded, .quotaExceeded])
        #expect(anna.maxPayload == 400)
        #expect(clerk.takeAll().map(\.object) == ["max_payload", "publish_bytes"], "each once in a while")
        field.all[0].now = 12_000
        #expect(field.publish("a", [large], as: anna).verdict == .payloadTooLarge)
        #expect(clerk.takeAll().map(\.action) == ["publish"])
        #expect(field.all[0].counters.refused[QuotaResource.payload.rawValue] == 3)
    }

    @Test("A client that is slowed down loses nothing, and is told how long to wait")
    func pacing() {
        let field = Field(quotas: Quotas([QuotaRule(limits: [.publishRate: 100, .publishBytes: 1_000_000])]))
        let lane = field.all[0]
        lane.now = 1_000
        let anna = field.principal("anna")
        anna.pacing = .direct
        #expect(anna.room(lane.now) == Principal.Room(events: 100, bytes: 1_000_000))
        for _ in 0..<110 { #expect(field.publish("a", as: anna).verdict == .routed) }
        #expect(anna.room(lane.now).events == 0)
        #expect(anna.waitToPublish(lane.now) == 110)
        #expect(field.publish("a", as: anna, qos: 1).verdict == .quotaExceeded)
        lane.now = 1_110
        #expect(anna.waitToPublish(lane.now) == 0)
        #expect(field.publish("a", as: anna, qos: 1).verdict == .routed)
    }

    // MARK: The table

    @Test("Rows leave when nobody counts and every token is back; others stay")
    func rows() {
        let quotas = Quotas([QuotaRule(limits: [.connectionRate: 1, .publishRate: 1])])
        let field = Field(quotas: quotas)
        let lane = field.all[0]
        lane.now = 1_000
        let stays = (0..<10).map { _ in Place() }
        for number in 0..<100 {
            let principal = field.principal("user \(number)")
            _ = principal.join(number < 10 ? stays[number] : Place(), on: lane)
        }
        #expect(quotas.rowCount == 100)
        quotas.sweep(now: 1_900)
        #expect(quotas.rowCount == 100, "whoever comes again must not find new tokens")
        quotas.sweep(now: 2_000)
        #expect(quotas.rowCount == 10)
        for stay in stays { stay.stay = nil }
        quotas.sweep(now: 2_100)
        #expect(quotas.rowCount == 0)
    }

    @Test("A flood of names cannot grow the table: those beyond it share an allowance")
    func fullTable() {
        let quotas = Quotas([QuotaRule(limits: [.connections: 2])], maxRows: 50)
        let field = Field(quotas: quotas)
        var (links, joined) = ([Place](), 0)
        for number in 0..<500 {
            let link = Place()
            if field.principal("user \(number)").join(link, on: field.all[0]) == nil { joined += 1 }
            links.append(link)
        }
        #expect(quotas.rowCount == 50)
        #expect(joined == 52)
        links.removeAll()
        #expect(field.principal("new").join(Place(), on: field.all[0]) == nil)
        #expect(quotas.rowCount < 50, "room is made where it is needed")
    }

    @Test("New limits hold at once, and what was counted stays")
    func reload() {
        let quotas = Quotas([QuotaRule(users: ["anna"], limits: [.connections: 1, .publishRate: 10])])
        let field = Field(quotas: quotas)
        let lane = field.all[0]
        lane.now = 1_000
        let (anna, link) = (field.principal("anna"), Place())
        #expect(anna.join(link, on: lane) == nil)
        quotas.reload([
            QuotaRule(users: ["bert"], limits: [.connections: 5]),
            QuotaRule(users: ["anna"], limits: [.connections: 2, .publishRate: 20]),
        ])
        let other = Place()
        #expect(field.principal("anna").join(other, on: lane) == nil)
        #expect(field.principal("anna").join(Place(), on: lane) == .connections)
        #expect((0..<30).filter { _ in field.publish("a", as: anna).verdict == .routed }.count == 20)
        quotas.reload([])
        #expect(field.principal("anna").allowance == nil)
        #expect(field.publish("a", as: anna).verdict == .quotaExceeded, "a rule that has gone stays for who is there")
    }

    @Test("From many threads there are never more than there may be, and at the end none")
    func threads() async throws {
        let quotas = Quotas([QuotaRule(addresses: [try range("0.0.0.0/0")], limits: [.connections: 7])])
        let watch = Watch()
        await withTaskGroup(of: Void.self) { group in
            for task in 0..<8 { group.addTask { watch.play(quotas, UInt32(task)) } }
        }
        #expect(watch.most.load(ordering: .relaxed) <= 7)
        #expect(watch.admitted.load(ordering: .relaxed) > 0)
        quotas.sweep(now: 1_000_000)
        #expect(quotas.rowCount == 0)
    }
}

/// Connections of one address that are there at once, seen from outside.
private final class Watch: Sendable {
    let now = Atomic<Int>(0)
    let most = Atomic<Int>(0)
    let admitted = Atomic<Int>(0)

    func play(_ quotas: Quotas, _ task: UInt32) {
        for round in 0..<2_000 {
            var stays: [QuotaStay?] = []
            for _ in 0..<3 {
                let result = quotas.admit(
                    listener: "", address: NetworkAddress(ipv4: 1), peer: "", now: UInt64(round))
                guard case .success(let stay) = result else { continue }
                stays.append(stay)
                admitted.add(1, ordering: .relaxed)
                most.max(now.add(1, ordering: .relaxed).newValue, ordering: .relaxed)
            }
            now.subtract(stays.count, ordering: .relaxed)
            stays.removeAll()
        }
    }
}
