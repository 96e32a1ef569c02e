public import Core

/// One HTTP/1.1 connection: puts requests together, holds them to the limits, and keeps their answers in order.
/// Sans-IO; confined to its lane.
///
/// One request is under way at a time, but publishes that come together are routed together. Bytes of an incomplete
/// request stay with the connection that carries this one, so that a complete one is read where it lies; only chunked
/// bodies are put together here. `+Answers` writes answers.
public final class HTTPConversation: Conversation {
    enum State {
        /// Between requests, or in the midst of a head or a body that has a length.
        case receiving
        /// The head has been taken, chunks are coming.
        case chunked
        /// A request has no answer yet.
        case waiting
        /// The connection is on its way to another lane.
        case moving(any HTTPTraveller)
        case streaming(any HTTPStream)
        case upgraded(Conversation)
        case ended
    }

    let site: any HTTPSite
    /// The connection outlives the conversation it carries.
    unowned(unsafe) public let link: Link
    /// The present lane's.
    private(set) var shared: HTTPLane
    var state = State.receiving
    /// What keeps the principal of a connection that says who it is with every request; the site's own.
    public var belonging: AnyObject?
    /// Who is going to answer the request under way; forgotten once the answer has been written.
    public var waiter: (any HTTPWaiter)?
    /// Header lines that the site adds to the answer under way, each with its line end.
    public var extraLines: [UInt8] = []

    /// The request that is coming in.
    private var partial = PartialRequest()
    private var chunked: ChunkedRequest?
    var lastActive: UInt64
    private var armedAt = UInt64.max
    /// Until when the request under way must be answered.
    var answerBy: UInt64 = 0
    /// Counts requests, so that late answers are told from others.
    private(set) var requestNumber = 0
    var isHead = false
    var closesAfterwards = false
    /// Whether an HTTP/1.0 client has to be told that the connection stays.
    var tellsKeepAlive = false
    private var isDraining = false
    private var hasInputEnded = false
    private var isFirst = true

    init(site: any HTTPSite, link: Link, shared: HTTPLane, on lane: Lane) {
        self.site = site
        self.link = link
        self.shared = shared
        lastActive = lane.now
        super.init()
        arm(lane.now + UInt64(site.limits.headerSeconds) * 1_000)
    }

    public override var label: String { inside?.label ?? "" }
    public override var provenIdentity: Identity? {
        if case .streaming(let stream) = state { return stream.owner }
        return inside.map(\.provenIdentity) ?? (belonging as? any HTTPBelonging)?.owner
    }

    /// The conversation that an upgrade has put in this one's place.
    public var inside: Conversation? {
        if case .upgraded(let conversation) = state { return conversation }
        return nil
    }

    // MARK: Bytes in

