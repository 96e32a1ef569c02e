import CLinux
import Core
import Glibc
import TLS

/// One socket with its conversation: reads into the lane's buffer, writes out of pooled ones. While nothing is on its
/// way an idle connection holds no buffer at all.
///
/// The transport seam: `readSome` and `writeSome`, behind which TLS stands for a connection that has it
/// (`Connection+TLS.swift`), `receiveSome` and `sendSome` below it are the only places that touch the socket.
final class Connection: Link {
    unowned(unsafe) var lane: ReactorLane
    let socket: Int32
    /// Place in the lane's table and the token that epoll hands back.
    var slot = -1
    var generation: UInt32 = 0
    /// What its lane counts for its protocol; as long as it has a place in the lane's table.
    var traffic: Unmanaged<Traffic>?
    var conversation: Conversation!
    /// TLS; nil for a plain connection.
    let secured: SecuredTransport?
    /// The listener that accepted it; nil when it was dialled.
    let listener: Listener?
    /// What was found out before it was made; nil when there was nothing to find out.
    var arrival: Arrival?

    /// The window's beginning; nil without a window.
    private var window: UnsafeMutableRawPointer?
    /// Most answers are short: a window is small at first, and replaced by a large one when it does not suffice.
    private var isLarge = false
    /// What the socket did not take.
    private var pending = OutputQueue()
    /// Bytes in ``pending``, and those sealed that the socket did not take.
    var pendingBytes = 0 {
        didSet {
            isCongested = pendingBytes > lane.limits.maxOutputBytes
            rider?.isCongested = isCongested
        }
    }
    private(set) var isTouched = false
    private(set) var closing: CloseReason?
    private(set) var isPaused = false
    private(set) var isReading = true
    private var isWatchingWrites = false
    private var isDraining = false
    /// Whether its conversation has been told that the node is stopping.
    private var isToldToStop = false
    /// Somebody has seen bytes that were not sent yet, and has not been told that they are.
    private(set) var isDrainAwaited = false
    /// The peer has sent its last byte and is still read to.
    var hasInputEnded = false
    /// Why the connection ends once everything has been sent and the peer has had time to read it.
    private(set) var finishing: CloseReason?
    private(set) var isWritingShut = false
    private var carry = CarryBuffer()

    /// From here on a block is sent where it lies instead of being copied into the window.
    private static let directSize = 16_384

    init(socket: Int32, isLocal: Bool, lane: ReactorLane, listener: Listener?, secured: SecuredTransport?) {
        self.socket = socket
        self.lane = lane
        self.listener = listener
        self.secured = secured
        super.init()
        self.isLocal = isLocal
    }

    deinit {
        releaseBuffers()
    }

    private var peerAddress: SocketAddress? { arrival?.told ?? SocketAddress(socket: socket, peer: true) }
    override var peer: String { peerAddress?.description ?? "unknown" }
    override var address: NetworkAddress? { peerAddress?.networkAddress }
    override var listenerName: String { listener?.name ?? "" }
    override var isEncrypted: Bool { secured != nil }
    override var certificate: PeerCertificate? { secured?.session.certificate }
    override var provenUser: String? { secured?.session.user }
    override var provenGroups: [String] { secured?.session.groups ?? [] }

    // MARK: Reading

    /// The socket has bytes, or has ended.
    func readable() {
        guard closing == nil else { return }
        if finishing != nil { return discardInput() }
        guard !isPaused else { return }
        let kept = carry.count
        if kept > Self.directSize * 4 { return readIntoCarry() }
        let buffer = lane.receiveBuffer
        carry.copy(to: buffer)
        let count = readSome(buffer + kept, ReactorLane.receiveSize - kept)
        guard count > 0 else { return }
        carry.forgetBytes()
        let taken = consume(buffer, kept + count)
        let left = kept + count - taken
        if left > 0 { carry.keep(buffer + taken, left) } else { carry.release() }
        if secured != nil { settleInput() }
        updateInterest()
    }

