import Core

/// Polling for events, `GET /poll`: the same channels as streams have, for clients that can only ask and be answered.
///
/// The answer is `{"events":[…],"next":"<id>"}`, with `"gap":true` when something after the reader's id is missing;
/// `next` is what the next poll says as `after`. The first poll has none: from it on the channel collects, and its
/// `next` is where that began, or where what it brings ends.
final class LongPoll: HTTPWaiter {
    /// The number of the last event that the reader has.
    let position: UInt64
    /// Events that the answer has at most.
    let limit: Int
    /// Its place in the channel's list; -1 when it is in none.
    var place = -1
    /// Forgets this poll when it has been answered, or has ended.
    private unowned(unsafe) let connection: HTTPConversation
    private let channel: EventChannel

    /// An answer.
    struct Page {
        var body: [UInt8] = []
        var count = 0
    }

    /// Answers a poll, lets it wait, or sends the connection to the lane where it can be answered.
    static func take(
        _ request: HTTPRequest, _ principal: Principal, _ web: WebLane, _ connection: HTTPConversation, _ lane: Lane
    ) throws(Problem) -> RequestVerdict {
        guard request.method == .get else { throw .onlyGet }
        let wanted = try StreamRequest.poll(request, lane.limits)
        return try Reception(wanted, principal, until: Visitor.end(of: connection), web.context).begin(
            connection, on: lane)
    }

    init(_ channel: EventChannel, _ connection: HTTPConversation, after position: UInt64, limit: Int) {
        self.channel = channel
        self.connection = connection
        self.position = position
        self.limit = limit
    }

    /// Answers.
    func answer(_ page: Page, on lane: Lane) {
        channel.sent(page.count, bytes: page.body.count, on: lane)
        connection.respond(
            status: 200, lines: "Content-Type: application/json\r\nCache-Control: no-store\r\n",
            body: page.body.span.bytes)
    }

    private func answerNow(on lane: Lane) {
        channel.leave(self, on: lane)
        answer(channel.page(after: position, limit: limit, hasGap: false, on: lane), on: lane)
    }

    // MARK: HTTPWaiter

    func gone(on lane: Lane) { channel.leave(self, on: lane) }

    func timedOut(on lane: Lane) -> Bool {
        answerNow(on: lane)
        return true
    }

    func drain(on lane: Lane) { answerNow(on: lane) }
}
