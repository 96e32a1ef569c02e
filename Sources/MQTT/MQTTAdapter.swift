public import Core

/// The entry of MQTT: makes a conversation for each accepted connection.
public final class MQTTAdapter: Adapter {
    /// `mqtt`, as in the configuration.
    public let name = MQTTAdapter.protocolName
    static let protocolName = "mqtt"
    private let context: MQTTContext

    /// Makes the adapter.
    /// - Parameters:
    ///   - routers: the namespaces by name; `default` must be there.
    ///   - random: makes assigned client ids unpredictable.
    ///   - trace: how packets of traced clients are logged; without it none are.
    public init(
        routers: [String: Router], authenticator: any Authenticator, random: @escaping @Sendable () -> UInt64,
        trace: TraceSettings? = nil
    ) {
        context = MQTTContext(routers: routers, authenticator: authenticator, random: random, trace: trace)
    }

    /// A conversation for a new connection.
    public func makeConversation(link: Link, on lane: Lane) -> Conversation {
        // From the first connection on the lane looks after sessions and retained events that expire.
        _ = context.state(of: lane)
        return MQTTConversation(context: context, link: link, on: lane)
    }
}

/// What all MQTT conversations of a node share, and how sessions begin and end.
final class MQTTContext: Sendable {
    let routers: [String: Router]
    let authenticator: any Authenticator
    private let random: @Sendable () -> UInt64
    /// How packets are traced; nil without an output for that.
    let trace: TraceSettings?
    /// Whose packets are traced.
    let traced = TracedClients()

    init(
        routers: [String: Router], authenticator: any Authenticator, random: @escaping @Sendable () -> UInt64,
        trace: TraceSettings? = nil
    ) {
        self.trace = trace
        self.routers = routers
        self.authenticator = authenticator
        self.random = random
    }

    /// A client id for a client that brought none (§3.1.3.1).
    func makeClientID(in router: Router) -> String {
        while true {
            let name = "apus-" + String(random(), radix: 36)
            if router.session(of: name) == nil { return name }
        }
    }

    /// What the adapter keeps for a lane.
    func state(of lane: Lane) -> MQTTLane {
        if let known = lane.belongings["mqtt"] as? MQTTLane { return known }
        let made = MQTTLane(context: self, traffic: lane.traffic(of: MQTTAdapter.protocolName).counter)
        lane.absentLists.append(made.absent)
        lane.belongings["mqtt"] = made
        lane.chores.append { [unowned self] lane in
            made.absent.takeDue(at: lane.now) { inbox in
                if let session = inbox as? Session { self.due(session, on: lane) }
            }
            made.forgetMoves(at: lane.now)
            for router in self.routers.values {
                for _ in 0..<16 { router.sweepExpiredRetained(now: lane.now) }
            }
        }
        return made
    }

    // MARK: Sessions

    /// A session's connection is gone: the session ends with it, or waits. Its will is published at once, or waits too
    /// (MQTT 5 §3.1.3.2.2).
    func leave(_ session: Session, on lane: Lane) {
        session.end()
        let expiry = UInt64(session.expirySeconds) * 1_000
        guard expiry > 0 else { return discard(session, on: lane) }
        session.principal.router.setPresence(session, false)
        session.shareOut(isEnding: false, on: lane)
        session.endsAt = lane.now + expiry
        if let will = session.will { will.dueAt = lane.now + UInt64(will.packet.delaySeconds) * 1_000 }
        wait(session, on: lane)
    }

    /// Publishes the will if it is time, and lets the session wait for what comes next.
    func wait(_ session: Session, on lane: Lane) {
        if let will = session.will, will.dueAt <= lane.now { publishWill(of: session, on: lane) }
        state(of: lane).absent.add(session, dueAt: min(session.will?.dueAt ?? .max, session.endsAt))
    }

    private func due(_ session: Session, on lane: Lane) {
        guard session.endsAt <= lane.now else { return wait(session, on: lane) }
        lane.counters.sessionsExpired &+= 1
        discard(session, on: lane)
    }

