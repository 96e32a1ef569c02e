import Synchronization

@testable import Core

/// Lanes without threads, one router, and clients that publish: what the router's tests play on.
final class Field {
    let lanes: Lanes
    let all: [Lane]
    let router: Router
    let wakes: [Wakes]

    final class Wakes: Sendable { let count = Atomic<Int>(0) }

    init(lanes count: Int = 1, limits: Limits = Limits(), rules: AccessRules = .none, quotas: Quotas? = nil) {
        let wakes = (0..<count).map { _ in Wakes() }
        let lanes = Lanes(wakes: wakes.map { wake in { wake.count.add(1, ordering: .relaxed) } }, limits: limits)
        self.wakes = wakes
        self.lanes = lanes
        all = (0..<count).map { Lane(number: $0, lanes: lanes) }
        router = Router(limits: limits, accessRules: rules, quotas: quotas, hashKey: 4711)
    }

    func principal(
        _ user: String? = nil, groups: [String] = [], clientID: String = "client", link: Link? = nil
    ) -> Principal {
        Principal(identity: Identity(user: user, groups: groups), clientID: clientID, router: router, link: link)
    }

    func recorder(on lane: Int = 0, takesPacked: Bool = false) -> Recorder {
        let port = Recorder(takesPacked: takesPacked)
        router.register(port, on: all[lane])
        return port
    }

    @discardableResult
    func subscribe(
        _ port: Recorder, _ filter: String, _ options: DeliveryOptions = .qos(0), identifier: UInt32 = 0,
        weight: UInt16? = nil, grammar: TopicFilter.Grammar = .mqtt, as principal: Principal? = nil,
        in router: Router? = nil
    ) throws -> Router.SubscribeOutcome {
        let subscription = Subscription(
            filter: try TopicFilter(filter, grammar: grammar), options: options, identifier: identifier, weight: weight)
        return (router ?? self.router).subscribe(
            port, subscription, as: principal ?? self.principal(), on: all[port.address.lane])
    }

    func unsubscribe(_ port: Recorder, _ filter: String, grammar: TopicFilter.Grammar = .mqtt) throws -> Bool {
        router.unsubscribe(port, try TopicFilter(filter, grammar: grammar))
    }

    /// Publishes `payloads` to `topic` as one run of one turn.
    @discardableResult
    func publish(
        _ topic: String, _ payloads: [String] = [""], as principal: Principal? = nil, on lane: Int = 0, qos: UInt8 = 0,
        isRetained: Bool = false, layout: WireLayout = .none, properties: String = "",
        publisher: PortAddress = .none, isPatient: Bool = false, packing: EventPacking? = nil
    ) -> PublishOutcome {
        let lane = all[lane]
        let turn = lane.turn
        let place = UnsafeMutableRawPointer.allocate(byteCount: 1 << 17, alignment: 16)
        defer { place.deallocate() }
        var end = place
        func put(_ text: String) -> (start: UnsafeMutableRawPointer, count: Int) {
            let start = end
            let bytes = Array(text.utf8)
            bytes.withUnsafeBytes { if let base = $0.baseAddress { start.copyMemory(from: base, byteCount: $0.count) } }
            end += bytes.count
            return (start, bytes.count)
        }
        let name = put(topic)
        let extra = put(properties)
        let wire = end
        for (index, payload) in payloads.enumerated() {
            // Each event's wire form is its payload between brackets, so that it differs from the payload alone.
            if layout != .none { _ = put("[") }
            let body = put(payload)
            if layout != .none { _ = put("]") }
            turn.events[index] = EventView(
                payload: body.start, payloadLength: body.count, reference: UInt16(index), flags: 3)
        }
        turn.eventCount = payloads.count
        turn.runs[0] = EventRun(
            topic: name.start, topicLength: name.count, events: turn.events, count: payloads.count, wire: wire,
            wireLength: layout == .none ? 0 : end - wire, properties: extra.start, propertiesLength: extra.count,
            publisher: publisher, layout: layout, qos: qos, isRetained: isRetained)
        turn.runs[0].isPatient = isPatient
        turn.runs[0].packing = packing.map { Unmanaged.passUnretained($0) }
        turn.runCount = 1
        turn.principal = principal ?? self.principal()
        router.route(turn, on: lane)
        defer { turn.removeAll() }
        return turn.outcomes[0]
    }

