/// The network between stations. It behaves as TCP does: bytes arrive in order, late or never, and a connection that
/// is cut loses what was on its way.

/// A path between two stations, with what can be wrong with it. Every connection between them takes it.
final class Cable {
    unowned let world: World
    let ends: [Int]
    /// Tells several cables between the same stations apart.
    let number: Int
    /// Microseconds, one way.
    var delay: UInt64
    /// At most this many more, drawn for each piece.
    var jitter: UInt64
    /// Bytes a second; 0 for as many as there are.
    var rate: Int {
        didSet {
            if rate != oldValue { for connection in connections { connection.wires.forEach { $0.rateChanged() } } }
        }
    }
    /// By the side that sends: nothing gets through, and nobody is told.
    private(set) var isSilent = [false, false]
    private(set) var connections: [Connection] = []
    var randomness: Randomness
    /// Whether both ends dial.
    let dialsBothWays: Bool

    init(_ world: World, _ a: Int, _ b: Int, number: Int, delay: UInt64, jitter: UInt64, rate: Int) {
        self.world = world
        ends = [a, b]
        self.number = number
        self.delay = delay
        self.jitter = jitter
        self.rate = rate
        randomness = world.randomness.split(2, a << 32 | b << 8 | number)
        dialsBothWays = randomness.chance(0.3)
    }

    func connects(_ a: Int, _ b: Int) -> Bool { (ends[0] == a && ends[1] == b) || (ends[0] == b && ends[1] == a) }
    func side(of station: Int) -> Int { ends[0] == station ? 0 : 1 }

    /// Time that a piece takes from now on.
    func latency() -> UInt64 { delay + (jitter == 0 ? 0 : UInt64(randomness.below(Int(jitter) + 1))) }

    func add(_ connection: Connection) { connections.append(connection) }
    func remove(_ connection: Connection) { connections.removeAll { $0 === connection } }

    /// Silence in one direction begins or ends.
    func setSilent(from side: Int, _ isSilent: Bool) {
        guard self.isSilent[side] != isSilent else { return }
        self.isSilent[side] = isSilent
        for connection in connections {
            if isSilent { connection.wires[side].stall() } else { connection.wires[side].goOn() }
        }
    }

    /// Something on the way resets all connections.
    func reset() {
        for connection in connections {
            for end in connection.ends { end.reset() }
        }
    }
}

/// A TCP connection.
final class Connection {
    let number: Int
    let cable: Cable
    private(set) var ends: [SocketEnd] = []
    private(set) var wires: [Wire] = []

    init(_ cable: Cable, number: Int, stations: [Station], buffer: Int) {
        self.number = number
        self.cable = cable
        ends = [0, 1].map { SocketEnd(self, side: $0, station: stations[$0]) }
        wires = [0, 1].map { Wire(self, side: $0, capacity: buffer) }
        cable.add(self)
        cable.world.connections.append(self)
    }
}

/// One direction of a connection: what the sender's kernel, the network and the receiver's kernel hold.
final class Wire {
    private struct Piece {
        var bytes: [UInt8]
        /// When it is there; .max while it does not get through.
        var at: UInt64
    }

    unowned let connection: Connection
    let side: Int
    private let capacity: Int
    private var pieces: [Piece] = []
    private var first = 0
    /// Bytes that the sender has given away and the receiver has not read.
    private(set) var count = 0
    private var lastAt: UInt64 = 0
    private var busyUntil: UInt64 = 0
    /// The sender has said all: when the receiver learns it; nil while it has not.
    private var endAt: UInt64?
    /// Retransmissions take this long at least (RFC 6298's minimum as Linux has it), in microseconds.
    private static let retransmission: UInt64 = 200_000

    init(_ connection: Connection, side: Int, capacity: Int) {
        self.connection = connection
        self.side = side
        self.capacity = capacity
    }

    private var world: World { connection.cable.world }
    private var receiver: SocketEnd { connection.ends[1 - side] }
    private var isStalled: Bool { connection.cable.isSilent[side] }

    /// Bytes that fit.
    var room: Int { max(0, capacity - count) }

    func send(_ bytes: UnsafeRawBufferPointer) {
        world.note(6, connection.number * 2 + side, bytes)
        count += bytes.count
        pieces.append(Piece(bytes: Array(bytes), at: .max))
        if !isStalled { depart(pieces.count - 1, after: 0) }
    }

