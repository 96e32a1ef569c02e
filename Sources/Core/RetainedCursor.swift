/// A look-up of retained events that its lane goes on with when it has time: see ``Router/retainedCursor(matching:)``.

/// Where a look-up of retained events by filter stands.
///
/// A topic that matches and has a value from the first step to the last is found exactly once; one that was added or
/// removed meanwhile may be found or not. Nothing is locked between steps. A cursor may be dropped at any time.
///
/// Threading: confined to one lane. While it waits it takes a few bytes for each level of its filter from the router.
public final class RetainedCursor {
    /// Nodes that one step visits unless the caller says otherwise: below 100 microseconds, also with an event each.
    public static let nodesPerStep = 128
    /// Events that one step finds at most unless the caller says otherwise.
    public static let eventsPerStep = 64

    let router: Router
    var walk: RetainedWalk

    init(_ filter: TopicFilter, router: Router) {
        self.router = router
        walk = RetainedWalk(filter)
    }

    deinit {
        if walk.state == .parked { router.abandon(&walk) }
    }

    /// What the last step found, in no particular order; replaced by the next step.
    public var events: [Event] { walk.found }
    /// Whether no step will find more.
    public var isFinished: Bool { walk.state == .finished }
    /// Nodes of the tree that the last step visited.
    public var visitedNodes: Int { walk.visited }
    /// The filter that is looked up.
    public var filter: TopicFilter { walk.filter }

    /// Ends the look-up before it is finished. Events of the last step stay.
    public func cancel() {
        if walk.state == .parked { router.abandon(&walk) }
        walk.end()
    }
}

/// A page of a listing of retained events.
public struct RetainedPage: Sendable {
    /// Up to as many events as were asked for: topic, payload, quality of service, expiry.
    public var events: [Event]
    /// What to ask for next; nil after the last page. A page may be empty and yet not the last: only so many places are
    /// looked at for one.
    public var next: UInt32?
}
