import Core

/// Requests that wait for a reply: an HTTP client publishes an event with `Apus-Reply-Wait`, and its answer is the
/// first event that arrives at the reply topic made for it. `ReplyPort` is what they arrive at.
///
/// A reply topic is `apus/reply/<run of the node>/<lane>/<64 random bits>`. Who answers needs the right to publish to
/// `apus/reply/#`. Nobody can guess where an answer goes, but without access rules everybody may subscribe to
/// everything, hence to requests, which say where their answers go, and to `apus/reply/#`. Where that matters a rule
/// denies clients to subscribe to `apus/reply/#`: the node needs none to take the replies.
public enum Replies {
    /// What every reply topic begins with.
    public static let topicPrefix: StaticString = "apus/reply"

    /// The longest time to wait, in milliseconds.
    static let maxWaitMilliseconds = 300_000

    /// Publishes a request and leaves its answer to its reply.
    ///
    /// 200 with the reply's payload and properties; 504 when none came in time; 503 at once when nobody is subscribed
    /// to the topic, for then none can come. What matched may be a session whose client is away, or somebody who never
    /// answers: then it is 504. Guaranteed or direct says how the request travels, not how the reply does.
    /// - Throws: 400 when the event asks for what a request cannot have, 401 or 403 when the client may not publish to
    ///   the topic, 429 when it publishes too fast or too many requests wait already.
    static func ask(
        _ request: ReplyRequest, _ principal: Principal, _ state: WebLane, _ connection: HTTPConversation,
        on lane: Lane
    ) throws(Problem) -> RequestVerdict {
        do throws(Problem) {
            try check(request)
            let port = try ReplyPort.of(principal.router, state, on: lane)
            return try port.ask(request, principal, connection, on: lane)
        } catch {
            request.ticket?.abandon()
            throw error
        }
    }

    private static func check(_ request: ReplyRequest) throws(Problem) {
        guard (1...maxWaitMilliseconds).contains(request.waitMilliseconds) else {
            throw Problem(400, "Apus-Reply-Wait is from 1 to \(maxWaitMilliseconds) milliseconds.")
        }
        guard !request.isRetained else { throw Problem(400, "An event that waits for a reply cannot be retained.") }
    }
}

/// An event that somebody waits for the reply to. Its memory is borrowed for the call it is given to.
struct ReplyRequest {
    var topic: UnsafeRawBufferPointer
    var payload: UnsafeRawBufferPointer
    /// What the client says of it, perhaps with correlation data; the node adds where the reply goes to.
    var properties = EventPropertiesWriter()
    var qos: UInt8 = 0
    var isRetained = false
    /// In the lane's milliseconds; 0 for never.
    var expiresAt: UInt64 = 0
    var waitMilliseconds: Int
    /// What to tell the outcome, if the request has an idempotency key.
    var ticket: IdempotencyTicket?

    /// The event, with its reply topic, correlation data and a name if it has none.
    /// - Throws: 400 when the properties name a reply topic already.
    func event(replyTo topic: [UInt8], correlation: [UInt8], _ state: WebLane) throws(Problem) -> Event {
        var properties = properties
        var (hasCorrelation, hasName) = (false, false)
        let said = properties.finish().bytes
        let hasReplyTopic = said.withUnsafeBytes { bytes in
            EventProperties(bytes).reduce(false) { found, property in
                hasCorrelation = hasCorrelation || property.identifier == .correlationData
                hasName = hasName || property.identifier == .messageID
                return found || property.identifier == .responseTopic
            }
        }
        guard !hasReplyTopic else { throw Problem(400, "Apus-Reply-Wait and Apus-Reply-To exclude each other.") }
        properties.add(.responseTopic, topic)
        if !hasCorrelation { properties.add(.correlationData, correlation) }
        if !hasName {
            let count = state.nextEventID()
            properties.add(.messageID, UnsafeRawBufferPointer(start: state.eventID, count: count))
        }
        let (bytes, extensionLength) = properties.finish()
        return bytes.withUnsafeBytes {
            Event(
                topic: self.topic, properties: $0, payload: payload, qos: qos, isRetained: false,
                expiresAt: expiresAt, extensionLength: extensionLength)
        }
    }
}

/// A request without a reply yet. Kept by its port under its token, and by its connection as long as there is one.
final class PendingReply: HTTPWaiter {
    let token: UInt64
    /// Until when somebody waits, in the lane's milliseconds.
    let until: UInt64
    let ticket: IdempotencyTicket?
    /// Whether the request has been published; the first ones of a lane wait for that.
    var isPublished = false
    private unowned let port: ReplyPort
    private var connection: HTTPConversation?

    init(
        _ token: UInt64, _ port: ReplyPort, _ connection: HTTPConversation, until: UInt64, _ ticket: IdempotencyTicket?
    ) {
        self.token = token
        self.port = port
        self.connection = connection
        self.until = until
        self.ticket = ticket
    }

    /// Gives the answer to whoever waits. The port has forgotten it.
    func answer(_ response: HTTPResponse) {
        ticket?.settle(response)
        let waiting = connection
        connection = nil
        waiting?.respond(response)
    }

    /// The request has come to nothing, and may be made again. The port has forgotten it.
    func fail(_ response: HTTPResponse) {
        ticket?.abandon()
        let waiting = connection
        connection = nil
        waiting?.respond(response)
    }

    /// Nobody was asked.
    func cancel() {
        connection?.waiter = nil
        connection = nil
    }

    func gone(on lane: Lane) {
        connection = nil
        // With a key the client may come back and ask again, so the reply is still wanted.
        if ticket == nil { port.forget(token) } else { port.orphan(token) }
    }

    func timedOut(on lane: Lane) -> Bool {
        port.forget(token)
        answer(Self.lateProblem.response)
        return true
    }

    func drain(on lane: Lane) {
        port.forget(token)
        guard isPublished else { return fail(Problem(503, "The node is stopping. Nothing was published.").response) }
        let detail = "The node is stopping. The request was published, but its reply will not arrive here."
        answer(Problem(503, detail).response)
    }

    /// What is said when the time is over.
    static let lateProblem = Problem(504, "The request was published, but no reply came within Apus-Reply-Wait.")
}
