/// A token with which a machine joins a mesh: certificate, key and where to dial, in one line of text. Whoever has it
/// is the node that it names.
///
/// Its text is `apus1.` and base64url (RFC 4648, without padding) of fields, each a tag of one byte, a length of two
/// bytes (the higher one first) and the value; the last field is the authority's signature of all that stands before
/// it. The signature keeps a token whole; it is no reason to trust a token of somebody else, because the authority's
/// certificate is in it.

/// An invitation.
public struct InvitationToken: Equatable, CustomStringConvertible {
    /// Which node the new machine becomes.
    public let node: NodeName
    /// Of which mesh: its certificate is for no other.
    public let mesh: String
    /// What the node is called: the common name of its certificate.
    public let name: String
    /// Nodes to dial, as `HOST:PORT`.
    public let addresses: [String]
    /// When the token can no longer be used to join, in seconds since 1970. The certificate in it holds longer.
    public let expires: Int64
    /// The authority of the mesh, in PEM form.
    public let authorityPEM: [UInt8]
    /// The node's certificate, in PEM form.
    public let certificatePEM: [UInt8]
    /// The node's key, in PEM form, not encrypted.
    public let keyPEM: [UInt8]

    /// What every token begins with; the digit is the version of the format.
    public static let prefix = "apus1."
    /// A token is a line that people copy: far more than one needs.
    public static let maxBytes = 16 << 10
    /// Nodes to dial, in one token.
    public static let maxAddresses = 8
    /// For how long a token can be used, when nobody says.
    public static let standardMinutes = 60
    /// A year.
    public static let maxMinutes = 525_600

    private static let maxAddressBytes = 255

    private enum Tag: UInt8 {
        case mesh = 1
        case address, expires, authority, certificate, key, signature
    }

    /// Nothing secret.
    public var description: String { "invitation of \(name) to the mesh \(mesh)" }

    // MARK: Making

    /// Makes the text of a token.
    /// - Parameters:
    ///   - issued: the certificate of the new node, with its key.
    ///   - authority: who has issued it.
    ///   - addresses: nodes to dial, as `HOST:PORT`.
    ///   - expires: seconds since 1970.
    public static func encode(
        _ certificate: Certificate, key: PrivateKey, authority: CertificateAuthority, addresses: [String],
        expires: Int64
    ) throws(CertificateFailure) -> String {
        guard let mesh = certificate.node?.mesh else {
            throw CertificateFailure("the certificate is not that of a node of one mesh")
        }
        if let reason = reasonAgainst(addresses: addresses) { throw CertificateFailure(reason) }
        var fields: [(Tag, [UInt8])] = [(.mesh, Array(mesh.utf8))]
        for address in addresses { fields.append((.address, Array(address.utf8))) }
        let seconds = UInt64(clamping: expires)
        fields.append((.expires, (0..<8).map { UInt8(truncatingIfNeeded: seconds >> (56 - 8 * UInt64($0))) }))
        fields.append((.authority, try authority.certificate.der))
        fields.append((.certificate, try certificate.der))
        fields.append((.key, try key.der))
        var bytes: [UInt8] = []
        for (tag, value) in fields { try append(tag, value, to: &bytes) }
        try append(.signature, authority.signature(of: bytes), to: &bytes)
        let text = prefix + Base64.encode(bytes).map { $0 == "+" ? "-" : $0 == "/" ? "_" : "\($0)" }.joined()
        guard text.utf8.count <= maxBytes else { throw CertificateFailure("the token is longer than 16 KiB") }
        return text
    }

    private static func append(_ tag: Tag, _ value: [UInt8], to bytes: inout [UInt8]) throws(CertificateFailure) {
        guard let count = UInt16(exactly: value.count) else { throw CertificateFailure("a field is too long") }
        bytes += [tag.rawValue, UInt8(count >> 8), UInt8(count & 0xFF)]
        bytes += value
    }

    /// Why these cannot be the addresses of a token; nil when they can.
    public static func reasonAgainst(addresses: [String]) -> String? {
        guard (1...maxAddresses).contains(addresses.count) else {
            return "a token has 1 to \(maxAddresses) addresses of nodes to dial"
        }
        for address in addresses {
            if let reason = reasonAgainst(address: address) { return "'\(address)' is no address of a node: \(reason)" }
        }
        return nil
    }

    private static func reasonAgainst(address: String) -> String? {
        guard let colon = address.lastIndex(of: ":"), address.utf8.count <= maxAddressBytes else {
            return "expected HOST:PORT, as node-1.example.org:7400 or [2001:db8::1]:7400"
        }
        let digits = address[address.index(after: colon)...]
        guard digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = UInt16(digits), port > 0 else {
            return "the port '\(digits)' is not a number from 1 to 65535"
        }
        let host = String(address[..<colon])
        if host.contains(":"), !host.hasPrefix("[") {
            return "an IPv6 address stands in brackets: [\(host)]:\(digits)"
        }
        do throws(CertificateFailure) { _ = try HostName(host) } catch { return error.description }
        return host.hasPrefix("*") ? "a wildcard cannot be dialled" : nil
    }

