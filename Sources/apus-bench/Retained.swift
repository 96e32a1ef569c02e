internal import Glibc

/// The retained events of scenario retained: `site/<n>/<device>/temp`, and for device 0 of each site `…/flow`.
struct RetainedFleet {
    let sites: Int
    let devices = 1_000

    var count: Int { sites * devices }

    /// Publishes them all on a connection of its own and returns when the broker has taken them.
    func load(into broker: Broker) throws {
        let fd = try Handshake.open(broker, client: "retained-load")
        defer { close(fd) }
        for site in 0..<sites {
            var bytes: [UInt8] = []
            for device in 0..<devices {
                let topic = "site/\(site)/\(device)/\(device == 0 ? "flow" : "temp")"
                let payload = Array("{\"value\":\(1_000 + device)}".utf8)
                bytes += broker.frames.publish(topic, payload: payload, retain: true)
            }
            try Handshake.sendAll(fd, bytes)
        }
        // Packets of one connection are taken in order, so the answer comes after the last event.
        try Handshake.sendAll(fd, Frames.pingRequest)
        guard try Handshake.packet(fd) == [0xd0, 0] else { throw Failure("no answer to a ping after loading") }
    }

    /// The filters of the n-th look-up, and how many retained events they find.
    func lookUp(_ number: Int) -> (filters: [String], expected: Int) {
        switch number % 4 {
        // Every site, one device.
        case 0: (["site/+/\(1 + number % (devices - 1))/temp"], sites)
        // One site, every device but the first.
        case 1: (["+/\(number % sites)/+/temp"], devices - 1)
        // Nothing of its own: all sites are looked at. Its end shows by that of the other filter.
        case 2: (["+/+/temp", "site/\(number % sites)/+/temp"], devices - 1)
        // Every topic there is has to be looked at.
        default: (["+/+/+/flow"], sites)
        }
    }
}

/// A client that looks up retained events: it subscribes, takes what is found, ends the subscription and asks for the
/// next. One look-up is under way at a time; each must find exactly what there is.
final class LookUps: SideTraffic {
    let descriptor: Int32
    private let frames: Frames
    private let fleet: RetainedFleet
    private(set) var finished = 0
    private var isActive = false
    /// Nanoseconds from the beginning of one look-up to that of the next, if it has ended by then; 0 for at once.
    private var interval: UInt64 = 0
    private var nextAt: UInt64 = 0
    private var expected = 0
    private var found = 0
    private var answersDue = 0
    private var filters: [String] = []
    /// Little at a time, so that the measured traffic on the same thread does not wait for it.
    private let packets = SmallPackets(room: 8_192)

    init(_ broker: Broker, _ fleet: RetainedFleet) throws {
        descriptor = try Handshake.open(broker, client: "retained-look")
        frames = broker.frames
        self.fleet = fleet
    }

    deinit { close(descriptor) }

    func resume(every interval: UInt64) throws {
        isActive = true
        self.interval = interval
        try begin()
    }

    /// Begins no more look-ups and waits for the end of the one under way.
    func pause() throws {
        isActive = false
        let begin = now()
        while isUnderWay {
            var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            guard Glibc.poll(&entry, 1, 10_000) > 0, now() - begin < 60_000_000_000 else {
                throw Failure("a look-up of \(filters) found \(found) of \(expected) events and no more")
            }
            try readable()
        }
    }

    func tick() throws { try beginIfDue() }

    private func beginIfDue() throws {
        if isActive, !isUnderWay, now() >= nextAt { try begin() }
    }

    private var isUnderWay: Bool { found < expected || answersDue > 0 }

    private func begin() throws {
        nextAt = now() + interval
        var bytes: [UInt8] = []
        answersDue = 1
        if !filters.isEmpty {
            bytes += frames.unsubscribe(filters, packetID: 1)
            answersDue += 1
        }
        (filters, expected) = fleet.lookUp(finished)
        found = 0
        bytes += frames.subscribe(filters, qos: 0, packetID: 2)
        try Handshake.sendAll(descriptor, bytes)
    }

    func readable() throws {
        guard let count = try packets.read(descriptor, take) else {
            throw Failure("the broker closed the client that looks up retained events")
        }
        guard !isUnderWay, count > 0 else { return }
        finished += 1
        try beginIfDue()
    }

