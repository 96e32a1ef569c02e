/// An authority on disk: a directory with `ca.crt`, `ca.key` and `ca.crl`, a certificate and a key for each name, and
/// `issued.txt`. Keys are readable by their owner only. Two commands at the same time follow each other.
import Glibc

/// The directory.
public struct AuthorityFolder: Sendable {
    /// A certificate that was issued, and where it is.
    public struct Issued {
        /// The certificate.
        public let certificate: Certificate
        /// Its key.
        public let key: PrivateKey
        /// Path of the certificate.
        public let certificatePath: String
        /// Path of the key; nil when it was not to be kept.
        public let keyPath: String?
    }

    /// What to do with the key of a new certificate.
    public enum KeyStorage: Sendable, Equatable {
        /// Written as it is.
        case plain
        /// Written encrypted, with this passphrase.
        case encrypted([UInt8])
        /// Not written: it goes elsewhere.
        case none
    }

    /// Path of the directory.
    public let path: String
    /// Opens the authority's own key, if it is encrypted.
    public let passphrase: [UInt8]?

    /// Names a directory, which need not be there yet.
    public init(_ path: String, passphrase: [UInt8]? = nil) {
        self.path = path.count > 1 && path.hasSuffix("/") ? String(path.dropLast()) : path
        self.passphrase = passphrase
    }

    /// Path of the authority's certificate.
    public var certificatePath: String { "\(path)/ca.crt" }
    /// Path of the authority's key.
    public var keyPath: String { "\(path)/ca.key" }
    /// Path of the list of revoked certificates.
    public var revocationsPath: String { "\(path)/ca.crl" }
    /// Path of the index of what was issued.
    public var indexPath: String { "\(path)/issued.txt" }

    /// Where certificate and key of a name are.
    public func paths(of name: String) -> (certificate: String, key: String) {
        ("\(path)/\(name).crt", "\(path)/\(name).key")
    }

    /// Whether there is an authority.
    public var isThere: Bool { AtomicFile.exists(certificatePath) || AtomicFile.exists(keyPath) }

    // MARK: Reading

    /// The authority's certificate.
    /// - Throws: when the folder has none, or it cannot be read.
    public func certificate() throws(CertificateFailure) -> Certificate {
        guard AtomicFile.exists(certificatePath) else {
            throw CertificateFailure("there is no authority in \(path); `apus certs init --dir \(path)` makes one")
        }
        return try Certificate.load(certificatePath)
    }

    /// The authority, able to sign.
    /// - Throws: when the certificate or its key is missing, cannot be read, or they do not belong together.
    public func authority() throws(CertificateFailure) -> CertificateAuthority {
        let certificate = try certificate()
        guard AtomicFile.exists(keyPath) else {
            throw CertificateFailure("\(keyPath) is not there: certificates are signed where the authority's key is")
        }
        let key = try PrivateKey.read(pem: AtomicFile.read(keyPath), passphrase: passphrase, name: keyPath)
        return try CertificateAuthority(certificate: certificate, key: key)
    }

    /// What was issued.
    /// - Throws: when there is an index that cannot be read, or a line of it makes no sense.
    public func index() throws(CertificateFailure) -> IssuedIndex {
        guard AtomicFile.exists(indexPath) else { return IssuedIndex() }
        return try IssuedIndex(parsing: AtomicFile.read(indexPath), file: indexPath)
    }

    /// The list of revoked certificates; nil when there is none.
    public func revocations() throws(CertificateFailure) -> RevocationList? {
        guard AtomicFile.exists(revocationsPath) else { return nil }
        return try RevocationList.read(pem: AtomicFile.read(revocationsPath), name: revocationsPath)
    }

    // MARK: Changing

    /// Makes an authority, with an empty list of revoked certificates.
    /// - Parameters:
    ///   - replacing: takes the place of one that is there, whose certificates are then worth nothing.
    ///   - now: seconds since 1970.
    public func create(
        name: String, days: Int = CertificateRequest.standardAuthorityDays, replacing: Bool = false, now: Int64
    ) throws(CertificateFailure) {
        try makeFolder()
        try locked { () throws(CertificateFailure) in
            if isThere, !replacing {
                throw CertificateFailure(
                    """
                    there is an authority in \(path) already. --force makes a new one, and every certificate of the \
                    old one is worth nothing then
                    """)
            }
            let authority = try CertificateAuthority.create(name: name, days: days, now: now)
            let index = IssuedIndex()
            // The key first: a certificate without a key would be an authority that cannot sign.
            try AtomicFile.write(authority.keyPEM(passphrase: passphrase), to: keyPath, .secret)
            try AtomicFile.write(authority.certificate.pem, to: certificatePath, .open)
            try AtomicFile.write(Array(index.encoded.utf8), to: indexPath, .open)
            try writeRevocations(index, authority, days: RevocationList.standardDays, now: now)
        }
    }

