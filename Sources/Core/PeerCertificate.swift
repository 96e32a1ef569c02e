/// What a certificate says of who has proven to hold its key (RFC 5280). Made by the transport when its handshake is
/// over.
public struct PeerCertificate: Sendable, Equatable {
    /// The subject as one text (RFC 2253), for people.
    public var subject = ""
    /// The issuer as one text (RFC 2253).
    public var issuer = ""
    /// The serial number in lower-case hexadecimal.
    public var serial = ""
    /// SHA-256 of the certificate in lower-case hexadecimal.
    public var fingerprint = ""
    /// The subject's common name (`CN`), the last one if there are several.
    public var commonName: String?
    /// The subject's organisational units (`OU`), in the order of the certificate.
    public var organizationalUnits: [String] = []
    /// The subject's organisations (`O`).
    public var organizations: [String] = []
    /// Alternative names of the type DNS.
    public var dnsNames: [String] = []
    /// Alternative names of the type e-mail.
    public var emails: [String] = []
    /// Alternative names of the type URI.
    public var uris: [String] = []
    /// When it ends, in seconds since 1970.
    public var notAfter: Int64 = 0

    /// A certificate that says nothing.
    public init() {}

    /// The values of a variable of access rules and name templates: `cn`, `ou`, `o`, `dns`, `email`, `uri`, `serial`,
    /// `subject`; nil for a name that is none.
    public func values(of variable: String) -> [String]? {
        switch variable {
        case "cn": commonName.map { [$0] } ?? []
        case "ou": organizationalUnits
        case "o": organizations
        case "dns": dnsNames
        case "email": emails
        case "uri": uris
        case "serial": [serial]
        case "subject": [subject]
        default: nil
        }
    }

    /// The variables that ``values(of:)`` knows.
    public static let variables = ["cn", "ou", "o", "dns", "email", "uri", "serial", "subject"]
}
