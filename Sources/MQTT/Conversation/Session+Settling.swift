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
        shareOut(isEnding: isEnding, on: lane) { inFlight.takeShared($0) }
    }
}
