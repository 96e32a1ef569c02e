/// `apus certs revoke`, `crl`, `list` and `show`.
import ArgumentParser
import Security

/// `apus certs revoke`.
struct CertsRevoke: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "revoke", abstract: "Revoke a certificate.",
        discussion: """
            Writes ca.crl anew. Nodes learn of it when the list that their section tls names (`crl`) is that file, or \
            when it is copied to where it is: then connections with that certificate end.

            Examples:
              apus certs revoke device-17
              apus certs revoke 5f0e6a2c81d94b7f9a3c0d1e2f405162
            """)

    @OptionGroup var authority: AuthorityOptions

    @Option(help: "Days until the next list must be there.")
    var days = RevocationList.standardDays

    @Argument(help: "The name, or the serial number of one certificate.")
    var name: String

    func run() throws {
        let folder = try authority.folder()
        let revoked = try folder.revoke(name, days: days, now: secondsNow())
        if revoked.isEmpty {
            print("\(name) was revoked before; \(folder.revocationsPath) is written anew")
        }
        for entry in revoked { print("revoked \(entry.name), \(entry.kind), serial \(entry.serial)") }
        if let list = try folder.revocations() { printValidity(list, folder) }
    }
}

private func printValidity(_ list: RevocationList, _ folder: AuthorityFolder) {
    print("\(folder.revocationsPath)  \(list.serials.count) revoked; renew it by `apus certs crl` before")
    print("  \(UTC.text(list.nextUpdate)): who checks it refuses everybody after that")
}

/// `apus certs crl`.
struct CertsCRL: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "crl", abstract: "Write the list of revoked certificates anew, so that it holds longer.",
        discussion: """
            Example, for a timer:
              apus certs crl --dir /etc/apus/certs --days 30
            """)

    @OptionGroup var authority: AuthorityOptions

    @Option(help: "Days until the next list must be there.")
    var days = RevocationList.standardDays

    func run() throws {
        let folder = try authority.folder()
        printValidity(try folder.renewRevocations(days: days, now: secondsNow()), folder)
    }
}

/// `apus certs list`.
struct CertsList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List what was issued.",
        discussion: """
            Example:
              apus certs list
            """)

    /// In which a certificate is told to end soon.
    private static let soonSeconds: Int64 = 30 * 86_400

    @OptionGroup var authority: AuthorityOptions

    func run() throws {
        let folder = try authority.folder()
        let now = secondsNow()
        let certificate = try folder.certificate()
        let rows = try folder.index().entries.map { entry in
            [
                entry.name, entry.kind, Self.state(entry.state(now: now), entry.notAfter, now, entry.revokedAt),
                UTC.text(entry.notAfter), entry.serial,
            ]
        }
        let authority = [
            certificate.commonName ?? certificate.subject, "authority",
            Self.state(certificate.notAfter <= now ? .expired : .good, certificate.notAfter, now, nil),
            UTC.text(certificate.notAfter), certificate.serial,
        ]
        printTable(["NAME", "KIND", "STATE", "UNTIL", "SERIAL"], [authority] + rows)
        guard let list = try folder.revocations() else {
            return printError("warning: there is no \(folder.revocationsPath); `apus certs crl` writes one")
        }
        if list.nextUpdate <= now + 7 * 86_400 {
            printError("warning: \(folder.revocationsPath) holds until \(UTC.text(list.nextUpdate)); `apus certs crl`")
        }
    }

    private static func state(
        _ state: IssuedIndex.Entry.State, _ end: Int64, _ now: Int64, _ revokedAt: Int64?
    ) -> String {
        switch state {
        case .revoked: revokedAt.map { "revoked \(UTC.text($0))" } ?? "revoked"
        case .expired: "expired"
        case .good: end - now < soonSeconds ? "ends in \(duration(Int(end - now)))" : "good"
        }
    }
}

/// `apus certs show`.
struct CertsShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Say what is in a certificate or in a list of revoked ones.",
        discussion: """
            Examples:
              apus certs show certs/node-1.crt
              apus certs show certs/ca.crl
            """)

    @Argument(help: "A file in PEM form.")
    var file: String

    func run() throws {
        let pem = try readAll(path: file, limit: 16 << 20)
        let rows: [(String, String)]
        if String(decoding: pem.prefix(64 << 10), as: UTF8.self).contains("BEGIN X509 CRL") {
            rows = Self.rows(of: try RevocationList.read(pem: pem, name: file))
        } else {
            rows = Self.rows(of: try Certificate.read(pem: pem, name: file), now: secondsNow())
        }
        for (title, text) in rows where !text.isEmpty {
            print(title + String(repeating: " ", count: max(1, 13 - title.count)) + printable(text))
        }
    }

    private static func rows(of list: RevocationList) -> [(String, String)] {
        [
            ("revocations", "list number \(list.number)"), ("of", list.issuer),
            ("next list", "\(UTC.text(list.nextUpdate))"), ("revoked", list.serials.joined(separator: " ")),
        ]
    }

    private static func rows(of certificate: Certificate, now: Int64) -> [(String, String)] {
        let names = certificate.alternativeNames
        let usages = Certificate.Usage.allCases.filter { certificate.usages.contains($0) }.map(\.rawValue)
        let state = certificate.notAfter <= now ? " (expired)" : certificate.notBefore > now ? " (not yet)" : ""
        return [
            ("subject", certificate.subject), ("issuer", certificate.issuer), ("serial", certificate.serial),
            ("SHA-256", certificate.fingerprint),
            ("holds", "\(UTC.text(certificate.notBefore)) to \(UTC.text(certificate.notAfter))\(state)"),
            ("for", certificate.isAuthority ? "signing certificates" : usages.joined(separator: ", ")),
            ("node", certificate.node?.id ?? ""), ("mesh", certificate.node?.mesh ?? ""),
            ("hosts", (names.dnsNames + names.addresses).joined(separator: ", ")),
            ("e-mail", names.emails.joined(separator: ", ")),
            ("groups", certificate.organizationalUnits.joined(separator: ", ")),
        ]
    }
}
