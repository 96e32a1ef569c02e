public import Core
import FoundationEssentials
import Synchronization
public import Web

/// The management interface over HTTP: health, the node, its clients, its retained events. Described in
/// `docs/openapi-admin.yaml`.
///
/// Threading: requests come on the HTTP thread and never block it: what a lane knows is asked by `Lanes.call`, and the
/// lane's answer is written down on the HTTP thread again.
public final class AdminService: Sendable {
    /// What a node is doing.
    public enum State: String, Sendable {
        /// Not all listeners accept yet.
        case starting
        /// Clients can connect, but what other nodes' clients want is not known yet.
        case joining
        /// Clients can connect.
        case ready
        /// Clients are being told to go.
        case draining
    }

    /// What the service tells of the node and needs to know.
    public struct Settings: Sendable {
        /// The node's name.
        public var name: String
        /// The version of the program.
        public var version: String
        /// The directory of everything the node keeps.
        public var data: String?
        /// Who may use the interface; empty means whoever is on this machine.
        public var users: [String] = []
        /// Is told of refusals, and of what is changed.
        public var audit: (any AuditSink)?

        /// Makes settings for a node.
        public init(name: String, version: String) {
            self.name = name
            self.version = version
        }
    }

    /// Makes the text of the metrics and hands it on, from any thread.
    public typealias Metrics = @Sendable (@escaping @Sendable (String) -> Void) -> Void

    let lanes: Lanes
    let router: Router
    /// The links of a node that is in a mesh.
    let mesh: (any MeshManaging)?
    /// The bridges as they are now.
    private let bridges: @Sendable () -> [BridgeDocument]
    private let settings: Settings
    private let guarding: AdminGuard
    private let metrics: Metrics
    private let startedAt = Date()
    private let state = Mutex<(now: State, listeners: [NodeDocument.Listener])>((.starting, []))
    private let table = Mutex(RouteTable())

    /// Makes the service of a node; ``handle(_:_:)`` is the server's handler.
    public init(
        _ settings: Settings, lanes: Lanes, router: Router, authenticator: any Authenticator,
        mesh: (any MeshManaging)? = nil, bridges: @escaping @Sendable () -> [BridgeDocument] = { [] },
        metrics: @escaping Metrics
    ) {
        self.mesh = mesh
        self.bridges = bridges
        self.settings = settings
        self.lanes = lanes
        self.router = router
        self.metrics = metrics
        guarding = AdminGuard(
            users: Set(settings.users), authenticator: authenticator, router: router, audit: settings.audit)
        table.withLock { addRoutes(to: &$0) }
    }

    /// Bounds for a server that runs the service: requests are small and are answered soon, or a lane hangs.
    public static var limits: HTTPLimits {
        var limits = HTTPLimits()
        limits.handlerSeconds = 5
        limits.bodyBytes = 4 << 10
        return limits
    }

    /// All listeners accept.
    /// - Parameter isJoining: whether the node's mesh has yet to say ``becomeJoined()``.
    public func becomeReady(_ listeners: [NodeDocument.Listener], isJoining: Bool = false) {
        state.withLock { $0 = (isJoining ? .joining : .ready, listeners) }
    }

    /// The mesh knows what its neighbours know, or that there are none.
    public func becomeJoined() {
        state.withLock { if $0.now == .joining { $0.now = .ready } }
    }

    /// The node is stopping.
    public func becomeDraining() { state.withLock { $0.now = .draining } }

    /// Every route, for the test of the description.
    public var routes: [RouteTable.Route] { table.withLock { $0.routes } }

    /// Serves a request.
    public func handle(_ request: HTTPRequest, _ responder: HTTPResponder) {
        let table = table.withLock { $0 }
        guarding.check(request, responder) { responder in table.handle(request, responder) }
    }

    // MARK: Routes

    private func addRoutes(to table: inout RouteTable) {
        // The service lives as long as the server; the table is its own, hence unowned.
        table.add(.get, "/healthz") { _, responder in responder.send(Self.text("alive\n")) }
        table.add(.get, "/readyz") { [unowned self] _, responder in ready(responder) }
        table.add(.get, "/metrics") { [unowned self] _, responder in
            metrics { text in responder.send { Self.text(text, type: "text/plain; version=0.0.4; charset=utf-8") } }
        }
        table.add(.get, "/openapi.yaml") { _, responder in
            responder.send(HTTPResponse(type: "application/yaml", body: PackageResources.openapi_admin_yaml))
        }
        table.add(.get, "/v1/node") { [unowned self] _, responder in responder.send(Self.json(document())) }
        table.add(.get, "/v1/bridges") { [unowned self] _, responder in
            responder.send(Self.json(BridgeListDocument(bridges: bridges())))
        }
        addClientRoutes(to: &table)
        addRetainedRoutes(to: &table)
        addLinkRoutes(to: &table)
        addMeshRoutes(to: &table)
    }

    private func ready(_ responder: HTTPResponder) {
        switch state.withLock({ $0.now }) {
        case .ready: responder.send(Self.text("ready\n"))
        case .starting: responder.send(Problem(503, "The node is starting."))
        case .joining: responder.send(Problem(503, "The node is joining its mesh."))
        case .draining: responder.send(Problem(503, "The node is draining and will stop."))
        }
    }

    private func document() -> NodeDocument {
        let (now, listeners) = state.withLock { $0 }
        return NodeDocument(
            name: settings.name, version: settings.version, data: settings.data, state: now.rawValue,
            startedAt: startedAt,
            uptimeSeconds: Int(Date().timeIntervalSince(startedAt)), listeners: listeners,
            connections: lanes.connectionCount, sessions: router.sessionCount, subscriptions: router.subscriptionCount,
            retained: router.retainedCount)
    }

    // MARK: Answers

    static func text(_ text: String, type: String = "text/plain; charset=utf-8") -> HTTPResponse {
        guarded(HTTPResponse(type: type, body: Array(text.utf8)))
    }

    static func json(_ document: some Encodable) -> HTTPResponse {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        encoder.dateEncodingStrategy = .iso8601
        do {
            return guarded(HTTPResponse(type: "application/json", body: Array(try encoder.encode(document))))
        } catch { return Problem(500, "The answer cannot be written as JSON.").response }
    }

    /// What the node knows now is not to be kept, nor taken by a browser for something else.
    static func guarded(_ response: HTTPResponse) -> HTTPResponse {
        var response = response
        response.headers.add("Cache-Control", "no-store")
        response.headers.add("X-Content-Type-Options", "nosniff")
        return response
    }

    /// The `limit` of a page.
    static func limit(_ request: HTTPRequest) throws(Problem) -> Int {
        guard let text = request.query("limit") else { return 100 }
        guard let limit = Int(text), (1...1_000).contains(limit) else {
            throw Problem(400, "limit is a number from 1 to 1000.")
        }
        return limit
    }
}
