import Core

/// Upgrades to WebSocket.
extension WebSite {
    /// The paths where a WebSocket can be opened.
    enum Socket: String {
        case mqtt, amqp, ws, echo

        /// The paths as they begin a target.
        static func of(_ target: UnsafeRawBufferPointer) -> Socket? {
            guard target.count >= 3, target.count <= 256, target[0] == UInt8(ascii: "/") else { return nil }
            let end = target.firstIndex(of: UInt8(ascii: "?")) ?? target.count
            switch end {
            case 3 where target[1] == UInt8(ascii: "w") && target[2] == UInt8(ascii: "s"): return .ws
            case 5: return Socket(rawValue: UnsafeRawBufferPointer(rebasing: target[1..<5]).text)
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
        throw Problem(404, "later")
    }
}
