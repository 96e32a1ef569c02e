import Core
import MQTT
import Testing
import TestSupport

@testable import Web

/// A stream inside of WebSocket: wherever frames and reads are cut, the inside hears the same bytes, and a protocol
/// inside behaves as on a connection of its own.
@Suite struct WebSocketStreamTests {
    // MARK: Any inside, any cut

    /// Takes as much as it likes, asks for routing and pauses as it likes, and holds what it has borrowed against what
    /// it was until the turn has been routed.
    private final class Moody: Conversation {
        let link: Link
        var random: Seeded
        var heard: [UInt8] = []
        var reason: CloseReason?
        private var borrowed: [(UnsafeRawBufferPointer, [UInt8])] = []
        private(set) var isPaused = false
        private(set) var spoilt = 0

        init(_ link: Link, seed: UInt64) {
            self.link = link
            random = Seeded(seed: seed)
        }

        override func receive(_ bytes: UnsafeRawBufferPointer, _ turn: Turn, on lane: Lane) -> Progress {
            if isPaused { return Progress(consumed: 0, verdict: .paused) }
            // Bytes in pieces of seven, as packets; half a piece has to wait.
            let whole = bytes.count / 7 * 7
            let mood = random.below(6)
            let count = mood < 2 ? random.below(whole / 7 + 1) * 7 : whole
            let taken = UnsafeRawBufferPointer(rebasing: bytes[..<count])
            heard += taken
            if count > 0, random.below(2) == 0 {
                borrowed.append((taken, Array(taken)))
                turn.runCount = 1
            }
            if count < whole { return Progress(consumed: count, verdict: pause(mood)) }
            return Progress(consumed: count, verdict: mood == 5 ? .routeFirst : .waiting)
        }

        private func pause(_ mood: Int) -> Verdict {
            guard mood == 0 else { return .routeFirst }
            isPaused = true
            return .paused
        }

        func goOn() {
            guard isPaused else { return }
            isPaused = false
            link.resume()
        }

        override func routed(_ turn: Turn, on lane: Lane) {
            for (place, bytes) in borrowed where !place.elementsEqual(bytes) { spoilt += 1 }
            borrowed = []
        }

        override func close(_ reason: CloseReason, on lane: Lane) { self.reason = reason }
    }

    /// Frames of a stream: sizes of every form, fragments, pings in between.
    private func frames(of bytes: [UInt8], _ random: inout Seeded) -> (wire: [UInt8], pings: Int) {
        var (wire, pings, start) = ([UInt8](), 0, 0)
        var isOpen = false
        while start < bytes.count || isOpen {
            if random.below(4) == 0 {
                wire += ClientFrame.ping([UInt8(random.below(256))])
                pings += 1
            }
            let sizes = [0, 1, 3, 20, 125, 126, 400, 5_000, 70_000]
            let count = min(random.below(sizes[random.below(sizes.count)] + 1), bytes.count - start)
            let isFinal = random.below(3) > 0 || start + count == bytes.count
            let key = (0..<4).map { _ in UInt8(random.below(256)) }
            wire += ClientFrame.make(
                isOpen ? 0 : 2, Array(bytes[start..<start + count]), isFinal: isFinal, key: key)
            isOpen = !isFinal
            start += count
        }
        return (wire, pings)
    }