    // MARK: Reading

    /// Reads and verifies a token: that nothing in it was changed, that certificate, key, authority and mesh belong
    /// together, and that it can still be used.
    /// - Parameter now: seconds since 1970.
    public init(parsing text: String, now: Int64) throws(CertificateFailure) {
        let fields = try Self.fields(text)
        let authority: Certificate
        let certificate: Certificate
        let key: PrivateKey
        do throws(CertificateFailure) {
            authority = try Certificate.read(der: fields.authority)
            certificate = try Certificate.read(der: fields.certificate)
            key = try PrivateKey.read(der: fields.key)
        } catch { throw Self.damaged("a part of it cannot be read (\(error))") }
        guard authority.isAuthority, authority.verifies(fields.signature, of: fields.signed) else {
            throw Self.damaged("its signature is wrong")
        }
        guard let node = certificate.node, node.mesh == fields.mesh, certificate.belongs(to: key),
            let name = certificate.commonName, CertificateName.reasonAgainst(name) == nil
        else { throw Self.damaged("its parts do not belong together") }
        if let reason = Self.reasonAgainst(addresses: fields.addresses) { throw CertificateFailure(reason) }
        guard now < fields.expires else {
            throw CertificateFailure(
                "the token has expired at \(UTC.text(fields.expires)) (here it is \(UTC.text(now))); ask for another"
            )
        }
        for usage in Certificate.Usage.allCases {
            guard let reason = certificate.reasonAgainst(from: authority, for: usage, now: now) else { continue }
            throw CertificateFailure(
                "the token's certificate is not good (\(reason)); is this machine's clock right? It is \(UTC.text(now))"
            )
        }
        self.node = node
        mesh = fields.mesh
        self.name = name
        addresses = fields.addresses
        expires = fields.expires
        authorityPEM = try authority.pem
        certificatePEM = try certificate.pem
        keyPEM = try key.pem()
    }

    private struct Fields {
        var mesh = ""
        var addresses: [String] = []
        var expires: Int64 = 0
        var authority: [UInt8] = []
        var certificate: [UInt8] = []
        var key: [UInt8] = []
        var signature: [UInt8] = []
        /// What the signature is of.
        var signed: [UInt8] = []
    }

    private static func damaged(_ what: String) -> CertificateFailure {
        CertificateFailure("the token is damaged: \(what); copy all of it, from '\(prefix)' on, or ask for another one")
    }

    private static func fields(_ text: String) throws(CertificateFailure) -> Fields {
        guard text.hasPrefix(prefix) else {
            throw CertificateFailure("this is no token of `apus invite`, which begins with '\(prefix)'")
        }
        let letters = text.utf8.dropFirst(prefix.utf8.count)
        guard text.utf8.count <= maxBytes, letters.allSatisfy({ $0 != 0x2B && $0 != 0x2F }) else {
            throw damaged("it has letters that do not belong there, or too many")
        }
        let standard = letters.map { $0 == 0x2D ? 0x2B : $0 == 0x5F ? 0x2F : $0 as UInt8 }
        guard let bytes = Base64.decode(Substring(decoding: standard, as: UTF8.self)) else {
            throw damaged("a part is missing, or it has letters that do not belong there")
        }
        var fields = Fields()
        var at = 0
        // Tags come in their order, each once, and only the address several times.
        var last: Tag?
        while at < bytes.count {
            guard last != .signature, bytes.count - at >= 3, let tag = Tag(rawValue: bytes[at]),
                tag.rawValue == (last?.rawValue ?? 0) + 1 || (tag == .address && last == .address)
            else { throw damaged("it cannot be read") }
            let count = Int(bytes[at + 1]) << 8 | Int(bytes[at + 2])
            guard count <= bytes.count - at - 3 else { throw damaged("it cannot be read") }
            let value = Array(bytes[at + 3..<at + 3 + count])
            if tag == .signature { fields.signed = Array(bytes[..<at]) }
            guard take(tag, value, &fields) else { throw damaged("it cannot be read") }
            at += 3 + count
            last = tag
        }
        guard last == .signature else { throw damaged("a part is missing") }
        return fields
    }

    /// - Returns: false for a value that the tag cannot have.
    private static func take(_ tag: Tag, _ value: [UInt8], _ fields: inout Fields) -> Bool {
        switch tag {
        case .mesh:
            guard let text = String(validating: value, as: UTF8.self) else { return false }
            fields.mesh = text
        case .address:
            guard let text = String(validating: value, as: UTF8.self), fields.addresses.count < maxAddresses else {
                return false
            }
            fields.addresses.append(text)
        case .expires:
            guard value.count == 8 else { return false }
            fields.expires = Int64(clamping: value.reduce(0 as UInt64) { $0 << 8 | UInt64($1) })
        case .authority: fields.authority = value
        case .certificate: fields.certificate = value
        case .key: fields.key = value
        case .signature: fields.signature = value
        }
        return true
    }
}
