/// Bridges to MQTT brokers: each connects the node to one broker and lets events across, with a thread of its own.
public import Core
import CLinux
import Glibc
public import Logging
import Synchronization

/// What a node's bridges have in common.
public struct BridgeSettings: Sendable {
    /// The node's name, for client ids.
    public var nodeName: String
    /// What trails call where this node is: its mesh, or the node itself when it is in none.
    public var place: String
    /// Where connections that come and go are noted.
    public var logger: Logger
    /// Chance. Called on bridges' threads.
    public var random: @Sendable () -> UInt64
    /// For how long a broker has to take nothing before the session is given up, in milliseconds.
    var sessionPatience = SessionDoubt.minMilliseconds

    /// Makes settings.
    public init(nodeName: String, place: String, logger: Logger, random: @escaping @Sendable () -> UInt64) {
        self.nodeName = nodeName
        self.place = place
        self.logger = logger
        self.random = random
    }
}

/// The bridges of a node, in one namespace.
///
/// Threading: callable from any thread, never waits but in ``stop(graceMilliseconds:)``.
public final class BridgeService: Sendable {
    private struct Entry {
        var definition: BridgeDefinition
        /// Nil until its lane has begun it, and when that failed.
        var wire: BridgeWire?
        /// How it is while there is no wire.
        var description: BridgeDescription
        /// Why it goes on as it was before it became what `definition` says.
        var refusal: String?

        /// Whether it is not what it is to be, and does nothing about it itself.
        var hasFailed: Bool { refusal != nil || shown.state == .failed }

        /// What is told about it.
        var shown: BridgeDescription {
            var shown = wire?.description ?? description
            if let refusal { shown.lastError = refusal }
            return shown
        }
    }

    private let lanes: Lanes
    private let router: Router
    private let settings: BridgeSettings
    /// Lanes are called under its lock, so that they hear of changes in the order of the registry's.
    private let registry = Mutex<[String: Entry]>([:])
    /// When what is under way has to have come to its end; 0 while the node runs.
    private let stopAt = Atomic<UInt64>(0)
    /// All threads that have not ended, those of bridges that have been removed as well.
    private let threads = Mutex<[BridgeWire]>([])

    /// Makes the service; nothing is started before there is a bridge.
    public init(_ settings: BridgeSettings, lanes: Lanes, router: Router) {
        self.settings = settings
        self.lanes = lanes
        self.router = router
    }

    /// Who a bridge is for access rules: `bridge:<name>`. It reads what goes out and publishes what comes in.
    public static func identity(of name: String, namespace: String = "default") -> Identity {
        Identity(namespace: namespace, user: "bridge:\(name)")
    }

    // MARK: Changing

    /// Lets there be these bridges and no others: others are removed, new ones started, and changed ones given another
    /// thread. Those that have failed are tried again.
    public func update(_ definitions: [BridgeDefinition]) {
        registry.withLock { registry in
            for name in registry.keys.sorted() where !definitions.contains(where: { $0.name == name }) {
                registry[name] = nil
                remove(name)
            }
            for definition in definitions {
                let known = registry[definition.name]
                if let known, known.definition == definition, !known.hasFailed { continue }
                registry[definition.name] = Entry(
                    definition: definition, wire: known?.wire, description: describe(definition))
                install(definition)
            }
        }
    }

    private func describe(_ definition: BridgeDefinition) -> BridgeDescription {
        BridgeDescription(
            name: definition.name, address: "\(definition.host):\(definition.port)", broker: definition.broker,
            version: definition.version.rawValue, isSecure: definition.security != nil,
            clientID: definition.clientID ?? "apus-\(settings.nodeName)-\(definition.name)")
    }

    private func remove(_ name: String) {
        lanes.call(laneNumber(of: name)) { [self] lane in
            guard let inbox = BridgeLane.of(lane).remove(name) else { return }
            inbox.end(BridgeWire.Stop(at: BridgeWire.now + Self.leaveMilliseconds, forgetsSession: true), on: lane)
            settings.logger.notice("bridge removed", metadata: ["bridge": "\(name)"])
        }
    }

