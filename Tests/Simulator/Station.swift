import Core
import Synchronization

/// What runs on a station: the mesh, or what a test puts in its place.
protocol Brain: AnyObject {
    /// The station has started; its lane and router are there.
    func start(on station: Station)
    /// Somebody has connected.
    func accept(_ line: Line) -> Conversation
    /// A dial has succeeded.
    func connected(_ line: Line, tag: UInt64) -> Conversation
    /// A dial has failed.
    func dialFailed(tag: UInt64)
    /// Called after every pass.
    func passed()
}

/// A lane whose loop is a function.
final class StationLane: Lane {
    weak var station: Station?
}

/// A machine with one process: a lane, a router, what runs there, sockets, a disk and clocks.
final class Station {
    private final class Bell: Sendable { let isRung = Atomic<Bool>(false) }

    unowned let world: World
    let index: Int
    let name: String
    var cables: [Cable] = []
    /// What a socket's buffers hold, both kernels together.
    var socketBuffer = 256 << 10
    private(set) var lane: StationLane!
    private(set) var router: Router!
    private(set) var brain: (any Brain)?
    private var bell = Bell()
    private let limits: Limits
    var randomness: Randomness

    /// Counts the processes that have run here.
    private(set) var life = 0
    private(set) var startedAt: UInt64 = 0
    /// Whether the machine is on.
    private(set) var isPowered = true
    /// Whether the process runs.
    private(set) var isRunning = false
    /// Nothing is done until then.
    private(set) var pausedUntil: UInt64 = 0
    /// What the clock on the wall is wrong by, in milliseconds.
    var clockError: Int64 = 0
    /// Monotonic milliseconds when the world began: other machines have other ones.
    let clockStart: UInt64

    private(set) var lines: [Int: Line] = [:]
    private var lineOrder: [Int] = []
    private var accepted: [SocketEnd] = []
    private var dialled: [(Dial, SocketEnd?)] = []
    private var lastToken = 0
    private var dialCount = 0
    /// What members do in the next pass.
    private var chores: [() -> Void] = []
    var closing: [Int] = []
    var resumed: [Int] = []
    var yielding: [Int] = []
    var touched: [Int] = []
    private var choresAt: UInt64 = 0
    private var passNumber: UInt64 = 0
    private var plannedAt = UInt64.max
    private(set) var passes = 0
    /// Sockets that have ended here.
    var endCount = 0

    init(_ world: World, index: Int, limits: Limits) {
        self.world = world
        self.index = index
        self.limits = limits
        name = "n\(index)"
        randomness = world.randomness.split(3, index)
        clockStart = 1_000 + randomness.next() % 1_000_000
    }

    // MARK: Life

    var isListening: Bool { isPowered && isRunning }
    /// Milliseconds since 1970, as this machine has it.
    var wallClock: UInt64 {
        UInt64(max(0, Int64(1_800_000_000_000 + world.now / 1_000) + clockError))
    }

    /// Starts a process.
    func start(_ makeBrain: () -> any Brain) {
        precondition(!isRunning)
        life += 1
        startedAt = world.now
        isRunning = true
        isPowered = true
        let bell = Bell()
        self.bell = bell
        let lanes = Lanes(wakes: [{ bell.isRung.store(true, ordering: .relaxed) }], limits: limits)
        lane = StationLane(number: 0, lanes: lanes)
        lane.station = self
        lane.now = laneTime
        router = Router(limits: limits, hashKey: randomness.next())
        choresAt = lane.now + 1_000
        pausedUntil = 0
        let brain = makeBrain()
        self.brain = brain
        brain.start(on: self)
        wake()
    }

    /// The process ends at once. The kernel closes its sockets, unless the machine goes too.
    func crash(powerOff: Bool) {
        guard isRunning else {
            if powerOff { isPowered = false }
            return
        }
        isRunning = false
        isPowered = !powerOff
        for token in lineOrder {
            guard let line = lines[token] else { continue }
            if powerOff { line.socket.vanish() } else { line.socket.close() }
        }
        for end in accepted { if powerOff { end.vanish() } else { end.close() } }
        // What the process had is not told anything: it is gone.
        graveyard.append((lane, router, brain, lines))
        accepted = []
        dialled = []
        lines = [:]
        lineOrder = []
        chores = []
        closing = []
        resumed = []
        yielding = []
        touched = []
        brain = nil
        plannedAt = .max
        passNumber += 1
        if graveyard.count > 1 { graveyard.removeFirst() }
    }

    /// The last process: its objects refer to each other without counting, so they go together and not within a call.
    private var graveyard: [(Lane?, Router?, (any Brain)?, [Int: Line])] = []

    func pause(until time: UInt64) { pausedUntil = max(pausedUntil, time) }

    // MARK: What the process asks for

    var laneTime: UInt64 { clockStart + world.now / 1_000 }

