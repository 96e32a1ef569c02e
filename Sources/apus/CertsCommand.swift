/// `apus certs`: an authority of one's own, and the certificates of nodes, servers and clients.
import ArgumentParser
import Glibc
import Security

/// `apus certs`.
struct CertsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "certs",
        abstract: "Make certificates for nodes, servers and clients.",
        discussion: """
            An authority is a directory: ca.crt is what everybody may have, ca.key stays where certificates are made. \
            NAME.crt and NAME.key go to whom they are for; keys are readable by their owner only. issued.txt lists \
            what was issued, ca.crl what was revoked. Nothing is overwritten without --force.

            Examples:
              apus certs example
              apus certs init
              apus certs node node-1 --host node-1.example.org --host 192.0.2.7 --mesh plant
              apus certs client device-17 --group devices
              apus certs revoke device-17
              apus certs list
            """,
        subcommands: [
            CertsInit.self, CertsNode.self, CertsServer.self, CertsClient.self, CertsRevoke.self, CertsCRL.self,
            CertsList.self, CertsShow.self, CertsExample.self,
        ])
}

/// Seconds since 1970.
func secondsNow() -> Int64 { Int64(time(nil)) }

/// Where the authority is.
struct AuthorityOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The authority's directory.", valueName: "directory"))
    var dir = "./certs"

    @Option(
        help: ArgumentHelp(
            "The first line of this file opens the authority's key (`init`: encrypts it).", valueName: "path"))
    var passphraseFile: String?

    func folder() throws -> AuthorityFolder {
        AuthorityFolder(dir, passphrase: try passphraseFile.map { try readPassphrase($0) })
    }
}

/// How a certificate is made.
struct IssueOptions: ParsableArguments {
    @Option(help: "Days for which it holds, at most as long as the authority.")
    var days = CertificateRequest.standardDays

    @Option(help: ArgumentHelp("The first line of this file encrypts the new key.", valueName: "path"))
    var keyPassphraseFile: String?

    @Flag(help: "Overwrite the files of that name. The certificate that was in them holds until it is revoked.")
    var force = false

    func issue(_ request: CertificateRequest, _ authority: AuthorityOptions) throws {
        var request = request
        request.days = days
        let storage: AuthorityFolder.KeyStorage =
            try keyPassphraseFile.map { .encrypted(try readPassphrase($0)) } ?? .plain
        let issued = try authority.folder().issue(request, key: storage, replacing: force, now: secondsNow())
        printIssued(issued)
    }
}

/// The first line of a file.
private func readPassphrase(_ path: String) throws -> [UInt8] {
    var line = Array(try readAll(path: path, limit: 64 << 10).prefix { $0 != 0x0A })
    if line.last == 0x0D { line.removeLast() }
    guard (1...PrivateKey.maxPassphraseBytes).contains(line.count) else {
        throw CommandFailure("\(path): a passphrase has 1 to \(PrivateKey.maxPassphraseBytes) bytes")
    }
    return line
}

private func printIssued(_ issued: AuthorityFolder.Issued) {
    let until = UTC.text(issued.certificate.notAfter)
    print("\(issued.certificatePath)  \(issued.certificate.subject), until \(until)")
    if let path = issued.keyPath { print("\(path)  its key; only its owner may have it") }
}

/// `apus certs init`.
struct CertsInit: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init", abstract: "Make an authority.",
        discussion: """
            Examples:
              apus certs init
              apus certs init --dir /etc/apus/certs --name 'Plant 3' --passphrase-file secret
            """,
        aliases: ["ca"])

    @OptionGroup var authority: AuthorityOptions

    @Option(help: "What the authority is called.")
    var name = "Apus CA"

    @Option(help: "Days for which it holds.")
    var days = CertificateRequest.standardAuthorityDays

    @Flag(help: "Take the place of an authority, whose certificates are worth nothing then.")
    var force = false

    func run() throws {
        let folder = try authority.folder()
        try folder.create(name: name, days: days, replacing: force, now: secondsNow())
        let until = UTC.text(try folder.certificate().notAfter)
        print("\(folder.certificatePath)  \(name), until \(until): for everybody who is to trust its certificates")
        print("\(folder.keyPath)  its key: whoever has it can be anybody")
        print("\(folder.revocationsPath)  what is revoked: nothing yet; `apus certs crl` renews the list")
    }
}

