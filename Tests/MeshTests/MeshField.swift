import Core
import Synchronization
import TestSupport

@testable import Mesh

/// Nodes of a mesh in one process, without sockets and with a clock that a test moves: whole conversations and real
/// routers.
final class MeshField {
    /// One end of a connection.
    final class End: Link {
        private static let windowSize = 64 << 10
        private let window = UnsafeMutableRawPointer.allocate(byteCount: End.windowSize, alignment: 16)
        fileprivate var out: [UInt8] = []
        fileprivate var carry: [UInt8] = []
        fileprivate(set) var closed: CloseReason?
        fileprivate var isTold = false
        fileprivate var isPaused = false
        /// The other end sends nothing more.
        fileprivate var hasEnded = false
        fileprivate var deadline = UInt64.max
        fileprivate weak var other: End?
        fileprivate var conversation: Conversation!
        fileprivate let station: Station
        /// Cut without a word: nothing goes out any more.
        var isSilent = false
        /// Sees what goes out.
        var onSend: (([UInt8]) -> Void)?
        /// What the peer has shown.
        fileprivate(set) var shown: PeerCertificate?
        override var certificate: PeerCertificate? { shown }
        override var isEncrypted: Bool { shown != nil }
        fileprivate let number: Int
        /// Whether its conversation has ended.
        var isOver: Bool { closed != nil || hasEnded }

        /// Bytes come in that the other end has not sent; false when the connection has ended.
        func inject(_ bytes: [UInt8]) -> Bool {
            guard closed == nil, !hasEnded else { return false }
            carry += bytes
            return true
        }

        /// The other end sends nothing more.
        func endInput() { hasEnded = true }

        /// The link of a mesh whose data connection this is.
        var isData: Bool {
            if case .data = (conversation as? MeshConversation)?.phase { return true }
            return false
        }

        fileprivate init(_ station: Station) {
            self.station = station
            station.endsMade += 1
            number = station.endsMade
            super.init()
            cursor = window
            end = window + Self.windowSize
        }

        deinit { window.deallocate() }

        fileprivate func collect() {
            out.append(contentsOf: UnsafeRawBufferPointer(start: window, count: cursor - window))
            cursor = window
        }

        override func makeRoom(_ count: Int) { collect() }
        override func appendSlowly(_ bytes: UnsafeRawPointer, _ count: Int) {
            collect()
            out.append(contentsOf: UnsafeRawBufferPointer(start: bytes, count: count))
        }
        override func close(_ reason: CloseReason) { if closed == nil { closed = reason } }
        override func tick(at deadline: UInt64) { self.deadline = deadline }
        override func resume() { isPaused = false }
        override func callback<Answer: Sendable>(
            _ body: @escaping @Sendable (Conversation, Answer, Lane) -> Void
        ) -> @Sendable (Answer) -> Void {
            let (lanes, number) = (station.lane.lanes, number)
            return { answer in
                lanes.call(0) { lane in
                    let station = (MeshNode.of(lane)?.host as? Station)
                    guard let end = station?.ends.first(where: { $0.number == number }), end.closed == nil else {
                        return
                    }
                    body(end.conversation, answer, lane)
                }
            }
        }
    }

    /// One node.
    final class Station: MeshHost {
        let field: MeshField
        let address: String
        let lane: Lane
        let router: Router
        fileprivate(set) var node: MeshNode!
        fileprivate(set) var ends: [End] = []
        fileprivate(set) var lines: [String] = []
        fileprivate var dialled: [(address: String, ticket: Int)] = []
        fileprivate(set) var dialCount = 0
        fileprivate var isAlive = true
        /// What it shows to whom it dials and who dials it.
        var certificate: PeerCertificate?
        fileprivate(set) var records: [AuditRecord] = []
        fileprivate var endsMade = 0
        /// What lives as long as the node.
        var kept: [Any] = []
        fileprivate var generator: Seeded

        fileprivate init(_ field: MeshField, _ address: String, seed: UInt64) {
            self.field = field
            self.address = address
            let limits = Limits()
            let lanes = Lanes(wakes: [{}], limits: limits)
            lane = Lane(number: 0, lanes: lanes)
            lane.now = field.now
            router = Router(limits: limits, hashKey: seed)
            generator = Seeded(seed: seed)
            super.init()
        }

