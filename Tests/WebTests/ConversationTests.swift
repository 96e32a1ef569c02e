import Core
import Testing

@testable import Web

private let host = "Host: h\n\n"

/// Whole conversations without sockets, with time set by hand.
@Suite struct ConversationTests {
    private let site = PlaySite()
    private let stage: FakeStage
    private let client: FakeConnection

    init() {
        stage = FakeStage(site)
        client = stage.connect()
    }

    private var statuses: [Int] { client.answers().map(\.status) }

    // MARK: Time

    @Test func aHeaderHasTenSeconds() {
        // Bytes now and then do not help.
        for byte in wire("GET / HTTP/") {
            client.send([byte])
            stage.advance(900)
        }
        #expect(client.link.finishing == nil)
        stage.advance(200)
        let answers = client.answers()
        #expect(answers.map(\.status) == [408])
        #expect(answers.first?.value("Connection") == "close")
        #expect(client.link.finishing == .requestTimeout)
    }

    @Test func whoSaysNothingAtFirstIsSentAwaySooner() {
        stage.advance(9_900)
        #expect(client.link.finishing == nil)
        stage.advance(101)
        #expect(client.link.finishing == .requestTimeout)
        #expect(client.bytes().isEmpty)
    }

    @Test func sixtySecondsBetweenRequests() {
        client.send("GET / HTTP/1.1\n\(host)")
        #expect(statuses == [200])
        stage.advance(59_000)
        #expect(client.link.finishing == nil)
        client.send("GET / HTTP/1.1\n\(host)")
        #expect(statuses == [200])
        stage.advance(59_000)
        client.send("G")
        // From here on it is a header's time.
        stage.advance(9_900)
        #expect(client.link.finishing == nil)
        stage.advance(101)
        #expect(statuses == [408])
        let other = stage.connect()
        other.send("GET / HTTP/1.1\n\(host)")
        #expect(other.answers().count == 1)
        stage.advance(60_001)
        #expect(other.bytes().isEmpty)
        #expect(other.link.finishing == .requestTimeout)
    }

    @Test(arguments: ["Content-Length: 10", "Transfer-Encoding: chunked"])
    func aBodyHasThirtySeconds(framing: String) {
        stage.advance(9_000)
        client.send("POST / HTTP/1.1\n\(framing)\n\(host)")
        stage.advance(20_000)
        client.send([UInt8(ascii: "4")])
        stage.advance(9_900)
        #expect(client.link.finishing == nil)
        stage.advance(200)
        #expect(statuses == [408])
        #expect(client.link.finishing == .requestTimeout)
        #expect(site.requests.isEmpty)
    }

    @Test func aLargeBodyHasASecondMoreForEach64KiB() {
        var limits = HTTPLimits()
        limits.bodyBytes = 1 << 20
        let stage = FakeStage(PlaySite(limits: limits))
        let (fixed, chunked) = (stage.connect(), stage.connect())
        fixed.send("POST / HTTP/1.1\nContent-Length: 655360\n\(host)")
        chunked.send("POST / HTTP/1.1\nTransfer-Encoding: chunked\n\(host)A0000\n")
        chunked.send([UInt8](repeating: 0, count: 4 << 16))
        stage.advance(33_900)
        #expect(chunked.link.finishing == nil)
        stage.advance(101)
        #expect(chunked.answers().map(\.status) == [408])
        stage.advance(5_900)
        #expect(fixed.link.finishing == nil)
        stage.advance(101)
        #expect(fixed.answers().map(\.status) == [408])
    }

    @Test func anAnswerHasThirtySecondsAndIsNotHeardAfterwards() {
        client.send("GET /later/1 HTTP/1.1\n\(host)")
        stage.advance(29_900)
        #expect(statuses.isEmpty)
        stage.advance(101)
        #expect(statuses == [503])
        #expect(client.link.finishing == nil)
        client.send("GET /later/2 HTTP/1.1\n\(host)")
        let responders = site.takeResponders()
        #expect(responders[0].send(HTTPResponse(status: 201)))
        stage.settle()
        #expect(statuses.isEmpty)
        #expect(responders[1].send(HTTPResponse(status: 202)))
        #expect(!responders[1].send(HTTPResponse(status: 200)), "a second answer")
        stage.settle()
        #expect(statuses == [202])
        stage.advance(59_000)
        #expect(client.link.finishing == nil)
    }

