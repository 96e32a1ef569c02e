import Core
import Foundation
import Glibc
import Logging
import MQTT
import RawHTTP
import Reactor
import Synchronization
import Testing
import TestSupport

@testable import Web

/// Streams over real sockets, fed by a publisher of another protocol.
@Suite("Streams over sockets")
struct StreamReactorTests {
    private final class Stage {
        let reactor: Reactor
        let router: Router
        let site: StreamSite
        private let web: String
        private let mqtt: String

        init(lanes: Int, limits: Limits = Limits()) throws {
            let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
            reactor = try Reactor(lanes: lanes, limits: limits, logger: logger)
            router = Router(limits: limits, hashKey: 0x1234_5678_9ABC_DEF0)
            site = StreamSite(router)
            let adapter = HTTPAdapter(site: site) { Int(Date().timeIntervalSince1970) }
            let listener = try Listener(try SocketAddress("127.0.0.1:0"), adapter: adapter)
            let other = try Listener(
                try SocketAddress("127.0.0.1:0"),
                adapter: MQTTAdapter(
                    routers: ["default": router], authenticator: Everybody(),
                    random: { UInt64.random(in: 0 ... .max) }))
            reactor.listen(listener)
            reactor.listen(other)
            web = listener.address.description
            mqtt = other.address.description
        }

        deinit { reactor.stop(drainMilliseconds: 500) }

        private struct Everybody: Authenticator {
            func authenticate(
                _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
            ) -> AuthenticationResult? {
                .accepted(Identity(user: credentials.user))
            }
        }

        /// A stream whose first lines have come.
        func open(_ target: String, after id: String = "") throws -> Reader {
            let client = try RawClient(web, seconds: 20)
            let field = id.isEmpty ? "" : "Last-Event-ID: \(id)\n"
            try client.send("GET \(target) HTTP/1.1\nHost: localhost\n\(field)\n")
            let reader = Reader(client)
            try reader.read { $0.retry != nil }
            return reader
        }

        /// A connected publisher of MQTT 3.1.1.
        func publisher() throws -> Publisher {
            let client = try RawClient(mqtt, seconds: 20)
            try client.send(bytes: [0x10, 13, 0, 4] + Array("MQTT".utf8) + [4, 2, 0, 0, 0, 1, UInt8(ascii: "p")])
            guard try client.receive(4) == [0x20, 2, 0, 0] else { throw CancellationError() }
            return Publisher(client)
        }

        /// Something of every lane, added up.
        func sum(_ body: @escaping @Sendable (StreamLane) -> Int) -> Int {
            let (site, done) = (site, DispatchSemaphore(value: 0))
            let answers = Mutex<[Int]>([])
            reactor.lanes.gather { lane in
                body(StreamLane.of(site.context.state(of: lane), on: lane))
            } then: { all in
                answers.withLock { $0 = all }
                done.signal()
            }
            done.wait()
            return answers.withLock { $0.reduce(0, +) }
        }
    }

    private final class Reader {
        let client: RawClient
        var source = EventSourceReader()

        init(_ client: RawClient) { self.client = client }

        /// Reads until what is wanted has come, or the end.
        func read(until isEnough: (EventSourceReader) -> Bool) throws {
            while !isEnough(source) {
                let bytes = try client.receiveSome()
                if bytes.isEmpty { return }
                source.take(bytes)
            }
        }

        var data: [String] { source.messages.map(\.data) }
    }

    private final class Publisher {
        private let client: RawClient
        init(_ client: RawClient) { self.client = client }

        /// Publishes at QoS 1 and waits until every matching session and channel has it.
        func publish(_ topic: String, _ payload: [UInt8]) throws {
            let body = [0, UInt8(topic.utf8.count)] + Array(topic.utf8) + [0, 1] + payload
            var header: [UInt8] = [0x32]
            var length = body.count
            repeat {
                header.append(UInt8(length & 127) | (length > 127 ? 128 : 0))
                length >>= 7
            } while length > 0
            try client.send(bytes: header + body)
            let answer = try client.receive(4)
            guard answer == [0x40, 2, 0, 1] else { throw CancellationError() }
        }

