import Core

/// What is asked for other than by publishing one event: the paths of `docs/rest.md`.
extension WebSite {
    /// One path of the listener's own.
    private enum Route {
        case page
        case console(String)
        case description(isJSON: Bool)
        case topic
        /// A topic without `/TOPIC/` in front, which can be published to.
        case plainTopic
        case topics
        case events
        case poll
        case webhooks(String?)
        case socket(Socket)

        var methods: [Method] {
            switch self {
            case .page, .console, .description, .topics, .socket: [.get, .head]
            case .poll: [.get]
            case .topic: [.get, .head, .post, .delete]
            case .plainTopic: [.post]
            case .events: [.get, .post]
            case .webhooks(nil): [.get, .head]
            case .webhooks: [.get, .head, .put, .delete]
            }
        }
    }

    private func route(_ request: HTTPRequest) throws(Problem) -> Route {
        let segments = request.segments
        switch (segments.first ?? "", segments.count) {
        case ("", 1): return .page
        case ("console", 2): return .console(segments[1])
        case ("openapi.json", 1): return .description(isJSON: true)
        case ("openapi.yaml", 1): return .description(isJSON: false)
        case ("TOPIC", 2...): return .topic
        case ("topics", 1): return .topics
        case ("events", 1): return .events
        case ("poll", 1): return .poll
        case ("$servicebus", 2) where segments[1] == "websocket": return .socket(.amqp)
        case ("webhooks", 1): return .webhooks(nil)
        case ("webhooks", 2) where !segments[1].isEmpty: return .webhooks(segments[1])
        case (let name, 1):
            if let socket = Socket(rawValue: name) { return .socket(socket) }
        default: break
        }
        let own = Self.ownSegments.contains { $0.description == segments.first }
        if !own, request.path != "*" { return .plainTopic }
        throw Problem(404, "There is nothing at \(request.path).")
    }

    /// The topic of a path below `/TOPIC/`.
    private func topic(of head: RequestHead) throws(Problem) -> [UInt8] {
        guard let path = Self.topic(of: head.target) else { throw Self.noTopic }
        var decoded: [UInt8] = []
        switch try TopicPath.decode(path, into: &decoded) {
        case .asWritten(let count): return Array(path[..<count])
        case .decoded: return decoded
        }
    }

    /// Serves a request.
    func serve(
        _ head: RequestHead, _ body: UnsafeRawBufferPointer, _ principal: Principal?, _ connection: HTTPConversation,
        _ lane: Lane
    ) throws(Problem) -> RequestVerdict {
        let request = try HTTPRequest(head, body: body, link: connection.link)
        if request.method == .options, request.path == "*" {
            connection.respond(.noContent)
            return .answered
        }
        let route = try route(request)
        guard route.methods.contains(request.method) else {
            var headers = Headers()
            headers.add("Allow", (route.methods + [.options]).map(\.rawValue).joined(separator: ", "))
            if request.method == .options {
                connection.respond(HTTPResponse(status: 204, headers: headers))
                return .answered
            }
            var detail = "\(request.method.rawValue) is not possible at this path."
            if case .plainTopic = route {
                detail = "\(request.path.prefix(200)) is a topic, which POST publishes to and GET /TOPIC/… reads. "
                detail += "What the node says of itself, as /metrics and /healthz, is at admin.listen."
            }
            throw Problem(405, detail, headers: headers)
        }
        if case .socket(let socket) = route { return try open(socket, head, principal, connection, lane) }
        guard let principal else { throw Problem(500, "Nobody knows who asks.") }
        let state = context.state(of: lane)
        switch route {
        case .page: connection.respond(Console.page)
        case .console("node.json"): connection.respond(Console.node(context))
        case .console(let name):
            guard let file = Console.file(name) else { throw Problem(404, "There is nothing at \(request.path).") }
            connection.respond(file)
        case .description(let isJSON): connection.respond(Console.description(isJSON: isJSON))
        case .topic:
            let topic = try topic(of: head)
            return try topic.withUnsafeBytes { bytes in
                Result { () throws(Problem) in
                    request.method == .delete
                        ? try Queries.clear(bytes, principal, state, connection, on: lane)
                        : try Queries.retained(bytes, request, principal, state, connection, on: lane)
                }
            }.get()
        case .topics: return try Queries.topics(request, principal, state, connection, on: lane)
        case .events where request.method == .post:
            return try publishBatch(head, body, principal, connection, lane)
        case .events: return try EventStreams.open(request, principal, state, connection, lane)
        case .poll: return try LongPoll.take(request, principal, state, connection, lane)
        case .webhooks(let name): return try manageWebhooks(name, request, principal, connection, lane)
        // A publish whose target has another form than a path; sockets have been opened above.
        case .socket, .plainTopic: throw Self.noTopic
        }
        return .answered
    }
}
