internal import CLinux
internal import Glibc

/// Scenario slow: somebody who never reads must not be felt by others, and must not eat the memory.
final class SlowReader {
    private let broker: Broker
    private let lazy: Int32
    private let flooder: Int32
    private let pinger: Int32
    private let listener: Int32
    private let flood: Block
    private let ping: [UInt8]
    private var floodOffset = 0
    private var answer = [UInt8](repeating: 0, count: 4096)

    init(_ broker: Broker) throws {
        self.broker = broker
        lazy = try Handshake.open(broker, client: "slow-reader")
        var room: Int32 = 65536
        setsockopt(lazy, SOL_SOCKET, SO_RCVBUF, &room, socklen_t(MemoryLayout<Int32>.size))
        try Handshake.subscribe(lazy, ["slow/flood"], qos: 0, broker.frames)
        flooder = try Handshake.open(broker, client: "slow-flood")
        listener = try Handshake.open(broker, client: "slow-listen")
        try Handshake.subscribe(listener, ["slow/ping"], qos: 0, broker.frames)
        pinger = try Handshake.open(broker, client: "slow-ping")
        flood = Block(
            broker.frames, topics: Array(repeating: "slow/flood", count: 32), payload: 1024, source: 0, qos: 0)
        var filler = Seeded(9)
        ping = broker.frames.publish(
            "slow/ping", payload: Stamp.payload(sequence: 1, source: 1, size: 64, filler: &filler))
    }

    deinit {
        for fd in [lazy, flooder, pinger, listener] { close(fd) }
        flood.bytes.deallocate()
    }

    /// Round trips, one at a time and about one a millisecond, while `bytes` are published over `seconds` at the
    /// one who does not read.
    func roundTrips(seconds: Double, flooding bytes: Int) throws -> [UInt64] {
        var times: [UInt64] = []
        var flooded = 0
        let begin = now()
        var nextPing = begin
        while true {
            let elapsed = Double(now() - begin) / 1e9
            if elapsed >= seconds && flooded >= bytes { return times }
            if elapsed > seconds + 30 { throw Failure("the flood of \(bytes) bytes is stuck at \(flooded)") }
            let due = min(bytes, Int(Double(bytes) * elapsed / seconds))
            if flooded < due { flooded += try floodSome() }
            if now() >= nextPing {
                times.append(try roundTrip())
                nextPing = max(nextPing + 1_000_000, now())
            } else if flooded >= due {
                usleep(200)
            }
        }
    }

    private func floodSome() throws -> Int {
        let size = flood.frames * flood.frameSize
        let sent = Glibc.send(flooder, flood.bytes + floodOffset, size - floodOffset, Int32(MSG_NOSIGNAL))
        if sent < 0 {
            guard errno == EAGAIN || errno == EINTR else { throw Failure.system("the flooding client was cut") }
            return 0
        }
        floodOffset = (floodOffset + sent) % size
        return sent
    }

    private func roundTrip() throws -> UInt64 {
        let begin = now()
        try Handshake.sendAll(pinger, ping)
        var got = 0
        while got < ping.count {
            var entry = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
            guard Glibc.poll(&entry, 1, 10_000) > 0 else { throw Failure("a round trip took more than 10 s") }
            let count = answer.withUnsafeMutableBytes { raw in
                raw.baseAddress.map { recv(listener, $0 + got, raw.count - got, 0) } ?? 0
            }
            guard count > 0 else { throw Failure("the listening client was cut") }
            got += count
        }
        guard answer[..<got].elementsEqual(ping) else { throw Failure("a wrong event came back") }
        return now() - begin
    }
}

extension Campaign {
    func slow(_ scenario: String) {
        let bytes = options.quick ? 20_000_000 : 60_000_000
        let seconds = options.quick ? 1.5 : 4.0
        var how = options.start
        how.noDelay = true
        for kind in rawBrokers where kind != .relay {
            attempt(scenario, kind) {
                let broker = try Broker.start(kind, how)
                defer { broker.stop() }
                let slow = try SlowReader(broker)
                _ = try slow.roundTrips(seconds: 0.3, flooding: 0)
                let memory = broker.memory("Rss")
                let calm = Times(try slow.roundTrips(seconds: seconds, flooding: 0)).microseconds(0.99)
                let flooded = Times(try slow.roundTrips(seconds: seconds, flooding: bytes)).microseconds(0.99)
                pause(milliseconds: 200)
                let name = kind.rawValue
                let growth = Double(broker.memory("Rss") - memory)
                figure(scenario, name, "p99 before", "us", calm)
                figure(scenario, name, "p99 during", "us", flooded)
                let isNode = kind.isNode
                figure(scenario, name, "p99 during/before", "x", flooded / max(calm, 0.001), must: isNode ? 1.2 : nil)
                // The bound is the node's: max_output, and what a send buffer's last refusal left over.
                figure(scenario, name, "memory growth", "KB", growth, must: isNode ? 4_096 : nil)
            }
        }
    }
}
