public import Core

/// The entry of MQTT: makes a conversation for each accepted connection.
public final class MQTTAdapter: Adapter {
    /// `mqtt`, as in the configuration.
    public let name = "mqtt"
    private let context: MQTTContext

    /// Makes the adapter.
    /// - Parameters:
    ///   - routers: the namespaces by name; `default` must be there.
    ///   - random: makes assigned client ids unpredictable.
    public init(
        routers: [String: Router], authenticator: any Authenticator, random: @escaping @Sendable () -> UInt64
    ) {
        context = MQTTContext(routers: routers, authenticator: authenticator, random: random)
    }

    /// A conversation for a new connection.
    public func makeConversation(link: Link, on lane: Lane) -> Conversation {
        MQTTConversation(context: context, link: link, on: lane)
    }
}

/// What all MQTT conversations of a node share, and how sessions begin and end.
final class MQTTContext: Sendable {
    let routers: [String: Router]
    let authenticator: any Authenticator
    private let random: @Sendable () -> UInt64

    init(routers: [String: Router], authenticator: any Authenticator, random: @escaping @Sendable () -> UInt64) {
        self.routers = routers
        self.authenticator = authenticator
        self.random = random
    }

    /// A client id for a client that brought none (§3.1.3.1).
    func makeClientID() -> String { "apus-" + String(random(), radix: 36) }

    /// A session's connection is gone: the session ends with it, or waits.
    func leave(_ session: Session, on lane: Lane) {
        session.end()
        if session.isClean { return discard(session, on: lane) }
        session.principal.router.setPresence(session, false)
        absent(on: lane).add(session, expiresAt: lane.now + UInt64(lane.limits.sessionExpirySeconds) * 1_000)
    }

    /// Ends a session with everything in it.
    func discard(_ session: Session, on lane: Lane) {
        session.principal.router.releaseSession(session.clientID, at: session.address)
        session.principal.router.unregister(session, on: lane)
    }

    private func absent(on lane: Lane) -> AbsentInboxes {
        if let known = lane.belongings["mqtt"] as? AbsentInboxes { return known }
        let made = AbsentInboxes()
        lane.belongings["mqtt"] = made
        lane.chores.append { [unowned self] lane in
            made.expire(on: lane) { inbox in
                if let session = inbox as? Session { self.discard(session, on: lane) }
            }
        }
        return made
    }
}
