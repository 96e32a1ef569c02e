import CLinux
import Core
import Glibc
import Logging
import TLS

/// A lane of the messaging plane: one thread, one epoll, the connections on it.
///
/// A pass: wait; read and route every ready connection; take mail and timers; end what has ended; post mail; send once
/// for each connection that was written to.
final class ReactorLane: Lane {
    private struct Entry {
        var generation: UInt32
        var connection: Connection?
    }

    /// A connection that asked to be moved.
    struct Move {
        let connection: Connection
        let lane: Int
        let arrived: @Sendable (Conversation, Lane) -> Void
    }

    /// Bytes read at once, into a buffer that all connections of the lane share.
    static let receiveSize = 1 << 18
    /// Connections with something to send, beyond which it is sent at once.
    static let touchedAtOnce = 1_024
    private static let wakeToken = UInt64.max
    private static let listenerTokens = UInt64(0xFFFF_FFFF) << 32
    /// From here up to the listeners: sockets that are connecting.
    private static let dialTokens = UInt64(0xFFFF_FFFE) << 32
    /// From here up to those: connections whose PROXY header is awaited.
    private static let entranceTokens = UInt64(0xFFFF_FFFD) << 32

    /// Steps of handshakes that cost a key operation, in one pass: with a storm of them others still have their turn.
    static let handshakesAtOnce = 8
    /// Bytes of the wire read at once from a connection with TLS.
    static let sealedSize = 1 << 16
    /// Connections whose certificates are judged in one pass.
    private static let judgedAtOnce = 32

    let receiveBuffer: UnsafeMutableRawPointer
    /// What connections write to.
    var outputBuffers = OutputBuffers()
    /// For connections with TLS; made for the first one.
    private lazy var sealed = SealedBuffers()
    /// Steps of handshakes in this pass.
    var handshakeSteps = 0
    /// Is told of connections that were refused.
    var audit: (any AuditSink)?
    /// Who has a name still; nil while nobody wants to know.
    private var isKnown: (@Sendable (Identity) -> Bool)?
    /// The place in the table from which on certificates are still to be judged.
    private var judgedEntries = Int.max
    var touched: [UnsafeMutableRawPointer] = []
    var closing: [UnsafeMutableRawPointer] = []
    var resumed: [UnsafeMutableRawPointer] = []
    var moving: [Move] = []
    /// Tokens of connections that go on in the next pass.
    var yielding: [UInt64] = []
    /// Tokens of connections that wait to hear that everything was sent, and it was.
    var drained: [UInt64] = []

    private let epoll: Int32
    private var entries: [Entry] = []
    private var freeEntries: [Int] = []
    private var timers: TimerWheel
    private var choresAt: UInt64 = 0
    private let doorway: Doorway
    private let dials: Dials
    let entrance: Entrance
    private let logger: Logger
    /// By listener: when links to a wrong port may be spoken of again, in the lane's milliseconds; who dials tries it
    /// again and again.
    private var strayLinksAt: [ObjectIdentifier: UInt64] = [:]
    private static let strayLinksEvery: UInt64 = 10_000
    /// Whether the listeners have been closed, and whether the loop is to end.
    private var isSendingAway = false, isStopping = false
    private var stopDeadline = UInt64.max

    /// Makes the lane with its descriptors.
    /// - Parameter epoll: watches its eventfd already (``watchWake(_:_:)``), and is the lane's from here on.
    init(number: Int, lanes: Lanes, epoll: Int32, resolver: Resolver, logger: Logger) {
        self.epoll = epoll
        doorway = Doorway(epoll: epoll, tokens: Self.listenerTokens)
        entrance = Entrance(epoll: epoll, tokens: Self.entranceTokens)
        dials = Dials(epoll: epoll, tokens: Self.dialTokens, resolver: resolver)
        self.logger = logger
        receiveBuffer = .allocate(byteCount: Self.receiveSize, alignment: 4_096)
        let start = apus_monotonic_ns() / 1_000_000
        timers = TimerWheel(now: start)
        super.init(number: number, lanes: lanes)
        now = start
    }

