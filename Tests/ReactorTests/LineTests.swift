import Core
import Glibc
import Testing

@testable import Reactor

extension Sockets {
    @Suite("The line adapter over real sockets")
    struct LineTests {
        private static let hasIPv6: Bool = {
            let probe = try? Listener(SocketAddress("[::1]:0"), adapter: nobody)
            probe?.close()
            return probe != nil
        }()

        /// For listeners that nobody accepts on.
        private static let nobody = LineAdapter(router: Router(limits: Limits(), hashKey: 1))

        private func exchange(_ address: String) throws {
            let stage = try Stage(address)
            let (subscriber, publisher) = (try Client(stage), try Client(stage))
            try subscriber.subscribe("a/+")
            try publisher.send("PUB a/b hello world\nPUB b no\nPUB a/c \n")
            #expect(try subscriber.lines(2) == ["EVT a/b hello world", "EVT a/c "])
            try subscriber.send("QUIT\n")
            #expect(try subscriber.line() == nil)
            #expect(eventually { stage.closed(.clientDisconnected) == 1 })
            #expect(stage.router.subscriptionCount == 0)
        }

        @Test("TCP over IPv4") func ipv4() throws { try exchange("127.0.0.1:0") }
        @Test("TCP over IPv6", .enabled(if: hasIPv6)) func ipv6() throws { try exchange("[::1]:0") }

        @Test("A Unix socket, in place of a stale file, removed at the end")
        func unix() throws {
            let path = "/tmp/apus-test-\(getpid()).sock"
            for _ in 0..<2 {
                try exchange("unix:\(path)")
                #expect(access(path, F_OK) != 0)
                // What a killed node leaves behind.
                let left = try Listener(SocketAddress("unix:\(path)"), adapter: Self.nobody)
                Glibc.close(left.socket)
                #expect(access(path, F_OK) == 0)
            }
            unlink(path)
        }

        @Test("Bytes one by one")
        func drip() throws {
            let stage = try Stage()
            let client = try Client(stage)
            for byte in "SUB a/b\nPUB a/b x y\nPUB c z\nPUB a/b 2\n".utf8 {
                try client.send([byte])
                usleep(200)
            }
            #expect(try client.lines(3) == ["OK", "EVT a/b x y", "EVT a/b 2"])
        }

        @Test("A client that has finished writing is still told what it is due")
        func halfClose() throws {
            let stage = try Stage()
            let client = try Client(stage)
            try client.send("SUB a\n" + String(repeating: "PUB a x\n", count: 5_000))
            client.finishWriting()
            #expect(try client.lines(5_001) == ["OK"] + Array(repeating: "EVT a x", count: 5_000))
            #expect(try client.line() == nil)
            #expect(eventually { stage.closed(.connectionLost) == 1 })
        }

        @Test("A client subscribed to its own topic, more events than a turn holds")
        func selfSubscriber() throws {
            let stage = try Stage()
            let client = try Client(stage)
            try client.subscribe("me")
            try client.send((0..<5_000).map { "PUB me \($0)\n" }.joined())
            #expect(try client.lines(5_000) == (0..<5_000).map { "EVT me \($0)" })
        }

        @Test("Nonsense closes the connection, not the others")
        func nonsense() throws {
            let stage = try Stage()
            let (good, bad) = (try Client(stage), try Client(stage))
            try good.subscribe("a")
            try bad.send("PUB a 1\nHELLO\nPUB a 2\n")
            #expect(try bad.line() == nil)
            try good.send("SUB a/#/b\nPUB a 3\n")
            #expect(try good.lines(3) == ["EVT a 1", "NO", "EVT a 3"])
            #expect(stage.closed(.malformedPacket) == 1)
        }

        @Test("A packet beyond the limit closes its connection")
        func tooLarge() throws {
            var limits = Limits()
            limits.maxPacketBytes = 100_000
            let stage = try Stage(limits: limits)
            let client = try Client(stage)
            _ = try? client.send([UInt8](repeating: UInt8(ascii: "x"), count: 500_000))
            #expect(try client.line() == nil)
            #expect(eventually { stage.closed(.packetTooLarge) == 1 })
        }

        @Test("Large blocks arrive whole", arguments: [16_383, 16_384, 65_535, 65_536, 300_000, 3_000_000])
        func large(_ size: Int) throws {
            let stage = try Stage(lanes: 2)
            let (near, far) = (try Client(stage), try Client(stage))
            for client in [near, far] { try client.subscribe("big") }
            let payload = String((0..<size).map { Character(UnicodeScalar(UInt8(97 + $0 % 23))) })
            try near.send("PUB big \(payload)\n")
            for client in [near, far] { #expect(try client.line() == "EVT big \(payload)") }
        }

        @Test("Order is kept between lanes")
        func order() throws {
            let stage = try Stage(lanes: 2)
            let (publisher, subscriber) = (try Client(stage), try Client(stage))
            try subscriber.subscribe("t/#")
            for batch in 0..<20 {
                let numbers = (batch * 1_000)..<(batch + 1) * 1_000
                try publisher.send(numbers.map { "PUB t/\($0 % 7) \($0)\n" }.joined())
                #expect(try subscriber.lines(1_000) == numbers.map { "EVT t/\($0 % 7) \($0)" })
            }
        }

        @Test("Beyond the connection limit a client is closed at once")
        func connectionLimit() throws {
            var limits = Limits()
            limits.maxConnections = 2
            let stage = try Stage(limits: limits)
            let first = try Client(stage)
            try first.subscribe("a")
            do {
                let second = try Client(stage)
                try second.subscribe("a")
                #expect(try Client(stage).line() == nil)
            }
            #expect(eventually { stage.reactor.lanes.connectionCount == 1 })
            try Client(stage).subscribe("a")
            #expect(stage.closed(.overLimit) == 1)
        }

        @Test("Stopping ends every connection and the threads")
        func stop() throws {
            let stage = try Stage(lanes: 2)
            let clients = try (0..<10).map { _ in try Client(stage) }
            for client in clients { try client.subscribe("a") }
            stage.reactor.stop(drainMilliseconds: 1_000)
            for client in clients { #expect(try client.line() == nil) }
            #expect(throws: Client.Failure.self) { try Client(stage) }
            #expect(stage.reactor.lanes.connectionCount == 0)
        }
    }
}
