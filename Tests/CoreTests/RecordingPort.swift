import Core

/// A port that keeps what it is given.
final class RecordingPort: Port {
    struct Delivery: Equatable {
        var topic: String
        var payload: String
        var qos: UInt8
        var options: DeliveryOptions
        var identifiers: [UInt32]
    }

    var deliveries: [Delivery] = []
    var receipts: [UInt32] = []
    /// How many guaranteed events to refuse from each run.
    var refuses = 0

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        let first = Int(target.pointee.identifierStart)
        let identifiers = (first..<first + Int(target.pointee.identifierCount)).map { lane.identifiers[$0] }
        for index in 0..<run.pointee.count {
            let view = run.pointee.events[index]
            let payload = UnsafeRawBufferPointer(start: view.payload, count: Int(view.payloadLength))
            deliveries.append(
                Delivery(
                    topic: String(decoding: run.pointee.topicBytes, as: UTF8.self),
                    payload: String(decoding: payload, as: UTF8.self), qos: run.pointee.qos,
                    options: target.pointee.options, identifiers: identifiers))
        }
        return refuses
    }

    override func receiptArrived(token: UInt32, refused: Int, on lane: Lane) { receipts.append(token) }
}

/// Lanes and a router on the test's own thread: a lane's mail is read when the test says so.
final class Bench {
    let lanes: Lanes
    let all: [Lane]
    let router: Router

    init(lanes count: Int = 1, limits: Limits = Limits(), rules: AccessRules = .none) {
        lanes = Lanes(wakes: (0..<count).map { _ in {} }, limits: limits)
        let lanes = lanes
        all = (0..<count).map { Lane(number: $0, lanes: lanes) }
        router = Router(limits: limits, accessRules: rules, hashKey: 42)
    }

    func port(on lane: Int = 0) -> RecordingPort {
        let port = RecordingPort()
        router.register(port, on: all[lane])
        return port
    }

    func principal(_ user: String? = nil, clientID: String = "client", groups: [String] = []) -> Principal {
        Principal(identity: Identity(user: user, groups: groups), clientID: clientID, router: router)
    }

    @discardableResult
    func subscribe(
        _ port: Port, _ filter: String, _ options: DeliveryOptions = .qos(2), identifier: UInt32 = 0,
        grammar: TopicFilter.Grammar = .mqtt, as principal: Principal? = nil, on lane: Int = 0
    ) -> Router.SubscribeOutcome {
        guard let filter = try? TopicFilter(filter, grammar: grammar) else { return .notAuthorized }
        return router.subscribe(
            port, Subscription(filter: filter, options: options, identifier: identifier),
            as: principal ?? self.principal(), on: all[lane])
    }

    /// Publishes one owned event; its publisher wants a receipt when it is given.
    @discardableResult
    func publish(
        _ topic: String, _ payload: String = "x", qos: UInt8 = 0, retain: Bool = false, as principal: Principal? = nil,
        publisher: PortAddress = .none, on lane: Int = 0
    ) -> PublishOutcome {
        router.publish(
            event(topic, payload, qos: qos, retain: retain), as: principal ?? self.principal(), publisher: publisher,
            on: all[lane])
    }

    func event(_ topic: String, _ payload: String, qos: UInt8 = 0, retain: Bool = false) -> Event {
        Array(topic.utf8).withUnsafeBytes { topic in
            Array(payload.utf8).withUnsafeBytes { payload in
                Event(
                    topic: topic, properties: UnsafeRawBufferPointer(start: nil, count: 0), payload: payload, qos: qos,
                    isRetained: retain)
            }
        }
    }

    /// Every lane posts, then every lane reads.
    func pass() {
        for lane in all { lane.postMail() }
        for lane in all { lane.readMail() }
    }
}