        override func dial(_ address: String, ticket: Int) {
            dialCount += 1
            dialled.append((address, ticket))
        }
        override func wallClock() -> UInt64 { field.clock.time.load(ordering: .relaxed) }
        override func makeWallClock() -> @Sendable () -> UInt64 {
            let clock = field.clock
            return { clock.time.load(ordering: .relaxed) }
        }
        override func microseconds() -> UInt64 { field.now * 1_000 }
        override func random() -> UInt64 { generator.next() }
        override func log(_ level: MeshLogLevel, _ message: String) { lines.append(message) }
        override func audit(_ record: AuditRecord) { records.append(record) }

        /// A client of another protocol, whose bytes a test writes and reads.
        func client(_ make: (Link, Lane) -> Conversation) -> End {
            let end = End(self)
            end.conversation = make(end, lane)
            ends.append(end)
            return end
        }

        /// Its connections to another station.
        func ends(to other: Station) -> [End] { ends.filter { $0.other?.station === other && $0.closed == nil } }
    }

    /// Milliseconds since 1970, for all nodes.
    final class Clock: Sendable { let time = Atomic<UInt64>(1_700_000_001_000) }

    let clock = Clock()
    private(set) var now: UInt64 = 1_000 {
        didSet { clock.time.store(1_700_000_000_000 + now, ordering: .relaxed) }
    }
    private(set) var stations: [Station] = []
    /// Sees all bytes that go from one station to another.
    var onBytes: ((_ from: Station, _ to: Station, _ bytes: [UInt8]) -> Void)?
    private var epochs: [String: UInt64] = [:]

    /// Starts a node at an address that links to others. Starting it again is another life of the same node.
    @discardableResult
    func start(
        _ address: String, links: [String], id: UInt64? = nil, _ change: (inout MeshSettings) -> Void = { _ in }
    ) -> Station {
        let counted = epochs[address, default: 0] + 1
        epochs[address] = counted
        let seed = address.utf8.reduce(UInt64(14_695_981)) { ($0 ^ UInt64($1)) &* 1_099_511_628_211 } &+ counted
        let station = Station(self, address, seed: seed)
        var settings = MeshSettings()
        settings.join = .configured
        settings.advertise = [address]
        settings.links = links.map { MeshSettings.LinkEntry(address: $0) }
        change(&settings)
        let number = id ?? address.utf8.reduce(UInt64(7)) { $0 &* 31 &+ UInt64($1) }
        let identity = MeshIdentity(
            id: NodeID(high: number &* 0x9E37_79B9_7F4A_7C15, low: number), epoch: counted << 16 | (seed & 0xFFFF),
            instance: seed &* 31, name: address)
        stations.removeAll { $0.address == address }
        stations.append(station)
        station.node = MeshNode(settings, identity, router: station.router, lane: station.lane, host: station)
        return station
    }

    /// Ends a node as `kill -9` does: its connections break.
    func kill(_ station: Station) {
        station.isAlive = false
        stations.removeAll { $0 === station }
        for end in station.ends { end.other?.close(.connectionLost) }
    }

    /// Lets go of everything: nodes, lanes and this own one another.
    func dismantle() {
        for station in stations {
            for end in station.ends {
                if !end.isTold { end.conversation.close(.shutdown, on: station.lane) }
                end.conversation = nil
            }
            station.ends.removeAll()
            station.lane.turn.principal = nil
            station.lane.alarms.removeAll()
            station.lane.belongings.removeAll()
            station.node = nil
        }
        stations = []
    }

    /// Breaks the connections between two nodes.
    func cut(_ a: Station, _ b: Station) {
        for end in a.ends(to: b) {
            end.close(.connectionLost)
            end.other?.close(.connectionLost)
        }
    }

    /// Lets time pass.
    func run(_ milliseconds: Int) {
        for _ in 0..<milliseconds {
            now += 1
            for station in stations { pass(station) }
        }
    }