    /// Connects to another station. The brain hears of it by the tag.
    func dial(to other: Int?, cable number: Int, tag: UInt64) {
        dialCount += 1
        let cable = other.flatMap { world.cable(from: index, to: $0, number: number) }
        let target = other.flatMap { $0 < world.stations.count ? world.stations[$0] : nil }
        _ = Dial(
            world, number: life << 32 | index << 20 | dialCount, from: self, to: target, cable: cable, tag: tag)
    }

    func dialEnded(_ dial: Dial, _ end: SocketEnd?) {
        guard isRunning, dial.life == life else {
            end?.close()
            return
        }
        dialled.append((dial, end))
        wake()
    }

    /// The kernel has accepted a connection.
    func arrived(_ end: SocketEnd) {
        accepted.append(end)
        wake()
    }

    /// Lets a member act within the next pass.
    func later(_ body: @escaping () -> Void) {
        guard isRunning else { return }
        chores.append(body)
        wake()
    }

    // MARK: The loop

    /// Something waits for the loop.
    func wake() { planPass(at: world.now + UInt64(1 + randomness.below(20))) }

    private func planPass(at time: UInt64) {
        guard isRunning else { return }
        let time = max(time, pausedUntil)
        guard time < plannedAt else { return }
        plannedAt = time
        passNumber += 1
        world.plan(.pass(self, passNumber), at: time)
    }

    /// Whether a planned pass is still the one to be made; a pause puts it off.
    func isExpected(_ number: UInt64) -> Bool {
        guard isRunning, number == passNumber else { return false }
        plannedAt = .max
        guard world.now >= pausedUntil else {
            planPass(at: pausedUntil)
            return false
        }
        return true
    }

    /// One pass, in the order of the reactor's loop.
    func pass() {
        passes += 1
        lane.now = laneTime
        acceptAll()
        for token in lineOrder { if let line = lines[token], line.isReady { line.ready() } }
        let duties = chores
        chores = []
        for duty in duties { duty() }
        if bell.isRung.exchange(false, ordering: .relaxed) { lane.readMail() }
        let again = yielding
        yielding = []
        for token in again { lines[token]?.resume() }
        for token in lineOrder { lines[token]?.tickIfDue() }
        if !lane.alarms.isEmpty { lane.ringAlarms() }
        if lane.now >= choresAt {
            choresAt = lane.now + 1_000
            lane.forgiveCostlyTurns()
            for chore in lane.chores { chore(lane) }
        }
        finishPass()
        brain?.passed()
        planNext()
    }

    private func acceptAll() {
        let (arrived, answered) = (accepted, dialled)
        accepted = []
        dialled = []
        for end in arrived where !end.isClosed {
            let line = add(end, isDialled: false)
            line.conversation = brain?.accept(line)
        }
        for (dial, end) in answered {
            if let end, !end.isClosed {
                let line = add(end, isDialled: true)
                line.conversation = brain?.connected(line, tag: dial.tag)
            } else {
                brain?.dialFailed(tag: dial.tag)
            }
        }
    }

    private func add(_ end: SocketEnd, isDialled: Bool) -> Line {
        lastToken += 1
        let line = Line(token: lastToken, station: self, socket: end, isDialled: isDialled)
        end.line = line
        lines[lastToken] = line
        lineOrder.append(lastToken)
        return line
    }

    private func finishPass() {
        lane.routeDeferred()
        while !resumed.isEmpty || !closing.isEmpty {
            let again = resumed
            resumed = []
            for token in again { lines[token]?.takeCarry() }
            let ended = closing
            closing = []
            for token in ended {
                guard let line = lines[token], let reason = line.closing else { continue }
                line.end(reason)
                lines[token] = nil
                lineOrder.removeAll { $0 == token }
                touched.removeAll { $0 == token }
            }
            lane.routeDeferred()
        }
        lane.doWork()
        lane.postMail()
        var index = 0
        while index < touched.count {
            lines[touched[index]]?.flush()
            index += 1
        }
        touched = []
    }

    /// The loop waits until there is something to do.
    private func planNext() {
        let isBusy =
            !closing.isEmpty || !resumed.isEmpty || !yielding.isEmpty || !chores.isEmpty || lane.hasWork
            || lane.hasPutOff || bell.isRung.load(ordering: .relaxed)
            || lineOrder.contains { lines[$0]?.isReady ?? false }
        if isBusy { return planPass(at: world.now + UInt64(5 + randomness.below(40))) }
        var next = UInt64.max
        for token in lineOrder { if let deadline = lines[token]?.deadline { next = min(next, deadline) } }
        if let alarm = lane.nextAlarm { next = min(next, alarm) }
        if !lane.chores.isEmpty { next = min(next, choresAt) }
        guard next != .max else { return }
        // A timer is never early: the first microsecond of its millisecond, or a little later.
        let due = next <= clockStart ? world.now : (next - clockStart) * 1_000
        planPass(at: max(due, world.now + 5) + UInt64(randomness.below(300)))
    }
}
