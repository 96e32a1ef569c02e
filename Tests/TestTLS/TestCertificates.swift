import COpenSSL
import Glibc

/// Makes authorities, certificates and revocation lists for tests, and writes them to a folder that goes with the test.
public final class TestCertificates {
    /// What went wrong in a test's preparations.
    public struct Failure: Error {
        /// In words.
        public let what: String
    }

    /// A certificate with its key.
    public final class Certificate {
        /// libcrypto's certificate.
        public let x509: OpaquePointer
        /// libcrypto's key.
        public let key: OpaquePointer
        /// Who signed it; nil for itself.
        public let issuer: Certificate?

        fileprivate init(x509: OpaquePointer, key: OpaquePointer, issuer: Certificate?) {
            self.x509 = x509
            self.key = key
            self.issuer = issuer
        }

        deinit {
            X509_free(x509)
            EVP_PKEY_free(key)
        }

        /// As text.
        public var pem: String { text { PEM_write_bio_X509($0, x509) } }

        /// The key as text, encrypted with the passphrase if there is one.
        public func keyPEM(passphrase: String? = nil) -> String {
            text { bio in
                guard let passphrase else {
                    return PEM_write_bio_PKCS8PrivateKey(bio, key, nil, nil, 0, nil, nil)
                }
                return passphrase.withCString {
                    PEM_write_bio_PKCS8PrivateKey(
                        bio, key, EVP_aes_128_cbc(), $0, Int32(passphrase.utf8.count), nil, nil)
                }
            }
        }
    }

    /// What is to stand in a certificate.
    public struct Wishes {
        /// The common name.
        public var name: String
        /// Whether it may sign others.
        public var isAuthority = false
        /// Alternative names as libcrypto's configuration has them: `DNS:a.example,IP:127.0.0.1`.
        public var names: String?
        /// Extended key usage: `serverAuth`, `clientAuth`.
        public var usage: String?
        /// Organisational units.
        public var units: [String] = []
        /// From when to when, in seconds from now.
        public var validity = -3_600...86_400
        /// With a key of 2,048 bits instead of P-256.
        public var isRSA = false
        /// The name's bytes, in place of the name.
        public var nameBytes: [UInt8]?

        init(_ name: String) { self.name = name }
    }

    /// The folder's path.
    public let folder: String
    private var serial = 0

