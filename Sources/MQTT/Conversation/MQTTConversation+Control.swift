import Core

/// Everything but CONNECT and PUBLISH.
extension MQTTConversation {
    /// Takes one packet of an established connection.
    func takeControl(
        _ type: PacketType, _ body: UnsafeRawBufferPointer, on lane: Lane
    ) throws(MQTTFailure) -> Result<Verdict, CloseReason> {
        guard let session else { return .failure(.protocolError) }
        switch type {
        case .puback: session.puback(try AcknowledgePacket(body, type, version: version), on: lane)
        case .pubrec: session.pubrec(try AcknowledgePacket(body, type, version: version), on: lane)
        case .pubcomp: session.pubcomp(try AcknowledgePacket(body, type, version: version), on: lane)
        case .pubrel:
            let identifier = try AcknowledgePacket(body, type, version: version).identifier
            if session.release(identifier) || version != .v5 {
                PacketWriter.acknowledge(0x70, identifier, to: link)
            } else {
                PacketWriter.acknowledge5(0x70, identifier, .packetIdentifierNotFound, client, to: link)
            }
        case .subscribe:
            let packet = try SubscribePacket(body, version: version)
            guard PacketWriter.fitsSuback5(packet.entries.count, client) else { return .failure(.packetTooLarge) }
            subscribe(packet, session, on: lane)
        case .unsubscribe:
            let packet = try UnsubscribePacket(body, version: version)
            guard PacketWriter.fitsSuback5(packet.filters.count, client) else { return .failure(.packetTooLarge) }
            unsubscribe(packet, session, on: lane)
        case .pingreq:
            guard body.isEmpty else { return .failure(.malformedPacket) }
            PacketWriter.pingresp(to: link)
        case .disconnect:
            try disconnect(try DisconnectPacket(body, version: version), session, on: lane)
            return .success(.close(.clientDisconnected))
        case .auth where version == .v5: return .success(try takeAuth(body, on: lane))
        case .auth, .connect, .connack, .publish, .suback, .unsuback, .pingresp: return .failure(.protocolError)
        }
        return .success(.waiting)
    }

    /// DISCONNECT: the client may change its mind about will and session (MQTT 5 §3.14).
    private func disconnect(
        _ packet: DisconnectPacket, _ session: Session, on lane: Lane
    ) throws(MQTTFailure) {
        if let seconds = packet.sessionExpirySeconds {
            guard seconds == 0 || session.expirySeconds > 0 else { throw .protocolError }
            session.expirySeconds = min(seconds, UInt32(clamping: lane.limits.sessionExpirySeconds))
        }
        if !packet.keepsWill { session.will = nil }
    }

    /// SUBSCRIBE: one answer, then the retained events of what was granted (MQTT 5 §3.8.4).
    private func subscribe(_ packet: SubscribePacket, _ session: Session, on lane: Lane) {
        guard let principal else { return }
        var codes: [ReasonCode] = []
        var starts: [RetainedDelivery.Start] = []
        for entry in packet.entries {
            guard let filter = try? TopicFilter(entry.filter, grammar: .mqtt, limits: lane.limits) else {
                lane.counters.subscriptionsRefused &+= 1
                codes.append(.topicFilterInvalid)
                continue
            }
            var subscription = Subscription(
                filter: filter, options: entry.options, identifier: packet.subscriptionIdentifier)
            // Elsewhere it says nothing, as every user property that nobody knows.
            if filter.group != nil {
                switch packet.weight {
                case .none: break
                case .said(let weight): subscription.weight = weight
                case .invalid:
                    lane.counters.subscriptionsRefused &+= 1
                    codes.append(.implementationSpecificError)
                    continue
                }
            }
            switch principal.router.subscribe(session, subscription, as: principal, on: lane) {
            case .granted(let isNew):
                codes.append(ReasonCode(rawValue: entry.options.qos) ?? .success)
                // A shared subscription begins with what comes next, not with what was (MQTT 5 §3.8.4).
                guard filter.group == nil, entry.retainHandling != .never else { continue }
                guard isNew || entry.retainHandling == .always else { continue }
                // With as many look-ups waiting as there may be subscriptions, a repetition adds none.
                guard session.retainedStarts + starts.count < lane.limits.maxSubscriptionsPerSession else { continue }
                starts.append(
                    RetainedDelivery.Start(
                        filter: filter, qos: entry.options.qos, identifier: packet.subscriptionIdentifier))
            case .notAuthorized: codes.append(.notAuthorized)
            case .overLimit, .overQuota: codes.append(.quotaExceeded)
            }
        }
        if version == .v5 {
            let text = packet.weight == .invalid ? "\(SubscribePacket.weightName) is a number from 0 to 1000" : nil
            PacketWriter.suback5(0x90, packet.identifier, codes, text: text, client, to: link)
        } else {
            PacketWriter.suback(packet.identifier, codes.map { min($0.rawValue, 0x80) }, to: link)
        }
        session.startRetained(starts, on: lane)
    }

    private func unsubscribe(_ packet: UnsubscribePacket, _ session: Session, on lane: Lane) {
        var codes: [ReasonCode] = []
        for filter in packet.filters {
            guard let filter = try? TopicFilter(filter, grammar: .mqtt, limits: lane.limits) else {
                codes.append(.topicFilterInvalid)
                continue
            }
            let wasThere = principal?.router.unsubscribe(session, filter) ?? false
            session.stopRetained(filter)
            codes.append(wasThere ? .success : .noSubscriptionExisted)
        }
        if version == .v5 {
            PacketWriter.suback5(0xB0, packet.identifier, codes, client, to: link)
        } else {
            PacketWriter.acknowledge(0xB0, packet.identifier, to: link)
        }
    }
}
