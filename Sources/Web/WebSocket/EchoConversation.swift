/// For tools that test WebSocket conformance.
import Core

/// Sends every message back as it came. Confined to its lane.
final class EchoConversation: Conversation {
    /// The connection outlives the conversation it carries.
    private unowned(unsafe) let link: WebSocketLink

    init(link: WebSocketLink) { self.link = link }

    override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        if let base = bytes.baseAddress { link.append(base, bytes.count) }
        link.endMessage()
        return Progress(consumed: bytes.count, verdict: .waiting)
    }

    override var label: String { "echo" }
}
