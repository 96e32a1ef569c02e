/// What the commands that manage a node share: where it is, who asks, and one request over libcurl.
import Admin
import ArgumentParser
import CCurl
import FoundationEssentials
import Glibc
import Node
import Web

/// Options of every command that manages a node.
struct AdminOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The node's management address; https://HOST:PORT with `admin.tls`. Default: APUS_ADMIN_LISTEN, else "
                + "127.0.0.1:8222.", valueName: "address"))
    var admin: String?

    @Option(
        help: ArgumentHelp(
            "The authorities of the node's certificate, PEM. Default: those of the system.", valueName: "file"))
    var ca: String?

    @Option(help: ArgumentHelp("The certificate to show, PEM.", valueName: "file"))
    var cert: String?

    @Option(help: ArgumentHelp("Its key, PEM. Default: in the file of the certificate.", valueName: "file"))
    var key: String?

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
        let address = try AdminAddress(parsing: text)
        if !address.isSecure, ca ?? cert ?? key != nil {
            throw ValidationError("--ca, --cert and --key go with --admin https://HOST:PORT, not with '\(text)'")
        }
        if key != nil, cert == nil { throw ValidationError("--key goes with --cert") }
        for path in [ca, cert, key].compactMap({ $0 }) where !isReadable(path) {
            throw CommandFailure.system("cannot read \(path)")
        }
        var credentials: (user: String, password: [UInt8])?
        if let user {
            let known = environment[ConfigurationKeys.passwordVariable].map { Array($0.utf8) }
            credentials = (user, try known ?? password.read(twice: false))
        }
        return AdminClient(
            address: address, credentials: credentials, authorities: ca,
            certificate: cert.map { ($0, key: key ?? $0) })
    }
}

/// A node's management interface, asked one thing at a time.
struct AdminClient {
    let address: AdminAddress
    let credentials: (user: String, password: [UInt8])?
    /// Path of the file with the authorities that count; nil for those of the system.
    let authorities: String?
    /// Paths of what to show; nil for nothing.
    let certificate: (path: String, key: String)?

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

    private func perform(
        _ method: String, _ path: String, _ query: [(String, String?)]
    ) throws -> (status: Int, body: [UInt8]) {
        var curl = apus_curl()
        if let reason = apus_curl_load(&curl) {
            throw CommandFailure("cannot load libcurl: \(String(cString: reason))")
        }
        // Released after the handle, which writes into it.
        let detail = UnsafeMutablePointer<CChar>.allocate(capacity: Int(CURL_ERROR_SIZE))
        detail.initialize(repeating: 0, count: Int(CURL_ERROR_SIZE))
        defer { detail.deallocate() }
        guard let handle = apus_curl_init(&curl) else { throw CommandFailure("libcurl cannot start") }
        defer { apus_curl_cleanup(&curl, handle) }
        let pairs = query.compactMap { name, value in value.map { "\(name)=\(Percent.encode($0))" } }
        let target = address.url + path + (pairs.isEmpty ? "" : "?" + pairs.joined(separator: "&"))
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
        if let path = address.socketPath {
            codes.append(apus_curl_set_text(&curl, handle, CURLOPT_UNIX_SOCKET_PATH, path))
        }
        codes += secure(&curl, handle)
        if let credentials {
            codes.append(apus_curl_set_text(&curl, handle, CURLOPT_USERNAME, credentials.user))
            let password = credentials.password.map { CChar(bitPattern: $0) } + [0]
            codes.append(apus_curl_set_text(&curl, handle, CURLOPT_PASSWORD, password))
        }
        if let wrong = codes.first(where: { $0 != CURLE_OK }) {
            throw CommandFailure("\(place): \(String(cString: apus_curl_strerror(&curl, wrong)))")
        }
        _ = apus_curl_set_pointer(&curl, handle, CURLOPT_ERRORBUFFER, detail)
        let code = withExtendedLifetime(answer) { apus_curl_perform(&curl, handle) }
        guard code == CURLE_OK else {
            var verified = 0
            _ = apus_curl_verify_result(&curl, handle, &verified)
            let known = detail.pointee == 0 ? apus_curl_strerror(&curl, code) : UnsafePointer(detail)
            throw failure(code, verified, known.map { String(cString: $0) } ?? "error \(code.rawValue)")
        }
        var status = 0
        _ = apus_curl_status(&curl, handle, &status)
        return (status, answer.body)
    }

