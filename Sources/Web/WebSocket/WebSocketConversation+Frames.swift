/// Taking frames apart: payloads go behind what the inside has not taken yet, control frames are dealt with on the way.
import Core

/// Where in a frame, and in a message, the bytes of a connection stand.
struct FrameState: BitwiseCopyable {
    /// Bytes of the frame's payload still to come, and the mask for them.
    var remaining = 0
    var key: UInt32 = 0
    /// Whether the frame is the last of its message.
    var isFinal = true
    /// Of the message that has begun.
    var opcode = WebSocketOpcode.binary
    /// A message has begun and the frame that ends it has not.
    var isFragmented = false
    /// Bytes of the message's frames so far.
    var messageBytes = 0
    var text = UTF8Check()
    /// A message lies in the input and the inside has not taken it.
    var isMessageComplete = false
}

extension WebSocketConversation {
    /// Why no further frame was taken.
    enum Stop {
        /// Everything there is has been taken, but for a header or control frame that is not complete.
        case waiting
        /// There is no room for more.
        case full
        /// A message is complete.
        case message
        /// The peer has said goodbye.
        case closed(WebSocketCode?)
        case failed(WebSocketFailure)
    }

    /// Takes frames from `offset` on.
    func takeFrames(_ bytes: UnsafeRawBufferPointer, _ offset: inout Int) -> Stop {
        if frames.isMessageComplete { return .message }
        while true {
            if frames.remaining > 0 {
                let part = min(frames.remaining, bytes.count &- offset, input.room)
                if part > 0 {
                    if !takePayload(bytes, offset, part) { return .failed(.notUTF8) }
                    offset &+= part
                }
                guard frames.remaining == 0 else { return offset == bytes.count ? .waiting : .full }
                if let stop = endFrame() { return stop }
            }
            switch WebSocketHeader.parse(UnsafeRawBufferPointer(rebasing: bytes[offset...])) {
            case .incomplete: return .waiting
            case .refused(let failure): return .failed(failure)
            case .header(let header):
                if header.opcode.isControl {
                    if let stop = takeControl(header, bytes, &offset) { return stop }
                } else {
                    if let failure = begin(header) { return .failed(failure) }
                    offset &+= header.size
                    if header.length == 0, let stop = endFrame() { return stop }
                }
            }
        }
    }

    @inline(__always)
    private func takePayload(_ bytes: UnsafeRawBufferPointer, _ offset: Int, _ count: Int) -> Bool {
        guard let base = bytes.baseAddress else { return true }
        let place = input.place
        frames.key = WebSocketMask.remove(frames.key, from: base + offset, to: place, count)
        frames.remaining &-= count
        input.grow(by: count)
        guard frames.opcode == .text else { return true }
        return frames.text.take(UnsafeRawBufferPointer(start: place, count: count))
    }

    /// Takes the header of a data frame.
    @inline(__always)
    private func begin(_ header: WebSocketHeader) -> WebSocketFailure? {
        if header.opcode == .continuation {
            guard frames.isFragmented else { return .nothingToContinue }
        } else {
            guard !frames.isFragmented else { return .unfinishedMessage }
            if header.opcode == .text, link.kind == .binary { return .textNotTaken }
            if header.opcode == .binary, link.kind == .text { return .binaryNotTaken }
            frames.opcode = header.opcode
            frames.messageBytes = 0
        }
        if link.kind != .binary {
            guard header.length <= limits.messageBytes &- frames.messageBytes else { return .messageTooBig }
            frames.messageBytes &+= header.length
        }
        frames.isFinal = header.isFinal
        frames.isFragmented = !header.isFinal
        frames.remaining = header.length
        frames.key = header.key
        return nil
    }

    /// All of a data frame has been taken.
    @inline(__always)
    private func endFrame() -> Stop? {
        guard frames.isFinal, link.kind != .binary else { return nil }
        guard frames.text.isComplete else { return .failed(.notUTF8) }
        frames.isMessageComplete = true
        return .message
    }

    private func takeControl(
        _ header: WebSocketHeader, _ bytes: UnsafeRawBufferPointer, _ offset: inout Int
    ) -> Stop? {
        let size = header.size + header.length
        guard bytes.count - offset >= size, let base = bytes.baseAddress else { return .waiting }
        return withUnsafeTemporaryAllocation(byteCount: WebSocketHeader.maxControl, alignment: 8) { room -> Stop? in
            guard let payload = room.baseAddress else { return nil }
            _ = WebSocketMask.remove(header.key, from: base + offset + header.size, to: payload, header.length)
            let content = UnsafeRawBufferPointer(start: payload, count: header.length)
            switch header.opcode {
            case .ping: writeControl(.pong, content)
            case .close:
                // Not taken: what came before it is given to the inside first, which may have it routed first.
                do throws(WebSocketFailure) {
                    return .closed(try WebSocketCode.parse(content))
                } catch {
                    return .failed(error)
                }
            default: break
            }
            offset += size
            return nil
        }
    }
}
