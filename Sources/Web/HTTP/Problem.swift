/// Errors as clients see them: `application/problem+json` (RFC 9457).

/// What went wrong with a request.
public struct Problem: Error, Sendable, Equatable {
    /// The status code.
    public var status: Int
    /// What happened, this time; nothing secret.
    public var detail: String
    /// Fields that the status calls for: `Allow`, `Retry-After`, `WWW-Authenticate`.
    public var headers: Headers

    /// Makes a problem.
    public init(_ status: Int, _ detail: String, headers: Headers = Headers()) {
        self.status = status
        self.detail = detail
        self.headers = headers
    }

    /// As a response: `{"type":"about:blank","title":…,"status":…,"detail":…}`.
    public var response: HTTPResponse {
        var body = Array(#"{"type":"about:blank","title":"#.utf8)
        Self.append(Self.title(of: status), to: &body)
        body += #","status":\#(status),"detail":"#.utf8
        Self.append(detail, to: &body)
        body.append(UInt8(ascii: "}"))
        var response = HTTPResponse(status: status, headers: headers, body: body)
        response.headers.add("Content-Type", "application/problem+json")
        return response
    }

    static let badTarget = Problem(400, "The request's target is no path with correct percent-encoding.")

    /// The phrase of a status code (RFC 9110 §15).
    public static func title(of status: Int) -> String { titles[status] ?? "Status \(status)" }

    private static let titles = [
        200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 304: "Not Modified", 400: "Bad Request",
        401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable",
        408: "Request Timeout", 409: "Conflict", 410: "Gone", 411: "Length Required", 412: "Precondition Failed",
        413: "Content Too Large", 414: "URI Too Long", 415: "Unsupported Media Type", 417: "Expectation Failed",
        421: "Misdirected Request", 422: "Unprocessable Content", 426: "Upgrade Required", 429: "Too Many Requests",
        431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented",
        502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
    ]

    /// A JSON string.
    private static func append(_ text: String, to bytes: inout [UInt8]) {
        bytes.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"): bytes += [UInt8(ascii: "\\"), byte]
            case 0..<0x20, 0x7F:
                let digits = String(byte, radix: 16)
                bytes += "\\u\(String(repeating: "0", count: 4 - digits.count))\(digits)".utf8
            default: bytes.append(byte)
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }
}