    /// A large packet is collected where it lies instead of being copied to the lane's buffer again and again.
    private func readIntoCarry() {
        let room = carry.makeRoom(ReactorLane.receiveSize / 4)
        guard let start = room.baseAddress else { return }
        let count = readSome(start, room.count)
        guard count > 0 else { return }
        carry.grow(count)
        consumeCarry()
    }

    /// Gives the carry buffer's own bytes to the conversation; what is left over stays where it is.
    private func consumeCarry() {
        var own = carry.take()
        guard let bytes = own.bytes else { return }
        let taken = consume(bytes, own.count)
        if taken < own.count {
            own.drop(taken)
            carry = own
        } else {
            own.release()
        }
        if secured != nil { settleInput() }
        updateInterest()
    }

    /// - Returns: bytes read; 0 when there are none now. An end or error closes the connection.
    private func readSome(_ buffer: UnsafeMutableRawPointer, _ count: Int) -> Int {
        if let secured { return readSealed(secured, buffer, count) }
        switch receiveSome(buffer, count) {
        case .bytes(let count): return count
        case .none: break
        case .end: inputHasEnded()
        case .lost: close(finishing ?? .connectionLost)
        }
        return 0
    }

    /// What came of reading the socket.
    enum Received {
        case bytes(Int)
        case none
        /// The peer will send nothing more.
        case end
        case lost
    }

    func receiveSome(_ buffer: UnsafeMutableRawPointer, _ count: Int) -> Received {
        while true {
            let result = recv(socket, buffer, count, 0)
            if result > 0 {
                lane.counters.socketBytesIn &+= UInt64(truncatingIfNeeded: result)
                return .bytes(result)
            }
            if result == 0 { return .end }
            if errno == EAGAIN { return .none }
            if errno != EINTR { return .lost }
        }
    }

    /// Who has said all may still read: what waits is sent before the end.
    func inputHasEnded() {
        if finishing == nil ? conversation.inputEnded(on: lane) : !isWritingShut {
            hasInputEnded = true
            updateInterest()
        } else {
            close(finishing ?? .connectionLost)
        }
    }

    /// What comes after the last answer is of no interest; closing while it is unread would take the answer away.
    /// A piece at a time, because others wait for their turn.
    private func discardInput() {
        _ = readSome(lane.receiveBuffer, ReactorLane.receiveSize)
        guard secured != nil else { return }
        settleInput()
        updateInterest()
    }

    /// Gives bytes to the conversation and routes what it publishes.
    /// - Returns: bytes that need not be kept.
    private func consume(_ base: UnsafeMutableRawPointer, _ count: Int) -> Int {
        var offset = 0
        let turn = lane.turn
        turn.beginSlowly()
        loop: while closing == nil, finishing == nil {
            let bytes = UnsafeRawBufferPointer(start: base + offset, count: count - offset)
            let progress = conversation.receive(bytes, turn, on: lane)
            if let tap { tap.received(UnsafeRawBufferPointer(rebasing: bytes[..<progress.consumed]), on: lane) }
            offset += progress.consumed
            if !turn.isEmpty {
                turn.principal?.router.route(turn, on: lane)
                conversation.routed(turn, on: lane)
                turn.removeAll()
            } else {
                turn.forgetUnused()
            }
            lane.routeDeferred()
            switch progress.verdict {
            case .routeFirst:
                guard lane.isMatchingCostly else { continue }
                isPaused = true
                lane.yielding.append(lane.token(of: self))
                break loop
            case .waiting: break loop
            case .paused:
                isPaused = true
                break loop
            case .close(let reason):
                close(reason)
                break loop
            }
        }
        guard closing != nil || finishing != nil else { return offset }
        judgeOpening(base, count)
        return count
    }