    /// Whom to trust and what to show. The certificate of the other end is verified always.
    private func secure(_ curl: inout apus_curl, _ handle: UnsafeMutableRawPointer) -> [CURLcode] {
        guard address.isSecure else { return [] }
        var codes = [
            apus_curl_set_long(&curl, handle, CURLOPT_SSL_VERIFYPEER, 1),
            apus_curl_set_long(&curl, handle, CURLOPT_SSL_VERIFYHOST, 2),
            apus_curl_set_long(&curl, handle, CURLOPT_SSLVERSION, Int(CURL_SSLVERSION_TLSv1_2)),
            apus_curl_set_long(&curl, handle, CURLOPT_HTTP_VERSION, Int(CURL_HTTP_VERSION_1_1)),
        ]
        if let authorities {
            codes.append(apus_curl_set_text(&curl, handle, CURLOPT_CAINFO, authorities))
            // Those of the system do not count beside them.
            codes.append(apus_curl_set_text(&curl, handle, CURLOPT_CAPATH, nil))
        }
        if let certificate {
            codes.append(apus_curl_set_text(&curl, handle, CURLOPT_SSLCERT, certificate.path))
            codes.append(apus_curl_set_text(&curl, handle, CURLOPT_SSLKEY, certificate.key))
        }
        return codes
    }

    /// What went wrong, and what to try.
    /// - Parameters:
    ///   - verified: what OpenSSL says of the chain of the node's certificate (X509_V_…).
    ///   - detail: libcurl's own words.
    private func failure(_ code: CURLcode, _ verified: Int, _ detail: String) -> CommandFailure {
        switch code {
        case CURLE_COULDNT_CONNECT:
            return CommandFailure(
                """
                no node can be reached at \(place). `apus run` starts one; --admin or APUS_ADMIN_LISTEN says where one \
                is managed, as its ready record does
                """)
        case CURLE_PEER_FAILED_VERIFICATION:
            return CommandFailure("\(place): the node's certificate is not taken: \(detail). \(advice(verified))")
        case CURLE_SSL_CACERT_BADFILE:
            return CommandFailure("\(authorities ?? "the system's authorities"): no certificate can be read")
        case CURLE_SSL_CONNECT_ERROR, CURLE_RECV_ERROR, CURLE_SEND_ERROR:
            if address.isSecure, detail.contains("wrong version number") || detail.contains("SSL_ERROR_SYSCALL") {
                return CommandFailure("\(place): no TLS is spoken there, or no longer. Without admin.tls: http://")
            }
            if address.isSecure, detail.contains("alert") {
                let hint =
                    certificate == nil
                    ? "If it asks for a certificate, show one by --cert and --key" : "It may not take --cert"
                return CommandFailure("\(place): the node refuses the connection: \(detail). \(hint)")
            }
        default: break
        }
        let isOtherLanguage = [CURLE_GOT_NOTHING, CURLE_RECV_ERROR, CURLE_UNSUPPORTED_PROTOCOL].contains(code)
        let hint = isOtherLanguage && !address.isSecure ? ". With admin.tls: --admin https://HOST:PORT --ca FILE" : ""
        return CommandFailure("\(place): \(detail)\(hint)")
    }

    /// What helps when the node's certificate was not taken.
    private func advice(_ verified: Int) -> String {
        switch verified {
        // The chain was good (0), or libcurl looked at the name first and has kept 1.
        case 0, 1: "Dial it by a name or an address that stands in its certificate"
        // X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
        case 9, 10: "It has ended or has not begun, or the clock of this machine is wrong"
        default:
            authorities.map { "It comes from another authority than those in \($0)" }
                ?? "--ca names the authority that it comes from"
        }
    }
}
