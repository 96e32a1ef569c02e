/// The section `tls`: certificates under a name that listeners, the mesh and the management interface refer to. See
/// `docs/configuration.md`.
import Security
import TLS

/// The keys of the section.
enum TLSKeys {
    static let all: [ConfigurationKey] = [
        key("certificate", .path, "required", "The certificate (PEM), followed by those between it and the root."),
        key("key", .path, "the certificate's file", "Its private key (PEM)."),
        key("passphrase", .text, "none", "Opens an encrypted key."),
        key("more[].certificate", .path, "required", "A further certificate, for other server names (SNI)."),
        key("more[].key", .path, "the certificate's file", "Its private key."),
        key("more[].passphrase", .text, "none", "Opens its key."),
        key("client_ca", .path, "none", "Authorities (PEM) that the certificates of peers must come from."),
        key(
            "require_client_certificate", .choice(["false", "true"]), "false",
            "Whether clients without a certificate are refused; with `client_ca` and `false` they may show one."),
        key("crl", .path, "none", "Revocation lists: a PEM file, or a directory of `*.pem` and `*.crl` files."),
        key(
            "min_version", .choice(TLSSettings.Version.allCases.map(\.rawValue)), "1.2", "The oldest version spoken."),
        key("ciphers", .text, "the good ones", "Suites of TLS 1.2, in the notation of OpenSSL."),
        key("cipher_suites", .text, "all", "Suites of TLS 1.3."),
        key(
            "user", .text, "none",
            "The user of a client certificate, as `${cert.cn}`; without it a certificate only opens the door."
        ),
        key("groups", .texts, "none", "Groups of that user, as `${cert.ou}`."),
        key("handshake_timeout", .seconds(1...60), "5", "Seconds for a handshake."),
    ]

    private static func key(
        _ name: String, _ type: ValueType, _ standard: String, _ meaning: String
    ) -> ConfigurationKey {
        ConfigurationKey("tls.<name>.\(name)", type, standard, meaning)
    }

    /// The variables of certificates that templates may hold.
    static let variables = ["cn", "ou", "o", "dns", "email", "uri", "serial", "subject"].map { "cert.\($0)" }

    /// Why a name cannot be a section's; nil when it can.
    static func reasonAgainst(name: String) -> String? {
        let isPlain = name.utf8.allSatisfy {
            (0x61...0x7A).contains($0) || (0x30...0x39).contains($0) || $0 == 0x2D || $0 == 0x5F
        }
        return isPlain && !name.isEmpty && name.utf8.count <= 64
            ? nil : "a name here has lower-case letters, digits, '-' and '_', at most 64"
    }
}

extension ConfigurationReader {
    /// The sections, in the order of the file.
    mutating func tls(_ setting: Setting?) -> [TLSSettings] {
        var sections: [TLSSettings] = []
        let entries: [Setting.Entry]
        switch setting {
        case nil, .nothing?: return []
        case .map(let found, _)?: entries = found
        case .text?, .list?:
            report(setting, "tls", "expected names, each with the keys of its certificate")
            return []
        }
        for entry in entries {
            let called = "tls.\(entry.name)"
            if let reason = TLSKeys.reasonAgainst(name: entry.name) { report(entry.value, called, reason) }
            if sections.contains(where: { $0.name == entry.name }) { report(entry.value, called, "is there twice") }
            if let section = section(entry.value, named: entry.name, called) { sections.append(section) }
        }
        return sections
    }

