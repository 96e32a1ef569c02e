// Reading without subscribing, for protocols of requests and answers: the last value of a topic, and which topics
// there are. The router stays the only gate: rights are those of a subscription to just the topic.

/// What became of a request for a topic's retained event.
public enum RetainedAnswer: Sendable {
    /// This is it.
    case found(Event)
    /// The topic has none.
    case nothing
    /// The principal may not subscribe to the topic.
    case notAuthorized
    /// There is no such topic: it is empty, too long, or has a wildcard in it.
    case malformedTopic
}

extension Router {
    /// The retained event of a topic, for somebody.
    /// - Parameter now: the lane's time.
    public func retained(_ topic: UnsafeRawBufferPointer, as principal: Principal, now: UInt64) -> RetainedAnswer {
        guard Topic.isValid(topic, limits: limits) else { return .malformedTopic }
        guard principal.mayRead(topic) else { return .notAuthorized }
        return retained(topic, now: now).map { .found($0) } ?? .nothing
    }

    /// Whether somebody may know of a topic: the same as whether it may subscribe to it.
    public func mayRead(_ topic: UnsafeRawBufferPointer, as principal: Principal) -> Bool { principal.mayRead(topic) }
}

/// Topics that a lane remembers, as far as it was looked through.
public struct RecentTopics: Sendable {
    /// A topic that somebody published to on this lane.
    public struct Topic: Sendable {
        /// The topic's bytes.
        public var bytes: [UInt8]
        /// How many subscriptions matched it when it was last looked up.
        public var matched: Int
        /// Those of them that are of this node; the others are nodes that want it.
        public var local: Int
        /// Whether somebody published to it on this node; otherwise it came from another one.
        public var isPublishedHere: Bool
        /// When that was, in changes of the router's subscriptions.
        public var generation: UInt64
    }

    /// In no particular order.
    public var topics: [Topic] = []
    /// The place to go on from; nil when all have been looked at.
    public var next: Int?

    /// Nothing, and nothing more to look at.
    public init() {}
}

extension MatchCache.Entry {
    /// Subscriptions that matched, without those that stand for other nodes.
    fileprivate func localMatches(mesh: UInt64) -> Int {
        var remote = 0
        for index in 0..<Int(targetCount) where targets[index].address.packed == mesh {
            remote += Int(targets[index].identifierCount)
        }
        var start = 0
        for group in 0..<Int(groupCount) {
            let end = Int(groupEnds[group])
            if (start..<end).allSatisfy({ members[$0].address.packed == mesh }) { remote += 1 }
            start = end
        }
        return max(0, Int(matched) - remote)
    }
}

extension Lane {
    /// Places of the match cache that one call of ``recentTopics(of:matching:from:places:bytes:)`` looks at unless the
    /// caller says otherwise: some ten microseconds.
    public static let recentPlaces = 1_024

    /// Some of the topics that this lane has published to lately, as its match cache remembers them: those of up to
    /// `places` places, and no more once they have `bytes` bytes. One that is published to meanwhile may be missed or
    /// come twice. Rights are the caller's matter.
    public final func recentTopics(
        of router: Router, matching filter: TopicFilter, from start: Int = 0, places: Int = Lane.recentPlaces,
        bytes: Int = 1 << 20
    ) -> RecentTopics {
        var found = RecentTopics()
        var left = bytes
        let mesh = router.meshAddress.packed
        found.next = cache(for: router).forEachEntry(from: start, count: places) { topic, entry in
            guard filter.matches(topic) else { return true }
            found.topics.append(
                RecentTopics.Topic(
                    bytes: Array(topic), matched: Int(entry.matched), local: entry.localMatches(mesh: mesh),
                    isPublishedHere: entry.sources & 1 != 0, generation: entry.generation))
            left -= topic.count
            return left > 0
        }
        return found
    }
}
