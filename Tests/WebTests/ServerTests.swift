import Core
import Foundation
import Logging
import RawHTTP
import Reactor
import Synchronization
import Testing
import Web

/// A server with a few routes, for as long as a test needs it.
private final class Stage {
    let reactor: Reactor
    let address: String

    init(
        _ listen: String = "127.0.0.1:0", limits: HTTPLimits = HTTPLimits(), bounds: Limits = Limits(),
        more: (inout RouteTable) -> Void = { _ in }
    )
        throws
    {
        var table = RouteTable()
        table.add(.get, "/hello") { _, responder in
            responder.send(HTTPResponse(type: "text/plain", body: Array("hello\n".utf8)))
        }
        table.add(.post, "/echo") { request, responder in
            responder.send(HTTPResponse(type: "text/plain", body: request.body))
        }
        table.add(.get, "/say/{word}") { request, responder in
            let word = "\(request.parameters["word"] ?? "-") \(request.query("q") ?? "-") \(request.isLocal)"
            // From another thread, and the later the shorter the word: order is the server's matter.
            Thread.detachNewThread {
                usleep(UInt32(max(0, 40_000 - word.utf8.count * 1_000)))
                responder.send(HTTPResponse(type: "text/plain", body: Array(word.utf8)))
            }
        }
        more(&table)
        let routes = table
        let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        reactor = try Reactor(lanes: 1, limits: bounds, logger: logger)
        let site = HandlerSite(limits: limits) { routes.handle($0, $1) }
        let listener = try Listener(
            try SocketAddress(listen), adapter: HTTPAdapter(site: site) { Int(Date().timeIntervalSince1970) })
        reactor.listen(listener)
        address = listener.address.description
    }

    deinit { reactor.stop(drainMilliseconds: 500) }

    func client() throws -> RawClient { try RawClient(address) }
}

private let host = "Host: localhost\n\n"

@Suite struct ServerTests {
    @Test func answersAndKeepsTheConnection() throws {
        let stage = try Stage()
        let client = try stage.client()
        for _ in 0..<3 {
            try client.send("GET /hello HTTP/1.1\n\(host)")
            let answer = try client.answer()
            #expect(answer.status == 200)
            #expect(answer.body == "hello\n")
            #expect(answer.headers["content-type"] == "text/plain")
            #expect(answer.headers["date"]?.hasSuffix(" GMT") == true)
            #expect(answer.headers["connection"] == nil)
        }
        try client.send("GET /hello HTTP/1.1\nConnection: close\n\(host)")
        #expect(try client.answer().headers["connection"] == "close")
        #expect(try client.isEnded())
    }

