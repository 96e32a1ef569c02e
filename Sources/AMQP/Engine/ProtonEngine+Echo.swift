import CProton
import Core

/// Answers to flows that ask for one (§2.7.4, echo), which Proton never gives: it has no call that sends a flow for a
/// link on which this end sends. They are written here, between two of its frames.
extension ProtonEngine {
    var flowCount: UInt32 { sent.flowCount }

    func answer(_ request: EchoRequest, into output: Output) {
        // After close there is nothing to say.
        guard sent.isBetweenFrames, !isClosing, !isFailing, !hasFailed, let state = sent.state(for: request) else {
            return
        }
        var frame = FlowFrame(channel: state.channel)
        frame.put(request.nextIncomingID)
        frame.put(Self.windowFrames)
        frame.put(state.nextOutgoingID)
        frame.put(Self.windowFrames)
        if let link = request.link, let handle = state.handle {
            let credit = creditSaid(link.engine)
            frame.put(handle)
            frame.put(isIncoming(link.engine) ? link.count : link.count &- UInt32(bitPattern: credit))
            frame.put(UInt32(max(credit, 0)))
            frame.put(link.available)
            frame.put(pn_link_get_drain(link.engine.pointer))
        }
        frame.finished().withUnsafeBytes { bytes in
            guard let start = bytes.baseAddress else { return }
            output.append(start, bytes.count)
            sent.note(bytes)
        }
    }

    /// The windows that Proton says in each begin and flow: sessions have no bound of their own.
    static var windowFrames: UInt32 { 0x7FFF_FFFF }

    /// A link's credit as Proton's own flows say it, when everything due has been produced.
    private func creditSaid(_ link: Link) -> Int32 {
        // What a sender has been given and has not been able to send, because the session's window is shut, still
        // counts.
        pn_link_is_receiver(link.pointer)
            ? pn_link_remote_credit(link.pointer) : pn_link_credit(link.pointer) &+ pn_link_queued(link.pointer)
    }
}

/// A flow frame that is being written (§2.7.4).
private struct FlowFrame {
    private var bytes: [UInt8]
    private var fields: UInt8 = 0

    init(channel: UInt16) {
        bytes = [0, 0, 0, 0, 2, 0, UInt8(channel >> 8), UInt8(channel & 0xFF), 0x00, 0x53, 0x13, 0xC0, 0, 0]
        bytes.reserveCapacity(64)
    }

    /// Appends a field; null when there is no number.
    mutating func put(_ number: UInt32?) {
        fields += 1
        guard let number else { return bytes.append(0x40) }
        bytes.append(0x70)
        withUnsafeBytes(of: number.bigEndian) { bytes.append(contentsOf: $0) }
    }

    mutating func put(_ truth: Bool) {
        fields += 1
        bytes.append(truth ? 0x41 : 0x42)
    }

    /// The whole frame, which has at most nine fields of at most five bytes.
    func finished() -> [UInt8] {
        var bytes = bytes
        bytes[3] = UInt8(bytes.count)
        // Behind the list's own size.
        bytes[12] = UInt8(bytes.count - 13)
        bytes[13] = fields
        return bytes
    }
}