    @Test func randomFramesCutAnywhereGiveTheSameStream() throws {
        for seed in 1...60 {
            var random = Seeded(seed: UInt64(seed))
            let stage = WebSocketStage()
            // Two connections on one lane, so that they take the lane's memory from each other.
            let sizes = seed % 20 == 0 ? 400_000 : 1 + random.below(20_000)
            let streams = (0..<2).map { _ in (0..<sizes / 7 * 7).map { _ in UInt8(random.below(256)) } }
            var insides: [Moody] = []
            var connections: [StageConnection] = []
            var wires: [ArraySlice<UInt8>] = []
            var pings: [Int] = []
            for stream in streams {
                let connection = stage.open(.binary) { link in
                    insides.append(Moody(link, seed: UInt64(seed * 7 + insides.count)))
                    return insides[insides.count - 1]
                }
                connection.yields = seed % 3 == 0
                connections.append(connection)
                let (wire, count) = frames(of: stream, &random)
                wires.append(wire[...])
                pings.append(count)
            }
            let longest = [1, 40, 3_000, 200_000][seed % 4] * (sizes > 100_000 ? 10_000 : 1)
            while wires.contains(where: { !$0.isEmpty }) {
                let who = random.below(2)
                let part = wires[who].prefix(1 + random.below(longest))
                wires[who] = wires[who].dropFirst(part.count)
                connections[who].receive(Array(part))
                if random.below(3) == 0 { stage.settle() }
                if random.below(3) == 0 { for inside in insides { inside.goOn() } }
            }
            while zip(insides, streams).contains(where: { $0.heard.count < $1.count }) {
                let before = insides.map(\.heard.count)
                for _ in 0..<40 {
                    for inside in insides { inside.goOn() }
                    stage.settle()
                }
                try #require(insides.map(\.heard.count) != before, "nothing goes on, seed \(seed)")
            }
            for who in 0..<2 {
                #expect(insides[who].heard == streams[who], "seed \(seed)")
                #expect(insides[who].spoilt == 0, "seed \(seed)")
                let pongs = ServerFrame.all(connections[who].link.takeSent())
                #expect(pongs?.count == pings[who] && pongs?.allSatisfy { $0.opcode == 10 } == true, "seed \(seed)")
                #expect(connections[who].carry.isEmpty && connections[who].finishing == nil)
                let conversation = connections[who].conversation as? WebSocketConversation
                #expect(conversation?.input.hasOwnMemory == false, "an idle connection holds no buffer")
            }
        }
    }

    // MARK: MQTT inside

    private static func packet(_ first: UInt8, _ body: [UInt8]) -> [UInt8] {
        var (length, left) = ([UInt8](), body.count)
        repeat {
            length.append(UInt8(left & 0x7F) | (left > 127 ? 0x80 : 0))
            left >>= 7
        } while left > 0
        return [first] + length + body
    }

    private static func text(_ text: String) -> [UInt8] { [0, UInt8(text.utf8.count)] + Array(text.utf8) }
    static func connect(_ id: String, clean: Bool = true, keepAlive: UInt8 = 0) -> [UInt8] {
        packet(0x10, text("MQTT") + [4, clean ? 2 : 0, 0, keepAlive] + text(id))
    }
    static let subscribe = packet(0x82, [0, 1] + text("a/#") + [1])
    static func publish(_ payload: [UInt8], qos: UInt8 = 0, id: UInt8 = 1) -> [UInt8] {
        packet(0x30 | qos << 1, text("a/b") + (qos > 0 ? [0, id] : []) + payload)
    }

    private static func adapter(_ authenticator: any Authenticator = EverybodyIsWelcome()) throws -> MQTTAdapter {
        let router = Router(limits: Limits(), accessRules: try AccessRules([]), hashKey: 1)
        return MQTTAdapter(routers: ["default": router], authenticator: authenticator, random: { 4 })
    }

    private struct EverybodyIsWelcome: Authenticator {
        func authenticate(
            _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
        ) -> AuthenticationResult? { .accepted(Identity()) }
    }

    /// Answers from another thread's point of view: by mail.
    private struct Slow: Authenticator {
        func authenticate(
            _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
        ) -> AuthenticationResult? {
            reply(.accepted(Identity()))
            return nil
        }
    }

    private static let session: [UInt8] =
        connect("c") + subscribe + publish(Array("one".utf8)) + publish(Array("two".utf8), qos: 1, id: 2)
        + publish([UInt8](repeating: 7, count: 300), qos: 1, id: 3) + [0xC0, 0]

    /// What MQTT answers on a connection of its own, to the same bytes in the same reads.
    private func plainAnswer(
        _ reads: [[UInt8]], _ authenticator: any Authenticator = EverybodyIsWelcome()
    ) throws -> [UInt8] {
        let stage = WebSocketStage()
        let adapter = try Self.adapter(authenticator)
        let connection = stage.connect { adapter.makeConversation(link: $0, on: $1) }
        for read in reads {
            connection.receive(read)
            stage.settle()
        }
        return connection.link.takeSent()
    }

    private func answer(
        _ reads: [[UInt8]], _ authenticator: any Authenticator = EverybodyIsWelcome()
    ) throws -> [UInt8]? {
        let stage = WebSocketStage()
        let adapter = try Self.adapter(authenticator)
        let lane = stage.lanes[0]
        let connection = stage.open(.binary, limits: .withoutPings) { adapter.makeConversation(link: $0, on: lane) }
        for read in reads {
            connection.receive(read)
            stage.settle()
        }
        return ServerFrame.all(connection.link.takeSent()).map(ServerFrame.stream)
    }

