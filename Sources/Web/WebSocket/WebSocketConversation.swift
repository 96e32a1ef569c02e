/// One WebSocket connection: frames in, the inside conversation's bytes out; pings, fragments, closing.
import Core

/// Bounds of a WebSocket connection.
struct WebSocketLimits: Sendable {
    /// Bytes of a message; then 1009. A stream has no messages: what it carries has bounds of its own.
    var messageBytes = 16 << 20
    /// Silence after which the peer is asked whether it is still there, and then may think about it; 0 for never.
    var silenceSeconds = 30

    /// For what is inside to find out by itself who is gone.
    static let withoutPings = WebSocketLimits(silenceSeconds: 0)
}

/// Sits between a connection and the conversation inside, which behaves as it does on a connection of its own. Sans-IO;
/// confined to its lane.
///
/// The inside is given bytes without their mask, in one piece for each read: as a stream, or message by message. What
/// it does not take is kept, as a connection keeps it. `+Frames` takes frames apart.
final class WebSocketConversation: Conversation, Carrying {
    private enum State {
        case open
        /// Nothing more is taken. The inside is told when the turn has been routed.
        case ending(CloseReason, WebSocketCode?, StaticString)
        case ended
    }

    let link: WebSocketLink
    let limits: WebSocketLimits
    /// Set once, in `init`.
    private(set) var theInside: Conversation
    private var state = State.open
    private unowned(unsafe) var shared: WebSocketLane

    // What `+Frames` keeps.
    var input = WebSocketInput()
    var frames = FrameState()

    /// Bytes at the beginning of the next call that have been taken already: as long as the inside has not taken
    /// everything, the connection must have a reason to call.
    private var held = 0
    private var lastReceived: UInt64
    private var isAsked = false

    /// Puts a conversation inside of a connection. The answer to the handshake has been written.
    init(
        on carrier: Link, kind: WebSocketLink.Kind, limits: WebSocketLimits = WebSocketLimits(), lane: Lane,
        makeInside: (WebSocketLink) -> Conversation
    ) {
        link = WebSocketLink(on: carrier, kind: kind, lane: lane)
        self.limits = limits
        shared = WebSocketLane.of(lane)
        lastReceived = lane.now
        theInside = makeInside(link)
        super.init()
        if limits.silenceSeconds > 0 { link.tickSelf(at: lane.now + silence) }
    }

    var inside: Conversation? { theInside }
    override var label: String { theInside.label }
    override var provenIdentity: Identity? { theInside.provenIdentity }

    /// Whether the inside has neither ended nor asked for the end.
    var isOpen: Bool { if case .open = state { link.closing == nil } else { false } }

    // MARK: Bytes in