    @Test func whoIsForgottenIsTold() {
        client.send("GET /later HTTP/1.1\n\(host)")
        _ = site.takeResponders()
        stage.settle()
        #expect(statuses == [500])
        client.send("GET /later HTTP/1.1\n\(host)")
        client.cut()
        // An answer to somebody who has gone is nobody's.
        for responder in site.takeResponders() { responder.send(.noContent) }
        stage.settle()
        #expect(statuses.isEmpty)
    }

    // MARK: Order and form of answers

    @Test func whatIsPipelinedIsAnsweredInOrderWhateverItsKind() {
        let kinds = ["/pub/1", "/pub/2", "/now/3", "/later/soon/4", "/alone/5", "/pub/6", "/204", "/alone/7", "/now/8"]
        client.send(kinds.map { "POST \($0) HTTP/1.1\nContent-Length: 2\n\(host)ab" }.joined())
        let answers = client.answers()
        #expect(answers.map(\.status) == [202, 202, 200, 200, 202, 202, 204, 202, 200])
        let bodies = kinds.map { $0.hasPrefix("/pub") || $0.hasPrefix("/alone") ? "\($0) ab" : "POST \($0) 2:ab" }
        for (answer, body) in zip(answers, bodies) { #expect(answer.text == (answer.status == 204 ? "" : body)) }
    }

    @Test func howARequestIsAnsweredDoesNotChangeTheAnswersBeforeIt() {
        // A HEAD behind a publish, which is answered first and has a body.
        client.send("POST /pub HTTP/1.1\nContent-Length: 1\n\(host)aHEAD /now HTTP/1.1\n\(host)")
        var answers = client.answers(isHead: [false, true])
        #expect(answers.map(\.status) == [202, 200])
        #expect(answers.first?.text == "/pub a")
        #expect(answers.last?.value("Content-Length") == "12")
        // A line that belongs to one of several publishes.
        let plain = "POST /pub HTTP/1.1\nContent-Length: 1\n\(host)a"
        client.send(plain + "POST /pub HTTP/1.1\nOrigin: o\nContent-Length: 1\n\(host)b" + plain)
        answers = client.answers()
        #expect(answers.map(\.text) == ["/pub a", "/pub b", "/pub a"])
        #expect(answers.map { $0.value("X-Origin") } == [nil, "o", nil])
        // The last of several publishes ends the connection, the others do not.
        client.send(plain + plain + "POST /pub HTTP/1.1\nConnection: close\nContent-Length: 1\n\(host)c" + plain)
        answers = client.answers()
        #expect(answers.map(\.text) == ["/pub a", "/pub a", "/pub c"])
        #expect(answers.map { $0.value("Connection") } == [nil, nil, "close"])
        #expect(client.link.finishing == .clientDisconnected)
        #expect(site.requests.count == 8, "what stands behind the last request is not looked at")
    }

    @Test func answersThatHaveNoBody() {
        client.send(
            "HEAD /now HTTP/1.1\n\(host)GET /204 HTTP/1.1\n\(host)GET /304 HTTP/1.1\n\(host)GET /x HTTP/1.1\n\(host)")
        let answers = client.answers(isHead: [true])
        #expect(answers.map(\.status) == [200, 204, 304, 200])
        #expect(answers.map { $0.value("Content-Length") } == ["12", nil, nil, "9"])
        #expect(answers.map(\.text) == ["", "", "", "GET /x 0:"])
        #expect(answers.allSatisfy { $0.value("Date") == "Sun, 06 Nov 1994 08:49:37 GMT" })
        // Also when a HEAD is refused for what it says.
        client.send("HEAD /now HTTP/1.1\nContent-Length: 99999999\n\(host)")
        #expect(String(decoding: client.bytes(), as: UTF8.self).hasSuffix("\r\n\r\n"))
    }

    @Test func olderClients() {
        client.send("GET /a HTTP/1.0\nConnection: keep-alive\n\nPOST /pub HTTP/1.0\nConnection: Keep-Alive\n\n")
        let kept = client.answers()
        #expect(kept.map { $0.value("Connection") } == ["keep-alive", "keep-alive"])
        client.send("GET /a HTTP/1.0\nExpect: 100-continue\n\nGET /b HTTP/1.0\n\n")
        #expect(client.answers().map { $0.value("Connection") } == ["close"])
        #expect(site.requests.count == 3)
    }

    @Test func expectations() {
        let ask = "Expect: 100-Continue\n"
        let interim = "HTTP/1.1 100 Continue\r\n\r\n"
        func text() -> String { String(decoding: client.bytes(), as: UTF8.self) }
        client.send("POST /a HTTP/1.1\n\(ask)Content-Length: 3\n\(host)")
        #expect(text() == interim)
        client.send("ab")
        #expect(text().isEmpty, "asked once, answered once")
        client.send("c")
        #expect(statuses == [200])
        client.send("POST /a HTTP/1.1\n\(ask)Transfer-Encoding: chunked\n\(host)")
        #expect(text() == interim)
        client.send("1\na\n0\n\n")
        #expect(statuses == [200])
        // Whoever does not wait, or has nothing to send, is not told.
        client.send("POST /a HTTP/1.1\n\(ask)Content-Length: 3\n\(host)a")
        #expect(text().isEmpty)
        client.send("bc")
        for rest in ["Content-Length: 3\n\(host)abc", "Content-Length: 0\n\(host)", host] {
            client.send("POST /a HTTP/1.1\n\(ask)\(rest)")
        }
        #expect(statuses == [200, 200, 200, 200])
        // Behind others, in its place.
        client.send("POST /pub HTTP/1.1\n\(host)GET /later/soon HTTP/1.1\n\(host)")
        client.send("POST /a HTTP/1.1\n\(ask)Content-Length: 1\n\(host)")
        #expect(statuses == [202, 200, 100])
        client.send("x")
        #expect(statuses == [200])
        // Turned away before the body comes: the body that was not asked for must not be read as a request.
        client.send("POST /forbidden HTTP/1.1\n\(ask)Content-Length: 30\n\(host)")
        let refusal = client.answers()
        #expect(refusal.map(\.status) == [403])
        #expect(refusal.first?.value("Connection") == "close")
        #expect(client.link.finishing != nil)
    }

    @Test(arguments: [
        ("Expect: 100-continue, x\nContent-Length: 1\n", 417), ("Expect: \nContent-Length: 1\n", 417),
        ("Expect: 100-continue\nContent-Length: 99999999\n", 413), ("Content-Length: 65537\n", 413),
        ("Content-Length: 999999999999999999\n", 413),
    ])
    func bodiesThatAreNotWanted(fields: String, status: Int) {
        client.send("POST /a HTTP/1.1\nOrigin: o\n\(fields)\(host)")
        let answers = client.answers()
        #expect(answers.map(\.status) == [status])
        #expect(answers.first?.value("X-Origin") == "o")
        #expect(answers.first?.value("Connection") == "close")
        #expect(client.link.finishing == .clientDisconnected)
    }

    @Test func nothingIsReadBehindARefusal() {
        client.send("GET /1 HTTP/1.1\n\(host)GET / HTTP/1.1\nA: \u{0}\n\(host)GET /2 HTTP/1.1\n\(host)")
        client.send("GET /3 HTTP/1.1\n\(host)")
        #expect(statuses == [200, 400])
        #expect(site.requests == ["GET /1 0:"])
        // What came in chunks up to there is none, either.
        let other = stage.connect()
        other.send("POST /4 HTTP/1.1\nTransfer-Encoding: chunked\n\(host)1\na\n0\nX: y")
        other.send([10])
        other.send("GET /5 HTTP/1.1\n\(host)")
        #expect(other.answers().map(\.status) == [400])
        #expect(site.requests.count == 1)
    }

    // MARK: Ends

    @Test func theEndOfInputInEachState() {
        client.endInput()
        #expect(client.link.finishing == .clientDisconnected)
        for text in [
            "G", "POST / HTTP/1.1\nContent-Length: 5\n\(host)a",
            "POST / HTTP/1.1\nTransfer-Encoding: chunked\n\(host)5",
        ] {
            let half = stage.connect()
            half.send(text)
            half.endInput()
            #expect(half.link.finishing == .clientDisconnected)
            #expect(half.bytes().isEmpty)
        }
        let waiting = stage.connect()
        waiting.send("GET /later HTTP/1.1\n\(host)")
        waiting.endInput()
        #expect(waiting.link.finishing == nil)
        for responder in site.takeResponders() { responder.send(HTTPResponse(status: 200)) }
        stage.settle()
        #expect(waiting.answers().map { $0.value("Connection") } == ["close"])
        #expect(waiting.link.finishing == .clientDisconnected)
        let streaming = stage.connect()
        streaming.send("GET /stream HTTP/1.1\n\(host)ignored")
        streaming.endInput()
        #expect(streaming.link.finishing == .clientDisconnected)
        streaming.cut()
        #expect(site.streamEnds == [.clientDisconnected])
        #expect(site.requests == ["GET /later 0:", "GET /stream 0:"])
    }

    @Test func aDrainInEachState() {
        client.drain()
        #expect(client.link.finishing == .shutdown)
        for text in [
            "", "G", "POST / HTTP/1.1\nContent-Length: 5\n\(host)a",
            "POST / HTTP/1.1\nTransfer-Encoding: chunked\n\(host)5",
        ] {
            let idle = stage.connect()
            idle.send("GET / HTTP/1.1\n\(host)\(text)")
            idle.drain()
            #expect(idle.link.finishing == .shutdown)
            #expect(idle.answers().count == 1)
        }
        let waiting = stage.connect()
        waiting.send("GET /later HTTP/1.1\n\(host)GET /never HTTP/1.1\n\(host)")
        waiting.drain()
        #expect(waiting.link.finishing == nil)
        for responder in site.takeResponders() { responder.send(HTTPResponse(status: 200)) }
        stage.settle()
        #expect(waiting.answers().map { $0.value("Connection") } == ["close"])
        #expect(!site.requests.contains("GET /never 0:"))
        let streaming = stage.connect()
        streaming.send("GET /stream HTTP/1.1\n\(host)")
        streaming.drain()
        #expect(String(decoding: streaming.bytes(), as: UTF8.self).hasSuffix("\r\n\r\nbye"))
        #expect(streaming.link.finishing == .shutdown)
    }

    // MARK: What a peer can make grow

    @Test func whoDoesNotReadGetsNoMoreAnswers() {
        let request = "GET /now HTTP/1.1\n\(host)"
        client.send(request)
        client.link.isCongested = true
        for path in ["/now", "/pub", "/later/soon"] { client.send("GET \(path) HTTP/1.1\n\(host)") }
        #expect(site.requests.count == 1)
        #expect(client.link.isPaused)
        client.drainOutput()
        #expect(statuses == [200, 200, 202, 200])
        // Congested while others answer: the next has to wait, too.
        client.send("GET /later HTTP/1.1\n\(host)\(request)")
        client.link.isCongested = true
        for responder in site.takeResponders() { responder.send(.noContent) }
        stage.settle()
        #expect(statuses == [204])
        client.drainOutput()
        #expect(statuses == [200])
        // Who never reads is ended.
        client.link.isCongested = true
        client.send(request)
        stage.advance(60_001)
        #expect(client.link.finishing == .requestTimeout)
    }

    @Test func aHeadThatDripsIsNotReadFromItsBeginningEachTime() {
        // 32,000 bytes, one at a time: parsed anew for each they would be 512 million.
        let line = "A: \(String(repeating: "x", count: 31_900))\n"
        let bytes = wire("GET /drip HTTP/1.1\nHost: h\n\(line)\n")
        let clock = ContinuousClock()
        let needed = clock.measure {
            client.conversation.withDrip(bytes, stage.lane)
        }
        #expect(statuses == [200])
        #expect(needed < .seconds(2), "\(needed)")
    }
}

extension Conversation {
    /// Gives every beginning of the bytes, as the reactor does when they come one by one.
    fileprivate func withDrip(_ bytes: [UInt8], _ lane: Lane) {
        bytes.withUnsafeBytes { bytes in
            for count in 1...bytes.count {
                let progress = receive(UnsafeRawBufferPointer(rebasing: bytes[..<count]), lane.turn, on: lane)
                guard progress.consumed == 0 else { return }
            }
        }
    }
}