    /// Makes a certificate and its key.
    /// - Parameters:
    ///   - storage: what to do with the key.
    ///   - replacing: overwrites files of that name. The certificate that was in them holds until it is revoked.
    ///   - now: seconds since 1970.
    public func issue(
        _ request: CertificateRequest, key storage: KeyStorage = .plain, replacing: Bool = false, now: Int64
    ) throws(CertificateFailure) -> Issued {
        if let reason = request.reasonAgainst { throw CertificateFailure(reason) }
        return try locked { () throws(CertificateFailure) in
            let authority = try authority()
            let (certificatePath, keyPath) = paths(of: request.name)
            if !replacing, let there = [certificatePath, keyPath].first(where: { AtomicFile.exists($0) }) {
                throw CertificateFailure("\(there) is there already; --force overwrites it")
            }
            let issued = try authority.issue(request, now: now)
            let keyPEM: [UInt8]? =
                switch storage {
                case .plain: try issued.key.pem()
                case .encrypted(let passphrase): try issued.key.pem(passphrase: passphrase)
                case .none: nil
                }
            // Into the index first: what is not in it could never be revoked.
            var index = try index()
            index.entries.append(
                .init(
                    serial: issued.certificate.serial, kind: request.kind.word, notAfter: issued.certificate.notAfter,
                    name: request.name))
            try AtomicFile.write(Array(index.encoded.utf8), to: indexPath, .open)
            if let keyPEM { try AtomicFile.write(keyPEM, to: keyPath, .secret) } else { unlink(keyPath) }
            try AtomicFile.write(issued.certificate.pem, to: certificatePath, .open)
            return Issued(
                certificate: issued.certificate, key: issued.key, certificatePath: certificatePath,
                keyPath: keyPEM == nil ? nil : keyPath)
        }
    }

    /// Writes a random password to `NAME.password`, readable by its owner only.
    /// - Throws: when there is no randomness, or the file cannot be written.
    public func makePassword(of name: String) throws(CertificateFailure) -> (bytes: [UInt8], path: String) {
        let bytes = Array(Hexadecimal.text(of: try randomBytes(16)).utf8)
        try AtomicFile.write(bytes + [0x0A], to: "\(path)/\(name).password", .secret)
        return (bytes, "\(path)/\(name).password")
    }

    /// Revokes certificates and writes the list anew.
    /// - Parameters:
    ///   - name: of the certificates, or the serial number of one.
    ///   - days: when a next list is to be there.
    ///   - now: seconds since 1970.
    /// - Returns: those that held until now.
    public func revoke(
        _ name: String, days: Int = RevocationList.standardDays, now: Int64
    ) throws(CertificateFailure) -> [IssuedIndex.Entry] {
        try locked { () throws(CertificateFailure) in
            let authority = try authority()
            var index = try index()
            var revoked: [IssuedIndex.Entry] = []
            var isKnown = false
            for position in index.entries.indices
            where index.entries[position].name == name || index.entries[position].serial == name {
                isKnown = true
                if index.entries[position].revokedAt != nil { continue }
                index.entries[position].revokedAt = now
                revoked.append(index.entries[position])
            }
            guard isKnown else {
                throw CertificateFailure(
                    "nothing was issued to '\(name)'; `apus certs list --dir \(path)` says what was")
            }
            try AtomicFile.write(Array(index.encoded.utf8), to: indexPath, .open)
            try writeRevocations(index, authority, days: days, now: now)
            return revoked
        }
    }

    /// Writes the list of revoked certificates anew, so that it holds longer.
    /// - Returns: the list.
    @discardableResult
    public func renewRevocations(
        days: Int = RevocationList.standardDays, now: Int64
    ) throws(CertificateFailure) -> RevocationList {
        try locked { () throws(CertificateFailure) in
            try writeRevocations(index(), authority(), days: days, now: now)
        }
    }

    @discardableResult
    private func writeRevocations(
        _ index: IssuedIndex, _ authority: CertificateAuthority, days: Int, now: Int64
    ) throws(CertificateFailure) -> RevocationList {
        // The time, or one more than the last one: also a list that was lost is followed by a later number.
        let last = try revocations().flatMap { $0.issuer == authority.certificate.subject ? $0.number : nil } ?? 0
        let revoked = index.entries.compactMap { entry in
            entry.revokedAt.map { (serial: entry.serial, at: $0) }
        }
        let list = try authority.revocationList(of: revoked, number: max(last + 1, now), days: days, now: now)
        try AtomicFile.write(list.pem, to: revocationsPath, .open)
        return list
    }

    /// The directory may be read by all: certificates are no secret, and keys have their own rights.
    private func makeFolder() throws(CertificateFailure) {
        guard mkdir(path, 0o755) != 0, errno != EEXIST else { return }
        throw AtomicFile.failure("cannot make the directory \(path)")
    }

    private func locked<Result>(
        _ body: () throws(CertificateFailure) -> Result
    ) throws(CertificateFailure) -> Result {
        guard AtomicFile.exists(path) else {
            throw CertificateFailure(
                "there is no directory \(path); `apus certs init --dir \(path)` makes an authority")
        }
        let folder = try AtomicFile.openFolder(path)
        defer { close(folder) }
        guard flock(folder, LOCK_EX) == 0 else { throw AtomicFile.failure("cannot lock the directory \(path)") }
        return try body()
    }
}
