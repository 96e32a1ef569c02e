import Core

/// What can be asked of topics without subscribing: the last value of one, `GET /TOPIC/…`, and which there are,
/// `GET /topics`. Somebody sees what it may subscribe to, and clears what it may publish to.
enum Queries {
    /// Topics that one listing names unless asked otherwise, and at most.
    static let (usualTopics, mostTopics) = (100, 10_000)
    /// Listings that a lane goes on with at the same time.
    static let listingsAtOnce = 8

    // MARK: One topic

    /// `GET` or `HEAD`: a topic's retained event. 200, 304 when the client has it already, 404 when there is none.
    static func retained(
        _ topic: UnsafeRawBufferPointer, _ request: HTTPRequest, _ principal: Principal, _ state: WebLane,
        _ connection: HTTPConversation, on lane: Lane
    ) throws(Problem) -> RequestVerdict {
        switch principal.router.retained(topic, as: principal, now: lane.now) {
        case .malformedTopic: throw noTopic
        case .notAuthorized: throw .forbidden("Subscribing to this topic is not allowed.", principal, state.context)
        case .nothing: throw Problem(404, "This topic has no retained event.")
        case .found(let event):
            connection.respond(try response(event, ifNoneMatch: request.headers.all("If-None-Match"), now: lane.now))
            state.traffic.sent(1, bytes: event.payloadLength, qos: event.qos)
            return .answered
        }
    }

    /// `DELETE`: an empty event is published to the topic to be retained, so that subscribers learn that the value has
    /// gone. 204, whether there was one or not.
    static func clear(
        _ topic: UnsafeRawBufferPointer, _ principal: Principal, _ state: WebLane, _ connection: HTTPConversation,
        on lane: Lane
    ) throws(Problem) -> RequestVerdict {
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        guard Topic.isValid(topic, limits: principal.router.limits) else { throw noTopic }
        let event = Event(topic: topic, properties: nothing, payload: nothing, qos: 0, isRetained: true)
        state.traffic.received(1, bytes: 0, qos: 0)
        switch principal.router.publish(event, as: principal, on: lane).verdict {
        case .routed: connection.respond(.noContent)
        case .notAuthorized: throw .forbidden("Publishing to this topic is not allowed.", principal, state.context)
        case .quotaExceeded: throw .later(429, "More events a second than this node takes.", seconds: 1)
        case .payloadTooLarge: throw .payloadTooLarge
        case .malformedTopic: throw noTopic
        }
        return .answered
    }

    private static var noTopic: Problem {
        Problem(400, "The path is no topic: levels of text between slashes, without the wildcards + and #.")
    }

    private static func response(
        _ event: Event, ifNoneMatch: [String], now: UInt64
    ) throws(Problem) -> HTTPResponse {
        var digest = Digest.Maker()
        digest.add(event.properties)
        digest.add(event.payload)
        guard let digest = digest.finish() else { throw Problem(500, "The event's digest could not be made.") }
        let tag = "\"\(String(digest.high, radix: 36))-\(String(digest.low, radix: 36))\""
        let isKnown = ifNoneMatch.contains { Self.names($0, tag) }
        var response = HTTPResponse(status: 304)
        if !isKnown {
            response = EventAnswer.response(event.payload, event.properties, expiresAt: event.expiresAt, now: now)
        }
        response.headers.add("ETag", tag)
        response.headers.add("Cache-Control", "no-cache")
        return response
    }

    /// Whether a value of `If-None-Match` names a tag; weak or strong is all the same (RFC 9110 §13.1.2). Commas within
    /// a tag do no harm: none of ours has one.
    private static func names(_ value: String, _ tag: String) -> Bool {
        value.split(separator: ",").contains { part in
            let part = part.drop { $0 == " " }
            let name = part.prefix { $0 != " " }
            return name == "*" || name == tag || name == "W/\(tag)"
        }
    }

    // MARK: Which topics there are

    /// `GET /topics?filter=…&limit=…`: see ``TopicListing``.
    static func topics(
        _ request: HTTPRequest, _ principal: Principal, _ state: WebLane, _ connection: HTTPConversation,
        on lane: Lane
    ) throws(Problem) -> RequestVerdict {
        let filter = try filter(request.query("filter") ?? "#", principal.router.limits)
        guard let limit = Int(request.query("limit") ?? "\(usualTopics)"), (1...mostTopics).contains(limit) else {
            throw Problem(400, "limit is a number from 1 to \(mostTopics).")
        }
        guard state.listings < listingsAtOnce else { throw .later(503, "Too many listings are under way.", seconds: 1) }
        let listing = TopicListing(filter, limit: limit, principal, state) { [unowned connection] response in
            connection.respond(response)
        }
        connection.waiter = listing
        connection.setAnswerTime(milliseconds: TopicListing.maxMilliseconds, on: lane)
        listing.begin(on: lane)
        return .later
    }

    private static func filter(_ text: String, _ limits: Limits) throws(Problem) -> TopicFilter {
        let compiled: TopicFilter
        do throws(TopicFilter.Failure) {
            compiled = try TopicFilter(text, grammar: .either, limits: limits)
        } catch { throw Problem(400, "filter is no topic filter: \(error).") }
        guard compiled.group == nil, !compiled.isLocalOnly else {
            throw Problem(400, "filter has neither $share nor $local here.")
        }
        return compiled
    }
}
