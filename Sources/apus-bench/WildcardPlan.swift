/// Scenario e64: 978 wildcard filters on 100 clients, 100 topics, 1.48 deliveries per message.
///
/// No client has two filters that match one topic. Brokers may deliver such a message once or twice, both is
/// allowed, and the accounting has to be exact for all of them.
enum WildcardPlan {
    static let clients = 100
    static let filterCount = 978
    static let topicCount = 100
    static let matchCount = 148
    private static let laps = 80

    static func make(_ name: String) -> Plan {
        var random = Seeded(978)
        let topics = (0..<topicCount).map { levels(site: $0 / 10, device: $0 % 10, metric: metric($0 / 10, $0 % 10)) }
        var filters: [[[String]]] = Array(repeating: [], count: clients)
        var owned: [[Bool]] = Array(repeating: Array(repeating: false, count: topicCount), count: clients)
        var matches = 0
        while matches < matchCount {
            let filter = wildcard(topics[Int.random(in: 0..<topicCount, using: &random)], &random)
            let client = Int.random(in: 0..<clients, using: &random)
            let hit = topics.indices.filter { naiveMatch(filter, topics[$0]) }
            guard !hit.isEmpty, matches + hit.count <= matchCount, filters[client].count < 9,
                !hit.contains(where: { owned[client][$0] }), !filters[client].contains(filter)
            else { continue }
            filters[client].append(filter)
            for topic in hit { owned[client][topic] = true }
            matches += hit.count
        }
        var count = filters.reduce(0) { $0 + $1.count }
        var client = 0
        while count < filterCount {
            // Devices from 10 on exist only in filters: most of what a fleet subscribes to is silent.
            let site = Int.random(in: 0..<100, using: &random)
            let device = Int.random(in: 10..<100, using: &random)
            let filter = wildcard(levels(site: site, device: device, metric: metric(site, device)), &random)
            guard !filters[client].contains(filter), !topics.contains(where: { naiveMatch(filter, $0) }) else {
                continue
            }
            filters[client].append(filter)
            count += 1
            repeat { client = (client + 1) % clients } while filters[client].count >= 10 && count < filterCount
        }
        return plan(name, topics, filters, owned, &random)
    }

    private static func plan(
        _ name: String, _ topics: [[String]], _ filters: [[[String]]], _ owned: [[Bool]], _ random: inout Seeded
    ) -> Plan {
        var order: [Int] = []
        for _ in 0..<laps { order += Array(0..<topicCount).shuffled(using: &random) }
        var plan = Plan(name: name, flow: .matched, window: 4000, relayable: false)
        let sent = order.map { topics[$0].joined(separator: "/") }
        plan.publishers = [Plan.Publisher(topics: sent, subscribers: 0..<clients)]
        for client in 0..<clients {
            let expected = order.indices.filter { owned[client][order[$0]] }.map { Int32($0) }
            plan.subscribers.append(
                Plan.Subscriber(
                    filters: filters[client].map { $0.joined(separator: "/") }, publisher: 0, expected: expected))
        }
        return plan
    }

    private static func metric(_ site: Int, _ device: Int) -> Int {
        (site * 7 + device * 3) % 10
    }

    private static func levels(site: Int, device: Int, metric: Int) -> [String] {
        ["e", "s" + two(site), "d" + two(device), "m" + two(metric)]
    }

    private static func two(_ number: Int) -> String {
        number < 10 ? "0\(number)" : "\(number)"
    }

    /// One of the shapes in use: a level replaced by `+`, or the tail by `#`.
    private static func wildcard(_ levels: [String], _ random: inout Seeded) -> [String] {
        var filter = levels
        switch Int.random(in: 0..<8, using: &random) {
        case 0: filter[0] = "+"
        case 1: filter[1] = "+"
        case 2: filter[2] = "+"
        case 3, 4: filter[3] = "+"
        case 5, 6: filter[3] = "#"
        default:
            filter[0] = "+"
            filter[3] = "#"
        }
        return filter
    }

    /// The definition of matching, level by level; the bench trusts no broker with it.
    static func naiveMatch(_ filter: [String], _ topic: [String]) -> Bool {
        for (index, level) in filter.enumerated() {
            if level == "#" { return true }
            guard index < topic.count, level == "+" || level == topic[index] else { return false }
        }
        return filter.count == topic.count
    }
}
