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
        try self.init(
            method: method, target: head.target.text, headers: headers, body: Array(body),
            host: head.host?.text ?? "", peer: link.peer, isLocal: link.isLocal)
        sender = Credentials(link, "http", user: nil, password: nil)
    }
}
