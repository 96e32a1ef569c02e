import Core

/// Judges frames by what the peer has begun and attached, before the engine sees them: the engine closes the whole
/// connection for what is one session's matter, or believes what it is told.
///
/// A frame that passes goes to the engine. Of sessions only those that the peer begins are known, because this end
/// begins none; of links only those that the peer attaches. Memory: one entry for each session and each attached link,
/// so `channelMax` and `handleMax` bound it.
struct FrameGuard {
    enum Verdict {
        case pass
        case discard
        /// The session on a channel is to be ended; its further frames are discarded until the peer's end.
        case end(channel: UInt16, AMQPError)
        /// The connection is to be closed; whatever follows but the peer's close is discarded.
        case close(AMQPError)
    }

    private enum Stage { case start, open, closing, closed }

    /// Bytes of the attach frames of all links that are attached: the engine keeps what they say.
    private var attachBytes = 0
    /// For a thousand links with a few hundred bytes each, several times over.
    static let maxAttachBytes = 4 << 20

    private let channelMax: Int
    private let handleMax: Int
    /// The highest channel that both sides can use.
    private var usableChannelMax: Int
    private var stage = Stage.start
    private var sessions = KeyedSlots<Session>()
    private var hot = Hot()
    /// Where the session was that the last frame was for.
    private var lastSession = 0
    /// Begins that passed and whose event has not come, oldest first.
    private var awaited: [(channel: UInt16, number: Int)] = []
    private var begins = 0
    /// Flows that this end has sent when the next frame comes.
    var flowCount: UInt32 = 0
    /// Sessions and links (by the peer's channels and handles) that have asked for a flow, each once at most.
    private var asking: [(channel: UInt16, handle: UInt32?)] = []

    /// - Parameters:
    ///   - channelMax: the highest channel that the peer was told.
    ///   - handleMax: the highest handle that the peer was told.
    init(channelMax: Int, handleMax: Int) {
        (self.channelMax, self.handleMax, usableChannelMax) = (channelMax, handleMax, channelMax)
    }

    /// Links that the peer has attached and not detached, in all sessions that have not been ended.
    var linkCount: Int { sessions.values.reduce(0) { $0 + $1.links.count } }

    /// Whether a frame may go to the engine, which is told of it then.
    @inline(__always)
    mutating func admit(_ frame: Frame) -> Verdict {
        if frame.performative == .transfer, hot.isValid, hot.channel == frame.channel,
            hot.handle == frame.fields.handle, hot.take(frame.fields) == nil
        {
            return .pass
        }
        return admitOther(frame)
    }

    @inline(never)
    private mutating func admitOther(_ frame: Frame) -> Verdict {
        coolDown()
        if stage == .closed { return .discard }
        if stage == .closing {
            guard frame.performative == .close else { return .discard }
            stage = .closed
            return .pass
        }
        guard frame.type == 0 else { return close(.framingError, "a SASL frame after the header of AMQP") }
        guard let performative = frame.performative else { return .pass }
        switch performative {
        case .open: return open(frame)
        case .close:
            guard stage == .open else { return close(.notAllowed, "close before open") }
            stage = .closed
            return .pass
        default:
            guard stage == .open else { return close(.notAllowed, "the first frame is not open") }
        }
        if performative == .begin { return begin(frame) }
        guard let place = sessionPlace(frame.channel) else {
            return close(.notAllowed, "no session has begun on channel \(frame.channel)")
        }
        lastSession = place
        if performative == .end {
            for link in sessions.values[place].links.values { attachBytes -= Int(link.size) }
            sessions.remove(at: place)
            return .pass
        }
        return inSession(frame, performative, place)
    }

    /// A frame of a session other than begin and end.
    private mutating func inSession(_ frame: Frame, _ performative: Frame.Performative, _ place: Int) -> Verdict {
        if sessions.values[place].isEnded { return .discard }
        switch performative {
        case .attach: return attach(frame, place)
        case .flow: return flow(frame.fields, frame.channel, place)
        case .transfer: return transfer(frame.fields, frame.channel, place)
        case .disposition: return disposition(frame.fields, frame.channel, place)
        case .detach:
            guard let link = sessions.values[place].links.place(of: frame.fields.handle) else {
                return unattached(frame, place, "detach")
            }
            attachBytes -= Int(sessions.values[place].links.values[link].size)
            sessions.values[place].links.remove(at: link)
            return .pass
        case .open, .begin, .end, .close: return .pass
        }
    }

