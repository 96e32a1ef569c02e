import Core

/// Upgrades to WebSocket.
extension WebSite {
    /// The paths where a WebSocket can be opened.
    enum Socket: String {
        case mqtt, amqp, ws, echo

        /// Where clients of Azure's services open theirs for AMQP; they cannot be told another path.
        static let azurePath: StaticString = "/$servicebus/websocket"

        /// The paths as they begin a target.
        static func of(_ target: UnsafeRawBufferPointer) -> Socket? {
            guard target.count >= 3, target.count <= 256, target[0] == UInt8(ascii: "/") else { return nil }
            let end = target.firstIndex(of: UInt8(ascii: "?")) ?? target.count
            switch end {
            case 3 where target[1] == UInt8(ascii: "w") && target[2] == UInt8(ascii: "s"): return .ws
            case 5: return Socket(rawValue: UnsafeRawBufferPointer(rebasing: target[1..<5]).text)
            case azurePath.utf8CodeUnitCount where target.begins(with: azurePath): return .amqp
            default: return nil
            }
        }

        /// Whether whoever comes says who it is in the protocol inside.
        var knowsItsOwnUsers: Bool { self != .echo }
    }

    /// Opens a WebSocket.
    func open(
        _ socket: Socket, _ head: RequestHead, _ principal: Principal?, _ connection: HTTPConversation, _ lane: Lane
    ) throws(Problem) -> RequestVerdict {
        var kind = WebSocketLink.Kind.binary
        var limits = WebSocketLimits.withoutPings
        let context = context
        let end = Visitor.end(of: connection)
        let make: (WebSocketLink) -> Conversation
        let handshake: WebSocketHandshake
        switch socket {
        case .mqtt, .amqp:
            let names = context.adapters.filter { $0.value.name == socket.rawValue }.keys.sorted()
            guard !names.isEmpty else { throw Problem(404, "This node does not speak \(socket.rawValue).") }
            handshake = try WebSocketHandshake(head, offered: names)
            guard let adapter = handshake.subprotocol.flatMap({ context.adapters[$0] }) else {
                throw Problem(400, "Sec-WebSocket-Protocol must name one of: \(names.joined(separator: ", ")).")
            }
            make = { link in
                link.letIn(principal?.identity, until: end)
                return adapter.makeConversation(link: link, on: lane)
            }
        case .ws:
            handshake = try WebSocketHandshake(head, offered: ["apus.v1.json"])
            (kind, limits) = (.text, WebSocketLimits(messageBytes: self.limits.bodyBytes))
            make = { JSONConversation(context, link: $0, principal: principal, until: end, on: lane) }
        case .echo:
            guard context.settings.isEchoOn else { throw Problem(404, "http.debug_echo is not on.") }
            handshake = try WebSocketHandshake(head, offered: ["echo"], isSubprotocolOptional: true)
            (kind, limits) = (.any, WebSocketLimits(messageBytes: self.limits.bodyBytes))
            make = { EchoConversation(link: $0) }
        }
        // Who is inside is counted inside.
        if socket == .mqtt || socket == .amqp { connection.link.stay = nil }
        connection.switchToWebSocket(handshake.fields)
        let inside = WebSocketConversation(
            on: connection.link, kind: kind, limits: limits, lane: lane, makeInside: make)
        return .upgraded(inside)
    }
}
