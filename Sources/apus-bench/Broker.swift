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
    /// The node with the same clients over WebSocket, to be compared with `apus` in one run.
    case apusws

    var isNode: Bool { self == .apus || self == .apus5 || self == .apusws }
    /// Whether its clients speak MQTT in frames of WebSocket.
    var isWebSocket: Bool { self == .apusws }
    /// Whether its clients speak MQTT 5 whatever `--mqtt` says.
    var isAlways5: Bool { self == .apus5 || self == .mosquitto5 }
}

/// How to start the brokers.
struct BrokerOptions {
    var apus: String
    var mosquitto: String
    var lanes = 1
    /// Wraps the broker's command line, for example in valgrind.
    var wrapper: [String] = []
    /// Peers differ in their default; latency is compared with Nagle's algorithm off everywhere.
    var noDelay = false
    /// What the clients speak.
    var version = ProtocolVersion.v3
    /// Whether a node listens for AMQP, too.
    var hasAMQP = false
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
        case .apus, .apus5, .apusws: try startApus(kind, options)
        case .mosquitto, .mosquitto5: try startMosquitto(kind, options)
        }
    }

    func stop() {
        process.kill()
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

    private static func startApus(_ kind: BrokerKind, _ options: BrokerOptions) throws -> Broker {
        let name = kind.isWebSocket ? "http" : "mqtt"
        let web = kind.isWebSocket ? #", { protocol: http, listen: "127.0.0.1:0" }"# : ""
        let amqp = options.hasAMQP ? #", { protocol: amqp, listen: "127.0.0.1:0" }"# : ""
        let configuration = """
            node: { name: bench, lanes: \(options.lanes) }
            listeners: [ { protocol: mqtt, listen: "127.0.0.1:0" }\(web)\(amqp) ]
            admin: { listen: off }

            """
        let file = try Scratch.write(
            configuration, name: "apus-\(name)\(amqp.isEmpty ? "" : "-amqp")-\(options.lanes).yaml")
        let begin = now()
        let command = [options.apus, "run", "--config", file, "--log-format", "json"]
        let child = try Child.spawn(options.wrapper + command)
        let patience: UInt64 = options.wrapper.isEmpty ? 10_000_000_000 : 60_000_000_000
        while now() - begin < patience {
            if let port = readyPort(of: name, in: child.output()) {
                let broker = Broker(
                    kind: kind, process: child, port: port, readyMilliseconds: Double(now() - begin) / 1e6,
                    version: options.version)
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
