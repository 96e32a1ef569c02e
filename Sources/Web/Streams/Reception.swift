import Core

/// A request for events on its way to its channel: here, or on the lane where the channel lives that the reader had
/// before. Confined to the lane where the request is.
final class Reception: HTTPTraveller {
    private let wanted: StreamRequest
    private let context: WebContext
    private var principal: Principal
    /// Until when the principal is proven to be who it is; `max` for as long as the connection.
    private let endsAt: UInt64

    /// What a reader that comes back finds.
    private struct Place {
        var channel: EventChannel
        /// The last event that it has.
        var position: UInt64
        var gap: Gap?
    }

    init(_ wanted: StreamRequest, _ principal: Principal, until endsAt: UInt64, _ context: WebContext) {
        self.endsAt = endsAt
        self.wanted = wanted
        self.principal = principal
        self.context = context
    }

    /// Begins here, or moves.
    func begin(_ connection: HTTPConversation, on lane: Lane) throws(Problem) -> RequestVerdict {
        if let id = id(lane), id.lane != lane.number { return .moving(to: id.lane, self) }
        return try receive(connection, on: lane)
    }

    func arrived(_ connection: HTTPConversation, on lane: Lane) -> RequestVerdict {
        // What a principal remembers of its decisions is true for the former lane only.
        principal = principal.again()
        do throws(Problem) {
            return try receive(connection, on: lane)
        } catch {
            connection.respond(error)
            return .answered
        }
    }

    private func id(_ lane: Lane) -> EventID? {
        wanted.after.flatMap { EventID($0, instance: context.instance, laneCount: lane.lanes.count) }
    }

    private func receive(_ connection: HTTPConversation, on lane: Lane) throws(Problem) -> RequestVerdict {
        let place = try place(on: lane)
        switch wanted.kind {
        case .stream(let format, let wantsRetained):
            // Who lacks something gets what is true now; who lacks nothing has it.
            let isNew = wanted.after == nil || place.gap != nil
            // A shared subscription begins with what comes next, as in MQTT 5 §3.8.4.
            let hasRetained = wantsRetained && isNew && wanted.group == nil
            let stream = EventStream(
                place.channel, connection.link, format, after: place.position, hasRetained: hasRetained,
                until: endsAt, on: lane)
            connection.beginStream(
                lines: "Content-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n")
            stream.begin(place.gap.map { ($0, wanted.after ?? "") })
            place.channel.attach(stream, on: lane)
            var budget = Self.firstBudget
            if place.channel.catchUp(stream, &budget, on: lane) { lane.workLater(place.channel) }
            connection.link.tick(at: min(lane.now + EventStream.heartbeat, endsAt))
            return .streaming(stream)
        case .poll(let wait, let limit):
            let poll = LongPoll(place.channel, connection, after: place.position, limit: limit)
            guard wait > 0, place.gap == nil, !place.channel.hasEvents(after: place.position) else {
                let page = place.channel.page(
                    after: place.position, limit: limit, hasGap: place.gap != nil, on: lane)
                // Nobody reads it until the next poll.
                place.channel.leave(poll, on: lane)
                poll.answer(page, on: lane)
                return .answered
            }
            place.channel.wait(poll)
            connection.waiter = poll
            let left = endsAt - min(lane.now, endsAt)
            connection.setAnswerTime(milliseconds: min(wait, Int(clamping: left)), on: lane)
            return .later
        }
    }

    /// What is spent at once on what a stream begins with, see ``Port/work(_:on:)``.
    private static let firstBudget = 128

    // MARK: Channels

    /// The channel, and where in it the reader is.
    private func place(on lane: Lane) throws(Problem) -> Place {
        for filter in wanted.filters where !principal.router.mayShare(filter, as: principal, on: lane) {
            throw forbidden(filter)
        }
        let lanes = StreamLane.of(context.state(of: lane), on: lane)
        let key = ChannelKey(wanted, principal)
        var gap: Gap?
        if wanted.after != nil {
            let id = id(lane)
            let known = id.flatMap { lanes.channel($0.channel) }
            if let id, let known, known.key == key, id.number <= known.last {
                // It may say another weight than before.
                if known.weight != wanted.weight { try subscribe(known, on: lane) }
                let isWhole = id.number + 1 >= known.window.first
                let position = isWhole ? id.number : known.window.first - 1
                return Place(channel: known, position: position, gap: isWhole ? nil : .window)
            }
            // Another user's channel is as good as none.
            gap = known.map { $0.key != key && $0.key.hasSameOwner(as: key) } == true ? .filters : .unknown
        }
        if wanted.group == nil, let shared = lanes.channel(key) {
            return Place(channel: shared, position: shared.last, gap: gap)
        }
        let channel = try makeChannel(key, lanes, on: lane)
        return Place(channel: channel, position: channel.last, gap: gap)
    }

    private func makeChannel(
        _ key: ChannelKey, _ lanes: StreamLane, on lane: Lane
    ) throws(Problem) -> EventChannel {
        // The channel may live longer than the connection that caused it.
        let owner = principal.again()
        let channel = try lanes.makeChannel(key, wanted.filters, owner, on: lane)
        do throws(Problem) { try subscribe(channel, on: lane) } catch {
            lanes.end(channel, on: lane)
            throw error
        }
        return channel
    }

    /// Subscribes a channel to what is wanted, or again with another weight.
    private func subscribe(_ channel: EventChannel, on lane: Lane) throws(Problem) {
        let owner = channel.principal
        for filter in wanted.filters {
            let subscription = Subscription(filter: filter, options: .qos(2), weight: wanted.weight)
            switch owner.router.subscribe(channel, subscription, as: owner, on: lane) {
            case .granted: continue
            case .notAuthorized: throw forbidden(filter)
            case .overQuota: throw .later(429, "This user has as many subscriptions as it may.", seconds: 5)
            case .overLimit: throw Problem(403, "The node allows no more subscriptions for one stream.")
            }
        }
        channel.weight = wanted.weight
    }

    private func forbidden(_ filter: TopicFilter) -> Problem {
        .forbidden("filter: the access rules do not allow all of \(filter.wholeText).", principal, context)
    }
}

extension Problem {
    /// Streams and polls are asked for in one way.
    static var onlyGet: Problem {
        var headers = Headers()
        headers.add("Allow", "GET")
        return Problem(405, "Events are received with GET.", headers: headers)
    }
}
