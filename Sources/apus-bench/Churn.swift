internal import Glibc

/// A client that subscribes and unsubscribes a thousand times a second, on filters that never repeat.
final class Churn: SideTraffic {
    let descriptor: Int32
    private let frames: Frames
    private let rate: UInt64
    private var since: UInt64 = 0
    private var issuedSince: UInt64 = 0
    private var issued = 0
    private var answered = 0
    private var active = false
    private let packets = SmallPackets(room: 65_536)
    /// Subscriptions alive at a time.
    private static let alive = 200

    init(_ broker: Broker, rate: Int) throws {
        frames = broker.frames
        descriptor = try Handshake.open(broker, client: "churn")
        self.rate = UInt64(rate)
    }

    deinit { close(descriptor) }

    func resume() {
        since = now()
        issuedSince = 0
        active = true
    }

    func pause() {
        active = false
    }

    /// The n-th filter, in three shapes: exact, with wildcards inside, with a wildcard first.
    private static func filter(_ number: Int) -> String {
        switch number % 3 {
        case 0: "churn/\(number)/x"
        case 1: "churn/+/\(number)/#"
        default: "+/churn/\(number)"
        }
    }

    func tick() throws {
        guard active else { return }
        let due = (now() - since) * rate / 1_000_000_000
        while issuedSince < due {
            let packetID = UInt16(issued % 65535 + 1)
            let number = issued / 2
            // Subscribing and unsubscribing in turn; what is unsubscribed was subscribed a while ago.
            if issued % 2 == 0 || number < Self.alive {
                try Handshake.sendAll(descriptor, frames.subscribe([Self.filter(issued)], qos: 0, packetID: packetID))
            } else {
                let old = issued - 1 - 2 * Self.alive
                guard old >= 0 else { continue }
                try Handshake.sendAll(descriptor, frames.unsubscribe([Self.filter(old)], packetID: packetID))
            }
            issued += 1
            issuedSince += 1
        }
    }

    func readable() throws {
        let count = try packets.read(descriptor) { packet, size in
            guard frames.isAnswer(packet, size) else {
                throw Failure("the churning client got a packet of type \(packet[0] >> 4)")
            }
        }
        guard let count else { throw Failure("the broker closed the churning client") }
        answered += count
    }

    /// Subscribes and unsubscribes sent and not answered.
    var unanswered: Int { issued - answered }
}

/// Scenario churn: what a changing fleet costs everybody else.
extension Campaign {
    func churn(_ scenario: String) {
        guard let kind = rawBrokers.first(where: \.isNode) else { return }
        for name in ["a64", "e64"] {
            guard let plan = Plans.named(name) else { continue }
            let label = "\(scenario)-\(name)"
            attempt(label, kind) { try churn(plan, label, kind) }
            ratio(label, Table.cpuMetric, "churned", over: "plain", must: 1.1)
            ratio(label, "wall_per_delivery", "churned", over: "plain", must: nil)
        }
    }

    private func churn(_ plan: Plan, _ label: String, _ kind: BrokerKind) throws {
        let entry = try begin(plan, kind)
        defer { entry.stop() }
        let churn = try Churn(entry.session.broker, rate: 1000)
        try entry.session.attach(churn)
        for round in 0..<options.pairs {
            for active in [false, true] {
                if active { churn.resume() }
                _ = try entry.session.run(count: max(20, entry.count / 10))
                let window = try entry.session.run(count: entry.count)
                churn.pause()
                let broker = active ? "churned" : "plain"
                report.add(label, broker, Table.cpuMetric, "us", round: round, window.microsecondsPerDelivery)
                report.add(
                    label, broker, "wall_per_delivery", "us", round: round, 1e3 / window.thousandDeliveriesPerSecond)
                progress("\(label) round \(round + 1) \(broker): \(Text.number(window.microsecondsPerDelivery)) us")
            }
        }
        guard churn.unanswered < 100 else { throw Failure("\(churn.unanswered) subscriptions were not answered") }
    }
}