    private func install(_ definition: BridgeDefinition) {
        lanes.call(laneNumber(of: definition.name)) { [self] lane in
            guard stopAt.load(ordering: .acquiring) == 0 else { return }
            let bridges = BridgeLane.of(lane)
            do throws(StartFailure) {
                if let inbox = bridges.bridge(definition.name) {
                    try change(inbox, definition, on: lane)
                } else {
                    bridges.add(try begin(definition, on: lane))
                }
            } catch {
                let isThere = bridges.bridge(definition.name) != nil
                settings.logger.error(
                    isThere ? "bridge not changed" : "bridge not started",
                    metadata: ["bridge": "\(definition.name)", "problem": "\(error.reason)"])
                registry.withLock { registry in
                    // It may have been changed again meanwhile, and comes by once more then.
                    guard registry[definition.name]?.definition == definition else { return }
                    if isThere {
                        registry[definition.name]?.refusal = "not changed: \(error.reason)"
                    } else {
                        registry[definition.name]?.wire = nil
                        registry[definition.name]?.description.state = .failed
                        registry[definition.name]?.description.lastError = error.reason
                    }
                }
            }
        }
    }

    /// For what is under way when a bridge leaves.
    private static let leaveMilliseconds: UInt64 = 2_000

    /// Why a bridge was not started.
    private struct StartFailure: Error {
        var reason: String
    }

    private func map(of definition: BridgeDefinition) throws(StartFailure) -> BridgeMap {
        do throws(BridgeDefinition.Failure) { return try definition.map(limits: router.limits) } catch {
            throw StartFailure(reason: error.description)
        }
    }

    /// Makes a bridge's inbox and starts its thread.
    private func begin(_ definition: BridgeDefinition, on lane: Lane) throws(StartFailure) -> BridgeInbox {
        let map = try map(of: definition)
        let principal = Principal(
            identity: Self.identity(of: definition.name, namespace: router.name),
            clientID: "bridge:\(definition.name)", router: router)
        principal.protocolName = "bridge"
        let inbox = BridgeInbox(definition, map: map, principal: principal) { [self] in startThread(of: $0) }
        if let refused = inbox.register(on: lane) {
            throw StartFailure(reason: "subscribing to \(refused) is not allowed")
        }
        startThread(of: inbox)
        return inbox
    }

    /// Lets a bridge become another one; one that is that already gets a thread if it has none.
    private func change(
        _ inbox: BridgeInbox, _ definition: BridgeDefinition, on lane: Lane
    ) throws(StartFailure) {
        guard inbox.definition != definition || inbox.wire?.description.state == .failed else { return }
        if let refused = inbox.change(definition, map: try map(of: definition), on: lane) {
            throw StartFailure(reason: "subscribing to \(refused) is not allowed")
        }
        inbox.exchangeThread(until: BridgeWire.now + Self.leaveMilliseconds, on: lane)
    }

    /// Gives a bridge a thread, in the place of the one that it may have had. Without one it keeps its events until it
    /// is tried again.
    private func startThread(of inbox: BridgeInbox) {
        // A node that stops starts nothing.
        guard stopAt.load(ordering: .acquiring) == 0 else { return }
        let definition = inbox.definition
        var description = describe(definition)
        var hasForeignSession = inbox.hasForeignSession
        if let former = inbox.wire?.description {
            description.counts = former.counts
            if (former.address, former.clientID) != (description.address, description.clientID) {
                hasForeignSession = true
            }
        }
        let wire = BridgeWire(
            lanes: lanes, address: inbox.address, description: description, hasForeignSession: hasForeignSession)
        inbox.begin(wire)
        let echoes = inbox.echoes ?? Echoes(key: settings.random())
        inbox.echoes = echoes
        let task = BridgeThread.Task(
            wire: wire, definition: definition, map: inbox.map, limits: router.limits, settings: settings,
            clientID: description.clientID, echoes: echoes)
        if let reason = Self.start(task) {
            settings.logger.error(
                "bridge not started", metadata: ["bridge": "\(definition.name)", "problem": "\(reason)"])
            wire.note {
                $0.state = .failed
                $0.lastError = reason
            }
        } else {
            noteThread(wire)
        }
        registry.withLock { $0[definition.name]?.wire = wire }
    }

    private final class Box: Sendable {
        let task: BridgeThread.Task
        init(_ task: BridgeThread.Task) { self.task = task }
    }

    private static let library: Void = RemoteClient.prepare()

    private static func start(_ task: BridgeThread.Task) -> String? {
        _ = library
        var thread = pthread_t()
        let box = Unmanaged.passRetained(Box(task))
        let status = pthread_create(
            &thread, nil,
            { argument in
                // The argument is the box retained above; a nil would be a bug of the C library.
                if let argument { BridgeThread.run(Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().task) }
                return nil
            }, box.toOpaque())
        guard status == 0 else {
            box.release()
            return "cannot start a thread: \(String(cString: strerror(status)))"
        }
        apus_name_thread(thread, "bridge")
        // Nobody waits for it: it may be within the system's resolver.
        pthread_detach(thread)
        return nil
    }

