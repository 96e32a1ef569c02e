/// What `apus pub` and `apus sub` share: the options that users of mosquitto_pub and mosquitto_sub expect.
import ArgumentParser

/// How to connect.
struct ClientOptions: ParsableArguments {
    @Option(name: [.customShort("h"), .long], help: "The node to connect to.")
    var host = "localhost"

    @Option(name: .shortAndLong, help: "Its port. Default: 1883, over TLS 8883.")
    var port: Int?

    @Option(name: .long, help: ArgumentHelp("Connect to this Unix socket instead.", valueName: "path"))
    var unix: String?

    @Option(
        name: .customLong("cafile"),
        help: ArgumentHelp("Speak TLS; the node's certificate comes from an authority in here, PEM.", valueName: "file")
    )
    var authorities: String?

    @Option(
        name: .customLong("capath"),
        help: ArgumentHelp("The same, a directory as `openssl rehash` makes it.", valueName: "directory"))
    var authorityDirectory: String?

    @Option(
        name: .customLong("cert"), help: ArgumentHelp("Over TLS, the certificate to show, PEM.", valueName: "file"))
    var certificate: String?

    @Option(name: .customLong("key"), help: ArgumentHelp("Its key, PEM.", valueName: "file"))
    var key: String?

    @Flag(
        name: .customLong("insecure"),
        help: "Do not look whether the node's certificate is for the host: whoever has any of the authority is it.")
    var isInsecure = false

    @Option(name: [.customShort("i"), .long], help: "The client id. Default: a random one.")
    var id: String?

    @Option(name: [.customShort("u"), .customLong("username")], help: "The user name.")
    var user: String?

    @Option(name: [.customShort("P"), .customLong("pw")], help: "The password. Others on this machine can see it.")
    var password: String?

    @Option(name: [.customShort("k"), .customLong("keepalive")], help: "Seconds between signs of life.")
    var keepAlive = 60

    @Option(
        name: [.customShort("V"), .customLong("protocol-version")],
        help: ArgumentHelp("mqttv31, mqttv311 or mqttv5; or 31, 311, 5.", valueName: "version"))
    var version = "mqttv311"

    @Flag(name: .shortAndLong, help: "Say what is sent and received.")
    var debug = false

    func validate() throws {
        guard (1...65_535).contains(port ?? 1883) else { throw ValidationError("--port must be from 1 to 65535") }
        guard (5...65_535).contains(keepAlive) else { throw ValidationError("--keepalive must be from 5 to 65535") }
        if MosquittoClient.ProtocolVersion(word: version) == nil {
            throw ValidationError("--protocol-version must be mqttv31, mqttv311 or mqttv5")
        }
        if authorities ?? authorityDirectory == nil, isInsecure || certificate ?? key != nil {
            throw ValidationError("--cert, --key and --insecure need TLS: --cafile or --capath")
        }
        if (certificate == nil) != (key == nil) { throw ValidationError("--cert and --key go together") }
        if password != nil, user == nil { throw ValidationError("--pw needs --username") }
    }

    func settings(isCleanSession: Bool) -> MosquittoClient.Settings {
        var settings = MosquittoClient.Settings()
        settings.host = host
        if authorities ?? authorityDirectory != nil {
            settings.security = .init(
                authorities: authorities, authorityDirectory: authorityDirectory,
                certificate: certificate, key: key, isNameVerified: !isInsecure)
        }
        settings.port = port ?? (settings.security == nil ? 1883 : 8883)
        settings.unixPath = unix
        settings.clientID = id
        settings.isCleanSession = isCleanSession
        settings.user = user
        settings.password = password
        settings.keepAliveSeconds = keepAlive
        settings.version = MosquittoClient.ProtocolVersion(word: version) ?? .v311
        settings.isDebugging = debug
        return settings
    }

    /// Says that a quality of service exists.
    static func validate(qos: Int) throws {
        guard (0...2).contains(qos) else { throw ValidationError("--qos must be 0, 1 or 2") }
    }
}
