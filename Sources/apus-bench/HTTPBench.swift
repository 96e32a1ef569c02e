internal import ArgumentParser
internal import Glibc

/// The node's HTTP beside nginx.
struct HTTPBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "http",
        abstract: "Measures requests over HTTP to the node and to nginx, which answers without doing anything.",
        discussion: """
            nginx and the node, with one lane, are driven in turn by wrk: one thread, 50 kept-alive connections. An \
            answer other than the one that is due, an error of a socket, or a lost event is a failure: exit code 1.
            """)

    @Option(help: "Interleaved rounds of each kind of request.")
    var rounds = 9

    @Option(help: "Seconds of one measured window, whole ones.")
    var seconds = 2

    @Option(help: "The node's executable; default: apus beside this one.")
    var apus: String?

    @Option(help: "The peer's executable.")
    var nginx = "/usr/sbin/nginx"

    @Option(help: "The load generator's executable.")
    var wrk = "/usr/bin/wrk"

    @Option(help: "Lanes of the node.")
    var lanes = 1

    @Option(help: "Write all raw figures to this file.")
    var json: String?

    func validate() throws {
        guard rounds > 0, seconds > 0, lanes >= 0 else {
            throw ValidationError("--rounds and --seconds must be positive")
        }
    }

    mutating func run() throws {
        Child.killAllAtExit()
        let node = Child.node(apus)
        for program in [node, nginx, wrk] where access(program, X_OK) != 0 {
            throw ValidationError("no executable \(program): build the node, install nginx-light and wrk")
        }
        let campaign = HTTPCampaign(self, node: node)
        try campaign.run()
        for line in campaign.table() { say(line) }
        try campaign.report.conclude(
            settings: ["rounds": "\(rounds)", "seconds": "\(seconds)", "lanes": "\(lanes)", "connections": "50"],
            json: json)
    }
}

/// What is asked for again and again.
struct HTTPPlan {
    let name: String
    let method: String
    /// The answer that is due of nginx and of the node.
    let peerStatus: Int
    let nodeStatus: Int
    /// Whether somebody subscribes to what is published.
    var hasSubscriber = false

    var topic: String { "bench/\(name)" }
    var path: String { "/TOPIC/\(topic)" }
    static let body = String(repeating: "x", count: 64)

    static let all = [
        HTTPPlan(name: "post64", method: "POST", peerStatus: 204, nodeStatus: 202),
        HTTPPlan(name: "get64", method: "GET", peerStatus: 200, nodeStatus: 200),
        HTTPPlan(name: "post64sub", method: "POST", peerStatus: 204, nodeStatus: 202, hasSubscriber: true),
    ]

    /// What wrk has to do, in its own language.
    var script: String {
        method == "GET"
            ? "wrk.method = \"GET\"\n"
            : """
            wrk.method = "\(method)"
            wrk.body = "\(Self.body)"
            wrk.headers["Content-Type"] = "text/plain"

            """
    }

    /// One request as it is checked before wrk sends its own.
    func request(_ extra: String = "") -> [UInt8] {
        let body =
            method == "GET" ? "" : "Content-Type: text/plain\r\nContent-Length: \(Self.body.utf8.count)\r\n"
        let head = "\(method) \(path) HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\(extra)\(body)\r\n"
        return Array((head + (method == "GET" ? "" : Self.body)).utf8)
    }
}

/// The rounds of `http`, and what came of them.
final class HTTPCampaign {
    private let options: HTTPBench
    private let node: String
    let report = Report()
    /// At most so many times what nginx costs.
    private static let must = 4.5
    private static let connections = 50

    /// One of the two servers.
    private struct Server {
        let name: String
        let port: UInt16
        let process: Child
    }

    init(_ options: HTTPBench, node: String) {
        self.options = options
        self.node = node
    }

