/// The names that certificates hold: of nodes, hosts and users; and how numbers and times are written.
import COpenSSL
import Glibc

/// Which node a certificate stands for, and of which mesh. Both are URIs among its alternative names: `apus:node:` with
/// 32 hexadecimal digits and, if it is for one mesh only, `apus:mesh:` with the mesh's id.
public struct NodeName: Sendable, Equatable {
    /// 32 lower-case hexadecimal digits, not all of them zero.
    public let id: String
    /// `mesh.id`; nil when it is good for any mesh.
    public let mesh: String?

    static let idPrefix = "apus:node:"
    static let meshPrefix = "apus:mesh:"
    private static let (idDigits, maxMeshBytes) = (32, 64)

    /// Makes a name, or says what is wrong with it.
    public init(id: String, mesh: String?) throws(CertificateFailure) {
        let digits = id.utf8
        guard digits.count == Self.idDigits,
            digits.allSatisfy({ (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }),
            digits.contains(where: { $0 != 0x30 })
        else { throw CertificateFailure("'\(id)' is no node id: expected \(Self.idDigits) hexadecimal digits") }
        if let mesh, !Self.isMesh(mesh) {
            throw CertificateFailure(
                """
                the mesh's id '\(mesh)' cannot stand in a certificate: 1 to \(Self.maxMeshBytes) letters, digits and \
                signs of ASCII, no spaces
                """)
        }
        self.id = id
        self.mesh = mesh
    }

    private static func isMesh(_ text: String) -> Bool {
        (1...maxMeshBytes).contains(text.utf8.count) && text.utf8.allSatisfy { (0x21...0x7E).contains($0) }
    }

    /// A node that there is nowhere else: with a random id.
    /// - Throws: when the mesh's name cannot be in a certificate, or there is no randomness.
    public static func random(mesh: String) throws(CertificateFailure) -> NodeName {
        try NodeName(id: Hexadecimal.text(of: randomBytes(idDigits / 2)), mesh: mesh)
    }

    var uris: [String] { [Self.idPrefix + id] + (mesh.map { [Self.meshPrefix + $0] } ?? []) }
}

/// Names that become common names and names of files.
public enum CertificateName {
    /// RFC 5280, appendix A: a common name has at most 64 characters.
    static let maxBytes = 64
    /// Names that files of the directory have.
    private static let taken = ["ca", "issued"]

    /// Why `name` cannot be the name of a certificate; nil when it can.
    public static func reasonAgainst(_ name: String) -> String? {
        let letters = name.utf8
        guard (1...maxBytes).contains(letters.count) else { return "a name has 1 to \(maxBytes) characters" }
        guard let first = letters.first, isAlphanumeric(first),
            letters.allSatisfy({ isAlphanumeric($0) || [0x2D, 0x2E, 0x40, 0x5F].contains($0) })
        else {
            return "'\(name)' cannot be a name: letters, digits and - . _ @, and first a letter or a digit"
        }
        return taken.contains(name) ? "the name '\(name)' is taken by a file of the authority itself" : nil
    }

    /// Why `text` cannot be a group (an organisational unit); nil when it can.
    public static func reasonAgainst(group text: String) -> String? {
        let isGood =
            (1...maxBytes).contains(text.utf8.count)
            && text.unicodeScalars.allSatisfy { $0.value >= 0x20 && !(0x7F...0x9F).contains($0.value) }
        return isGood ? nil : "a group has 1 to \(maxBytes) bytes without control characters"
    }

    /// Why `text` cannot be an address of e-mail in a certificate; nil when it can.
    public static func reasonAgainst(email text: String) -> String? {
        let parts = text.split(separator: "@", omittingEmptySubsequences: false)
        let isGood =
            text.utf8.count <= 254 && parts.count == 2 && parts.allSatisfy { !$0.isEmpty }
            && text.utf8.allSatisfy { (0x21...0x7E).contains($0) }
        return isGood ? nil : "'\(text)' is no address of e-mail"
    }

    static func isAlphanumeric(_ byte: UInt8) -> Bool {
        (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
    }
}

/// Hosts: names and addresses.
enum HostName: Equatable {
    case name(String)
    /// 4 or 16 bytes.
    case address([UInt8])

