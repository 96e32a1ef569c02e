/// What connects the mesh, which knows neither sockets nor clocks, with this process: it gives it a listener,
/// connections that it dials, time, chance, a place on the disk and a log, and carries to it what an operator wants.
import Admin
import Core
import Dispatch
import FoundationEssentials
import Glibc
import Logging
import Mesh
import Reactor
import Security
import Synchronization
import TLS
import Web

/// The mesh of one node, seen from outside of its lane. Callable from any thread.
final class MeshShell: Sendable {
    /// Where the mesh lives.
    static let lane = 0

    /// What is to be dialled.
    private struct Wanted {
        /// `mesh.links`.
        var configured: [MeshSettings.LinkEntry]
        /// By command, until the node is started again.
        var added: [MeshSettings.LinkEntry] = []

        var all: [MeshSettings.LinkEntry] { configured + added }
    }

    private let settings: MeshSettings
    private let identity: MeshIdentityFile
    let reactor: Reactor
    private let listener: Listener?
    /// Transport security of the links that this node dials; nil without.
    private let door: TLSDoor?
    private let audit: (any AuditSink)?
    private let logger = Logger(label: "mesh")
    private let wanted: Mutex<Wanted>

    /// Begins another life of this node in its mesh, and binds the listener. Nothing is sent and nobody comes in before
    /// ``start(router:joined:)``.
    /// - Throws: when it cannot be who it was, or the address cannot be listened on.
    init(
        _ settings: MeshSettings, data: String, name: String, reactor: Reactor, doors: Doors? = nil,
        audit: (any AuditSink)? = nil
    ) throws(Node.StartFailure) {
        door = doors?.mesh(settings, .client)
        self.audit = audit
        do throws(MeshIdentityFile.Failure) {
            identity = try MeshIdentityFile(data: data, name: name, certified: try Self.certified(door?.settings))
        } catch { throw Node.StartFailure(description: error.description, isConfiguration: false) }
        do throws(SocketAddress.Failure) {
            listener = try settings.listen.map { address throws(SocketAddress.Failure) in
                try Listener(
                    try SocketAddress(address), adapter: MeshAdapter(), name: MeshAdapter.name,
                    door: doors?.mesh(settings, .server))
            }
        } catch {
            throw Node.StartFailure(
                description: "\(error); mesh.listen or --mesh names another address, or off", isConfiguration: false)
        }
        var settings = settings
        if settings.advertise.isEmpty { settings.advertise = Self.advertised(settings, listener?.address) }
        self.settings = settings
        self.reactor = reactor
        wanted = Mutex(Wanted(configured: settings.links))
    }

    /// Who the node's own certificate says that it is.
    static func certified(_ settings: TLSSettings?) throws(MeshIdentityFile.Failure) -> NodeID? {
        guard let path = settings?.certificates.first?.certificate else { return nil }
        do throws(CertificateFailure) {
            if let id = (try Certificate.load(path).node).flatMap({ NodeID($0.id) }) { return id }
        } catch { throw MeshIdentityFile.Failure(description: error.description) }
        throw MeshIdentityFile.Failure(
            description: """
                \(path) is no certificate of a node: it has no alternative name apus:node:ID; `apus certs node` makes \
                one
                """)
    }

    /// Where other nodes come in; nil for a node that only dials.
    var address: String? { listener?.address.description }

    /// Makes the mesh on its lane: it dials, and others may come in.
    /// - Parameter joined: called once, on the mesh's lane, when the node knows what its neighbours know, or has found
    ///   none.
    func start(router: Router, joined: @escaping @Sendable () -> Void) {
        logger.notice(
            "in a mesh",
            metadata: [
                "mesh": "\(settings.meshID)", "id": "\(identity.identity.id)",
                "life": "\(identity.identity.epoch >> 16)", "listen": "\(address ?? "off")",
                "advertised": "\(settings.advertise.joined(separator: " "))", "links": "\(settings.links.count)",
            ])
        let (settings, identity, reactor, logger, door, audit) = (settings, identity, reactor, logger, door, audit)
        reactor.lanes.call(Self.lane) { lane in
            let host = ReactorHost(reactor, identity, logger, door, audit)
            let mesh = MeshNode(settings, identity.identity, router: router, lane: lane, host: host)
            JoinWatch(mesh, joined).begin(on: lane)
        }
        if let listener { reactor.listen(listener) }
    }

    /// What others are told to dial when the configuration does not say: the listener, if they can reach it. Loopback
    /// is told only when all of the mesh is on this machine: elsewhere it would be somebody else.
    private static func advertised(_ settings: MeshSettings, _ address: SocketAddress?) -> [String] {
        guard let address else { return [] }
        let found = address.reachable().prefix(maxAdvertised)
        if found.contains(where: { !$0.isLocal }) { return found.map(\.description) }
        let isAllHere = settings.links.allSatisfy { MeshKeys.isLocal($0.address) }
        return isAllHere ? found.map(\.description) : []
    }

    /// Addresses of a machine with many interfaces that others are told.
    private static let maxAdvertised = 4

    // MARK: Links

