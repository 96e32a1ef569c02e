/// `apus invite` and `apus join`: a machine becomes a node of a mesh.
import ArgumentParser
import Glibc
import Node
import Security

/// `apus invite`.
struct InviteCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "invite",
        abstract: "Make a token with which a machine joins the mesh.",
        discussion: """
            Runs where the authority's key is and prints one line, the token, to standard output. It holds the new \
            node's certificate and key: WHOEVER HAS THE TOKEN IS THAT NODE. Send it as you would send a password, and \
            `apus certs revoke NAME` when it is lost. --expires limits when `apus join` takes it; somebody who takes \
            the token apart has the key for as long as the certificate holds.

            Examples:
              apus invite node-2 --address node-1.example.org:7400
              apus invite node-2 --address node-1.example.org:7400 --mesh plant | ssh node-2 apus join -
            """)

    @OptionGroup var authority: AuthorityOptions

    @Option(
        help: ArgumentHelp(
            "A node of the mesh that the new one dials; repeatable, at most 8.", valueName: "host:port"))
    var address: [String] = []

    @Option(help: "The mesh: `mesh.id`.")
    var mesh = "apus"

    @Option(help: "A name or an address by which clients dial the new node; repeatable.")
    var host: [String] = []

    @Option(help: "Days for which the new node's certificate holds.")
    var days = CertificateRequest.standardDays

    @Option(help: ArgumentHelp("In which the token can be used.", valueName: "minutes"))
    var expires = InvitationToken.standardMinutes

    @Flag(help: "Take the place of a certificate of that name, which holds until it is revoked.")
    var force = false

    @Argument(help: "What the new node is called.")
    var name: String

    func validate() throws {
        if let reason = InvitationToken.reasonAgainst(addresses: address) {
            throw ValidationError(address.isEmpty ? "Missing expected option '--address <host:port>'" : reason)
        }
        guard (1...InvitationToken.maxMinutes).contains(expires) else {
            throw ValidationError("--expires is 1 to \(InvitationToken.maxMinutes) minutes")
        }
    }

    func run() throws {
        let folder = try authority.folder()
        let now = secondsNow()
        var request = CertificateRequest(.node(try .random(mesh: mesh)), name: name)
        request.hosts = host
        request.days = days
        // The key goes into the token and nowhere else.
        let issued = try folder.issue(request, key: .none, replacing: force, now: now)
        let end = now + Int64(expires) * 60
        let token = try InvitationToken.encode(
            issued.certificate, key: issued.key, authority: folder.authority(), addresses: address, expires: end)
        printError("This is a secret: whoever has it is the node '\(name)'. To be used until \(UTC.text(end)), by")
        printError("  apus join -")
        printError("which reads it from standard input: other users of a machine can see arguments.")
        print(token)
    }
}

/// `apus join`.
struct JoinCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "join",
        abstract: "Join a mesh with the token of `apus invite`.",
        discussion: """
            Verifies the token and writes certificate, key and where to dial into the data directory, below mesh/. \
            `apus run` reads them from there; what a configuration file says of the same keys holds. The node must not \
            be running. Arguments can be seen by other users of the machine: `apus join -` reads the token from \
            standard input.

            Examples:
              apus join - <token
              apus join - --data /var/lib/apus --listen 0.0.0.0:7400 <token
            """)

    @Option(
        help: ArgumentHelp(
            "The node's data directory. Default: APUS_NODE_DATA, else ./apus-data.", valueName: "directory"))
    var data: String?

    @Option(
        help: ArgumentHelp(
            "Where other nodes may dial this one, as 0.0.0.0:7400. Default: it only dials.", valueName: "address"))
    var listen: String?

    @Flag(help: "Join also when the data directory has joined a mesh already; that is set aside.")
    var force = false

    @Argument(help: "The token, or - for standard input.")
    var token: String

    func run() throws {
        let address = try listen.map { text in
            do throws(ListenAddress.Malformed) { return try ListenAddress(parsing: text) } catch {
                throw ValidationError("'\(text)' is no address to listen on: \(error.reason)")
            }
        }
        if case .unix? = address { throw ValidationError("nodes meet over IP; expected ADDRESS:PORT") }
        let now = secondsNow()
        let token = try InvitationToken(parsing: try readToken(), now: now)
        let end = try Certificate.read(pem: token.certificatePEM, name: "").notAfter
        let membership = MeshMembership(data: nodeData(data))
        let aside = try membership.join(token, listen: address, replacing: force, now: now)
        if let aside { print("what was there is in \(aside)") }
        print("\(token.name) is the node \(token.node.id) of the mesh '\(token.mesh)'")
        print("  it dials \(token.addresses.joined(separator: ", "))")
        print("  others dial it at \(address?.description ?? "no address; --listen would give one")")
        print("  its certificate holds until \(UTC.text(end))")
        print("  all of it is in \(membership.data)/mesh")
        print("Next:")
        print("  apus run" + (data.map { " --data \($0)" } ?? ""))
    }

    private func readToken() throws -> String {
        var text = token
        if token == "-" {
            let bytes = try readAll(STDIN_FILENO, limit: InvitationToken.maxBytes, name: "standard input")
            text = String(decoding: bytes, as: UTF8.self)
        }
        while let last = text.unicodeScalars.last, last.properties.isWhitespace { text.unicodeScalars.removeLast() }
        return text
    }
}

/// The data directory that a command means.
func nodeData(_ option: String?) -> String {
    option ?? Configuration.processEnvironment["APUS_NODE_DATA"] ?? Configuration(name: "").data
}
