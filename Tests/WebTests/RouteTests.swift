import Synchronization
import Testing
import Web

@Suite struct RouteTests {
    private final class Sent: Sendable { let response = Mutex<HTTPResponse?>(nil) }

    /// Which pattern a path goes to, and with which parameters.
    private func route(_ target: String, among patterns: [String]) throws -> String {
        var table = RouteTable()
        for pattern in patterns {
            table.add(.get, pattern) { request, responder in
                let found = request.parameters.sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }
                responder.send(HTTPResponse(status: 200, body: Array((pattern + found.joined()).utf8)))
            }
        }
        let sent = Sent()
        let responder = HTTPResponder(execute: { $0() }, answer: { answer in sent.response.withLock { $0 = answer } })
        table.handle(try HTTPRequest(method: .get, target: target), responder)
        let response = try #require(sent.response.withLock { $0 })
        return response.status == 200 ? String(decoding: response.body, as: UTF8.self) : "\(response.status)"
    }

    @Test(arguments: [
        ("/a", "/a"), ("/a/b", "/a/b"), ("/a/c", "/a/{x} x=c"), ("/a/c/d", "/a/{x}/d x=c"),
        ("/a/b/c/d", "/a/b/{r...} r=c/d"),
        ("/a/%2F%20/d", "/a/{x}/d x=/ "), ("/r//x//", "/r/{t...} t=/x//"), ("/r/a%2Fb/c", "/r/{t...} t=a/b/c"),
        ("/r/", "404"), ("/r", "404"), ("/", "404"), ("/A", "404"), ("/a?x=/a/b", "/a"),
    ])
    func wordsWinOverParametersAndThoseOverTheRest(target: String, expected: String) throws {
        let patterns = ["/a/{x}", "/a/b/{r...}", "/r/{t...}", "/a/b", "/a/{x}/d", "/a"]
        #expect(try route(target, among: patterns) == expected)
        #expect(try route(target, among: patterns.reversed()) == expected)
    }

    @Test func percentEncodingComesBack() throws {
        for text in ["a", ".", "..", "a.b", "ä/ü", "100%", "+ &=?#", "\u{1}\u{7f}", "🪶", "%2F"] {
            #expect(Percent.decode(Percent.encode(text)) == text)
            #expect(try HTTPRequest(method: .get, target: "/x/\(Percent.encode(text))").segments == ["x", text])
            #expect(try HTTPRequest(method: .get, target: "/?q=\(Percent.encode(text))").query("q") == text)
        }
        for text in ["%", "%1", "%g0", "%FF", "%C3", "%ED%A0%80"] { #expect(Percent.decode(text) == nil, "\(text)") }
    }

    @Test func headerNamesHaveNoCase() {
        var headers = Headers()
        headers.add("Accept", "a")
        headers.add("ACCEPT", "b")
        #expect(headers["accept"] == "a")
        #expect(headers.all("Accept") == ["a", "b"])
        headers["accept"] = "c"
        #expect(headers.all("Accept") == ["c"])
    }

    @Test func problemsAreJSON() throws {
        let body = String(decoding: Problem(400, "a \"quoted\" \\ \u{1} line\n").response.body, as: UTF8.self)
        #expect(body.contains(#""detail":"a \"quoted\" \\ \u0001 line\u000a""#))
    }
}