    public override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        if case .upgraded(let inside) = state { return inside.receive(bytes, turn, on: lane) }
        lastActive = lane.now
        var offset = 0
        while true {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[offset...])
            switch state {
            case .receiving:
                guard rest.count > 0, rest.count >= partial.awaited else {
                    if rest.count > 0 { began(lane) }
                    return Progress(consumed: offset, verdict: .waiting)
                }
                // Who does not read answers gets no more of them: see outputDrained.
                if link.isCongested {
                    return Progress(consumed: offset, verdict: turn.isEmpty ? .paused : .routeFirst)
                }
                let (count, verdict) = receiveHead(rest, turn, on: lane)
                offset += count
                if let verdict { return Progress(consumed: offset, verdict: verdict) }
            case .chunked:
                guard !rest.isEmpty else { return Progress(consumed: offset, verdict: .waiting) }
                let (count, verdict) = receiveChunks(rest, turn, on: lane)
                offset += count
                if let verdict { return Progress(consumed: offset, verdict: verdict) }
            case .waiting:
                // Read on while nothing comes, so that the end of the connection is noticed.
                return Progress(consumed: offset, verdict: rest.isEmpty ? .waiting : .paused)
            case .moving: return Progress(consumed: offset, verdict: .paused)
            case .upgraded(let inside):
                let progress = inside.receive(rest, turn, on: lane)
                return Progress(consumed: offset + progress.consumed, verdict: progress.verdict)
            case .streaming, .ended: return Progress(consumed: bytes.count, verdict: .waiting)
            }
        }
    }

    /// Takes a request from the beginning of `bytes` if it is complete.
    /// - Returns: bytes taken, and a verdict that ends the reading.
    private func receiveHead(
        _ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane
    ) -> (Int, Verdict?) {
        let limits = site.limits
        guard partial.isWorthParsing(bytes, atMost: limits.headerBytes) else { return (0, .waiting) }
        do throws(RequestHead.Failure) {
            let outcome = try RequestHead.parse(
                bytes, headerBytes: limits.headerBytes, targetBytes: limits.targetBytes, shared.storage)
            guard case .complete(let head) = outcome else {
                began(lane)
                partial.headIsIncomplete(bytes.count)
                return (0, .waiting)
            }
            return receiveBody(head, bytes, turn, on: lane)
        } catch {
            guard turn.isEmpty else { return (0, .routeFirst) }
            refuse(Problem(error, limits), on: lane)
            return (bytes.count, .waiting)
        }
    }

    private func receiveBody(
        _ head: RequestHead, _ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane
    ) -> (Int, Verdict?) {
        let length = head.contentLength ?? 0
        let total = head.length + length
        // Answers differ in more than their bodies: what the site adds to this one, or how it ends, must not befall
        // those before it.
        guard turn.isEmpty || head.isKeepAlive && !head.isVersion1_0 && !head.method.elementsEqual("HEAD".utf8) else {
            return (0, .routeFirst)
        }
        let admission = site.admit(head, of: self, on: lane)
        guard turn.isEmpty || extraLines.isEmpty else {
            extraLines = []
            return (0, .routeFirst)
        }
        switch admission {
        case .granted: break
        case .pending: return (0, turn.isEmpty ? .paused : .routeFirst)
        case .answered(let response):
            guard turn.isEmpty else { return (0, .routeFirst) }
            return turnAway(head, response, total <= bytes.count && !head.isChunked ? total : nil, bytes, on: lane)
        }
        if !head.isChunked, bytes.count >= total, length <= site.limits.bodyBytes, head.expectation == nil {
            // The usual case: all of it is there.
            let body = UnsafeRawBufferPointer(rebasing: bytes[head.length..<total])
            guard !turn.isFull else { return (0, .routeFirst) }
            return take(head, body, count: total, turn, on: lane)
        }
        guard turn.isEmpty else { return (0, .routeFirst) }
        guard length <= site.limits.bodyBytes else {
            refuse(tooLarge, head, on: lane)
            return (bytes.count, .waiting)
        }
        if let problem = expect(head, hasBody: bytes.count > head.length) {
            refuse(problem, head, on: lane)
            return (bytes.count, .waiting)
        }
        if head.isChunked {
            chunked = ChunkedRequest(head: Array(bytes[..<head.length]), limit: site.limits.bodyBytes)
            state = .chunked
            beginBody(0, lane)
            return (head.length, nil)
        }
        if bytes.count >= total {
            return take(
                head, UnsafeRawBufferPointer(rebasing: bytes[head.length..<total]), count: total, turn, on: lane)
        }
        partial.awaited = total
        beginBody(length, lane)
        return (0, .waiting)
    }

    /// Answers a request that is not let in, and goes on after it when all of it is there.
    /// - Parameter count: bytes of the request; nil when some are still to come.
    private func turnAway(
        _ head: RequestHead, _ response: HTTPResponse, _ count: Int?, _ bytes: UnsafeRawBufferPointer, on lane: Lane
    ) -> (Int, Verdict?) {
        lane.counters.packetsIn &+= 1
        requestNumber &+= 1
        forgetRequest()
        closesAfterwards = isDraining || hasInputEnded || !head.isKeepAlive || count == nil
        noteForm(of: head)
        respond(response)
        return (count ?? bytes.count, isOver ? .waiting : nil)
    }

    private func receiveChunks(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> (Int, Verdict?) {
        guard let chunked else { return (bytes.count, .close(.protocolError)) }
        do throws(ChunkedBody.Failure) {
            let (count, isComplete) = try chunked.body.take(bytes)
            partial.bodyLength = chunked.body.bytes.count
            guard isComplete else { return (count, .waiting) }
            return (count, takeChunked(chunked, turn, on: lane))
        } catch {
            refuse(
                error == .tooLarge ? tooLarge : Problem(400, "The chunks of the body are malformed."), on: lane)
            return (bytes.count, .waiting)
        }
    }

    private func takeChunked(_ chunked: ChunkedRequest, _ turn: Turn, on lane: Lane) -> Verdict? {
        state = .receiving
        let limits = site.limits
        return chunked.head.withUnsafeBytes { bytes in
            // Parsed before, hence complete and well-formed.
            guard
                case .complete(let head)? = try? RequestHead.parse(
                    bytes, headerBytes: limits.headerBytes, targetBytes: limits.targetBytes, shared.storage)
            else { return .close(.protocolError) }
            return chunked.body.bytes.withUnsafeBytes { body -> Verdict? in
                // What it publishes lies in `chunked`, which stays until the turn has been routed.
                let verdict = take(head, body, count: 0, turn, on: lane).1
                if turn.isEmpty { self.chunked = nil }
                return verdict ?? (turn.isEmpty ? nil : .routeFirst)
            }
        }
    }

    /// Gives a complete request to the site.
    private func take(
        _ head: RequestHead, _ body: UnsafeRawBufferPointer, count: Int, _ turn: Turn, on lane: Lane
    ) -> (Int, Verdict?) {
        // The same for all requests of a turn but a lonely one: see receiveBody.
        closesAfterwards = isDraining || hasInputEnded || !head.isKeepAlive
        noteForm(of: head)
        let verdict = site.take(head, body, of: self, turn, on: lane)
        if case .routeFirst = verdict {
            extraLines = []
            return (0, .routeFirst)
        }
        lane.counters.packetsIn &+= 1
        requestNumber &+= 1
        forgetRequest()
        return (count, follow(verdict, on: lane))
    }

    /// Goes on as the site says.
    /// - Returns: a verdict that ends the reading.
    private func follow(_ verdict: RequestVerdict, on lane: Lane) -> Verdict? {
        switch verdict {
        case .answered: return isOver ? .waiting : nil
        case .publishing:
            let isLonely = closesAfterwards || tellsKeepAlive || isHead || !extraLines.isEmpty
            return isLonely ? wait(lane, .routeFirst) : nil
        case .publishingAlone: return wait(lane, .routeFirst)
        case .later: return wait(lane, nil)
        case .routeFirst: return .routeFirst
        case .streaming(let stream):
            (chunked, belonging) = (nil, nil)
            if !isOver { state = .streaming(stream) }
        case .upgraded(let inside):
            (chunked, belonging) = (nil, nil)
            state = .upgraded(inside)
        case .moving(let number, let traveller):
            chunked = nil
            state = .moving(traveller)
            link.move(to: number) { conversation, lane in (conversation as? HTTPConversation)?.arrived(on: lane) }
            return .paused
        }
        return nil
    }

    /// The connection has moved: nothing of the former lane may be used any more, and its timer is gone.
    private func arrived(on lane: Lane) {
        guard case .moving(let traveller) = state else { return }
        shared = HTTPLane.of(lane, shared.wallClock)
        belonging = nil
        armedAt = .max
        lastActive = lane.now
        state = .receiving
        if case .paused = follow(traveller.arrived(self, on: lane), on: lane) { return }
        arm(deadline)
        // The former lane may have been told to stop while this one had been already.
        if isDraining { _ = drain(on: lane) }
        link.resume()
    }

    private func wait(_ lane: Lane, _ verdict: Verdict?) -> Verdict? {
        guard !isOver else { return .waiting }
        state = .waiting
        if answerBy == 0 { setAnswerTime(seconds: site.limits.handlerSeconds, on: lane) }
        return verdict
    }

    /// What an answer must be like, besides what it says.
    private func noteForm(of head: RequestHead) {
        isHead = head.method.elementsEqual("HEAD".utf8)
        tellsKeepAlive = head.isVersion1_0 && head.isKeepAlive
    }

    private func forgetRequest() {
        partial = PartialRequest()
        isFirst = false
    }

    private var isOver: Bool { if case .ended = state { true } else { false } }

    private var tooLarge: Problem { Problem(413, "A body has at most \(site.limits.bodyBytes) bytes here.") }

    /// Lets a client that asks first send its body.
    private func expect(_ head: RequestHead, hasBody: Bool) -> Problem? {
        guard let expectation = head.expectation, !head.isVersion1_0 else { return nil }
        guard expectation.isSame(as: "100-continue") else {
            return Problem(417, "Only 100-continue can be expected.")
        }
        if !partial.hasContinued, !hasBody, head.isChunked || (head.contentLength ?? 0) > 0 {
            partial.hasContinued = true
            let line: StaticString = "HTTP/1.1 100 Continue\r\n\r\n"
            link.append(line.utf8Start, line.utf8CodeUnitCount)
        }
        return nil
    }

    /// Refuses the connection: what follows on it cannot be trusted, or is not wanted.
    /// - Parameter head: the request's, if it has one.
    private func refuse(_ problem: Problem, _ head: RequestHead? = nil, on lane: Lane) {
        lane.counters.packetsIn &+= 1
        closesAfterwards = true
        isHead = head?.method.elementsEqual("HEAD".utf8) ?? false
        chunked = nil
        if head == nil { extraLines = [] }
        respond(problem)
    }

    // MARK: Outcomes

    public override func routed(_ turn: Turn, on lane: Lane) {
        if case .upgraded(let inside) = state { return inside.routed(turn, on: lane) }
        site.routed(turn, of: self, on: lane)
        if case .chunked = state {} else { chunked = nil }
    }

    // MARK: Time

    /// Until when the request under way must be answered; then the client is told 503, or what the site says with
    /// ``respond(_:)`` before.
    public func setAnswerTime(seconds: Int, on lane: Lane) {
        setAnswerTime(milliseconds: max(seconds, 0) * 1_000, on: lane)
    }

    /// The same, more precisely. A ``waiter`` is asked first.
    public func setAnswerTime(milliseconds: Int, on lane: Lane) {
        answerBy = lane.now + UInt64(max(milliseconds, 0))
        arm(answerBy)
    }

    private func began(_ lane: Lane) {
        if partial.begin(at: lane.now) { arm(deadline) }
    }

    private func beginBody(_ length: Int, _ lane: Lane) {
        if partial.beginBody(length, at: lane.now) { arm(deadline) }
    }

    /// When the connection has been too slow, in its present state.
    private var deadline: UInt64 {
        let limits = site.limits
        func after(_ start: UInt64, _ seconds: Int) -> UInt64 { start + UInt64(max(seconds, 0)) * 1_000 }
        switch state {
        case .receiving where partial.isBody, .chunked:
            return after(partial.beganAt, limits.bodySeconds + partial.bodyLength / max(limits.bodyBytesPerSecond, 1))
        case .receiving:
            if partial.beganAt > 0 { return after(partial.beganAt, limits.headerSeconds) }
            return after(lastActive, isFirst ? limits.headerSeconds : limits.idleSeconds)
        case .waiting: return answerBy
        case .moving, .streaming, .upgraded, .ended: return .max
        }
    }

    /// One timer for all deadlines: it looks again when it came too early.
    private func arm(_ time: UInt64) {
        guard time < armedAt else { return }
        armedAt = time
        link.tick(at: time)
    }

    public override func tick(on lane: Lane) -> Result<UInt64?, CloseReason> {
        switch state {
        case .upgraded(let inside): return inside.tick(on: lane)
        case .streaming(let stream): return stream.tick(on: lane)
        case .moving, .ended: return .success(nil)
        case .receiving, .chunked, .waiting: break
        }
        armedAt = .max
        let due = deadline
        guard due <= lane.now else {
            armedAt = due
            return .success(due)
        }
        switch state {
        case .waiting:
            if let waiter, waiter.timedOut(on: lane) { break }
            respond(Problem(503, "There was no answer in time."))
        case .receiving where partial.beganAt == 0:
            state = .ended
            link.finish(.requestTimeout)
        default:
            let seconds = partial.isBody ? site.limits.bodySeconds : site.limits.headerSeconds
            let what = partial.isBody ? "A body must be complete" : "A request's header must be complete"
            lateReason = .requestTimeout
            refuse(Problem(408, "\(what) within \(seconds) seconds."), on: lane)
        }
        guard !isOver else { return .success(nil) }
        armedAt = deadline
        return .success(armedAt == .max ? nil : armedAt)
    }

    /// Why the connection ends after the answer under way.
    var lateReason = CloseReason.clientDisconnected

    // MARK: The end

    public override func produce(on lane: Lane) { inside?.produce(on: lane) }

    public override func outputDrained(on lane: Lane) {
        switch state {
        case .upgraded(let inside): inside.outputDrained(on: lane)
        case .streaming(let stream): stream.outputDrained(on: lane)
        case .receiving: link.resume()
        default: break
        }
    }

    public override func inputEnded(on lane: Lane) -> Bool {
        switch state {
        case .upgraded(let inside): return inside.inputEnded(on: lane)
        case .waiting:
            // The client may still read the answer it waits for.
            hasInputEnded = true
            closesAfterwards = true
        case .receiving, .chunked: link.finish(.clientDisconnected)
        case .streaming(let stream): end(stream, .clientDisconnected, on: lane)
        case .moving, .ended: break
        }
        return true
    }

    private func end(_ stream: any HTTPStream, _ reason: CloseReason, on lane: Lane) {
        state = .ended
        stream.ended(reason, on: lane)
        link.finish(reason)
    }

    public override func drain(on lane: Lane) -> Bool {
        isDraining = true
        switch state {
        case .upgraded(let inside): return inside.drain(on: lane)
        case .waiting:
            closesAfterwards = true
            waiter?.drain(on: lane)
        case .streaming(let stream):
            stream.drain(on: lane)
            end(stream, .shutdown, on: lane)
        case .moving: closesAfterwards = true
        case .receiving, .chunked:
            state = .ended
            link.finish(.shutdown)
        case .ended: break
        }
        return true
    }

    public override func close(_ reason: CloseReason, on lane: Lane) {
        switch state {
        case .upgraded(let inside): inside.close(reason, on: lane)
        case .streaming(let stream): stream.ended(reason, on: lane)
        default: break
        }
        if case .upgraded = state { return }
        state = .ended
        belonging = nil
        let waiter = self.waiter
        self.waiter = nil
        waiter?.gone(on: lane)
    }
}
