/// What a closed-loop scenario connects, sends and expects. Everything is known before the first byte is sent.
struct Plan {
    /// How far ahead of its subscribers a publisher may be, and what a subscriber must see.
    enum Flow {
        /// Each publisher has subscribers of its own, who get everything in order.
        case fan
        /// One subscriber gets everything of all publishers; in order per publisher.
        case pooled
        /// One publisher; each subscriber gets a known part of its messages, in order.
        case matched
    }

    struct Publisher {
        var topics: [String]
        /// The subscribers of this publisher.
        var subscribers: Range<Int>
    }

    struct Subscriber {
        var filters: [String]
        /// The publisher it hears.
        var publisher: Int
        /// Which messages of the publisher's circle it gets; nil for all.
        var expected: [Int32]?
    }

    let name: String
    var qos = 0
    var payload = 64
    var flow = Flow.fan
    var publishers: [Publisher] = []
    var subscribers: [Subscriber] = []
    /// Messages in flight per publisher.
    var window: Int
    /// Whether bytes can be copied by the relay to the same effect.
    var relayable = true
    /// Connect subscriber and publisher in turn, so that a node with two lanes separates them.
    var alternate = false
    /// What the names of its clients begin with: in a mesh no two clients may have the same.
    var clientPrefix = ""
}

/// The closed-loop scenarios by name.
enum Plans {
    static let names = [
        "a64", "a1k", "b64", "b1k", "c64", "d64", "d1k", "di64", "e64", "mt64", "q1a", "q1d",
    ]

    /// The window decides how much a broker can do at once, and with it the relay's cost more than anybody's:
    /// d64 costs the relay .15 us with 50 in flight per pair and .02 us with 400. So that the ratios mean the same
    /// everywhere, all 64-byte scenarios keep 4,000 to 10,000 events in flight in all.
    static func named(_ name: String) -> Plan? {
        switch name {
        case "a64", "a64x2": pairs(name, count: 1, window: 4000)
        case "a1k": pairs(name, count: 1, payload: 1024, window: 600)
        case "b64": broadcast(name, payload: 64, window: 1000)
        case "b1k": broadcast(name, payload: 1024, window: 200)
        case "c64": gather(name)
        case "d64", "d64x2": pairs(name, count: 50, window: 100)
        case "d1k": pairs(name, count: 50, payload: 1024, window: 100)
        case "di64": pairs(name, count: 50, window: 1)
        case "e64": WildcardPlan.make(name)
        case "mt64": manyTopics(name)
        case "q1a": pairs(name, count: 1, window: 100, qos: 1)
        case "q1d": pairs(name, count: 50, window: 20, qos: 1)
        default: nil
        }
    }

    /// The ten pairs of scenario lat.
    static func latencyPairs(_ name: String) -> Plan {
        pairs(name, count: 10, window: 100)
    }

    /// The one pair of scenario retained.
    static func latencyPair(_ name: String) -> Plan {
        pairs(name, count: 1, window: 100)
    }

    /// Enough different messages to tell loss from delay, few enough to stay in the processor's cache.
    private static func circle(publishers: Int, payload: Int) -> Int {
        min(8192, max(32, (2 << 20) / (publishers * (payload + 16))))
    }

    private static func digits(_ number: Int, _ width: Int) -> String {
        let text = String(number)
        return String(repeating: "0", count: max(0, width - text.utf8.count)) + text
    }

    private static func pairs(_ name: String, count: Int, payload: Int = 64, window: Int, qos: Int = 0) -> Plan {
        var plan = Plan(name: name, qos: qos, payload: payload, window: window)
        let circle = circle(publishers: count, payload: payload)
        for index in 0..<count {
            let topic = "bench/d/" + digits(index, 2)
            plan.publishers.append(
                Plan.Publisher(topics: Array(repeating: topic, count: circle), subscribers: index..<(index + 1)))
            plan.subscribers.append(Plan.Subscriber(filters: [topic], publisher: index))
        }
        plan.relayable = qos == 0
        plan.alternate = true
        return plan
    }

    private static func broadcast(_ name: String, payload: Int, window: Int) -> Plan {
        var plan = Plan(name: name, payload: payload, window: window)
        let topics = Array(repeating: "bench/b", count: circle(publishers: 1, payload: payload))
        plan.publishers = [Plan.Publisher(topics: topics, subscribers: 0..<50)]
        plan.subscribers = Array(repeating: Plan.Subscriber(filters: ["bench/b"], publisher: 0), count: 50)
        return plan
    }

    private static func gather(_ name: String) -> Plan {
        var plan = Plan(name: name, flow: .pooled, window: 200)
        let circle = circle(publishers: 50, payload: 64)
        for index in 0..<50 {
            let topic = "bench/c/" + digits(index, 2)
            plan.publishers.append(
                Plan.Publisher(topics: Array(repeating: topic, count: circle), subscribers: 0..<1))
        }
        plan.subscribers = [Plan.Subscriber(filters: ["bench/c/+"], publisher: 0)]
        return plan
    }

    /// A thousand topics, shuffled anew for every lap, so that no two neighbours can be treated as one.
    private static func manyTopics(_ name: String) -> Plan {
        var plan = Plan(name: name, window: 4000)
        var random = Seeded(1000)
        let topics = (0..<1000).map { "mt/" + digits($0, 4) }
        var order: [String] = []
        for _ in 0..<16 { order += topics.shuffled(using: &random) }
        plan.publishers = [Plan.Publisher(topics: order, subscribers: 0..<1)]
        plan.subscribers = [Plan.Subscriber(filters: ["mt/#"], publisher: 0)]
        return plan
    }
}
