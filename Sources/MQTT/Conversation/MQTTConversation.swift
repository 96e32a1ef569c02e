import Core

/// One MQTT connection: the state machine between its bytes and its session. Sans-IO; confined to its lane.
///
/// This file has the states and the framing; `+Publish` takes publishes, `+Connect` opens the session, `+Control` has
/// the other packets.
final class MQTTConversation: Conversation {
    enum State {
        /// Nothing but CONNECT is allowed.
        case awaitingConnect
        /// CONNECT has been taken; its credentials are being checked, or it is asked for more of them by AUTH, or its
        /// session's lane is being reached.
        indirect case connecting(ConnectPacket)
        case established
        case ended
    }

    let context: MQTTContext
    /// The connection outlives the conversation it carries.
    unowned(unsafe) let link: Link
    var state = State.awaitingConnect
    /// Set while established.
    var session: Session?
    var principal: Principal?
    /// The client's version, known from CONNECT on.
    var version = MQTTVersion.v3_1_1
    private var isHeld = false
    /// Whether the connection counts for its user.
    var hasJoined = false
    /// Until when the client is not read because it publishes faster than it may, in the lane's milliseconds; 0 while
    /// it is read.
    var slowedUntil: UInt64 = 0
    /// QoS 1 publishes in the turn that is being filled: not settled yet, and not among the pending ones.
    var unsettledInTurn: Int32 = 0
    /// One and a half times the keep-alive; 0 for none.
    var silenceMilliseconds: UInt32 = 0
    /// Made when the client first uses one.
    var aliases: IncomingAliases?
    var pendingAcknowledgements = PendingAcknowledgements()
    /// Set when the client named a method in CONNECT.
    var authentication: EnhancedAuthentication?
    /// When the proof of who the client is ends; `max` for never.
    var proofEndsAt = UInt64.max
    private var lastReceived: UInt64
    let connectDeadline: UInt64

    init(context: MQTTContext, link: Link, on lane: Lane) {
        self.context = context
        self.link = link
        lastReceived = lane.now
        connectDeadline = lane.now + UInt64(lane.limits.connectTimeoutSeconds) * 1_000
        super.init()
        link.tick(at: connectDeadline)
    }

    /// What the client can take, as far as it is known.
    var client: ClientLimits {
        if let session { return session.client }
        if case .connecting(let connect) = state { return connect.client }
        return ClientLimits()
    }

    override var provenIdentity: Identity? { principal?.identity }
    override var label: String {
        if let principal { return principal.clientID }
        if case .connecting(let connect) = state { return connect.clientID }
        return ""
    }

    // MARK: Bytes in

