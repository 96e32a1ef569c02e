import Core
import TestSupport
import Testing

@testable import Web

/// Frames by the letter of RFC 6455, against an echo: the cases of conformance tools, with exact bytes.
@Suite struct WebSocketTests {
    private func bytes(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ 7) } }
    private func text(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(ascii: "a") + UInt8($0 % 26) } }

    /// What a connection that is refused says, as one close frame and nothing else.
    private func expectClose(
        _ frames: [UInt8], _ code: Int, after expected: [ServerFrame] = [], kind: WebSocketLink.Kind = .any,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        // As one read and byte by byte.
        for step in [frames.count, 1] {
            let stage = WebSocketStage()
            let connection = stage.open(kind) { EchoConversation(link: $0) }
            for start in stride(from: 0, to: frames.count, by: max(step, 1)) {
                connection.receive(Array(frames[start..<min(start + step, frames.count)]))
            }
            stage.settle()
            let answer = ServerFrame.all(connection.link.takeSent())
            #expect(answer?.dropLast() == expected[...], sourceLocation: sourceLocation)
            #expect(answer?.last?.closeCode == code, sourceLocation: sourceLocation)
            #expect(connection.finishing != nil, sourceLocation: sourceLocation)
            let text = answer?.last?.payload.dropFirst(2) ?? []
            #expect(String(validating: text, as: UTF8.self) != nil, sourceLocation: sourceLocation)
        }
    }

    // MARK: Bytes

    @Test func theExamplesOfTheSpecification() {
        let stage = WebSocketStage()
        let connection = stage.open(echo: WebSocketLimits())
        // A masked "Hello" in one frame, then in two, then a ping (§5.7).
        connection.receive([0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58])
        #expect(connection.link.takeSent() == [0x81, 5] + Array("Hello".utf8))
        connection.receive([0x89, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58])
        #expect(connection.link.takeSent() == [0x8A, 5] + Array("Hello".utf8))
        connection.receive(ClientFrame.close(1_000))
        #expect(connection.link.takeSent() == [0x88, 2, 0x03, 0xE8])
    }

    @Test(arguments: [0, 1, 8, 124, 125, 126, 127, 128, 1_000, 16_380, 16_384, 65_535, 65_536, 65_537, 1 << 20])
    func messagesOfEverySizeComeBack(size: Int) {
        for (opcode, payload) in [(UInt8(1), text(size)), (2, bytes(size))] {
            let frame = ClientFrame.make(opcode, payload)
            for step in [frame.count, 997] where size < 1 << 20 || step > 997 {
                let stage = WebSocketStage()
                let connection = stage.open(echo: WebSocketLimits())
                for start in stride(from: 0, to: frame.count, by: step) {
                    connection.receive(Array(frame[start..<min(start + step, frame.count)]))
                }
                let frames = ServerFrame.all(connection.link.takeSent())
                #expect(frames.flatMap(ServerFrame.messages) == [ServerFrame(opcode: opcode, payload: payload)])
            }
        }
    }

    @Test func lengthsTakeAsFewBytesAsTheyCan() {
        let stage = WebSocketStage()
        let connection = stage.open(echo: WebSocketLimits())
        connection.receive(ClientFrame.binary(bytes(125)))
        #expect(connection.link.takeSent().prefix(2) == [0x82, 125])
        connection.receive(ClientFrame.binary(bytes(126)))
        #expect(connection.link.takeSent().prefix(4) == [0x82, 126, 0, 126])
        for (size, width) in [(0, 2), (125, 2), (0, 8), (126, 8), (65_535, 8)] {
            expectClose(ClientFrame.make(2, bytes(size), wide: width), 1_002)
        }
        // The highest bit of 64.
        expectClose([0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4], 1_002)
    }

    @Test func everyMaskAtEveryPlace() {
        for count in 0..<40 {
            for at in 0..<8 {
                let source = bytes(count + at)
                var target = [UInt8](repeating: 0, count: count + 16)
                let key: [UInt8] = [0x12, 0x34, 0x56, 0x78]
                let word = UInt32(0x7856_3412)
                let next = source.withUnsafeBytes { source in
                    target.withUnsafeMutableBytes {
                        WebSocketMask.remove(
                            word, from: source.baseAddress! + at, to: $0.baseAddress! + at % 3, count)
                    }
                }
                let expected = source[at...].enumerated().map { $1 ^ key[$0 % 4] }
                #expect(Array(target[(at % 3)..<(at % 3 + count)]) == expected)
                #expect(target[(at % 3 + count)...].allSatisfy { $0 == 0 }, "nothing is written behind the end")
                let turned = (0..<4).reduce(UInt32(0)) { $0 | UInt32(key[($1 + count) % 4]) << UInt32(8 * $1) }
                #expect(next == turned)
            }
        }
    }

    // MARK: Control frames

    @Test func pingsAreAnsweredAndPongsAreNot() {
        let stage = WebSocketStage()
        let connection = stage.open(echo: WebSocketLimits())
        #expect(connection.ask(ClientFrame.ping()) == [.pong([])])
        #expect(connection.ask(ClientFrame.ping(bytes(125))) == [.pong(bytes(125))])
        #expect(connection.ask(ClientFrame.pong(bytes(3))) == [])
        let ten = (0..<10).map { [UInt8($0)] }
        #expect(connection.ask(ten.flatMap { ClientFrame.ping($0) }) == ten.map { .pong($0) })
        // Byte by byte, and between fragments.
        for byte in ClientFrame.ping([1, 2]) { connection.receive([byte]) }
        #expect(connection.link.takeSent() == [0x8A, 2, 1, 2])
        let message =
            ClientFrame.text("a", isFinal: false) + ClientFrame.ping([9]) + ClientFrame.more([98], isFinal: true)
        #expect(connection.ask(message) == [.pong([9]), .text("ab")])
    }

    @Test func controlFramesAreShortAndWhole() {
        expectClose(ClientFrame.make(9, bytes(126)), 1_002)
        expectClose(ClientFrame.make(8, bytes(126)), 1_002)
        expectClose(ClientFrame.make(9, [], isFinal: false), 1_002)
        expectClose(ClientFrame.make(10, [1], isFinal: false), 1_002)
        expectClose(ClientFrame.make(8, [], isFinal: false), 1_002)
    }

    @Test(arguments: 1...7) func reservedBitsAreRefused(bits: UInt8) {
        for opcode in [UInt8(0), 1, 2, 8, 9, 10] { expectClose(ClientFrame.make(opcode, [], reserved: bits), 1_002) }
        expectClose(
            ClientFrame.text("first") + ClientFrame.make(1, [97], reserved: bits), 1_002, after: [.text("first")])
    }

    @Test(arguments: [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]) func unknownOpcodesAreRefused(opcode: UInt8) {
        expectClose(ClientFrame.make(opcode, []), 1_002)
        expectClose(ClientFrame.text("first") + ClientFrame.make(opcode, [1]), 1_002, after: [.text("first")])
    }

    @Test func framesWithoutAMaskAreRefused() {
        expectClose(ClientFrame.make(1, [97], key: nil), 1_002)
        expectClose(ClientFrame.make(9, [], key: nil), 1_002)
        // As soon as it can be seen.
        let stage = WebSocketStage()
        #expect(stage.open(echo: WebSocketLimits()).ask([0x81, 0x01])?.last?.closeCode == 1_002)
        #expect(stage.open(echo: WebSocketLimits()).ask([0xF1])?.last?.closeCode == 1_002)
        #expect(stage.open(echo: WebSocketLimits()).ask([0x83])?.last?.closeCode == 1_002)
        #expect(stage.open(echo: WebSocketLimits()).ask([0x09])?.last?.closeCode == 1_002)
        #expect(stage.open(echo: WebSocketLimits()).ask([0x81])?.isEmpty == true)
    }

    /// A frame that is wrong in two ways is refused for the same one, however its bytes come.
    @Test func refusalsDoNotDependOnReads() {
        for first in UInt8.min...UInt8.max {
            for second in [UInt8(0), 1, 126, 127, 128, 254, 255] {
                let bytes = [first, second, 0, 0, 0, 0, 0, 0, 0, 1]
                let stage = WebSocketStage()
                let whole = stage.open(.binary) { EchoConversation(link: $0) }
                let dripped = stage.open(.binary) { EchoConversation(link: $0) }
                whole.receive(bytes)
                for byte in bytes { dripped.receive([byte]) }
                #expect(whole.link.takeSent() == dripped.link.takeSent(), "\(first) \(second)")
                #expect(whole.finishing == dripped.finishing)
            }
        }
    }

    // MARK: Fragments

    @Test func fragmentsBecomeOneMessage() {
        let stage = WebSocketStage()
        let connection = stage.open(echo: WebSocketLimits())
        let more = ClientFrame.more
        #expect(connection.ask(ClientFrame.text("ab", isFinal: false) + more([99], true)) == [.text("abc")])
        #expect(connection.ask(ClientFrame.binary([1], isFinal: false) + more([2], true)) == [.binary([1, 2])])
        #expect(
            connection.ask(ClientFrame.text("", isFinal: false) + more([], false) + more([], true)) == [.text("")])
        #expect(
            connection.ask(
                ClientFrame.text("", isFinal: false) + ClientFrame.ping([1]) + more([97], false) + ClientFrame.ping([2])
                    + more([], true)) == [.pong([1]), .pong([2]), .text("a")])
        #expect(connection.ask(ClientFrame.text("x", isFinal: false)) == [])
        #expect(connection.ask(more([121], true) + ClientFrame.text("z")) == [.text("xy"), .text("z")])
    }

    @Test func fragmentsOutOfOrderAreRefused() {
        expectClose(ClientFrame.more([97], isFinal: true), 1_002)
        expectClose(ClientFrame.more([97], isFinal: false), 1_002)
        expectClose(ClientFrame.text("a") + ClientFrame.more([97], isFinal: true), 1_002, after: [.text("a")])
        expectClose(ClientFrame.text("a", isFinal: false) + ClientFrame.text("b"), 1_002)
        expectClose(ClientFrame.text("a", isFinal: false) + ClientFrame.binary([1]), 1_002)
    }

    @Test func messagesHaveALimit() {
        let stage = WebSocketStage()
        let limits = WebSocketLimits(messageBytes: 100)
        func ask(_ frames: [UInt8]) -> [ServerFrame]? { stage.open(echo: limits).ask(frames) }
        #expect(ask(ClientFrame.binary(bytes(100))) == [.binary(bytes(100))])
        // The claim suffices: nothing is kept for it.
        #expect(ask(Array(ClientFrame.binary(bytes(101)).prefix(6)))?.last?.closeCode == 1_009)
        #expect(ask([0x82, 0xFF, 0x7F, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4])?.last?.closeCode == 1_009)
        let parts = ClientFrame.binary(bytes(60), isFinal: false) + ClientFrame.more(bytes(41), isFinal: true)
        #expect(ask(parts)?.last?.closeCode == 1_009)
        let endless: [UInt8] = [0x02, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4]
        #expect(ask(ClientFrame.ping() + endless)?.map(\.opcode) == [10, 8])
    }

    // MARK: Text

    private static let rightTexts: [[UInt8]] = [
        Array("κόσμε".utf8), [0xC2, 0x80], [0xDF, 0xBF], [0xE0, 0xA0, 0x80], [0xED, 0x9F, 0xBF], [0xEE, 0x80, 0x80],
        [0xEF, 0xBF, 0xBF], [0xF0, 0x90, 0x80, 0x80], [0xF4, 0x8F, 0xBF, 0xBF], [0], [0x7F],
        Array("Hello-µ@ßöäüàá-UTF-8!! 🐧 and a few more to pass eight".utf8),
    ]
    private static let wrongTexts: [[UInt8]] = [
        [0x80], [0xBF], [0xC0, 0x80], [0xC1, 0xBF], [0xE0, 0x9F, 0xBF], [0xED, 0xA0, 0x80], [0xF0, 0x8F, 0xBF, 0xBF],
        [0xF4, 0x90, 0x80, 0x80], [0xF5, 0x80, 0x80, 0x80], [0xFE], [0xFF], [0xC2, 0x41], [0xE2, 0x82, 0x41],
        Array("κόσμε".utf8) + [0xED, 0xA0, 0x80] + Array("edited".utf8), Array("12345678".utf8) + [0xFF],
    ]
    private static let cutTexts: [[UInt8]] = [[0xC2], [0xE2, 0x82], [0xF0, 0x9F, 0x90], [0xCE, 0xBA, 0xE1, 0xBD]]

    @Test func textIsUTF8WhereverItIsCut() {
        let stage = WebSocketStage()
        let connection = stage.open(echo: WebSocketLimits())
        for text in Self.rightTexts {
            for cut in 0...text.count {
                let frames =
                    ClientFrame.make(1, Array(text[..<cut]), isFinal: false)
                    + ClientFrame.more(Array(text[cut...]), isFinal: true)
                #expect(connection.ask(frames) == [ServerFrame(opcode: 1, payload: text)])
            }
            for byte in ClientFrame.make(1, text) { connection.receive([byte]) }
            #expect(ServerFrame.all(connection.link.takeSent()) == [ServerFrame(opcode: 1, payload: text)])
        }
        for text in Self.wrongTexts + Self.cutTexts {
            expectClose(ClientFrame.make(1, text), 1_007)
            for cut in 0...text.count {
                expectClose(
                    ClientFrame.make(1, Array(text[..<cut]), isFinal: false)
                        + ClientFrame.more(Array(text[cut...]), isFinal: true), 1_007)
            }
        }
        // Binary messages may be anything.
        #expect(connection.ask(ClientFrame.binary([0xFF, 0xC0])) == [.binary([0xFF, 0xC0])])
    }

    @Test func wrongTextIsNoticedAtOnce() {
        for text in Self.wrongTexts {
            let stage = WebSocketStage()
            let connection = stage.open(echo: WebSocketLimits())
            // A frame that claims to be longer, and a fragment that others would follow.
            let frame = ClientFrame.make(1, text + [97, 97, 97])
            #expect(connection.ask(Array(frame.dropLast(3)))?.last?.closeCode == 1_007)
            let other = stage.open(echo: WebSocketLimits())
            #expect(other.ask(ClientFrame.make(1, text, isFinal: false))?.last?.closeCode == 1_007)
        }
    }

    @Test func theCheckAgreesWithTheStandardLibrary() {
        var seed: UInt64 = 88_172_645_463_325_252
        func random(_ bound: UInt64) -> Int {
            seed ^= seed << 13
            seed ^= seed >> 7
            seed ^= seed << 17
            return Int(seed % bound)
        }
        let pieces = Self.rightTexts + [[0x41], [0xE2, 0x82], [0x80], [0xED, 0xA0], [0xF4]]
        for _ in 0..<20_000 {
            let text = (0..<random(6)).flatMap { _ in pieces[random(UInt64(pieces.count))] }
            let cut = random(UInt64(text.count + 1))
            var check = UTF8Check()
            let isRight = text.withUnsafeBytes {
                check.take(UnsafeRawBufferPointer(rebasing: $0[..<cut]))
                    && check.take(UnsafeRawBufferPointer(rebasing: $0[cut...]))
            }
            #expect((isRight && check.isComplete) == (String(validating: text, as: UTF8.self) != nil), "\(text)")
        }
    }

    // MARK: Goodbye

    @Test(arguments: [
        1_000, 1_001, 1_002, 1_003, 1_007, 1_008, 1_009, 1_010, 1_011, 1_012, 1_013, 1_014, 3_000, 3_999, 4_000, 4_999,
    ])
    func goodbyesAreAnsweredWithTheirCode(code: Int) {
        expectClose(ClientFrame.close(UInt16(code)), code)
        expectClose(ClientFrame.close(UInt16(code), Array("gööd".utf8)), code)
        expectClose(ClientFrame.close(UInt16(code), text(123)), code)
        // What comes behind it is of no interest.
        expectClose(ClientFrame.close(UInt16(code)) + ClientFrame.ping() + [0xFF], code)
        expectClose(ClientFrame.text("a") + ClientFrame.close(UInt16(code)), code, after: [.text("a")])
    }

    @Test func goodbyesWithoutACode() {
        expectClose(ClientFrame.make(8, []), 1_005)
        expectClose(ClientFrame.make(8, [3]), 1_002)
        expectClose(ClientFrame.close(1_000, [0xCE, 0xBA, 0xE1, 0xBD]), 1_007)
        expectClose(ClientFrame.text("a", isFinal: false) + ClientFrame.close(1_000), 1_000)
    }

    @Test(arguments: [0, 999, 1_004, 1_005, 1_006, 1_015, 1_016, 1_100, 2_000, 2_999, 5_000, 65_535])
    func codesThatNobodyMaySendAreRefused(code: Int) { expectClose(ClientFrame.close(UInt16(code)), 1_002) }

    @Test func messagesOfTheWrongKindAreRefused() {
        expectClose(ClientFrame.text("a"), 1_003, kind: .binary)
        expectClose(ClientFrame.binary([1]), 1_003, kind: .text)
    }

    @Test func closeFramesSayWhyTheInsideEnds() {
        let expected: [CloseReason: Int] = [
            .clientDisconnected: 1_000, .shutdown: 1_001, .connectionLost: 1_001, .malformedPacket: 1_002,
            .protocolError: 1_002, .unsupportedVersion: 1_002, .receiveMaximumExceeded: 1_002,
            .topicAliasInvalid: 1_002, .topicNameInvalid: 1_002, .badAuthenticationMethod: 1_002,
            .payloadFormatInvalid: 1_007, .packetTooLarge: 1_009, .overLimit: 1_013, .overQuota: 1_013,
        ]
        for reason in CloseReason.allCases {
            #expect(WebSocketCode(reason).rawValue == UInt16(expected[reason] ?? 1_008), "\(reason)")
            #expect(WebSocketCode(reason).maySend)
        }
    }

    // MARK: Silence and stopping

    @Test func silentPeersAreAskedAndThenGivenUp() {
        let stage = WebSocketStage()
        let connection = stage.open(echo: WebSocketLimits())
        stage.connections = [connection]
        stage.advance(milliseconds: 29_999)
        #expect(connection.link.takeSent() == [])
        stage.advance(milliseconds: 1)
        #expect(connection.link.takeSent() == [0x89, 0])
        stage.advance(milliseconds: 29_999)
        #expect(connection.ask(ClientFrame.pong()) == [])
        stage.advance(milliseconds: 1)
        #expect(connection.link.takeSent() == [], "there was an answer")
        stage.advance(milliseconds: 30_000)
        #expect(connection.link.takeSent() == [0x89, 0])
        stage.advance(milliseconds: 30_000)
        #expect(ServerFrame.all(connection.link.takeSent())?.first?.closeCode == 1_008)
        #expect(connection.finishing == .keepAliveTimeout)
    }

    @Test func someAreNotAsked() {
        let stage = WebSocketStage()
        let connection = stage.open(echo: .withoutPings)
        stage.advance(milliseconds: 1_000_000)
        #expect(connection.link.takeSent() == [])
        #expect(connection.finishing == nil)
    }

    @Test func aStoppingNodeSaysSo() {
        let stage = WebSocketStage()
        let connection = stage.open(echo: WebSocketLimits())
        connection.drain()
        stage.settle()
        #expect(connection.link.takeSent() == [0x88, 2, 0x03, 0xE9])
        #expect(connection.finishing == .shutdown)
        let other = stage.open(echo: WebSocketLimits())
        other.close(.administrative)
        stage.settle()
        #expect(ServerFrame.all(other.link.takeSent())?.map(\.closeCode) == [1_008])
        let lost = stage.open(echo: WebSocketLimits())
        lost.close(.connectionLost)
        stage.settle()
        #expect(lost.link.takeSent() == [], "nobody is there to read it")
    }
}
