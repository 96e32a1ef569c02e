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
        session.detach()
        if session.isClean { return discard(session, on: lane) }
        absent(on: lane).add(session, expiresAt: lane.now + UInt64(lane.limits.sessionExpirySeconds) * 1_000)
    }

    /// A session has a connection again.
    func returned(_ session: Session, on lane: Lane) { session.expiresAt = 0 }

    /// Ends a session with everything in it.
    func discard(_ session: Session, on lane: Lane) {
        session.principal.router.releaseSession(session.clientID, at: session.address)
        session.principal.router.unregister(session, on: lane)
    }

    private func absent(on lane: Lane) -> AbsentSessions {
        if let known = lane.belongings["mqtt"] as? AbsentSessions { return known }
        let made = AbsentSessions()
        lane.belongings["mqtt"] = made
        lane.chores.append { [unowned self] lane in made.expire(on: lane) { self.discard($0, on: lane) } }
        return made
    }
}

/// Sessions of a lane that wait for their clients, in the order they will expire. Confined to the lane.
private final class AbsentSessions {
    private struct Entry {
        var address: PortAddress
        var expiresAt: UInt64
    }

    private var entries: [Entry] = []
    private var head = 0

    func add(_ session: Session, expiresAt: UInt64) {
        session.expiresAt = expiresAt
        entries.append(Entry(address: session.address, expiresAt: expiresAt))
    }

    /// Ends sessions whose time has come; one that has been back since is passed over.
    func expire(on lane: Lane, _ discard: (Session) -> Void) {
        while head < entries.count, entries[head].expiresAt <= lane.now {
            let entry = entries[head]
            head += 1
            if let session = lane.port(at: entry.address) as? Session, session.expiresAt == entry.expiresAt {
                discard(session)
            }
        }
        if head > 1_024, head * 2 > entries.count {
            entries.removeFirst(head)
            head = 0
        }
    }
}
