/// Who may use the management interface: `docs/security.md`.
import Core
import Synchronization
import Web

/// Lets a request pass, or answers it.
struct AdminGuard: Sendable {
    /// Users who may; without any, and without rules about it: whoever is on this machine, and nobody else.
    let users: Set<String>
    let authenticator: any Authenticator
    /// Its access rules may say who may, too.
    let router: Router
    /// Is told of refusals, and of what is changed.
    let audit: (any AuditSink)?

    /// Paths that tell nothing but whether the node lives: for probes, which have no password.
    private static let open: Set<String> = ["/healthz", "/readyz"]

    /// Calls `pass` if the request may be served, at once or when the password has been checked; with a responder that
    /// keeps a record of the answer where that is due.
    func check(
        _ request: HTTPRequest, _ responder: HTTPResponder, pass: @escaping @Sendable (HTTPResponder) -> Void
    ) {
        let sender = Sender()
        let responder = recorded(request, sender, responder)
        if !request.method.isSafe, let origin = request.headers["Origin"], !Self.isSame(origin, request.host) {
            responder.send(Problem(403, "Pages of other origins cannot change anything here."))
            return
        }
        if Self.open.contains(request.path) { return pass(responder) }
        guard !users.isEmpty || router.hasAdministrationRules else {
            // A page whose name was made to mean this machine says that name as the host (DNS rebinding).
            guard Self.isNumberOrLocalhost(request.host) else {
                responder.send(Problem(421, "Without admin.users the host must be an address or localhost."))
                return
            }
            guard request.isLocal else {
                responder.send(Problem(403, "Without admin.users only this machine is served."))
                return
            }
            return pass(responder)
        }
        var credentials = request.sender
        credentials.protocolName = "admin"
        switch Authorization(request.headers["Authorization"]) {
        case .basic(let user, let password): (credentials.user, credentials.password) = (user, password)
        case .bearer(let token) where takesTokens: credentials.token = token
        // A certificate says who it is as well.
        case .nothing where credentials.certificateUser != nil: break
        case .nothing, .bearer, .unknown: return challenge(responder)
        }
        authenticate(credentials, responder) { identity in
            sender.user.withLock { $0 = identity.user }
            pass(responder)
        }
    }

    /// Who has made a request, once that is known.
    private final class Sender: Sendable { let user = Mutex<String?>(nil) }

    /// A request that changes something, and one that is refused, is kept in mind with its answer.
    private func recorded(_ request: HTTPRequest, _ sender: Sender, _ responder: HTTPResponder) -> HTTPResponder {
        guard let audit else { return responder }
        let (isSafe, method, path, peer) = (request.method.isSafe, request.method.rawValue, request.path, request.peer)
        return HTTPResponder(
            execute: { responder.run($0) },
            answer: { response in
                let isRefusal = [401, 403, 421, 429].contains(response.status)
                if isRefusal || !isSafe {
                    var record = AuditRecord(.administration, "\(method) \(path)", isRefusal: response.status >= 400)
                    record.user = sender.user.withLock { $0 }
                    record.peer = peer
                    record.protocolName = "admin"
                    record.reason = "status \(response.status)"
                    audit.record(record)
                }
                responder.send(response)
            })
    }

    /// A rule that is for somebody decides; without one it is the list of users.
    private func isAllowed(_ identity: Identity) -> Bool {
        guard let name = identity.user else { return false }
        return router.mayAdminister(identity) ?? users.contains(name)
    }

    private var takesTokens: Bool { authenticator.mechanisms.contains(.oauthBearer) }

    private func authenticate(
        _ credentials: Credentials, _ responder: HTTPResponder, _ pass: @escaping @Sendable (Identity) -> Void
    ) {
        let hadToken = credentials.token != nil
        let decide = { @Sendable (result: AuthenticationResult) in
            switch result {
            case .accepted(let identity):
                guard isAllowed(identity) else {
                    responder.send(Problem(403, "This user is not among admin.users, nor allowed by a rule."))
                    return
                }
                pass(identity)
            case .refused(.busy):
                var headers = Headers()
                headers.add("Retry-After", "5")
                responder.send(Problem(503, "Too many passwords are being checked.", headers: headers))
            case .refused(.tooManyFailures):
                var headers = Headers()
                headers.add("Retry-After", "60")
                responder.send(Problem(429, "Too many wrong attempts.", headers: headers))
            case .refused(.badCredentials), .refused(.anonymousNotAllowed):
                challenge(responder, hadToken: hadToken)
            }
        }
        // A password that must be hashed is answered from another thread.
        let reply = { @Sendable (result: AuthenticationResult) in responder.run { decide(result) } }
        if let result = authenticator.authenticate(credentials, reply: reply) { decide(result) }
    }

    private func challenge(_ responder: HTTPResponder, hadToken: Bool = false) {
        let detail = "A user among admin.users and the right password are needed."
        responder.send(.unauthorized(detail, offersTokens: takesTokens, hadToken: hadToken))
    }

    /// Whether a page of `origin` came from this very host, over a proxy with TLS perhaps.
    private static func isSame(_ origin: String, _ host: String) -> Bool {
        let origin = origin.lowercased()
        return origin == "http://\(host.lowercased())" || origin == "https://\(host.lowercased())"
    }

    private static func isNumberOrLocalhost(_ host: String) -> Bool {
        if host.hasPrefix("[") { return true }
        let name = host.prefix { $0 != ":" }
        if name.lowercased() == "localhost" { return true }
        let parts = name.split(separator: ".", omittingEmptySubsequences: false)
        return parts.count == 4 && parts.allSatisfy { UInt8($0) != nil }
    }
}