    /// Lets a lane's epoll watch the eventfd that other threads wake it with.
    /// - Returns: false when the system refuses, with the reason in `errno`.
    static func watchWake(_ descriptor: Int32, _ epoll: Int32) -> Bool {
        // Edge-triggered: every write to the eventfd wakes once, and nobody has to read it empty.
        apus_epoll_set(epoll, EPOLL_CTL_ADD, descriptor, EPOLLIN.rawValue | EPOLLET.rawValue, wakeToken) == 0
    }

    deinit {
        outputBuffers.release()
        receiveBuffer.deallocate()
        Glibc.close(epoll)
    }

    // MARK: The loop

    /// Runs until ``stop(drainMilliseconds:)`` has let the last connection go.
    func run() {
        let capacity = 512
        let events = UnsafeMutablePointer<epoll_event>.allocate(capacity: capacity)
        defer { events.deallocate() }
        while !(isStopping && (entries.count == freeEntries.count || now >= stopDeadline)) {
            let count = epoll_wait(epoll, events, Int32(capacity), timeout())
            beginPass(at: apus_monotonic_ns())
            handshakeSteps = 0
            quietPasses = count > 0 ? 0 : quietPasses &+ 1
            var isWoken = false
            for index in 0..<Int(max(count, 0)) {
                let token = apus_epoll_token(events + index)
                if token == Self.wakeToken {
                    isWoken = true
                } else if token >= Self.entranceTokens {
                    if token < Self.dialTokens {
                        entrance.ready(token, on: self)
                    } else if token < Self.listenerTokens {
                        dials.ready(token, on: self)
                    } else {
                        doorway.ready(token, on: self)
                    }
                } else if let connection = connection(token) {
                    ready(connection, apus_epoll_events(events + index))
                }
            }
            if isWoken { readMail() }
            if !yielding.isEmpty { resumeYielding() }
            if !drained.isEmpty { tellDrained() }
            for slot in timers.advance(to: now) { tick(slot) }
            if let again = doorway.opensAgainAt, now >= again { doorway.openAgain() }
            if !alarms.isEmpty { ringAlarms() }
            if now >= choresAt { doChores() }
            if judgedEntries < entries.count { judgeSome() }
            finishPass()
            endPass(at: apus_monotonic_ns())
        }
        closeAll()
    }

    /// Connections that let others go first in the last pass go on.
    private func resumeYielding() {
        let again = yielding
        yielding = []
        for token in again { connection(token)?.resume() }
    }

    private func tellDrained() {
        let told = drained
        drained = []
        for token in told { connection(token)?.tellDrained() }
    }

    private func doChores() {
        choresAt = now + 1_000
        forgiveCostlyTurns()
        for chore in chores { chore(self) }
    }

    private func timeout() -> Int32 {
        if !closing.isEmpty || !resumed.isEmpty || !moving.isEmpty || !yielding.isEmpty { return 0 }
        if hasWork || hasPutOff || !drained.isEmpty || judgedEntries < entries.count { return 0 }
        var wait = timers.wait(from: now) ?? -1
        func atMost(_ time: UInt64) {
            let left = time > now ? Int(time - now) : 0
            wait = wait < 0 ? left : min(wait, left)
        }
        if let again = doorway.opensAgainAt { atMost(again) }
        if let nextAlarm { atMost(nextAlarm) }
        if !chores.isEmpty { atMost(choresAt) }
        if isStopping { atMost(stopDeadline) }
        return Int32(clamping: wait)
    }