/// `apus certs node`.
struct CertsNode: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "node", abstract: "Make the certificate of a node.",
        discussion: """
            It says which node of which mesh it is: each node needs its own. `apus invite` does this and more for a \
            machine that is to join.

            Example:
              apus certs node node-1 --host node-1.example.org --host 192.0.2.7 --mesh plant
            """)

    @OptionGroup var authority: AuthorityOptions
    @OptionGroup var options: IssueOptions

    @Option(help: "A name or an address that clients dial; repeatable.")
    var host: [String] = []

    @Option(help: "The mesh: `mesh.id`.")
    var mesh = "apus"

    @Option(
        help: ArgumentHelp(
            "The node's id, of a node that has one: 32 hexadecimal digits, in mesh/identity. Default: a new one.",
            valueName: "id"))
    var nodeID: String?

    @Argument(help: "What the node is called.")
    var name: String

    func run() throws {
        let node = try nodeID.map { try NodeName(id: $0, mesh: mesh) } ?? .random(mesh: mesh)
        var request = CertificateRequest(.node(node), name: name)
        request.hosts = host
        try options.issue(request, authority)
    }
}

/// `apus certs server`.
struct CertsServer: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "server", abstract: "Make a certificate that clients see, and that is no node's.",
        discussion: """
            Example:
              apus certs server mqtt --host mqtt.example.org
            """)

    @OptionGroup var authority: AuthorityOptions
    @OptionGroup var options: IssueOptions

    @Option(help: "A name or an address that clients dial; repeatable.")
    var host: [String] = []

    @Argument(help: "What the certificate is called.")
    var name: String

    func run() throws {
        var request = CertificateRequest(.server, name: name)
        request.hosts = host
        try options.issue(request, authority)
    }
}

/// `apus certs client`.
struct CertsClient: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "client", abstract: "Make the certificate of a client.",
        discussion: """
            The name is the certificate's CN and the groups its OUs: with `user: ${cert.cn}` and \
            `groups: ["${cert.ou}"]` in the section tls they are the client's user and groups.

            Example:
              apus certs client device-17 --group devices
            """)

    @OptionGroup var authority: AuthorityOptions
    @OptionGroup var options: IssueOptions

    @Option(help: "A group of the client; repeatable.")
    var group: [String] = []

    @Option(help: "The client's address of e-mail.")
    var email: String?

    @Argument(help: "The client's name.")
    var name: String

    func run() throws {
        var request = CertificateRequest(.client, name: name)
        request.groups = group
        request.email = email
        try options.issue(request, authority)
    }
}

/// `apus certs example`.
struct CertsExample: ParsableCommand {
    /// The nodes of `mesh-configs/secure`.
    private static let nodes = ["node-1", "node-2", "node-3"]
    private static let mesh = "secure"
    /// The user of `mesh-configs/secure/node.yaml`.
    private static let (user, group) = ("olivia", "operators")

    static let configuration = CommandConfiguration(
        commandName: "example", abstract: "Make an authority and all that mesh-configs/secure needs.",
        discussion: """
            Three nodes for localhost, the client device-1 of the group devices, the client olivia of the group \
            operators, and a user file with olivia in it, whose password is in olivia.password.

            Example:
              apus certs example
              apus run --config mesh-configs/secure/node.yaml
            """)

    @OptionGroup var authority: AuthorityOptions

    @Flag(help: "Take the place of an authority that is there, and of all its files.")
    var force = false

    func run() throws {
        let folder = try authority.folder()
        let now = secondsNow()
        try folder.create(name: "Apus example CA", replacing: force, now: now)
        var requests: [CertificateRequest] = []
        for name in Self.nodes {
            var request = CertificateRequest(.node(try .random(mesh: Self.mesh)), name: name)
            request.hosts = ["localhost", "127.0.0.1", "::1"]
            requests.append(request)
        }
        for (name, group) in [("device-1", "devices"), (Self.user, Self.group)] {
            var request = CertificateRequest(.client, name: name)
            request.groups = [group]
            requests.append(request)
        }
        for request in requests {
            let issued = try folder.issue(request, replacing: force, now: now)
            print("\(issued.certificatePath)  \(issued.certificate.subject)")
        }
        try addUser(folder)
        print("\(folder.certificatePath)  the authority, for everybody who is to trust these")
        print("Each certificate has a key beside it (.key); only its owner may have that. Next:")
        print("  apus run --config mesh-configs/secure/node.yaml")
    }

    private func addUser(_ folder: AuthorityFolder) throws {
        let (users, password) = ("\(folder.path)/users", try folder.makePassword(of: Self.user))
        let user = try User(name: Self.user, hash: ScryptHash(password: password.bytes), groups: [Self.group])
        try UserFile.update(users, creating: true) { $0.set(user) }
        print("\(users)  the user \(Self.user), whose password is in \(password.path)")
    }
}
