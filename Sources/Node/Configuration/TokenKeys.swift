/// The list `security.tokens`: whose tokens (JWT) are taken. See `docs/security.md`.
import Security

/// The keys of its entries.
enum TokenKeys {
    static let all: [ConfigurationKey] = [
        ConfigurationKey(
            "security.tokens[].issuer", .text, "required", "What `iss` of the tokens must be.", isLive: true),
        ConfigurationKey(
            "security.tokens[].audience", .text, "required", "What `aud` must be or contain.", isLive: true),
        ConfigurationKey(
            "security.tokens[].keys", .text, "required",
            "The issuer's keys (JWK set): a path, or an `https://` URL that is asked again from time to time.",
            isLive: true),
        ConfigurationKey("security.tokens[].user", .text, "sub", "The claim with the user's name.", isLive: true),
        ConfigurationKey("security.tokens[].groups", .text, "groups", "The claim with the groups.", isLive: true),
        ConfigurationKey(
            "security.tokens[].algorithms", .texts, "all but HS256, HS384 and HS512",
            "What a signature may be made with.", isLive: true),
        ConfigurationKey(
            "security.tokens[].leeway", .seconds(0...TokenIssuer.maxLeewaySeconds), "30",
            "Seconds by which the clocks may differ.", isLive: true),
        ConfigurationKey(
            "security.tokens[].ca", .path, "the system's", "Authorities (PEM) of the server with the keys.",
            isLive: true),
    ]
}

extension ConfigurationReader {
    mutating func tokens(_ setting: Setting?) -> [TokenIssuer] {
        var issuers: [TokenIssuer] = []
        for (index, item) in items(setting, "security.tokens").enumerated() {
            let called = "security.tokens[\(index)]"
            guard let issuer = issuer(item, called) else { continue }
            if issuers.contains(where: { $0.issuer == issuer.issuer && $0.audience == issuer.audience }) {
                report(item, called, "the issuer '\(issuer.issuer)' is there twice with the same audience")
            }
            issuers.append(issuer)
        }
        return issuers
    }

    private mutating func issuer(_ item: Setting, _ called: String) -> TokenIssuer? {
        let steps = ["security", "tokens", "[]"]
        let fields = group(item, at: steps, called: called)
        let name = required(fields, "issuer", in: item, called) { $0.text($1, $2) }
        let audience = required(fields, "audience", in: item, called) { $0.text($1, $2) }
        let keys = required(fields, "keys", in: item, called) { $0.text($1, $2) }
        let user = text(fields["user"], "\(called).user") ?? "sub"
        let groups = text(fields["groups"], "\(called).groups") ?? "groups"
        let algorithms = texts(fields["algorithms"], "\(called).algorithms")
        let leeway = number(fields["leeway"], "\(called).leeway", key(steps + ["leeway"])) ?? 30
        let authorities = text(fields["ca"], "\(called).ca")
        guard let name, let audience, let keys else { return nil }
        do throws(TokenIssuer.Failure) {
            return try TokenIssuer(
                issuer: name, audience: audience, keys: keys, userClaim: user, groupsClaim: groups,
                algorithms: algorithms, leewaySeconds: leeway, authorities: authorities)
        } catch {
            report(item, called, error.description)
            return nil
        }
    }
}
