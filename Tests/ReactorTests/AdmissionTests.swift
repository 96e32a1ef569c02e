import Core
import Glibc
import Synchronization
import Testing

@testable import Reactor

/// Writes records down.
private final class Clerk: AuditSink {
    private let kept = Mutex<[AuditRecord]>([])

    func record(_ record: AuditRecord) { kept.withLock { $0.append(record) } }
    var records: [AuditRecord] { kept.withLock { $0 } }
}

/// Says where it comes from; everything else is the line protocol's.
private final class PlaceAdapter: Adapter {
    let name = "place"
    func makeConversation(link: Link, on lane: Lane) -> Conversation { PlaceConversation(link) }
}

private final class PlaceConversation: Conversation {
    private unowned let link: Link

    init(_ link: Link) { self.link = link }

    override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
        let text = String(decoding: bytes, as: UTF8.self).dropLast()
        let line = Array("\(link.peer) \(link.address?.description ?? "-") \(link.isLocal) \(text)\n".utf8)
        line.withUnsafeBytes { if let base = $0.baseAddress { link.append(base, $0.count) } }
        return Progress(consumed: bytes.count, verdict: .waiting)
    }
}

extension Sockets {
    @Suite("Who may come in")
    struct AdmissionTests {
        private func play(
            _ admission: Admission, lanes: Int = 1, limits: Limits = Limits()
        ) throws -> Stage {
            try Stage(lanes: lanes, limits: limits, admission: admission) { _ in PlaceAdapter() }
        }

        private func ask(_ client: Client) throws -> String? {
            try client.send("hello\n")
            return try client.line()
        }

        /// Whether the node has closed the connection without a word.
        private func isTurnedAway(_ client: Client) -> Bool {
            // That it was may be noticed by what is sent already.
            _ = try? client.send("hello\n")
            return hasEnded(client)
        }

        private func hasEnded(_ client: Client) -> Bool {
            do { return try client.line() == nil } catch { return false }
        }

        // MARK: Limits