    /// A connection ends whose last bytes came at once: whoever dialled may have wanted the mesh's port.
    private func judgeOpening(_ base: UnsafeMutableRawPointer, _ count: Int) {
        guard let listener, !listener.adapter.isMesh,
            MeshGreeting.begins(UnsafeRawBufferPointer(start: base, count: count))
        else { return }
        lane.noteStrayLink(peer, listener)
    }

    override func resume() {
        guard isPaused, closing == nil else { return }
        isPaused = false
        guard finishing == nil else { return }
        lane.resumed.append(Unmanaged.passUnretained(self).toOpaque())
    }

    /// Takes what was left over when the conversation paused; called by the lane, not from a conversation.
    func takeCarry() {
        guard closing == nil, finishing == nil, !isPaused else { return }
        updateInterest()
        if carry.count > 0 { return consumeCarry() }
        if secured != nil { settleInput() }
    }

    // MARK: Writing

    override func makeRoom(_ count: Int) {
        if window == nil { openWindow(large: count > OutputBuffers.smallSize) }
        if end - cursor >= count { return }
        if !isLarge { return enlargeWindow() }
        sendWindow()
        openWindow(large: true)
    }

    override func appendSlowly(_ bytes: UnsafeRawPointer, _ count: Int) {
        guard closing == nil || window != nil else { return }
        if count >= Self.directSize, pendingBytes == 0 {
            touch()
            sendWindow()
            if pendingBytes == 0 { return sendDirectly(bytes, count) }
        }
        if window == nil { openWindow(large: count > OutputBuffers.smallSize) }
        if !isLarge, end - cursor < count { enlargeWindow() }
        var rest = bytes
        var left = count
        while left > 0 {
            if end == cursor {
                sendWindow()
                openWindow(large: true)
            }
            let part = min(left, end - cursor)
            cursor.copyMemory(from: rest, byteCount: part)
            cursor += part
            rest += part
            left -= part
        }
    }

    func touch() {
        guard !isTouched else { return }
        // An event for very many connections is sent in portions, so that their windows do not add up.
        if lane.touched.count >= ReactorLane.touchedAtOnce { lane.flushTouched() }
        isTouched = true
        lane.touched.append(Unmanaged.passUnretained(self).toOpaque())
    }

    private func openWindow(large: Bool) {
        guard window == nil else { return }
        touch()
        let buffer = lane.outputBuffers.take(isLarge: large)
        window = buffer
        isLarge = large
        cursor = buffer
        end = buffer + OutputBuffers.size(isLarge: large)
    }

    private func enlargeWindow() {
        guard let small = window else { return }
        let count = cursor - small
        let buffer = lane.outputBuffers.take(isLarge: true)
        buffer.copyMemory(from: small, byteCount: count)
        lane.outputBuffers.give(small, isLarge: false)
        window = buffer
        isLarge = true
        cursor = buffer + count
        end = buffer + OutputBuffers.largeSize
    }

    private func closeWindow() {
        if let window { lane.outputBuffers.give(window, isLarge: isLarge) }
        dropWindow()
    }

    private func dropWindow() {
        window = nil
        end = cursor
    }

    /// Sends the window, or queues it behind what waits already.
    private func sendWindow() {
        guard let window else { return }
        let count = cursor - window
        var sent = 0
        if let tap { tap.sent(UnsafeRawBufferPointer(start: window, count: count), on: lane) }
        if pendingBytes == 0, count > 0 { sent = writeSome(window, count) }
        if sent == count {
            closeWindow()
        } else if pending.appendToLast(window, count) {
            pendingBytes += count
            closeWindow()
        } else {
            // Who lets more wait than a small buffer holds will let more wait still.
            if !isLarge, !pending.isEmpty { enlargeWindow() }
            guard let window = self.window else { return }
            // The window itself becomes the queue's chunk: no copy.
            pending.append(window, from: sent, to: count, isLarge: isLarge)
            pendingBytes += count - sent
            dropWindow()
        }
        settleFailure()
    }