    private func take(_ packet: UnsafeMutablePointer<UInt8>, _ size: Int) throws {
        switch packet[0] {
        case 0x31 where size < 130: found += 1
        case 0x90 where packet[size - 1] == 0, 0xb0: answersDue -= 1
        default: throw Failure("the client that looks up retained events got a packet of type \(packet[0] >> 4)")
        }
        guard found <= expected, answersDue >= 0 else {
            throw Failure("a look-up of \(filters) found more than the \(expected) events there are")
        }
    }
}

/// Scenario retained: what look-ups in a million retained events cost those who have nothing to do with them.
extension Campaign {
    func retained(_ scenario: String) {
        for kind in rawBrokers where kind != .relay {
            attempt(scenario, kind) { try retained(scenario, kind) }
        }
    }

    private func retained(_ scenario: String, _ kind: BrokerKind) throws {
        let name = kind.rawValue
        let fleet = RetainedFleet(sites: options.quick ? 100 : 1_000)
        var how = options.start
        how.noDelay = true
        let broker = try Broker.start(kind, how)
        defer { broker.stop() }
        pause(milliseconds: 200)
        let before = broker.memory("Rss")
        let begin = now()
        try fleet.load(into: broker)
        let seconds = Double(now() - begin) / 1e9
        figure(scenario, name, "loading", "us each", seconds * 1e6 / Double(fleet.count))
        let bytes = Double(broker.memory("Rss") - before) * 1024 / Double(fleet.count)
        figure(scenario, name, "rss/retained event", "bytes", bytes)
        let session = try Session(Plans.latencyPair(scenario), broker)
        let lookUps = try LookUps(broker, fleet)
        try session.attach(lookUps)
        try lookUpRounds(scenario, kind, session, lookUps)
        for share in ["p50", "p99"] {
            let calm = report.median(scenario, name, "\(share) without") ?? 0
            for how in ["look-ups", "look-ups all the time"] {
                let busy = report.median(scenario, name, "\(share) with \(how)") ?? 0
                let must = kind.isNode && share == "p99" && how == "look-ups" ? 1.2 : nil
                figure(scenario, name, "\(share) with/without \(how)", "x", busy / max(calm, 0.001), must: must)
            }
        }
    }

    private func lookUpRounds(
        _ scenario: String, _ kind: BrokerKind, _ session: Session, _ lookUps: LookUps
    ) throws {
        let rate = 5_000
        _ = try session.pace(rate: rate, seconds: 0.5)
        var lookUpSeconds = 0.0
        var allTheTime = 0
        for round in 0..<(options.quick ? 1 : 3) {
            // One every half a second, and one after another.
            for (how, interval) in [
                ("without", nil), ("with look-ups", 500_000_000), ("with look-ups all the time", 0),
            ] as [(String, UInt64?)] {
                if let interval { try lookUps.resume(every: interval) }
                let before = lookUps.finished
                let result = try session.pace(rate: rate, seconds: options.quick ? 2 : 5)
                if interval == 0 { allTheTime += lookUps.finished - before }
                if interval != nil { try lookUps.pause() }
                let times = Times(result.times)
                for (share, part) in [("p50", 0.5), ("p99", 0.99)] {
                    let value = times.microseconds(part)
                    report.add(scenario, kind.rawValue, "\(share) \(how)", "us", round: round, value)
                    progress(
                        "\(scenario) round \(round + 1) \(kind.rawValue) \(share) \(how): \(Text.number(value)) us")
                }
                if interval == 0 { lookUpSeconds += Double(result.window.wallNanoseconds) / 1e9 }
            }
        }
        figure(scenario, kind.rawValue, "look-ups", "a second", Double(allTheTime) / lookUpSeconds)
        for metric in ["p50 without", "p50 with look-ups", "p99 without", "p99 with look-ups"] {
            guard let value = report.median(scenario, kind.rawValue, metric) else { continue }
            limits.append(
                Limit(
                    scenario: scenario, broker: kind.rawValue, what: "\(metric) \(kind.rawValue)", unit: "us",
                    value: value))
        }
    }
}
