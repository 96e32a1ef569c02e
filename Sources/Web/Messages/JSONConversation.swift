import Core

/// The subprotocol `apus.v1.json`: one JSON object a message, described in `docs/websocket.md`. Sans-IO; gets whole
/// messages from the WebSocket around it. Confined to its lane.
final class JSONConversation: Conversation {
    /// A message that a client sends.
    private enum Operation: String {
        case authenticate, subscribe, unsubscribe, publish, ack, ping
    }

    /// A guaranteed publish that other lanes have still to take, or that a full port holds.
    private struct Unsettled {
        var id: [UInt8]?
        var event: [UInt8]
        var matched: Int
        var pending: Int
        var refused: Int
    }

    private let context: WebContext
    private unowned(unsafe) let link: WebSocketLink
    private let state: WebLane
    private var principal: Principal?
    private var inbox: JSONInbox?
    /// What the turn being filled publishes: the client's id and the event's.
    private var published: [(id: [UInt8]?, event: [UInt8])] = []
    private var unsettled: [UInt32: Unsettled] = [:]
    private var isAuthenticating = false
    /// When the proof of who the client is ends; `max` for never.
    private var endsAt: UInt64
    private var isHeld = false
    /// The id of the `authenticate` that has no answer yet.
    private var authenticationID: [UInt8]?

    /// - Parameters:
    ///   - principal: who the handshake proved the client to be; nil when it must say so here.
    ///   - endsAt: when that proof ends.
    init(_ context: WebContext, link: WebSocketLink, principal: Principal?, until endsAt: UInt64, on lane: Lane) {
        self.endsAt = endsAt
        self.context = context
        self.link = link
        self.principal = principal
        state = context.state(of: lane)
        super.init()
        if endsAt != .max { link.tick(at: endsAt) }
    }

    override var label: String { principal?.identity.user ?? "" }

    // MARK: Messages

