import Core

/// A listing of topics that its lane goes on with in portions: first those with a retained event, then those that the
/// lanes' match caches remember, that is, that somebody published to lately. The answer names the first of them in the
/// order of their bytes:
///
///     {"topics":[{"topic":"a/b","retained":true,"subscriptions":2},…],"truncated":false}
///
/// `subscriptions` is how many matched when the topic was last published to, as far as that is remembered.
/// `truncated` says that there are more, or that time was over before all had been looked at. Nothing is locked
/// meanwhile: a topic that comes or goes may be named or not.
///
/// Threading: confined to its lane. Other lanes are asked by ``Lanes/gather(_:then:)``; what they say arrives as mail.
final class TopicListing: Port, HTTPWaiter {
    /// In which a listing is answered with what has been found.
    static let maxMilliseconds = 10_000
    /// Bytes of topics that an answer has at most, and that other lanes say at once.
    static let (maxBytes, partBytes) = (4 << 20, 1 << 18)
    /// What a topic counts for in a budget of nodes: it is compared with some others, and hashed.
    private static let topicCost = 2

    private enum Step {
        case retained
        /// Lanes are being asked for what they remember.
        case asking
        /// They have answered.
        case recent
        /// The topics found are put in order, the last first.
        case sorting
        case writing
        case ended
    }

    private let principal: Principal
    private unowned let state: WebLane
    private let answer: (HTTPResponse) -> Void
    private let cursor: RetainedCursor
    private var step = Step.retained
    private var topics: FirstTopics
    /// Where to go on with each lane; nil for those that have said all.
    private var places: [Int?]
    private var parts: [RecentTopics.Topic] = []
    private var sorted: [(topic: [UInt8], note: FirstTopics.Note)] = []
    private var json = JSONWriter()

    /// - Parameter answer: takes the answer, unless the client has gone.
    init(
        _ filter: TopicFilter, limit: Int, _ principal: Principal, _ state: WebLane,
        answer: @escaping (HTTPResponse) -> Void
    ) {
        self.principal = principal
        self.state = state
        self.answer = answer
        cursor = principal.router.retainedCursor(matching: filter)
        topics = FirstTopics(count: limit, bytes: Self.maxBytes)
        places = []
        super.init()
    }

    func begin(on lane: Lane) {
        places = Array(repeating: 0, count: lane.lanes.count)
        principal.router.register(self, on: lane)
        state.listings += 1
        lane.workLater(self)
    }

    // MARK: In portions

    override func work(_ budget: inout Int, on lane: Lane) -> Bool {
        while budget > 0 {
            switch step {
            case .retained: lookAtRetained(&budget, on: lane)
            case .asking, .ended: return false
            case .recent: lookAtRecent(&budget, on: lane)
            case .sorting: sort(&budget)
            case .writing: write(&budget, on: lane)
            }
        }
        return step != .asking && step != .ended
    }

    private func lookAtRetained(_ budget: inout Int, on lane: Lane) {
        guard !cursor.isFinished else { return ask(on: lane) }
        // Each event that is found costs more than its node.
        let nodes = min(budget, RetainedCursor.nodesPerStep)
        principal.router.advance(cursor, nodes: nodes, events: max(1, nodes / Self.topicCost), now: lane.now)
        budget -= max(cursor.visitedNodes, 1)
        for event in cursor.events {
            budget -= Self.topicCost
            guard principal.router.mayRead(event.topic, as: principal) else { continue }
            topics.add(Array(event.topic), FirstTopics.Note(isRetained: true))
        }
    }

    /// Asks all lanes that have not said all, each for a part of what it remembers.
    private func ask(on lane: Lane) {
        step = .asking
        let (home, address, filter, router, places) = (
            lane.number, address, cursor.filter, principal.router, places
        )
        let lanes = lane.lanes
        lanes.gather { lane in
            guard let place = places[lane.number] else { return RecentTopics() }
            return lane.recentTopics(of: router, matching: filter, from: place, bytes: Self.partBytes)
        } then: { answers in
            lanes.call(home) { lane in (lane.port(at: address) as? TopicListing)?.took(answers, on: lane) }
        }
    }

    private func took(_ answers: [RecentTopics], on lane: Lane) {
        guard case .asking = step else { return }
        places = answers.map(\.next)
        parts = answers.flatMap(\.topics)
        step = .recent
        lane.workLater(self)
    }

