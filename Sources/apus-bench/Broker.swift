internal import CLinux
internal import FoundationEssentials
internal import Glibc

/// Who is measured.
enum BrokerKind: String, CaseIterable {
    case relay
    case apus
    /// The same program with clients of MQTT 5, to be compared with `apus` in one run.
    case apus5
    case mosquitto
    /// As ``apus5``, for the peer.
    case mosquitto5
    /// NATS with its MQTT 3.1.1.
    case nats
    /// RabbitMQ with its plugin for MQTT 3.1.1.
    case rabbitmq
    /// The node with the same clients over WebSocket, to be compared with `apus` in one run.
    case apusws
    /// The relay that decrypts and encrypts.
    case relaytls
    /// The node with the same clients over TLS 1.3, to be compared with `relaytls` in one run.
    case apustls

    var isNode: Bool { self == .apus || self == .apus5 || self == .apusws || self == .apustls }
    /// Whether it is another product.
    var isPeer: Bool { self == .mosquitto || self == .mosquitto5 || self == .nats || self == .rabbitmq }
    var isRelay: Bool { self == .relay || self == .relaytls }
    /// Whether its clients come over TLS, by way of a process that wraps them.
    var isTLS: Bool { self == .relaytls || self == .apustls }
    /// Whether its clients speak MQTT in frames of WebSocket.
    var isWebSocket: Bool { self == .apusws }
    /// Whether its clients speak MQTT 5 whatever `--mqtt` says.
    var isAlways5: Bool { self == .apus5 || self == .mosquitto5 }
}

/// How to start the brokers.
struct BrokerOptions {
    var apus: String
    var mosquitto: String
    var nats = "/usr/sbin/nats-server"
    var rabbitmq = "/usr/lib/rabbitmq/bin/rabbitmq-server"
    var lanes = 1
    /// Wraps the broker's command line, for example in valgrind.
    var wrapper: [String] = []
    /// Peers differ in their default; latency is compared with Nagle's algorithm off everywhere.
    var noDelay = false
    /// What the clients speak.
    var version = ProtocolVersion.v3
    /// Whether a node listens for AMQP, too.
    var hasAMQP = false
    /// The key of a node that speaks TLS: `ec` (P-256) or `rsa` (2,048 bits).
    var certificate = "ec"
}

/// A broker running as a child process, and what the kernel says about it.
final class Broker {
    let kind: BrokerKind
    let process: Child
    /// Where its clients connect: over WebSocket that is the node's port for HTTP.
    let port: UInt16
    /// Where a node takes MQTT over TCP, whatever its clients do.
    private(set) var plainPort: UInt16 = 0
    /// Where a node takes AMQP, if it was told to.
    private(set) var amqpPort: UInt16 = 0
    /// A process that goes with it and whose time is not the broker's: the one that wraps the clients' connections in
    /// TLS, or Erlang's register of names.
    private var companion: Child?
    /// Where a node takes MQTT over TLS.
    private(set) var tlsPort: UInt16 = 0
    /// From the start of the process until it accepted connections.
    let readyMilliseconds: Double
    /// Packets as its clients send them.
    let frames: Frames

    /// A process that has been started and accepts connections.
    init(kind: BrokerKind, process: Child, port: UInt16, readyMilliseconds: Double, version: ProtocolVersion) {
        self.kind = kind
        frames = Frames(kind.isAlways5 ? .v5 : version, overWebSocket: kind.isWebSocket)
        self.process = process
        self.port = port
        self.readyMilliseconds = readyMilliseconds
    }

    /// A broker that somebody else started.
    convenience init(attachedTo port: UInt16, pid: Int32, version: ProtocolVersion, overWebSocket: Bool) {
        self.init(
            kind: overWebSocket ? .apusws : .apus, process: Child(attachedTo: pid), port: port, readyMilliseconds: 0,
            version: version)
    }

    /// Starts a broker on a free port of 127.0.0.1 and waits until it accepts connections.
    static func start(_ kind: BrokerKind, _ options: BrokerOptions) throws -> Broker {
        switch kind {
        case .relay: try startRelay(options)
        case .relaytls: try startTLSRelay(options)
        case .apus, .apus5, .apusws, .apustls: try startApus(kind, options)
        case .mosquitto, .mosquitto5: try startMosquitto(kind, options)
        case .nats: try startNATS(options)
        case .rabbitmq: try startRabbitMQ(options)
        }
    }

    func stop() {
        process.kill()
        companion?.kill()
    }

