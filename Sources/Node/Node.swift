import Admin
import Bridge
import Core
import Glibc
import Logging
import Mesh
import Reactor
import Security
import Web
import Webhooks

/// A running node: wires configuration, authenticator, router, reactor and listeners, and lives until a signal ends it.
public struct Node {
    /// The version of the program.
    public static let version = "0.1.0"

    private struct Admin {
        let service: AdminService
        let server: HTTPServer
        /// The address it is bound to.
        let address: String
    }

    private var configuration: Configuration
    private let log: Log
    private let logger: Logger
    private let router: Router
    private let quotas: Quotas
    private let authenticator: NodeAuthenticator
    private let reactor: Reactor
    private let statistics: StatisticsSource
    private let admin: Admin?
    /// Nil when the node is in no mesh.
    private let mesh: MeshShell?
    private let webhooks: WebhookManager
    private let bridges: BridgeService
    private let doors: Doors
    private let audit = AuditLog()
    private let systemd = SystemdNotify()

    /// Why a node did not start.
    public struct StartFailure: Error, CustomStringConvertible {
        /// What is wrong and what would be right.
        public let description: String
        /// Whether a file is wrong, and not the machine.
        public let isConfiguration: Bool
    }

    /// Runs a node until SIGTERM or SIGINT.
    /// - Parameters:
    ///   - configuration: how to run.
    ///   - source: makes the configuration anew on SIGHUP.
    /// - Throws: ``StartFailure`` when the node cannot start.
    public static func run(_ configuration: Configuration, source: ConfigurationSource) throws(StartFailure) {
        // Before any thread exists, so that every thread leaves the signals to the main one.
        Signals.block()
        let log = Log(configuration.log)
        log.bootstrap()
        var node = try Node(configuration, log: log)
        node.serve(source)
    }

    private init(_ configuration: Configuration, log: Log) throws(StartFailure) {
        self.configuration = configuration
        self.log = log
        logger = Logger(label: "node")
        let users = try Self.users(configuration)
        let rules = try Self.rules(configuration)
        do {
            authenticator = try NodeAuthenticator(
                IdentitySettings(configuration, users: users), audit: audit,
                keyNotice: { [logger = Logger(label: "security")] in $0.log(logger) })
        } catch { throw configuration.startFailure(error.description) }
        doors = try Doors(configuration, audit: audit)
        quotas = Quotas(configuration.security.quotas, audit: audit)
        router = Router(
            limits: configuration.limits, accessRules: rules, quotas: quotas,
            hashKey: UInt64.random(in: .min ... .max))
        let lanes = configuration.lanes == 0 ? Reactor.processorCount : configuration.lanes
        do throws(SocketAddress.Failure) {
            reactor = try Reactor(lanes: lanes, limits: configuration.limits, logger: Logger(label: "reactor"))
            statistics = StatisticsSource(
                name: configuration.name, version: Self.version,
                protocols: ListenerSettings.ProtocolName.allCases.map(\.rawValue)
                    + (configuration.mesh == nil ? [] : [MeshAdapter.name]),
                lanes: reactor.lanes, router: router)
            let interval = configuration.mqtt.sysIntervalSeconds
            if interval > 0 { SystemTopics(statistics, intervalSeconds: interval).start() }
        } catch { throw StartFailure(description: error.description, isConfiguration: false) }
        quotas.sweepRegularly(on: reactor.lanes)
        router.audit = audit
        reactor.setAudit(audit)
        Self.publish(audit, reactor, router)
        let settings = WebhookSettings(
            instanceID: String(UInt64.random(in: .min ... .max) >> 16, radix: 36), version: Self.version,
            logger: Logger(label: "webhooks"), random: { UInt64.random(in: .min ... .max) })
        webhooks = WebhookManager(
            service: WebhookService(settings, lanes: reactor.lanes, router: router))
        bridges = BridgeService(configuration, lanes: reactor.lanes, router: router)
        mesh = try Self.mesh(configuration, reactor, doors, audit)
        admin = try Self.manage(
            configuration, reactor, router, authenticator, statistics, mesh, bridges, doors, audit)
        webhooks.start(configuration.webhooks, users: users)
        do throws(SocketAddress.Failure) {
            try Self.listen(configuration, reactor, router, authenticator, webhooks, mesh, admin, doors, log)
        } catch { throw StartFailure(description: error.description, isConfiguration: false) }
        bridges.update(configuration.bridges)
        doors.watch(reactor, admin?.server)
    }

    /// Audit records become topics below `$SYS/audit/`, for those whom the access rules allow to read them: without
    /// rules that would be everybody, and so nothing is published then.
    private static func publish(_ audit: AuditLog, _ reactor: Reactor, _ router: Router) {
        let lanes = reactor.lanes
        audit.attach { topic, payload in
            lanes.call(0) { lane in
                guard router.hasAccessRules else { return }
                let event = Array(topic.utf8).withUnsafeBytes { topic in
                    payload.withUnsafeBytes { payload in
                        Event(
                            topic: topic, properties: UnsafeRawBufferPointer(start: nil, count: 0), payload: payload,
                            qos: 0, isRetained: false)
                    }
                }
                router.publish(event, as: .node(router), on: lane)
            }
        }
    }

