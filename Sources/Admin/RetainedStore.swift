/// What the management side needs of the retained events: the seam between the routes and the router.
import Core

/// Retained events of one namespace, listed and removed. Called on the HTTP thread; what takes long answers later.
protocol RetainedStore: Sendable {
    /// At most `limit` events whose topics the filter matches, after the topic `after` in the order of bytes, and
    /// whether there are more.
    func page(matching filter: TopicFilter, after: String?, limit: Int) -> (events: [Event], isMore: Bool)
    /// The event of a topic.
    func event(_ topic: String) -> Event?
    /// Removes the event of a topic; false when there was none.
    func remove(_ topic: String) -> Bool
    /// Removes all whose topics the filter matches, and says how many.
    func removeAll(matching filter: TopicFilter) -> Int
}

/// The store that the router has today. A page looks at everything that matches.
struct RouterRetainedStore: RetainedStore {
    let router: Router

    func page(matching filter: TopicFilter, after: String?, limit: Int) -> (events: [Event], isMore: Bool) {
        var found = router.retained(matching: filter)
        if let after { found.removeAll { !after.utf8.lexicographicallyPrecedes($0.topic) } }
        found.sort { $0.topic.lexicographicallyPrecedes($1.topic) }
        return (Array(found.prefix(limit)), found.count > limit)
    }

    func event(_ topic: String) -> Event? {
        guard let filter = try? TopicFilter(topic, grammar: .mqtt, limits: router.limits), filter.group == nil else {
            return nil
        }
        return router.retained(matching: filter).first { $0.topic.elementsEqual(topic.utf8) }
    }

    func remove(_ topic: String) -> Bool {
        var topic = topic
        return topic.withUTF8 { router.removeRetained(topic: UnsafeRawBufferPointer($0)) }
    }

    func removeAll(matching filter: TopicFilter) -> Int {
        router.retained(matching: filter).count { router.removeRetained(topic: $0.topic) }
    }
}