    private mutating func section(_ item: Setting, named name: String, _ called: String) -> TLSSettings? {
        let steps = ["tls", "<name>"]
        let fields = group(item, at: steps, called: called)
        guard let first = pair(fields, in: item, called) else { return nil }
        var section = TLSSettings(name: name, certificates: [first])
        for (index, item) in items(fields["more"], "\(called).more").enumerated() {
            let called = "\(called).more[\(index)]"
            let fields = group(item, at: steps + ["more", "[]"], called: called)
            if let pair = pair(fields, in: item, called) { section.certificates.append(pair) }
        }
        section.peerAuthorities = text(fields["client_ca"], "\(called).client_ca")
        section.revocations = text(fields["crl"], "\(called).crl")
        section.cipherList = text(fields["ciphers"], "\(called).ciphers")
        section.cipherSuites = text(fields["cipher_suites"], "\(called).cipher_suites")
        if let version = choice(fields["min_version"], "\(called).min_version", of: TLSSettings.Version.self) {
            section.minimumVersion = version
        }
        let timeout = key(steps + ["handshake_timeout"])
        if let seconds = number(fields["handshake_timeout"], "\(called).handshake_timeout", timeout) {
            section.handshakeMilliseconds = seconds * 1_000
        }
        readClients(fields, &section, called)
        return section
    }

    private mutating func pair(_ fields: [String: Setting], in item: Setting, _ called: String) -> TLSSettings.Pair? {
        let certificate = required(fields, "certificate", in: item, called) { $0.text($1, $2) }
        let key = text(fields["key"], "\(called).key")
        let passphrase = text(fields["passphrase"], "\(called).passphrase")
        return certificate.map { TLSSettings.Pair(certificate: $0, key: key ?? $0, passphrase: passphrase) }
    }

    private mutating func readClients(_ fields: [String: Setting], _ section: inout TLSSettings, _ called: String) {
        let wants = choice(
            fields["require_client_certificate"], "\(called).require_client_certificate", of: Answer.self)
        if section.peerAuthorities != nil {
            section.clientCertificate = wants == .yes ? .required : .optional
        } else if wants == .yes {
            let message = "needs client_ca, the authorities that the certificates come from"
            report(fields["require_client_certificate"], "\(called).require_client_certificate", message)
        }
        section.user = text(fields["user"], "\(called).user")
        section.groups = texts(fields["groups"], "\(called).groups") ?? []
        for (name, texts) in [("user", section.user.map { [$0] } ?? []), ("groups", section.groups)] {
            for text in texts { check(template: text, fields[name], "\(called).\(name)") }
            if !texts.isEmpty, section.peerAuthorities == nil {
                report(fields[name], "\(called).\(name)", "needs client_ca: without it no certificate is verified")
            }
        }
        if section.revocations != nil, section.peerAuthorities == nil {
            report(fields["crl"], "\(called).crl", "needs client_ca, whose revoked certificates it lists")
        }
    }

    /// A template holds variables of certificates only.
    private mutating func check(template: String, _ setting: Setting?, _ called: String) {
        var rest = template[...]
        while let start = rest.firstRange(of: "${") {
            guard let end = rest[start.upperBound...].firstIndex(of: "}") else {
                return report(setting, called, "'\(template)' has a '${' without '}'")
            }
            let name = String(rest[start.upperBound..<end])
            if !TLSKeys.variables.contains(name) {
                let allowed = TLSKeys.variables.map { "${\($0)}" }.joined(separator: ", ")
                report(setting, called, "unknown variable '${\(name)}'; allowed: \(allowed)")
            }
            rest = rest[rest.index(after: end)...]
        }
    }

    /// The section that something refers to by its name.
    mutating func reference(_ setting: Setting?, _ called: String, among sections: [TLSSettings]) -> String? {
        guard let name = text(setting, called) else { return nil }
        if sections.contains(where: { $0.name == name }) { return name }
        let known = sections.map(\.name)
        let hint = nearest(to: name, among: known).map { "; did you mean '\($0)'?" } ?? ""
        let there = known.isEmpty ? "there is no section tls" : "the section tls has \(known.joined(separator: ", "))"
        report(setting, called, "'\(name)' is no name of the section tls\(hint); \(there)")
        return nil
    }
}

extension ConfigurationReader {
    /// What the mesh refers to must be able to tell who a peer is.
    mutating func check(meshTLS setting: Setting?, _ sections: [TLSSettings]) {
        guard let setting, let name = reference(setting, "mesh.tls", among: sections),
            let section = sections.first(where: { $0.name == name }), section.peerAuthorities == nil
        else { return }
        report(setting, "mesh.tls", "tls.\(name) needs client_ca, the authority that the nodes' certificates come from")
    }
}
