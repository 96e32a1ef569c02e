public import Core

/// Writing answers.
extension HTTPConversation {
    /// Writes the answer to the request under way, and goes on with the next one or ends the connection.
    public func respond(_ response: HTTPResponse) {
        writeStatus(response.status)
        for field in response.headers.fields { writeField(field.name, field.value) }
        endAnswer(response.body.span.bytes, status: response.status)
    }

    /// Answers with a problem.
    public func respond(_ problem: Problem) { respond(problem.response) }

    /// Writes an answer whose header lines and body are bytes already.
    /// - Parameter lines: header fields, each with its line end.
    public func respond(status: Int, lines: StaticString, body: RawSpan) {
        writeStatus(status)
        link.append(lines.utf8Start, lines.utf8CodeUnitCount)
        endAnswer(body, status: status)
    }

    /// Begins an answer that has no end: the caller writes its bytes to ``link``.
    /// - Parameter lines: header fields, each with its line end.
    public func beginStream(lines: StaticString) {
        writeStatus(200)
        link.append(lines.utf8Start, lines.utf8CodeUnitCount)
        writeExtraLines()
        append("Connection: close\r\n\r\n")
    }

    /// Answers 101 with what the handshake says; the connection is another protocol's from here on.
    /// - Parameter fields: header fields without `Connection` and `Upgrade`.
    public func switchToWebSocket(_ fields: [(name: String, value: String)]) {
        append("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        for field in fields { writeField(field.name, field.value) }
        append("\r\n")
    }

    /// The way to answer later, from any thread; to be followed by ``RequestVerdict/later``.
    public func answerLater(on lane: Lane) -> HTTPResponder {
        // The number that the request gets once it has been taken.
        let number = requestNumber &+ 1
        let back = link.callback { (conversation: Conversation, response: HTTPResponse, _: Lane) in
            guard let conversation = conversation as? HTTPConversation, conversation.isWaiting(number) else { return }
            conversation.respond(response)
        }
        let (lanes, home) = (lane.lanes, lane.number)
        return HTTPResponder(execute: { body in lanes.call(home) { _ in body() } }, answer: back)
    }

    /// Whether request `number` still has no answer.
    public func isWaiting(_ number: Int) -> Bool {
        if case .waiting = state { return number == requestNumber }
        return false
    }

    // MARK: Parts

    private func append(_ text: StaticString) { link.append(text.utf8Start, text.utf8CodeUnitCount) }

    private func append(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { if let base = $0.baseAddress { link.append(base, $0.count) } }
    }

    private func writeStatus(_ status: Int) {
        switch status {
        case 200: append("HTTP/1.1 200 OK\r\n")
        case 202: append("HTTP/1.1 202 Accepted\r\n")
        case 204: append("HTTP/1.1 204 No Content\r\n")
        default: append(Array("HTTP/1.1 \(status) \(Problem.title(of: status))\r\n".utf8))
        }
        append(shared.date())
    }

    /// Names and values come from requests now and then: what would end the line is left out, and a field that could
    /// not be one altogether.
    private func writeField(_ name: String, _ value: String) {
        guard !name.isEmpty, name.utf8.allSatisfy(Token.contains) else { return }
        var line = Array(name.utf8)
        line.append(contentsOf: ": ".utf8)
        line.append(contentsOf: value.utf8.lazy.filter { $0 >= 0x20 && $0 != 0x7F })
        line.append(contentsOf: "\r\n".utf8)
        append(line)
    }

    private func writeExtraLines() {
        guard !extraLines.isEmpty else { return }
        append(extraLines)
        extraLines = []
    }

    private func endAnswer(_ body: RawSpan, status: Int) {
        writeExtraLines()
        if status != 204, status != 304 { writeLength(body.byteCount) }
        if closesAfterwards {
            append("Connection: close\r\n\r\n")
        } else {
            append(tellsKeepAlive ? "Connection: keep-alive\r\n\r\n" : "\r\n")
        }
        if !isHead, status != 204, status != 304 {
            body.withUnsafeBytes { if let base = $0.baseAddress { link.append(base, $0.count) } }
        }
        answered()
    }

    private func writeLength(_ length: Int) {
        append("Content-Length: ")
        let room = link.reserve(24)
        link.cursor = room + Decimal.write(UInt64(length), to: room)
        append("\r\n")
    }

    /// The answer is complete.
    private func answered() {
        link.packets &+= 1
        answerBy = 0
        waiter = nil
        lastActive = shared.now
        if closesAfterwards {
            state = .ended
            return link.finish(lateReason)
        }
        if case .waiting = state {
            state = .receiving
            link.resume()
        }
    }
}

/// Whole numbers as text.
enum Decimal {
    /// Writes a number; 20 bytes suffice.
    /// - Returns: bytes written.
    static func write(_ number: UInt64, to place: UnsafeMutableRawPointer) -> Int {
        var count = 1
        var rest = number
        while rest >= 10 {
            rest /= 10
            count += 1
        }
        rest = number
        for index in (0..<count).reversed() {
            let digit = UInt8(ascii: "0") + UInt8(truncatingIfNeeded: rest % 10)
            place.storeBytes(of: digit, toByteOffset: index, as: UInt8.self)
            rest /= 10
        }
        return count
    }
}

extension Problem {
    /// What a head that cannot be taken is answered with.
    init(_ failure: RequestHead.Failure, _ limits: HTTPLimits) {
        switch failure {
        case .malformed(let detail): self.init(400, detail)
        case .tooLarge:
            let fields = RequestHead.Storage.capacity
            self.init(431, "A request's header has at most \(limits.headerBytes) bytes and \(fields) fields.")
        case .targetTooLong: self.init(414, "A target has at most \(limits.targetBytes) bytes.")
        case .unknownCoding: self.init(501, "The only transfer coding is chunked.")
        case .unsupportedVersion: self.init(505, "This server speaks HTTP/1.1.")
        }
    }
}
