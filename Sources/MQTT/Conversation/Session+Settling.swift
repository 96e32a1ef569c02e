import Core

/// What the client answers to events it was sent, and what becomes of a shared group's events when it leaves.
extension Session {
    /// PUBACK. An identifier that is not waiting is ignored: after a reconnect it may be an old one.
    func puback(_ packet: AcknowledgePacket, on lane: Lane) {
        if inFlight.advance(packet.identifier, from: .awaitingPuback, to: .settled) { settled(on: lane) }
    }

    /// PUBREC: the event is the client's now; PUBREL goes out even if it went before (§4.3.3). A client that refuses
    /// the event has settled it.
    func pubrec(_ packet: AcknowledgePacket, on lane: Lane) {
        if packet.isFailure {
            if inFlight.advance(packet.identifier, from: .awaitingPubrec, to: .settled) { settled(on: lane) }
            return
        }
        guard let link else { return }
        let isKnown =
            inFlight.advance(packet.identifier, from: .awaitingPubrec, to: .awaitingPubcomp)
            || inFlight.isWaiting(packet.identifier, in: .awaitingPubcomp)
        if isKnown || !isVersion5 {
            PacketWriter.acknowledge(0x62, packet.identifier, to: link)
        } else {
            PacketWriter.acknowledge5(0x62, packet.identifier, .packetIdentifierNotFound, client, to: link)
        }
    }

    /// PUBCOMP.
    func pubcomp(_ packet: AcknowledgePacket, on lane: Lane) {
        if inFlight.advance(packet.identifier, from: .awaitingPubcomp, to: .settled) { settled(on: lane) }
    }

    private func settled(on lane: Lane) {
        if unsent < inFlight.first { unsent = inFlight.first }
        if !waiting.isEmpty || unsent < inFlight.next || retained != nil { pump(on: lane) }
    }

    // MARK: Leaving a shared group

    /// Gives what the client has not taken of its shared groups to other members (MQTT 5 §4.8.2). While the session
    /// lives only to members that are present; when it ends, to any.
    func shareOut(isEnding: Bool, on lane: Lane) {
        guard hasShared else { return }
        let router = principal.router
        var answers: [UInt32: Bool] = [:]
        func mayLeave(_ group: UInt32) -> Bool {
            if isEnding { return true }
            if let known = answers[group] { return known }
            let answer = router.hasPresentMember(group)
            answers[group] = answer
            return answer
        }
        // First what was sent, then what waited: the order in which it was published.
        for (event, group) in inFlight.takeShared(mayLeave) {
            lane.redistributeLater(event, group: group, in: router)
        }
        var queue = takeWaiting(on: lane)
        var kept = EventQueue()
        while let entry = queue.popFirst() {
            if entry.group != 0, mayLeave(entry.group) {
                lane.redistributeLater(entry.event, group: entry.group, in: router)
            } else {
                kept.append(entry)
            }
        }
        if !isEnding { putBack(kept, on: lane) }
    }
}