    private func lookAtRecent(_ budget: inout Int, on lane: Lane) {
        budget -= Self.topicCost
        guard let topic = parts.popLast() else {
            if places.contains(where: { $0 != nil }) { return ask(on: lane) }
            step = .sorting
            return
        }
        guard topic.bytes.withUnsafeBytes({ principal.router.mayRead($0, as: principal) }) else { return }
        topics.add(topic.bytes, FirstTopics.Note(subscriptions: topic.matched, generation: topic.generation))
    }

    private func sort(_ budget: inout Int) {
        budget -= Self.topicCost
        if let last = topics.removeLast() { return sorted.append(last) }
        step = .writing
        json.beginObject()
        json.key("topics")
        json.beginArray()
    }

    private func write(_ budget: inout Int, on lane: Lane) {
        budget -= Self.topicCost
        guard let (topic, note) = sorted.popLast() else { return finish(isComplete: true, on: lane) }
        json.beginObject()
        json.key("topic")
        json.string(topic)
        json.key("retained")
        json.bool(note.isRetained)
        if let subscriptions = note.subscriptions {
            json.key("subscriptions")
            json.number(subscriptions)
        }
        json.endObject()
    }

    // MARK: The end

    private func finish(isComplete: Bool, on lane: Lane) {
        json.endArray()
        json.key("truncated")
        json.bool(!isComplete || topics.isTruncated)
        json.endObject()
        end(on: lane)
        answer(HTTPResponse(type: "application/json", body: json.bytes))
    }

    private func end(on lane: Lane) {
        step = .ended
        cursor.cancel()
        state.listings -= 1
        principal.router.unregister(self, on: lane)
    }

    func gone(on lane: Lane) { if step != .ended { end(on: lane) } }

    /// What has been found is put in order and written at once: it is bounded, and this happens once.
    func timedOut(on lane: Lane) -> Bool {
        guard step != .ended else { return false }
        var unlimited = Int.max
        while step != .writing { step == .sorting ? sort(&unlimited) : (step = .sorting) }
        while !sorted.isEmpty { write(&unlimited, on: lane) }
        finish(isComplete: false, on: lane)
        return true
    }
}

/// The first topics in the order of their bytes, each once, of many that come in any order: at most so many, of at most
/// so many bytes. What one of them costs is little and does not depend on how many have come.
struct FirstTopics {
    /// What is said of a topic.
    struct Note {
        var isRetained = false
        var subscriptions: Int?
        /// How new `subscriptions` is.
        var generation: UInt64 = 0
    }

    private let maxCount: Int
    private let maxBytes: Int
    /// A heap: none is before those below it.
    private var heap: [[UInt8]] = []
    private var notes: [[UInt8]: Note] = [:]
    private var bytes = 0
    /// The first topic that there was no room for.
    private var ceiling: [UInt8]?

    init(count: Int, bytes: Int) {
        maxCount = count
        maxBytes = bytes
    }

    /// Topics there are.
    var count: Int { heap.count }
    /// Whether there was no room for some.
    var isTruncated: Bool { ceiling != nil }

    /// Adds a topic, or what is said of it.
    mutating func add(_ topic: [UInt8], _ note: Note) {
        if let ceiling, !topic.lexicographicallyPrecedes(ceiling) { return }
        if var known = notes[topic] {
            known.isRetained = known.isRetained || note.isRetained
            if let subscriptions = note.subscriptions, note.generation >= known.generation {
                (known.subscriptions, known.generation) = (subscriptions, note.generation)
            }
            notes[topic] = known
            return
        }
        notes[topic] = note
        heap.append(topic)
        bytes += topic.count
        rise(heap.count - 1)
        while heap.count > maxCount || bytes > maxBytes, let last = removeLast() { ceiling = last.topic }
    }

    /// Takes the last topic out.
    mutating func removeLast() -> (topic: [UInt8], note: Note)? {
        guard let last = heap.first, let moved = heap.popLast() else { return nil }
        if !heap.isEmpty {
            heap[0] = moved
            sink()
        }
        bytes -= last.count
        return (last, notes.removeValue(forKey: last) ?? Note())
    }

    private mutating func rise(_ start: Int) {
        var place = start
        while place > 0 {
            let parent = (place - 1) / 2
            guard heap[parent].lexicographicallyPrecedes(heap[place]) else { return }
            heap.swapAt(parent, place)
            place = parent
        }
    }

    private mutating func sink() {
        var place = 0
        while true {
            var last = place
            for child in [2 * place + 1, 2 * place + 2]
            where child < heap.count && heap[last].lexicographicallyPrecedes(heap[child]) {
                last = child
            }
            guard last != place else { return }
            heap.swapAt(last, place)
            place = last
        }
    }
}
