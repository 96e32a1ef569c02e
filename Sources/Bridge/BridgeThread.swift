/// The thread of a bridge: the broker's socket on one side, the bridge's lane on the other.
import CLinux
import CMosquitto
import Core
import Glibc
import Logging

/// Everything here is used on the bridge's own thread only.
///
/// What has come in is handed to the lane batch by batch. Until the node has settled a batch nothing more is read, and
/// if there are guaranteed events in it nothing is written either: their acknowledgements are among what would be.
final class BridgeThread {
    /// Handed to the thread.
    struct Task: Sendable {
        let wire: BridgeWire
        let definition: BridgeDefinition
        let map: BridgeMap
        let limits: Limits
        let settings: BridgeSettings
        let clientID: String
        let echoes: Echoes
    }

    private enum Phase {
        /// Waits for the next attempt.
        case waiting(until: UInt64)
        /// The broker has not answered yet.
        case connecting(since: UInt64)
        case connected(since: UInt64)
    }

    /// Events of a batch.
    private static let maxBatchEvents = 128
    /// Bytes of a batch, but for the last event.
    private static let maxBatchBytes = 1 << 20
    /// Packets read in one go, whatever they are.
    private static let maxReads = 1_024
    /// For the broker's answer to CONNECT, TLS included.
    private static let connectMilliseconds: UInt64 = 15_000
    /// A connection that lasted so long was a good one: the next failure is the first again.
    private static let goodMilliseconds: UInt64 = 30_000
    /// For how long the node may hold a batch.
    private static let holdMilliseconds: UInt64 = 30_000
    private static let pollMilliseconds: UInt64 = 1_000
    /// MQTT 5 §3.4.2.1.
    private static let quotaExceeded: Int32 = 0x97
    /// MQTT 5 §3.14.2.1.
    private static let receiveMaximumExceeded: Int32 = 0x93
    private static let pauseMilliseconds: UInt64 = 500
    /// For DISCONNECT to go out.
    private static let goodbyeMilliseconds: UInt64 = 500

    private let task: Task
    private let wire: BridgeWire
    private let logger: Logger
    private var client: RemoteClient
    /// Whether the next connection needs a client that has no events yet.
    private var isClientSpent = false
    /// Whether the broker had a session when it was connected to last.
    private var hasSession = false
    private var doubt: SessionDoubt
    /// Whether the next connection is there only to make the broker forget the session.
    private var isForgetting = false
    private var traffic: BridgeTraffic
    private var phase = Phase.waiting(until: 0)
    private var failures = 0
    private var stop: BridgeWire.Stop?
    /// Subscriptions that the broker has not answered, by number.
    private var subscriptions: [Int32: String] = [:]
    /// Events from the lane that are not with libmosquitto yet.
    private var departures = DepartureQueue()
    /// Events that libmosquitto has, by its number: guaranteed ones over connections, direct ones until written.
    private var guaranteed: [Int32: (departure: BridgeWire.Departure, qos: UInt8)] = [:]
    private var direct: [Int32: UInt64] = [:]
    /// Guaranteed events that the broker has shown to take at once, when that is fewer than it says.
    private var window = Int.max
    /// Set when the broker has refused an event for the moment: until then nothing is handed over, and not before the
    /// broker has answered for all that it has.
    private var pausedUntil: UInt64?
    private var settlements: [(sequence: UInt64, BridgeWire.Settlement)] = []
    private var reports: [BridgeWire.Report] = []
    private var lastBatch: UInt64 = 0
    private var settledBatch: UInt64 = 0
    private var heldSince: UInt64 = 0
    private var holdsWrites = false
    private var failure: String?

    /// The thread's life.
    static func run(_ task: Task) {
        // What OpenSSL does to a socket that is gone must not end the process; signals are the main thread's.
        var signals = sigset_t()
        sigfillset(&signals)
        pthread_sigmask(SIG_BLOCK, &signals, nil)
        defer { task.wire.noteEnd() }
        var failures = 0
        // Files of TLS that cannot be read may be there later.
        while true {
            do throws(RemoteClient.Failure) {
                return try BridgeThread(task).loop()
            } catch {
                failures += 1
                let next = noteFailure(error.text, failures, of: task, what: "bridge not connected")
                if task.wire.waitForStop(until: next) { return }
            }
        }
    }