    private func depart(_ index: Int, after wait: UInt64) {
        let cable = connection.cable
        if cable.rate > 0 {
            busyUntil = max(busyUntil, world.now) + UInt64(pieces[index].bytes.count * 1_000_000 / cable.rate)
        }
        let at = max(max(world.now, busyUntil) + wait + cable.latency(), lastAt)
        pieces[index].at = at
        lastAt = at
        world.plan(.arrival(self), at: at)
    }

    /// No byte follows.
    func end() {
        guard endAt == nil else { return }
        endAt = .max
        if !isStalled { departEnd(after: 0) }
    }

    private func departEnd(after wait: UInt64) {
        let at = max(max(world.now, busyUntil) + wait + connection.cable.latency(), lastAt)
        endAt = at
        lastAt = at
        world.plan(.arrival(self), at: at)
    }

    /// What is on its way is lost; the sender will repeat it once it can.
    func stall() {
        for index in first..<pieces.count { pieces[index].at = .max }
        if endAt != nil { endAt = .max }
    }

    func goOn() {
        let wait = Self.retransmission + UInt64(connection.cable.randomness.below(800_000))
        lastAt = world.now
        for index in first..<pieces.count where pieces[index].at == .max { depart(index, after: wait) }
        if endAt == .max { departEnd(after: wait) }
    }

    /// What has not arrived goes on at the new rate.
    func rateChanged() {
        guard !isStalled else { return }
        busyUntil = world.now
        lastAt = world.now
        for index in first..<pieces.count where pieces[index].at > world.now && pieces[index].at != .max {
            depart(index, after: 0)
        }
        if let endAt, endAt != .max, endAt > world.now { departEnd(after: 0) }
    }

    /// Takes what is there over to the receiver.
    func arrive() {
        let world = world
        while first < pieces.count, pieces[first].at <= world.now {
            if receiver.isClosed {
                // Nobody is there any more: the sender is told, if it can be.
                count -= pieces[first].bytes.count
                receiver.refuse()
            } else {
                receiver.take(pieces[first].bytes)
            }
            pieces[first].bytes = []
            first += 1
        }
        if first > 64 || first == pieces.count {
            pieces.removeFirst(first)
            first = 0
        }
        if pieces.isEmpty, let endAt, endAt <= world.now { receiver.takeEnd() }
    }

    /// The receiver has read bytes: there is room for others.
    func hasRead(_ bytes: Int) {
        let wasFull = room == 0
        count -= bytes
        if wasFull, room > 0 { connection.ends[side].becomeWritable() }
    }

    /// The connection is over for the sender's side.
    func drop() {
        pieces = []
        first = 0
        count = 0
        endAt = nil
    }
}

/// One side of a connection, as a process sees it.
final class SocketEnd {
    unowned let connection: Connection
    let side: Int
    unowned let station: Station
    /// The station's life that it belongs to.
    private(set) var life: Int
    /// What drives it; nil until it is accepted.
    var line: Line?
    private(set) var unread: [UInt8] = []
    private(set) var readFrom = 0
    private(set) var hasEnded = false
    private(set) var isReset = false
    /// This process has closed it, or has gone.
    private(set) var isClosed = false
    private(set) var isWritable = false
    private var hasRefused = false
    /// What an oracle keeps for it.
    var watch: AnyObject?

    init(_ connection: Connection, side: Int, station: Station) {
        self.connection = connection
        self.side = side
        self.station = station
        life = station.life
    }

    private var world: World { connection.cable.world }
    private var outgoing: Wire { connection.wires[side] }
    private var incoming: Wire { connection.wires[1 - side] }
    var peer: SocketEnd { connection.ends[1 - side] }

    // MARK: The network's side

    func take(_ bytes: [UInt8]) {
        guard !isClosed, !isReset else { return }
        if readFrom == unread.count {
            unread = bytes
            readFrom = 0
        } else {
            unread += bytes
        }
        station.wake()
    }

    func takeEnd() {
        guard !isClosed, !hasEnded else { return }
        hasEnded = true
        station.wake()
    }

    func becomeWritable() {
        guard !isClosed else { return }
        isWritable = true
        station.wake()
    }

    /// The connection is cut: the process learns it the next time it looks.
    func reset() {
        guard !isClosed, !isReset else { return }
        isReset = true
        outgoing.drop()
        world.onUnrest()
        station.wake()
    }

