import Testing

@testable import Web

/// Heads of requests on their own: what is one, what is not and why.
@Suite struct HeadTests {
    private let storage = RequestHead.Storage()

    /// Parses bytes that nothing readable follows.
    private func parse(_ bytes: [UInt8], _ look: (RequestHead) -> Void = { _ in }) -> Result<Bool, RequestHead.Failure>
    {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
        defer { buffer.deallocate() }
        buffer.copyBytes(from: bytes)
        do {
            switch try RequestHead.parse(UnsafeRawBufferPointer(buffer), headerBytes: 1_024, targetBytes: 512, storage)
            {
            case .incomplete: return .success(false)
            case .complete(let head):
                look(head)
                return .success(true)
            }
        } catch { return .failure(error) }
    }

    private func fault(_ result: Result<Bool, RequestHead.Failure>) -> String? {
        guard case .failure(let failure) = result else { return nil }
        switch failure {
        case .malformed(let text): return text
        case .tooLarge: return "tooLarge"
        case .targetTooLong: return "targetTooLong"
        case .unknownCoding: return "unknownCoding"
        case .unsupportedVersion: return "unsupportedVersion"
        }
    }

    @Test(arguments: HeadCase.all)
    func table(head: HeadCase) {
        let bytes = Array(head.text.utf8)
        let outcome = parse(bytes)
        #expect(fault(outcome) == head.fault?.rawValue)
        if head.fault == nil { #expect(outcome == .success(true)) }
        // A beginning either waits or is refused; it is never taken, and what is right waits up to its last byte.
        var isRefused = false
        for count in 0..<bytes.count {
            switch parse(Array(bytes[..<count])) {
            case .success(let isComplete):
                #expect(!isComplete, "\(count)")
                #expect(!isRefused, "refused before \(count) and not now")
            case .failure:
                #expect(head.fault != nil, "\(count)")
                isRefused = true
            }
        }
        // What comes behind it is of no account.
        if head.fault == nil { #expect(parse(bytes + Array("\u{0}GET / HTTP/9.9".utf8)) == .success(true)) }
    }

    @Test func theTableIsLongAndHasNothingTwice() {
        #expect(HeadCase.all.count >= 150)
        #expect(Set(HeadCase.all.map(\.text)).count == HeadCase.all.count)
    }

    @Test func whatAHeadSays() {
        let text = """
            POST /a?b HTTP/1.1\nhOsT: h:1\nContent-Type:  text/plain; x \nContent-Length: 12\nConnection: a,  Upgrade ,b
            Connection:close\nExpect: 100-Continue\nA: 1\na: 2\n\n
            """
        let bytes = wire(text)
        let outcome = parse(bytes + [1, 2, 3]) { head in
            #expect(head.method.text == "POST")
            #expect(head.target.text == "/a?b")
            #expect(head.host?.text == "h:1")
            #expect(head.value("content-type")?.text == "text/plain; x")
            #expect(head.contentLength == 12)
            #expect(head.wantsUpgrade && !head.isKeepAlive && !head.isChunked && !head.isVersion1_0)
            #expect(head.expectation?.text == "100-Continue")
            #expect(head.fieldCount == 8)
            #expect(head.count("a") == 2)
            #expect(head.value("a")?.text == "1")
            #expect(head.value("b") == nil)
            #expect(head.field(7).name.text == "a" && head.field(7).value.text == "2")
            #expect(head.length == bytes.count)
        }
        #expect(outcome == .success(true))
    }

    @Test(arguments: [
        ("http://other/a/b?c", "/a/b?c", "other"), ("HTTPS://[::1]:8080/", "/", "[::1]:8080"), ("http://a", "/", "a"),
        ("http://a//b", "//b", "a"), ("/http://a", "/http://a", "h"),
    ])
    func urlsAsTargets(target: String, path: String, host: String) {
        let outcome = parse(wire("GET \(target) HTTP/1.1\nHost: h\n\n")) { head in
            #expect(head.target.text == path)
            #expect(head.host?.text == host)
        }
        #expect(outcome == .success(true))
        _ = parse(wire("OPTIONS http://a HTTP/1.1\nHost: h\n\n")) { #expect($0.target.text == "*") }
    }

    @Test(arguments: [
        ("HTTP/1.1", "", true), ("HTTP/1.1", "close", false), ("HTTP/1.1", "CLOSE", false),
        ("HTTP/1.1", "a,close", false),
        ("HTTP/1.1", "close,", false), ("HTTP/1.1", ",,\tclose ,", false), ("HTTP/1.1", "closed", true),
        ("HTTP/1.1", "clos e", true), ("HTTP/1.1", "keep-alive, close", false), ("HTTP/1.1", "keep-alive", true),
        ("HTTP/1.0", "", false), ("HTTP/1.0", "keep-alive", true), ("HTTP/1.0", "x, Keep-Alive", true),
        ("HTTP/1.0", "keep-alive, close", false), ("HTTP/1.0", "close", false),
    ])
    func whetherTheConnectionStays(version: String, value: String, stays: Bool) {
        let outcome = parse(wire("GET / \(version)\nHost: h\nConnection: \(value)\n\n")) { head in
            #expect(head.isKeepAlive == stays)
        }
        #expect(outcome == .success(true))
        _ = parse(wire("CONNECT a:1 HTTP/1.1\nHost: h\n\n")) { #expect(!$0.isKeepAlive) }
    }
}
