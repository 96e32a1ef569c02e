/// What WebSocket keeps for a lane: room for the payloads of one read.
import Core

/// Memory into which the payloads of a read are unmasked, shared by all connections of a lane. Confined to the lane.
final class WebSocketLane {
    /// Bytes of an incomplete packet that are put in front of what the next read brings. What is longer is collected
    /// in its connection's own memory instead of being copied again and again.
    static let maxKept = 64 << 10
    /// That, and as much as one read brings.
    static let capacity = maxKept + (256 << 10)

    let memory = UnsafeMutableRawPointer.allocate(byteCount: WebSocketLane.capacity, alignment: 64)
    /// Whose bytes lie in the memory between two calls, because its turn is routed first.
    private(set) var tenant: WebSocketConversation?

    private init() {}

    deinit { memory.deallocate() }

    static func of(_ lane: Lane) -> WebSocketLane {
        if let known = lane.belongings["websocket"] as? WebSocketLane { return known }
        let made = WebSocketLane()
        lane.belongings["websocket"] = made
        return made
    }

    /// Leaves the bytes of a conversation where they are.
    func keep(for conversation: WebSocketConversation) { tenant = conversation }

    /// The memory is about to be used by a conversation: another one's bytes make room.
    @inline(__always)
    func enter(_ conversation: WebSocketConversation) {
        guard let tenant else { return }
        self.tenant = nil
        if tenant !== conversation { tenant.moveOut() }
    }

    /// A conversation has ended.
    func leave(_ conversation: WebSocketConversation) { if tenant === conversation { tenant = nil } }
}