    override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        guard case .open = state else { return Progress(consumed: bytes.count, verdict: .waiting) }
        if link.closing != nil {
            endAsAsked(on: lane)
            return Progress(consumed: bytes.count, verdict: .waiting)
        }
        lastReceived = lane.now
        isAsked = false
        shared.enter(self)
        input.begin(shared.memory)
        var offset = held
        held = 0
        while true {
            let stop = takeFrames(bytes, &offset)
            if let verdict = give(turn, on: lane) {
                return leave(bytes, offset, verdict, turn, on: lane)
            }
            switch stop {
            case .waiting: return leave(bytes, offset, .waiting, turn, on: lane)
            case .message: continue
            case .full:
                // What has been published refers to these bytes.
                guard turn.isEmpty else { return leave(bytes, offset, .routeFirst, turn, on: lane) }
                input.makeRoom()
            case .closed(let code):
                let isGoodbye = code == nil || code == .normal || code == .goingAway
                end(isGoodbye ? .clientDisconnected : .connectionLost, code, "", after: turn, on: lane)
                return Progress(consumed: bytes.count, verdict: .waiting)
            case .failed(let failure):
                end(failure.reason, failure.code, failure.text, after: turn, on: lane)
                return Progress(consumed: bytes.count, verdict: .waiting)
            }
        }
    }

    /// Gives the inside what there is for it.
    /// - Returns: what it wants to happen before it goes on; nil if it does go on.
    private func give(_ turn: Turn, on lane: Lane) -> Verdict? {
        let isStream = link.kind == .binary
        guard isStream ? input.count > 0 : frames.isMessageComplete else { return nil }
        let bytes = input.bytes
        if link.kind == .any { link.opcode = frames.opcode }
        let progress = theInside.receive(bytes, turn, on: lane)
        if let tap = link.tap {
            tap.received(UnsafeRawBufferPointer(rebasing: bytes[..<progress.consumed]), on: lane)
        }
        input.start += progress.consumed
        if !isStream, input.count == 0 || progress.verdict == .waiting {
            // A message is taken as a whole.
            input.start = input.end
            frames.isMessageComplete = false
        }
        return progress.verdict == .waiting ? nil : progress.verdict
    }

    /// The call ends: whatever was not taken stays, here or with the connection.
    private func leave(
        _ bytes: UnsafeRawBufferPointer, _ offset: Int, _ verdict: Verdict, _ turn: Turn, on lane: Lane
    ) -> Progress {
        switch verdict {
        case .waiting: break
        case .routeFirst, .paused:
            link.isUnread = verdict == .paused
            guard input.count > 0 || frames.isMessageComplete else { break }
            // Were all bytes taken the connection would have none to come back with.
            if offset == bytes.count, offset > 0 { held = 1 }
            guard verdict == .routeFirst else { break }
            shared.keep(for: self)
            return Progress(consumed: offset - held, verdict: verdict)
        case .close(let reason):
            end(reason, WebSocketCode(reason), "", after: turn, on: lane)
            return Progress(consumed: bytes.count, verdict: .waiting)
        }
        input.leave()
        if turn.isEmpty { input.compact() }
        return Progress(consumed: offset - held, verdict: verdict)
    }

    /// Another connection of the lane needs the memory that this one's bytes lie in.
    func moveOut() { input.leave() }

    override func routed(_ turn: Turn, on lane: Lane) {
        theInside.routed(turn, on: lane)
        input.compact()
        if case .ending(let reason, let code, let text) = state { end(reason, code, text, on: lane) }
    }

    // MARK: Time

    private var silence: UInt64 { UInt64(limits.silenceSeconds) * 1_000 }

    override func tick(on lane: Lane) -> Result<UInt64?, CloseReason> {
        guard case .open = state else { return .success(nil) }
        if link.insideDeadline <= lane.now {
            link.insideDeadline = .max
            switch theInside.tick(on: lane) {
            case .success(let next): if let next { link.insideDeadline = next }
            case .failure(let reason):
                end(reason, WebSocketCode(reason), Self.text(of: reason), on: lane)
                return .success(nil)
            }
        }
        if link.ownDeadline <= lane.now {
            guard listen(on: lane) else {
                end(.keepAliveTimeout, .policyViolation, "no answer to a ping", on: lane)
                return .success(nil)
            }
        }
        return .success(link.nextDeadline == .max ? nil : link.nextDeadline)
    }

    /// Asks a peer that has been silent whether it is there.
    /// - Returns: whether it may still be.
    private func listen(on lane: Lane) -> Bool {
        // Its answer would not be seen.
        if link.isUnread { (lastReceived, isAsked) = (lane.now, false) }
        let due = lastReceived + silence
        if lane.now < due {
            link.ownDeadline = due
            return true
        }
        guard !isAsked else { return false }
        isAsked = true
        writeControl(.ping, UnsafeRawBufferPointer(start: nil, count: 0))
        link.ownDeadline = lane.now + silence
        return true
    }

    /// The connection is on another lane.
    func arrived(on lane: Lane, _ then: @Sendable (Conversation, Lane) -> Void) {
        link.lane = lane
        shared = WebSocketLane.of(lane)
        link.setTimer()
        guard link.closing == nil else { return endAsAsked(on: lane) }
        if case .open = state { then(theInside, lane) }
    }

    // MARK: Output

    override func produce(on lane: Lane) {
        if case .open = state { theInside.produce(on: lane) }
        link.seal()
    }

    override func outputDrained(on lane: Lane) { if case .open = state { theInside.outputDrained(on: lane) } }

    /// Writes a control frame between those of the inside.
    func writeControl(_ opcode: WebSocketOpcode, _ payload: UnsafeRawBufferPointer) {
        link.seal()
        let place = link.carrier.reserve(WebSocketHeader.maxServerSize + WebSocketHeader.maxControl)
        let size = WebSocketHeader.write(opcode, isFinal: true, length: payload.count, to: place)
        if let base = payload.baseAddress { (place + size).copyMemory(from: base, byteCount: payload.count) }
        link.carrier.cursor = place + size + payload.count
        link.carrier.packets &+= 1
    }

    private func writeClose(_ code: WebSocketCode?, _ text: StaticString) {
        guard let code else { return writeControl(.close, UnsafeRawBufferPointer(start: nil, count: 0)) }
        withUnsafeTemporaryAllocation(byteCount: WebSocketHeader.maxControl, alignment: 2) { payload in
            payload.storeBytes(of: code.rawValue.bigEndian, as: UInt16.self)
            let count = min(text.utf8CodeUnitCount, WebSocketHeader.maxControl - 2)
            payload.baseAddress?.advanced(by: 2).copyMemory(from: text.utf8Start, byteCount: count)
            writeControl(.close, UnsafeRawBufferPointer(rebasing: payload[..<(count + 2)]))
        }
    }

    // MARK: The end

    /// Ends the connection when the turn has been routed.
    private func end(
        _ reason: CloseReason, _ code: WebSocketCode?, _ text: StaticString, after turn: Turn, on lane: Lane
    ) {
        guard turn.isEmpty else {
            state = .ending(reason, code, text)
            return
        }
        end(reason, code, text, on: lane)
    }

    /// Tells the inside, says goodbye to the peer, and leaves it the time to read that.
    private func end(_ reason: CloseReason, _ code: WebSocketCode?, _ text: StaticString, on lane: Lane) {
        guard stop(reason, code, text, on: lane) else { return }
        link.carrier.finish(reason)
    }

    /// - Returns: false when that has been done before.
    private func stop(
        _ reason: CloseReason, _ code: WebSocketCode?, _ text: StaticString, on lane: Lane
    ) -> Bool {
        if case .ended = state { return false }
        state = .ended
        theInside.close(reason, on: lane)
        link.seal()
        link.isEnded = true
        if reason != .connectionLost || code != nil { writeClose(code, text) }
        shared.leave(self)
        input.release()
        return true
    }

    /// The inside has asked its link for the end.
    func endAsAsked(on lane: Lane) {
        guard let reason = link.closing else { return }
        end(reason, WebSocketCode(reason), Self.text(of: reason), on: lane)
    }

    override func drain(on lane: Lane) -> Bool {
        guard case .open = state else { return true }
        if !theInside.drain(on: lane) { end(.shutdown, .goingAway, "", on: lane) }
        return true
    }

    override func inputEnded(on lane: Lane) -> Bool {
        guard case .open = state else { return false }
        return theInside.inputEnded(on: lane)
    }

    override func close(_ reason: CloseReason, on lane: Lane) {
        _ = stop(reason, reason == .connectionLost ? nil : WebSocketCode(reason), Self.text(of: reason), on: lane)
    }

    /// What the code alone does not say.
    private static func text(of reason: CloseReason) -> StaticString {
        reason == .proofEnded ? "the token or certificate has ended" : ""
    }
}