    private init(_ task: Task) throws(RemoteClient.Failure) {
        self.task = task
        wire = task.wire
        logger = task.settings.logger
        doubt = SessionDoubt(patience: task.settings.sessionPatience)
        client = try RemoteClient(task.definition, clientID: task.clientID)
        traffic = BridgeTraffic(
            task.definition, map: task.map, limits: task.limits, place: task.settings.place,
            echoes: task.echoes)
        listen()
    }

    private func listen() {
        client.onArrival = { [unowned self] in
            traffic.take($0, now: BridgeWire.now)
            // A libmosquitto that reads on although it is told not to: rather no connection than all of the memory.
            let (count, bytes) = (traffic.events.count, traffic.eventBytes)
            let isTooMuch = count >= 4 * Self.maxBatchEvents || bytes >= 4 * Self.maxBatchBytes
            if isTooMuch, client.arrivals > 1 { client.abandon() }
        }
    }

    private var isHolding: Bool { settledBatch < lastBatch }

    // MARK: The loop

    private func loop() {
        while true {
            obey(wire.takeOrders())
            let now = BridgeWire.now
            if let stop, isIdle || now >= stop.at { return end(stop) }
            keepTime(now)
            publishDepartures(now)
            if case .waiting = phase {} else { exchange() }
            // The broker's acknowledgements have made room.
            if !departures.isEmpty { publishDepartures(now) }
            flush()
            wait(from: BridgeWire.now)
        }
    }

    /// Whether nothing is under way that a stop should wait for.
    private var isIdle: Bool {
        guard case .connected = phase else { return true }
        return !isHolding && guaranteed.isEmpty && direct.isEmpty && departures.isEmpty
    }

    private func obey(_ orders: BridgeWire.Orders) {
        departures.append(orders.departures)
        if orders.settledBatch > settledBatch {
            settledBatch = orders.settledBatch
            if !isHolding { holdsWrites = false }
        }
        if stop == nil { stop = orders.stop }
    }

    /// What time has brought: an attempt, or the end of patience.
    private func keepTime(_ now: UInt64) {
        switch phase {
        case .waiting(let until):
            if now >= until, stop == nil, !isHolding { dial() }
        case .connecting(let since):
            if now - since >= Self.connectMilliseconds { lose("the broker does not answer") }
        case .connected:
            guard isHolding, now - heldSince >= Self.holdMilliseconds else { return }
            wire.note { $0.counts.holdsGivenUp += 1 }
            lose("the node has not settled what came in for \(Self.holdMilliseconds / 1_000) s")
        }
    }

    private func dial() {
        wire.note {
            $0.state = .connecting
            $0.nextAttemptAt = 0
        }
        do throws(RemoteClient.Failure) {
            if isClientSpent {
                var definition = task.definition
                if isForgetting { definition.isSessionKept = false }
                let former = client
                client = try RemoteClient(definition, clientID: task.clientID)
                client.inherit(from: former)
                listen()
                isClientSpent = isForgetting
            }
            try client.connect(maxPacketBytes: task.limits.maxPacketBytes)
            phase = .connecting(since: BridgeWire.now)
        } catch { lose(error.text) }
    }

    /// Reads and writes what can be.
    private func exchange() {
        var problem: String?
        do throws(RemoteClient.Failure) {
            if !isHolding { try readSome() }
            // First what it means: what libmosquitto would write may be what the broker does not take.
            note(client.takeNotices())
            if failure == nil, client.socket >= 0, !holdsWrites {
                try client.write()
                if !isHolding { try client.tick() }
            }
        } catch { problem = error.text }
        note(client.takeNotices())
        if let reason = failure ?? problem {
            lose(reason)
        } else if client.socket < 0 {
            lose("the connection is gone")
        }
    }