    @Test func pipelinedRequestsAreAnsweredInTheirOrder() throws {
        let stage = try Stage()
        let client = try stage.client()
        let words = (0..<50).map { String(repeating: "w", count: 1 + $0 % 30) + "\($0)" }
        try client.send(words.map { "GET /say/\($0)?q=a%20b+c HTTP/1.1\n\(host)" }.joined())
        for word in words { #expect(try client.answer().body == "\(word) a b c true") }
        try client.send(String(repeating: "GET /hello HTTP/1.1\n\(host)", count: 2_000))
        for _ in 0..<2_000 { #expect(try client.answer().body == "hello\n") }
    }

    @Test func whatStandsBeforeAMalformedRequestIsAnswered() throws {
        let stage = try Stage()
        let client = try stage.client()
        try client.send("GET /say/slow HTTP/1.1\n\(host)nonsense\n\n")
        #expect(try client.answer().body == "slow - true")
        #expect(try client.answer().status == 400)
        #expect(try client.isEnded())
    }

    @Test(arguments: [
        ("nonsense\n\n", 400), ("GET /hello HTTP/1.1\n\n", 400), ("GET /hello HTTP/1.1\nHost: a\nHost: b\n\n", 400),
        ("GET /hello HTTP/1.1\nHost: a/b\n\n", 400), ("GET /hello HTTP/9.9\n\(host)", 505),
        ("GET /hello HTTP/1.1\nBad Name: x\n\(host)", 400), ("POST /echo HTTP/1.1\nContent-Length: x\n\(host)", 400),
        ("POST /echo HTTP/1.1\nContent-Length: -1\n\(host)", 400),
        ("POST /echo HTTP/1.1\nContent-Length: 1\nContent-Length: 2\n\(host)", 400),
        ("POST /echo HTTP/1.1\nContent-Length: 3\nTransfer-Encoding: chunked\n\(host)0\n\n", 400),
        ("POST /echo HTTP/1.1\nTransfer-Encoding: chunked\n\(host)zz\n\n", 400),
        ("GET /hello HTTP/1.1\n folded\n\(host)", 400), ("GET /hello HTTP/1.1\nA: b\u{0}c\n\(host)", 400),
        ("GET /hello HTTP/1.1\nA : b\n\(host)", 400), ("POST /echo HTTP/1.0\nTransfer-Encoding: chunked\n\n0\n\n", 400),
        ("POST /echo HTTP/1.1\nTransfer-Encoding: gzip, chunked\n\(host)0\n\n", 501),
        ("POST /echo HTTP/1.1\nContent-Length: 1\nContent-Length: 1\n\(host)x", 400),
        ("POST /echo HTTP/1.1\nContent-Length: 1, 1\n\(host)x", 400),
        ("POST /echo HTTP/1.1\nExpect: miracles\nContent-Length: 1\n\(host)", 417),
        ("GET /hello HTTP/1.1\nX: \(String(repeating: "x", count: 40_000))\n\(host)", 431),
        ("GET /\(String(repeating: "x", count: 20_000)) HTTP/1.1\n\(host)", 414),
        ("GET /hello HTTP/1.1\n" + String(repeating: "A: b\n", count: 200) + host, 431),
        ("POST /echo HTTP/1.1\nContent-Length: 999999\n\(host)", 413), ("PRI * HTTP/2.0\n\nSM\n\n", 505),
    ])
    func whatIsNoRequestIsRefusedAndTheConnectionEnds(request: String, status: Int) throws {
        let stage = try Stage()
        let client = try stage.client()
        try client.send(request)
        let answer = try client.answer()
        #expect(answer.status == status)
        #expect(answer.headers["content-type"] == "application/problem+json")
        #expect(answer.body.contains("\"status\":\(answer.status)"))
        #expect(try client.isEnded())
        // Nobody else is harmed.
        let other = try stage.client()
        try other.send("GET /hello HTTP/1.1\n\(host)")
        #expect(try other.answer().status == 200)
    }

    @Test func methodsAndPaths() throws {
        let stage = try Stage()
        let client = try stage.client()
        try client.send("HEAD /hello HTTP/1.1\n\(host)")
        let head = try client.answer(hasBody: false)
        #expect(head.status == 200)
        #expect(head.headers["content-length"] == "6")
        try client.send("OPTIONS /hello HTTP/1.1\n\(host)")
        let options = try client.answer()
        #expect(options.status == 204)
        #expect(options.headers["allow"] == "GET, HEAD, OPTIONS")
        #expect(options.headers["content-length"] == nil)
        try client.send("OPTIONS * HTTP/1.1\n\(host)")
        #expect(try client.answer().status == 204)
        for method in ["BREW", "TRACE"] {
            try client.send("\(method) /hello HTTP/1.1\n\(host)")
            #expect(try client.answer().status == 405)
        }
        try client.send("DELETE /hello HTTP/1.1\n\(host)")
        let wrong = try client.answer()
        #expect(wrong.status == 405)
        #expect(wrong.headers["allow"] == "GET, HEAD, OPTIONS")
        for (path, status) in [
            ("/nothing", 404), ("/hello/", 404), ("/say/%zz", 400), ("/say/%FF", 400), ("/say/", 404),
        ] {
            try client.send("GET \(path) HTTP/1.1\n\(host)")
            #expect(try client.answer().status == status, "\(path)")
        }
        try client.send("GET http://other/say/a%2Fb%252F HTTP/1.1\n\(host)")
        #expect(try client.answer().body == "a/b%2F - true")
    }

    @Test func bodies() throws {
        let stage = try Stage()
        let client = try stage.client()
        try client.send(
            "POST /echo HTTP/1.1\nContent-Length: 3\n\(host)abcPOST /echo HTTP/1.1\nContent-Length: 0\n\(host)")
        #expect(try client.answer().body == "abc")
        #expect(try client.answer().body.isEmpty)
        try client.send("POST /echo HTTP/1.1\nTransfer-Encoding: chunked\n\(host)3\nabc\n2;x=y\nde\n0\nTrailer: t\n\n")
        #expect(try client.answer().body == "abcde")
        try client.send("POST /echo HTTP/1.1\nTransfer-Encoding: chunked\n\(host)")
        let chunk = String(repeating: "x", count: 0x8000)
        try client.send("8000\n\(chunk)\n8000\n\(chunk)\n8000\nx")
        #expect(try client.answer().status == 413)
        #expect(try client.isEnded())
    }

    @Test func expectContinue() throws {
        let stage = try Stage()
        let client = try stage.client()
        try client.send("POST /echo HTTP/1.1\nExpect: 100-continue\nContent-Length: 3\n\(host)")
        #expect(try client.answer().status == 100)
        try client.send("abc")
        #expect(try client.answer().body == "abc")
        try client.send("POST /echo HTTP/1.1\nExpect: 100-continue\nContent-Length: 9999999\n\(host)")
        #expect(try client.answer().status == 413)
    }

    @Test func olderAndHalfClosedClients() throws {
        let stage = try Stage()
        let old = try stage.client()
        try old.send("GET /hello HTTP/1.0\n\n")
        #expect(try old.answer().body == "hello\n")
        #expect(try old.isEnded())
        let half = try stage.client()
        try half.send("GET /say/half HTTP/1.1\n\(host)")
        half.finish()
        #expect(try half.answer().body == "half - true")
        #expect(try half.isEnded())
        let upgrading = try stage.client()
        // Nobody has to follow where a client wants to go.
        for _ in 0..<2 {
            try upgrading.send("GET /hello HTTP/1.1\nConnection: Upgrade\nUpgrade: h2c\n\(host)")
            #expect(try upgrading.answer().body == "hello\n")
        }
    }

    @Test func slowAndSilentClientsAreSentAway() throws {
        var limits = HTTPLimits()
        limits.headerSeconds = 1
        limits.idleSeconds = 1
        let stage = try Stage(limits: limits)
        // A byte now and then does not help.
        let drip = try stage.client()
        try drip.send("GET /hello HTTP/1.1\n")
        for _ in 0..<4 {
            usleep(200_000)
            try drip.send("A: b\n")
        }
        #expect(try drip.answer().status == 408)
        #expect(try drip.isEnded())
        let silent = try stage.client()
        #expect(try silent.isEnded())
        let idle = try stage.client()
        try idle.send("GET /hello HTTP/1.1\n\(host)")
        #expect(try idle.answer().status == 200)
        #expect(try idle.isEnded())
    }

    @Test func handlersThatDoNotAnswer() throws {
        var limits = HTTPLimits()
        limits.handlerSeconds = 1
        let kept = Kept()
        let stage = try Stage(limits: limits) { table in
            table.add(.get, "/never") { _, responder in kept.responders.withLock { $0.append(responder) } }
            table.add(.get, "/forgotten") { _, _ in }
        }
        let client = try stage.client()
        try client.send("GET /never HTTP/1.1\n\(host)")
        #expect(try client.answer().status == 503)
        // The answer that comes too late belongs to no other request.
        try client.send("GET /say/next HTTP/1.1\n\(host)")
        kept.responders.withLock { $0.first }?.send(HTTPResponse(status: 200))
        #expect(try client.answer().body == "next - true")
        try client.send("GET /forgotten HTTP/1.1\n\(host)")
        #expect(try client.answer().status == 500)
    }

    private final class Kept: Sendable { let responders = Mutex<[HTTPResponder]>([]) }

    @Test func connectionsHaveALimit() throws {
        var bounds = Limits()
        bounds.maxConnections = 2
        let stage = try Stage(bounds: bounds)
        var clients = [try stage.client(), try stage.client()]
        for client in clients {
            try client.send("GET /hello HTTP/1.1\n\(host)")
            #expect(try client.answer().status == 200)
        }
        #expect(try stage.client().isEnded())
        clients.removeFirst()
        // The end of a connection is noticed soon, but not at once.
        var status = 0
        for _ in 0..<100 where status != 200 {
            let client = try stage.client()
            // Refused means cut: then neither sending nor reading need succeed.
            do {
                try client.send("GET /hello HTTP/1.1\n\(host)")
                status = try client.answer().status
            } catch is RawClient.Failure { status = 0 }
            if status != 200 { usleep(10_000) }
        }
        #expect(status == 200)
    }

    @Test func stoppingLetsRequestsEnd() throws {
        let stage = try Stage()
        let busy = try stage.client()
        let idle = try stage.client()
        try idle.send("GET /hello HTTP/1.1\n\(host)")
        #expect(try idle.answer().status == 200)
        // The word is long enough to be answered well within the grace.
        try busy.send("GET /hello HTTP/1.1\n\(host)GET /say/\(String(repeating: "w", count: 20)) HTTP/1.1\n\(host)")
        #expect(try busy.answer().status == 200)
        stage.reactor.stop(drainMilliseconds: 5_000)
        #expect(try busy.answer().body.hasPrefix("www"))
        #expect(try busy.isEnded())
        #expect(try idle.isEnded())
        #expect(throws: RawClient.Failure.self) { try stage.client() }
    }

    @Test func unixSocketsAndTakenAddresses() throws {
        let path = "/tmp/apus-web-\(getpid()).sock"
        let first = try Stage("unix:\(path)")
        let client = try first.client()
        try client.send("GET /say/x HTTP/1.1\n\(host)")
        #expect(try client.answer().body == "x - true")
        #expect(throws: SocketAddress.Failure.self) { try Stage("unix:\(path)") }
        let failure = #expect(throws: SocketAddress.Failure.self) {
            let other = try Stage()
            _ = try Stage(other.address)
        }
        #expect(failure?.description.contains("Address already in use") == true)
        first.reactor.stop(drainMilliseconds: 100)
        #expect(!FileManager.default.fileExists(atPath: path))
    }
}