    /// The configuration was read again: its links are dialled, and no others of it.
    func update(configured links: [MeshSettings.LinkEntry]) {
        change { wanted in
            wanted.configured = links
            wanted.added.removeAll { added in links.contains { $0.isSame(as: added) } }
        }
    }

    private func change(_ body: (inout Wanted) -> Void) {
        wanted.withLock { wanted in
            body(&wanted)
            tell(wanted.all)
        }
    }

    /// Under the lock, so that the last change is the last that the mesh hears of.
    private func tell(_ links: [MeshSettings.LinkEntry]) {
        reactor.lanes.call(Self.lane) { MeshNode.of($0)?.update(links: links) }
    }
}

extension MeshShell: MeshManaging {
    func links(_ answer: @escaping @Sendable ([LinkDocument]) -> Void) {
        let wanted = wanted.withLock { $0 }
        reactor.lanes.call(Self.lane) { lane in
            answer(MeshNode.of(lane).map { Self.documents($0.topology(), wanted) } ?? [])
        }
    }

    func addLink(to: String, name: String, cost: Int) throws(Problem) -> Bool {
        if let reason = MeshKeys.reasonAgainst(address: to) {
            throw Problem(400, "'\(to)' is no address of a node: \(reason).")
        }
        guard !MeshKeys.isNameTooLong(name) else { throw Problem(400, "The name has more than 64 bytes.") }
        guard settings.provesPeers || MeshKeys.isLocal(to) else {
            throw Problem(
                409,
                "'\(to)' may be another machine: that needs mesh.secret or mesh.tls, and a restart.")
        }
        var entry = MeshSettings.LinkEntry(address: to)
        entry.name = name
        entry.cost = UInt32(clamping: cost)
        let (link, maxLinks) = (entry, settings.maxLinks)
        let isNew: Bool? = wanted.withLock { wanted in
            var isNew = false
            if let index = wanted.configured.firstIndex(where: { $0.isSame(as: link) }) {
                wanted.configured[index].cost = link.cost
            } else if let index = wanted.added.firstIndex(where: { $0.isSame(as: link) }) {
                wanted.added[index].cost = link.cost
            } else {
                guard wanted.all.count < maxLinks else { return nil }
                wanted.added.append(link)
                isNew = true
            }
            tell(wanted.all)
            return isNew
        }
        guard let isNew else { throw Problem(409, "The node dials \(maxLinks) others, as many as mesh.max_links.") }
        return isNew
    }

    func removeLink(to: String, name: String) throws(Problem) {
        var entry = MeshSettings.LinkEntry(address: to)
        entry.name = name
        let link = entry
        let isFound = wanted.withLock { wanted in
            let before = wanted.all.count
            wanted.configured.removeAll { $0.isSame(as: link) }
            wanted.added.removeAll { $0.isSame(as: link) }
            guard wanted.all.count < before else { return false }
            tell(wanted.all)
            return true
        }
        guard isFound else {
            throw Problem(404, "The node does not dial \(to)\(name.isEmpty ? "" : " under the name '\(name)'").")
        }
    }

    func leave(_ answer: @escaping @Sendable () -> Void) {
        reactor.lanes.call(Self.lane) { lane in
            guard let mesh = MeshNode.of(lane) else { return answer() }
            mesh.leaveForGood(answer)
        }
    }

    /// The node is about to stop: its clients are sent away, and while they fetch their sessions from other nodes this
    /// waits. Not for a lane's own thread.
    /// - Parameters:
    ///   - limit: how long sessions have, in milliseconds.
    ///   - others: what else gives events to other nodes before this one leaves; called once clients are sent away.
    func empty(within limit: UInt64, while others: () -> Void) {
        guard limit > 0 else {
            reactor.sendAway()
            return others()
        }
        let began = ContinuousClock.now
        let isDone = DispatchSemaphore(value: 0)
        reactor.lanes.call(Self.lane) { lane in
            guard let mesh = MeshNode.of(lane) else {
                isDone.signal()
                return
            }
            mesh.empty(within: limit, isHeld: true) { isDone.signal() }
        }
        reactor.sendAway()
        others()
        reactor.lanes.call(Self.lane) { MeshNode.of($0)?.letGo() }
        // The mesh keeps to the limit itself, if its lane goes on.
        let left = Int(limit) - Int((ContinuousClock.now - began) / .milliseconds(1))
        if isDone.wait(timeout: .now() + .milliseconds(max(0, left) + 500)) == .timedOut {
            logger.warning("the mesh did not answer when the node was to stop")
        }
    }

    private static func documents(_ topology: MeshTopology, _ wanted: Wanted) -> [LinkDocument] {
        var links = topology.links.map { link in
            var document = LinkDocument(
                to: link.address.isEmpty ? nil : link.address, name: link.name.isEmpty ? nil : link.name,
                peer: link.peer, state: link.state, origin: origin(link, wanted), cost: Int(link.cost))
            if link.roundTrip > 0 { document.roundTripMicroseconds = Int(clamping: link.roundTrip) }
            return document
        }
        for entry in wanted.all {
            let isThere = topology.links.contains { $0.address == entry.address && $0.name == entry.name }
            guard !isThere, let problem = topology.missing.first(where: { $0.address == entry.address })?.problem
            else { continue }
            var document = LinkDocument(
                to: entry.address, name: entry.name.isEmpty ? nil : entry.name, state: "missing",
                origin: wanted.configured.contains(entry) ? "configured" : "added", cost: Int(entry.cost))
            if !problem.isEmpty { document.problem = problem }
            links.append(document)
        }
        return links
    }

