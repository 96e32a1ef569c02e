import Core

/// A client: it lives on while nodes come and go, and connects again.
final class Member {
    enum Role { case publisher, subscriber }

    let number: Int
    let role: Role
    /// Where it is connected; who roams changes it.
    private(set) var station: Int
    var group: (name: String, filter: String)?
    /// What it says of its weight in the group; nil for nothing.
    var weight: UInt16?
    private var randomness: Randomness
    private var publisher: Publisher?
    private var port: ListenerPort?
    private var isPlanned = false
    /// Filters it has now.
    private var filters: [String] = []
    private var stormFilters: [TopicFilter] = []
    private var isRestless = false

    /// Guaranteed events of one publisher that may be under way.
    private static let maxOutstanding = 200

    init(_ number: Int, _ role: Role, _ station: Int, _ randomness: Randomness) {
        self.number = number
        self.role = role
        self.station = station
        self.randomness = randomness
    }

    /// Its node's process runs: it connects.
    func begin(in play: Play) {
        if role == .subscriber, filters.isEmpty { choose(play.scenario.load) }
        connect(in: play, after: 20 + randomness.below(300))
    }

    private func choose(_ load: Scenario.Load) {
        isRestless = group == nil && randomness.below(100) < load.restless
        if let group { return filters = ["$share/\(group.name)/\(group.filter)"] }
        for _ in 0..<randomness.between(1...4) {
            let filter = Topics.filter(&randomness, wildcards: load.wildcards, retained: load.retained)
            if !filters.contains(filter) { filters.append(filter) }
        }
    }

    private func connect(in play: Play, after milliseconds: Int) {
        let (target, life) = (play.world.stations[station], play.world.stations[station].life)
        play.world.plan(at: play.world.now + UInt64(milliseconds) * 1_000) { [unowned self, unowned play] in
            guard target.isRunning, target.life == life, target.index == station else { return }
            target.later { [unowned self, unowned play] in connected(in: play) }
        }
    }

    private func connected(in play: Play) {
        let target = play.world.stations[station]
        switch role {
        case .publisher:
            guard publisher == nil else { return }
            publisher = Publisher(target, play.observer.ledger)
        case .subscriber:
            guard port == nil else { return }
            let listener = play.observer.ledger.addListener(
                station: station, life: target.life, group: group?.name)
            let port = ListenerPort(play.observer, listener)
            self.port = port
            target.router.register(port, on: target.lane)
            for filter in filters { subscribe(filter, in: play) }
        }
        plan(in: play)
    }

    private func principal(_ target: Station) -> Principal {
        Principal(identity: Identity(user: "m\(number)"), clientID: "m\(number)", router: target.router)
    }

    private func subscribe(_ text: String, in play: Play) {
        let target = play.world.stations[station]
        guard let port, let filter = try? TopicFilter(text, grammar: .mqtt) else { return }
        _ = target.router.subscribe(
            port, Subscription(filter: filter, options: .qos(2), weight: weight), as: principal(target),
            on: target.lane)
        port.listener.wishes.append(Ledger.Wish(filter: filter, since: play.world.now))
    }

    private func unsubscribe(_ text: String, in play: Play) {
        guard let port, let filter = try? TopicFilter(text, grammar: .mqtt) else { return }
        play.world.stations[station].router.unsubscribe(port, filter)
        for index in port.listener.wishes.indices
        where port.listener.wishes[index].filter == filter && port.listener.wishes[index].until == .max {
            port.listener.wishes[index].until = play.world.now
        }
    }

    /// Its node's process has ended.
    func lost() {
        publisher = nil
        port = nil
        stormFilters = []
    }

    // MARK: Acting

    private func plan(in play: Play) {
        guard !isPlanned, role == .publisher || isRestless else { return }
        isPlanned = true
        let average = role == .publisher ? play.scenario.load.interval : 1_500
        let wait = 1 + randomness.below(average * 2)
        play.world.plan(.member(number), at: play.world.now + UInt64(wait) * 1_000 + UInt64(randomness.below(1_000)))
    }

    /// Its time has come.
    func act(in play: Play) {
        isPlanned = false
        let target = play.world.stations[station]
        guard target.isRunning, publisher != nil || port != nil else { return }
        let life = target.life
        target.later { [unowned self, unowned play] in
            guard target.life == life, target.index == station else { return }
            if role == .publisher { publish(in: play) } else { change(in: play) }
        }
        plan(in: play)
    }

    private func publish(in play: Play) {
        guard let publisher, !play.isQuiet else { return }
        let load = play.scenario.load
        let isRetained = randomness.below(100) < load.retained
        let isGuaranteed = randomness.below(100) < load.guaranteed
        let qos = UInt8(isGuaranteed ? 1 + randomness.below(2) : 0)
        let topic = isRetained ? Topics.anyRetained(&randomness) : Topics.any(&randomness)
        let isDelete = isRetained && randomness.chance(0.2)
        let count = isRetained || randomness.chance(0.8) ? 1 : randomness.between(2...5)
        let isLarge = randomness.below(100) < load.large
        let sizes = (0..<count).map { _ in
            isLarge ? randomness.between(1_000...60_000) : Payload.size + randomness.below(60)
        }
        guard qos == 0 || publisher.port.outstanding < Self.maxOutstanding else { return }
        publisher.publish(
            topic: topic, sizes: sizes, qos: qos, isRetained: isRetained, isDelete: isDelete, play.observer.ledger,
            agreedAt: play.observer.lastCalm >= publisher.startedAt ? play.observer.lastCalm : 0)
    }

    /// A restless subscriber drops a filter, takes another, or connects to another node.
    private func change(in play: Play) {
        guard let port, !play.isQuiet, !play.isHealed else { return }
        if randomness.chance(0.2) { return roam(port, in: play) }
        if !filters.isEmpty, randomness.chance(0.5) {
            unsubscribe(filters.remove(at: randomness.below(filters.count)), in: play)
        } else {
            let load = play.scenario.load
            let filter = Topics.filter(&randomness, wildcards: load.wildcards, retained: load.retained)
            guard !filters.contains(filter) else { return }
            filters.append(filter)
            subscribe(filter, in: play)
        }
    }

    private func roam(_ port: ListenerPort, in play: Play) {
        let target = play.world.stations[station]
        port.listener.goneAt = play.world.now
        target.router.unregister(port, on: target.lane)
        self.port = nil
        station = randomness.pick(play.stationNumbers)
        connect(in: play, after: 1 + randomness.below(50))
    }

    // MARK: Storms

    func storm(_ count: Int, in play: Play) {
        let target = play.world.stations[station]
        guard role == .subscriber, group == nil, target.isRunning, let port, stormFilters.isEmpty else { return }
        stormFilters = (0..<count).compactMap { try? TopicFilter("storm/\($0 / 10)/\(number)/\($0)", grammar: .mqtt) }
        target.later { [unowned self] in
            guard self.port === port else { return }
            for filter in stormFilters {
                _ = target.router.subscribe(
                    port, Subscription(filter: filter, options: .qos(0)), as: principal(target), on: target.lane)
            }
        }
    }

    func calm(in play: Play) {
        let target = play.world.stations[station]
        guard let port, target.isRunning else { return }
        let filters = stormFilters
        stormFilters = []
        target.later { [unowned self] in
            guard self.port === port else { return }
            for filter in filters { target.router.unsubscribe(port, filter) }
        }
    }
}