    override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        if isAuthenticating || unsettled.count >= lane.limits.maxUnsettled {
            isHeld = true
            return Progress(consumed: 0, verdict: .paused)
        }
        let message: JSONMessage
        do throws(JSONScanner.Failure) { message = try JSONMessage(bytes) } catch {
            guard turn.isEmpty else { return Progress(consumed: 0, verdict: .routeFirst) }
            fail(nil, 400, "This is no JSON object: \(error.text).")
            return Progress(consumed: bytes.count, verdict: .close(.malformedPacket))
        }
        if let twice = JSONScanner.duplicate(in: message.members) {
            guard turn.isEmpty else { return Progress(consumed: 0, verdict: .routeFirst) }
            fail(nil, 400, "\(JSONEvent.shown(twice)): it is given twice.")
            return Progress(consumed: bytes.count, verdict: .waiting)
        }
        guard let operation = message.text("op").flatMap(Operation.init) else {
            guard turn.isEmpty else { return Progress(consumed: 0, verdict: .routeFirst) }
            fail(message.id, 400, "op is authenticate, subscribe, unsubscribe, publish, ack or ping.")
            return Progress(consumed: bytes.count, verdict: .waiting)
        }
        guard operation == .publish ? !turn.isFull : turn.isEmpty else {
            return Progress(consumed: 0, verdict: .routeFirst)
        }
        lane.counters.packetsIn &+= operation == .publish ? 0 : 1
        do throws(Problem) {
            try take(operation, message, turn, on: lane)
        } catch {
            guard turn.isEmpty else { return Progress(consumed: 0, verdict: .routeFirst) }
            fail(message.id, error.status, error.detail)
        }
        return Progress(consumed: bytes.count, verdict: isAuthenticating ? .paused : .waiting)
    }

    private func take(
        _ operation: Operation, _ message: JSONMessage, _ turn: Turn, on lane: Lane
    ) throws(Problem) {
        switch operation {
        case .ping: answer(message.id) { _ in }
        case .authenticate: try authenticate(message, on: lane)
        case .subscribe: try subscribe(message, on: lane)
        case .unsubscribe: try unsubscribe(message, on: lane)
        case .publish: try publish(message, turn, on: lane)
        case .ack:
            guard let number = message.integer("seq"), number > 0 else {
                throw Problem(400, "seq is the number of an event.")
            }
            guard inbox?.acknowledge(UInt64(number), on: lane) == true else {
                throw Problem(404, "No event \(number) waits to be acknowledged.")
            }
            answer(message.id) { _ in }
        }
    }

    private func known() throws(Problem) -> Principal {
        guard let principal else { throw Problem(401, "Say who you are first: op authenticate.") }
        return principal
    }

    private func port(on lane: Lane) throws(Problem) -> JSONInbox {
        if let inbox { return inbox }
        let principal = try known()
        let made = JSONInbox(self, principal: principal, state: state)
        made.attach(link, principal: principal)
        principal.router.register(made, on: lane)
        inbox = made
        return made
    }

    // MARK: Who

    private func authenticate(_ message: JSONMessage, on lane: Lane) throws(Problem) {
        // Later the same user may prove anew who it is.
        guard inbox == nil || principal?.identity.user != nil else {
            throw Problem(409, "Who you are can be said before anything else only.")
        }
        var credentials = Credentials(link, "http", user: nil, password: nil)
        switch (message.text("user"), message.bytes("password"), message.bytes("token")) {
        case (let user?, let password?, nil): (credentials.user, credentials.password) = (user, password)
        case (nil, nil, let token?) where context.takesTokens: credentials.token = token
        default:
            throw Problem(400, "user and password are texts\(context.takesTokens ? ", or token is one" : "").")
        }
        isAuthenticating = true
        authenticationID = message.id
        let hadToken = credentials.token != nil
        let reply = link.callback { (conversation: Conversation, result: AuthenticationResult, lane: Lane) in
            guard let conversation = conversation as? JSONConversation else { return }
            conversation.authenticated(result, hadToken: hadToken, on: lane)
            conversation.link.resume()
        }
        if let result = context.authenticator.authenticate(credentials, reply: reply) {
            authenticated(result, hadToken: hadToken, on: lane)
        }
    }

    private func authenticated(_ result: AuthenticationResult, hadToken: Bool, on lane: Lane) {
        isAuthenticating = false
        let id = authenticationID
        authenticationID = nil
        switch result {
        case .accepted(let identity):
            guard let router = context.routers[identity.namespace] else {
                return fail(id, 403, "This user belongs to a namespace that the node does not have.")
            }
            if let inbox, let known = principal {
                guard identity.user == known.identity.user, router === known.router else {
                    return fail(id, 403, "Only the same user can prove anew who it is.")
                }
                let renewed = known.renewed(identity)
                principal = renewed
                inbox.attach(link, principal: renewed)
            } else {
                let principal = Principal(identity: identity, clientID: "", router: router, link: link)
                (principal.peer, principal.protocolName) = (link.peer, "http")
                guard principal.join(link, on: lane) == nil else {
                    return fail(id, 429, "Too many connections of this user.")
                }
                self.principal = principal
            }
            endsAt = identity.end(from: lane.now)
            link.tick(at: endsAt)
            answer(id) { _ in }
        case .refused(.busy): fail(id, 503, "Too many passwords are being checked.")
        case .refused(.tooManyFailures): fail(id, 429, "Too many wrong attempts.")
        case .refused(.badCredentials), .refused(.anonymousNotAllowed):
            fail(id, 401, hadToken ? "The token is not valid." : "User unknown, or the password is wrong.")
        }
    }

    // MARK: Subscriptions

    private func filter(_ message: JSONMessage, _ limits: Limits) throws(Problem) -> TopicFilter {
        guard var text = message.text("filter") else { throw Problem(400, "filter is a text.") }
        if let group = message.text("group") {
            guard !group.isEmpty, !group.utf8.contains(where: { "/+#".utf8.contains($0) }), !text.hasPrefix("$share/")
            else { throw Problem(400, "group is a name without '/', '+' and '#', and filter has no group of its own.") }
            text = "$share/\(group)/\(text)"
        }
        do throws(TopicFilter.Failure) {
            return try TopicFilter(Array(text.utf8), grammar: .either, limits: limits)
        } catch { throw Problem(400, "filter is no topic filter: \(error).") }
    }

    private func subscribe(_ message: JSONMessage, on lane: Lane) throws(Problem) {
        let filter = try filter(message, lane.limits)
        let qos = message.integer("qos") ?? 0
        guard (0...1).contains(qos) else { throw Problem(400, "qos is 0 or 1.") }
        var options = DeliveryOptions.qos(UInt8(qos))
        if message.bool("no_local") == true { options.insert(.noLocal) }
        var weight: UInt16?
        if message.has("weight") {
            guard let number = message.integer("weight").flatMap({ MemberWeight.parse($0) }) else {
                throw Problem(400, "weight is a whole number from 0 to 1000.")
            }
            guard filter.group != nil else {
                throw Problem(400, "weight is for members of a shared group, which group names.")
            }
            weight = number
        }
        let outcome = try port(on: lane).subscribe(
            filter, options, weight: weight, name: message.id, wantsRetained: message.bool("retained") ?? true,
            on: lane)
        switch outcome {
        case .granted: answer(message.id) { _ in }
        case .notAuthorized: throw .forbidden("Subscribing to this filter is not allowed.", try known(), context)
        case .overQuota: throw Problem(429, "This user has as many subscriptions as it may.")
        case .overLimit: throw Problem(429, "A client has at most \(lane.limits.maxSubscriptionsPerSession) filters.")
        }
    }

    private func unsubscribe(_ message: JSONMessage, on lane: Lane) throws(Problem) {
        let filter = try filter(message, lane.limits)
        _ = try known()
        guard inbox?.unsubscribe(filter) == true else { throw Problem(404, "There is no subscription to this filter.") }
        answer(message.id) { _ in }
    }

    // MARK: Publishing

    private func publish(_ message: JSONMessage, _ turn: Turn, on lane: Lane) throws(Problem) {
        let principal = try known()
        let event = try JSONEvent.read(message.members, in: message.whole, others: ["op", "id"])
        guard event.topic.withUnsafeBytes({ Topic.isValid($0, limits: lane.limits) }) else {
            throw Problem(400, "topic is no topic: levels of text between slashes, without the wildcards + and #.")
        }
        let publisher = event.qos > 0 ? try port(on: lane).address : inbox?.address ?? .none
        let id = state.append(event, publisher: publisher, principal, turn, on: lane)
        published.append((message.id, id))
    }

    override func routed(_ turn: Turn, on lane: Lane) {
        defer {
            published.removeAll(keepingCapacity: true)
            state.forgetPublished()
        }
        for number in 0..<min(turn.runCount, published.count) {
            let run = turn.runs + number
            let outcome = turn.outcomes[number]
            let (id, event) = published[number]
            state.traffic.received(1, bytes: run.pointee.wireLength, qos: run.pointee.qos)
            switch outcome.verdict {
            case .routed:
                let item = Unsettled(
                    id: id, event: event, matched: Int(outcome.matched), pending: Int(outcome.pending),
                    refused: Int(outcome.refused))
                if run.pointee.qos > 0, outcome.pending > 0 { unsettled[outcome.token] = item } else { settle(item) }
            case .notAuthorized: forbid(id, "Publishing to this topic is not allowed.")
            case .quotaExceeded: fail(id, 429, "More events a second than this node takes.")
            case .payloadTooLarge: fail(id, 413, "The payload is larger than this user may publish.")
            case .malformedTopic: fail(id, 400, "topic is no topic.")
            }
        }
    }

    func receiptArrived(token: UInt32, refused: Int, more: Int, on lane: Lane) {
        guard var item = unsettled[token] else { return }
        item.pending += more - 1
        item.refused += refused
        unsettled[token] = item.pending > 0 ? item : nil
        if item.pending == 0 { settle(item) }
        if isHeld, !isAuthenticating, unsettled.count < lane.limits.maxUnsettled {
            isHeld = false
            link.resume()
        }
    }

    private func settle(_ item: Unsettled) {
        guard item.refused == 0 else {
            return fail(item.id, 503, "\(item.refused) of \(item.matched) subscribers could not take it.")
        }
        answer(item.id) { writer in
            writer.key("event")
            writer.string(item.event)
            writer.key("matched")
            writer.number(item.matched)
        }
    }

    // MARK: Answers

    /// `ok`, for whoever gave an id.
    private func answer(_ id: [UInt8]?, _ body: (inout JSONWriter) -> Void) {
        guard let id else { return }
        var writer = JSONWriter()
        writer.beginObject()
        writer.key("op")
        writer.string("ok".utf8)
        writer.key("id")
        writer.raw(id)
        body(&writer)
        writer.endObject()
        link.packets &+= 1
        send(writer.bytes, [])
    }

    /// Says that somebody may not do something: those without a name may come back with one.
    func forbid(_ id: [UInt8]?, _ detail: String) {
        guard let principal else { return fail(id, 403, detail) }
        let problem = Problem.forbidden(detail, principal, context)
        fail(id, problem.status, problem.detail)
    }

    func fail(_ id: [UInt8]?, _ status: Int, _ detail: String) {
        var writer = JSONWriter()
        writer.beginObject()
        writer.key("op")
        writer.string("error".utf8)
        if let id {
            writer.key("id")
            writer.raw(id)
        }
        writer.key("status")
        writer.number(status)
        writer.key("detail")
        writer.string(detail)
        writer.endObject()
        link.packets &+= 1
        send(writer.bytes, [])
    }

    /// Sends one message made of two parts.
    func send(_ front: [UInt8], _ rest: ArraySlice<UInt8>) {
        front.withUnsafeBytes { if let base = $0.baseAddress { link.append(base, $0.count) } }
        rest.withUnsafeBytes { if let base = $0.baseAddress { link.append(base, $0.count) } }
        link.endMessage()
    }

    // MARK: The end

    override var provenIdentity: Identity? { principal?.identity }

    override func tick(on lane: Lane) -> Result<UInt64?, CloseReason> {
        guard lane.now >= endsAt else { return .success(endsAt == .max ? nil : endsAt) }
        principal?.proofHasEnded()
        fail(nil, 401, "The token or certificate has ended.")
        return .failure(.proofEnded)
    }

    override func outputDrained(on lane: Lane) { inbox?.pump(on: lane) }

    override func close(_ reason: CloseReason, on lane: Lane) {
        inbox?.end(on: lane)
        inbox = nil
    }
}

