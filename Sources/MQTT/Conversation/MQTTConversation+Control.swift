import Core

/// Everything but CONNECT and PUBLISH.
extension MQTTConversation {
    /// Takes one packet of an established connection.
    func takeControl(
        _ type: PacketType, _ body: UnsafeRawBufferPointer, on lane: Lane
    ) throws(MQTTFailure) -> Result<Verdict, CloseReason> {
        guard let session else { return .failure(.protocolError) }
        switch type {
        case .puback: session.puback(try identifier(body), on: lane)
        case .pubrec: session.pubrec(try identifier(body), on: lane)
        case .pubcomp: session.pubcomp(try identifier(body), on: lane)
        case .pubrel:
            let identifier = try identifier(body)
            session.release(identifier)
            PacketWriter.acknowledge(0x70, identifier, to: link)
        case .subscribe: subscribe(try SubscribePacket(body, hasOptions: true), session, on: lane)
        case .unsubscribe: unsubscribe(try SubscribePacket(body, hasOptions: false), session, on: lane)
        case .pingreq:
            guard body.isEmpty else { return .failure(.malformedPacket) }
            PacketWriter.pingresp(to: link)
        case .disconnect:
            guard body.isEmpty else { return .failure(.malformedPacket) }
            return .success(.close(.clientDisconnected))
        case .connect, .connack, .publish, .suback, .unsuback, .pingresp, .auth: return .failure(.protocolError)
        }
        return .success(.waiting)
    }

    private func identifier(_ body: UnsafeRawBufferPointer) throws(MQTTFailure) -> UInt16 {
        var reader = PacketReader(body)
        let identifier = try reader.packetIdentifier()
        guard reader.isAtEnd else { throw .malformed }
        return identifier
    }

    /// SUBSCRIBE: one answer, then the retained events of what was granted (§3.8.4).
    private func subscribe(_ packet: SubscribePacket, _ session: Session, on lane: Lane) {
        guard let principal else { return }
        var codes: [UInt8] = []
        var granted: [(filter: TopicFilter, qos: UInt8)] = []
        for entry in packet.entries {
            guard let filter = try? TopicFilter(entry.filter, grammar: .mqtt, limits: lane.limits) else {
                lane.counters.subscriptionsRefused &+= 1
                codes.append(0x80)
                continue
            }
            let subscription = Subscription(filter: filter, options: .qos(entry.qos))
            switch principal.router.subscribe(session, subscription, as: principal, on: lane) {
            case .granted:
                codes.append(entry.qos)
                // A shared subscription begins with what comes next, not with what was (MQTT 5 §3.8.4).
                if filter.group == nil { granted.append((filter, entry.qos)) }
            case .notAuthorized, .overLimit: codes.append(0x80)
            }
        }
        PacketWriter.suback(packet.identifier, codes, to: link)
        for (filter, qos) in granted {
            for event in principal.router.retained(matching: filter) {
                session.deliverRetained(event, granted: qos, on: lane)
            }
        }
    }

    private func unsubscribe(_ packet: SubscribePacket, _ session: Session, on lane: Lane) {
        for entry in packet.entries {
            if let filter = try? TopicFilter(entry.filter, grammar: .mqtt, limits: lane.limits) {
                principal?.router.unsubscribe(session, filter)
            }
        }
        PacketWriter.acknowledge(0xB0, packet.identifier, to: link)
    }
}
