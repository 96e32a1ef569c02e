import Core
import TestSupport

/// What the reactor's connection is: a socket with its conversation. Its loop is repeated faithfully: read, receive,
/// route, tell, route what was put off; one send for each pass.
final class Line: Link {
    let token: Int
    unowned let station: Station
    let lane: StationLane
    let socket: SocketEnd
    let isDialled: Bool
    var conversation: Conversation!
    private(set) var closing: CloseReason?
    private(set) var isPaused = false
    private(set) var isTouched = false
    private(set) var deadline: UInt64?

    private var window: UnsafeMutableRawPointer?
    private var windowSize = 0
    private var pending: [UInt8] = []
    private var pendingFrom = 0
    private var carry: [UInt8] = []
    private var finishing: CloseReason?
    private var isWritingShut = false
    private var hasInputEnded = false
    private var isDraining = false

    private static let (smallSize, largeSize) = (2_048, 65_536)
    private static let receiveSize = 256 << 10

    init(token: Int, station: Station, socket: SocketEnd, isDialled: Bool) {
        self.token = token
        self.station = station
        lane = station.lane
        self.socket = socket
        self.isDialled = isDialled
        super.init()
        isLocal = true
    }

    deinit { window?.deallocate() }

    override var peer: String { socket.peer.station.name }
    private var pendingBytes: Int { pending.count - pendingFrom }
    override var unsentBytes: Int { pendingBytes }

    // MARK: Reading

    private var isReading: Bool {
        closing == nil && (!isPaused && pendingBytes <= lane.limits.maxOutputBytes && !hasInputEnded || isWritingShut)
    }

    /// Whether the loop would be told of it.
    var isReady: Bool {
        if closing != nil { return false }
        if socket.isReset { return true }
        return (pendingBytes > 0 && socket.isWritable) || (isReading && socket.isReadable)
    }

    /// The part of a pass that epoll asks for.
    func ready() {
        if pendingBytes > 0, socket.isWritable { writable() }
        guard closing == nil else { return }
        if isReading, socket.isReadable { return readable() }
        if socket.isReset { close(.connectionLost) }
    }

    private func readable() {
        guard let bytes = socket.read(max(1, Self.receiveSize - carry.count)) else { return close(.connectionLost) }
        if finishing != nil {
            if bytes.isEmpty { close(finishing ?? .connectionLost) }
            return
        }
        if bytes.isEmpty {
            if conversation.inputEnded(on: lane) { hasInputEnded = true } else { close(.connectionLost) }
            return
        }
        lane.counters.socketBytesIn &+= UInt64(bytes.count)
        let whole = carry.isEmpty ? bytes : carry + bytes
        carry = []
        take(whole)
    }

    private func take(_ bytes: [UInt8]) {
        let intake = conversation.take(
            bytes, on: lane, isOpen: { closing == nil && finishing == nil }, yields: { lane.isMatchingCostly })
        switch intake.stop {
        case .paused: isPaused = true
        case .yielding:
            isPaused = true
            station.yielding.append(token)
        case .close(let reason): close(reason)
        case .waiting, .ended: break
        }
        carry = closing == nil && finishing == nil ? intake.rest : []
    }

    override func resume() {
        guard isPaused, closing == nil else { return }
        isPaused = false
        guard finishing == nil else { return }
        station.resumed.append(token)
    }

    /// Takes what was left over when the conversation paused.
    func takeCarry() {
        guard closing == nil, finishing == nil, !isPaused, !carry.isEmpty else { return }
        let bytes = carry
        carry = []
        take(bytes)
    }

    // MARK: Writing

    private func touch() {
        guard !isTouched else { return }
        isTouched = true
        station.touched.append(token)
    }

    private func openWindow(_ size: Int) {
        touch()
        window = .allocate(byteCount: size, alignment: 16)
        windowSize = size
        cursor = window ?? cursor
        end = cursor + size
    }

    override func makeRoom(_ count: Int) {
        if window == nil { openWindow(count > Self.smallSize ? Self.largeSize : Self.smallSize) }
        if end - cursor >= count { return }
        sendWindow()
        openWindow(Self.largeSize)
    }