    func run() throws {
        let peer = try startPeer()
        defer { peer.process.kill() }
        var start = BrokerOptions(apus: node, mosquitto: "")
        start.lanes = options.lanes
        let broker = try Broker.start(.apusws, start)
        defer { broker.stop() }
        let servers = [peer, Server(name: "apus", port: broker.port, process: broker.process)]
        for plan in HTTPPlan.all {
            do {
                let script = try Scratch.write(plan.script, name: plan.name + ".lua")
                for server in servers { try prepare(plan, server) }
                let subscriber = plan.hasSubscriber ? try HTTPSubscriber(broker, plan.topic) : nil
                for server in servers { _ = try drive(plan, server, script, 1, subscriber) }
                for round in 0..<options.rounds {
                    for server in round % 2 == 0 ? servers : servers.reversed() {
                        try measure(plan, server, script, round, subscriber)
                    }
                }
            } catch {
                report.fail(plan.name, "nginx and apus", "\(error)\(broker.lastWords())")
            }
        }
    }

    /// nginx with one process, which answers from its configuration.
    private func startPeer() throws -> Server {
        let port = try Socket.freePort()
        let prefix = Scratch.path("nginx")
        let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map { "\($0)_temp_path \(prefix)-\($0);" }.joined(separator: " ")
        // A master would be a second process that leaves its worker behind when it is killed.
        let configuration = """
            daemon off; master_process off; worker_processes 1;
            pid \(prefix).pid; error_log \(prefix).log;
            events { worker_connections 1024; }
            http {
                access_log off; \(places)
                keepalive_requests 1000000000; keepalive_timeout 3600s;
                server {
                    listen 127.0.0.1:\(port);
                    default_type text/plain;
                    location / {
                        if ($request_method = GET) { return 200 "\(HTTPPlan.body)"; }
                        return 204;
                    }
                }
            }

            """
        let file = try Scratch.write(configuration, name: "nginx.conf")
        let child = try Child.spawn([options.nginx, "-p", Scratch.path(""), "-c", file])
        try Broker.awaitPort(port, child)
        return Server(name: "nginx", port: port, process: child)
    }

    /// Sees that a server answers as it should; the node is given what it shall be asked for.
    private func prepare(_ plan: HTTPPlan, _ server: Server) throws {
        let isNode = server.name == "apus"
        if isNode, plan.method == "GET" {
            let post = HTTPPlan(name: plan.name, method: "POST", peerStatus: 204, nodeStatus: 202)
            try ask(server, post.request("Apus-Retain: true\r\n"), due: 202, body: nil)
        }
        let status = isNode ? plan.nodeStatus : plan.peerStatus
        try ask(server, plan.request(), due: status, body: plan.method == "GET" ? HTTPPlan.body : nil)
    }

    private func ask(_ server: Server, _ request: [UInt8], due status: Int, body: String?) throws {
        let fd = try Socket.connect(port: server.port)
        defer { close(fd) }
        try Handshake.sendAll(fd, request)
        let head = try Handshake.head(fd)
        guard head.hasPrefix("HTTP/1.1 \(status) ") else {
            throw Failure("\(server.name) should answer \(status): \(head)")
        }
        guard let body else { return }
        let got = try Handshake.bytes(fd, body.utf8.count)
        guard got == Array(body.utf8) else { throw Failure("\(server.name): a wrong body, \(got)") }
    }
}

/// Measured windows.
extension HTTPCampaign {
    private func measure(
        _ plan: HTTPPlan, _ server: Server, _ script: String, _ round: Int, _ subscriber: HTTPSubscriber?
    ) throws {
        let before = server.process.processorTime()
        let result = try drive(plan, server, script, options.seconds, subscriber)
        let cost = Double(server.process.processorTime() - before) / 1e3 / Double(result.requests)
        report.add(plan.name, server.name, Self.cpu, "us", round: round, cost)
        report.add(plan.name, server.name, Table.rateMetric, "/s", round: round, result.rate)
        progress(
            "\(plan.name) round \(round + 1)/\(options.rounds) \(server.name): \(Text.number(cost)) us/request, "
                + "\(Text.fixed(result.rate, 0)) requests/s")
    }

