internal import CLinux
internal import Glibc

/// Times in nanoseconds, read as percentiles.
struct Times {
    private var sorted: [UInt64]

    init(_ times: [UInt64]) {
        sorted = times.sorted()
    }

    var count: Int { sorted.count }

    /// The value that the given share of all does not exceed, in microseconds.
    func microseconds(_ share: Double) -> Double {
        guard !sorted.isEmpty else { return 0 }
        let index = min(sorted.count - 1, Int((Double(sorted.count) * share).rounded(.up)) - 1)
        return Double(sorted[max(0, index)]) / 1e3
    }
}

/// A timer that wakes the loop at a fixed rate.
final class Ticker {
    let fd: Int32

    init(nanoseconds: Int) throws {
        fd = timerfd_create(CLOCK_MONOTONIC, Int32(TFD_NONBLOCK) | Int32(TFD_CLOEXEC))
        guard fd >= 0 else { throw Failure.system("timerfd_create") }
        guard apus_timer_every(fd, UInt32(nanoseconds)) == 0 else { throw Failure.system("timerfd_settime") }
    }

    /// How often it has fired since the last call.
    func fired() -> Int {
        var count: UInt64 = 0
        return read(fd, &count, 8) == 8 ? Int(count) : 0
    }

    deinit {
        close(fd)
    }
}

/// Open-loop traffic: messages leave at their time whether or not earlier ones have arrived.
extension Session {
    /// Sends `rate` messages a second in all, in turn on every pair; the time from each send to its delivery.
    func pace(rate: Int, seconds: Double) throws -> (times: [UInt64], window: Window) {
        let ticker = try Ticker(nanoseconds: 1_000_000_000 / rate)
        let tickerToken = receiverCount + senderCount
        try poll.add(ticker.fd, Poll.input, token: tickerToken)
        let total = Int(Double(rate) * seconds)
        var times: [UInt64] = []
        times.reserveCapacity(total)
        var sent = 0
        let before = broker.processorTime()
        let ownBefore = Self.ownTime()
        let begin = now()
        while times.count < total {
            let count = poll.wait(milliseconds: 2000)
            guard count > 0 else { throw Failure("\(sent - times.count) of \(sent) events did not come") }
            var due = 0
            var isSideReady = false
            for index in 0..<count {
                let token = poll.token(index)
                if token == tickerToken {
                    due = min(ticker.fired(), total - sent)
                } else if token < receiverCount {
                    try receiveTimed(token, &times)
                } else if token == Self.sideToken {
                    isSideReady = true
                } else {
                    throw Failure("the broker closed a publisher or wrote to it")
                }
            }
            for _ in 0..<due {
                try sendStamped(sent % senderCount)
                sent += 1
            }
            // After what is measured, so that it is not felt there.
            if isSideReady { try side?.readable() }
            if sent == total, times.count < total, now() - begin > UInt64((seconds + 5) * 1e9) {
                throw Failure("\(total - times.count) of \(total) events did not come")
            }
        }
        let wall = now() - begin
        let own = Self.ownTime() - ownBefore
        pause(milliseconds: 3)
        let cost = broker.processorTime() - before
        let window = Window(
            deliveries: total, messages: total, brokerNanoseconds: cost, clientNanoseconds: own,
            wallNanoseconds: wall)
        return (times, window)
    }

    private func sendStamped(_ index: Int) throws {
        let block = senders[index].block
        let frame = block.bytes + senders[index].sent % block.frames * block.frameSize
        UnsafeMutableRawPointer(frame + block.payloadOffset + 8).storeBytes(of: now(), as: UInt64.self)
        let count =
            isWebSocket
            ? senders[index].writer.send(senders[index].fd, frame, block.frameSize)
            : Glibc.send(senders[index].fd, frame, block.frameSize, Int32(MSG_NOSIGNAL))
        guard count == block.frameSize else { throw Failure("the broker does not keep up with the fixed rate") }
        senders[index].sent += 1
        senders[index].target += 1
        receivers[index].goal += 1
    }