    /// Reads a host; an IPv6 address may stand in brackets.
    init(_ text: String) throws(CertificateFailure) {
        let bare = text.hasPrefix("[") && text.hasSuffix("]") ? String(text.dropFirst().dropLast()) : text
        var four = in_addr()
        var six = in6_addr()
        if inet_pton(AF_INET, bare, &four) == 1 {
            self = .address(withUnsafeBytes(of: four) { Array($0) })
        } else if inet_pton(AF_INET6, bare, &six) == 1 {
            self = .address(withUnsafeBytes(of: six) { Array($0) })
        } else if Self.isName(text) {
            self = .name(text)
        } else {
            throw CertificateFailure(
                """
                '\(text)' is neither a host's name nor an address; expected node-1.example.org, 192.0.2.1 or \
                2001:db8::1
                """
            )
        }
    }

    /// RFC 1034, section 3.5; the first label may be `*`.
    private static func isName(_ text: String) -> Bool {
        let labels = text.split(separator: ".", omittingEmptySubsequences: false)
        guard text.utf8.count <= 253 else { return false }
        // Digits alone are a mistyped address.
        if let last = labels.last, last.utf8.allSatisfy({ (0x30...0x39).contains($0) }) { return false }
        return labels.enumerated().allSatisfy { index, label in
            if index == 0, label == "*", labels.count > 2 { return true }
            guard (1...63).contains(label.utf8.count), label.utf8.first != 0x2D, label.utf8.last != 0x2D else {
                return false
            }
            return label.utf8.allSatisfy { CertificateName.isAlphanumeric($0) || $0 == 0x2D || $0 == 0x5F }
        }
    }

    /// The text of an address of 4 or 16 bytes.
    static func text(ofAddress bytes: [UInt8]) -> String? {
        guard bytes.count == 4 || bytes.count == 16 else { return nil }
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        guard inet_ntop(bytes.count == 4 ? AF_INET : AF_INET6, bytes, &text, socklen_t(text.count)) != nil else {
            return nil
        }
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// Bytes as hexadecimal digits.
enum Hexadecimal {
    static func text(of bytes: [UInt8]) -> String {
        var text = ""
        for byte in bytes {
            let digits = String(byte, radix: 16)
            text += digits.utf8.count == 1 ? "0" + digits : digits
        }
        return text
    }

    /// The magnitude of a number, as serial numbers are written.
    static func text(of number: ASN1_INTEGER) -> String {
        text(of: Array(UnsafeBufferPointer(start: number.data, count: Int(max(0, number.length)))))
    }

    /// - Returns: nil for something else than pairs of lower-case digits.
    static func bytes(_ text: some StringProtocol) -> [UInt8]? {
        guard text.utf8.count % 2 == 0 else { return nil }
        var bytes: [UInt8] = []
        var high: UInt8?
        for digit in text.utf8 {
            let value: UInt8
            switch digit {
            case 0x30...0x39: value = digit - 0x30
            case 0x61...0x66: value = digit - 0x61 + 10
            default: return nil
            }
            if let upper = high { bytes.append(upper << 4 | value) }
            high = high == nil ? value : nil
        }
        return bytes
    }
}

/// Times as `2026-03-01T12:00:00Z`.
public enum UTC {
    /// The text of a time in seconds since 1970.
    public static func text(_ seconds: Int64) -> String {
        var time = time_t(seconds)
        var parts = tm()
        guard gmtime_r(&time, &parts) != nil else { return "?" }
        func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
        let date = "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
        return "\(date)T\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))Z"
    }

    /// Reads such a text; nil when it is none.
    static func seconds(_ text: some StringProtocol) -> Int64? {
        let digits = Array(text.utf8).split { !(0x30...0x39).contains($0) }.compactMap {
            Int32(String(decoding: $0, as: UTF8.self))
        }
        guard digits.count == 6, text.utf8.count == 20 else { return nil }
        var parts = tm()
        parts.tm_year = digits[0] - 1900
        parts.tm_mon = digits[1] - 1
        parts.tm_mday = digits[2]
        parts.tm_hour = digits[3]
        parts.tm_min = digits[4]
        parts.tm_sec = digits[5]
        let seconds = Int64(timegm(&parts))
        return Self.text(seconds) == text ? seconds : nil
    }

    static func seconds(_ time: UnsafePointer<ASN1_TIME>?) -> Int64? {
        var parts = tm()
        guard let time, ASN1_TIME_to_tm(time, &parts) == 1 else { return nil }
        return Int64(timegm(&parts))
    }
}