    /// For a failure: whether the process has ended, and the end of what it printed.
    func lastWords() -> String {
        process.lastWords()
    }

    private static func startRelay(_ options: BrokerOptions) throws -> Broker {
        let begin = now()
        let port = try Socket.freePort()
        let child = try Child.spawn([Child.ownPath, "relay", "--listen", "127.0.0.1:\(port)"])
        try awaitPort(port, child)
        return Broker(
            kind: .relay, process: child, port: port, readyMilliseconds: Double(now() - begin) / 1e6,
            version: options.version)
    }

    /// A certificate for the bench, made once: `rsa:2048`, or P-256.
    static func certificate(_ kind: String = "ec") throws -> (certificate: String, key: String) {
        let (certificate, key) = (Scratch.path("bench-\(kind).crt"), Scratch.path("bench-\(kind).key"))
        guard access(key, R_OK) != 0 else { return (certificate, key) }
        let how = kind == "ec" ? ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"] : ["rsa:2048"]
        let made = try Child.spawn(
            ["openssl", "req", "-x509", "-newkey"] + how + [
                "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                "-keyout", key, "-out", certificate,
            ])
        while made.isRunning { pause(milliseconds: 5) }
        guard access(key, R_OK) == 0 else { throw Failure("openssl made no certificate:\n\(made.output())") }
        // A broker started by root may give up its rights before it reads them.
        chmod(key, 0o644)
        return (certificate, key)
    }

    /// Starts the process that carries plain connections on to `port` over TLS.
    private static func wrap(_ port: UInt16) throws -> (Child, UInt16) {
        let plain = try Socket.freePort()
        let child = try Child.spawn([
            Child.ownPath, "relay", "--listen", "127.0.0.1:\(plain)", "--to-tls", "\(port)",
        ])
        let begin = now()
        while !child.output().contains("listening") {
            guard child.isRunning, now() - begin < 10_000_000_000 else {
                throw Failure("the wrapper did not start:\n\(child.output())")
            }
            usleep(1000)
        }
        return (child, plain)
    }

    private static func startTLSRelay(_ options: BrokerOptions) throws -> Broker {
        let begin = now()
        let (certificate, key) = try certificate()
        let child = try Child.spawn([
            Child.ownPath, "relay", "--listen", "127.0.0.1:0", "--certificate", certificate, "--key", key,
        ])
        var port: UInt16?
        while port == nil {
            guard child.isRunning, now() - begin < 10_000_000_000 else {
                throw Failure("the relay did not start:\n\(child.output())")
            }
            usleep(1000)
            port = child.output().split(separator: "\n").first.flatMap { line in
                line.split(separator: ":").last.flatMap { UInt16($0) }
            }
        }
        let (wrapper, plain) = try wrap(port ?? 0)
        let broker = Broker(
            kind: .relaytls, process: child, port: plain, readyMilliseconds: Double(now() - begin) / 1e6,
            version: options.version)
        broker.companion = wrapper
        return broker
    }

    private static func startMosquitto(_ kind: BrokerKind, _ options: BrokerOptions) throws -> Broker {
        let port = try Socket.freePort()
        // Nothing may be dropped: no limit of queued messages, and room for every window the scenarios use.
        let configuration = """
            listener \(port) 127.0.0.1
            allow_anonymous true
            persistence false
            max_queued_messages 0
            max_inflight_messages 2000
            max_connections -1
            log_type none
            sys_interval 0
            set_tcp_nodelay \(options.noDelay)

            """
        let file = try Scratch.write(configuration, name: "mosquitto-\(port).conf")
        let begin = now()
        let child = try Child.spawn(options.wrapper + [options.mosquitto, "-c", file])
        try awaitPort(port, child)
        return Broker(
            kind: kind, process: child, port: port, readyMilliseconds: Double(now() - begin) / 1e6,
            version: options.version)
    }

    private static func startNATS(_ options: BrokerOptions) throws -> Broker {
        let (port, own) = (try Socket.freePort(), try Socket.freePort())
        // Its MQTT keeps sessions and what is guaranteed in JetStream; direct events do not touch that.
        let configuration = """
            server_name: bench
            listen: "127.0.0.1:\(own)"
            jetstream { store_dir: "\(Scratch.path("nats-\(port)"))" }
            mqtt { listen: "127.0.0.1:\(port)", max_ack_pending: 2000 }

            """
        let file = try Scratch.write(configuration, name: "nats-\(port).conf")
        let begin = now()
        let child = try Child.spawn(options.wrapper + [options.nats, "-c", file])
        try awaitPort(port, child)
        return Broker(
            kind: .nats, process: child, port: port, readyMilliseconds: Double(now() - begin) / 1e6,
            version: options.version)
    }

