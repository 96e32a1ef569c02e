import Synchronization
import Testing
import TestSupport

@testable import Core

/// Subscriptions that are broader than the rules, and rules that change under subscriptions.
@Suite("Filtered subscriptions")
struct AccessBroadTests {
    private static let rules = [
        AccessRule(effect: .deny, action: .subscribe, topics: ["a/secret/#"]),
        AccessRule(effect: .allow, action: .all, topics: ["a/#", "$SYS/load"]),
        AccessRule(effect: .allow, action: .publish, topics: ["b/#"]),
    ]

    private func rules(_ list: [AccessRule] = Self.rules, _ broad: BroadSubscriptions = .filter) throws -> AccessRules {
        try AccessRules(list, broadSubscriptions: broad)
    }

    private static func event(_ topic: String) -> Event {
        Array(topic.utf8).withUnsafeBytes {
            Event(
                topic: $0, properties: UnsafeRawBufferPointer(start: nil, count: 0),
                payload: UnsafeRawBufferPointer(start: nil, count: 0), qos: 1, isRetained: false, expiresAt: 0)
        }
    }

    private func allow(_ topics: String...) throws -> AccessRules {
        try rules([
            AccessRule(effect: .allow, action: .publish, topics: ["#"]),
            AccessRule(effect: .allow, action: .subscribe, topics: topics),
        ])
    }

