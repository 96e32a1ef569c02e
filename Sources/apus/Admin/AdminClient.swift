/// What the commands that manage a node share: where it is, who asks, and one request over libcurl.
import Admin
import ArgumentParser
import CCurl
import Foundation
import Glibc
import Node
import Web

/// Options of every command that manages a node.
struct AdminOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The node's management address. Default: APUS_ADMIN_LISTEN, else 127.0.0.1:8222.", valueName: "address"))
    var admin: String?

    @Option(
        help: ArgumentHelp(
            "The user, when the node asks for one. The password comes from APUS_ADMIN_PASSWORD, else as below.",
            valueName: "name"))
    var user: String?

    @OptionGroup var password: PasswordOption

    @Flag(help: "Print JSON instead of text for people.")
    var json = false

    func client() throws -> AdminClient {
        let environment = ProcessInfo.processInfo.environment
        let text = admin ?? environment["APUS_ADMIN_LISTEN"] ?? ListenAddress.standardAdmin.description
        let address: ListenAddress
        do throws(ListenAddress.Malformed) { address = try ListenAddress(parsing: text) } catch {
            throw ValidationError("'\(text)' is no management address: \(error.reason)")
        }
        if address.isAnyPort { throw ValidationError("'\(text)': with port 0 the node's ready record says the port") }
        var credentials: (user: String, password: [UInt8])?
        if let user {
            let known = environment[ConfigurationKeys.passwordVariable].map { Array($0.utf8) }
            credentials = (user, try known ?? password.read(twice: false))
        }
        return AdminClient(address: address, credentials: credentials)
    }
}

/// A node's management interface, asked one thing at a time.
struct AdminClient {
    let address: ListenAddress
    let credentials: (user: String, password: [UInt8])?

    private static let maxAnswerBytes = 256 << 20

    /// What comes in while curl works.
    private final class Answer {
        var body: [UInt8] = []
    }

    /// Asks, and reads the document of the answer.
    func document<Document: Decodable>(_ path: String, _ query: [(String, String?)] = []) throws -> Document {
        try decode(try send("GET", path, query))
    }

    func decode<Document: Decodable>(_ body: [UInt8]) throws -> Document {
        let decoder = JSONDecoder()
        decoder.dateDecodingStrategy = .iso8601
        do { return try decoder.decode(Document.self, from: Data(body)) } catch {
            throw CommandFailure("\(place) answers with something else than a node would")
        }
    }

    /// Sends a request and returns the body of the answer; one that is no success is thrown.
    func send(_ method: String, _ path: String, _ query: [(String, String?)] = []) throws -> [UInt8] {
        let (status, body) = try perform(method, path, query)
        if (200..<300).contains(status) { return body }
        guard let problem = try? JSONDecoder().decode(ProblemDocument.self, from: Data(body)) else {
            throw CommandFailure("\(place) answers with status \(status)")
        }
        let hint = status == 401 && credentials == nil ? " Say who you are by --user." : ""
        throw CommandFailure("\(problem.title): \(problem.detail)\(hint)")
    }

    private var place: String { address.description }

    /// The address to connect to: one that listens everywhere is reached on this machine.
    private var url: String {
        switch address {
        case .ipv4("0.0.0.0", let port): "http://127.0.0.1:\(port)"
        case .ipv6("::", let port): "http://[::1]:\(port)"
        case .ipv4, .ipv6: "http://\(address)"
        case .unix: "http://localhost"
        }
    }

    private func perform(
        _ method: String, _ path: String, _ query: [(String, String?)]
    ) throws -> (status: Int, body: [UInt8]) {
        var curl = apus_curl()
        if let reason = apus_curl_load(&curl) {
            throw CommandFailure("cannot load libcurl: \(String(cString: reason))")
        }
        guard let handle = apus_curl_init(&curl) else { throw CommandFailure("libcurl cannot start") }
        defer { apus_curl_cleanup(&curl, handle) }
        let pairs = query.compactMap { name, value in value.map { "\(name)=\(Percent.encode($0))" } }
        let target = url + path + (pairs.isEmpty ? "" : "?" + pairs.joined(separator: "&"))
        let answer = Answer()
        var codes = [
            apus_curl_set_text(&curl, handle, CURLOPT_URL, target),
            apus_curl_set_text(&curl, handle, CURLOPT_CUSTOMREQUEST, method),
            // A proxy is for other machines, and a topic's dots are not a directory's.
            apus_curl_set_text(&curl, handle, CURLOPT_NOPROXY, "*"),
            apus_curl_set_long(&curl, handle, CURLOPT_PATH_AS_IS, 1),
            apus_curl_set_long(&curl, handle, CURLOPT_CONNECTTIMEOUT, 5),
            apus_curl_set_long(&curl, handle, CURLOPT_TIMEOUT, 60),
            apus_curl_set_long(&curl, handle, CURLOPT_NOSIGNAL, 1),
            apus_curl_set_write(
                &curl, handle,
                { bytes, size, count, context in
                    guard let bytes, let context else { return 0 }
                    let answer = Unmanaged<Answer>.fromOpaque(context).takeUnretainedValue()
                    guard answer.body.count + size * count <= AdminClient.maxAnswerBytes else { return 0 }
                    answer.body += UnsafeRawBufferPointer(start: bytes, count: size * count)
                    return size * count
                }, Unmanaged.passUnretained(answer).toOpaque()),
        ]
        if case .unix(let path) = address {
            codes.append(apus_curl_set_text(&curl, handle, CURLOPT_UNIX_SOCKET_PATH, path))
        }
        if let credentials {
            codes.append(apus_curl_set_text(&curl, handle, CURLOPT_USERNAME, credentials.user))
            let password = credentials.password.map { CChar(bitPattern: $0) } + [0]
            codes.append(apus_curl_set_text(&curl, handle, CURLOPT_PASSWORD, password))
        }
        if let wrong = codes.first(where: { $0 != CURLE_OK }) { throw failure(wrong, curl) }
        let code = withExtendedLifetime(answer) { apus_curl_perform(&curl, handle) }
        guard code == CURLE_OK else { throw failure(code, curl) }
        var status = 0
        _ = apus_curl_status(&curl, handle, &status)
        return (status, answer.body)
    }

    private func failure(_ code: CURLcode, _ curl: apus_curl) -> CommandFailure {
        let reason = withUnsafePointer(to: curl) { String(cString: apus_curl_strerror($0, code)) }
        guard code == CURLE_COULDNT_CONNECT else { return CommandFailure("\(place): \(reason)") }
        return CommandFailure(
            """
            no node can be reached at \(place). `apus run` starts one; --admin or APUS_ADMIN_LISTEN says where one is \
            managed, as its ready record does
            """)
    }
}