    @Test func mqttHearsTheSameWhereverFramesAndReadsAreCut() throws {
        let session = Self.session
        let expected = try plainAnswer([session])
        #expect(expected.count > 330)
        #expect(try answer([ClientFrame.binary(session)]) == expected)
        for cut in 0...session.count {
            let parts = [Array(session[..<cut]), Array(session[cut...])]
            let two = parts.map { ClientFrame.binary($0) }
            #expect(try answer([two[0] + two[1]]) == expected, "two frames in a read, cut at \(cut)")
            #expect(try answer(two) == plainAnswer(parts), "two frames in two reads, cut at \(cut)")
            let fragments =
                ClientFrame.binary(parts[0], isFinal: false) + ClientFrame.ping()
                + ClientFrame.more(parts[1], isFinal: true)
            #expect(try answer([fragments]) == expected, "two fragments, cut at \(cut)")
        }
        let dripped = try plainAnswer(session.map { [$0] })
        for size in 1...9 {
            let pieces = stride(from: 0, to: session.count, by: size).map {
                ClientFrame.binary(Array(session[$0..<min($0 + size, session.count)]))
            }
            #expect(try answer([pieces.flatMap { $0 }]) == expected, "frames of \(size)")
            #expect(try answer(pieces.flatMap { $0 }.map { [$0] }) == dripped, "frames of \(size), byte by byte")
        }
        let wire = ClientFrame.binary(session)
        let header = wire.count - session.count
        for cut in 0...wire.count {
            let place = max(cut - header, 0)
            let plain = try plainAnswer([Array(session[..<place]), Array(session[place...])])
            #expect(try answer([Array(wire[..<cut]), Array(wire[cut...])]) == plain, "one frame, cut at \(cut)")
        }
    }

    @Test func whatFollowsConnectWaitsForTheAuthenticator() throws {
        let session = Self.session
        let expected = try plainAnswer([session], Slow())
        #expect(expected.count > 330)
        #expect(try answer([ClientFrame.binary(session)], Slow()) == expected)
        let dripped = try plainAnswer(session.map { [$0] }, Slow())
        for size in [1, 7, 50] {
            let pieces = stride(from: 0, to: session.count, by: size).flatMap {
                ClientFrame.binary(Array(session[$0..<min($0 + size, session.count)]))
            }
            #expect(try answer([pieces], Slow()) == expected)
            #expect(try answer(pieces.map { [$0] }, Slow()) == dripped)
        }
    }

    @Test func sessionsAreTakenOverAcrossLanes() throws {
        let stage = WebSocketStage(lanes: 2)
        let adapter = try Self.adapter()
        func open(_ lane: Int) -> StageConnection {
            let home = stage.lanes[lane]
            return stage.open(.binary, limits: .withoutPings, lane: lane) {
                adapter.makeConversation(link: $0, on: home)
            }
        }
        let first = open(0)
        let connack: [UInt8] = [0x20, 2, 0, 0]
        #expect(first.ask(ClientFrame.binary(Self.connect("c", clean: false))) == [.binary(connack)])
        #expect(first.ask(ClientFrame.binary(Self.subscribe)) == [.binary([0x90, 3, 0, 1, 1])])
        let second = open(1)
        // The rest of the frame, and of the packet, moves along.
        let wire = ClientFrame.binary(Self.connect("c", clean: false) + Self.publish([1]) + [0xC0, 0])
        second.receive(Array(wire.dropLast(3)))
        stage.settle()
        #expect(second.lane === stage.lanes[0], "the session's lane")
        second.receive(Array(wire.suffix(3)))
        stage.settle()
        let answer = ServerFrame.all(second.link.takeSent()).map(ServerFrame.stream)
        // Asked in one read, a ping is answered before events are delivered.
        #expect(answer == [0x20, 2, 1, 0, 0xD0, 0] + Self.publish([1]))
        #expect(ServerFrame.all(first.link.takeSent())?.map(\.closeCode) == [1_008])
        #expect(first.finishing == .takenOver)
    }

