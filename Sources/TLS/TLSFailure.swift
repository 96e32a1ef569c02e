import COpenSSL

/// Why certificates, keys or lists cannot be used: the file, what is wrong with it and what would be right.
public struct TLSFailure: Error, Sendable, Equatable, CustomStringConvertible {
    /// For people.
    public let description: String

    init(_ description: String) { self.description = description }

    /// With the reason that OpenSSL gives; its errors of this thread are taken away.
    static func openSSL(_ what: String) -> TLSFailure {
        let error = ERR_peek_last_error()
        ERR_clear_error()
        return TLSFailure("\(what): \(text(of: error))")
    }

    /// OpenSSL's words for an error.
    static func text(of error: UInt) -> String {
        if let reason = ERR_reason_error_string(error) { return String(cString: reason) }
        return error == 0 ? "no reason given" : "error \(error)"
    }
}
