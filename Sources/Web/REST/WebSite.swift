public import Core

/// The site of an HTTP listener: events over REST, Server-Sent Events and WebSocket. `+Routes` has the paths,
/// `Publishing` the way of an event, `Visitor` who is at the other end.
///
/// Threading: shared by all lanes.
public final class WebSite: HTTPSite {
    /// Bounds of requests.
    public let limits: HTTPLimits
    let context: WebContext

    /// Makes the site.
    /// - Parameters:
    ///   - routers: the namespaces by name; `default` must be there.
    ///   - nodeName: for people, like the version.
    ///   - instance: random; stands for this run of the node in ids. Letters and digits.
    ///   - webhooks: who has them; nil where there are none.
    ///   - adapters: what WebSocket may carry, by subprotocol.
    ///   - random: unpredictable numbers.
    ///   - wallClock: milliseconds since 1970.
    public init(
        _ settings: WebSettings, routers: [String: Router], authenticator: any Authenticator, nodeName: String,
        version: String, instance: String, adapters: [String: any Adapter], webhooks: (any WebhookManaging)? = nil,
        limits: Limits, random: @escaping @Sendable () -> UInt64,
        wallClock: @escaping @Sendable () -> UInt64
    ) {
        var bounds = HTTPLimits()
        bounds.bodyBytes = limits.maxPacketBytes
        self.limits = bounds
        context = WebContext(
            routers: routers, authenticator: authenticator, settings: settings, nodeName: nodeName,
            version: version, instance: instance, adapters: adapters, webhooks: webhooks, random: random,
            wallClock: wallClock)
    }

    /// Finds out who asks, and whether a page of another origin may.
    public func admit(_ head: RequestHead, of connection: HTTPConversation, on lane: Lane) -> Admission {
        if let origin = head.value("origin") {
            if let answer = judge(origin, head, connection) { return .answered(answer) }
        } else if isTakenElsewhere(head) {
            return .answered(Problem(403, "Pages of other origins may not take events from here.").response)
        }
        let visitor = Visitor.of(connection)
        let authorization = head.value("authorization")
        if let visitor, visitor.isSame(authorization), lane.now < visitor.endsAt {
            // The same request again, because what came before it has been answered meanwhile.
            if visitor.isPending { return .pending }
            if visitor.isBusy { connection.belonging = nil }
            // A browser cannot say who its user is when it opens a WebSocket: that is said inside. Who says it here
            // and is not believed is not let in: inside he could be nobody, without a look at the host.
            if visitor.refusal != nil, authorization == nil, Socket.of(head.target)?.knowsItsOwnUsers == true {
                return .granted
            }
            return visitor.refusal.map { .answered($0.response) } ?? visitor.admission(head, connection, context)
        }
        return identify(authorization, head, connection, on: lane)
    }

    /// Takes a request.
    public func take(
        _ head: RequestHead, _ body: UnsafeRawBufferPointer, of connection: HTTPConversation, _ turn: Turn,
        on lane: Lane
    ) -> RequestVerdict {
        let principal = Visitor.of(connection)?.principal
        guard turn.isEmpty || turn.principal === principal else { return .routeFirst }
        do throws(Problem) {
            if let principal, head.method.elementsEqual("POST".utf8), let topic = Self.topic(of: head.target) {
                return try publish(topic, head, body, principal, connection, turn, lane)
            }
            guard turn.isEmpty else { return .routeFirst }
            return try serve(head, body, principal, connection, lane)
        } catch {
            guard turn.isEmpty else { return .routeFirst }
            connection.respond(error)
            return .answered
        }
    }

    // MARK: Origins

    /// What a browser says about the page that asks: nobody's page may use a node in its visitor's name, unless the
    /// page came from there, or the configuration names its origin.
    /// - Returns: an answer, if the request ends here.
    private func judge(
        _ origin: UnsafeRawBufferPointer, _ head: RequestHead, _ connection: HTTPConversation
    ) -> HTTPResponse? {
        let text = origin.text
        let isListed = context.settings.corsOrigins.contains { $0 == "*" || $0.lowercased() == text.lowercased() }
        if isListed {
            var lines = "Access-Control-Allow-Origin: \(text)\r\nVary: Origin\r\n"
            lines += "Access-Control-Expose-Headers: \(Self.exposed)\r\n"
            // What anybody may use needs no password of the visitor's.
            if !context.settings.corsOrigins.contains("*") { lines += "Access-Control-Allow-Credentials: true\r\n" }
            connection.extraLines = Array(lines.utf8)
        } else if !Visitor.isSame(text, head.host?.text ?? "") {
            return Problem(403, "Pages of \(text) may not use this node: http.cors_origins does not name them.")
                .response
        }
        guard head.method.elementsEqual("OPTIONS".utf8), head.value("access-control-request-method") != nil else {
            return nil
        }
        var answer = HTTPResponse.noContent
        answer.headers.add("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS")
        if let wanted = head.value("access-control-request-headers") {
            answer.headers.add("Access-Control-Allow-Headers", wanted.text)
        }
        answer.headers.add("Access-Control-Max-Age", "600")
        return answer
    }

    /// Whether a page of another site makes its visitor's browser ask for events without saying so: it could not read
    /// them, but take them away from the other members of a group.
    private func isTakenElsewhere(_ head: RequestHead) -> Bool {
        guard head.value("sec-fetch-site")?.isSame(as: "cross-site") == true else { return false }
        return head.target.begins(with: "/events") || head.target.begins(with: "/poll")
    }

    private static let exposed = """
        Apus-Correlation-Id, Apus-Reply-To, Apus-Message-Id, Apus-Priority, Apus-Partition-Key, Apus-Time-To-Live, \
        Idempotency-Replayed, ETag, Retry-After
        """
}