    private func readSome() throws(RemoteClient.Failure) {
        // What was read before an error is the node's as well: a broker need not send it again.
        defer { handIn() }
        // A handshake goes on when it can write, too.
        if case .connecting = phase { try client.read() }
        var reads = 0
        while reads < Self.maxReads, client.socket >= 0, client.mayHaveMore || isReadable(client.socket),
            traffic.events.count < Self.maxBatchEvents, traffic.eventBytes < Self.maxBatchBytes
        {
            try client.read()
            reads += 1
        }
    }

    private func handIn() {
        let events = traffic.takeEvents()
        wire.note { traffic.takeCounts(into: &$0.counts) }
        guard !events.isEmpty else { return }
        lastBatch += 1
        heldSince = BridgeWire.now
        holdsWrites = holdsWrites || events.contains { $0.qos > 0 }
        reports.append(.arrived(events, batch: lastBatch))
    }

    private func isReadable(_ socket: Int32) -> Bool {
        var ready = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
        return poll(&ready, 1, 0) > 0
    }

    private func note(_ notices: [RemoteClient.Notice]) {
        for notice in notices {
            switch notice {
            case .answered(let code, let hasSession):
                guard case .connecting = phase else {
                    failure = "the broker answers CONNECT twice"
                    continue
                }
                if code == 0 { becomeConnected(hasSession) } else { failure = client.refusal(code) }
            case .published(let identifier, let code): published(identifier, code)
            case .subscribed(let identifier, let granted): subscribed(identifier, granted)
            case .ended(let code):
                let isNew = if case .connecting = phase { true } else { false }
                // Reasons of MQTT 5; those of libmosquitto itself are smaller.
                if code == Self.quotaExceeded || code == Self.receiveMaximumExceeded { doubt.refused() }
                if failure == nil { failure = "connection lost: \(client.ending(code, isNew: isNew))" }
            }
        }
    }

    private func wait(from now: UInt64) {
        var descriptors = [pollfd(fd: wire.descriptor, events: Int16(POLLIN), revents: 0)]
        var until = now + Self.pollMilliseconds
        if case .waiting(let next) = phase {
            // While the node holds a batch it is the settling that wakes the thread.
            until = isHolding || stop != nil ? now + Self.pollMilliseconds : next
        } else if client.socket >= 0 {
            var events: Int32 = isHolding ? 0 : POLLIN
            if !isHolding, client.mayHaveMore { until = now }
            if client.wantsWrite, !holdsWrites { events |= POLLOUT }
            // One that is looked at for nothing would wake the thread by its end again and again.
            let descriptor = events == 0 ? -1 : client.socket
            descriptors.append(pollfd(fd: descriptor, events: Int16(events), revents: 0))
        }
        if let pausedUntil, pausedUntil > now { until = min(until, pausedUntil) }
        // What it waited for may have come just now.
        if let stop { until = isIdle ? now : min(until, stop.at) }
        let milliseconds = until > now ? min(until - now, 60_000) : 0
        poll(&descriptors, nfds_t(descriptors.count), Int32(milliseconds))
    }

    private func flush() {
        if !settlements.isEmpty {
            reports.append(.settled(settlements))
            settlements = []
        }
        wire.report(reports)
        reports = []
    }

    // MARK: Connection

