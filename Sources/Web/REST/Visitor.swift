import Core

/// Who is at the other end of a connection, as its last request said. Asked once for each connection and password, not
/// for each request. Confined to the connection's lane.
final class Visitor: HTTPBelonging {
    /// The value of `Authorization` that this is the answer to; nil for none.
    let authorization: [UInt8]?
    private(set) var principal: Principal?
    var owner: Identity? { principal?.identity }
    private(set) var refusal: Problem?
    /// When the proof of who it is ends, in the lane's milliseconds; `max` for never.
    private(set) var endsAt = UInt64.max
    /// Whether nobody could look at the password: that says nothing about the next request.
    private(set) var isBusy = false
    /// Whether the answer is still to come.
    var isPending: Bool { principal == nil && refusal == nil }

    init(_ authorization: UnsafeRawBufferPointer?) { self.authorization = authorization.map { Array($0) } }

    /// The visitor of a connection, once somebody has asked something.
    static func of(_ connection: HTTPConversation) -> Visitor? {
        // Nothing else is ever put there.
        connection.belonging.map { unsafeDowncast($0, to: Visitor.self) }
    }

    /// Whether a request says the same about its sender.
    func isSame(_ other: UnsafeRawBufferPointer?) -> Bool {
        guard let authorization else { return other == nil }
        guard let other, other.count == authorization.count else { return false }
        return authorization.withUnsafeBytes { $0.elementsEqual(other) }
    }

    /// Until when the requests of a connection are those of whoever made the last one; `max` for as long as it lasts.
    static func end(of connection: HTTPConversation) -> UInt64 { of(connection)?.endsAt ?? .max }

    /// The answer has come.
    func settle(
        _ result: AuthenticationResult, hadToken: Bool, _ context: WebContext, _ link: Link, on lane: Lane
    ) {
        func unauthorized(_ detail: String) -> Problem {
            .unauthorized(detail, offersTokens: context.takesTokens, hadToken: hadToken)
        }
        switch result {
        case .accepted(let identity):
            endsAt = identity.end(from: lane.now)
            guard let router = context.routers[identity.namespace] else {
                refusal = Problem(403, "This user belongs to a namespace that the node does not have.")
                return
            }
            let principal = Principal(identity: identity, clientID: "", router: router, link: link)
            (principal.peer, principal.protocolName) = (link.peer, "http")
            guard principal.join(link, on: lane) == nil else {
                isBusy = true
                refusal = .tooManyConnections
                return
            }
            self.principal = principal
        case .refused(.busy):
            var headers = Headers()
            headers.add("Retry-After", "5")
            isBusy = true
            refusal = Problem(503, "Too many passwords are being checked.", headers: headers)
        case .refused(.tooManyFailures):
            isBusy = true
            refusal = .later(429, "Too many wrong attempts.", seconds: 60)
        case .refused(.badCredentials):
            refusal = unauthorized(hadToken ? "The token is not valid." : "User unknown, or the password is wrong.")
        case .refused(.anonymousNotAllowed): refusal = unauthorized("A user and a password are needed.")
        }
    }

    /// Nobody can be checked.
    func refuse(_ problem: Problem) { refusal = problem }

    /// A page whose name was made to mean this machine says that name as the host (DNS rebinding). Who needs a password
    /// is safe from it: the browser does not send it there.
    func admission(_ head: RequestHead, _ connection: HTTPConversation, _ context: WebContext) -> Admission {
        guard connection.link.isLocal, authorization == nil, principal?.identity.user == nil, let host = head.host,
            !Self.isPlain(host), !context.isKnown(host: host.text)
        else { return .granted }
        let detail = "Without a user the host must be an address, localhost or the node's name."
        return .answered(Problem(421, detail).response)
    }

    /// Whether a host is an address or `localhost`: the first byte settles it nearly always.
    private static func isPlain(_ host: UnsafeRawBufferPointer) -> Bool {
        guard let first = host.first else { return true }
        if first == UInt8(ascii: "[") { return true }
        let end = host.firstIndex(of: UInt8(ascii: ":")) ?? host.count
        let name = UnsafeRawBufferPointer(rebasing: host[..<end])
        if name.isSame(as: "localhost") { return true }
        let parts = name.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        return parts.count == 4
            && parts.allSatisfy { (1...3).contains($0.count) && $0.allSatisfy { $0 &- UInt8(ascii: "0") < 10 } }
    }

    /// Whether a page of `origin` came from this very host, over a proxy with TLS perhaps.
    static func isSame(_ origin: String, _ host: String) -> Bool {
        let origin = origin.lowercased()
        return origin == "http://\(host.lowercased())" || origin == "https://\(host.lowercased())"
    }
}

extension WebSite {
    /// Finds out who asks.
    func identify(
        _ authorization: UnsafeRawBufferPointer?, _ head: RequestHead, _ connection: HTTPConversation, on lane: Lane
    ) -> Admission {
        let visitor = Visitor(authorization)
        connection.belonging = visitor
        var credentials = Credentials(connection.link, "http", user: nil, password: nil)
        switch Authorization(authorization) {
        case .nothing: break
        case .basic(let user, let password): (credentials.user, credentials.password) = (user, password)
        case .bearer(let token) where context.takesTokens: credentials.token = token
        case .bearer, .unknown:
            let detail = "Authorization is not of the Basic scheme\(context.takesTokens ? ", nor a bearer token" : "")."
            visitor.refuse(.unauthorized(detail, offersTokens: context.takesTokens))
            return admit(head, of: connection, on: lane)
        }
        let hadToken = credentials.token != nil
        let context = context
        let asked = visitor.authorization
        let reply = connection.link.callback { (conversation: Conversation, result: AuthenticationResult, lane: Lane) in
            guard let connection = conversation as? HTTPConversation, let visitor = Visitor.of(connection),
                visitor.isPending, visitor.authorization == asked
            else { return }
            visitor.settle(result, hadToken: hadToken, context, connection.link, on: lane)
            connection.link.resume()
        }
        guard let result = context.authenticator.authenticate(credentials, reply: reply) else { return .pending }
        visitor.settle(result, hadToken: hadToken, context, connection.link, on: lane)
        return admit(head, of: connection, on: lane)
    }
}

extension Problem {
    /// A user has as many connections as it may, or makes them too fast.
    static var tooManyConnections: Problem { .later(429, "Too many connections of this user.", seconds: 5) }

    /// A payload is larger than the quotas allow.
    static var payloadTooLarge: Problem { Problem(413, "The payload is larger than this user may publish.") }

    /// What somebody is told who may not do something: those without a name may come back with one.
    static func forbidden(_ detail: String, _ principal: Principal, _ context: WebContext) -> Problem {
        principal.identity.user == nil
            ? unauthorized("\(detail) A user may be allowed to.", offersTokens: context.takesTokens)
            : Problem(403, detail)
    }

    /// A problem that may be over in a while.
    static func later(_ status: Int, _ detail: String, seconds: Int) -> Problem {
        var headers = Headers()
        headers.add("Retry-After", String(seconds))
        return Problem(status, detail, headers: headers)
    }
}