    /// Bytes have come for a socket that is no more: the other side is told so, if that way is open.
    func refuse() {
        guard !hasRefused, !connection.cable.isSilent[side], station.isPowered else { return }
        hasRefused = true
        let other = peer
        world.plan(at: world.now + connection.cable.latency()) { other.reset() }
    }

    // MARK: The process's side

    var isReadable: Bool { readFrom < unread.count || hasEnded || isReset }
    var unreadCount: Int { unread.count - readFrom }

    /// Reads at most `limit` bytes.
    /// - Returns: nil when the connection has been reset; an empty array for its end, or when there is nothing.
    func read(_ limit: Int) -> [UInt8]? {
        guard !isReset else { return nil }
        let count = min(limit, unread.count - readFrom)
        guard count > 0 else { return [] }
        let bytes = count == unread.count ? unread : Array(unread[readFrom..<readFrom + count])
        readFrom += count
        if readFrom == unread.count {
            unread = []
            readFrom = 0
        }
        incoming.hasRead(count)
        return bytes
    }

    /// - Returns: bytes taken; nil when the connection has been reset.
    func write(_ bytes: UnsafeRawBufferPointer) -> Int? {
        guard !isReset else { return nil }
        isWritable = false
        let count = min(bytes.count, outgoing.room)
        guard count > 0 else { return 0 }
        let part = UnsafeRawBufferPointer(rebasing: bytes[..<count])
        world.onSent(self, part)
        outgoing.send(part)
        return count
    }

    /// Nothing more will be written.
    func shutWriting() { outgoing.end() }

    /// The process closes the socket, or ends. What has been written still gets to the other side.
    func close() {
        guard !isClosed else { return }
        isClosed = true
        station.endCount += 1
        line = nil
        world.onUnrest()
        if unreadCount > 0, !isReset { refuse() } else { outgoing.end() }
        unread = []
        if peer.isClosed { connection.cable.remove(connection) }
    }

    /// This side alone learns that the connection is over; what the other sends meets a reset.
    func vanishOrReset() {
        guard !isClosed, !isReset else { return }
        isReset = true
        outgoing.drop()
        world.onUnrest()
        station.wake()
    }

    /// The machine has lost its power: nobody says anything.
    func vanish() {
        guard !isClosed else { return }
        isClosed = true
        station.endCount += 1
        line = nil
        outgoing.drop()
        unread = []
        if peer.isClosed { connection.cable.remove(connection) }
    }
}

/// An attempt to connect.
final class Dial {
    enum Step { case arrives, answered, timedOut }

    unowned let world: World
    let number: Int
    let from: Station
    let life: Int
    let to: Station?
    let cable: Cable?
    /// What the dialler knows it by.
    let tag: UInt64
    private var connection: Connection?
    private var isOver = false
    private var isRefused = false

    /// Microseconds until a dial is given up.
    static let timeout: UInt64 = 3_000_000

    init(_ world: World, number: Int, from: Station, to: Station?, cable: Cable?, tag: UInt64) {
        self.world = world
        self.number = number
        self.from = from
        life = from.life
        self.to = to
        self.cable = cable
        self.tag = tag
        world.plan(.dial(self, .timedOut), at: world.now + Self.timeout)
        if let cable { world.plan(.dial(self, .arrives), at: world.now + cable.latency()) }
    }

    func take(_ step: Step) {
        guard !isOver else { return }
        switch step {
        case .arrives: arrive()
        case .answered:
            isOver = true
            if isRefused { return from.dialEnded(self, nil) }
            guard let connection, let cable else { return }
            from.dialEnded(self, connection.ends[cable.side(of: from.index)])
        case .timedOut:
            isOver = true
            // A connection that the other side has made meanwhile is half-open there.
            if let connection, let cable { connection.ends[cable.side(of: from.index)].close() }
            from.dialEnded(self, nil)
        }
    }

    private func arrive() {
        guard let cable, let to else { return }
        let side = cable.side(of: from.index)
        guard !cable.isSilent[side], to.isPowered else { return }
        guard from.life == life else { return isOver = true }
        if to.isListening {
            let ends = side == 0 ? [from, to] : [to, from]
            connection = Connection(cable, number: number, stations: ends, buffer: to.socketBuffer)
            // The kernel accepts at once, the process when it next looks.
            if let connection { to.arrived(connection.ends[1 - side]) }
        } else {
            isRefused = true
        }
        if !cable.isSilent[1 - side] { world.plan(.dial(self, .answered), at: world.now + cable.latency()) }
    }
}
