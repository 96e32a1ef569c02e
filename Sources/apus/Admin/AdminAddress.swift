/// Where a node is managed, as commands are told: `--admin` and `APUS_ADMIN_LISTEN`.
import ArgumentParser
import Node

/// An address to ask, by HTTP or by HTTPS.
struct AdminAddress: CustomStringConvertible {
    /// As people write it, for errors.
    let description: String
    /// What libcurl is given, without a path.
    let url: String
    /// The path of a Unix socket, when it is one.
    let socketPath: String?
    /// Whether TLS is spoken, which names are verified by.
    let isSecure: Bool

    /// Reads https://HOST:PORT, http://HOST:PORT, or what `admin.listen` takes, which is asked by HTTP.
    init(parsing text: String) throws {
        description = text
        isSecure = text.hasPrefix("https://")
        if isSecure || text.hasPrefix("http://") {
            let end = text.hasSuffix("/") ? text.dropLast() : text[...]
            guard Self.isPlace(end.drop { $0 != "/" }.dropFirst(2)) else {
                throw Self.wrong(text, "expected HOST:PORT as https://node-1.example.org:8222")
            }
            url = String(end)
            socketPath = nil
            return
        }
        let address: ListenAddress
        do throws(ListenAddress.Malformed) { address = try ListenAddress(parsing: text) } catch {
            throw Self.wrong(text, "\(error.reason); another machine's is https://HOST:PORT")
        }
        if address.isAnyPort { throw Self.wrong(text, "with port 0 the node's ready record says the port") }
        // One that listens everywhere is reached on this machine.
        (url, socketPath) =
            switch address {
            case .ipv4("0.0.0.0", let port): ("http://127.0.0.1:\(port)", nil)
            case .ipv6("::", let port): ("http://[::1]:\(port)", nil)
            case .ipv4, .ipv6: ("http://\(address)", nil)
            case .unix(let path): ("http://localhost", path)
            }
    }

    private static func wrong(_ text: some StringProtocol, _ reason: String) -> ValidationError {
        ValidationError("'\(text)' is no management address: \(reason)")
    }

    /// Host and port, and nothing else: no user, no path.
    private static func isPlace(_ place: Substring) -> Bool {
        guard let colon = place.lastIndex(of: ":") else { return false }
        let digits = place[place.index(after: colon)...]
        guard digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = UInt16(digits), port != 0 else {
            return false
        }
        let host = place[..<colon]
        if host.hasPrefix("[") { return (try? ListenAddress(parsing: String(place))) != nil }
        let isName = host.utf8.allSatisfy { byte in
            switch byte {
            case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x2D, 0x2E, 0x5F: true
            default: false
            }
        }
        return isName && !host.isEmpty
    }
}
