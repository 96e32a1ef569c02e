import Core

/// What those who manage the node see of a session, and do to it.
extension Session {
    /// Adds what only MQTT knows to what is known of any inbox.
    func describeSession(on lane: Lane, maxSubscriptions: Int) -> InboxDescription {
        var description = InboxDescription(of: self, on: lane, maxSubscriptions: maxSubscriptions)
        description.isClean = expirySeconds == 0
        description.expirySeconds = Int(expirySeconds)
        description.inFlight = inFlight.count
        description.hasWill = will != nil
        description.protocolName = "MQTT"
        guard let conversation else {
            description.endsInMilliseconds = endsAt - min(lane.now, endsAt)
            return description
        }
        description.protocolName = conversation.version.text
        // The deadline of CONNECT tells when the connection came, without a field of its own.
        let acceptedAt = conversation.connectDeadline - UInt64(lane.limits.connectTimeoutSeconds) * 1_000
        description.connection?.ageMilliseconds = lane.now - min(acceptedAt, lane.now)
        let silence = conversation.silenceMilliseconds
        description.connection?.keepAliveSeconds = silence > 0 ? Int(silence / 1_500) : nil
        return description
    }

    /// Ends the connection and perhaps the session. The will is published, as for any connection that its client did
    /// not end.
    func kickSession(endsSession: Bool, on lane: Lane) {
        if let conversation, let link {
            conversation.abandon(.administrative, on: lane)
            link.close(.administrative)
        }
        // A session without a future ended with its connection.
        guard endsSession, lane.port(at: address) === self else { return }
        (lane.belongings["mqtt"] as? MQTTLane)?.context.discard(self, on: lane)
    }
}

extension MQTTVersion {
    /// For people.
    var text: String {
        switch self {
        case .v3_1: "MQTT 3.1"
        case .v3_1_1: "MQTT 3.1.1"
        case .v5: "MQTT 5"
        }
    }
}
