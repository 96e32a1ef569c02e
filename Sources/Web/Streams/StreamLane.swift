import Core

/// Whose channel it is, and of what: streams with the same key share one, because they may see the same events.
struct ChannelKey: Hashable {
    let namespace: String
    let user: String?
    let groups: [String]
    /// What else access rules may ask for.
    let attributes: [String: [String]]
    let filters: [[UInt8]]
    let group: String?

    init(_ wanted: StreamRequest, _ principal: Principal) {
        namespace = principal.identity.namespace
        user = principal.identity.user
        groups = principal.identity.groups
        attributes = principal.identity.attributes.filter { !Self.passing.contains($0.key) }
        filters = wanted.filters.map { Array($0.wholeText.utf8) }
        group = wanted.group
    }

    /// What is another in every token of the same user: who has renewed his finds his channel again.
    private static let passing: Set<String> = ["claim.exp", "claim.iat", "claim.nbf", "claim.jti"]

    /// Whether both are of the same user.
    func hasSameOwner(as other: ChannelKey) -> Bool { namespace == other.namespace && user == other.user }
}

/// What receiving over HTTP keeps for a lane: its channels, and the run being delivered, owned and written once for all
/// of them. Confined to the lane.
final class StreamLane {
    /// The context outlives the lanes.
    unowned let context: WebContext
    let traffic: TrafficCounter
    /// How often an event has been written as text: once for each format and delivery, however many streams get it.
    private(set) var encodings: UInt64 = 0
    /// Bytes of the windows of all channels.
    var windowBytes = 0
    /// Where blocks for streams are put together.
    var block: [UInt8] = []

    private let instance: String
    private let number: Int
    private var shared: [ChannelKey: EventChannel] = [:]
    private var channels: [UInt64: EventChannel] = [:]
    /// Channels that nobody reads, in no order; each knows its place.
    private var idle: [EventChannel] = []
    private var owned = Run<[Event]>(value: [])
    private var written = [Run<Bodies>](repeating: Run(value: Bodies()), count: StreamFormat.allCases.count)

    /// Something made of a run, for everybody who is offered the same.
    private struct Run<Value> {
        var serial: UInt64 = 0
        var value: Value
    }

    /// The events of a run as text, one behind the other, without their ids.
    struct Bodies {
        var bytes: [UInt8] = []
        /// Where each ends.
        var ends: [Int] = []
    }

    /// What scratch memory is kept between events.
    private static let keptBytes = 1 << 20

    private init(_ web: WebLane, _ lane: Lane) {
        context = web.context
        traffic = web.traffic
        instance = web.context.instance
        number = lane.number
    }

    /// What a lane keeps.
    static func of(_ web: WebLane, on lane: Lane) -> StreamLane {
        if let known = lane.belongings["web.streams"] as? StreamLane { return known }
        let made = StreamLane(web, lane)
        lane.belongings["web.streams"] = made
        lane.chores.append { [weak made] lane in made?.tidy(on: lane) }
        return made
    }

    // MARK: Channels

    /// Channels there are.
    var channelCount: Int { channels.count }
    /// Channels that nobody reads.
    var idleCount: Int { idle.count }

    /// The channel with a random number.
    func channel(_ code: UInt64) -> EventChannel? { channels[code] }

    /// The channel that streams with this key share.
    func channel(_ key: ChannelKey) -> EventChannel? { shared[key] }

    /// Makes a channel that has no subscription yet.
    func makeChannel(
        _ key: ChannelKey, _ filters: [TopicFilter], _ principal: Principal, on lane: Lane
    ) throws(Problem) -> EventChannel {
        guard channels.count < lane.limits.maxChannels else {
            throw .later(429, "There are as many streams with filters of their own as there may be.", seconds: 5)
        }
        var code: UInt64
        repeat { code = context.random() % EventID.channels } while channels[code] != nil
        let prefix = EventID.prefix(instance, lane: number, channel: code)
        let channel = EventChannel(key, filters, code: code, prefix: prefix, self, principal)
        principal.router.register(channel, on: lane)
        channels[code] = channel
        if key.group == nil { shared[key] = channel }
        return channel
    }

    /// Ends a channel with its subscriptions.
    func end(_ channel: EventChannel, on lane: Lane) {
        stopIdling(channel)
        channels[channel.code] = nil
        if shared[channel.key] === channel { shared[channel.key] = nil }
        channel.principal.router.unregister(channel, on: lane)
    }

    /// Nobody reads a channel any more, or somebody did for a moment.
    func beginIdling(_ channel: EventChannel, at now: UInt64) {
        channel.idleSince = now
        guard channel.idlePlace < 0 else { return }
        channel.idlePlace = idle.count
        idle.append(channel)
    }

    /// Somebody reads a channel again.
    func stopIdling(_ channel: EventChannel) {
        let place = channel.idlePlace
        guard place >= 0 else { return }
        channel.idlePlace = -1
        let last = idle.removeLast()
        guard last !== channel else { return }
        idle[place] = last
        last.idlePlace = place
    }

    /// Once a second.
    private func tidy(on lane: Lane) {
        let time = UInt64(max(lane.limits.streamResumeSeconds, 0)) * 1_000
        for channel in idle where lane.now >= channel.idleSince + time { end(channel, on: lane) }
        owned = Run(value: [])
        for format in written.indices { written[format] = Run(value: Bodies()) }
        if block.capacity > Self.keptBytes { block = [] }
    }

    // MARK: Once for all

    /// The events of the run being delivered, owned.
    func events(of run: UnsafePointer<EventRun>, on lane: Lane) -> [Event] {
        if owned.serial != lane.runSerial {
            owned = Run(serial: lane.runSerial, value: (0..<run.pointee.count).map { run.pointee.event($0) })
        }
        return owned.value
    }

    /// The events of the run being delivered, as text.
    func bodies(of run: UnsafePointer<EventRun>, as format: StreamFormat, on lane: Lane) -> Bodies {
        let index = format.rawValue
        if written[index].serial != lane.runSerial {
            var bodies = Bodies()
            for event in 0..<run.pointee.count {
                write(EventParts(run, event), as: format, on: lane, to: &bodies.bytes)
                bodies.ends.append(bodies.bytes.count)
            }
            written[index] = Run(serial: lane.runSerial, value: bodies)
        }
        return written[index].value
    }

    /// Writes an event as a stream has it.
    func write(_ parts: EventParts, as format: StreamFormat, on lane: Lane, to bytes: inout [UInt8]) {
        encodings &+= 1
        StreamText.write(parts, as: format, now: lane.now, to: &bytes)
    }

    /// Writes an event as a poll has it.
    func writeJSON(_ parts: EventParts, on lane: Lane, to bytes: inout [UInt8]) {
        encodings &+= 1
        StreamText.writeJSON(parts, now: lane.now, to: &bytes)
    }
}
