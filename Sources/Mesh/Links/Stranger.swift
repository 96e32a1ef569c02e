/// Who speaks at the other end of a connection when that is no node of a mesh, by the first bytes: as a rule somebody
/// has mixed up ports, and is to be told so.
enum Stranger: String, CaseIterable {
    case http = "HTTP"
    case tls = "TLS"
    case mqtt = "MQTT"
    case amqp = "AMQP"
    case ssh = "SSH"

    /// Bytes that are looked at; fewer will do for most.
    static let size = 8

    private static let methods = ["HTTP", "GET ", "HEAD", "POST", "PUT ", "DELE", "OPTI", "PATC", "CONN", "PRI "]

    /// - Parameter bytes: the first that came, as many as there are.
    init?(_ bytes: some Collection<UInt8>) {
        let first = Array(bytes.prefix(Self.size))
        func begins(_ text: String) -> Bool { first.starts(with: text.utf8) }
        if Self.methods.contains(where: begins) {
            self = .http
        } else if begins("AMQP") {
            self = .amqp
        } else if begins("SSH-") {
            self = .ssh
        } else if first.count >= 3, (0x14...0x17).contains(first[0]), first[1] == 3, (1...4).contains(first[2]) {
            // A record (RFC 8446 §5.1). A node's first frame would be larger than one can be with such bytes.
            self = .tls
        } else if Self.isMQTT(first) {
            self = .mqtt
        } else {
            return nil
        }
    }

    /// CONNECT with the protocol's name, or CONNACK (MQTT 5 §3.1, §3.2). Neither is a node's frame: its fourth byte,
    /// the type, would be another one.
    private static func isMQTT(_ first: [UInt8]) -> Bool {
        guard first.count >= 4 else { return false }
        if first[0] == 0x20 {
            let isCode = first[3] >= 0x80 || first[3] <= 5 && first[3] != FrameType.initiate.rawValue
            return (2..<0x80).contains(first[1]) && first[2] <= 1 && isCode
        }
        guard first[0] == 0x10 else { return false }
        // The remaining length has one to four bytes.
        guard let end = first.indices.dropFirst().first(where: { first[$0] < 0x80 }), end <= 4 else { return false }
        let name = first[(end + 1)...]
        return name.count >= 3 && name.starts(with: [0, name[end + 2] == 6 ? 6 : 4, UInt8(ascii: "M")])
    }
}