    // MARK: What this end does

    /// The engine's event: a begin that passed has arrived.
    mutating func begun(_ session: Engine.Session) {
        guard !awaited.isEmpty else { return }
        let (channel, number) = awaited.removeFirst()
        guard let place = sessionPlace(channel), sessions.values[place].number == number else { return }
        sessions.values[place].engine = session
    }

    /// The session on a channel; nil when there is none, or its event has not come.
    func session(on channel: UInt16) -> Engine.Session? {
        sessionPlace(channel).flatMap { sessions.values[$0].engine }
    }

    /// This end has ended a session: frames on its channel are discarded until the peer's end, which passes.
    mutating func endedByUs(channel: UInt16) {
        coolDown()
        guard let place = sessionPlace(channel) else { return }
        markEnded(place)
    }

    // MARK: Connection and sessions

    private mutating func open(_ frame: Frame) -> Verdict {
        guard stage == .start else { return close(.notAllowed, "a second open") }
        guard frame.channel == 0 else { return close(.framingError, "open on channel \(frame.channel), not 0") }
        stage = .open
        if frame.fields.said.contains(.limit) { usableChannelMax = min(channelMax, Int(frame.fields.limit)) }
        return .pass
    }

    private mutating func begin(_ frame: Frame) -> Verdict {
        let channel = frame.channel
        guard Int(channel) <= usableChannelMax else {
            return close(.framingError, "begin on channel \(channel), and channel-max is \(usableChannelMax)")
        }
        guard !frame.fields.said.contains(.remoteChannel) else {
            return close(.notAllowed, "begin answers a session (remote-channel) that this end has not begun")
        }
        if let place = sessionPlace(channel) {
            return close(
                .notAllowed,
                sessions.values[place].isEnded
                    ? "begin on channel \(channel) before the end of the session that was ended there"
                    : "a session has begun on channel \(channel) already")
        }
        let said = frame.fields.said.contains(.limit)
        begins += 1
        awaited.append((channel, begins))
        sessions.add(
            UInt32(channel),
            Session(
                number: begins, maxLinks: said ? Int(frame.fields.limit) + 1 : handleMax + 1,
                nextTransfer: frame.fields.id))
        return .pass
    }

    private func sessionPlace(_ channel: UInt16) -> Int? {
        sessions.has(UInt32(channel), at: lastSession) ? lastSession : sessions.place(of: UInt32(channel))
    }

    private mutating func markEnded(_ place: Int) {
        sessions.values[place].isEnded = true
        sessions.values[place].links = KeyedSlots()
    }

    // MARK: Links

    private mutating func attach(_ frame: Frame, _ place: Int) -> Verdict {
        let fields = frame.fields
        guard Int(fields.handle) <= handleMax else {
            return close(.framingError, "attach with handle \(fields.handle), and handle-max is \(handleMax)")
        }
        guard sessions.values[place].links.place(of: fields.handle) == nil else {
            return end(frame.channel, place, .handleInUse, "handle \(fields.handle) is attached to a link already")
        }
        guard sessions.values[place].links.count < min(handleMax + 1, sessions.values[place].maxLinks) else {
            return end(
                frame.channel, place, .notAllowed,
                "more links than the peer's handle-max of \(sessions.values[place].maxLinks - 1)")
        }
        // Its sender must not send anything new on such a link (§2.7.3). An unsettled map alone is answered by none.
        guard !fields.said.contains(.resume) else {
            return end(
                frame.channel, place, .notImplemented,
                "attach.incomplete-unsettled: deliveries of a former link are not resumed here")
        }
        let isOutgoing = fields.said.contains(.receiver)
        let hash = frame.linkHash(isOutgoing: isOutgoing)
        guard !sessions.values[place].links.values.contains(where: { $0.nameHash == hash }) else {
            return end(
                frame.channel, place, .invalidField,
                "attach.name: a link of this name and role is attached in the session already")
        }
        guard attachBytes + frame.length <= Self.maxAttachBytes else {
            return end(
                frame.channel, place, .resourceLimitExceeded,
                "the attached links of this connection have more than \(Self.maxAttachBytes) bytes of attach frames")
        }
        attachBytes += frame.length
        sessions.values[place].links.add(
            fields.handle,
            Link(nameHash: hash, isOutgoing: isOutgoing, size: UInt32(frame.length), deliveryCount: fields.id))
        return .pass
    }