    private func pass(_ station: Station) {
        let lane = station.lane
        lane.now = now
        for (address, ticket) in station.dialled { connect(station, address, ticket) }
        station.dialled = []
        for end in station.ends where end.closed == nil {
            consume(end)
            if end.hasEnded, !end.isPaused { end.close(.connectionLost) }
        }
        lane.readMail()
        lane.routeDeferred()
        for end in station.ends where end.closed == nil && end.deadline <= now { tick(end) }
        lane.ringAlarms()
        lane.routeDeferred()
        for end in station.ends where end.closed != nil && !end.isTold {
            end.isTold = true
            end.conversation.close(end.closed ?? .connectionLost, on: lane)
        }
        lane.postMail()
        lane.readMail()
        for end in station.ends { send(end) }
        // An end and its conversation own one another.
        for end in station.ends where end.isTold { end.conversation = nil }
        station.ends.removeAll { $0.isTold }
    }

    private func connect(_ station: Station, _ address: String, _ ticket: Int) {
        guard let other = stations.first(where: { $0.address == address }) else {
            return station.node.dialFailed(ticket, "connection refused")
        }
        let (near, far) = (End(station), End(other))
        (near.other, far.other) = (far, near)
        (near.shown, far.shown) = (other.certificate, station.certificate)
        near.conversation = station.node.dialled(ticket, link: near, on: station.lane)
        far.conversation = other.node.accepted(far, on: other.lane)
        station.ends.append(near)
        other.ends.append(far)
    }

    private func consume(_ end: End) {
        guard !end.isPaused, !end.carry.isEmpty else { return }
        let lane = end.station.lane
        let bytes = end.carry
        var offset = 0
        bytes.withUnsafeBytes { whole in
            while end.closed == nil {
                let rest = UnsafeRawBufferPointer(rebasing: whole[offset...])
                let progress = end.conversation.receive(rest, lane.turn, on: lane)
                offset += progress.consumed
                if !lane.turn.isEmpty {
                    lane.turn.principal?.router.route(lane.turn, on: lane)
                    end.conversation.routed(lane.turn, on: lane)
                    lane.turn.removeAll()
                }
                lane.routeDeferred()
                switch progress.verdict {
                case .routeFirst: continue
                case .waiting: return
                case .paused:
                    end.isPaused = true
                    return
                case .close(let reason):
                    end.close(reason)
                    return
                }
            }
        }
        end.carry.removeFirst(offset)
    }

    private func tick(_ end: End) {
        end.deadline = .max
        switch end.conversation.tick(on: end.station.lane) {
        case .success(let next): if let next { end.deadline = min(end.deadline, next) }
        case .failure(let reason): end.close(reason)
        }
    }

    private func send(_ end: End) {
        end.conversation.produce(on: end.station.lane)
        end.collect()
        if let onSend = end.onSend, !end.out.isEmpty { onSend(end.out) }
        if let onBytes, let other = end.other, !end.out.isEmpty { onBytes(end.station, other.station, end.out) }
        if !end.isSilent, let other = end.other, other.closed == nil { other.carry += end.out }
        end.out = []
        if end.closed != nil, !end.isSilent { end.other?.hasEnded = true }
    }
}

/// A subscriber that writes down what it gets.
final class Listening: Port {
    private(set) var heard: [String] = []

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        for index in 0..<run.pointee.count {
            let view = run.pointee.events[index]
            heard.append(
                String(
                    decoding: UnsafeRawBufferPointer(start: view.payload, count: Int(view.payloadLength)), as: UTF8.self
                ))
        }
        return 0
    }
}

extension MeshField.Station {
    private var principal: Principal { Principal(identity: Identity(user: nil), clientID: "test", router: router) }

    func subscribe(_ filters: String...) throws -> Listening {
        let port = Listening()
        router.register(port, on: lane)
        for filter in filters {
            let subscription = Subscription(filter: try TopicFilter(filter, grammar: .mqtt), options: .qos(2))
            _ = router.subscribe(port, subscription, as: principal, on: lane)
        }
        return port
    }

    @discardableResult
    func publish(_ topic: String, _ payload: String, qos: UInt8 = 0, isRetained: Bool = false) -> PublishOutcome {
        let event = Array(topic.utf8).withUnsafeBytes { topic in
            Array(payload.utf8).withUnsafeBytes { payload in
                Event(
                    topic: topic, properties: UnsafeRawBufferPointer(start: nil, count: 0), payload: payload, qos: qos,
                    isRetained: isRetained)
            }
        }
        return router.publish(event, as: principal, on: lane)
    }
}
