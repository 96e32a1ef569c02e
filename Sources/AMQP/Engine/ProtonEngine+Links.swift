// Links: their termini, their credit, their beginning and end (§2.6).

import CProton

/// Links: attach, detach and credit.
extension ProtonEngine {
    func session(of link: Link) -> Session { Session(pointer: pn_link_session(link.pointer)) }

    func isIncoming(_ link: Link) -> Bool { pn_link_is_receiver(link.pointer) }

    func name(_ link: Link) -> String { Self.text(pn_link_name(link.pointer)) ?? "" }

    func context(_ link: Link) -> UnsafeMutableRawPointer? { pn_link_get_context(link.pointer) }

    func setContext(_ link: Link, _ context: UnsafeMutableRawPointer?) { pn_link_set_context(link.pointer, context) }

    func remoteAttach(_ link: Link) -> RemoteAttach {
        var attach = RemoteAttach()
        attach.source = Self.terminus(pn_link_remote_source(link.pointer))
        attach.target = Self.terminus(pn_link_remote_target(link.pointer))
        attach.senderSettles =
            switch pn_link_remote_snd_settle_mode(link.pointer) {
            case PN_SND_UNSETTLED: .unsettled
            case PN_SND_SETTLED: .settled
            default: .mixed
            }
        attach.receiverSettles = pn_link_remote_rcv_settle_mode(link.pointer) == PN_RCV_SECOND ? .second : .first
        attach.maxMessageBytes = pn_link_remote_max_message_size(link.pointer)
        attach.weight = Self.wholeNumber(RemoteAttach.weightName, in: pn_link_remote_properties(link.pointer))
        return attach
    }

    func attach(_ link: Link, _ answer: LocalAttach) {
        isDue = true
        Self.set(answer.source, on: pn_link_source(link.pointer))
        Self.set(answer.target, on: pn_link_target(link.pointer))
        // The outcomes that the peer knows are those that it may say or hear: the four of the specification.
        pn_data_copy(
            pn_terminus_outcomes(pn_link_source(link.pointer)),
            pn_terminus_outcomes(pn_link_remote_source(link.pointer)))
        pn_link_set_snd_settle_mode(link.pointer, pn_snd_settle_mode_t(UInt32(answer.senderSettles.rawValue)))
        pn_link_set_rcv_settle_mode(link.pointer, pn_rcv_settle_mode_t(UInt32(answer.receiverSettles.rawValue)))
        pn_link_set_max_message_size(link.pointer, answer.maxMessageBytes)
        pn_link_open(link.pointer)
    }

    func refuse(_ link: Link, _ error: AMQPError) {
        isDue = true
        // Our own terminus is the null one, the peer's is repeated.
        if pn_link_is_receiver(link.pointer) {
            pn_terminus_copy(pn_link_source(link.pointer), pn_link_remote_source(link.pointer))
            pn_terminus_set_type(pn_link_target(link.pointer), PN_UNSPECIFIED)
        } else {
            pn_terminus_set_type(pn_link_source(link.pointer), PN_UNSPECIFIED)
            pn_terminus_copy(pn_link_target(link.pointer), pn_link_remote_target(link.pointer))
        }
        Self.set(error, on: pn_link_condition(link.pointer))
        pn_link_open(link.pointer)
        pn_link_close(link.pointer)
    }

    func detach(_ link: Link, isClosing: Bool, _ error: AMQPError?) {
        isDue = true
        Self.set(error, on: pn_link_condition(link.pointer))
        if isClosing {
            pn_link_close(link.pointer)
        } else {
            pn_link_detach(link.pointer)
        }
    }

    func free(_ link: Link) {
        isDue = true
        hasFreedLinks = true
        if pn_link_is_sender(link.pointer), pn_link_queued(link.pointer) > 0 {
            leftBehind.updateValue(nil, forKey: session(of: link))
        }
        pn_link_set_context(link.pointer, Self.mark)
        pn_link_free(link.pointer)
    }

    // MARK: Credit

    func credit(_ link: Link) -> Int {
        // What has arrived and is not read yet counts as credit of a receiver's, but cannot be used by its peer.
        Int(pn_link_is_receiver(link.pointer) ? pn_link_remote_credit(link.pointer) : pn_link_credit(link.pointer))
    }

    func grant(_ link: Link, _ count: Int) {
        isDue = true
        pn_link_flow(link.pointer, Int32(clamping: count))
    }

    func isDraining(_ link: Link) -> Bool { pn_link_get_drain(link.pointer) }

    func drained(_ link: Link) {
        isDue = true
        pn_link_drained(link.pointer)
    }
}
