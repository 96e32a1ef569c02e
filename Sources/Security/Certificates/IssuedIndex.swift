/// What an authority has issued: a text file, a line for each certificate, that people can read.

/// The index.
public struct IssuedIndex: Sendable, Equatable {
    /// One certificate.
    public struct Entry: Sendable, Equatable {
        /// In lower-case hexadecimal.
        public var serial: String
        /// `node`, `server` or `client`.
        public var kind: String
        /// When it ends, in seconds since 1970.
        public var notAfter: Int64
        /// When it was revoked, in seconds since 1970; nil while it holds.
        public var revokedAt: Int64?
        /// The common name.
        public var name: String

        /// What has become of it.
        public enum State: String, Sendable { case good, expired, revoked }

        /// The state at a time in seconds since 1970.
        public func state(now: Int64) -> State {
            revokedAt != nil ? .revoked : notAfter <= now ? .expired : .good
        }
    }

    /// In the order in which they were issued.
    public var entries: [Entry] = []

    private static let head = """
        # What this authority has issued, one certificate a line:
        # serial, kind, end, when it was revoked (- for not), name. Written by `apus certs`.

        """
    private static let kinds = ["node", "server", "client"]

    init() {}

    /// Reads the text of a file; `file` is what problems call it.
    init(parsing bytes: [UInt8], file: String) throws(CertificateFailure) {
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw CertificateFailure("\(file) is not UTF-8 text")
        }
        for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            if line.isEmpty || line.hasPrefix("#") { continue }
            guard let entry = Self.entry(line) else {
                throw CertificateFailure(
                    """
                    \(file):\(index + 1): expected serial, kind (\(Self.kinds.joined(separator: ", "))), end, \
                    revoked and name, as `apus certs` writes them
                    """)
            }
            entries.append(entry)
        }
    }

    private static func entry(_ line: Substring) -> Entry? {
        let fields = line.split(separator: " ")
        guard fields.count == 5, let serial = Hexadecimal.bytes(fields[0]), (1...20).contains(serial.count),
            kinds.contains(String(fields[1])), let end = UTC.seconds(fields[2]),
            CertificateName.reasonAgainst(String(fields[4])) == nil
        else { return nil }
        var entry = Entry(serial: String(fields[0]), kind: String(fields[1]), notAfter: end, name: String(fields[4]))
        if fields[3] != "-" {
            guard let revokedAt = UTC.seconds(fields[3]) else { return nil }
            entry.revokedAt = revokedAt
        }
        return entry
    }

    /// The text of the file.
    var encoded: String {
        entries.reduce(into: Self.head) { text, entry in
            let revoked = entry.revokedAt.map { UTC.text($0) } ?? "-"
            text += "\(entry.serial) \(entry.kind) \(UTC.text(entry.notAfter)) \(revoked) \(entry.name)\n"
        }
    }
}
