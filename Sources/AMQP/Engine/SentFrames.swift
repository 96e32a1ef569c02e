import Core

/// What this end has sent, as far as a flow that the engine does not write has to say it: transfers of each session,
/// and the handles of its links. It reads the engine's bytes as they go out.
///
/// Of most frames only the header and the descriptor are looked at. Memory: one entry for each session and attached
/// link, and a frame that the engine has not handed out completely if it is one of those that are read.
struct SentFrames {
    private struct Session {
        var remoteChannel: UInt16
        var nextOutgoingID: UInt32
        /// ``flowCount`` with the session's last flow.
        var flowedAt: UInt32 = 0
        /// By our handles.
        var links = KeyedSlots<Link>()
    }

    private struct Link {
        /// See ``Frame/linkHash(isOutgoing:)``.
        var nameHash: Int
        /// ``flowCount`` with the link's last flow.
        var flowedAt: UInt32 = 0
    }

    /// What a flow says besides what the peer has sent.
    struct State {
        /// Our channel.
        var channel: UInt16
        var nextOutgoingID: UInt32
        /// Our handle of the link that was asked for.
        var handle: UInt32?
    }

    /// Flows that have been sent.
    private(set) var flowCount: UInt32 = 0
    /// By our channels.
    private var sessions = KeyedSlots<Session>()
    /// Where the session was that the last transfer belonged to.
    private var lastSession = 0
    /// Bytes that are not looked at: the protocol header, or the rest of a frame.
    private var skipped = 8
    /// The beginning of a frame that goes on in the next bytes.
    private var cut: [UInt8] = []

    /// Header and descriptor, as a small ulong.
    private static let startBytes = 11

    /// Whether what has been sent ends with a whole frame.
    var isBetweenFrames: Bool { skipped == 0 && cut.isEmpty }

    // MARK: What is sent

    /// Looks at bytes that go out, in their order.
    mutating func note(_ bytes: UnsafeRawBufferPointer) {
        var place = 0
        while place < bytes.count {
            if skipped > 0 {
                let count = min(skipped, bytes.count - place)
                skipped -= count
                place += count
            } else if cut.isEmpty {
                let rest = UnsafeRawBufferPointer(rebasing: bytes[place...])
                let count = take(rest)
                if count == 0 { cut = Array(rest) }
                place += count == 0 ? rest.count : min(count, rest.count)
                skipped = max(0, count - rest.count)
            } else {
                let count = min(wantedBytes - cut.count, bytes.count - place)
                cut.append(contentsOf: bytes[place..<place + count])
                place += count
                takeCut()
            }
        }
    }

    /// Bytes of the cut frame that must be there before more can be said of it.
    private var wantedBytes: Int {
        guard cut.count >= 4 else { return 4 }
        let length = max(8, cut[..<4].reduce(0) { $0 << 8 | Int($1) })
        return cut.count < Self.startBytes ? min(length, Self.startBytes) : length
    }

    private mutating func takeCut() {
        let start = cut
        let length = start.withUnsafeBytes { take($0) }
        guard length > 0 else { return }
        skipped = length - start.count
        cut = []
    }

    /// Looks at the frame at the beginning of some bytes.
    /// - Returns: its length, or 0 when more of it must be seen.
    @inline(__always)
    private mutating func take(_ bytes: UnsafeRawBufferPointer) -> Int {
        guard let base = bytes.baseAddress, bytes.count >= 4 else { return 0 }
        let length = max(8, Int(UInt32(bigEndian: base.loadUnaligned(as: UInt32.self))))
        guard bytes.count >= min(length, Self.startBytes) else { return 0 }
        // An empty frame.
        guard length >= Self.startBytes else { return length }
        switch base.load(fromByteOffset: 10, as: UInt8.self) {
        case Frame.Performative.transfer.rawValue:
            countTransfer(UInt16(bigEndian: base.loadUnaligned(fromByteOffset: 6, as: UInt16.self)))
        case Frame.Performative.disposition.rawValue: break
        default:
            guard bytes.count >= length else { return 0 }
            read(UnsafeRawBufferPointer(rebasing: bytes[..<length]))
        }
        return length
    }

    @inline(__always)
    private mutating func countTransfer(_ channel: UInt16) {
        if !sessions.has(UInt32(channel), at: lastSession) {
            guard let place = sessions.place(of: UInt32(channel)) else { return }
            lastSession = place
        }
        sessions.values[lastSession].nextOutgoingID &+= 1
    }

    /// A frame other than a transfer or disposition.
    @inline(never)
    private mutating func read(_ bytes: UnsafeRawBufferPointer) {
        guard case .frame(let frame) = FrameScanner(maxFrameBytes: bytes.count).scan(bytes) else { return }
        let (key, fields) = (UInt32(frame.channel), frame.fields)
        if frame.performative == .begin {
            // In a begin that answers, as all of ours do, the handle is remote-channel.
            guard fields.said.contains(.remoteChannel), sessions.place(of: key) == nil else { return }
            sessions.add(
                key, Session(remoteChannel: UInt16(truncatingIfNeeded: fields.handle), nextOutgoingID: fields.id))
        }
        guard let session = sessions.place(of: key) else { return }
        switch frame.performative {
        case .attach:
            guard sessions.values[session].links.place(of: fields.handle) == nil else { return }
            let hash = frame.linkHash(isOutgoing: !fields.said.contains(.receiver))
            sessions.values[session].links.add(fields.handle, Link(nameHash: hash))
        case .flow:
            flowCount &+= 1
            sessions.values[session].flowedAt = flowCount
            guard fields.said.contains(.handle), let link = sessions.values[session].links.place(of: fields.handle)
            else { return }
            sessions.values[session].links.values[link].flowedAt = flowCount
        case .detach:
            guard let link = sessions.values[session].links.place(of: fields.handle) else { return }
            sessions.values[session].links.remove(at: link)
        case .end: sessions.remove(at: session)
        default: break
        }
    }

    // MARK: What is asked

    /// What is to be said to a peer that asks; nil when it has been told since, or the link or session is gone.
    func state(for request: EchoRequest) -> State? {
        guard let place = sessions.values.firstIndex(where: { $0.remoteChannel == request.channel }) else { return nil }
        let session = sessions.values[place]
        var state = State(
            channel: UInt16(truncatingIfNeeded: sessions.keys[place]), nextOutgoingID: session.nextOutgoingID)
        guard let link = request.link else { return hasFlowed(session.flowedAt, since: request) ? nil : state }
        guard let number = session.links.values.firstIndex(where: { $0.nameHash == link.nameHash }),
            !hasFlowed(session.links.values[number].flowedAt, since: request)
        else { return nil }
        state.handle = session.links.keys[number]
        return state
    }

    /// Counts go round: what lies less than half of all before now is later than the request.
    private func hasFlowed(_ flowedAt: UInt32, since request: EchoRequest) -> Bool {
        flowCount &- flowedAt < flowCount &- request.askedAt
    }
}
