/// What has come of a login: what the client is told, and what it is not told.
import Core

/// The answer before it is given.
enum LoginAnswer: Sendable {
    case accepted(Identity)
    /// The reason is for the audit record.
    case refused(AuthenticationRefusal, String)

    static let wrongPassword = LoginAnswer.refused(
        .badCredentials, "the password is wrong or the user unknown")
    static let busy = LoginAnswer.refused(.busy, "too many logins are waiting for a check")

    /// Somebody who has been proven to be `user`, with all that has been proven besides.
    /// - Parameters:
    ///   - entry: the user of the user file with that name.
    ///   - proof: what a token says; nil without one.
    ///   - wall: milliseconds since 1970.
    static func accept(
        _ user: String?, _ entry: User?, proof: TokenProof? = nil, _ who: Credentials, wall: Int64
    ) -> LoginAnswer {
        var identity = Identity(user: user, groups: entry?.groups ?? [])
        var end = proof?.endsAt
        if let proof {
            add(proof.groups, to: &identity)
            identity.attributes = proof.attributes
        }
        // A certificate puts its owner into groups: not somebody else who uses the same machine.
        if who.certificateUser == nil || who.certificateUser == user { add(who.certificateGroups, to: &identity) }
        if let certificate = who.certificate {
            for variable in PeerCertificate.variables {
                guard let values = certificate.values(of: variable), !values.isEmpty else { continue }
                identity.attributes["cert." + variable] = values
            }
            if certificate.notAfter > 0 {
                // More than 10,000 years are as good as that.
                let notAfter = min(certificate.notAfter, 253_402_300_800) * 1_000
                end = min(end ?? notAfter, notAfter)
            }
        }
        if let end {
            guard end > wall else { return .refused(.badCredentials, "the certificate has expired") }
            identity.lifetimeMilliseconds = UInt64(end - wall)
        }
        return .accepted(identity)
    }

    private static func add(_ groups: [String], to identity: inout Identity) {
        for group in groups where !identity.groups.contains(group) { identity.groups.append(group) }
    }
}

/// Writes a record for each refusal.
struct LoginAudit: Sendable {
    var sink: (any AuditSink)?

    /// Bytes of a name that a record shows: who knocks may call itself anything.
    static let maxNameBytes = 256

    func refused(_ who: Credentials, _ reason: String) {
        guard let sink else { return }
        var record = AuditRecord(.authentication, "connect", reason: reason)
        record.object = who.listener
        record.user = who.user.map(Self.cut) ?? who.certificateUser.map(Self.cut)
        record.clientID = Self.cut(who.clientID)
        record.peer = who.peer
        record.protocolName = who.protocolName
        sink.record(record)
    }

    private static func cut(_ name: String) -> String {
        name.utf8.count <= maxNameBytes ? name : String(decoding: name.utf8.prefix(maxNameBytes), as: UTF8.self) + "…"
    }
}
