// Messages in and out: their bytes, their settlement (§2.6.12, §3.4).

import CProton

/// Deliveries, in and out.
extension ProtonEngine {
    // MARK: In

    func state(_ delivery: Delivery) -> DeliveryState {
        let pending = pn_delivery_pending(delivery.pointer)
        // An aborted delivery pretends to have one byte, which cannot be read.
        let isAborted = pending == 1 && pn_delivery_aborted(delivery.pointer)
        return DeliveryState(
            isPartial: pn_delivery_partial(delivery.pointer), isAborted: isAborted,
            isSettled: pn_delivery_settled(delivery.pointer),
            pendingBytes: isAborted ? 0 : pending)
    }

    func read(_ link: Link, into bytes: UnsafeMutableRawPointer, count: Int) -> Int {
        // Reading may open the session's window, which is to be said.
        isDue = true
        return max(0, pn_link_recv(link.pointer, bytes.assumingMemoryBound(to: CChar.self), count))
    }

    func advance(_ link: Link) {
        isDue = true
        pn_link_advance(link.pointer)
    }

    func settle(_ delivery: Delivery, _ outcome: Outcome?) {
        isDue = true
        switch outcome {
        case .accepted:
            pn_delivery_update(delivery.pointer, UInt64(PN_ACCEPTED))
        case .rejected(let error):
            Self.set(error, on: pn_disposition_condition(pn_delivery_local(delivery.pointer)))
            pn_delivery_update(delivery.pointer, UInt64(PN_REJECTED))
        case .released:
            pn_delivery_update(delivery.pointer, UInt64(PN_RELEASED))
        case .modified(let isFailed, let isUndeliverableHere):
            let local = pn_delivery_local(delivery.pointer)
            pn_disposition_set_failed(local, isFailed)
            pn_disposition_set_undeliverable(local, isUndeliverableHere)
            pn_delivery_update(delivery.pointer, UInt64(PN_MODIFIED))
        case nil:
            forget(delivery)
        }
        pn_delivery_settle(delivery.pointer)
    }

    /// Marks a delivery that is to be settled without a state, so that it is not named again. Of one that its peer has
    /// settled nothing is said any more: a state costs less than a context then, and ends here.
    @inline(__always)
    private func forget(_ delivery: Delivery) {
        if pn_delivery_settled(delivery.pointer) {
            pn_delivery_update(delivery.pointer, UInt64(PN_ACCEPTED))
        } else {
            hasMarkedDeliveries = true
            pn_delivery_set_context(delivery.pointer, Self.mark)
        }
    }

    // MARK: Out

    func send(_ parts: MessageParts, on link: Link, isSettled: Bool) -> Delivery? {
        isDue = true
        let tag = nextTag
        nextTag &+= 1
        let delivery = withUnsafeBytes(of: tag) {
            pn_delivery(
                link.pointer, pn_bytes_t(size: $0.count, start: $0.baseAddress?.assumingMemoryBound(to: CChar.self)))
        }
        guard let delivery else { return nil }
        Self.append(parts.first, to: link)
        Self.append(parts.second, to: link)
        Self.append(parts.third, to: link)
        Self.append(parts.fourth, to: link)
        noteSending(session(of: link))
        if isSettled {
            // A part of it may wait for the session's window, and the peer say something of the rest meanwhile.
            if parts.count > Self.surelyOneFrame {
                hasMarkedDeliveries = true
                pn_delivery_set_context(delivery, Self.mark)
            }
            // Advances, too.
            pn_delivery_settle(delivery)
            return nil
        }
        pn_link_advance(link.pointer)
        return Delivery(pointer: delivery)
    }

    /// Bytes of a message that every peer takes in one frame, which has at least 512 bytes (§2.7.1, max-frame-size).
    private static var surelyOneFrame: Int { 400 }

    @inline(__always)
    private static func append(_ part: UnsafeRawBufferPointer, to link: Link) {
        guard part.count > 0 else { return }
        pn_link_send(link.pointer, part.baseAddress?.assumingMemoryBound(to: CChar.self), part.count)
    }

    func remoteState(_ delivery: Delivery) -> (outcome: Outcome?, isSettled: Bool) {
        (outcome(delivery), pn_delivery_settled(delivery.pointer))
    }

    private func outcome(_ delivery: Delivery) -> Outcome? {
        switch pn_delivery_remote_state(delivery.pointer) {
        case UInt64(PN_ACCEPTED): return .accepted
        case UInt64(PN_RELEASED): return .released
        case UInt64(PN_REJECTED):
            return .rejected(Self.error(pn_disposition_condition(pn_delivery_remote(delivery.pointer))))
        case UInt64(PN_MODIFIED):
            let remote = pn_delivery_remote(delivery.pointer)
            return .modified(
                isFailed: pn_disposition_is_failed(remote),
                isUndeliverableHere: pn_disposition_is_undeliverable(remote))
        default: return nil
        }
    }

    func settle(_ delivery: Delivery) {
        isDue = true
        // A receiver that has not settled (rcv-settle-mode second) learns that its outcome is what counts (§2.6.12).
        let state = pn_delivery_remote_state(delivery.pointer)
        if state != 0, !pn_delivery_settled(delivery.pointer) { pn_delivery_update(delivery.pointer, state) }
        forget(delivery)
        pn_delivery_settle(delivery.pointer)
    }

    func context(_ delivery: Delivery) -> Int { Int(bitPattern: pn_delivery_get_context(delivery.pointer)) }

    func setContext(_ delivery: Delivery, _ context: Int) {
        pn_delivery_set_context(delivery.pointer, UnsafeMutableRawPointer(bitPattern: context))
    }

    // MARK: Bytes not produced yet

    var bufferedBytes: Int {
        var count = 0
        for session in sendingSessions {
            count += pn_session_outgoing_bytes(session.pointer)
            if !leftBehind.isEmpty, let known = leftBehind[session], let known { count -= known }
        }
        if count == 0 { sendingSessions.removeAll(keepingCapacity: true) }
        return count
    }

    /// When the other links of a session have sent everything, what it has left is what links that are gone had not
    /// sent: it must not hold the others back for ever. It has a bound, because it stays in memory.
    func countLeftBehind() {
        for (session, known) in leftBehind where known == nil {
            var next = pn_link_head(connection, 0)
            while let link = next {
                // Those that are gone are still among them.
                let isThere = pn_link_session(link) == session.pointer && pn_link_get_context(link) != Self.mark
                if isThere, pn_link_queued(link) > 0 { break }
                next = pn_link_next(link, 0)
            }
            guard next == nil else { continue }
            let bytes = pn_session_outgoing_bytes(session.pointer)
            leftBehind.updateValue(min(bytes, Self.mostLeftBehind), forKey: session)
        }
    }

    /// Bytes that the links of a session may leave behind before others are held back after all.
    private static var mostLeftBehind: Int { 1 << 20 }

    @inline(__always)
    private func noteSending(_ session: Session) {
        guard session != sendingSessions.last else { return }
        if !sendingSessions.contains(session) { sendingSessions.append(session) }
    }
}