    @Test func mqttEndsTheConnectionWithTheRightCode() throws {
        let stage = WebSocketStage()
        let adapter = try Self.adapter()
        let lane = stage.lanes[0]
        func code(_ bytes: [UInt8]) -> [Int?]? {
            let connection = stage.open(.binary) { adapter.makeConversation(link: $0, on: lane) }
            return connection.ask(bytes)?.map(\.closeCode)
        }
        let connect = Self.connect("x")
        #expect(code(ClientFrame.binary(connect + [0xE0, 0])) == [nil, 1_000])
        #expect(code(ClientFrame.binary(connect + [0xF0, 0])) == [nil, 1_002])
        #expect(code(ClientFrame.binary(connect + Self.publish([1]) + [0xF0, 0])) == [nil, 1_002])
        #expect(code(ClientFrame.binary(connect) + ClientFrame.text("x")) == [nil, 1_003])
        #expect(code(ClientFrame.binary(connect + [0x30, 0xFF, 0xFF, 0xFF, 0x7F])) == [nil, 1_009])
        #expect(code(ClientFrame.binary([0x30, 0])) == [1_002])
        #expect(code(ClientFrame.binary(connect) + ClientFrame.close(1_000)) == [nil, 1_000])
        let silent = stage.open(.binary) { adapter.makeConversation(link: $0, on: lane) }
        stage.advance(milliseconds: 5_000)
        #expect(ServerFrame.all(silent.link.takeSent())?.map(\.closeCode) == [1_008])
        #expect(silent.finishing == .connectTimeout)
        let keepAlive = stage.open(.binary) { adapter.makeConversation(link: $0, on: lane) }
        _ = keepAlive.ask(ClientFrame.binary(Self.connect("k", keepAlive: 20)))
        stage.advance(milliseconds: 29_999)
        #expect(keepAlive.finishing == nil)
        stage.advance(milliseconds: 1)
        #expect(keepAlive.finishing == .keepAliveTimeout)
    }

    // MARK: Out

    private final class Quiet: Conversation {}

    @Test func whatIsWrittenInAPassSharesFrames() throws {
        let stage = WebSocketStage()
        var link: WebSocketLink!
        let connection = stage.open(.binary) {
            link = $0
            return Quiet()
        }
        var expected: [UInt8] = []
        for size in [1, 5, 2, 100, 30, 16_379, 16_380, 16_384, 40_000, 70_000, 3, 0, 9] {
            let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 ^ size) }
            expected += bytes
            bytes.withUnsafeBytes { if let base = $0.baseAddress { link.append(base, $0.count) } }
        }
        let place = link.reserve(Output.maxReservation)
        place.storeBytes(of: 0x55, as: UInt8.self)
        link.cursor = place + 1
        stage.settle()
        let frames = try #require(ServerFrame.all(connection.link.takeSent()))
        #expect(ServerFrame.stream(frames) == expected + [0x55])
        #expect(frames.allSatisfy { $0.isFinal && $0.opcode == 2 && !$0.payload.isEmpty })
        // Within a window: one frame, header in front.
        for byte in UInt8(0)..<50 { withUnsafeBytes(of: byte) { link.append($0.baseAddress!, 1) } }
        stage.settle()
        #expect(connection.link.takeSent() == [0x82, 50] + Array(0..<50))
        link.packets = 3
        connection.link.packets = 0
        stage.settle()
        #expect(connection.link.packets == 3)
    }

    private final class Ear: LinkTap {
        var received: [UInt8] = []
        var sent: [UInt8] = []
        override func received(_ bytes: UnsafeRawBufferPointer, on lane: Lane) { received += bytes }
        override func sent(_ bytes: UnsafeRawBufferPointer, on lane: Lane) { sent += bytes }
    }

    @Test func tapsAreShownTheInnerBytes() throws {
        let stage = WebSocketStage()
        let adapter = try Self.adapter()
        let lane = stage.lanes[0]
        var link: WebSocketLink!
        let connection = stage.open(.binary) {
            link = $0
            return adapter.makeConversation(link: $0, on: lane)
        }
        _ = connection.ask(ClientFrame.binary(Self.connect("c")))
        let ear = Ear()
        // What was appended before is not for the tap.
        withUnsafeBytes(of: UInt16(0x00D0)) { link.append($0.baseAddress!, 2) }
        link.tap = ear
        let payload = [UInt8](repeating: 1, count: 20_000)
        let said = Self.subscribe + Self.publish(payload)
        _ = connection.ask(ClientFrame.binary(said))
        #expect(ear.received == said)
        #expect(ear.sent == [0x90, 3, 0, 1, 1] + Self.publish(payload))
    }
}