    override func appendSlowly(_ bytes: UnsafeRawPointer, _ count: Int) {
        guard closing == nil || window != nil else { return }
        var rest = bytes
        var left = count
        while left > 0 {
            if end == cursor {
                sendWindow()
                openWindow(count > Self.smallSize ? Self.largeSize : Self.smallSize)
            }
            let part = min(left, end - cursor)
            cursor.copyMemory(from: rest, byteCount: part)
            cursor += part
            rest += part
            left -= part
        }
    }

    private func sendWindow() {
        guard let window else { return }
        let count = cursor - window
        var sent = 0
        let bytes = UnsafeRawBufferPointer(start: window, count: count)
        if pendingBytes == 0, count > 0 { sent = writeSome(bytes) }
        if sent < count { pending += bytes[sent...] }
        noteCongestion()
        window.deallocate()
        self.window = nil
        end = cursor
    }

    private func writeSome(_ bytes: UnsafeRawBufferPointer) -> Int {
        guard let count = socket.write(bytes) else {
            close(.connectionLost)
            return bytes.count
        }
        lane.counters.socketBytesOut &+= UInt64(count)
        return count
    }

    private func noteCongestion() {
        isCongested = pendingBytes > lane.limits.maxOutputBytes
        rider?.isCongested = isCongested
    }

    /// The end of the pass: everything is sent, once.
    func flush() {
        conversation.produce(on: lane)
        isTouched = false
        packets = 0
        sendWindow()
        shutWritingIfFinished()
    }

    private func writable() {
        let sent = pending[pendingFrom...].withUnsafeBytes { writeSome($0) }
        pendingFrom += sent
        if pendingFrom == pending.count || pendingFrom > 1 << 20 {
            pending.removeFirst(pendingFrom)
            pendingFrom = 0
        }
        noteCongestion()
        guard pendingBytes == 0 else { return }
        shutWritingIfFinished()
        if isDraining, finishing == nil { close(.shutdown) }
        if closing == nil, finishing == nil { conversation.outputDrained(on: lane) }
    }

    // MARK: Ending

    override func close(_ reason: CloseReason) {
        guard closing == nil else { return }
        closing = reason
        station.closing.append(token)
    }

    override func finish(_ reason: CloseReason) {
        guard closing == nil, finishing == nil else { return }
        finishing = reason
        carry = []
        touch()
        deadline = lane.now + UInt64(lane.limits.lastBytesMilliseconds)
    }

    private func shutWritingIfFinished() {
        guard finishing != nil, !isWritingShut, closing == nil, pendingBytes == 0, window == nil else { return }
        isWritingShut = true
        socket.shutWriting()
        if hasInputEnded { return close(finishing ?? .clientDisconnected) }
        deadline = lane.now + UInt64(lane.limits.lingerMilliseconds)
    }

    /// The node is stopping.
    func drain() {
        guard finishing == nil, !conversation.drain(on: lane) else { return }
        isDraining = true
        if pendingBytes == 0 { close(.shutdown) }
    }

    /// Tells the conversation and closes the socket.
    func end(_ reason: CloseReason) {
        deadline = nil
        lane.counters.close(reason)
        conversation.close(reason, on: lane)
        flush()
        socket.close()
    }

    // MARK: Time

    override func tick(at deadline: UInt64) { if finishing == nil { self.deadline = deadline } }

    func tickIfDue() {
        guard closing == nil, let deadline, deadline <= lane.now else { return }
        self.deadline = nil
        if let finishing { return close(finishing) }
        switch conversation.tick(on: lane) {
        case .success(let next): if let next { self.deadline = next }
        case .failure(let reason): close(reason)
        }
    }

    override func callback<Answer: Sendable>(
        _ body: @escaping @Sendable (Conversation, Answer, Lane) -> Void
    ) -> @Sendable (Answer) -> Void {
        let (lanes, token) = (lane.lanes, token)
        return { answer in
            lanes.call(0) { lane in
                guard let line = (lane as? StationLane)?.station?.lines[token], line.closing == nil else { return }
                body(line.conversation, answer, lane)
            }
        }
    }
}