    /// Lets wrk ask for a while and looks at what it says.
    private func drive(
        _ plan: HTTPPlan, _ server: Server, _ script: String, _ seconds: Int, _ subscriber: HTTPSubscriber?
    ) throws -> WrkResult {
        let before = subscriber?.received ?? 0
        let child = try Child.spawn([
            options.wrk, "-t", "1", "-c", "\(Self.connections)", "-d", "\(seconds)s", "--timeout", "10s", "-s", script,
            "http://127.0.0.1:\(server.port)\(plan.path)",
        ])
        let patience = now() + UInt64(seconds + 30) * 1_000_000_000
        while child.isRunning {
            guard now() < patience else { throw Failure("wrk does not end:\n\(child.output())") }
            if let subscriber { try subscriber.read(milliseconds: 5) } else { pause(milliseconds: 5) }
        }
        let result = try WrkResult(child.output())
        guard let subscriber, server.name == "apus" else { return result }
        // Those that were under way when wrk ended may have been published, too.
        for _ in 0..<20 { try subscriber.read(milliseconds: 5) }
        let events = subscriber.received - before
        guard events >= result.requests, events <= result.requests + Self.connections else {
            throw Failure("\(result.requests) requests were accepted and \(events) events delivered")
        }
        return result
    }

    private static let cpu = "cpu_per_request"

    /// The figures side by side; each ratio is of two windows that followed one another.
    func table() -> [String] {
        var rows = [["request", "nginx", "apus", "nginx /s", "apus /s", "apus/nginx", "(must)", "verdict"]]
        for plan in HTTPPlan.all {
            let peer = report.values(plan.name, "nginx", Self.cpu)
            let ours = report.values(plan.name, "apus", Self.cpu)
            guard !ours.isEmpty, ours.count == peer.count else { continue }
            let ratio = zip(ours, peer).map { $0 / $1 }
            let rate = ["nginx", "apus"].map { report.median(plan.name, $0, Table.rateMetric) ?? 0 }
            rows.append([
                plan.name, Text.spread(peer), Text.spread(ours), Text.fixed(rate[0], 0), Text.fixed(rate[1], 0),
                Text.spread(ratio), "<= \(Text.fixed(Self.must, 1))",
                Report.median(sorted: ratio.sorted()) <= Self.must ? "ok" : "MISSES",
            ])
        }
        guard rows.count > 1 else { return [] }
        return [
            "CPU us per request: median (min..max) of \(options.rounds) interleaved rounds; the ratio is that of pairs"
        ]
            + Text.columns(rows)
    }
}

/// What wrk says at its end.
struct WrkResult {
    let requests: Int
    /// A second.
    let rate: Double

    /// Any answer that is none of success, and any error of a socket, is a failure.
    init(_ text: String) throws {
        var requests: Int?
        var rate: Double?
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ")
            if line.contains("Non-2xx") || line.contains("Socket errors") { throw Failure("wrk: \(line)") }
            if words.count > 2, words[1] == "requests" { requests = Int(words[0]) }
            if words.count == 2, words[0] == "Requests/sec:" { rate = Double(words[1]) }
        }
        guard let requests, requests > 0, let rate else { throw Failure("wrk measured nothing:\n\(text)") }
        self.requests = requests
        self.rate = rate
    }
}

/// Takes what is published over HTTP, by MQTT over TCP.
final class HTTPSubscriber {
    private let fd: Int32
    /// The event that comes again and again.
    private let due: [UInt8]
    private(set) var received = 0
    private var offset = 0
    private var buffer = [UInt8](repeating: 0, count: 1 << 18)

    init(_ broker: Broker, _ topic: String) throws {
        let frames = Frames(.v3)
        due = frames.publish(topic, payload: Array(HTTPPlan.body.utf8))
        fd = try Socket.connect(port: broker.plainPort)
        try Handshake.sendAll(fd, frames.connect(client: "http-sub"))
        _ = try Welcome(try Handshake.packet(fd), .v3)
        try Handshake.subscribe(fd, [topic], qos: 0, frames)
    }

    deinit { close(fd) }

    /// Waits for events so long, and takes what has come.
    func read(milliseconds: Int32) throws {
        var entry = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
        guard Glibc.poll(&entry, 1, milliseconds) > 0 else { return }
        let got = recv(fd, &buffer, buffer.count, 0)
        guard got > 0 else { throw Failure("the subscriber was cut") }
        var at = 0
        while at < got {
            let part = min(due.count - offset, got - at)
            let isDue = buffer.withUnsafeBytes { read in
                due.withUnsafeBytes { read[at..<at + part].elementsEqual($0[offset..<offset + part]) }
            }
            guard isDue else {
                throw Failure("the subscriber got something else than the event")
            }
            at += part
            offset += part
            if offset == due.count { (received, offset) = (received + 1, 0) }
        }
    }
}