    /// Makes the folder.
    public init() throws {
        var template = Array("/tmp/apus-tls-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw Failure(what: "mkdtemp") }
        folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit {
        var pending = [folder]
        var folders: [String] = []
        while let path = pending.popLast() {
            folders.append(path)
            guard let directory = opendir(path) else { continue }
            while let entry = readdir(directory) {
                let name = withUnsafePointer(to: &entry.pointee.d_name) {
                    $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
                }
                if name == "." || name == ".." { continue }
                if entry.pointee.d_type == DT_DIR {
                    pending.append("\(path)/\(name)")
                } else {
                    unlink("\(path)/\(name)")
                }
            }
            closedir(directory)
        }
        for path in folders.reversed() { rmdir(path) }
    }

    /// Writes a file anew, under another inode as tools do that replace it.
    @discardableResult
    public func write(_ name: String, _ text: String) throws -> String {
        let path = "\(folder)/\(name)"
        guard let file = fopen(path + ".new", "w") else { throw Failure(what: path) }
        fputs(text, file)
        fclose(file)
        guard rename(path + ".new", path) == 0 else { throw Failure(what: path) }
        return path
    }

    // MARK: Certificates

    /// - Parameter issuer: nil for one that signs itself.
    public func make(
        _ name: String, issuer: Certificate? = nil, _ change: (inout Wishes) -> Void = { _ in }
    ) throws -> Certificate {
        var wishes = Wishes(name)
        change(&wishes)
        guard let x509 = X509_new() else { throw Failure(what: "X509_new") }
        let made = Certificate(x509: x509, key: try makeKey(isRSA: wishes.isRSA), issuer: issuer)
        X509_set_version(x509, 2)
        serial += 1
        ASN1_INTEGER_set(X509_get_serialNumber(x509), 1_000 + serial)
        X509_gmtime_adj(X509_getm_notBefore(x509), wishes.validity.lowerBound)
        X509_gmtime_adj(X509_getm_notAfter(x509), wishes.validity.upperBound)
        X509_set_pubkey(x509, made.key)
        let subject = X509_get_subject_name(x509)
        add("O", Array("Example".utf8), to: subject)
        for unit in wishes.units { add("OU", Array(unit.utf8), to: subject) }
        add("CN", wishes.nameBytes ?? Array(wishes.name.utf8), to: subject)
        X509_set_issuer_name(x509, issuer.map { X509_get_subject_name($0.x509) } ?? subject)
        var extensions: [(Int32, String)] = []
        extensions.append((NID_basic_constraints, wishes.isAuthority ? "critical,CA:TRUE" : "critical,CA:FALSE"))
        extensions.append(
            (NID_key_usage, wishes.isAuthority ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature"))
        if let names = wishes.names { extensions.append((NID_subject_alt_name, names)) }
        if let usage = wishes.usage { extensions.append((NID_ext_key_usage, usage)) }
        for (kind, value) in extensions {
            guard let made = X509V3_EXT_conf_nid(nil, nil, kind, value) else { throw Failure(what: value) }
            X509_add_ext(x509, made, -1)
            X509_EXTENSION_free(made)
        }
        guard X509_sign(x509, (issuer ?? made).key, EVP_sha256()) > 0 else { throw Failure(what: "X509_sign") }
        return made
    }

    /// One that may sign others.
    public func makeAuthority(_ name: String, issuer: Certificate? = nil) throws -> Certificate {
        try make(name, issuer: issuer) { $0.isAuthority = true }
    }

    private func add(_ kind: String, _ bytes: [UInt8], to name: OpaquePointer?) {
        X509_NAME_add_entry_by_txt(name, kind, V_ASN1_UTF8STRING, bytes, Int32(bytes.count), -1, 0)
    }

    private func makeKey(isRSA: Bool) throws -> OpaquePointer {
        let context = EVP_PKEY_CTX_new_from_name(nil, isRSA ? "RSA" : "EC", nil)
        defer { EVP_PKEY_CTX_free(context) }
        EVP_PKEY_keygen_init(context)
        if isRSA {
            EVP_PKEY_CTX_set_rsa_keygen_bits(context, 2_048)
        } else {
            EVP_PKEY_CTX_set_group_name(context, "P-256")
        }
        var key: OpaquePointer?
        guard EVP_PKEY_generate(context, &key) == 1, let key else { throw Failure(what: "key") }
        return key
    }

    // MARK: Revocation lists

    /// - Parameter seconds: from now, until which it holds.
    public func revocationList(
        of issuer: Certificate, revoked: [Certificate] = [], seconds: Int = 86_400
    ) throws -> String {
        guard let list = X509_CRL_new() else { throw Failure(what: "X509_CRL_new") }
        defer { X509_CRL_free(list) }
        X509_CRL_set_version(list, 1)
        X509_CRL_set_issuer_name(list, X509_get_subject_name(issuer.x509))
        let time = ASN1_TIME_new()
        defer { ASN1_TIME_free(time) }
        X509_gmtime_adj(time, -7_200)
        X509_CRL_set1_lastUpdate(list, time)
        for certificate in revoked {
            let entry = X509_REVOKED_new()
            X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(certificate.x509))
            X509_REVOKED_set_revocationDate(entry, time)
            X509_CRL_add0_revoked(list, entry)
        }
        X509_gmtime_adj(time, seconds)
        X509_CRL_set1_nextUpdate(list, time)
        X509_CRL_sort(list)
        guard X509_CRL_sign(list, issuer.key, EVP_sha256()) > 0 else { throw Failure(what: "X509_CRL_sign") }
        return text { PEM_write_bio_X509_CRL($0, list) }
    }
}

private func text(_ write: (OpaquePointer?) -> Int32) -> String {
    let bio = BIO_new(BIO_s_mem())
    defer { BIO_free(bio) }
    guard write(bio) == 1 else { return "" }
    var data: UnsafeMutablePointer<CChar>?
    let count = apus_bio_data(bio, &data)
    return String(decoding: UnsafeRawBufferPointer(start: data, count: count), as: UTF8.self)
}