    /// The client is back.
    func returned(_ session: Session, on lane: Lane) {
        state(of: lane).absent.remove(session)
        if let move = session.move, move.packed != nil || move.suspended != nil { session.keep(on: lane) }
        session.principal.router.setPresence(session, true)
    }

    /// Ends a session with everything in it.
    func discard(_ session: Session, on lane: Lane) {
        state(of: lane).absent.remove(session)
        publishWill(of: session, on: lane)
        session.principal.router.releaseSession(session.clientID, at: session.address)
        session.principal.router.unregister(session, on: lane)
        session.shareOut(isEnding: true, on: lane)
    }

    private func publishWill(of session: Session, on lane: Lane) {
        guard let will = session.will?.packet else { return }
        session.will = nil
        let event = will.topic.withUnsafeBytes { topic in
            will.payload.withUnsafeBytes { payload in
                will.properties.withUnsafeBytes { properties in
                    Event(
                        topic: topic, properties: properties, payload: payload, qos: will.qos,
                        isRetained: will.isRetained,
                        expiresAt: will.expirySeconds.map { lane.now + UInt64($0) * 1_000 } ?? 0)
                }
            }
        }
        lane.publishLater(event, as: session.principal)
    }
}

/// What the adapter keeps for a lane: the sessions whose clients are away, and runs written in another version.
/// Confined to the lane.
final class MQTTLane {
    /// The adapter's; it outlives the lanes.
    unowned let context: MQTTContext
    let absent = AbsentInboxes()
    let traffic: TrafficCounter
    /// Sessions that have moved here, or almost to elsewhere, and still look out for events that come twice.
    var moved: [Session] = []
    private let scratch = Scratch()
    private var serial: UInt64 = 0
    private var isWritten = false
    private var isVersion5 = false

    init(context: MQTTContext, traffic: TrafficCounter) {
        self.context = context
        self.traffic = traffic
    }

    /// Ends the looking out where its time is over.
    func forgetMoves(at now: UInt64) {
        guard !moved.isEmpty else { return }
        moved.removeAll { session in
            guard let move = session.move, move.endsAt <= now else { return session.move == nil }
            session.move = nil
            return true
        }
    }

    /// The events of a run as packets of a version, for all who take them like that. The first who asks is not worth
    /// it and gets nil; so does everybody when the run is large.
    func translation(
        of run: UnsafePointer<EventRun>, isVersion5 version: Bool, on lane: Lane
    ) -> (start: UnsafeRawPointer, count: Int)? {
        guard serial == lane.runSerial, isVersion5 == version else {
            (serial, isVersion5, isWritten) = (lane.runSerial, version, false)
            return nil
        }
        if !isWritten {
            scratch.removeAll()
            var bytes = 0
            for index in 0..<run.pointee.count {
                bytes += Int(run.pointee.events[index].payloadLength) + run.pointee.topicLength
                bytes += (version ? run.pointee.propertiesLength : 0) + 16
            }
            guard bytes <= Scratch.capacity else { return nil }
            for index in 0..<run.pointee.count {
                let parts = PublishParts(run, run.pointee.events[index])
                if version {
                    PacketWriter.publish5(0x30, parts, identifier: 0, PacketWriter.Extras(), to: scratch)
                } else {
                    PacketWriter.publish(0x30, parts, identifier: 0, to: scratch)
                }
            }
            isWritten = true
        }
        return (scratch.start, scratch.count)
    }

    /// An output that is a piece of memory; made when it is first used.
    private final class Scratch: Output {
        static let capacity = 1 << 17
        private var memory: UnsafeMutableRawPointer?

        deinit { memory?.deallocate() }

        var start: UnsafeRawPointer { UnsafeRawPointer(memory ?? cursor) }
        var count: Int { memory.map { cursor - $0 } ?? 0 }

        func removeAll() {
            let memory = self.memory ?? .allocate(byteCount: Self.capacity, alignment: 16)
            self.memory = memory
            cursor = memory
            end = memory + Self.capacity
        }
    }
}
