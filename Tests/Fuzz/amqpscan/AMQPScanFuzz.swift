import Core

@testable import AMQP

/// Frames of AMQP: the scanner reads nothing outside of them and passes none whose claims do not fit; the guard lets
/// none through that has no session or link. Each is checked by a plainer way to find out.

/// The first byte: whether the rest is frames as they are, or bodies (two bytes of length, one of channel) that get
/// headers here.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 0 else { return 0 }
    var rest = UnsafeRawBufferPointer(start: start + 1, count: count - 1)[...]
    var play = Play()
    if start[0] % 2 == 0 {
        while !rest.isEmpty {
            let length = play.take(Array(rest))
            guard length > 0 else { return 0 }
            rest = rest.dropFirst(length)
        }
    } else {
        while rest.count >= 3 {
            let head = Array(rest.prefix(3))
            let body = rest.dropFirst(3).prefix(Int(head[0]) << 8 | Int(head[1]))
            let size = UInt32(body.count + 8)
            let header = [UInt8(size >> 24), UInt8(size >> 16 & 0xFF), UInt8(size >> 8 & 0xFF), UInt8(size & 0xFF)]
            _ = play.take(header + [2, 0, 0, head[2]] + body)
            rest = rest.dropFirst(3 + body.count)
        }
    }
    return 0
}

/// One connection: the guard, and a simpler book of what has been begun and attached.
private struct Play {
    private static let most = 4_096
    private var guardian = FrameGuard(channelMax: 3, handleMax: 7)
    private var isOpen = false
    private var isClosed = false
    /// Channels, their handles, and whether the peer is the receiver.
    private var links: [UInt16: [UInt32: Bool]] = [:]
    private var ended: Set<UInt16> = []

    /// Takes the frame at the beginning.
    /// - Returns: its length; 0 when there is none.
    mutating func take(_ bytes: [UInt8]) -> Int {
        guard let length = scan(bytes) else { return 0 }
        // In memory of its own, so that the sanitizer sees reads behind its end.
        let whole = UnsafeMutableRawBufferPointer.allocate(byteCount: length, alignment: 1)
        defer { whole.deallocate() }
        whole.copyBytes(from: bytes.prefix(length))
        guard case .frame(let frame) = FrameScanner(maxFrameBytes: Self.most).scan(UnsafeRawBufferPointer(whole)) else {
            preconditionFailure("the frame alone is another one")
        }
        check(frame)
        judge(frame)
        return length
    }

    private func scan(_ bytes: [UInt8]) -> Int? {
        bytes.withUnsafeBytes { bytes in
            switch FrameScanner(maxFrameBytes: Self.most).scan(bytes) {
            case .incomplete:
                precondition(bytes.count < 4 || bytes.count < Self.size(bytes))
                return nil
            case .failure(let error):
                precondition(!error.text.isEmpty)
                return nil
            case .frame(let frame):
                precondition(frame.length == Self.size(bytes) && (8...Self.most).contains(frame.length))
                return frame.length
            }
        }
    }

    private static func size(_ bytes: UnsafeRawBufferPointer) -> Int {
        bytes.prefix(4).reduce(0) { $0 << 8 | Int($1) }
    }

    private func check(_ frame: Frame) {
        guard !frame.body.isEmpty else { return precondition(frame.performative == nil) }
        precondition(frame.type == 1 || frame.performative != nil)
        precondition(frame.performative == .transfer || frame.performativeLength == frame.body.count)
        var reader = PlainReader(bytes: Array(frame.body))
        reader.value(end: frame.body.count, depth: 0)
        precondition(reader.place == frame.performativeLength)
        precondition(reader.values <= FrameLimits.values)
        if frame.performative == .attach { precondition(frame.name.count <= FrameLimits.nameBytes) }
    }

