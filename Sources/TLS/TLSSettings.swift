/// One entry of the configuration's section `tls`: certificates, and who must show one. `docs/security.md`.
public struct TLSSettings: Sendable, Equatable {
    /// A certificate with its chain, and its key.
    public struct Pair: Sendable, Equatable {
        /// Path of the PEM file with the certificate first, then those between it and the root.
        public var certificate: String
        /// Path of the PEM file with the private key; may be the same file.
        public var key: String
        /// Opens an encrypted key; never logged.
        public var passphrase: String?

        /// Makes a pair.
        public init(certificate: String, key: String, passphrase: String? = nil) {
            self.certificate = certificate
            self.key = key
            self.passphrase = passphrase
        }
    }

    /// What becomes of peers without a certificate.
    public enum ClientCertificate: String, Sendable, CaseIterable {
        /// Nobody is asked for one.
        case none
        /// Who has one may show it, and it must be good.
        case optional
        /// Who has none is refused in the handshake.
        case required
    }

    /// The oldest version that is spoken.
    public enum Version: String, Sendable, CaseIterable { case v12 = "1.2", v13 = "1.3" }

    /// What configuration and logs call it.
    public var name: String
    /// Certificates; the first is shown to who names none of the others (SNI, RFC 6066 section 3). Which names a
    /// certificate is for stands in its alternative names.
    public var certificates: [Pair]
    /// Path of the PEM file with the authorities that peers' certificates must come from; nil for those of the system,
    /// which count only for servers that are dialled.
    public var peerAuthorities: String?
    /// Of clients.
    public var clientCertificate = ClientCertificate.none
    /// Path of a PEM file with revocation lists, or of a directory of such files (`*.pem`, `*.crl`); nil for none. With
    /// it every certificate of a peer's chain needs a list of its issuer that has not expired.
    public var revocations: String?
    /// The oldest version that is spoken.
    public var minimumVersion = Version.v12
    /// Suites of TLS 1.2 in the notation of OpenSSL; nil for the good ones.
    public var cipherList: String?
    /// Suites of TLS 1.3; nil for all.
    public var cipherSuites: String?
    /// What a verified certificate's owner is called: text with variables as `${cert.cn}`; nil for no name, so that the
    /// certificate only opens the door.
    public var user: String?
    /// Groups of a verified certificate's owner, with variables; a variable with several values gives several groups.
    public var groups: [String] = []
    /// In which a handshake must be over.
    public var handshakeMilliseconds = 5_000

    /// Settings with the defaults.
    public init(name: String, certificates: [Pair]) {
        self.name = name
        self.certificates = certificates
    }
}
