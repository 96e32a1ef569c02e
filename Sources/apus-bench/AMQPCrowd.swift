internal import CLinux
internal import CProton
internal import Glibc

/// Thousands of AMQP connections that do nothing.
final class AMQPCrowd {
    private var descriptors: [Int32] = []
    /// Connections from one source address.
    private static let perAddress = 9_000

    /// Opens them one after another. Their engines are given up as soon as the broker has answered.
    /// - Parameter firstSource: see ``Crowd/init(_:count:firstSource:)``.
    init(port: UInt16, count: Int, hasLink: Bool, firstSource: UInt32) throws {
        for index in 0..<count {
            let source = firstSource + UInt32(index / Self.perAddress)
            let client = try AMQPClient(port: port, container: "crowd-\(index)", source: source)
            if hasLink {
                let address = "crowd/\(index)/cmd"
                let link = try client.proton.attach(.receiver, address, name: "cmd", isSettled: true)
                pn_link_flow(link, 10)
                try client.awaitAttach(link, "receiver from \(address)")
            } else {
                pn_connection_open(client.proton.connection)
                var isOpen = false
                try client.establish(
                    "open", { if pn_event_type($0) == PN_CONNECTION_REMOTE_OPEN { isOpen = true } }, until: { isOpen })
            }
            descriptors.append(client.keepSocket())
        }
    }

    deinit {
        for fd in descriptors { close(fd) }
    }

    /// Nobody may have been sent away.
    func check() throws {
        for (index, fd) in descriptors.enumerated() {
            var bytes = [UInt8](repeating: 0, count: 4_096)
            var got = 0
            repeat { got = recv(fd, &bytes, bytes.count, 0) } while got > 0
            guard got < 0, errno == EAGAIN else { throw Failure("idle connection \(index) was closed") }
        }
    }
}

/// The servers' engines of connections that do nothing, without sockets and without a node.
final class AMQPEngineCrowd {
    private var servers: [AMQPConnection] = []

    /// Opens so many more. The clients' engines are given up as soon as they have been answered.
    func open(_ count: Int, hasLink: Bool) throws {
        for index in 0..<count {
            let client = try AMQPConnection(container: "crowd-\(index)", .plainClient)
            let server = try AMQPConnection(container: "server", .server)
            if hasLink {
                let link = try client.attach(.receiver, "crowd/\(index)/cmd", name: "cmd", isSettled: true)
                pn_link_flow(link, 10)
            } else {
                pn_connection_open(client.connection)
            }
            for _ in 0..<4 {
                while client.next() != nil {}
                try pass(client, server)
                while let event = server.next() { _ = try AMQPConnection.welcome(event, credit: 0) }
                try pass(server, client)
            }
            let state =
                hasLink ? pn_link_state(pn_link_head(client.connection, 0)) : pn_connection_state(client.connection)
            guard state == PN_LOCAL_ACTIVE | PN_REMOTE_ACTIVE else { throw Failure("engines do not come together") }
            servers.append(server)
        }
    }

    private func pass(_ from: AMQPConnection, _ to: AMQPConnection) throws {
        while case let output = from.output(), output.size > 0 {
            try to.take(UnsafeRawBufferPointer(start: output.start, count: output.size))
            from.sent(output.size)
        }
    }
}

/// Memory of AMQP connections and links: questions to the node alone.
extension AMQPCampaign {
    /// Bytes of a connection that does nothing, with a link and without; each kind in a node of its own.
    func idle() throws {
        let count = options.quick ? 1_000 : 10_000
        for hasLink in [false, true] {
            let broker = try start()
            defer { broker.stop() }
            pause(milliseconds: 200)
            let before = (rss: broker.memory("Rss"), anonymous: broker.memory("Anonymous"))
            let begin = now()
            let crowd = try AMQPCrowd(port: broker.amqpPort, count: count, hasLink: hasLink, firstSource: 2)
            let each = Double(now() - begin) / 1e3 / Double(count)
            pause(milliseconds: 500)
            try crowd.check()
            let what = hasLink ? "connection with a link" : "connection"
            let bytes = 1_024 / Double(count)
            figure("idle", "rss/\(what)", "bytes", Double(broker.memory("Rss") - before.rss) * bytes)
            figure("idle", "anonymous/\(what)", "bytes", Double(broker.memory("Anonymous") - before.anonymous) * bytes)
            figure("idle", "opening a \(what)", "us each", each)
            let engines = AMQPEngineCrowd()
            let empty = apus_heap_bytes()
            try engines.open(1_000, hasLink: hasLink)
            let heap = Double(apus_heap_bytes()) - Double(empty)
            figure("idle", "heap/\(what), engine alone", "bytes", heap / 1_000)
        }
    }

    /// Links that come and go on one connection: what stays behind.
    func links() throws {
        let count = options.quick ? 10_000 : 100_000
        let broker = try start()
        defer { broker.stop() }
        pause(milliseconds: 200)
        figure("links", "rss before", "KB", Double(broker.memory("Rss")))
        let churn = try LinkChurn(port: broker.amqpPort)
        var after: [Double] = []
        for round in 1...2 {
            let before = broker.processorTime()
            try churn.run(count: count)
            let each = Double(broker.processorTime() - before) / 1e3 / Double(count)
            figure("links", "CPU/attach and detach, round \(round)", "us", each)
            // What is tidied is tidied once a second.
            pause(milliseconds: 1_500)
            after.append(Double(broker.memory("Rss")))
            figure(
                "links", "rss after \(count) links, round \(round)", "KB", after[round - 1],
                must: round == 2 ? after[0] * 1.05 + 2_048 : nil)
        }
    }
}

/// Attaches and detaches, many links at a time, senders and receivers in turn, none with the name of an earlier one.
final class LinkChurn {
    private let client: AMQPClient
    private let session: OpaquePointer
    private var attached = 0
    private var detached = 0
    /// Links at a time.
    private static let alive = 64

    init(port: UInt16) throws {
        client = try AMQPClient(port: port, container: "links")
        pn_connection_open(client.proton.connection)
        guard let session = pn_session(client.proton.connection) else { throw Failure("Proton gives no session") }
        self.session = session
        pn_session_open(session)
    }

    func run(count: Int) throws {
        let goal = attached + count
        while detached < goal {
            let target = min(goal, detached + Self.alive)
            while attached < target {
                let direction = attached % 2 == 0 ? AMQPLink.receiver : .sender
                let link = try AMQPConnection.attach(
                    direction, "links/\(attached % 1_000)", name: "link-\(attached)", isSettled: true, on: session)
                if direction == .receiver { pn_link_flow(link, 10) }
                attached += 1
            }
            try client.establish("links", { take($0) }, until: { detached == target })
        }
        try client.tick()
    }

    /// Closes what the broker has attached; its own detach is the answer.
    private func take(_ event: OpaquePointer) {
        switch pn_event_type(event) {
        case PN_LINK_REMOTE_OPEN: pn_link_close(pn_event_link(event))
        case PN_LINK_REMOTE_CLOSE:
            pn_link_free(pn_event_link(event))
            detached += 1
        default: return
        }
    }
}
