/// Heads and what becomes of them: the table of ``HeadTests``.
import Testing

struct HeadCase: Sendable, CustomTestStringConvertible {
    /// Why a head is refused, in short.
    enum Fault: String, Sendable {
        case method = "A request begins with a method and a space."
        case longMethod = "The method is too long."
        case target = "A target and a space come after the method."
        case path = "A target is a path, which begins with a slash, or a URL."
        case url = "A URL as the target has a host, and a path that begins with a slash."
        case connect = "CONNECT has a name and a port as its target."
        case fragment = "A target has no fragment."
        case version = "A request line ends with HTTP/1.1 and CR LF."
        case line = "A line ends with CR LF."
        case folded = "Header fields are not folded."
        case field = "A header field is a name, a colon and a value."
        case control = "A header field has no control characters, and a line ends with CR LF."
        case hosts = "A request has one Host field."
        case host = "Host is a name or address, perhaps with a port."
        case expect = "A request has one Expect field."
        case lengths = "A request has one Content-Length."
        case length = "Content-Length is a number."
        case codings = "A request has one Transfer-Encoding."
        case both = "A request has either Content-Length or Transfer-Encoding, not both."
        case older = "HTTP/1.0 has no Transfer-Encoding."
        case tooLarge, targetTooLong, unknownCoding, unsupportedVersion
    }

    /// The bytes: each `\n` is sent as it is, `\r` too.
    let text: String
    /// Nil when the head is right.
    let fault: Fault?

    var testDescription: String { text.count < 80 ? text.debugDescription : "\(text.prefix(60).debugDescription)…" }

    init(_ text: String, _ fault: Fault? = nil) {
        self.text = text
        self.fault = fault
    }

    /// A head of a request line; Host follows.
    static func line(_ line: String, _ fault: Fault? = nil) -> HeadCase {
        HeadCase("\(line)\r\nHost: h\r\n\r\n", fault)
    }

    /// A head with these lines behind the request line, besides Host.
    static func fields(_ lines: String, _ fault: Fault? = nil) -> HeadCase {
        HeadCase("POST / HTTP/1.1\r\nHost: h\r\n\(lines)\r\n\r\n", fault)
    }

    /// A head with this Host.
    static func host(_ value: String, _ fault: Fault? = nil) -> HeadCase {
        HeadCase("GET / HTTP/1.1\r\nHost: \(value)\r\n\r\n", fault)
    }

    static let all = lines + targets + hosts + names + values + framing + codings + limits

