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

    /// Takes the header from the beginning of `message`, which is UTF-8. Bytes, because to Swift a comma with an accent
    /// is no comma.
    /// - Returns: the header and what follows.
    static func take(
        from message: [UInt8]
    ) throws(SASLFailure) -> (header: SASLHeader, rest: ArraySlice<UInt8>) {
        let parts = message.split(separator: UInt8(ascii: ","), maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3 else { throw SASLFailure("the message has no header") }
        // Bindings are not offered, so a client that could and one that thinks we cannot are right both.
        guard parts[0] == [UInt8(ascii: "n")] || parts[0] == [UInt8(ascii: "y")] else {
            guard parts[0].starts(with: "p=".utf8) else { throw SASLFailure("the header is malformed") }
            throw SASLFailure(
                "the client insists on channel binding, which is not offered", word: "channel-binding-not-supported")
        }
        let length = parts[0].count + parts[1].count + 2
        var header = SASLHeader(text: String(decoding: message[..<length], as: UTF8.self))
        if !parts[1].isEmpty {
            guard parts[1].starts(with: "a=".utf8), let name = unescaped(parts[1].dropFirst(2)), !name.isEmpty else {
                throw SASLFailure("the header's name is malformed")
            }
            header.authorizationID = name
        }
        return (header, parts[2])
    }

    /// `=2C` is a comma and `=3D` an equals sign (RFC 5802 §5.1).
    static func unescaped(_ text: ArraySlice<UInt8>) -> String? {
        var name: [UInt8] = []
        var rest = text
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "=") else {
                name.append(byte)
                continue
            }
            if rest.starts(with: "2C".utf8) {
                name.append(UInt8(ascii: ","))
            } else if rest.starts(with: "3D".utf8) {
                name.append(UInt8(ascii: "="))
            } else {
                return nil
            }
            rest = rest.dropFirst(2)
        }
        return String(decoding: name, as: UTF8.self)
    }
}
