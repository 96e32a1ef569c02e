/// Who may use the management interface: `docs/security.md`.
import Core
import Web

/// Lets a request pass, or answers it.
struct AdminGuard: Sendable {
    /// Users who may; empty means: whoever is on this machine, and nobody else.
    let users: Set<String>
    let authenticator: any Authenticator

    /// Paths that tell nothing but whether the node lives: for probes, which have no password.
    private static let open: Set<String> = ["/healthz", "/readyz"]

    /// Calls `pass` if the request may be served, at once or when the password has been checked.
    func check(
        _ request: HTTPRequest, _ responder: HTTPResponder, pass: @escaping @Sendable () -> Void
    ) {
        if !request.method.isSafe, let origin = request.headers["Origin"], !Self.isSame(origin, request.host) {
            responder.send(Problem(403, "Pages of other origins cannot change anything here."))
            return
        }
        if Self.open.contains(request.path) { return pass() }
        guard !users.isEmpty else {
            // A page whose name was made to mean this machine says that name as the host (DNS rebinding).
            guard Self.isNumberOrLocalhost(request.host) else {
                responder.send(Problem(421, "Without admin.users the host must be an address or localhost."))
                return
            }
            guard request.isLocal else {
                responder.send(Problem(403, "Without admin.users only this machine is served."))
                return
            }
            return pass()
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
        authenticate(credentials, responder, pass)
    }

    private var takesTokens: Bool { authenticator.mechanisms.contains(.oauthBearer) }

    private func authenticate(
        _ credentials: Credentials, _ responder: HTTPResponder, _ pass: @escaping @Sendable () -> Void
    ) {
        let (users, hadToken) = (users, credentials.token != nil)
        let decide = { @Sendable (result: AuthenticationResult) in
            switch result {
            case .accepted(let identity):
                guard let name = identity.user, users.contains(name) else {
                    responder.send(Problem(403, "This user is not among admin.users."))
                    return
                }
                pass()
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