        func publish(_ topic: String, _ payload: String) throws { try publish(topic, Array(payload.utf8)) }
    }

    @Test("A thousand streams, one encoding on each lane", arguments: [1, 2])
    func many(lanes: Int) throws {
        let stage = try Stage(lanes: lanes)
        let readers = try (0..<1_000).map { _ in try stage.open("/events?filter=t/%23") }
        let publisher = try stage.publisher()
        #expect(stage.sum { $0.channelCount } == lanes)
        let before = stage.sum { Int($0.encodings) }
        try publisher.publish("t/x", "one\ntwo")
        for reader in readers {
            try reader.read { !$0.messages.isEmpty }
            #expect(reader.data == ["one\ntwo"])
        }
        #expect(stage.sum { Int($0.encodings) } == before + lanes)
        #expect(stage.reactor.counters().eventsOut == 1_000)
    }

    @Test("Exactly once while connections break off and come back on any lane", arguments: [1, 2])
    func resume(lanes: Int) throws {
        let stage = try Stage(lanes: lanes)
        let publisher = try stage.publisher()
        var random = Seeded(seed: UInt64(lanes))
        var readers = try (0..<6).map { _ in try stage.open("/events?filter=t") }
        let start = readers[0].source
        #expect(!start.lastID.isEmpty)
        for number in 0..<200 {
            try publisher.publish("t", "\(number)")
            let index = Int(random.next() % 6)
            let old = readers[index]
            if random.next() % 2 == 0 { try old.read { $0.messages.count > number } }
            guard random.next() % 3 == 0 else { continue }
            // What it has not read is lost with the connection.
            readers[index] = try stage.open("/events?filter=t", after: old.source.lastID)
            let new = readers[index]
            new.source.prepend(old.source.messages)
        }
        for reader in readers {
            try reader.read { $0.messages.count >= 200 }
            #expect(reader.data == (0..<200).map { "\($0)" })
        }
        // Those that came back are where the channel of their beginning is.
        #expect((1...lanes).contains(stage.sum { $0.channelCount }))
    }

    @Test("Who does not read is cut, whoever reads is not")
    func slow() throws {
        var limits = Limits()
        limits.maxOutputBytes = 1 << 16
        let stage = try Stage(lanes: 2, limits: limits)
        let publisher = try stage.publisher()
        let slow = try stage.open("/events?filter=t")
        let other = try stage.open("/events?filter=t")
        let payload = String(repeating: "x", count: 50_000)
        var published = 0
        while stage.reactor.counters().closed[CloseReason.slowReader.rawValue] == 0 {
            try publisher.publish("t", payload)
            published += 1
            try other.read { $0.messages.count == published }
            #expect(published < 10_000)
        }
        try slow.read { _ in false }
        let last = slow.data.count
        #expect(last < published)
        #expect(slow.data.allSatisfy { $0 == payload })
        let back = try stage.open("/events?filter=t", after: slow.source.lastID)
        try back.read { ($0.messages.last?.id ?? "").hasSuffix("-\(published)") }
        #expect(back.source.messages.first?.name == "gap" || back.data.count == published - last)
        #expect(stage.reactor.counters().closed[CloseReason.slowReader.rawValue] == 1)
    }

    @Test("Stopping the node ends streams with a word")
    func stop() throws {
        let stage = try Stage(lanes: 2)
        let readers = try (0..<4).map { _ in try stage.open("/events?filter=t") }
        stage.reactor.stop(drainMilliseconds: 5_000)
        for reader in readers {
            try reader.read { _ in false }
            #expect(reader.source.comments.last == " the node is stopping")
        }
    }
}
