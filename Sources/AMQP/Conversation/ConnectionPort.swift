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

    /// Registers it under the container's name, with a number behind it if there are several connections.
    /// - Returns: false when the node has as many sessions as it may.
    func begin(on lane: Lane) -> Bool {
        let router = principal.router
        router.register(self, on: lane)
        let name = "amqp:" + principal.clientID
        var candidate = name
        for number in 2... {
            switch router.claimSession(candidate, for: address) {
            case .held:
                sessionName = candidate
                return true
            case .taken where number <= 1_000: candidate = "\(name)#\(number)"
            case .taken:
                // So many of one container are not told apart any more.
                return true
            case .overLimit:
                router.unregister(self, on: lane)
                return false
            }
        }
        return false
    }

    /// The connection is gone.
    func end(on lane: Lane) {
        detach()
        principal.router.releaseSession(sessionName, at: address)
        principal.router.unregister(self, on: lane)
    }

    override func receiptArrived(token: UInt32, refused: Int, more: Int, on lane: Lane) {
        conversation.receiptArrived(token: token, refused: refused, more: more, on: lane)
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