        @Test("A listener has so many connections, and a place is free again when one ends", arguments: [1, 2])
        func connections(lanes: Int) throws {
            let clerk = Clerk()
            let stage = try play(Admission(listener: "l", maxConnections: 3, audit: clerk), lanes: lanes)
            var clients = try (0..<3).map { _ in try Client(stage) }
            for client in clients { #expect(try ask(client)?.hasSuffix("true hello") == true) }
            #expect(isTurnedAway(try Client(stage)))
            #expect(stage.closed(.overQuota) == 1)
            clients.removeLast()
            #expect(eventually { stage.reactor.lanes.connectionCount == 2 })
            // The count goes with the connection, a moment later on another lane.
            #expect(eventually { (try? Client(stage)).map { !isTurnedAway($0) } ?? false })
            #expect(clerk.records.first?.kind == .quota)
            #expect(clerk.records.first?.object == "max_connections")
            #expect(stage.reactor.counters().refused[QuotaResource.connections.rawValue] >= 1)
        }

        @Test("A listener accepts so many in a second, with a burst")
        func rate() throws {
            let stage = try play(Admission(connectionRate: 1))
            let clients = try (0..<15).map { _ in try Client(stage) }
            let count = clients.filter { !isTurnedAway($0) }.count
            #expect((10...11).contains(count), "\(count)")
            usleep(1_100_000)
            #expect(!isTurnedAway(try Client(stage)))
        }

        @Test("Each address has its own places")
        func addresses() throws {
            let range = try #require(AddressRange("127.0.0.0/8"))
            let quotas = Quotas([QuotaRule(addresses: [range], limits: [.connections: 1])])
            let stage = try play(Admission(quotas: quotas))
            let first = try Client(stage)
            #expect(try ask(first) != nil)
            #expect(isTurnedAway(try Client(stage)))
            let other = try Client(stage, from: "127.0.0.2:0")
            #expect(try ask(other)?.hasPrefix("127.0.0.2:") == true)
            #expect(quotas.rowCount == 2)
        }

        // MARK: The PROXY protocol

        private static let line = ProxyHeaders.line("PROXY TCP4 192.0.2.1 192.0.2.2 56324 443")

        @Test("A connection is where its balancer says")
        func told() throws {
            let stage = try play(Admission(balancer: .init()))
            let cases: [([UInt8], String)] = [
                (Self.line, "192.0.2.1:56324 192.0.2.1 false hello"),
                (ProxyHeaders.block(1, 0x11, ProxyHeaders.four), "192.0.2.1:56324 192.0.2.1 false hello"),
                (ProxyHeaders.block(1, 0x21, ProxyHeaders.six), "[2001:db8::1]:1 2001:db8::1 false hello"),
            ]
            for (header, answer) in cases {
                let client = try Client(stage)
                try client.send(header)
                #expect(try ask(client) == answer)
                // And in one piece with what follows, and in very many.
                let other = try Client(stage)
                try other.send(header + Array("hello\n".utf8))
                #expect(try other.line() == answer)
                let slow = try Client(stage)
                for byte in header {
                    try slow.send([byte])
                    usleep(500)
                }
                #expect(try ask(slow) == answer)
            }
            let unknown = try Client(stage)
            try unknown.send(ProxyHeaders.line("PROXY UNKNOWN"))
            let said = try ask(unknown)
            #expect(said?.hasPrefix("127.0.0.1:") == true && said?.hasSuffix("127.0.0.1 false hello") == true)
            let balancer = try Client(stage)
            try balancer.send(ProxyHeaders.block(0, 0, []))
            #expect(try ask(balancer)?.hasSuffix("127.0.0.1 true hello") == true)
            #expect(stage.reactor.counters().accepted == 11)
        }

        @Test("A loopback address that a balancer tells of is not this machine")
        func toldLoopback() throws {
            let stage = try play(Admission(balancer: .init()))
            let client = try Client(stage)
            try client.send(ProxyHeaders.line("PROXY TCP4 127.0.0.1 192.0.2.2 1 2"))
            #expect(try ask(client) == "127.0.0.1:1 127.0.0.1 false hello")
        }

        @Test("Without a header, with a wrong one or half of one nobody comes in")
        func withoutHeader() throws {
            let clerk = Clerk()
            var limits = Limits()
            limits.connectTimeoutSeconds = 1
            let stage = try play(
                Admission(listener: "l", balancer: .init(), audit: clerk), limits: limits)
            for bytes in [Array("hello\n".utf8), ProxyHeaders.summed(isRight: false), [0x16, 3, 1, 2]] {
                let client = try Client(stage)
                try client.send(bytes)
                #expect(hasEnded(client))
            }
            #expect(stage.closed(.malformedPacket) == 3)
            let silent = try Client(stage)
            let half = try Client(stage)
            try half.send(Array(Self.line.dropLast()))
            #expect(try silent.line() == nil)
            #expect(try half.line() == nil)
            #expect(stage.closed(.connectTimeout) == 2)
            let gone = try Client(stage)
            try gone.send([0x50])
            gone.finishWriting()
            #expect(try gone.line() == nil)
            #expect(stage.closed(.connectionLost) == 1)
            #expect(stage.reactor.counters().accepted == 0)
            #expect(clerk.records.first?.kind == .connection)
            #expect(clerk.records.first?.reason == "expected a PROXY protocol header")
            #expect(clerk.records.count == 5)
        }

        @Test("Only a balancer may say where a connection comes from, where there is a list of them")
        func balancers() throws {
            let range = try #require(AddressRange("127.0.0.2"))
            let clerk = Clerk()
            let stage = try play(Admission(balancer: .init(addresses: [range]), audit: clerk))
            let wrong = try Client(stage)
            #expect(hasEnded(wrong))
            #expect(stage.closed(.notAuthenticated) == 1)
            #expect(clerk.records.count == 1)
            let right = try Client(stage, from: "127.0.0.2:0")
            try right.send(Self.line)
            #expect(try ask(right) == "192.0.2.1:56324 192.0.2.1 false hello")
        }

        @Test("Limits of addresses are those of the address that was told")
        func toldLimits() throws {
            let range = try #require(AddressRange("0.0.0.0/0"))
            let quotas = Quotas([QuotaRule(addresses: [range], limits: [.connections: 1])])
            let stage = try play(
                Admission(listener: "l", maxConnections: 3, quotas: quotas, balancer: .init()))
            func client(_ address: String) throws -> Client {
                let client = try Client(stage)
                try client.send(ProxyHeaders.line("PROXY TCP4 \(address) 192.0.2.9 1 2"))
                return client
            }
            let one = try client("192.0.2.1")
            #expect(try ask(one) != nil)
            #expect(isTurnedAway(try client("192.0.2.1")))
            let two = try client("192.0.2.2")
            #expect(try ask(two) != nil)
            // Whoever waits to say where it comes from has a place at the listener already.
            let silent = try Client(stage)
            #expect(isTurnedAway(try client("192.0.2.3")))
            withExtendedLifetime((one, two, silent)) {}
        }

        @Test("A flood of connections that never say a word leaves nothing behind")
        func silentFlood() throws {
            var limits = Limits()
            limits.connectTimeoutSeconds = 1
            limits.maxConnections = 100
            let stage = try play(Admission(balancer: .init()), limits: limits)
            let clients = try (0..<150).map { _ in try Client(stage) }
            #expect(eventually { stage.closed(.overLimit) == 50 })
            #expect(eventually { stage.closed(.connectTimeout) == 100 })
            let late = try Client(stage)
            try late.send(Self.line)
            #expect(try ask(late) != nil)
            withExtendedLifetime(clients) {}
        }

        @Test("A node stops although somebody has not said where it comes from")
        func stopping() throws {
            let stage = try play(Admission(balancer: .init()))
            let client = try Client(stage)
            usleep(50_000)
            stage.reactor.stop(drainMilliseconds: 1_000)
            #expect(hasEnded(client))
        }
    }
}