    private static func startRabbitMQ(_ options: BrokerOptions) throws -> Broker {
        let begin = now()
        let server = try RabbitMQ(script: options.rabbitmq, plugin: .mqtt)
        let broker = Broker(
            kind: .rabbitmq, process: server.process, port: server.port,
            readyMilliseconds: Double(now() - begin) / 1e6, version: options.version)
        broker.companion = server.names
        return broker
    }

    private static func startApus(_ kind: BrokerKind, _ options: BrokerOptions) throws -> Broker {
        let name = kind.isWebSocket ? "http" : "mqtt"
        let web = kind.isWebSocket ? #", { protocol: http, listen: "127.0.0.1:0" }"# : ""
        let amqp = options.hasAMQP ? #", { protocol: amqp, listen: "127.0.0.1:0" }"# : ""
        let secure = try kind.isTLS ? certificate(options.certificate) : nil
        let configuration = """
            node: { name: bench, lanes: \(options.lanes) }
            listeners: [ { protocol: mqtt, listen: "127.0.0.1:0"\(secure == nil ? "" : ", tls: bench") }\(web)\(amqp) ]
            admin: { listen: off }
            \(secure.map { "tls: { bench: { certificate: \($0.certificate), key: \($0.key) } }" } ?? "")

            """
        let variant = (amqp.isEmpty ? "" : "-amqp") + (secure == nil ? "" : "-tls-\(options.certificate)")
        let file = try Scratch.write(configuration, name: "apus-\(name)\(variant)-\(options.lanes).yaml")
        let begin = now()
        let command = [options.apus, "run", "--config", file, "--log-format", "json"]
        let child = try Child.spawn(options.wrapper + command)
        let patience: UInt64 = options.wrapper.isEmpty ? 10_000_000_000 : 60_000_000_000
        while now() - begin < patience {
            if let listening = readyPort(of: name, in: child.output()) {
                var (wrapper, port): (Child?, UInt16) = (nil, listening)
                if kind.isTLS { (wrapper, port) = try wrap(listening) }
                let broker = Broker(
                    kind: kind, process: child, port: port, readyMilliseconds: Double(now() - begin) / 1e6,
                    version: options.version)
                broker.companion = wrapper
                broker.tlsPort = kind.isTLS ? listening : 0
                broker.plainPort = readyPort(of: "mqtt", in: child.output()) ?? 0
                broker.amqpPort = readyPort(of: "amqp", in: child.output()) ?? 0
                return broker
            }
            guard child.isRunning else { break }
            usleep(500)
        }
        throw Failure("apus did not become ready; it said:\n\(child.output())")
    }

    /// One line of the node's log, as far as the bench needs it.
    private struct ReadyLine: Decodable {
        struct Listener: Decodable {
            let `protocol`: String
            let address: String
        }
        let event: String?
        let listeners: [Listener]?
    }

    private static func readyPort(of name: String, in log: String) -> UInt16? {
        for line in log.split(separator: "\n") where line.contains("ready") && line.hasPrefix("{") {
            guard let ready = try? JSONDecoder().decode(ReadyLine.self, from: Data(line.utf8)),
                ready.event == "ready",
                let address = ready.listeners?.first(where: { $0.protocol == name })?.address,
                let port = address.split(separator: ":").last.flatMap({ UInt16($0) })
            else { continue }
            return port
        }
        return nil
    }

    static func awaitPort(_ port: UInt16, _ child: Child) throws {
        let begin = now()
        while now() - begin < 30_000_000_000 {
            if let fd = try? Socket.connect(port: port) {
                close(fd)
                return
            }
            guard child.isRunning else { break }
            usleep(1000)
        }
        throw Failure("\(child.command.joined(separator: " ")) does not listen on port \(port):\n\(child.output())")
    }
}

/// What `/proc` says about it.
extension Broker {
    /// See ``Child/processorTime()``.
    func processorTime() -> UInt64 { process.processorTime() }

    /// See ``Child/memory(_:)``.
    func memory(_ field: String) -> Int { process.memory(field) }

    /// See ``Child/descriptors()``.
    func descriptors() -> Int { process.descriptors() }
}