    @inline(__always)
    private func ready(_ connection: Connection, _ events: UInt32) {
        if events & EPOLLOUT.rawValue != 0 { connection.writable() }
        if events & (EPOLLIN.rawValue | EPOLLHUP.rawValue | EPOLLERR.rawValue) != 0 {
            connection.readable()
            // A connection that is read notices its end after the last byte; one that is not must be told.
            let hasEnded = events & (EPOLLHUP.rawValue | EPOLLERR.rawValue) != 0
            if hasEnded, !connection.isReading { connection.close(.connectionLost) }
        }
    }

    /// Everything that conversations must not do from within each other, then mail, then one send for each.
    private func finishPass() {
        // What chores and mail put off: the will of a session that ended while its client was away.
        routeDeferred()
        while !resumed.isEmpty || !closing.isEmpty {
            let again = resumed
            resumed = []
            for pointer in again { connection(at: pointer).takeCarry() }
            let ended = closing
            closing = []
            for pointer in ended { end(connection(at: pointer)) }
            routeDeferred()
        }
        doWork()
        postMail()
        flushTouched()
        if !moving.isEmpty { sendMoving() }
    }

    func flushTouched() {
        var index = 0
        while index < touched.count {
            Unmanaged<Connection>.fromOpaque(touched[index])._withUnsafeGuaranteedRef { $0.flush() }
            index += 1
        }
        touched.removeAll(keepingCapacity: true)
    }

    private func connection(at pointer: UnsafeMutableRawPointer) -> Connection {
        Unmanaged<Connection>.fromOpaque(pointer).takeUnretainedValue()
    }

    // MARK: Connections

    func token(of connection: Connection) -> UInt64 {
        UInt64(connection.slot) << 32 | UInt64(connection.generation)
    }

    @inline(__always)
    func connection(_ token: UInt64) -> Connection? {
        let slot = Int(token >> 32)
        guard slot < entries.count, entries[slot].generation == UInt32(truncatingIfNeeded: token) else { return nil }
        return entries[slot].connection
    }

    private func adopt(_ connection: Connection, of protocolName: String) {
        let slot = freeEntries.popLast() ?? entries.count
        if slot == entries.count { entries.append(Entry(generation: 0, connection: nil)) }
        entries[slot].generation &+= 1
        entries[slot].connection = connection
        let traffic = traffic(of: protocolName)
        traffic.connections += 1
        connection.traffic = Unmanaged.passUnretained(traffic)
        connection.settle(on: self, slot: slot, generation: entries[slot].generation)
    }

    /// An accepted connection, or one that was dialled.
    /// - Parameters:
    ///   - listener: nil for one that was dialled.
    ///   - arrival: what was found out about it before.
    /// - Throws: when there is no TLS for it; the socket is still the caller's then.
    func start(
        _ socket: Int32, isLocal: Bool, adapter: any Adapter, listener: Listener?, door: TLSDoor?,
        serverName: String? = nil, arrival: Arrival? = nil
    ) throws(TLSFailure) {
        var secured: SecuredTransport?
        if let door {
            secured = SecuredTransport(try TLSSession(door, serverName: serverName))
            secured?.handshakeDeadline = now + UInt64(max(door.settings.handshakeMilliseconds, 1))
        }
        let connection = Connection(
            socket: socket, isLocal: isLocal, lane: self, listener: listener, secured: secured)
        connection.arrival = arrival
        adopt(connection, of: adapter.name)
        connection.conversation = adapter.makeConversation(link: connection, on: self)
        guard apus_epoll_set(epoll, EPOLL_CTL_ADD, socket, EPOLLIN.rawValue, token(of: connection)) == 0 else {
            return connection.close(.overLimit)
        }
        connection.startHandshake()
        logger.trace("connection made", metadata: ["lane": "\(number)", "protocol": "\(adapter.name)"])
    }

    func startAccepted(_ socket: Int32, isLocal: Bool, listener: Listener, arrival: Arrival?) {
        do throws(TLSFailure) {
            try start(
                socket, isLocal: isLocal, adapter: listener.adapter, listener: listener, door: listener.door,
                arrival: arrival)
            counters.accepted &+= 1
        } catch {
            logger.error("no TLS for a connection: \(error)")
            counters.close(.handshakeFailed)
            Glibc.close(socket)
            lanes.connectionLeft(number)
        }
    }

