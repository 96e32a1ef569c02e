/// What a token says, judged by what the configuration asks for (RFC 7519 §4.1).

/// Who a good token proves a client to be, and until when.
struct TokenProof: Sendable, Equatable {
    var user: String
    var groups: [String]
    /// `claim.<name>` and its values.
    var attributes: [String: [String]]
    /// The end, the leeway included, in milliseconds since 1970.
    var endsAt: Int64

    /// Claims that become attributes, at most.
    static let maxClaims = 64
    /// Bytes of a claim's name, and of each of its values.
    static let maxClaimBytes = 1_024
    /// Groups that one token may put its owner into.
    static let maxGroups = 256

    /// Judges the claims of a token whose signature is good.
    /// - Parameter now: milliseconds since 1970.
    init(_ claims: [String: StrictJSON], of issuer: TokenIssuer, now: Int64) throws(TokenRefusal) {
        func refusal(_ reason: String) -> TokenRefusal { TokenRefusal(reason, isSigned: true) }
        guard claims["iss"]?.text == issuer.issuer else { throw refusal("it is of another issuer") }
        guard claims["aud"]?.texts?.contains(issuer.audience) == true else {
            throw refusal("it is for another audience than '\(issuer.audience)'")
        }
        let leeway = Int64(issuer.leewaySeconds) * 1_000
        guard let expiry = try Self.date("exp", claims) else { throw refusal("it has no end ('exp')") }
        endsAt = expiry + leeway
        guard now < endsAt else { throw refusal("expired \((now - expiry) / 1_000) s ago") }
        if let start = try Self.date("nbf", claims), now < start - leeway {
            throw refusal("not valid before \((start - now + 999) / 1_000) s from now")
        }
        // Not asked for by the RFC; but a token from the future was made by a clock that nobody should trust.
        if let issued = try Self.date("iat", claims), now < issued - leeway {
            throw refusal("issued \((issued - now + 999) / 1_000) s in the future")
        }
        guard let name = claims[issuer.userClaim]?.text else {
            throw refusal("the claim '\(issuer.userClaim)' with the user's name is missing or no text")
        }
        if let reason = User.reasonAgainst(provenName: name) { throw refusal(reason) }
        user = name
        groups = try Self.groups(claims[issuer.groupsClaim], claim: issuer.groupsClaim)
        attributes = try Self.attributes(claims)
    }

    /// A NumericDate in milliseconds; nil when the claim is not there.
    private static func date(_ name: String, _ claims: [String: StrictJSON]) throws(TokenRefusal) -> Int64? {
        guard let claim = claims[name] else { return nil }
        // Up to the year 10000: room for everything that is added to it.
        guard let seconds = claim.double, seconds >= 0, seconds <= 253_402_300_800 else {
            throw TokenRefusal("the claim '\(name)' is no date", isSigned: true)
        }
        return Int64(seconds * 1_000)
    }

    private static func groups(_ claim: StrictJSON?, claim name: String) throws(TokenRefusal) -> [String] {
        guard let claim else { return [] }
        guard let texts = claim.texts, texts.count <= maxGroups else {
            throw TokenRefusal("the claim '\(name)' is no list of at most \(maxGroups) texts", isSigned: true)
        }
        for text in texts where text.isEmpty || text.utf8.count > User.maxNameBytes {
            throw TokenRefusal("a group in the claim '\(name)' is empty or too long", isSigned: true)
        }
        return texts
    }

    /// Texts, numbers, truth values and lists of texts. What is too large makes the token useless: left out, a rule
    /// that denies by it would not find it.
    private static func attributes(_ claims: [String: StrictJSON]) throws(TokenRefusal) -> [String: [String]] {
        var attributes: [String: [String]] = [:]
        for (name, value) in claims {
            let values: [String]
            switch value {
            case .string, .array:
                guard let texts = value.texts else { continue }
                values = texts
            case .number(let text): values = [number(text)]
            case .bool(let flag): values = [flag ? "true" : "false"]
            case .object, .null: continue
            }
            guard name.utf8.count <= maxClaimBytes, values.allSatisfy({ $0.utf8.count <= maxClaimBytes }) else {
                throw TokenRefusal(
                    "the claim '\(name.prefix(64))' is larger than \(maxClaimBytes) bytes", isSigned: true)
            }
            attributes["claim." + name] = values
        }
        guard attributes.count <= maxClaims else {
            throw TokenRefusal("it has more than \(maxClaims) claims", isSigned: true)
        }
        return attributes
    }

    /// `5.0` is the same number as `5`, and so is `5e0`.
    private static func number(_ text: String) -> String {
        if let integer = Int64(text) { return String(integer) }
        guard let value = Double(text), let integer = Int64(exactly: value), abs(integer) <= 1 << 53 else {
            return text
        }
        return String(integer)
    }
}