    /// Posts and reads mail until nothing is on its way.
    func settle() {
        repeat {
            for lane in all { lane.postMail() }
            for lane in all { lane.readMail() }
            for lane in all { lane.routeDeferred() }
        } while all.contains { $0.hasStaged }
    }

    /// Lets the lanes do all they have put off.
    func work() {
        repeat {
            settle()
            for lane in all { lane.doWork() }
        } while all.contains { $0.hasWork || $0.hasStaged }
    }

    func dropped(_ reason: DropReason, on lane: Int = 0) -> UInt64 { all[lane].counters.dropped[reason.rawValue] }
}

/// A port that writes down what it is given.
final class Recorder: Port {
    struct Delivery: Equatable {
        var topic: String
        var payload: String
        var options: DeliveryOptions
        var identifiers: [UInt32]
        var qos: UInt8
        var isRetained: Bool
    }

    struct Receipt: Equatable {
        var token: UInt32
        var refused: Int
        var more = 0
    }

    var deliveries: [Delivery] = []
    var runs: [(count: Int, wire: String, layout: WireLayout, properties: String, publisher: PortAddress)] = []
    var owned: [Event] = []
    var receipts: [Receipt] = []
    /// Guaranteed events that it refuses of each run.
    var refuses = 0
    /// Whether it holds the receipts of patient runs.
    var holds = false
    var held: [Lane.Receipt] = []
    /// Whether it keeps every event.
    var keeps = false

    /// Subscriptions that the rules have taken away, and how often they were judged.
    var lost: [String] = []
    var judged = 0

    override func revoked(_ filter: TopicFilter, on lane: Lane) { lost.append(filter.wholeText) }
    override func rightsChanged(on lane: Lane) { judged += 1 }

    var topics: [String] { deliveries.map(\.topic) }
    var payloads: [String] { deliveries.map(\.payload) }

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        let first = Int(target.pointee.identifierStart)
        let identifiers = (0..<Int(target.pointee.identifierCount)).map { lane.identifiers[first + $0] }
        func text(_ base: UnsafeRawPointer, _ count: Int) -> String {
            String(decoding: UnsafeRawBufferPointer(start: base, count: count), as: UTF8.self)
        }
        for index in 0..<run.pointee.count {
            let view = run.pointee.events[index]
            deliveries.append(
                Delivery(
                    topic: String(decoding: run.pointee.topicBytes, as: UTF8.self),
                    payload: text(view.payload, Int(view.payloadLength)), options: target.pointee.options,
                    identifiers: identifiers, qos: run.pointee.qos, isRetained: run.pointee.isRetained))
            if keeps { owned.append(run.pointee.event(index)) }
        }
        if holds, let receipt = lane.hold(run) { held.append(receipt) }
        let isWired = run.pointee.layout != .none
        runs.append(
            (
                run.pointee.count, isWired ? text(run.pointee.wire, run.pointee.wireLength) : "", run.pointee.layout,
                text(run.pointee.properties, run.pointee.propertiesLength), run.pointee.publisher
            ))
        return run.pointee.qos > 0 ? refuses : 0
    }

    override func receiptArrived(token: UInt32, refused: Int, more: Int, on lane: Lane) {
        receipts.append(Receipt(token: token, refused: refused, more: more))
    }

    func takeAll() -> [Delivery] {
        defer { deliveries = [] }
        return deliveries
    }
}

extension Event {
    var text: String { String(decoding: payload, as: UTF8.self) }
    var topicText: String { String(decoding: topic, as: UTF8.self) }
}