    private mutating func judge(_ frame: Frame) {
        let (channel, handle) = (frame.channel, frame.fields.handle)
        switch guardian.admit(frame) {
        case .discard:
            let isIdle = frame.performative == .disposition && frame.fields.said.isDisjoint(with: [.settled, .state])
            precondition(isClosed || ended.contains(channel) || isIdle)
        case .close(let error):
            precondition(!isClosed && !error.text.isEmpty)
            isClosed = true
        case .end(let which, let error):
            precondition(which == channel && links[channel] != nil && !ended.contains(channel) && !error.text.isEmpty)
            ended.insert(channel)
        case .pass:
            guard let performative = frame.performative else { return }
            precondition(!isClosed || performative == .close)
            precondition(isOpen == (performative != .open) || isClosed)
            switch performative {
            case .open: isOpen = true
            case .close: isClosed = true
            case .begin:
                precondition(channel <= 3 && links.updateValue([:], forKey: channel) == nil)
            case .end:
                precondition(links.removeValue(forKey: channel) != nil)
                ended.remove(channel)
            case .attach:
                precondition(handle <= 7 && links[channel]?[handle] == nil && !ended.contains(channel))
                links[channel]?[handle] = frame.fields.said.contains(.receiver)
            case .detach: precondition(links[channel]?.removeValue(forKey: handle) != nil && !ended.contains(channel))
            case .transfer: precondition(links[channel]?[handle] == false && !ended.contains(channel))
            case .flow:
                let hasLink = frame.fields.said.contains(.handle)
                precondition(links[channel] != nil && (!hasLink || links[channel]?[handle] != nil))
            case .disposition: precondition(links[channel] != nil && !ended.contains(channel))
            }
        }
    }
}

/// Reads values the plain way, and stops the program at what should not have passed.
private struct PlainReader {
    let bytes: [UInt8]
    var place = 0
    var values = 0

    init(bytes: [UInt8]) { self.bytes = bytes }

    mutating func value(end: Int, depth: Int) {
        let code = constructor(end: end)
        content(code, end: end, depth: depth)
    }

    private mutating func constructor(end: Int) -> UInt8 {
        var code = UInt8(number(1, end: end))
        if code == 0 {
            let descriptor = UInt8(number(1, end: end))
            precondition([0x44, 0x53, 0x80, 0xA3, 0xB3].contains(descriptor))
            content(descriptor, end: end, depth: 0)
            code = UInt8(number(1, end: end))
            precondition(code != 0)
        }
        return code
    }

    private mutating func content(_ code: UInt8, end: Int, depth: Int) {
        values += 1
        switch code {
        case 0x40...0x45: break
        case 0x50...0x56: _ = number(1, end: end)
        case 0x60, 0x61: _ = number(2, end: end)
        case 0x70...0x74: _ = number(4, end: end)
        case 0x80...0x84: _ = number(8, end: end)
        case 0x94, 0x98: skip(16, end: end)
        case 0xA0, 0xA1, 0xA3: skip(number(1, end: end), end: end)
        case 0xB0, 0xB1, 0xB3: skip(number(4, end: end), end: end)
        case 0xC0, 0xC1, 0xD0, 0xD1, 0xE0, 0xF0:
            precondition(depth < FrameLimits.depth)
            let width = code & 0x10 == 0 ? 1 : 4
            let size = number(width, end: end)
            let inner = place + size
            precondition(inner <= end)
            let count = number(width, end: inner)
            precondition(count <= FrameLimits.values && (code & 0x0F == 0 || count % 2 == 0))
            if code >= 0xE0 {
                let element = constructor(end: inner)
                for _ in 0..<count { content(element, end: inner, depth: depth + 1) }
            } else {
                for _ in 0..<count { value(end: inner, depth: depth + 1) }
            }
            precondition(place == inner)
        default: preconditionFailure("constructor \(code)")
        }
    }

    private mutating func skip(_ count: Int, end: Int) {
        precondition(count <= end - place)
        place += count
    }

    private mutating func number(_ width: Int, end: Int) -> Int {
        skip(width, end: end)
        return bytes[(place - width)..<place].reduce(0) { $0 << 8 | Int($1) }
    }
}