    private static let lines: [HeadCase] = [
        .line("GET / HTTP/1.1"), .line("get / HTTP/1.1"), .line("BREW / HTTP/1.1"), .line("M-SEARCH / HTTP/1.1"),
        .line("!#$%&'*+-.^_`|~09 / HTTP/1.1"), HeadCase("GET / HTTP/1.0\r\n\r\n"), .line("GET / HTTP/1.0"),
        .line("\(String(repeating: "M", count: 32)) / HTTP/1.1"),
        .line("\(String(repeating: "M", count: 33)) / HTTP/1.1", .method),
        HeadCase("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        HeadCase("\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        HeadCase("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", .method), .line("\nGET / HTTP/1.1", .method),
        .line("\rGET / HTTP/1.1", .method), .line(" GET / HTTP/1.1", .method), .line("\tGET / HTTP/1.1", .method),
        .line("\u{0}GET / HTTP/1.1", .method), .line("GET\t/ HTTP/1.1", .method), .line("GET", .method),
        .line("G(T / HTTP/1.1", .method), .line("G\u{E9}T / HTTP/1.1", .method), .line("GET: / HTTP/1.1", .method),
        .line("\"GET\" / HTTP/1.1", .method), .line("GET/ HTTP/1.1", .method), .line("GET  / HTTP/1.1", .target),
        .line("GET /", .target), .line("GET / ", .version), .line("GET /  HTTP/1.1", .version),
        .line("GET /\tHTTP/1.1", .target), .line("GET / HTTP/1.1 ", .version), .line("GET / HTTP/1.1\t", .version),
        .line("GET / HTTP/1.1\r", .version), HeadCase("GET / HTTP/1.1\nHost: h\n\n", .version),
        HeadCase("GET / HTTP/1.1\rHost: h\r\r", .version), .line("GET / http/1.1", .version),
        .line("GET / HTP/1.1", .version),
        .line("GET / HTTP/1", .version), .line("GET / HTTP/1.", .version), .line("GET / HTTP/11", .version),
        .line("GET / HTTP/1.11", .version), .line("GET / HTTP/01.1", .unsupportedVersion),
        .line("GET / HTTP/1.1.1", .version),
        .line("GET / HTTP/1.2", .unsupportedVersion), .line("GET / HTTP/1.9", .unsupportedVersion),
        .line("GET / HTTP/0.9", .unsupportedVersion), .line("GET / HTTP/2.0", .unsupportedVersion),
        .line("GET / HTTP/3", .unsupportedVersion), .line("GET / HTTP/1,1", .version),
        .line("GET / HTTP/1.x", .version),
        .line("GET / HTTP/-1.1", .version), .line("GET / FTP/1.1", .version), .line("GET / ICE/1.0", .version),
        .line("GET / RTSP/1.0", .version), .line("GET / HTTP/1.1 HTTP/1.1", .version),
        .line("GET / x HTTP/1.1", .version),
        HeadCase("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", .unsupportedVersion),
        HeadCase("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}", .method), HeadCase("SSH-2.0-OpenSSH_9.2\r\n", .method),
    ]

    private static let targets: [HeadCase] = [
        .line("GET /a/b?c=d&e HTTP/1.1"), .line("GET // HTTP/1.1"), .line("GET /? HTTP/1.1"),
        .line("GET /%00 HTTP/1.1"),
        .line("GET /\u{E4} HTTP/1.1"), .line("GET /a|b{c}\"<>\\^` HTTP/1.1"), .line("GET /../.. HTTP/1.1"),
        .line("OPTIONS * HTTP/1.1"), .line("GET * HTTP/1.1", .path), .line("OPTIONS ** HTTP/1.1", .path),
        .line("OPTIONS *x HTTP/1.1", .path), .line("GET http://a/b HTTP/1.1"), .line("GET HTTP://a HTTP/1.1"),
        .line("GET https://a:1/ HTTP/1.1"), .line("GET http://[::1]:80/ HTTP/1.1"), .line("OPTIONS http://a HTTP/1.1"),
        .line("GET http:///b HTTP/1.1", .url), .line("GET http:// HTTP/1.1", .url),
        .line("GET http://a?b HTTP/1.1", .url),
        .line("GET http://u@a/ HTTP/1.1", .url), .line("GET http://u:p@a/ HTTP/1.1", .url),
        .line("GET http://a:b/ HTTP/1.1", .url), .line("GET http:/a HTTP/1.1", .path),
        .line("GET http:a HTTP/1.1", .path),
        .line("GET ftp://a/ HTTP/1.1", .path), .line("GET a/b HTTP/1.1", .path), .line("GET ?a HTTP/1.1", .path),
        .line("GET a:80 HTTP/1.1", .path), .line("GET \\a HTTP/1.1", .path), .line("GET /a#b HTTP/1.1", .fragment),
        .line("GET # HTTP/1.1", .fragment), .line("GET /?#x HTTP/1.1", .fragment), .line("CONNECT a:80 HTTP/1.1"),
        .line("CONNECT [::1]:80 HTTP/1.1"), .line("CONNECT /a HTTP/1.1"), .line("CONNECT a/b HTTP/1.1", .connect),
        .line("CONNECT http://a HTTP/1.1", .connect), .line("GET /a\u{0}b HTTP/1.1", .target),
        .line("GET /a\u{B}b HTTP/1.1", .target), .line("GET /a\u{7F}b HTTP/1.1", .target),
        .line("GET /a\rb HTTP/1.1", .target), .line("GET /a\nb HTTP/1.1", .target),
    ]

    private static let hosts: [HeadCase] = [
        .host("h:80"), .host("h:"), .host("H.example.org:65535"), .host("127.0.0.1:8080"), .host("[::1]"),
        .host("[fe80::1]:1"), .host("[::ffff:1.2.3.4]"), .host(""), .host("a_b"), .host("a%41"), .host("h  "),
        .host("\t h"), .host("h:123456", .host), .host("h:8o", .host), .host(":80", .host), .host("h:80:80", .host),
        .host("h:-1", .host), .host("h/", .host), .host("u@h", .host), .host("a,b", .host), .host("a b", .host),
        .host("a\tb", .host), .host("h#", .host), .host("h?", .host), .host("a\\b", .host), .host("\"h\"", .host),
        .host("<h>", .host), .host("[::1", .host), .host("::1", .host), .host("[]", .host), .host("[:]", .host),
        .host("[::1]x", .host), .host("[::1%25lo]", .host), .host("[g::]", .host), .host("h\u{E4}", .host),
        .host("http://h", .host), HeadCase("GET / HTTP/1.1\r\n\r\n", .hosts), .fields("Host: h", .hosts),
        .fields("host: other", .hosts), .fields("HOST:", .hosts), HeadCase("GET http://a/ HTTP/1.1\r\n\r\n", .hosts),
        HeadCase("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", .hosts), .fields("X-Host: other"),
    ]

    private static let names: [HeadCase] = [
        .fields("A:b"), .fields("A:"), .fields("A:  "), .fields("a!#$%&'*+-.^_`|~: b"), .fields("A:b:c"),
        .fields("1: 2"),
        .fields("Transfer_Encoding: x"), .fields("A : b", .field), .fields("A\t: b", .field), .fields(": b", .field),
        .fields("A", .field), .fields("A b: c", .field), .fields("A\u{0}: b", .field), .fields("A\u{E4}: b", .field),
        .fields("(A): b", .field), .fields("A,B: c", .field), .fields("A/B: c", .field), .fields("A\\: b", .field),
        .fields("\"A\": b", .field), .fields("{A}: b", .field), .fields("A;: b", .field), .fields("A=b", .field),
        .fields("\u{B}A: b", .field), .fields("\u{0}", .field), .fields("Content-Length : 1", .field),
        .fields("Transfer-Encoding : chunked", .field), .fields("Transfer-Encoding\u{B}: chunked", .field),
        .fields("Content-Length\u{0}: 1", .field), .fields(" A: b", .folded), .fields("\tA: b", .folded),
        .fields("A: b\r\n c", .folded), .fields("A: b\r\n\tc", .folded), .fields(" ", .folded),
        .fields("Transfer-Encoding:\r\n chunked", .unknownCoding), .fields("Content-Length:\r\n\t1", .length),
        HeadCase("GET / HTTP/1.1\r\n Host: h\r\n\r\n", .folded),
    ]

    private static let values: [HeadCase] = [
        .fields("A: b c\td"), .fields("A: \u{E4}\u{FFFD}"), .fields("A: \"(,)\""), .fields("A: b\u{0}c", .control),
        .fields("A: \u{0}", .control), .fields("A: b\u{1}", .control), .fields("A: b\u{1F}", .control),
        .fields("A: b\u{7F}", .control), .fields("A: b\u{B}", .control), .fields("A: b\u{C}", .control),
        .fields("A: b\rc", .control), .fields("A: b\r", .control), .fields("A: b\nB: c", .control),
        .fields("A: b\n\nGET /smuggled HTTP/1.1", .control), .fields("A: b\r\rB: c", .control),
        .fields("A: b\rTransfer-Encoding: chunked", .control), .fields("A:\nTransfer-Encoding: chunked", .control),
        HeadCase("GET / HTTP/1.1\r\nHost: h\r\n\n", .field), HeadCase("GET / HTTP/1.1\r\nHost: h\n\n", .control),
        HeadCase("GET / HTTP/1.1\r\nHost: h\r\n\r\r", .line), HeadCase("GET / HTTP/1.1\r\nHost: h\r\n\rX", .line),
        .fields("Expect: 100-continue"), .fields("Expect: x\r\nExpect: 100-continue", .expect),
    ]

    private static let framing: [HeadCase] = [
        .fields("Content-Length: 0"), .fields("Content-Length: 5"), .fields("content-length:5"),
        .fields("CONTENT-LENGTH: \t5 \t"), .fields("Content-Length: 0005"),
        .fields("Content-Length: 999999999999999999"),
        .fields("Content-Length: 1000000000000000000", .length),
        .fields("Content-Length: 9223372036854775808", .length),
        .fields("Content-Length: 18446744073709551616", .length),
        .fields("Content-Length: 18446744073709551621", .length),
        .fields("Content-Length:", .length), .fields("Content-Length: -1", .length),
        .fields("Content-Length: +1", .length),
        .fields("Content-Length: 0x10", .length), .fields("Content-Length: 1 ,", .length),
        .fields("Content-Length: 1,1", .length),
        .fields("Content-Length: 1, 2", .length), .fields("Content-Length: 1 1", .length),
        .fields("Content-Length: 1.0", .length),
        .fields("Content-Length: 1e1", .length), .fields("Content-Length: \"1\"", .length),
        .fields("Content-Length: 1;", .length),
        .fields("Content-Length: 1_000", .length), .fields("Content-Length: \u{661}", .length),
        .fields("Content-Length: abc", .length),
        .fields("Content-Length: 1\u{0}", .control), .fields("Content-Length: \u{B}1", .control),
        .fields("Content-Length: 1\r\nContent-Length: 1", .lengths),
        .fields("Content-Length: 1\r\ncontent-length: 2", .lengths),
        .fields("Content-Length: 0\r\nContent-Length:", .lengths), .fields("X-Content-Length: 1\r\nContent-Length: 2"),
    ]

    private static let codings: [HeadCase] = [
        .fields("Transfer-Encoding: chunked"), .fields("transfer-encoding:CHUNKED"),
        .fields("Transfer-Encoding: \tchunked\t "),
        .fields("Transfer-Encoding: gzip", .unknownCoding), .fields("Transfer-Encoding: gzip, chunked", .unknownCoding),
        .fields("Transfer-Encoding: chunked, gzip", .unknownCoding),
        .fields("Transfer-Encoding: chunked, chunked", .unknownCoding),
        .fields("Transfer-Encoding: identity", .unknownCoding),
        .fields("Transfer-Encoding: chunked, identity", .unknownCoding),
        .fields("Transfer-Encoding:", .unknownCoding), .fields("Transfer-Encoding: ,chunked", .unknownCoding),
        .fields("Transfer-Encoding: chunked,", .unknownCoding), .fields("Transfer-Encoding: xchunked", .unknownCoding),
        .fields("Transfer-Encoding: chunkedx", .unknownCoding),
        .fields("Transfer-Encoding: \"chunked\"", .unknownCoding),
        .fields("Transfer-Encoding: 'chunked'", .unknownCoding),
        .fields("Transfer-Encoding: chunked;q=1", .unknownCoding),
        .fields("Transfer-Encoding: chun ked", .unknownCoding),
        .fields("Transfer-Encoding: chunk\u{212A}ed", .unknownCoding),
        .fields("Transfer-Encoding: \u{B}chunked", .control), .fields("Transfer-Encoding: chunked\u{0}", .control),
        .fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", .codings),
        .fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: x", .codings),
        .fields("Transfer-Encoding: x\r\nTransfer-Encoding: chunked", .unknownCoding),
        .fields("Content-Length: 3\r\nTransfer-Encoding: chunked", .both),
        .fields("Transfer-Encoding: chunked\r\nContent-Length: 3", .both),
        .fields("Transfer-Encoding: chunked\r\nContent-Length: 0", .both),
        HeadCase("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", .older),
        HeadCase("POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", .older),
    ]

    /// With the limits of ``HeadTests``: 1,024 bytes, a target of 512.
    private static let limits: [HeadCase] = [
        .line("GET /\(String(repeating: "x", count: 511)) HTTP/1.1"),
        .line("GET /\(String(repeating: "x", count: 512)) HTTP/1.1", .targetTooLong),
        .line("GET \(String(repeating: "x", count: 5_000)) HTTP/1.1", .targetTooLong),
        // Request line and Host are 28 bytes, `A: ` and the two line ends 7.
        .fields("A: \(String(repeating: "x", count: 1_024 - 33))", nil),
        .fields("A: \(String(repeating: "x", count: 1_024 - 32))", .tooLarge),
        .fields("A: \(String(repeating: "x", count: 5_000))", .tooLarge),
        .fields(Array(repeating: "A:", count: 99).joined(separator: "\r\n")),
        .fields(Array(repeating: "A:", count: 100).joined(separator: "\r\n"), .tooLarge),
        HeadCase(String(repeating: "G", count: 100), .longMethod),
        HeadCase("GET / HTTP/1.1\r\nHost: h\r\n\(String(repeating: "A", count: 2_000))", .tooLarge),
        HeadCase("GET / HTTP/1.1\r\nHost: h\r\nA: \(String(repeating: "A", count: 2_000))", .tooLarge),
    ]
}
