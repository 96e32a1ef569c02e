import Core

/// A connection as the router knows it: the publisher of its events, and what those who manage the node see of it.
/// Confined to the lane.
final class ConnectionPort: Inbox {
    private unowned(unsafe) let conversation: AMQPConversation
    /// The name that it is listed under, among the clients of all protocols.
    private var sessionName = ""

    init(_ conversation: AMQPConversation, _ principal: Principal) {
        self.conversation = conversation
        super.init(principal: principal)
        attach(conversation.link, principal: principal)
    }

    /// Registers it under the container's name, with something behind it if there are several connections.
    /// - Returns: false when the node, or its user, has as many sessions as it may.
    func begin(on lane: Lane) -> Bool {
        let router = principal.router
        router.register(self, on: lane)
        let wanted = "amqp:" + principal.clientID
        guard let name = router.claimSession(like: wanted, for: address, as: principal, on: lane) else {
            router.unregister(self, on: lane)
            return false
        }
        sessionName = name
        return true
    }

    /// The connection is gone.
    func end(on lane: Lane) {
        detach()
        principal.router.releaseSession(sessionName, at: address)
        principal.router.unregister(self, on: lane)
    }

    override func receiptArrived(token: UInt32, refused: Int, more: Int, on lane: Lane) {
        conversation.receiptArrived(token: token, more: more)
    }

    override func describe(on lane: Lane, maxSubscriptions: Int) -> InboxDescription {
        var description = InboxDescription(of: self, on: lane, maxSubscriptions: maxSubscriptions)
        description.clientID = sessionName
        description.protocolName = "AMQP 1.0"
        description.isClean = true
        description.inFlight = conversation.outgoingLinks.values.reduce(0) { $0 + $1.unsettledCount }
        return description
    }
}

extension Router {
    /// Claims a name for what has no right to it by itself. When it is taken, by another connection of the container or
    /// because two names read the same, the port's address behind it makes it another one.
    /// - Returns: the name; nil when the node, or the principal's user, has as many sessions as it may.
    func claimSession(
        like wanted: String, for address: PortAddress, as principal: Principal, on lane: Lane
    ) -> String? {
        switch claimSession(wanted, for: address, as: principal, on: lane) {
        case .held: return wanted
        case .overLimit, .overQuota: return nil
        case .taken: break
        }
        let other = "\(wanted)#\(address.lane).\(address.slot).\(address.generation)"
        if case .held = claimSession(other, for: address, as: principal, on: lane) { return other }
        return nil
    }
}