    /// Notes a thread that has been started; one that comes while the node stops is stopped at once.
    private func noteThread(_ wire: BridgeWire) {
        threads.withLock { threads in
            threads.removeAll { $0.hasEnded }
            threads.append(wire)
        }
        let until = stopAt.load(ordering: .acquiring)
        if until != 0 { wire.stop(BridgeWire.Stop(at: until, forgetsSession: false)) }
    }

    /// Bridges by the lane that a name belongs to: spread, and always the same.
    func laneNumber(of name: String) -> Int {
        var name = name
        let hash = name.withUTF8 { bytes in
            bytes.baseAddress.map { hashBytes($0, bytes.count, key: router.hashSeed) } ?? 0
        }
        return Int(hash % UInt64(lanes.count))
    }

    // MARK: Looking

    /// What all bridges tell about themselves, by name.
    public func list() -> [BridgeDescription] {
        let entries = registry.withLock { Array($0.values) }
        return entries.map(\.shown).sorted { $0.name < $1.name }
    }

    // MARK: The end

    /// Ends all bridges. Others of their groups are chosen from now on. What waits and what is under way has a while to
    /// reach its broker, to which good-bye is said; what is left goes to other members of the groups, and is counted
    /// (``DropReason/stopping``) where there can be none. Call it before the lanes are stopped, and not on one.
    public func stop(graceMilliseconds: UInt64) {
        let until = BridgeWire.now + graceMilliseconds
        stopAt.store(until, ordering: .releasing)
        var wires = threads.withLock { $0 }
        wires.removeAll { $0.hasEnded }
        // One that could not be started has a queue as well.
        guard !wires.isEmpty || registry.withLock({ !$0.isEmpty }) else { return }
        onLanes(until: until) { BridgeLane.of($0).leave(by: until, on: $0) }
        Self.wait(for: &wires, until: until)
        for wire in wires { wire.stop(BridgeWire.Stop(at: until, forgetsSession: false)) }
        Self.wait(for: &wires, until: BridgeWire.now + Self.lastMilliseconds)
        onLanes(until: BridgeWire.now + Self.lastMilliseconds) { [logger = settings.logger] in
            BridgeLane.of($0).endWithNode(logger, on: $0)
        }
    }

    /// Waits for threads that talk to a broker. What the others do changes nothing: one that is within the resolver
    /// ends with the process.
    private static func wait(for wires: inout [BridgeWire], until end: UInt64) {
        while true {
            wires.removeAll { $0.hasEnded || $0.description.state != .connected }
            guard !wires.isEmpty, BridgeWire.now < end else { return }
            usleep(1_000)
        }
    }

    /// Has every lane do something, and waits for that.
    private func onLanes(until end: UInt64, _ body: @escaping @Sendable (Lane) -> Void) {
        final class Done: Sendable { let isDone = Atomic(false) }
        let done = Done()
        lanes.gather(body) { _ in done.isDone.store(true, ordering: .releasing) }
        while !done.isDone.load(ordering: .acquiring), BridgeWire.now < end { usleep(200) }
    }

    /// What threads, and then lanes, may need besides the grace.
    private static let lastMilliseconds: UInt64 = 500
}

/// The bridges of one lane.
private final class BridgeLane {
    private static let name = "bridges"
    private var bridges: [String: BridgeInbox] = [:]

    static func of(_ lane: Lane) -> BridgeLane {
        if let known = lane.belongings[name] as? BridgeLane { return known }
        let made = BridgeLane()
        lane.belongings[name] = made
        return made
    }

    func bridge(_ name: String) -> BridgeInbox? { bridges[name] }

    func add(_ inbox: BridgeInbox) { bridges[inbox.definition.name] = inbox }

    func remove(_ name: String) -> BridgeInbox? { bridges.removeValue(forKey: name) }

    /// The node stops: each goes on until it has nothing more to do.
    func leave(by until: UInt64, on lane: Lane) {
        for (_, bridge) in bridges.sorted(by: { $0.key < $1.key }) { bridge.leave(by: until, on: lane) }
    }

    /// The node stops, and the time is over.
    func endWithNode(_ logger: Logger, on lane: Lane) {
        let left = bridges.sorted { $0.key < $1.key }
        bridges = [:]
        for (_, bridge) in left { bridge.endWithNode(logger, on: lane) }
    }
}
