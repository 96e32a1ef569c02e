/// A site whose requests go to one handler as values: for what is asked seldom, such as the management interface.
public import Core

/// Gives each request to a handler, for which a ``RouteTable`` is made.
public final class HandlerSite: HTTPSite {
    /// Bounds of requests.
    public let limits: HTTPLimits
    private let handler: HTTPHandler

    /// Makes a site.
    public init(limits: HTTPLimits = HTTPLimits(), handler: @escaping HTTPHandler) {
        self.limits = limits
        self.handler = handler
    }

    /// Calls the handler, which answers at once or later.
    public func take(
        _ head: RequestHead, _ body: UnsafeRawBufferPointer, of connection: HTTPConversation, _ turn: Turn,
        on lane: Lane
    ) -> RequestVerdict {
        do throws(Problem) {
            let request = try HTTPRequest(head, body: body, link: connection.link)
            handler(request, connection.answerLater(on: lane))
            return .later
        } catch {
            connection.respond(error)
            return .answered
        }
    }

    /// Nothing is published here.
    public func routed(_ turn: Turn, of connection: HTTPConversation, on lane: Lane) {}
}

extension HTTPRequest {
    /// The values of a request.
    /// - Throws: ``Problem`` when the method is unknown, or the target's escapes are wrong.
    public init(_ head: RequestHead, body: UnsafeRawBufferPointer, link: Link) throws(Problem) {
        guard let method = Method(rawValue: head.method.text) else {
            var allow = Headers()
            allow.add("Allow", Method.allCases.map(\.rawValue).joined(separator: ", "))
            throw Problem(405, "This server does not know the method.", headers: allow)
        }
        var headers = Headers()
        for index in 0..<head.fieldCount {
            let (name, value) = head.field(index)
            headers.add(name.text, value.text)
        }
        let (target, authority) = Self.split(head.target.text)
        try self.init(
            method: method, target: target, headers: headers, body: Array(body),
            host: authority ?? head.host?.text ?? "", peer: link.peer, isLocal: link.isLocal)
    }

    /// Path and query, and the host of a target in absolute form (RFC 9112 §3.2.2).
    private static func split(_ target: String) -> (target: String, authority: String?) {
        guard target.lowercased().hasPrefix("http://") else { return (target, nil) }
        let rest = target.dropFirst("http://".count)
        let authority = rest.prefix { $0 != "/" && $0 != "?" }
        let path = rest.dropFirst(authority.count)
        return ((path.hasPrefix("/") ? "" : "/") + path, String(authority))
    }
}
