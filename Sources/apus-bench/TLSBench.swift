internal import ArgumentParser
internal import COpenSSL
internal import Glibc

/// The node's TLS beside libssl alone.
struct TLSBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tls",
        abstract: "Measures events over TLS beside a bare relay, and handshakes beside openssl s_server.",
        discussion: """
            Events (d1k, a64): CPU of the node over TLS 1.3 beside a relay that decrypts and encrypts and does nothing \
            else, in interleaved rounds. Handshakes: one after the other by one client, CPU of the server for each; \
            with keys P-256 and RSA of 2,048 bits, full and resumed. Idle: memory of a connection that does nothing.
            """)

    @Option(help: "Interleaved rounds.")
    var rounds = 9

    @Option(help: "Handshakes in one measured window.")
    var handshakes = 1_000

    @Option(help: "Idle connections.")
    var idle = 2_000

    @Flag(help: "Three short rounds.")
    var quick = false

    @Option(help: "The node's executable; default: apus beside this one.")
    var apus: String?

    func validate() throws {
        guard rounds > 0, handshakes >= 10, idle >= 10 else {
            throw ValidationError("--rounds, --handshakes and --idle must be positive, and not too few")
        }
    }

    mutating func run() throws {
        Child.killAllAtExit()
        raiseDescriptorLimit()
        let node = Child.node(apus)
        guard access(node, X_OK) == 0 else { throw ValidationError("no executable \(node): build the node") }
        let rounds = quick ? 3 : rounds
        let start = BrokerOptions(apus: node, mosquitto: "")
        let campaign = Campaign(
            CampaignOptions(
                scenarios: ["d1k", "a64"], brokers: [.relaytls, .apustls, .apus], pairs: rounds,
                seconds: quick ? 0.25 : 0.5, start: start, quick: quick))
        campaign.run()
        let table = Table(report: campaign.report, scenarios: campaign.options.scenarios, rounds: rounds)
        for line in table.secure() { say(line) }
        say("")
        say("Handshakes: CPU us of the server for each, median of \(rounds) interleaved rounds")
        for line in try handshakeTable(start, rounds) { say(line) }
        say("")
        say(try idleLine(start))
        try campaign.report.conclude(settings: campaign.options.settings, json: nil)
    }

    // MARK: Handshakes

    /// Somebody who shakes hands.
    private struct Server {
        let name: String
        let process: Child
        let port: UInt16
        /// What a client says first, so that the server's tickets are read with the answer.
        let question: [UInt8]
    }

    private func handshakeTable(_ start: BrokerOptions, _ rounds: Int) throws -> [String] {
        var rows = [["key", "version", "", "s_server", "apus", "s_server/apus", "(must)"]]
        let count = quick ? max(10, handshakes / 5) : handshakes
        for key in ["rsa", "ec"] {
            var start = start
            start.certificate = key
            let broker = try Broker.start(.apustls, start)
            defer { broker.stop() }
            let theirs = try openssl(key)
            defer { theirs.process.kill() }
            let own = Server(
                name: "apus", process: broker.process, port: broker.tlsPort,
                question: Frames(.v3, overWebSocket: false).connect(client: "handshake"))
            for (version, name) in [(TLS1_3_VERSION, "1.3"), (TLS1_2_VERSION, "1.2")] {
                var full: (Double, Double)?
                for resumed in [false, true] {
                    var costs: [[Double]] = [[], []]
                    for round in 0..<rounds {
                        for place in round % 2 == 0 ? [0, 1] : [1, 0] {
                            costs[place].append(
                                try cost([theirs, own][place], count, version: Int32(version), resumed: resumed))
                        }
                    }
                    let (a, b) = (Report.median(sorted: costs[0].sorted()), Report.median(sorted: costs[1].sorted()))
                    let must = resumed ? "<= 1/4 of full: \(Text.fixed((full?.1 ?? 0) / b, 1))x" : ">= 0.90"
                    rows.append([
                        key, name, resumed ? "resumed" : "full", Text.fixed(a, 0), Text.fixed(b, 0),
                        Text.fixed(a / b, 2), must,
                    ])
                    if !resumed { full = (a, b) }
                }
            }
        }
        return Text.columns(rows)
    }

    private func openssl(_ key: String) throws -> Server {
        let (certificate, secret) = try Broker.certificate(key)
        let port = try Socket.freePort()
        let child = try Child.spawn([
            "openssl", "s_server", "-accept", "127.0.0.1:\(port)", "-cert", certificate, "-key", secret, "-rev",
            "-quiet",
        ])
        try Broker.awaitPort(port, child)
        return Server(name: "s_server", process: child, port: port, question: Array("handshake\n".utf8))
    }

    /// CPU of the server for one handshake with a question and its answer, in microseconds.
    private func cost(_ server: Server, _ count: Int, version: Int32, resumed: Bool) throws -> Double {
        let context = try TLSStream.Context()
        context.set(maximum: version)
        var session: OpaquePointer?
        defer { if let session { SSL_SESSION_free(session) } }
        if resumed { session = try shake(server, context, nil).session }
        let before = server.process.processorTime()
        for _ in 0..<count {
            let (wasResumed, next) = try shake(server, context, session)
            guard wasResumed == resumed else {
                throw Failure("\(server.name): a handshake was \(wasResumed ? "" : "not ")resumed")
            }
            if resumed {
                // Tickets of TLS 1.3 are for one use.
                if let session { SSL_SESSION_free(session) }
                session = next
            } else if let next {
                SSL_SESSION_free(next)
            }
        }
        return Double(server.process.processorTime() - before) / 1_000 / Double(count)
    }

    private func shake(
        _ server: Server, _ context: TLSStream.Context, _ session: OpaquePointer?
    ) throws -> (wasResumed: Bool, session: OpaquePointer?) {
        let fd = try Socket.connect(port: server.port)
        defer { close(fd) }
        let stream = try TLSStream(fd, context, isServer: false, resuming: session)
        server.question.withUnsafeBufferPointer { if let base = $0.baseAddress { stream.write(base, $0.count) } }
        var buffer = [UInt8](repeating: 0, count: 256)
        var waiting = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
        while true {
            let count = buffer.withUnsafeMutableBufferPointer { all in
                all.baseAddress.map { stream.read($0, all.count) } ?? nil
            }
            guard let count else { throw Failure("\(server.name) ended the connection") }
            if count > 0 { break }
            guard poll(&waiting, 1, 10_000) > 0 else { throw Failure("\(server.name) does not answer") }
        }
        let wasResumed = SSL_session_reused(stream.ssl) == 1
        let session = SSL_get1_session(stream.ssl)
        SSL_shutdown(stream.ssl)
        return (wasResumed, session)
    }

    // MARK: Memory

    private func idleLine(_ start: BrokerOptions) throws -> String {
        let broker = try Broker.start(.apustls, start)
        defer { broker.stop() }
        pause(milliseconds: 200)
        let own = Server(name: "apus", process: broker.process, port: broker.tlsPort, question: [])
        let context = try TLSStream.Context()
        let frames = Frames(.v3, overWebSocket: false)
        // The first ones make what all share.
        var streams: [TLSStream] = []
        func open(_ number: Int) throws {
            let stream = try TLSStream(try Socket.connect(port: own.port), context, isServer: false)
            frames.connect(client: "idle-\(number)").withUnsafeBufferPointer {
                if let base = $0.baseAddress { stream.write(base, $0.count) }
            }
            streams.append(stream)
        }
        for number in 0..<50 { try open(number) }
        pause(milliseconds: 300)
        let before = broker.memory("Rss")
        for number in 0..<idle { try open(50 + number) }
        pause(milliseconds: 1_000)
        let each = Double(broker.memory("Rss") - before) / Double(idle)
        for stream in streams { close(stream.fd) }
        return "Idle: \(Text.fixed(each, 1)) KB a connection (\(idle) of them; must 24)"
    }
}