    private func becomeConnected(_ hasSession: Bool) {
        self.hasSession = hasSession && !isForgetting
        if !self.hasSession { wire.hasForeignSession = false }
        guard guaranteed.values.allSatisfy({ $0.qos <= client.maxQoS }) else {
            return startOver("the broker takes a lower quality of service than before")
        }
        if isForgetting {
            isForgetting = false
            failures = 0
            failure = "the broker has forgotten the session; another one begins"
            return
        }
        if let reason = unfitness() { return startOver(reason) }
        if wire.hasForeignSession, isSessionWorthless {
            isForgetting = true
            return startOver("the broker's session is that of a client that is gone; another one begins")
        }
        client.noteConnected(isSessionForeign: wire.hasForeignSession)
        phase = .connected(since: BridgeWire.now)
        failure = nil
        wire.note {
            $0.state = .connected
            $0.lastError = nil
            $0.hadSession = hasSession
            $0.counts.connects += 1
        }
        logger.notice(
            "bridge connected",
            metadata: [
                "bridge": "\(task.definition.name)", "broker": "\(task.definition.host):\(task.definition.port)",
                "version": "\(task.definition.version.rawValue)", "session": "\(hasSession ? "kept" : "new")",
            ])
        reports.append(.connected)
        if !hasSession { window = .max }
        // Also when the broker has the session: one that was killed may have forgotten the subscriptions in it.
        do throws(RemoteClient.Failure) { try subscribe() } catch { failure = error.text }
    }

    private var takesQoS2: Bool { task.map.entries.contains { $0.isIn && $0.qos == 2 } }

    /// Whether it is good for nothing but events of QoS 2 on their way out, which a new one would keep as well.
    private var isSessionWorthless: Bool {
        let entries = task.map.entries
        return !entries.contains(where: \.isIn) && entries.contains { $0.qos == 2 }
    }

    /// Whether the next connection needs another client: it has another session in any case, see `unfitness`.
    private var isClientWorthless: Bool { takesQoS2 && !task.definition.isSessionKept }

    /// Why this client is not the one for the session that the broker has.
    private func unfitness() -> String? {
        // libmosquitto would put an event that comes with a number of before behind the one that it remembers, and
        // hand that one out when the broker releases the new one.
        if client.wasConnected, !hasSession, takesQoS2 { return "the broker has another session" }
        if client.takesSmallerPackets, !guaranteed.isEmpty { return "the broker takes smaller packets than before" }
        return nil
    }

    /// The broker does not take what libmosquitto has: with a lower quality of service only, or not in this session.
    /// libmosquitto would send all of it again with each connection, and lose it for that: another client is given all
    /// of it anew.
    private func startOver(_ reason: String) {
        if hasSession, guaranteed.values.contains(where: { $0.qos == 2 }) { wire.hasForeignSession = true }
        for sent in guaranteed.values { departures.putBack(sent.departure) }
        guaranteed = [:]
        isClientSpent = true
        failure = reason
    }

    /// The broker takes nothing, and may not before it has another session.
    private func doubtSession() {
        guard hasSession, doubt.failed(BridgeWire.now) else { return }
        isForgetting = true
        window = .max
        wire.note { $0.counts.sessionsGivenUp += 1 }
        startOver("the broker takes no event in the session that it has kept")
    }

    private func subscribe() throws(RemoteClient.Failure) {
        subscriptions = [:]
        // Retained events once for each new subscription, and with RETAIN as they were published.
        var options = Int32(MQTT_SUB_OPT_RETAIN_AS_PUBLISHED.rawValue) | Int32(MQTT_SUB_OPT_SEND_RETAIN_NEW.rawValue)
        // Not allowed for shared subscriptions (MQTT 5 §3.8.3.1).
        if task.definition.group == nil { options |= Int32(MQTT_SUB_OPT_NO_LOCAL.rawValue) }
        for entry in task.map.entries where entry.isIn {
            let share = task.definition.group.map { "$share/\($0)/" } ?? ""
            let filter = share + entry.remote.text
            subscriptions[try client.subscribe(filter, qos: entry.qos, options: options)] = filter
        }
    }

    private func subscribed(_ identifier: Int32, _ granted: Int32) {
        guard let filter = subscriptions.removeValue(forKey: identifier), granted >= 128 else { return }
        let reason = "the broker refuses the subscription to '\(filter)'"
        wire.note { $0.lastError = reason }
        logger.error("bridge: \(reason)", metadata: ["bridge": "\(task.definition.name)", "code": "\(granted)"])
    }