    /// The engine's event: an attach that passed has arrived.
    mutating func attached(_ link: Engine.Link, _ name: String, isOutgoing: Bool, in session: Engine.Session) {
        change(name, isOutgoing, session) { $0.engine = link }
    }

    /// This end has refused a link and the engine has forgotten it: the peer may use the name again before its detach.
    mutating func refused(_ name: String, isOutgoing: Bool, in session: Engine.Session) {
        change(name, isOutgoing, session) { ($0.nameHash, $0.engine) = (nil, nil) }
    }

    private mutating func change(
        _ name: String, _ isOutgoing: Bool, _ session: Engine.Session, _ change: (inout Link) -> Void
    ) {
        coolDown()
        let hash = Frame.linkHash(isOutgoing: isOutgoing, name.utf8)
        guard let place = sessions.values.firstIndex(where: { $0.engine == session }),
            let link = sessions.values[place].links.values.lastIndex(where: { $0.nameHash == hash })
        else { return }
        change(&sessions.values[place].links.values[link])
    }

    private mutating func flow(_ fields: Frame.Fields, _ channel: UInt16, _ place: Int) -> Verdict {
        guard fields.said.contains(.handle) else {
            if fields.said.contains(.echo) {
                if sessions.values[place].askedAt == nil { asking.append((channel, nil)) }
                sessions.values[place].askedAt = flowCount
            }
            return .pass
        }
        guard let index = sessions.values[place].links.place(of: fields.handle) else {
            return end(channel, place, .unattachedHandle, "flow: no link is attached to handle \(fields.handle)")
        }
        if sessions.values[place].links.values[index].isOutgoing {
            // The engine keeps credit in 32 bits with a sign.
            guard fields.limit <= UInt32(Int32.max) else {
                return end(channel, place, .invalidField, "flow.link-credit is \(fields.limit), and at most 2147483647")
            }
            sessions.values[place].links.values[index].creditEnd = fields.id &+ fields.limit
            if fields.said.contains(.echo) { noteEcho(place, index, channel) }
            return .pass
        }
        guard fields.said.contains(.id) else {
            return end(channel, place, .invalidField, "flow of a sender lacks delivery-count")
        }
        let verdict = skip(to: fields.id, channel, place, index)
        if case .pass = verdict, fields.said.contains(.echo) { noteEcho(place, index, channel) }
        return verdict
    }

    private mutating func disposition(_ fields: Frame.Fields, _ channel: UInt16, _ place: Int) -> Verdict {
        let (first, last) = (fields.id, fields.limit)
        // Serial numbers (RFC 1982): more than half of all apart, and the last is before the first.
        guard last &- first <= UInt32(Int32.max) else {
            return end(channel, place, .invalidField, "disposition: the first is \(first), the last \(last)")
        }
        guard !fields.said.contains(.transactional) else {
            return end(channel, place, .notImplemented, "disposition.state: transactions are not offered")
        }
        // The engine looks at what is unsettled, or at each number, whichever is fewer: a long range costs little, if
        // what it names is unsettled no longer afterwards. One that changes nothing could be said again and again.
        return fields.said.isDisjoint(with: [.settled, .state]) ? .discard : .pass
    }

    /// A sender says how many deliveries it has counted. What it passes over uses up credit; the engine believes it.
    private mutating func skip(to count: UInt32, _ channel: UInt16, _ place: Int, _ index: Int) -> Verdict {
        let link = sessions.values[place].links.values[index]
        let skipped = count &- link.deliveryCount
        // Behind what has arrived: no news to the engine.
        if skipped == 0 || skipped > UInt32(Int32.max) { return .pass }
        guard skipped <= FrameLimits.skippedDeliveries,
            link.skipped <= FrameLimits.skippedDeliveriesOfLink - skipped
        else {
            return end(
                channel, place, .invalidField,
                "flow.delivery-count is \(count), and \(link.deliveryCount) deliveries were counted")
        }
        sessions.values[place].links.values[index].deliveryCount = count
        sessions.values[place].links.values[index].skipped += skipped
        return .pass
    }

