/// The GS2 header (RFC 5801 §4) that messages of SCRAM and OAUTHBEARER begin with: `n,a=name,`.

/// Why a client's message cannot be read, and the word that RFC 5802 §7 has for it.
struct SASLFailure: Error, Equatable {
    /// For the audit record.
    var reason: String
    /// For the client of SCRAM.
    var word: String

    init(_ reason: String, word: String = "invalid-encoding") {
        self.reason = reason
        self.word = word
    }
}

/// The header, checked.
struct SASLHeader: Equatable {
    /// Whom the client wants to act as; nil when it does not say.
    var authorizationID: String?
    /// Its text with both commas.
    var text: String

    /// Takes the header from the beginning of `message`.
    /// - Returns: the header and what follows.
    static func take(from message: String) throws(SASLFailure) -> (header: SASLHeader, rest: Substring) {
        let parts = message.split(separator: ",", maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3 else { throw SASLFailure("the message has no header") }
        switch parts[0] {
        // Bindings are not offered, so a client that could and one that thinks we cannot are right both.
        case "n", "y": break
        case _ where parts[0].hasPrefix("p="):
            throw SASLFailure(
                "the client insists on channel binding, which is not offered", word: "channel-binding-not-supported")
        default: throw SASLFailure("the header is malformed")
        }
        var header = SASLHeader(text: "\(parts[0]),\(parts[1]),")
        if !parts[1].isEmpty {
            guard parts[1].hasPrefix("a="), let name = unescaped(parts[1].dropFirst(2)), !name.isEmpty else {
                throw SASLFailure("the header's name is malformed")
            }
            header.authorizationID = name
        }
        return (header, parts[2])
    }

    /// `=2C` is a comma and `=3D` an equals sign (RFC 5802 §5.1).
    static func unescaped(_ text: Substring) -> String? {
        var name = ""
        var rest = text
        while let index = rest.firstIndex(of: "=") {
            name += rest[..<index]
            let escape = rest[index...].prefix(3)
            switch escape {
            case "=2C": name += ","
            case "=3D": name += "="
            default: return nil
            }
            rest = rest[escape.endIndex...]
        }
        return name + rest
    }
}
