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
    /// Bytes on their way that the socket did not take.
    private struct Chunk {
        var base: UnsafeMutableRawPointer
        var start: Int32
        var end: Int32
        var isLarge: Bool

        var room: Int { (isLarge ? ReactorLane.bufferSize : ReactorLane.smallSize) - Int(end) }
    }

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
    private var pending: [Chunk] = []
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
    /// Somebody has seen bytes that were not sent yet, and has not been told that they are.
    private(set) var isDrainAwaited = false
    /// The peer has sent its last byte and is still read to.
    var hasInputEnded = false
    /// Why the connection ends once everything has been sent and the peer has had time to read it.
    private(set) var finishing: CloseReason?
    private(set) var isWritingShut = false
    /// Bytes received and not yet taken.
    private var carry: UnsafeMutableRawPointer?
    /// What is taken little by little is not moved each time.
    private var carryStart = 0
    private var carryCount = 0
    private var carryCapacity = 0

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
        if carryCount > Self.directSize * 4 { return readIntoCarry() }
        let buffer = lane.receiveBuffer
        let kept = carryCount
        if kept > 0, let carry { buffer.copyMemory(from: carry + carryStart, byteCount: kept) }
        let count = readSome(buffer + kept, ReactorLane.receiveSize - kept)
        guard count > 0 else { return }
        carryCount = 0
        carryStart = 0
        let taken = consume(buffer, kept + count)
        let left = kept + count - taken
        if left > 0 {
            if isCarryWasteful(left) { releaseCarry() }
            reserveCarry(left)
            carry?.copyMemory(from: buffer + taken, byteCount: left)
            carryCount = left
        } else {
            releaseCarry()
        }
        if secured != nil { settleInput() }
        updateInterest()
    }

    /// A large packet is collected where it lies instead of being copied to the lane's buffer again and again.
    private func readIntoCarry() {
        reserveCarry(carryCount + ReactorLane.receiveSize / 4)
        guard let carry else { return }
        let count = readSome(carry + carryCount, carryCapacity - carryCount)
        guard count > 0 else { return }
        consumeCarry(carry, carryCount + count)
    }

    /// Gives the carry buffer's own bytes to the conversation; what is left over stays where it is.
    private func consumeCarry(_ carry: UnsafeMutableRawPointer, _ count: Int) {
        let (start, capacity) = (carryStart, carryCapacity)
        self.carry = nil
        carryStart = 0
        carryCount = 0
        carryCapacity = 0
        let taken = consume(carry + start, count)
        if taken < count {
            self.carry = carry
            carryStart = start + taken
            carryCount = count - taken
            carryCapacity = capacity
            if isCarryWasteful(carryCount) { moveCarry(carryCount) }
        } else {
            carry.deallocate()
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
        return closing == nil && finishing == nil ? offset : count
    }

    /// Makes the carry buffer at least `count` bytes large, its bytes at the beginning.
    private func reserveCarry(_ count: Int) {
        guard carryCapacity < count else {
            if carryStart > 0, let carry { memmove(carry, carry + carryStart, carryCount) }
            carryStart = 0
            return
        }
        // Doubling, so that a packet of n bytes is copied log n times; never more than twice what has arrived.
        moveCarry(max(count, min(carryCapacity * 2, carryCount * 2), 256))
    }

    private func moveCarry(_ capacity: Int) {
        let other = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 16)
        if let carry {
            other.copyMemory(from: carry + carryStart, byteCount: carryCount)
            carry.deallocate()
        }
        carry = other
        carryStart = 0
        carryCapacity = capacity
    }

    /// Whether most of a large carry buffer has been taken.
    private func isCarryWasteful(_ count: Int) -> Bool { carryCapacity > 4_096 && count * 4 < carryCapacity }

    private func releaseCarry() {
        carry?.deallocate()
        carry = nil
        carryStart = 0
        carryCount = 0
        carryCapacity = 0
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
        guard carryCount > 0, let carry else {
            if secured != nil { settleInput() }
            return
        }
        consumeCarry(carry, carryCount)
    }

    // MARK: Writing

    override func makeRoom(_ count: Int) {
        if window == nil { openWindow(large: count > ReactorLane.smallSize) }
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
        if window == nil { openWindow(large: count > ReactorLane.smallSize) }
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
        let buffer = large ? lane.takeBuffer() : lane.takeSmallBuffer()
        window = buffer
        isLarge = large
        cursor = buffer
        end = buffer + (large ? ReactorLane.bufferSize : ReactorLane.smallSize)
    }

    private func enlargeWindow() {
        guard let small = window else { return }
        let count = cursor - small
        let buffer = lane.takeBuffer()
        buffer.copyMemory(from: small, byteCount: count)
        lane.giveSmallBuffer(small)
        window = buffer
        isLarge = true
        cursor = buffer + count
        end = buffer + ReactorLane.bufferSize
    }

    private func give(_ buffer: UnsafeMutableRawPointer, isLarge: Bool) {
        if isLarge { lane.giveBuffer(buffer) } else { lane.giveSmallBuffer(buffer) }
    }

    private func closeWindow() {
        if let window { give(window, isLarge: isLarge) }
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
        } else if let last = pending.last, last.room >= count {
            // Little by little must not cost a buffer each time.
            (last.base + Int(last.end)).copyMemory(from: window, byteCount: count)
            pending[pending.count - 1].end += Int32(count)
            pendingBytes += count
            closeWindow()
        } else {
            // Who lets more wait than a small buffer holds will let more wait still.
            if !isLarge, !pending.isEmpty { enlargeWindow() }
            guard let window = self.window else { return }
            // The window itself becomes the queue's chunk: no copy.
            pending.append(Chunk(base: window, start: Int32(sent), end: Int32(count), isLarge: isLarge))
            pendingBytes += count - sent
            dropWindow()
        }
        settleFailure()
    }

    private func sendDirectly(_ bytes: UnsafeRawPointer, _ count: Int) {
        if let tap { tap.sent(UnsafeRawBufferPointer(start: bytes, count: count), on: lane) }
        var sent = writeSome(bytes, count)
        while sent < count {
            let part = min(count - sent, ReactorLane.bufferSize)
            let buffer = lane.takeBuffer()
            buffer.copyMemory(from: bytes + sent, byteCount: part)
            pending.append(Chunk(base: buffer, start: 0, end: Int32(part), isLarge: true))
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
        var done = 0
        while done < pending.count {
            let chunk = pending[done]
            let left = Int(chunk.end - chunk.start)
            let sent = writeSome(chunk.base + Int(chunk.start), left)
            pendingBytes -= sent
            if sent < left {
                pending[done].start += Int32(sent)
                break
            }
            give(chunk.base, isLarge: chunk.isLarge)
            done += 1
        }
        pending.removeFirst(done)
        if pending.isEmpty { pending = [] }
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
        if slot >= 0 { lane.closing.append(Unmanaged.passUnretained(self).toOpaque()) }
    }

    override func finish(_ reason: CloseReason) {
        guard closing == nil, finishing == nil else { return }
        finishing = reason
        releaseCarry()
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
        for chunk in pending { give(chunk.base, isLarge: chunk.isLarge) }
        pending = []
        pendingBytes = secured?.countedBytes ?? 0
    }

    /// Releases everything but the socket; called by the lane when the conversation has been told.
    func releaseBuffers() {
        secured?.release()
        releaseOutput()
        releaseCarry()
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
        guard finishing == nil, !conversation.drain(on: lane) else { return }
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