    /// The connection is gone, or never was; plans the next one.
    private func lose(_ reason: String) {
        if case .connected(let since) = phase, BridgeWire.now - since >= Self.goodMilliseconds { failures = 0 }
        let wasConnected = if case .connected = phase { true } else { false }
        // While the node holds a batch nothing is read: the broker may have answered.
        if wasConnected, !isHolding, !guaranteed.isEmpty { doubtSession() }
        let reason = failure ?? reason
        if wasConnected, isClientWorthless { startOver(reason) }
        failures += 1
        failure = nil
        client.abandon()
        // Direct events that were not written are gone; guaranteed ones are sent again by libmosquitto.
        for sequence in direct.values.sorted() { settlements.append((sequence, .dropped(.disconnected))) }
        direct = [:]
        holdsWrites = false
        subscriptions = [:]
        let what: Logger.Message = wasConnected ? "bridge lost its broker" : "bridge not connected"
        let next = Self.noteFailure(reason, failures, of: task, what: stop == nil ? what : nil)
        phase = .waiting(until: next)
        if wasConnected { reports.append(.lost) }
    }

    private func end(_ stop: BridgeWire.Stop) {
        guard case .connected = phase else { return flush() }
        client.disconnect(forgetsSession: stop.forgetsSession)
        let until = BridgeWire.now + Self.goodbyeMilliseconds
        // A batch that has not been settled must not be acknowledged.
        while !holdsWrites, client.socket >= 0, client.wantsWrite, BridgeWire.now < until {
            do throws(RemoteClient.Failure) { try client.write() } catch { break }
            var ready = pollfd(fd: client.socket, events: Int16(POLLOUT), revents: 0)
            if client.socket >= 0, client.wantsWrite { poll(&ready, 1, 50) }
        }
        note(client.takeNotices())
        flush()
    }

    // MARK: Events out

    private func publishDepartures(_ now: UInt64) {
        guard case .connected = phase else {
            // Direct events do not wait for the broker.
            for departure in departures.takeDirect() {
                settlements.append((departure.sequence, .dropped(.disconnected)))
            }
            return
        }
        if let until = pausedUntil, now >= until, guaranteed.isEmpty { pausedUntil = nil }
        // No more than the broker takes at once: what libmosquitto has it sends again with the next connection,
        // all at once.
        let most = min(client.receiveMaximum, window, task.definition.maxInFlight)
        while let next = departures.next {
            let hasRoom = guaranteed.count < most && pausedUntil == nil
            // Direct events behind it wait as well, so none overtakes it.
            if next.qos > 0, !hasRoom { return }
            guard let departure = departures.popFirst() else { return }
            publish(departure, now)
        }
    }

    private func publish(_ departure: BridgeWire.Departure, _ now: UInt64) {
        switch traffic.publish(departure, with: client, now: now) {
        case .success(let (identifier, qos)):
            if qos > 0 { guaranteed[identifier] = (departure, qos) } else { direct[identifier] = departure.sequence }
        case .failure(let drop): settlements.append((departure.sequence, .dropped(drop.reason)))
        }
    }

    private func published(_ identifier: Int32, _ code: Int32) {
        if let sequence = direct.removeValue(forKey: identifier) { return settlements.append((sequence, .done)) }
        guard let (departure, _) = guaranteed.removeValue(forKey: identifier) else { return }
        guard code == Self.quotaExceeded else {
            doubt.acknowledged()
            return settlements.append((departure.sequence, code >= 128 ? .dropped(.refused) : .done))
        }
        doubt.refused()
        // It has no room now: a mosquitto that was killed counts events of before as under way for ever.
        window = max(1, min(window, guaranteed.count + 1) / 2)
        pausedUntil = BridgeWire.now + Self.pauseMilliseconds
        // Order: it goes before all that the broker has not been given, and those that are refused with it keep theirs,
        // since nothing more is handed over before all are answered. Those after it that were under way with it and
        // that the broker took have overtaken it: at most max_in_flight - 1.
        departures.putBack(departure)
        if guaranteed.isEmpty { doubtSession() }
    }
}
