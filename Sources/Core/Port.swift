/// Anything the router can deliver to: a session's inbox, later a queue, a connector, a stream to another node.
///
/// Threading: created, called and released on its lane only.
open class Port {
    /// Where the port lives; set when it is registered.
    public final internal(set) var address = PortAddress.none
    /// The router's number for it; set when it is registered.
    public final internal(set) var number: UInt32 = 0

    /// What its subscriptions count for; nil without a quota.
    final var subscriptionUsage: SubscriptionUsage?

    /// Whether ``deliver(_:_:on:)`` takes runs whose properties are still packed (``EventRun/packing``).
    public final let takesPacked: Bool

    /// Makes a port that is not registered yet.
    public init(takesPacked: Bool = false) { self.takesPacked = takesPacked }

    /// Takes a run of events. Called once for each run, never from within a conversation.
    ///
    /// A direct event that finds the port full is dropped and counted here. A guaranteed one is taken, or refused.
    /// - Parameters:
    ///   - run: the events, valid during the call.
    ///   - target: this port's entry in the match; its identifiers are at ``Lane/identifiers``.
    /// - Returns: how many guaranteed events were refused.
    open func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int { 0 }

    /// The router has removed it from its lane; the last thing it hears.
    open func unregistered(on lane: Lane) {}

    /// The access rules have changed and do not allow a subscription of this port any more; it is gone. Never called
    /// from within a conversation.
    open func revoked(_ filter: TopicFilter, on lane: Lane) {}

    /// The port's subscriptions have been judged again, because rules or rights have changed.
    open func rightsChanged(on lane: Lane) {}

    /// An answer to a run that this port published: another lane's ports have taken it, or one that held it has room.
    /// - Parameters:
    ///   - refused: how many events were refused.
    ///   - more: how many further answers will come that ``PublishOutcome/pending`` did not count: of ports that hold
    ///     the run on another lane. Whoever publishes guaranteed events under its own address counts them.
    open func receiptArrived(token: UInt32, refused: Int, more: Int, on lane: Lane) {}

    /// Whether ``work(_:on:)`` is going to be called.
    final var isWorking = false

    /// Goes on with something long that was begun with ``Lane/workLater(_:)``.
    /// - Parameter budget: what may be spent of it, in nodes of a tree or the like; what was spent is taken off.
    /// - Returns: whether to be called again.
    open func work(_ budget: inout Int, on lane: Lane) -> Bool { false }
}

extension Port {
    /// Counts a new subscription.
    /// - Returns: false when there are as many as there may be.
    func countSubscription(_ usage: Usage) -> Bool {
        // All of a port count for whoever made the first: they end with the port, whoever uses it then.
        let counted = subscriptionUsage ?? SubscriptionUsage(usage)
        subscriptionUsage = counted
        return counted.add()
    }
}