    /// A transfer for another link than the last one was for, or one that is wrong.
    private mutating func transfer(_ fields: Frame.Fields, _ channel: UInt16, _ place: Int) -> Verdict {
        guard let index = sessions.values[place].links.place(of: fields.handle) else {
            return end(channel, place, .unattachedHandle, "transfer: no link is attached to handle \(fields.handle)")
        }
        hot = Hot(
            isValid: true, channel: channel, handle: fields.handle, session: place, place: index,
            link: sessions.values[place].links.values[index], nextDelivery: sessions.values[place].nextDelivery,
            nextTransfer: sessions.values[place].nextTransfer)
        guard let wrong = hot.take(fields) else { return .pass }
        coolDown()
        return end(channel, place, wrong, fields, index)
    }

    /// Puts back what the last transfers have changed.
    @inline(__always)
    private mutating func coolDown() {
        guard hot.isValid else { return }
        hot.isValid = false
        sessions.values[hot.session].nextDelivery = hot.nextDelivery
        sessions.values[hot.session].nextTransfer = hot.nextTransfer
        sessions.values[hot.session].links.values[hot.place] = hot.link
    }

    // MARK: Echo (§2.7.4)

    private mutating func noteEcho(_ place: Int, _ index: Int, _ channel: UInt16) {
        if sessions.values[place].links.values[index].askedAt == nil {
            asking.append((channel, sessions.values[place].links.keys[index]))
        }
        sessions.values[place].links.values[index].askedAt = flowCount
    }

    /// Whether there are any to be taken.
    var hasEchoes: Bool { !asking.isEmpty }

    /// What is to be answered, one for each session and link that has asked since the last call.
    mutating func takeEchoes() -> [EchoRequest] {
        coolDown()
        defer { asking.removeAll(keepingCapacity: true) }
        var requests: [EchoRequest] = []
        for (channel, handle) in asking {
            guard let place = sessionPlace(channel), !sessions.values[place].isEnded,
                let request = sessions.values[place].takeEcho(channel, handle)
            else { continue }
            requests.append(request)
        }
        return requests
    }

    // MARK: Verdicts

    private mutating func unattached(_ frame: Frame, _ place: Int, _ name: StaticString) -> Verdict {
        end(
            frame.channel, place, .unattachedHandle, "\(name): no link is attached to handle \(frame.fields.handle)")
    }

    private mutating func end(
        _ channel: UInt16, _ place: Int, _ condition: AMQPError.Condition, _ text: String
    ) -> Verdict {
        markEnded(place)
        return .end(channel: channel, AMQPError(condition, text))
    }

    @inline(never)
    private mutating func end(
        _ channel: UInt16, _ place: Int, _ wrong: WrongTransfer, _ fields: Frame.Fields, _ index: Int
    ) -> Verdict {
        let session = sessions.values[place]
        let link = session.links.values[index]
        let text: String
        switch wrong {
        case .notOffered:
            return end(
                channel, place, .notImplemented,
                fields.said.contains(.resume)
                    ? "transfer.resume: deliveries of a former link are not resumed here"
                    : "transfer.state: transactions are not offered")
        case .fromReceiver:
            return end(
                channel, place, .notAllowed, "transfer on handle \(fields.handle), where the peer is the receiver")
        case .noID: text = "transfer.delivery-id is missing in a delivery's first frame"
        case .sequence:
            text = "transfer.delivery-id is \(fields.id), and \(session.nextDelivery ?? 0) is the next of the session"
        case .otherID:
            text = "transfer.delivery-id is \(fields.id) within delivery \(link.partialID), which has more to come"
        case .unsettled: text = "transfer.settled is false within delivery \(link.partialID), which was sent settled"
        }
        return end(channel, place, .invalidField, text)
    }

    private mutating func close(_ condition: AMQPError.Condition, _ text: String) -> Verdict {
        stage = .closing
        return .close(AMQPError(condition, text))
    }
}