    /// What connections with TLS receive into, ``sealedSize`` bytes, for the length of a call.
    var sealedInput: UnsafeMutableRawPointer { sealed.input }

    /// What connections with TLS seal into, for the length of a call.
    func takeOutput() -> TLSOutput { TLSOutput(base: sealed.output, capacity: SealedBuffers.outputSize) }

    /// Looks at the certificates of all peers anew, a few in each pass.
    func judgeCertificates() { judgedEntries = 0 }

    /// The same, and ends the connections of those whom `isKnown` does not know.
    func judgeIdentities(_ isKnown: @escaping @Sendable (Identity) -> Bool) {
        self.isKnown = isKnown
        judgedEntries = 0
    }

    private func judgeSome() {
        var left = Self.judgedAtOnce
        while left > 0, judgedEntries < entries.count {
            if let connection = entries[judgedEntries].connection {
                if connection.judgeCertificate() { left -= 1 }
                if let isKnown, let identity = connection.conversation.provenIdentity {
                    left -= 1
                    if !isKnown(identity) { connection.close(.proofEnded) }
                }
            }
            judgedEntries += 1
        }
        guard judgedEntries >= entries.count else { return }
        judgedEntries = .max
        isKnown = nil
    }

    func watch(_ connection: Connection, reads: Bool, writes: Bool) {
        let events = (reads ? EPOLLIN.rawValue : 0) | (writes ? EPOLLOUT.rawValue : 0)
        _ = apus_epoll_set(epoll, EPOLL_CTL_MOD, connection.socket, events, token(of: connection))
    }

    /// A node's link has come to a listener of another protocol.
    func noteStrayLink(_ peer: String, _ listener: Listener) {
        guard now >= strayLinksAt[ObjectIdentifier(listener), default: 0] else { return }
        strayLinksAt[ObjectIdentifier(listener)] = now + Self.strayLinksEvery
        logger.warning(
            """
            a node of a mesh dials this port, which speaks \(listener.adapter.name): its link is to go to the mesh's \
            port (mesh.listen)
            """, metadata: ["peer": "\(peer)", "listen": "\(listener.address)"])
    }

    /// Tells the conversation, sends what it still has to say, and forgets the connection.
    private func end(_ connection: Connection) {
        guard connection.slot >= 0, let reason = connection.closing else { return }
        counters.close(reason)
        if logger.logLevel <= .debug {
            logger.debug(
                "connection closed",
                metadata: [
                    "reason": "\(reason)", "peer": "\(connection.peer)", "client": "\(connection.conversation.label)",
                ])
        }
        connection.conversation.close(reason, on: self)
        let wasTouched = connection.isTouched
        connection.flush()
        if let secured = connection.secured { _ = connection.sayGoodbye(secured) }
        leave(connection, wasTouched: wasTouched)
        Glibc.close(connection.socket)
        lanes.connectionLeft(number)
    }

    /// Takes a connection out of this lane's tables.
    private func leave(_ connection: Connection, wasTouched: Bool) {
        connection.releaseBuffers()
        if wasTouched {
            let pointer = Unmanaged.passUnretained(connection).toOpaque()
            touched.removeAll { $0 == pointer }
        }
        forget(connection)
    }

    private func forget(_ connection: Connection) {
        let slot = connection.slot
        timers.cancel(slot)
        connection.traffic?.takeUnretainedValue().connections -= 1
        connection.traffic = nil
        connection.slot = -1
        entries[slot].generation &+= 1
        freeEntries.append(slot)
        entries[slot].connection = nil
    }

