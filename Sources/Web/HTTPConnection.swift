import Glibc
import NIOCore
import NIOHTTP1

/// One HTTP/1.1 connection, behind NIO's decoder, encoder and pipelining handler: puts requests together, holds them to
/// the limits, and writes the answers. One request is under way at a time; the pipelining handler holds back the next
/// until the answer before it has reached the socket.
///
/// Threading: confined to its event loop. Answers come from any thread and hop here.
final class HTTPConnection: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private enum Phase {
        /// Between requests.
        case idle
        /// The first byte of a request has come, the last has not.
        case receiving
        /// A handler has the request.
        case handling
        /// The answer is on its way to the socket.
        case sending
        /// Everything has been said; the client may read it before the end.
        case lingering
    }

    /// What ends a connection between two requests when the server stops.
    struct Drain {}

    private let limits: HTTPLimits
    private let handler: HTTPHandler
    private let life: ServerLife
    private var context: ChannelHandlerContext?
    private var phase = Phase.idle
    private var requestNumber = 0
    private var head: HTTPRequestHead?
    private var body: [UInt8] = []
    private var closesAfterwards = false
    private var isDraining = false
    private var deadline = NIODeadline.distantFuture
    private var timer: Scheduled<Void>?
    private var timerAt = NIODeadline.distantFuture

    init(limits: HTTPLimits, life: ServerLife, handler: @escaping HTTPHandler) {
        self.limits = limits
        self.life = life
        self.handler = handler
    }

    // MARK: Events of the channel

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        timer?.cancel()
    }

    func channelActive(context: ChannelHandlerContext) {
        // Who connects and says nothing is as slow as who sends slowly.
        enter(.idle, seconds: limits.requestSeconds)
        context.fireChannelActive()
    }

    /// The first bytes of a request have come; called before they are decoded.
    func bytesArrived() {
        if phase == .idle { enter(.receiving, seconds: limits.requestSeconds) }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head):
            guard phase == .idle || phase == .receiving else { return }
            begin(head)
        case .body(let part):
            guard phase == .receiving, head != nil else { return }
            guard body.count + part.readableBytes <= limits.bodyBytes else { return refuse(tooLarge) }
            body += part.readableBytesView
        case .end:
            guard phase == .receiving, let head else { return }
            self.head = nil
            handle(head)
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        switch event {
        case is Drain:
            isDraining = true
            if phase == .idle { context.close(promise: nil) }
        case ChannelEvent.inputClosed:
            // The client may still read the answer it waits for.
            closesAfterwards = true
            if phase == .idle || phase == .receiving || phase == .lingering { context.close(promise: nil) }
        default: context.fireUserInboundEventTriggered(event)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        guard phase != .lingering else { return }
        guard let error = error as? HTTPParserError, phase == .idle || phase == .receiving else {
            context.close(promise: nil)
            return
        }
        switch error {
        case .headerOverflow:
            refuse(Problem(431, "Request line and header fields have at most \(limits.headerBytes) bytes."))
        case .invalidVersion: refuse(Problem(505, "This server speaks HTTP/1.1."))
        default: refuse(Problem(400, "This is no HTTP/1.1 request: \(error)."))
        }
    }

    // MARK: Requests

    private var tooLarge: Problem { Problem(413, "A body has at most \(limits.bodyBytes) bytes here.") }

    /// Checks what the header says before anything of the body is kept.
    private func begin(_ head: HTTPRequestHead) {
        if phase == .idle { enter(.receiving, seconds: limits.requestSeconds) }
        requestNumber += 1
        body = []
        // The decoder does not look beyond a request that asks for another protocol.
        let isOld = head.version.minor == 0
        closesAfterwards = isDraining || isOld || !head.isKeepAlive || head.headers.contains(name: "upgrade")
        guard Method(rawValue: head.method.rawValue) != nil else {
            return refuse(Problem(501, "This server does not know the method."))
        }
        let hosts = head.headers["host"]
        guard hosts.count == 1 || (hosts.isEmpty && isOld), hosts.allSatisfy(Self.isHost) else {
            return refuse(Problem(400, "A request has one Host field."))
        }
        let length = head.headers.first(name: "content-length").flatMap { Int($0) } ?? 0
        guard length <= limits.bodyBytes else { return refuse(tooLarge) }
        if let expectation = head.headers.first(name: "expect"), !isOld {
            guard expectation.lowercased() == "100-continue" else {
                return refuse(Problem(417, "Only 100-continue can be expected."))
            }
            if length > 0 || head.headers.contains(name: "transfer-encoding") {
                let status = HTTPResponseHead(version: .http1_1, status: .continue)
                context?.writeAndFlush(wrapOutboundOut(.head(status)), promise: nil)
            }
        }
        self.head = head
    }

    private static func isHost(_ text: String) -> Bool {
        text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: "@") }
    }

    private func handle(_ head: HTTPRequestHead) {
        guard let context else { return }
        var headers = Headers()
        for (name, value) in head.headers { headers.add(name, value) }
        let (target, authority) = Self.target(head.uri)
        enter(.handling, seconds: limits.handlerSeconds)
        let responder = makeResponder(on: context.eventLoop)
        let peer = Peer(context.channel)
        do throws(Problem) {
            let request = try HTTPRequest(
                method: Method(rawValue: head.method.rawValue) ?? .get, target: target, headers: headers, body: body,
                host: authority ?? headers["host"] ?? "", peer: peer.description, isLocal: peer.isLocal)
            body = []
            isHead = request.method == .head
            handler(request, responder)
        } catch { responder.send(error) }
    }

    /// Path and query, and the host of a target in absolute form (RFC 9112 §3.2.2).
    private static func target(_ uri: String) -> (target: String, authority: String?) {
        guard uri.lowercased().hasPrefix("http://") else { return (uri, nil) }
        let rest = uri.dropFirst("http://".count)
        let authority = rest.prefix { $0 != "/" && $0 != "?" }
        let target = rest.dropFirst(authority.count)
        return ((target.hasPrefix("/") ? "" : "/") + target, String(authority))
    }

    private func makeResponder(on loop: any EventLoop) -> HTTPResponder {
        let connection = NIOLoopBound(self, eventLoop: loop)
        let number = requestNumber
        // A later turn of the loop even when called on it: a thousand pipelined requests do not make a deep stack.
        return HTTPResponder(
            execute: { [life] body in life.execute(on: loop, body) },
            answer: { response in connection.value.answer(response, to: number) })
    }

    // MARK: Answers

    private var isHead = false

    private func answer(_ response: HTTPResponse, to number: Int) {
        // The time may have been over before.
        guard phase == .handling, number == requestNumber else { return }
        write(response)
    }

    /// Answers with a problem and ends the connection: what follows on it cannot be trusted, or is not wanted.
    private func refuse(_ problem: Problem) {
        closesAfterwards = true
        isHead = head?.method == .HEAD
        head = nil
        body = []
        write(problem.response)
    }

    private func write(_ response: HTTPResponse) {
        guard let context else { return }
        if isDraining { closesAfterwards = true }
        var headers = HTTPHeaders()
        headers.add(name: "Date", value: life.date())
        for field in response.headers.fields { headers.add(name: field.name, value: field.value) }
        if response.status != 204, response.status != 304 {
            headers.replaceOrAdd(name: "Content-Length", value: String(response.body.count))
        }
        if closesAfterwards { headers.replaceOrAdd(name: "Connection", value: "close") }
        let status = HTTPResponseStatus(statusCode: response.status)
        enter(.sending, seconds: limits.responseSeconds)
        let hasBody = !isHead && !response.body.isEmpty && response.status != 204 && response.status != 304
        let promise = context.eventLoop.makePromise(of: Void.self)
        promise.futureResult.assumeIsolated().whenComplete { result in self.sent(result) }
        let part = HTTPServerResponsePart.head(HTTPResponseHead(version: .http1_1, status: status, headers: headers))
        context.write(wrapOutboundOut(part), promise: hasBody ? nil : promise)
        if hasBody {
            let buffer = context.channel.allocator.buffer(bytes: response.body)
            context.write(wrapOutboundOut(.body(.byteBuffer(buffer))), promise: promise)
        }
        context.flush()
    }

    /// The socket has taken the answer.
    private func sent(_ result: Result<Void, any Error>) {
        guard let context, case .success = result, phase == .sending else {
            context?.close(promise: nil)
            return
        }
        guard closesAfterwards else {
            enter(.idle, seconds: limits.idleSeconds)
            // Lets the next request come, perhaps before this returns.
            context.write(wrapOutboundOut(.end(nil)), promise: nil)
            return
        }
        // Closing while bytes of the client are unread would take the answer away from it.
        enter(.lingering, seconds: limits.lingerSeconds)
        context.close(mode: .output, promise: nil)
    }

    // MARK: Time

    private func enter(_ phase: Phase, seconds: Int) {
        self.phase = phase
        deadline = .now() + .seconds(Int64(seconds))
        if deadline < timerAt { setTimer(deadline) }
    }

    /// One timer for all deadlines: it looks again when it came too early.
    private func setTimer(_ time: NIODeadline) {
        guard let context else { return }
        timer?.cancel()
        timerAt = time
        timer = context.eventLoop.assumeIsolated().scheduleTask(deadline: time) { [weak self] in self?.timeHasCome() }
    }

    private func timeHasCome() {
        timerAt = .distantFuture
        guard deadline <= .now() else { return setTimer(deadline) }
        switch phase {
        case .receiving: refuse(Problem(408, "A request must be complete within \(limits.requestSeconds) seconds."))
        case .handling: write(Problem(503, "There was no answer within \(limits.handlerSeconds) seconds.").response)
        case .idle, .sending, .lingering: context?.close(promise: nil)
        }
    }
}

/// Tells the connection when bytes come, before they are decoded: a slow header would not be seen otherwise.
final class ArrivalHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let connection: HTTPConnection

    init(_ connection: HTTPConnection) { self.connection = connection }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        connection.bytesArrived()
        context.fireChannelRead(data)
    }
}

/// Who is at the other end.
private struct Peer: CustomStringConvertible {
    let description: String
    let isLocal: Bool

    init(_ channel: any Channel) {
        if case .unixDomainSocket? = channel.localAddress {
            (description, isLocal) = ("unix", true)
            return
        }
        let address = channel.remoteAddress?.ipAddress ?? ""
        let port = channel.remoteAddress?.port ?? 0
        description = address.contains(":") ? "[\(address)]:\(port)" : "\(address):\(port)"
        isLocal = address.hasPrefix("127.") || address == "::1" || address.lowercased().hasPrefix("::ffff:127.")
    }
}