    private func receiveTimed(_ index: Int, _ times: inout [UInt64]) throws {
        let receiver = receivers + index
        let carried = receiver.pointee.carryCount
        if carried > 0 { memcpy(buffer, receiver.pointee.carry, carried) }
        let got = recv(receiver.pointee.fd, buffer + carried, Self.readSize, 0)
        guard got > 0 else { throw Failure("the broker closed the connection of subscriber \(index)") }
        let arrival = now()
        let count = carried + (isWebSocket ? receiver.pointee.reader.unwrap(buffer + carried, got) : got)
        guard count >= carried else { throw Failure("subscriber \(index) got what is no frame") }
        let block = senders[index].block
        var at = 0
        while count - at >= block.frameSize {
            let frame = UnsafeRawPointer(buffer + at)
            let stamp = (frame + block.payloadOffset).loadUnaligned(as: UInt64.self)
            guard frame.loadUnaligned(as: UInt32.self) & block.headerMask == block.header,
                stamp == receiver.pointee.source << 32 | UInt64(receiver.pointee.next)
            else { throw Failure("subscriber \(index): lost, doubled, reordered or foreign event") }
            let departure = (frame + block.payloadOffset + 8).loadUnaligned(as: UInt64.self)
            times.append(arrival - departure)
            receiver.pointee.next = (receiver.pointee.next + 1) % block.frames
            receiver.pointee.received += 1
            totalReceived += 1
            at += block.frameSize
        }
        receiver.pointee.carryCount = count - at
        memcpy(receiver.pointee.carry, buffer + at, count - at)
    }
}

/// Scenario lat.
extension Campaign {
    func latency(_ scenario: String) {
        let plan = Plans.latencyPairs(scenario)
        let rounds = options.quick ? 1 : 3
        let seconds = options.quick ? 2.0 : 5.0
        var how = options.start
        how.noDelay = true
        var sessions: [(kind: BrokerKind, session: Session)] = []
        for kind in options.brokers {
            attempt(scenario, kind) {
                let session = try Session(plan, try Broker.start(kind, how))
                if options.realTime { Self.makeRealTime(session.broker.process.pid) }
                _ = try session.pace(rate: 5000, seconds: 0.5)
                sessions.append((kind, session))
            }
        }
        if options.realTime { Self.makeRealTime(0) }
        for round in 0..<rounds {
            for (kind, session) in sessions where !report.hasFailed(scenario, kind.rawValue) {
                attempt(scenario, kind) { try latencyRound(scenario, kind, session, round, seconds) }
            }
        }
        if options.realTime { Self.makeOrdinary() }
        for (_, session) in sessions { session.broker.stop() }
        latencyFigures(scenario)
    }

    private func latencyRound(
        _ scenario: String, _ kind: BrokerKind, _ session: Session, _ round: Int, _ seconds: Double
    ) throws {
        let result = try session.pace(rate: 5000, seconds: seconds)
        let times = Times(result.times)
        let name = kind.rawValue
        report.add(scenario, name, "p50", "us", round: round, times.microseconds(0.5))
        report.add(scenario, name, "p99", "us", round: round, times.microseconds(0.99))
        report.add(scenario, name, "p99.9", "us", round: round, times.microseconds(0.999))
        report.add(scenario, name, Table.cpuMetric, "us", round: round, result.window.microsecondsPerDelivery)
        progress(
            "\(scenario) round \(round + 1) \(name): p50 \(Text.number(times.microseconds(0.5))) us, p99 "
                + "\(Text.number(times.microseconds(0.99))) us, p99.9 \(Text.number(times.microseconds(0.999))) us, "
                + "\(Text.number(result.window.microsecondsPerDelivery)) us CPU/message")
    }

    private func latencyFigures(_ scenario: String) {
        for metric in ["p50", "p99", "p99.9"] {
            for kind in options.brokers {
                guard let value = report.median(scenario, kind.rawValue, metric) else { continue }
                limits.append(
                    Limit(
                        scenario: scenario, broker: kind.rawValue, what: "\(metric) \(kind.rawValue)", unit: "us",
                        value: value))
            }
        }
        ratio(scenario, "p50", "apus", over: "relay", must: 1.2)
        ratio(scenario, "p99", "apus", over: "relay", must: 2)
        ratio(scenario, "p50", "apus", over: "mosquitto", must: 1)
        ratio(scenario, "p50", "apus5", over: "apus", must: 1.05)
        ratio(scenario, "p99", "apus5", over: "apus", must: nil)
        ratio(scenario, "p50", "apusws", over: "apus", must: nil)
        ratio(scenario, "p99", "apusws", over: "apus", must: nil)
    }

    /// Both ends and the broker above everything else on the machine; silently ordinary without the right to.
    private static func makeRealTime(_ pid: pid_t) {
        var parameters = sched_param()
        parameters.sched_priority = 10
        let threads = pid == 0 ? [] : Scratch.entries(of: "/proc/\(pid)/task").compactMap { pid_t($0) }
        for thread in pid == 0 ? [0] : threads where sched_setscheduler(thread, SCHED_FIFO, &parameters) != 0 {
            progress("no right to real-time priority; going on without")
        }
    }

    private static func makeOrdinary() {
        var parameters = sched_param()
        sched_setscheduler(0, SCHED_OTHER, &parameters)
    }
}