/// A message's members, found once. Borrowed.
struct JSONMessage {
    private let bytes: UnsafeRawBufferPointer
    let members: [(name: String, value: JSONScanner.Value)]

    /// - Throws: when it is no JSON object.
    init(_ bytes: UnsafeRawBufferPointer) throws(JSONScanner.Failure) {
        self.bytes = bytes
        members = try JSONScanner.members(of: bytes)
    }

    private func value(_ name: String) -> JSONScanner.Value? { members.first { $0.name == name }?.value }

    func has(_ name: String) -> Bool { value(name) != nil }
    func text(_ name: String) -> String? { value(name).flatMap { JSONScanner.string($0, in: bytes) } }
    func bytes(_ name: String) -> [UInt8]? { value(name).flatMap { JSONScanner.bytes($0, in: bytes) } }
    func integer(_ name: String) -> Int? { value(name).flatMap { JSONScanner.integer($0, in: bytes) } }
    func bool(_ name: String) -> Bool? { value(name).flatMap { JSONScanner.bool($0, in: bytes) } }

    /// The client's own name for the message, as it wrote it: a text or a number.
    var id: [UInt8]? {
        guard let value = value("id"), value.kind == .string || value.kind == .number, value.range.count <= 256 else {
            return nil
        }
        return Array(bytes[value.range])
    }

    /// The whole message.
    var whole: UnsafeRawBufferPointer { bytes }
}