    @Test("Wildcard past the rule: refused, or granted and each event looked at")
    func broad() throws {
        let strict = Field(rules: try rules(Self.rules, .refuse))
        #expect(try strict.subscribe(strict.recorder(), "a/#") == .notAuthorized)
        #expect(try strict.subscribe(strict.recorder(), "#") == .notAuthorized)
        #expect(try strict.subscribe(strict.recorder(), "a/+") == .notAuthorized, "it touches a/secret")
        let field = Field(rules: try rules())
        let port = field.recorder()
        for filter in ["#", "+/+"] { #expect(try field.subscribe(port, filter) == .granted(isNew: true)) }
        for filter in ["b/#", "a/secret/+", "$SYS/cpu"] {
            #expect(try field.subscribe(field.recorder(), filter) == .notAuthorized, "\(filter)")
        }
        for _ in 0..<3 {
            for topic in ["a/x", "a/secret/x", "a/secret", "b/x", "a"] { field.publish(topic, ["1", "2"]) }
        }
        #expect(Set(port.topics) == ["a/x", "a"] && port.topics.count == 3 * 2 * 2)
        // Of `#` three topics may not be read; of `+/+` two of them match.
        #expect(field.dropped(.notReadable) == 3 * 2 * (3 + 2))
        #expect(port.deliveries.allSatisfy { $0.options == .qos(0) }, "the mark stays inside")
    }

    @Test("What is not allowed does not count as matched, so nobody learns of it")
    func matched() throws {
        let field = Field(rules: try rules())
        try field.subscribe(field.recorder(), "#")
        #expect(field.publish("a/x").matched == 1 && field.publish("b/x").matched == 0)
    }

    @Test("Options from outside cannot unmark or mark a subscription")
    func options() throws {
        let field = Field(rules: try rules())
        let (port, whole) = (field.recorder(), field.recorder())
        try field.subscribe(port, "#", DeliveryOptions(rawValue: 0))
        try field.subscribe(whole, "a/x", DeliveryOptions(rawValue: 16))
        try field.subscribe(port, "#", .qos(1))
        field.publish("b/x")
        field.publish("a/x")
        #expect(port.topics == ["a/x"] && whole.topics == ["a/x"])
        #expect(field.router.subscriptions(of: whole).map(\.options) == [.qos(0)])
    }

    @Test("A subscription that is allowed as a whole is not looked at, on this lane and on others")
    func whole() throws {
        let field = Field(lanes: 2, rules: try rules())
        let ports = (0..<2).map { field.recorder(on: $0) }
        for port in ports { try field.subscribe(port, "a/open/#") }
        let broad = field.recorder(on: 1)
        try field.subscribe(broad, "#")
        for topic in ["a/open/1", "b/1"] { field.publish(topic) }
        field.settle()
        #expect(ports.allSatisfy { $0.topics == ["a/open/1"] } && broad.topics == ["a/open/1"])
        #expect(field.dropped(.notReadable) == 1, "by the publisher's lane")
    }

    @Test("Shared groups: a broad membership is refused; a member that may not read is not chosen")
    func groups() throws {
        let field = Field(rules: try rules())
        #expect(try field.subscribe(field.recorder(), "$share/g/#") == .notAuthorized)
        let (ann, bob) = (field.recorder(), field.recorder())
        try field.subscribe(ann, "$share/g/a/open/#", as: field.principal("ann", clientID: "1"))
        try field.subscribe(bob, "$share/g/a/open/#", as: field.principal("bob", clientID: "2"))
        field.router.reload(
            try rules([
                AccessRule(effect: .deny, action: .subscribe, topics: ["a/open/2"], users: ["bob"]),
                AccessRule(effect: .deny, action: .subscribe, topics: ["a/open/3"]),
                AccessRule(effect: .allow, action: .all, topics: ["a/#"]),
            ]))
        // No lane has worked since: both are members still.
        for _ in 0..<4 { for number in 1...3 { field.publish("a/open/\(number)") } }
        #expect(bob.topics.allSatisfy { $0 == "a/open/1" } && bob.topics.count == 2)
        #expect(ann.topics.filter { $0 == "a/open/2" }.count == 4)
        #expect(!(ann.topics + bob.topics).contains("a/open/3"), "nobody is left for it")
        let group = try #require(field.router.indexLock.withLock { _ in field.router.index.groups.keys.first })
        field.all[0].redistributeLater(Self.event("a/open/3"), group: group, in: field.router)
        field.all[0].routeDeferred()
        #expect(field.dropped(.noMember) == 1)
        field.work()
        #expect(field.router.sharedSubscriptionCount == 0, "neither may have all of it")
    }

    // MARK: Reload

    @Test("From the reload on nothing is delivered that may not be read; then subscriptions end, in portions")
    func reload() throws {
        let sink = Sink()
        let field = Field(lanes: 2)
        field.router.audit = sink
        let ports = (0..<2).map { field.recorder(on: $0) }
        for port in ports {
            for number in 0..<200 { try field.subscribe(port, "x/\(number)", as: field.principal("u")) }
            try field.subscribe(port, "a/#", as: field.principal("u"))
        }
        field.publish("x/1")
        field.publish("a/1")
        field.settle()
        for port in ports { #expect(port.takeAll().map(\.topic) == ["x/1", "a/1"]) }
        field.router.reload(try allow("a/#"))
        for topic in ["x/1", "a/1", "x/new"] { field.publish(topic) }
        field.settle()
        for port in ports { #expect(port.topics == ["a/1"]) }
        #expect(field.router.subscriptionCount == 402, "no lane has worked yet")
        for lane in field.all { lane.doWork() }
        let left = field.router.subscriptionCount
        #expect(left > 300 && left < 402, "a portion in each pass: \(left)")
        field.work()
        #expect(field.router.subscriptionCount == 2)
        for port in ports { #expect(port.lost.count == 200 && port.judged == 1) }
        let records = sink.records
        #expect(records.count == 400 && records.allSatisfy { $0.user == "u" && $0.action == "subscribe" })
        field.publish("a/2")
        field.settle()
        for port in ports { #expect(port.topics == ["a/1", "a/2"]) }
        #expect(field.all.allSatisfy { !$0.hasWork })
    }

    @Test("With `filter` a subscription of which something is left stays; it widens again with the rules")
    func reloadFilters() throws {
        let field = Field()
        let port = field.recorder()
        try field.subscribe(port, "#")
        let topics = ["a/1", "b/1"]
        func heard() -> [String] {
            for topic in topics { field.publish(topic) }
            return port.takeAll().map(\.topic)
        }
        #expect(heard() == topics)
        field.router.reload(try allow("a/#"))
        #expect(heard() == ["a/1"])
        field.work()
        #expect(heard() == ["a/1"] && port.lost.isEmpty)
        field.router.reload(try allow("b/#"))
        #expect(heard() == ["b/1"], "before the lane has worked")
        field.work()
        #expect(heard() == ["b/1"])
        field.router.reload(try allow("#"))
        field.work()
        #expect(heard() == topics)
        field.router.reload(try allow("a/#"))
        field.router.reload(.none)
        #expect(heard() == topics, "without rules nothing is left out")
        field.work()
        #expect(heard() == topics && field.all.allSatisfy { !$0.hasWork })
        field.router.reload(try allow("c"))
        field.work()
        #expect(heard() == [] && port.lost.isEmpty, "something of it may come some day")
    }

    @Test("Rules that change while a lane works, and ports that end or subscribe meanwhile")
    func reloadUnderWork() throws {
        var random = Seeded(9_100)
        let field = Field(lanes: 2)
        var ports = (0..<30).map { field.recorder(on: $0 % 2) }
        let filters = ["a/#", "b/#", "a/+", "b/1", "+/1", "#", "$share/g/a/1", "$share/g/b/+"]
        let sets = [["a/#"], ["b/#"], ["a/1", "b/1"], ["#"], ["c"]]
        var rules = ["#"]
        for _ in 0..<300 {
            switch random.below(5) {
            case 0:
                rules = random.pick(sets)
                field.router.reload(
                    try self.rules(
                        [
                            AccessRule(effect: .allow, action: .publish, topics: ["#"]),
                            AccessRule(effect: .allow, action: .subscribe, topics: rules),
                        ], random.pick(BroadSubscriptions.allCases)))
            case 1:
                let place = random.below(ports.count)
                field.router.unregister(ports[place], on: field.all[ports[place].address.lane])
                ports[place] = field.recorder(on: random.below(2))
            case 2: for lane in field.all { lane.readMail(); lane.doWork() }
            default: try field.subscribe(random.pick(ports), random.pick(filters))
            }
            for topic in ["a/1", "b/1", "c"] { field.publish(topic) }
            field.settle()
            let allowed = try rules.map { try TopicFilter($0, grammar: .mqtt) }
            for port in ports {
                for topic in port.takeAll().map(\.topic) where !allowed.contains(where: { $0.matches(topic) }) {
                    Issue.record("\(topic) under \(rules), \(random.note)")
                }
            }
        }
        field.work()
        #expect(field.all.allSatisfy { !$0.hasWork }, "\(random.note)")
        let version = field.router.indexLock.withLock { _ in field.router.index.readersVersion }
        for port in ports {
            let record = field.router.indexLock.withLock { _ in field.router.index.ports[port.number] }
            #expect(record.count == 0 || record.judged == version, "\(random.note)")
        }
    }

    // MARK: Takeover

    @Test("Takeover by somebody with other rights: what the former subscribed to is judged by the new one's")
    func takeover() throws {
        let field = Field(
            rules: try rules([
                AccessRule(effect: .allow, action: .publish, topics: ["#"]),
                AccessRule(effect: .allow, action: .subscribe, topics: ["a/#"], groups: ["readers"]),
                AccessRule(effect: .allow, action: .subscribe, topics: ["a/open"]),
            ]))
        let reader = field.principal("ann", groups: ["readers"])
        let inbox = Keeper(principal: reader)
        field.router.register(inbox, on: field.all[0])
        let subscription = Subscription(filter: try TopicFilter("a/#", grammar: .mqtt), options: .qos(1))
        #expect(field.router.subscribe(inbox, subscription, as: reader, on: field.all[0]) == .granted(isNew: true))
        for topic in ["a/1", "a/open", "a/2"] { field.publish(topic, qos: 1) }
        #expect(inbox.waiting.count == 3)
        // The same user, who is no reader any more.
        let link = Link()
        inbox.attach(link, principal: field.principal("ann"))
        field.publish("a/3", qos: 1)
        field.publish("a/open", qos: 1)
        #expect(inbox.waiting.count == 4, "a/3 is not let in")
        var taken: [String] = []
        while let entry = inbox.nextWaiting(on: field.all[0]) {
            taken.append(String(decoding: entry.event.topic, as: UTF8.self))
        }
        #expect(taken == ["a/open", "a/open"], "nor is sent what waited for a reader")
        #expect(field.dropped(.notReadable) == 3)
        field.work()
        inbox.attach(link, principal: field.principal("ann"))
        #expect(!field.all[0].hasWork, "the same rights need no look")
        inbox.attach(link, principal: reader)
        field.work()
        field.publish("a/4", qos: 1)
        #expect(inbox.waiting.count == 1)
    }

    // MARK: Retained

    @Test("Retained past the rule: a filtered subscription begins with what may be read")
    func retained() throws {
        let field = Field(rules: try rules())
        for topic in ["a/1", "a/secret/1", "b/1", "a/2"] { field.publish(topic, ["1"], qos: 1, isRetained: true) }
        let delivery = RetainedDelivery()
        delivery.add(
            RetainedDelivery.Start(filter: try TopicFilter("#", grammar: .mqtt), qos: 1, identifier: 0))
        var budget = 100
        var found: [String] = []
        let progress = delivery.work(&budget, as: field.principal(), on: field.all[0]) { event, _ in
            found.append(String(decoding: event.topic, as: UTF8.self))
            return true
        }
        #expect(progress == .done && found.sorted() == ["a/1", "a/2"])
        #expect(field.dropped(.notReadable) == 2)
    }

    @Test("Retained past the rule: publishing with the retain flag needs its own right")
    func retaining() throws {
        let field = Field(
            rules: try rules([
                AccessRule(effect: .deny, action: .retain, topics: ["a/#"]),
                AccessRule(effect: .allow, action: .all, topics: ["#"]),
            ]))
        let principal = field.principal()
        for _ in 0..<3 {
            #expect(field.publish("a/x", ["1"], as: principal, isRetained: true).verdict == .notAuthorized)
            #expect(field.publish("a/x", as: principal).verdict == .routed)
            #expect(field.publish("b/x", ["1"], as: principal, isRetained: true).verdict == .routed)
        }
        #expect(field.router.retainedCount == 1)
    }

    // MARK: Records

    @Test("Refusals are recorded, the same one once in ten seconds")
    func audit() throws {
        let sink = Sink()
        let field = Field(
            rules: try rules([
                AccessRule(effect: .deny, action: .retain, topics: ["a/#"]),
                AccessRule(effect: .deny, action: .share, topics: ["#"]),
                AccessRule(effect: .allow, action: .all, topics: ["a/#"]),
            ]))
        field.router.audit = sink
        let lane = field.all[0]
        lane.now = 5_000
        let ann = field.principal("ann")
        (ann.peer, ann.protocolName) = ("192.0.2.1:99", "mqtt")
        let port = field.recorder()
        for _ in 0..<5 {
            field.publish("b", as: ann)
            field.publish("b", as: ann, isRetained: true)
            field.publish("a/x", as: ann, isRetained: true)
            try field.subscribe(port, "b", as: ann)
            try field.subscribe(port, "$share/g/a", as: ann)
        }
        #expect(sink.records.map(\.action) == ["publish", "retain", "subscribe", "share"])
        #expect(sink.records.map(\.object) == ["b", "a/x", "b", "$share/g/a"])
        #expect(sink.records.allSatisfy { $0.user == "ann" && $0.peer == "192.0.2.1:99" && $0.kind == .access })
        lane.now += 10_000
        field.publish("b", as: ann)
        #expect(sink.records.count == 5)
        for number in 0..<1_000 { field.publish("c/\(number)", as: ann) }
        #expect(sink.records.count < 50, "a flood of different ones ends as well: \(sink.records.count)")
        #expect(field.dropped(.notAuthorized) == 15 + 1 + 1_000)
    }
}

/// Keeps records.
private final class Sink: AuditSink {
    private let kept = Mutex<[AuditRecord]>([])
    var records: [AuditRecord] { kept.withLock { $0 } }
    func record(_ record: AuditRecord) { kept.withLock { $0.append(record) } }
}

/// An inbox where everything waits.
private final class Keeper: Inbox {
    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        for index in 0..<run.pointee.count {
            _ = wait(EventQueue.Entry(event: run.pointee.event(index), qos: 1, isRetained: false), on: lane)
        }
        return 0
    }
}
