import Core

/// Switching the trace of a client's packets on and off.
extension Session {
    /// Traces this client's packets from now on, on this connection and on those to come, or no longer.
    func changeTrace(_ isOn: Bool, on lane: Lane) {
        guard let context = (lane.belongings["mqtt"] as? MQTTLane)?.context, let settings = context.trace else {
            return
        }
        guard isOn else {
            context.traced.remove(clientID)
            link?.tap = nil
            return
        }
        guard context.traced.insert(clientID) else {
            let text = "not traced: \(TracedClients.limit) clients are traced already"
            return settings.output(TraceLine(clientID: clientID, direction: nil, text: text))
        }
        if let conversation, let link, link.tap == nil { context.startTrace(conversation, clientID, link) }
    }
}

extension MQTTContext {
    /// A connection has its session: if the client is traced, so is this connection.
    @inline(__always)
    func traceIfWanted(_ conversation: MQTTConversation, _ clientID: String, _ link: Link) {
        if !traced.isEmpty, traced.contains(clientID) { startTrace(conversation, clientID, link) }
    }

    func startTrace(_ conversation: MQTTConversation, _ clientID: String, _ link: Link) {
        guard let trace else { return }
        link.tap = PacketTracer(clientID: clientID, version: conversation.version, settings: trace)
    }
}