    private func sendMoving() {
        let all = moving
        moving = []
        for move in all {
            let (connection, lane, arrived) = (move.connection, move.lane, move.arrived)
            guard connection.slot >= 0, connection.closing == nil else { continue }
            _ = apus_epoll_set(epoll, EPOLL_CTL_DEL, connection.socket, 0, 0)
            // Ownership passes with the call: nothing here refers to the connection any more.
            let parcel = Parcel(connection, protocolName: connection.traffic?.takeUnretainedValue().protocolName ?? "")
            forget(connection)
            lanes.connectionLeft(number)
            lanes.connectionJoined(lane)
            lanes.call(lane) { lane in
                guard let lane = lane as? ReactorLane else { return }
                lane.receive(parcel, arrived)
            }
        }
    }

    private func receive(_ parcel: Parcel, _ arrived: @Sendable (Conversation, Lane) -> Void) {
        let connection = parcel.connection
        adopt(connection, of: parcel.protocolName)
        guard apus_epoll_set(epoll, EPOLL_CTL_ADD, connection.socket, 0, token(of: connection)) == 0 else {
            return connection.close(.overLimit)
        }
        if connection.isDrainAwaited { drained.append(token(of: connection)) }
        connection.judgeLate()
        arrived(connection.conversation, self)
    }

    // MARK: Timers

    func setTimer(_ connection: Connection, _ deadline: UInt64) {
        if connection.slot >= 0 { timers.set(connection.slot, deadline: deadline) }
    }

    func cancelTimer(_ connection: Connection) {
        if connection.slot >= 0 { timers.cancel(connection.slot) }
    }

    private func tick(_ slot: Int) {
        guard let connection = entries[slot].connection, connection.closing == nil else { return }
        connection.tick()
    }

    // MARK: Accepting

    func listen(_ listener: Listener) {
        guard let problem = doorway.watch(listener) else { return }
        logger.critical("cannot listen", metadata: ["listener": "\(listener.name)", "problem": "\(problem)"])
    }

    /// Whether there are as many connections as there may be.
    var isFull: Bool { lanes.connectionCount + entrance.count >= limits.maxConnections }

    /// Somebody was refused because there is no descriptor left.
    func descriptorsExhausted() {
        counters.descriptorsExhausted &+= 1
        logger.warning("no file descriptor left: a connection was refused; raise the limit (LimitNOFILE=, ulimit -n)")
    }

    // MARK: Dialling

    /// Makes a connection; see ``Reactor/dial(_:on:timeoutMilliseconds:adapterName:makeConversation:failed:)``.
    func dial(_ request: DialRequest) {
        guard !isStopping else { return request.failed("the node is stopping") }
        dials.begin(request, on: self)
    }

    /// A name that was looked up for a dial.
    func resolved(_ dial: UInt32, _ result: Result<[SocketAddress], SocketAddress.Failure>) {
        dials.resolved(dial, result, on: self)
    }

    // MARK: Stopping

    /// Stops accepting and ends every connection that does not want to stay. The loop goes on.
    func sendAway() {
        if !isSendingAway {
            isSendingAway = true
            doorway.shut()
            entrance.giveUp()
        }
        // A second time for those that have come meanwhile, from another lane or dialled.
        for entry in entries { entry.connection?.drain() }
    }

    /// Sends everybody away, and lets the loop end when all have been told.
    func stop(drainMilliseconds: UInt64) {
        guard !isStopping else { return }
        isStopping = true
        stopDeadline = now + drainMilliseconds
        dials.giveUp()
        sendAway()
    }

    private func closeAll() {
        for entry in entries { entry.connection?.close(.shutdown) }
        finishPass()
    }
}

/// A connection on its way from one lane to another.
/// SAFETY: the sender forgets the connection before it posts the parcel; the receiver alone uses it afterwards.
private struct Parcel: @unchecked Sendable {
    let connection: Connection
    let protocolName: String

    init(_ connection: Connection, protocolName: String) {
        self.connection = connection
        self.protocolName = protocolName
    }
}