    private static func origin(_ link: MeshTopology.Link, _ wanted: Wanted) -> String {
        func isOf(_ entries: [MeshSettings.LinkEntry]) -> Bool {
            entries.contains { $0.address == link.address && $0.name == link.name }
        }
        if link.address.isEmpty { return "accepted" }
        return isOf(wanted.configured) ? "configured" : isOf(wanted.added) ? "added" : "learnt"
    }
}

extension MeshSettings.LinkEntry {
    /// Whether both mean one link, whatever it costs.
    fileprivate func isSame(as other: Self) -> Bool { address == other.address && name == other.name }
}

/// Looks until the mesh has joined, and says so once. Confined to the mesh's lane, to which it belongs.
private final class JoinWatch {
    private let mesh: MeshNode
    private let joined: @Sendable () -> Void
    private lazy var alarm = Alarm { [unowned self] in look($0) }

    private static let milliseconds: UInt64 = 20

    init(_ mesh: MeshNode, _ joined: @escaping @Sendable () -> Void) {
        self.mesh = mesh
        self.joined = joined
    }

    func begin(on lane: Lane) {
        lane.belongings["mesh.joining"] = self
        lane.alarms.append(alarm)
        look(lane)
    }

    private func look(_ lane: Lane) {
        // One that had to leave serves its own clients, as one that is alone does.
        guard mesh.isJoined || mesh.hasLeft != nil else {
            alarm.at = lane.now + Self.milliseconds
            return
        }
        joined()
        lane.alarms.removeAll { $0 === alarm }
        lane.belongings["mesh.joining"] = nil
    }
}

/// What the mesh asks for, as this process has it. Made and used on the mesh's lane.
private final class ReactorHost: MeshHost {
    let reactor: Reactor
    private let identity: MeshIdentityFile
    private let logger: Logger
    private let door: TLSDoor?
    private let auditSink: (any AuditSink)?
    /// The disk is waited for there.
    private let disk = DispatchQueue(label: "mesh.identity")

    /// For how long a connection may be tried, in milliseconds.
    private static let dialMilliseconds: UInt64 = 3_000

    init(
        _ reactor: Reactor, _ identity: MeshIdentityFile, _ logger: Logger, _ door: TLSDoor?,
        _ audit: (any AuditSink)?
    ) {
        self.door = door
        auditSink = audit
        self.reactor = reactor
        self.identity = identity
        self.logger = logger
    }

    override func dial(_ address: String, ticket: Int) {
        let lanes = reactor.lanes
        reactor.dial(
            address, on: MeshShell.lane, timeoutMilliseconds: Self.dialMilliseconds, adapterName: MeshAdapter.name,
            // Whom the address has led to is what the node id in the certificate says, whatever the address is called.
            door: door, serverName: nil,
            makeConversation: { link, lane in
                MeshNode.of(lane)?.dialled(ticket, link: link, on: lane) ?? Conversation()
            },
            failed: { reason in
                lanes.call(MeshShell.lane) { MeshNode.of($0)?.dialFailed(ticket, reason) }
            })
    }

    override func audit(_ record: AuditRecord) { auditSink?.record(record) }

    override func wallClock() -> UInt64 { Self.nanoseconds(CLOCK_REALTIME) / 1_000_000 }
    override func makeWallClock() -> @Sendable () -> UInt64 { { Self.nanoseconds(CLOCK_REALTIME) / 1_000_000 } }
    override func wallMicroseconds() -> UInt64 { Self.nanoseconds(CLOCK_REALTIME) / 1_000 }
    override func microseconds() -> UInt64 { Self.nanoseconds(CLOCK_MONOTONIC) / 1_000 }

    private static func nanoseconds(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        clock_gettime(clock, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    override func random() -> UInt64 { .random(in: .min ... .max) }

    override func log(_ level: MeshLogLevel, _ message: String) {
        let level: Logger.Level =
            switch level {
            case .debug: .debug
            case .info: .info
            case .notice: .notice
            case .warning: .warning
            case .error: .error
            }
        logger.log(level: level, "\(message)")
    }

    override func keep(shortID: UInt16) {
        keep { identity throws(MeshIdentityFile.Failure) in try identity.save(shortID: shortID) }
    }

    override func keep(epoch: UInt64) {
        keep { identity throws(MeshIdentityFile.Failure) in try identity.save(epoch: epoch) }
    }

    private func keep(_ save: @escaping @Sendable (MeshIdentityFile) throws(MeshIdentityFile.Failure) -> Void) {
        let (identity, logger) = (identity, logger)
        disk.async {
            do throws(MeshIdentityFile.Failure) { try save(identity) } catch {
                logger.error("who this node is could not be kept", metadata: ["problem": "\(error)"])
            }
        }
    }
}