    override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        lastReceived = lane.now
        unsettledInTurn = 0
        var offset = 0
        if case .connecting = state, !isAwaitingAuth { return Progress(consumed: 0, verdict: .paused) }
        if case .established = state {
            turn.principal = principal
            if let stop = receivePublishes(bytes, &offset, turn, lane) {
                return Progress(consumed: offset, verdict: stop)
            }
        }
        while true {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[offset...])
            guard let first = rest.first else { return Progress(consumed: offset, verdict: .waiting) }
            // The first byte says enough to send away who speaks another protocol, without waiting for the rest.
            guard let type = PacketType(rawValue: first >> 4), type.requiredFlags.map({ $0 == first & 0x0F }) ?? true
            else { return refuse(.malformedPacket, at: offset) }
            if case .awaitingConnect = state, type != .connect {
                return Progress(consumed: offset, verdict: .close(.protocolError))
            }
            let (header, remaining): (Int, Int)
            switch Framing.of(rest) {
            case .incomplete: return Progress(consumed: offset, verdict: .waiting)
            case .malformed: return refuse(.malformedPacket, at: offset)
            case .packet(let headerLength, let remainingLength): (header, remaining) = (headerLength, remainingLength)
            }
            // An integer takes as few bytes as it can (MQTT 5 §1.5.5); 3.1.1 does not say so.
            if version == .v5, header > 1 + PacketWriter.length(of: remaining) {
                return refuse(.malformedPacket, at: offset)
            }
            // Checked before anything is kept: a claim of size costs the node nothing.
            guard header + remaining <= maxPacketBytes(rest[0], lane) else {
                return refuse(.packetTooLarge, at: offset)
            }
            guard rest.count >= header + remaining else { return Progress(consumed: offset, verdict: .waiting) }
            let body = UnsafeRawBufferPointer(rebasing: rest[header..<header + remaining])
            if type == .publish {
                guard session != nil else { return refuse(.protocolError, at: offset) }
                // Not yet set when CONNECT came in the same read.
                turn.principal = principal
                if let stop = receivePublishes(bytes, &offset, turn, lane) {
                    return Progress(consumed: offset, verdict: stop)
                }
                continue
            }
            // Publishes before a packet that changes what they mean are routed first.
            if !turn.isEmpty, !type.isAcknowledgement { return Progress(consumed: offset, verdict: .routeFirst) }
            switch take(type, body, on: lane) {
            case .success(.waiting): offset += header + remaining
            case .success(let verdict): return Progress(consumed: offset + header + remaining, verdict: verdict)
            case .failure(let reason): return refuse(reason, at: offset)
            }
        }
    }

    /// The connection ends because of the bytes at `offset`.
    private func refuse(_ reason: CloseReason, at offset: Int) -> Progress {
        // In the midst of an exchange the client still waits for its CONNACK.
        if case .connecting = state, let code = ReasonCode(reason) { refuse5(code) }
        return Progress(consumed: offset, verdict: .close(reason))
    }

    /// Only events may be large: before CONNECT nobody needs more than this, and a SUBSCRIBE of 16 MiB would hold its
    /// lane for seconds.
    private func maxPacketBytes(_ first: UInt8, _ lane: Lane) -> Int {
        if case .established = state, first & 0xF0 == 0x30 { return lane.limits.maxPacketBytes }
        return min(lane.limits.maxPacketBytes, 1 << 19)
    }

    private func take(
        _ type: PacketType, _ body: UnsafeRawBufferPointer, on lane: Lane
    ) -> Result<Verdict, CloseReason> {
        lane.counters.packetsIn &+= 1
        if type == .connect { lane.counters.connects &+= 1 }
        do throws(MQTTFailure) {
            switch (state, type) {
            case (.awaitingConnect, .connect): return .success(try takeConnect(body, on: lane))
            case (.established, .connect): return .failure(.protocolError)
            case (.established, _): return try takeControl(type, body, on: lane)
            case (.connecting, .auth): return .success(try takeAuth(body, on: lane))
            case (.connecting, .disconnect):
                _ = try DisconnectPacket(body, version: version)
                return .success(.close(.clientDisconnected))
            case (.awaitingConnect, _), (.connecting, _), (.ended, _): return .failure(.protocolError)
            }
        } catch {
            return .failure(CloseReason(error))
        }
    }

    // MARK: Outcomes

    override func routed(_ turn: Turn, on lane: Lane) {
        unsettledInTurn = 0
        let traffic = session?.traffic
        for number in 0..<turn.runCount {
            let run = turn.runs + number
            let outcome = turn.outcomes[number]
            traffic?.received(run.pointee.count, bytes: run.pointee.wireLength, qos: run.pointee.qos)
            if outcome.verdict == .malformedTopic {
                forgetReceived(turn, from: number)
                let isText = version == .v5 && Topic.isText(run.pointee.topicBytes)
                return link.close(isText ? .topicNameInvalid : .malformedPacket)
            }
            guard run.pointee.qos > 0 else { continue }
            let code = version == .v5 ? reason(outcome) : .success
            if code == .success, outcome.pending == 0, pendingAcknowledgements.isEmpty {
                let first: UInt8 = run.pointee.qos == 1 ? 0x40 : 0x50
                for index in 0..<run.pointee.count {
                    PacketWriter.acknowledge(first, run.pointee.events[index].reference, to: link)
                }
            } else {
                let identifiers = (0..<run.pointee.count).map { run.pointee.events[$0].reference }
                acknowledge(
                    PendingAcknowledgements.Group(
                        identifiers: identifiers, qos: run.pointee.qos, code: code, pending: outcome.pending,
                        token: outcome.token))
            }
        }
    }

    /// What a publisher of MQTT 5 is told (§3.4.2.1).
    private func reason(_ outcome: PublishOutcome) -> ReasonCode {
        switch outcome.verdict {
        case .routed where !outcome.isKept: .quotaExceeded
        case .routed: outcome.matched == 0 ? .noMatchingSubscribers : .success
        case .notAuthorized: .notAuthorized
        case .quotaExceeded, .payloadTooLarge: .quotaExceeded
        case .malformedTopic: .topicNameInvalid
        }
    }

    /// Acknowledges publishes when all before them have been, and their lanes have answered.
    func acknowledge(_ group: PendingAcknowledgements.Group) {
        if group.pending == 0, pendingAcknowledgements.isEmpty { return write(group) }
        pendingAcknowledgements.append(group)
    }

    private func write(_ group: PendingAcknowledgements.Group) {
        let first: UInt8 = group.qos == 1 ? 0x40 : 0x50
        for identifier in group.identifiers {
            if group.code == .success || version != .v5 {
                PacketWriter.acknowledge(first, identifier, to: link)
            } else {
                // What was refused is settled: its identifier may be used again (§4.3.3).
                if group.qos == 2, group.code.rawValue >= 0x80 { session?.release(identifier) }
                PacketWriter.acknowledge5(first, identifier, group.code, client, to: link)
            }
        }
    }

    /// Runs that were not routed have not been received: their client may send them again.
    private func forgetReceived(_ turn: Turn, from first: Int) {
        for number in first..<turn.runCount where turn.runs[number].qos == 2 {
            let run = turn.runs[number]
            for index in 0..<run.count { session?.release(run.events[index].reference) }
        }
    }

    /// A lane has taken a run of this connection's publishes, or a port that held one has room.
    func receiptArrived(token: UInt32, more: Int, on lane: Lane) {
        pendingAcknowledgements.receipt(token, more: more)
        pendingAcknowledgements.takeReady { write($0) }
        if isHeld, pendingAcknowledgements.count <= lane.limits.maxUnsettled / 2 {
            isHeld = false
            link.resume()
        }
    }

    /// Whether so many publishes are unsettled that the client is not read for a while.
    func holds(_ lane: Lane) -> Bool {
        guard pendingAcknowledgements.count >= lane.limits.maxUnsettled else { return false }
        isHeld = true
        return true
    }

    // MARK: Time and the end

    override func tick(on lane: Lane) -> Result<UInt64?, CloseReason> {
        guard case .established = state else {
            return lane.now >= connectDeadline ? .failure(.connectTimeout) : .success(connectDeadline)
        }
        guard lane.now < proofEndsAt else {
            principal?.proofHasEnded()
            return .failure(.proofEnded)
        }
        let isUnread = isHeld || slowedUntil > 0
        if slowedUntil > 0, lane.now >= slowedUntil {
            slowedUntil = 0
            link.resume()
        }
        let next = min(slowedUntil > 0 ? slowedUntil : .max, proofEndsAt)
        guard silenceMilliseconds > 0 else { return .success(next == .max ? nil : next) }
        // While the node itself does not read it cannot know whether the client is silent.
        let deadline = (isUnread ? lane.now : lastReceived) + UInt64(silenceMilliseconds)
        return lane.now >= deadline ? .failure(.keepAliveTimeout) : .success(min(deadline, next))
    }

    /// Asks for the first tick of an established connection, or an earlier one than was asked for.
    func startTicking(on lane: Lane) {
        let silence = silenceMilliseconds > 0 ? lane.now + UInt64(silenceMilliseconds) : .max
        // Without either the tick that was asked for at accept finds nothing to do.
        let first = min(silence, proofEndsAt, slowedUntil > 0 ? slowedUntil : .max)
        if first != .max { link.tick(at: first) }
    }

    override func outputDrained(on lane: Lane) { session?.pump(on: lane) }

    override func close(_ reason: CloseReason, on lane: Lane) { abandon(reason, on: lane) }

    /// Leaves the session; the connection is about to end. A client of MQTT 5 is told why (§4.13).
    /// - Parameters:
    ///   - code: what it is told, where that is not what `reason` says.
    ///   - text: the same in words.
    func abandon(_ reason: CloseReason, _ code: ReasonCode? = nil, text: String? = nil, on lane: Lane) {
        if case .ended = state { return }
        if case .established = state, version == .v5, let code = code ?? ReasonCode(reason) {
            let ended = reason == .proofEnded ? "the token or certificate has ended" : nil
            PacketWriter.disconnect5(code, text: text ?? ended, client, to: link)
        }
        state = .ended
        // Who takes its place must not be one too many.
        link.stay = nil
        authentication?.exchange = nil
        if let session { context.leave(session, on: lane) }
        session = nil
    }
}

extension PacketType {
    /// Packets that may be taken while publishes of the same read have not been routed yet.
    fileprivate var isAcknowledgement: Bool {
        switch self {
        case .puback, .pubrec, .pubcomp, .pingreq: true
        default: false
        }
    }
}