    private static func mesh(
        _ configuration: Configuration, _ reactor: Reactor, _ doors: Doors, _ audit: AuditLog
    ) throws(StartFailure) -> MeshShell? {
        guard let settings = configuration.mesh else { return nil }
        return try MeshShell(
            settings, data: configuration.data, name: configuration.name, reactor: reactor, doors: doors,
            audit: audit)
    }

    /// Starts the management interface, before any client can come: whoever watches the node sees it start.
    private static func manage(
        _ configuration: Configuration, _ reactor: Reactor, _ router: Router, _ authenticator: NodeAuthenticator,
        _ statistics: StatisticsSource, _ mesh: MeshShell?, _ bridges: BridgeService, _ doors: Doors, _ audit: AuditLog
    ) throws(StartFailure) -> Admin? {
        guard let address = configuration.admin.address else { return nil }
        var settings = AdminService.Settings(name: configuration.name, version: version)
        settings.users = configuration.admin.users
        // As others would find it, whatever directory they are in.
        if let path = realpath(configuration.data, nil) {
            settings.data = String(cString: path)
            free(path)
        }
        settings.audit = audit
        let service = AdminService(
            settings, lanes: reactor.lanes, router: router, authenticator: authenticator, mesh: mesh,
            bridges: { bridges.documents() },
            metrics: { reply in Self.metrics(statistics, authenticator, mesh, bridges, audit, reply) })
        do throws(HTTPServer.Failure) {
            let server = try HTTPServer(limits: AdminService.limits, logger: Logger(label: "admin"), audit: audit) {
                request, responder in service.handle(request, responder)
            }
            let door = doors.server(configuration.admin.tls, "http")
            return Admin(service: service, server: server, address: try server.listen(address.description, door: door))
        } catch {
            throw StartFailure(
                description: "\(error); admin.listen or --admin names another address, or off", isConfiguration: false)
        }
    }

    /// The text is written on the statistics' own thread, hence the mesh is asked first.
    private static func metrics(
        _ statistics: StatisticsSource, _ authenticator: NodeAuthenticator, _ mesh: MeshShell?,
        _ bridges: BridgeService, _ audit: AuditLog, _ reply: @escaping @Sendable (String) -> Void
    ) {
        let gather = { @Sendable (numbers: MeshStatistics?) in
            statistics.gather { node in
                var node = node
                node.mesh = numbers
                node.auditRecords = audit.counts
                node.logins = authenticator.counters
                node.bridges = bridges.documents()
                reply(Metrics.prometheus(node))
            }
        }
        if let mesh { mesh.statistics { gather($0) } } else { gather(nil) }
    }

    private static func listen(
        _ configuration: Configuration, _ reactor: Reactor, _ router: Router, _ authenticator: NodeAuthenticator,
        _ webhooks: WebhookManager, _ mesh: MeshShell?, _ admin: Admin?, _ doors: Doors, _ log: Log
    ) throws(SocketAddress.Failure) {
        let adapters = Adapters.all(
            routers: [router.name: router], authenticator: authenticator, webhooks: webhooks, configuration)
        var ready: [(protocolName: String, address: String)] = []
        for settings in configuration.listeners {
            guard let adapter = adapters[settings.protocolName] else { continue }
            let listener = try Listener(
                try SocketAddress(settings.address.description), adapter: adapter, name: settings.name,
                door: doors.server(settings.tls, settings.protocolName.rawValue),
                admission: settings.entrance.admission(
                    listener: settings.name, quotas: router.quotas, audit: router.audit))
            reactor.listen(listener)
            ready.append((settings.protocolName.rawValue, listener.address.description))
        }
        if ready.isEmpty { Logger(label: "node").warning("without listeners no client can connect") }
        if let address = mesh?.address { ready.append((MeshAdapter.name, address)) }
        let service = admin?.service
        service?.becomeReady(
            ready.map { .init(protocol: $0.protocolName, address: $0.address) }, isJoining: mesh != nil)
        mesh?.start(router: router) { service?.becomeJoined() }
        log.ready(node: configuration.name, listeners: ready, admin: admin?.address)
    }

    // MARK: Life

    private mutating func serve(_ source: ConfigurationSource) {
        notify(.ready)
        while true {
            switch Signals.wait() {
            case .terminate: return stop()
            case .reload: reload(source)
            case .report: report()
            case .toggleDebug:
                let isDebug = log.levels.toggleDebug()
                logger.notice("log level changed", metadata: ["debug": "\(isDebug)"])
                audit.record(AuditRecord(.administration, isDebug ? "debug.on" : "debug.off", isRefusal: false))
            }
        }
    }

