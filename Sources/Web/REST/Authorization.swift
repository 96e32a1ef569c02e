import FoundationEssentials

/// What a request's `Authorization` says (RFC 9110 §11.6.2). Holds secrets: never logged.
public enum Authorization: Sendable, Equatable {
    /// There is none.
    case nothing
    /// The Basic scheme (RFC 7617).
    case basic(user: String, password: [UInt8])
    /// The Bearer scheme (RFC 6750).
    case bearer([UInt8])
    /// Something else.
    case unknown

    /// Reads the field's value.
    public init(_ value: UnsafeRawBufferPointer?) {
        guard let value else {
            self = .nothing
            return
        }
        if value.begins(with: "basic ") {
            let text = UnsafeRawBufferPointer(rebasing: value[6...]).trimmed.text
            guard let bytes = Data(base64Encoded: text), let colon = bytes.firstIndex(of: UInt8(ascii: ":")),
                let user = String(validating: bytes[..<colon], as: UTF8.self), !user.isEmpty
            else {
                self = .unknown
                return
            }
            self = .basic(user: user, password: Array(bytes[(colon + 1)...]))
        } else if value.begins(with: "bearer ") {
            let token = UnsafeRawBufferPointer(rebasing: value[7...]).trimmed
            self =
                token.isEmpty || token.contains(where: { $0 <= 0x20 || $0 >= 0x7F }) ? .unknown : .bearer(Array(token))
        } else {
            self = .unknown
        }
    }

    /// The same for a text.
    public init(_ value: String?) {
        guard let value else {
            self = .nothing
            return
        }
        self = Array(value.utf8).withUnsafeBytes { Authorization($0) }
    }
}

extension Problem {
    /// 401 with the challenges of the ways there are: one that lets a browser ask its user, and one for tokens.
    /// - Parameters:
    ///   - offersTokens: whether a bearer token would do as well.
    ///   - hadToken: whether one has been refused (RFC 6750 §3.1).
    public static func unauthorized(_ detail: String, offersTokens: Bool, hadToken: Bool = false) -> Problem {
        var headers = Headers()
        headers.add("WWW-Authenticate", #"Basic realm="apus", charset="UTF-8""#)
        if offersTokens {
            let error = hadToken ? #", error="invalid_token""# : ""
            headers.add("WWW-Authenticate", #"Bearer realm="apus""# + error)
        }
        return Problem(401, detail, headers: headers)
    }
}
