// What the peer did, in the order in which it did it: Proton's events as the conversation knows them.

import CProton

/// What Proton tells, and what of it is passed on.
extension ProtonEngine {
    func nextEvent() -> EngineEvent? {
        while let event = pn_connection_driver_next_event(driver) {
            switch pn_event_type(event) {
            case PN_DELIVERY:
                guard let pointer = OpaquePointer(pn_event_context(event)), !isForgotten(pointer),
                    let link = pn_delivery_link(pointer), !isFailing
                else { continue }
                guard !isFreed(link: link) else {
                    // A peer that sends on a link that was refused must not be able to pile its deliveries up.
                    if pn_link_is_receiver(link) { pn_delivery_settle(pointer) }
                    continue
                }
                if pn_link_is_sender(link), pn_delivery_current(pointer) {
                    // Ours are never current after they have been sent: it is a transfer from a receiver, which Proton
                    // takes for one that is to be sent.
                    fail(AMQPError(.notAllowed, "a transfer on a link whose peer is the receiver"))
                    continue
                }
                return .delivery(Delivery(pointer: pointer), Link(pointer: link))
            case PN_LINK_FLOW:
                guard let link = link(of: event) else { continue }
                if pn_link_is_receiver(link) { correctCredit(link) }
                return .flow(Link(pointer: link))
            case PN_TRANSPORT: continue
            default:
                if let event = rareEvent(event) { return event }
            }
        }
        return nil
    }

    /// What an event says that does not come with every message; nil when it says nothing to a conversation.
    private func rareEvent(_ event: OpaquePointer) -> EngineEvent? {
        switch pn_event_type(event) {
        case PN_CONNECTION_REMOTE_OPEN:
            return .opened
        case PN_CONNECTION_REMOTE_CLOSE:
            return .closed(Self.error(pn_connection_remote_condition(connection)))
        case PN_SESSION_REMOTE_OPEN:
            guard let session = session(of: event) else { return nil }
            return .begun(Session(pointer: session))
        case PN_SESSION_REMOTE_CLOSE:
            guard let session = session(of: event) else { return nil }
            return .ended(Session(pointer: session), Self.error(pn_session_remote_condition(session)))
        case PN_LINK_REMOTE_OPEN:
            guard let link = link(of: event) else { return nil }
            return .attached(Link(pointer: link))
        case PN_LINK_REMOTE_CLOSE:
            guard let link = link(of: event) else { return nil }
            return .detached(Link(pointer: link), isClosing: true, Self.error(pn_link_remote_condition(link)))
        case PN_LINK_REMOTE_DETACH:
            guard let link = link(of: event) else { return nil }
            return .detached(Link(pointer: link), isClosing: false, Self.error(pn_link_remote_condition(link)))
        case PN_TRANSPORT_ERROR:
            guard !hasFailed else { return nil }
            hasFailed = true
            isDue = true
            let error = Self.error(pn_transport_condition(transport))
            return .failed(error ?? AMQPError(.internalError, "the transport has failed"))
        case PN_TRANSPORT_TAIL_CLOSED:
            // Of some frames that it cannot read the transport says nothing, but takes no more.
            if !hasFailed, pn_connection_state(connection) & PN_REMOTE_CLOSED == 0 {
                fail(AMQPError(.framingError, "malformed frame"))
            }
            return nil
        default:
            return nil
        }
    }

    /// The link that an event names, unless it has been freed.
    private func link(of event: OpaquePointer) -> OpaquePointer? {
        guard let link = OpaquePointer(pn_event_context(event)), !isFreed(link: link) else { return nil }
        return link
    }

    /// The session that an event names, unless it has been freed.
    private func session(of event: OpaquePointer) -> OpaquePointer? {
        guard let session = OpaquePointer(pn_event_context(event)) else { return nil }
        return hasFreedSessions && pn_session_get_context(session) == Self.mark ? nil : session
    }

    @inline(__always)
    private func isFreed(link: OpaquePointer) -> Bool {
        if hasFreedLinks, pn_link_get_context(link) == Self.mark { return true }
        return hasFreedSessions && pn_session_get_context(pn_link_session(link)) == Self.mark
    }

    /// Whether a delivery has been settled here: it has a local state then, or a mark.
    @inline(__always)
    private func isForgotten(_ delivery: OpaquePointer) -> Bool {
        if pn_delivery_local_state(delivery) != 0 { return true }
        return hasMarkedDeliveries && pn_delivery_get_context(delivery) == Self.mark
    }

    /// A sender's flow may give up credit by moving its delivery-count on (§2.6.7). Proton believes one that moves it
    /// back, too, and would count credit that was never granted: that is taken back.
    private func correctCredit(_ link: OpaquePointer) {
        let givenUp = pn_link_drained(link)
        guard givenUp < 0 else { return }
        isDue = true
        pn_link_flow(link, givenUp)
    }
}
