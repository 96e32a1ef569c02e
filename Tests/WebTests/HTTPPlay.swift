import Core
import Web

/// A client's bytes in pieces, and what must hold whatever they are. Shared by a property test and a fuzz target.
struct HTTPPlay {
    let site: PlaySite
    private let stage: FakeStage
    private let client: FakeConnection
    private var isRefused = false

    init() {
        var limits = HTTPLimits()
        limits.headerBytes = 700
        limits.targetBytes = 200
        limits.bodyBytes = 300
        site = PlaySite(limits: limits)
        stage = FakeStage(site)
        client = stage.connect()
    }

    /// Sends bytes in pieces that end at these places, and lets whoever is to answer later do so now and then.
    /// - Returns: everything that was answered, without interim answers, which depend on the pieces.
    mutating func send(_ bytes: [UInt8], cuts: [Int]) -> [UInt8] {
        var start = 0
        for (number, cut) in (cuts + [bytes.count]).enumerated() where cut >= start && cut <= bytes.count {
            client.send(Array(bytes[start..<cut]))
            start = cut
            if number % 3 == 2 { answerHeld() }
        }
        answerHeld()
        return client.bytes()
    }

    /// The peer says no more, time passes and the connection ends.
    mutating func finish() -> [UInt8] {
        client.endInput()
        answerHeld()
        for _ in 0..<5 { stage.advance(31_000) }
        precondition(client.link.finishing != nil || client.link.closing != nil, "who says nothing is still there")
        let rest = client.bytes()
        client.cut()
        return rest
    }

    /// Whether the connection has ended.
    var isOver: Bool { client.link.finishing != nil || client.link.closing != nil }

    private func answerHeld() {
        while true {
            let held = site.takeResponders()
            guard !held.isEmpty else { return }
            for responder in held { responder.send(HTTPResponse(type: "text/plain", body: Array("later".utf8))) }
            stage.settle()
        }
    }

    /// Holds what was answered against what was asked: one answer for each request that was taken, in order, and at
    /// most one refusal, after which nothing comes.
    func check(_ output: [UInt8]) {
        var rest = output
        var requests = site.requests[...]
        var isOver = false
        while !rest.isEmpty {
            let isHead = requests.first?.hasPrefix("HEAD ") ?? false
            // With a refusal it is not known which request it belongs to: it has a body, or nothing behind it.
            var taken = rest
            guard let answer = Answer.takeFirst(&taken, isHead: isHead) else {
                preconditionFailure("no answer: \(rest)")
            }
            precondition(!isOver, "an answer after the last")
            rest = taken
            switch answer.status {
            case 100: continue
            case 400, 408, 413, 414, 417, 431, 501, 505: isOver = true
            case 403 where answer.text.isEmpty: break
            case 200 where answer.value("Content-Type") == "text/event-stream": return
            default:
                guard let request = requests.popFirst() else { preconditionFailure("more answers than requests") }
                Self.check(answer, of: request, isHead: isHead)
            }
            if answer.value("Connection") == "close" { isOver = true }
            precondition(!isOver || answer.value("Connection") == "close", "the end is not announced")
        }
        precondition(requests.isEmpty, "no answer to \(requests)")
    }

    private static func check(_ answer: Answer, of request: String, isHead: Bool) {
        let parts = request.split(separator: " ", maxSplits: 2, omittingEmptySubsequences: false).map(String.init)
        let target = parts[1]
        if target.hasPrefix("/pub") || target.hasPrefix("/alone") {
            precondition(
                answer.status == 202 && (isHead || answer.text.hasPrefix(target + " ")), "\(request): \(answer)")
        } else if target.hasPrefix("/later") {
            precondition(answer.status == 200 || answer.status == 503, "\(request): \(answer)")
        } else if answer.status == 200, !isHead {
            precondition(answer.text == request, "\(request): \(answer)")
        }
    }
}

extension Answer {
    /// Takes one complete answer off the bytes.
    static func takeFirst(_ bytes: inout [UInt8], isHead: Bool) -> Answer? {
        guard let end = bytes.firstRange(of: Array("\r\n\r\n".utf8))?.upperBound else { return nil }
        var head = Array(bytes[..<end])
        guard var answer = takeAll(&head, isHead: [true]).first else { return nil }
        // Which request was refused is not known here: unless it was a HEAD the answer has a body. Nothing follows.
        let isBare = answer.status >= 400 && bytes.count == end || isHead && answer.status < 400
        let length = isBare ? 0 : Int(answer.value("Content-Length") ?? "0") ?? 0
        guard bytes.count >= end + length else { return nil }
        answer.body = Array(bytes[end..<end + length])
        bytes.removeFirst(end + length)
        return answer
    }
}