    private func sendDirectly(_ bytes: UnsafeRawPointer, _ count: Int) {
        if let tap { tap.sent(UnsafeRawBufferPointer(start: bytes, count: count), on: lane) }
        var sent = writeSome(bytes, count)
        while sent < count {
            let part = min(count - sent, OutputBuffers.largeSize)
            let buffer = lane.outputBuffers.take(isLarge: true)
            buffer.copyMemory(from: bytes + sent, byteCount: part)
            pending.append(buffer, from: 0, to: part, isLarge: true)
            pendingBytes += part
            sent += part
        }
        settleFailure()
    }

    /// - Returns: bytes taken; an error closes the connection and takes them all, to nowhere.
    private func writeSome(_ bytes: UnsafeRawPointer, _ count: Int) -> Int {
        if let secured { return writeSealed(secured, bytes, count) }
        return sendSome(bytes, count)
    }

    /// - Returns: bytes the socket took; an error closes the connection and takes them all, to nowhere.
    func sendSome(_ bytes: UnsafeRawPointer, _ count: Int) -> Int {
        while true {
            let result = send(socket, bytes, count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
            if result >= 0 {
                lane.counters.socketBytesOut &+= UInt64(truncatingIfNeeded: result)
                return result
            }
            if errno == EINTR { continue }
            if errno == EAGAIN { return 0 }
            close(.connectionLost)
            return count
        }
    }

    override var unsentBytes: Int {
        let bytes = pendingBytes + (window.map { cursor - $0 } ?? 0)
        if bytes > 0 { isDrainAwaited = true }
        return bytes
    }

    override func setNotSentLowWater(_ bytes: Int) {
        Listener.set(socket, Int32(IPPROTO_TCP), TCP_NOTSENT_LOWAT, Int32(clamping: bytes))
    }

    override func settleTap() { sendWindow() }

    /// The end of the pass: everything is sent, once.
    func flush() {
        conversation.produce(on: lane)
        isTouched = false
        lane.counters.packetsOut &+= UInt64(packets)
        packets = 0
        sendWindow()
        if isDrainAwaited, pendingBytes == 0 { lane.drained.append(lane.token(of: self)) }
        shutWritingIfFinished()
        updateInterest()
    }

    /// The socket takes bytes again.
    func writable() {
        if let secured, !sendKept(secured) { return updateInterest() }
        while let first = pending.first, let start = first.baseAddress {
            let sent = writeSome(start, first.count)
            pendingBytes -= sent
            pending.dropFirst(sent, to: &lane.outputBuffers)
            if sent < first.count { break }
        }
        pending.settle()
        settleFailure()
        if pendingBytes == 0 {
            shutWritingIfFinished()
            if isDraining, finishing == nil { close(.shutdown) }
            isDrainAwaited = false
            if closing == nil, finishing == nil { conversation.outputDrained(on: lane) }
        }
        updateInterest()
    }

    /// Everything was sent at the end of a pass, and somebody waits to hear it. Not said there at once: a fast peer
    /// would be sent to for as long as there is something.
    func tellDrained() {
        guard isDrainAwaited, closing == nil, finishing == nil else { return }
        isDrainAwaited = false
        conversation.outputDrained(on: lane)
    }

    // MARK: Interest

    /// A client that does not read is not read either, once its output is full.
    func updateInterest() {
        guard slot >= 0 else { return }
        if let secured, secured.session.isHandshaking { return watchHandshake(secured) }
        // While the session waits for the rest of a message, only what is sealed already can go.
        let isListening = secured?.session.isListening ?? false
        let hasRoom = pendingBytes <= lane.limits.maxOutputBytes || isListening
        let reads = closing == nil && (!isPaused && hasRoom && !hasInputEnded || isWritingShut)
        watch(reads: reads, writes: isListening ? secured?.session.keptCount != 0 : pendingBytes > 0)
    }

    func watch(reads: Bool, writes: Bool) {
        guard reads != isReading || writes != isWatchingWrites else { return }
        isReading = reads
        isWatchingWrites = writes
        lane.watch(self, reads: reads, writes: writes)
    }

    // MARK: Ending and moving

    override func close(_ reason: CloseReason) {
        guard closing == nil else { return }
        closing = reason
        // What waits to be understood, as a request that never ended.
        if let bytes = carry.bytes { judgeOpening(bytes, carry.count) }
        if slot >= 0 { lane.closing.append(Unmanaged.passUnretained(self).toOpaque()) }
    }

    override func finish(_ reason: CloseReason) {
        guard closing == nil, finishing == nil else { return }
        finishing = reason
        if let bytes = carry.bytes { judgeOpening(bytes, carry.count) }
        carry.release()
        touch()
        let bytes = unsentBytes
        let milliseconds = lane.limits.lastBytesMilliseconds + bytes * 1_000 / max(lane.limits.lastBytesPerSecond, 1)
        let deadline = lane.now + UInt64(milliseconds)
        lane.setTimer(self, min(deadline, secured?.handshakeDeadline ?? deadline))
    }

    private func shutWritingIfFinished() {
        guard finishing != nil, !isWritingShut, closing == nil, pendingBytes == 0, window == nil else { return }
        if let secured, !sayGoodbye(secured) { return }
        isWritingShut = true
        // A peer that is gone already is noticed by the next read.
        _ = shutdown(socket, Int32(SHUT_WR))
        if hasInputEnded { return close(finishing ?? .clientDisconnected) }
        lane.setTimer(self, lane.now + UInt64(lane.limits.lingerMilliseconds))
    }

    /// Time has come to a deadline.
    func tick() {
        if let finishing { return close(finishing) }
        if let secured, secured.session.isHandshaking, isHandshakesTick(secured) { return }
        switch conversation.tick(on: lane) {
        case .success(let next): if let next { tick(at: next) }
        case .failure(let reason): close(reason)
        }
    }

    /// What waits will not be sent.
    func releaseOutput() {
        closeWindow()
        pending.release(to: &lane.outputBuffers)
        pendingBytes = secured?.countedBytes ?? 0
    }

    /// Releases everything but the socket; called by the lane when the conversation has been told.
    func releaseBuffers() {
        secured?.release()
        releaseOutput()
        carry.release()
    }

    override func callback<Answer: Sendable>(
        _ body: @escaping @Sendable (Conversation, Answer, Lane) -> Void
    ) -> @Sendable (Answer) -> Void {
        let lanes = lane.lanes
        let number = lane.number
        let token = lane.token(of: self)
        return { answer in
            lanes.call(number) { lane in
                guard let lane = lane as? ReactorLane, let connection = lane.connection(token) else { return }
                guard connection.closing == nil else { return }
                body(connection.conversation, answer, lane)
            }
        }
    }

    override func move(to lane: Int, arrived: @escaping @Sendable (Conversation, Lane) -> Void) {
        self.lane.moving.append(ReactorLane.Move(connection: self, lane: lane, arrived: arrived))
    }

    override func tick(at deadline: UInt64) {
        guard finishing == nil else { return }
        if let secured, secured.session.isHandshaking { return askInHandshake(secured, deadline) }
        lane.setTimer(self, deadline)
    }

    /// The node is stopping: what waits is sent first, then the connection ends.
    func drain() {
        guard finishing == nil, !isToldToStop else { return }
        isToldToStop = true
        guard !conversation.drain(on: lane) else { return }
        isDraining = true
        if pendingBytes == 0 { close(.shutdown) }
    }

    /// A new table entry and a new lane: epoll watches for reads only as the flags say.
    func settle(on lane: ReactorLane, slot: Int, generation: UInt32) {
        self.lane = lane
        self.slot = slot
        self.generation = generation
        isReading = !isPaused
        isWatchingWrites = false
    }
}