    private func stop() {
        logger.notice("stopping", metadata: ["drain_seconds": "\(configuration.drainSeconds)"])
        audit.record(AuditRecord(.administration, "stop", isRefusal: false))
        notify(.stopping)
        admin?.service.becomeDraining()
        report()
        // One time for everything. Half of it is for what waits here, and for sessions to go to other nodes; whatever
        // that takes is not there for the rest.
        let drain = UInt64(configuration.drainSeconds) * 1_000
        let began = ContinuousClock.now
        if let mesh {
            mesh.empty(within: drain / 2) { sendOut(within: drain / 2) }
        } else {
            reactor.sendAway()
            sendOut(within: drain / 2)
        }
        let taken = UInt64(max(0, (ContinuousClock.now - began) / .milliseconds(1)))
        reactor.stop(drainMilliseconds: drain - min(taken, drain))
        admin?.server.stop(graceMilliseconds: 1_000)
        authenticator.stop()
        logger.notice("stopped")
    }

    /// Bridges and webhooks end, in this order: a bridge goes on taking in events until its end, and says that the node
    /// has them, which a webhook must be there for. What they could not send in the time, and others of their groups
    /// can take, is on its way to those afterwards.
    private func sendOut(within limit: UInt64) {
        // What the clients' last words were has to reach them first.
        reactor.settle()
        let began = ContinuousClock.now
        bridges.stop(graceMilliseconds: limit)
        // What they have taken in last has to reach the webhooks.
        reactor.settle()
        let taken = UInt64(max(0, (ContinuousClock.now - began) / .milliseconds(1)))
        webhooks.service.stop(graceMilliseconds: limit - min(taken, limit))
        reactor.settle()
    }

    /// SIGHUP: what can change, changes; what cannot is named.
    private mutating func reload(_ source: ConfigurationSource) {
        notify(.reloading)
        defer { notify(.ready) }
        do {
            let new = try source.load()
            let users = try Self.users(new)
            let rules = try Self.rules(new)
            try authenticator.reload(IdentitySettings(new, users: users))
            router.reload(rules)
            quotas.reload(new.security.quotas)
            log.levels.update(new.log)
            for key in new.keysNeedingRestart(since: configuration) {
                logger.warning("this key changes only at a restart", metadata: ["key": "\(key)"])
            }
            if let links = new.mesh?.links, let mesh {
                mesh.update(configured: links)
                configuration.mesh?.links = links
            }
            bridges.update(new.bridges)
            configuration.bridges = new.bridges
            configuration.security = new.security
            configuration.drainSeconds = new.drainSeconds
            configuration.log.level = new.log.level
            configuration.log.levels = new.log.levels
            doors.reload(reactor, admin?.server)
            reactor.judgeIdentities { [authenticator] in authenticator.isStillGood($0) }
            audit.record(AuditRecord(.administration, "reload", isRefusal: false))
            logger.notice("configuration reloaded")
        } catch {
            logger.error("reload refused, the running configuration stays", metadata: ["problem": "\(error)"])
            audit.record(AuditRecord(.administration, "reload", reason: "\(error)"))
        }
    }

    /// SIGUSR1: everything that was counted, as one record.
    private func report() {
        let node = statistics.statistics(of: reactor.statistics())
        let counters = node.counters
        var metadata: Logger.Metadata = [
            "event": "counters",
            "connections": "\(reactor.lanes.connectionCount)",
            "sessions": "\(node.sessions)",
            "sessions_connected": "\(node.connectedSessions)",
            "subscriptions": "\(node.subscriptions)",
            "retained": "\(node.retainedEvents)",
            "queued_events": "\(node.queuedEvents)",
            "queued_bytes": "\(node.queuedBytes)",
            "accepted": "\(counters.accepted)",
            "events_in": "\(counters.eventsIn)",
            "bytes_in": "\(counters.bytesIn)",
            "events_out": "\(counters.eventsOut)",
            "cache_lookups": "\(counters.cacheLookups)",
            "cache_misses": "\(counters.cacheMisses)",
            "subscriptions_refused": "\(counters.subscriptionsRefused)",
            "frames_refused": "\(counters.framesRefused)",
            "sessions_expired": "\(counters.sessionsExpired)",
            "descriptors_exhausted": "\(counters.descriptorsExhausted)",
        ]
        for reason in DropReason.allCases where counters.dropped[reason.rawValue] > 0 {
            metadata["dropped_\(reason)"] = "\(counters.dropped[reason.rawValue])"
        }
        for reason in CloseReason.allCases where counters.closed[reason.rawValue] > 0 {
            metadata["closed_\(reason)"] = "\(counters.closed[reason.rawValue])"
        }
        logger.notice("counters", metadata: metadata)
    }

    private func notify(_ state: SystemdNotify.State) {
        do { try systemd.send(state) } catch {
            logger.warning("systemd was not told", metadata: ["problem": "\(error)"])
        }
    }

    // MARK: Security

    private static func users(_ configuration: Configuration) throws(StartFailure) -> [User] {
        guard let path = configuration.security.users else { return [] }
        do { return try UserFile.load(path).users } catch {
            throw configuration.startFailure(configuration.problem("security.users", error.description))
        }
    }

    private static func rules(_ configuration: Configuration) throws(StartFailure) -> AccessRules {
        do { return try configuration.security.accessRules() } catch {
            throw StartFailure(description: "security.access[\(error.rule)]: \(error)", isConfiguration: true)
        }
    }
}
