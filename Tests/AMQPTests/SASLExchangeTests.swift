import CProton
import Core
import Testing

@testable import AMQP

/// SASL with challenges and responses (part 5.3 of the specification), who is let in by whom, and the end of a proof.
@Suite struct SASLExchangeTests {
    private static let header = Array("AMQP".utf8) + [3, 1, 0, 0]

    private static func binary(_ bytes: [UInt8]) -> [UInt8] {
        let count = withUnsafeBytes(of: UInt32(bytes.count).bigEndian) { Array($0) }
        return (bytes.count < 256 ? [0xA0, UInt8(bytes.count)] : [0xB0] + count) + bytes
    }

    /// A SASL frame with a long list.
    private static func frame(_ descriptor: UInt8, _ fields: [[UInt8]]) -> [UInt8] {
        func four(_ count: Int) -> [UInt8] { withUnsafeBytes(of: UInt32(count).bigEndian) { Array($0) } }
        let values = fields.flatMap { $0 }
        let body = [0x00, 0x53, descriptor, 0xD0] + four(values.count + 4) + four(fields.count) + values
        return four(body.count + 8) + [2, 1, 0, 0] + body
    }

    private static func begin(_ mechanism: String, _ message: [UInt8]?) -> [UInt8] {
        frame(0x41, [[0xA3, UInt8(mechanism.utf8.count)] + mechanism.utf8, message.map(binary) ?? [0x40]])
    }

    private static func begin(_ mechanism: String, _ message: String) -> [UInt8] {
        begin(mechanism, Array(message.utf8))
    }

    private static func response(_ message: String) -> [UInt8] { frame(0x43, [binary(Array(message.utf8))]) }

    /// What the node sends for frames behind SASL's header.
    private static func ask(_ node: FieldNode, _ connection: FieldConnection, _ frames: [UInt8]...) -> [UInt8] {
        node.receive(connection, frames.flatMap { $0 })
        node.settle()
        return connection.link.takeSent()
    }

    private static func greeted(_ node: FieldNode) -> FieldConnection {
        let connection = node.accept()
        #expect(!ask(node, connection, header).isEmpty)
        return connection
    }

    private static func outcome(_ code: UInt8, _ text: String = "") -> [UInt8] {
        let output = KeptOutput()
        SASLServer(mechanisms: []).writeOutcome(SASLServer.Code(rawValue: code) ?? .sys, Array(text.utf8), to: output)
        return output.takeBytes()
    }

    private static func challenge(_ text: String) -> [UInt8] {
        let output = KeptOutput()
        SASLServer(mechanisms: []).writeChallenge(Array(text.utf8), to: output)
        return output.takeBytes()
    }

    // MARK: What is offered

    private static func offered(_ node: FieldNode, isLocal: Bool = true) -> [String] {
        let connection = node.accept()
        connection.link.isLocal = isLocal
        let names = ask(node, connection, header).dropFirst(8 + 14 + 4)
        var rest = names
        var all: [String] = []
        while let count = rest.popFirst() {
            all.append(String(decoding: rest.prefix(Int(count)), as: UTF8.self))
            rest = rest.dropFirst(Int(count))
        }
        return all
    }

    @Test func theBestOneFirst() throws {
        let node = try FieldNode(authenticator: ScriptedAuthenticator())
        #expect(Self.offered(node) == ["SCRAM-SHA-256", "OAUTHBEARER", "PLAIN", "ANONYMOUS"])
        node.proves = "anna"
        #expect(Self.offered(node) == ["EXTERNAL", "SCRAM-SHA-256", "OAUTHBEARER", "PLAIN", "ANONYMOUS"])
        #expect(
            Self.offered(try FieldNode(authenticator: ScriptedAuthenticator([.oauthBearer])))
                == ["OAUTHBEARER", "PLAIN", "ANONYMOUS"])
        #expect(Self.offered(try FieldNode()) == ["PLAIN", "ANONYMOUS"])
    }

    /// Secrets that go over the wire as they are: not where others can read along, if that is said.
    @Test func secretsOnTheWay() throws {
        var settings = AMQPSettings()
        settings.allowsRemotePlain = false
        let node = try FieldNode(settings: settings, authenticator: ScriptedAuthenticator())
        #expect(Self.offered(node, isLocal: false) == ["SCRAM-SHA-256", "ANONYMOUS"])
        #expect(Self.offered(node, isLocal: true).contains("PLAIN"))
        node.prepare = { $0.isSafe = true }
        #expect(Self.offered(node, isLocal: false) == ["SCRAM-SHA-256", "OAUTHBEARER", "PLAIN", "ANONYMOUS"])
        // What is not offered is not taken, either.
        node.prepare = { _ in }
        let connection = node.accept()
        connection.link.isLocal = false
        _ = Self.ask(node, connection, Self.header)
        #expect(Self.ask(node, connection, Self.begin("OAUTHBEARER", "token")) == Self.outcome(1))
        #expect(connection.closing == .badAuthenticationMethod)
    }

    // MARK: Exchanges

    @Test func letsInWhoProvesIt() throws {
        let node = try FieldNode(authenticator: ScriptedAuthenticator())
        let connection = Self.greeted(node)
        #expect(Self.ask(node, connection, Self.begin("SCRAM-SHA-256", "anna")) == Self.challenge("prove it"))
        #expect(Self.ask(node, connection, Self.response("right")) == Self.outcome(0, "v=proven"))
        #expect(connection.amqp?.identity?.user == "anna")
        let answer = Self.ask(node, connection, Array("AMQP".utf8) + [0, 1, 0, 0])
        #expect(answer.starts(with: Array("AMQP".utf8) + [0, 1, 0, 0]))
        #expect(connection.closing == nil)
    }

    /// Everything in one piece, and byte by byte.
    @Test(arguments: [1, 3, 4_096]) func inPieces(size: Int) throws {
        let node = try FieldNode(authenticator: ScriptedAuthenticator())
        let connection = node.accept()
        let bytes = Self.header + Self.begin("OAUTHBEARER", "anna") + Self.response("right")
        for start in stride(from: 0, to: bytes.count, by: size) {
            node.receive(connection, Array(bytes[start..<min(start + size, bytes.count)]))
        }
        node.settle()
        #expect(
            connection.link.takeSent().suffix(Self.outcome(0, "v=proven").count) == Self.outcome(0, "v=proven")[...])
    }

    /// Without a response in sasl-init a client is asked for its first message.
    @Test func beginsWithoutAMessage() throws {
        let node = try FieldNode(authenticator: ScriptedAuthenticator())
        let connection = Self.greeted(node)
        #expect(Self.ask(node, connection, Self.begin("SCRAM-SHA-256", nil)) == Self.challenge(""))
        #expect(Self.ask(node, connection, Self.response("anna")) == Self.challenge("prove it"))
        #expect(Self.ask(node, connection, Self.response("right")) == Self.outcome(0, "v=proven"))
    }

    @Test func longMessages() throws {
        let most = SASLServer.maxMessageBytes
        let long = String(repeating: "x", count: 300)
        let node = try FieldNode(
            authenticator: ScriptedAuthenticator { messages in
                messages.count == 1
                    ? .challenge(Array(long.utf8))
                    : .finished(
                        messages[1].count == most ? .accepted(Identity(user: "anna")) : .refused(.badCredentials),
                        Array(long.utf8))
            })
        let connection = Self.greeted(node)
        #expect(Self.ask(node, connection, Self.begin("SCRAM-SHA-256", "anna")) == Self.challenge(long))
        let answer = Self.ask(node, connection, Self.response(String(repeating: "y", count: most)))
        #expect(answer == Self.outcome(0, long))
        for count in [most + 1, 40_000, 1 << 20] {
            let other = Self.greeted(node)
            #expect(
                Self.ask(node, other, Self.begin("SCRAM-SHA-256", [UInt8](repeating: 97, count: count)))
                    == Self.outcome(1))
            #expect(other.closing != nil)
            #expect(other.amqp == nil || other.amqp?.identity == nil)
        }
    }

    @Test(arguments: [
        (AuthenticationRefusal.badCredentials, UInt8(1), CloseReason.notAuthenticated),
        (.anonymousNotAllowed, 1, .notAuthenticated), (.busy, 4, .overLimit), (.tooManyFailures, 4, .notAuthenticated),
    ])
    func refused(refusal: AuthenticationRefusal, code: UInt8, reason: CloseReason) throws {
        for isLate in [false, true] {
            let authenticator = ScriptedAuthenticator { _ in
                isLate ? nil : .finished(.refused(refusal), Array("e=no".utf8))
            }
            let node = try FieldNode(authenticator: authenticator)
            let connection = Self.greeted(node)
            var answer = Self.ask(node, connection, Self.begin("SCRAM-SHA-256", "anna"), Self.response("right"))
            if isLate {
                #expect(answer.isEmpty)
                authenticator.step(.finished(.refused(refusal), Array("e=no".utf8)))
                node.settle()
                answer = connection.link.takeSent()
            }
            #expect(answer == Self.outcome(code, "e=no"))
            #expect(connection.closing == reason)
        }
    }

    /// Answers that take their time; what has been sent meanwhile waits.
    @Test func answersThatComeLater() throws {
        let authenticator = ScriptedAuthenticator { _ in nil }
        let node = try FieldNode(authenticator: authenticator)
        let connection = Self.greeted(node)
        #expect(Self.ask(node, connection, Self.begin("SCRAM-SHA-256", "anna"), Self.response("right")).isEmpty)
        authenticator.step(.challenge([1]))
        node.settle()
        #expect(connection.link.takeSent() == Self.challenge("\u{1}"))
        authenticator.step(.finished(.accepted(Identity(user: "anna")), []))
        node.settle()
        #expect(connection.link.takeSent() == Self.outcome(0))
        // Nobody is there any more when the answer comes.
        let gone = Self.greeted(node)
        #expect(Self.ask(node, gone, Self.begin("SCRAM-SHA-256", "bert")).isEmpty)
        node.cut(gone)
        authenticator.step(.finished(.accepted(Identity(user: "bert")), []))
        node.settle()
        #expect(node.connections.count == 1)
    }

    @Test func anExchangeEndsSometime() throws {
        let node = try FieldNode(authenticator: ScriptedAuthenticator { _ in .challenge([]) })
        let connection = Self.greeted(node)
        #expect(Self.ask(node, connection, Self.begin("SCRAM-SHA-256", "1")) == Self.challenge(""))
        for _ in 0..<3 { #expect(Self.ask(node, connection, Self.response("2")) == Self.challenge("")) }
        #expect(Self.ask(node, connection, Self.response("3")) == Self.outcome(1))
        #expect(connection.closing == .protocolError)
        let silent = Self.greeted(node)
        #expect(Self.ask(node, silent, Self.begin("SCRAM-SHA-256", "1")) == Self.challenge(""))
        node.advance(milliseconds: 4_999)
        #expect(silent.closing == nil)
        node.advance(milliseconds: 1)
        #expect(silent.closing == .connectTimeout)
    }

    /// In the midst of an exchange nothing but sasl-response may come, and before it nothing but sasl-init.
    @Test func onlyTheNextMessageMayCome() throws {
        let wrong: [[UInt8]] = [
            Self.begin("SCRAM-SHA-256", "anna"), Self.frame(0x42, [Self.binary([1])]), Self.frame(0x44, [[0x50, 0]]),
            Self.frame(0x43, []), Self.frame(0x43, [[0x40]]), Self.frame(0x43, [[0xA1, 1, 97]]),
            Self.frame(0x43, [Self.binary([1]), Self.binary([2])]), Array("AMQP".utf8) + [0, 1, 0, 0],
            [0, 0, 0, 8, 2, 0, 0, 0], [0, 0, 0, 8, 2, 1, 0, 0],
            [0, 0, 0, 16, 2, 0, 0, 0, 0, 0x53, 0x18, 0xC0, 3, 1, 0x50, 0],
        ]
        for bytes in wrong {
            let node = try FieldNode(authenticator: ScriptedAuthenticator())
            let connection = Self.greeted(node)
            #expect(Self.ask(node, connection, Self.begin("SCRAM-SHA-256", "anna")) == Self.challenge("prove it"))
            #expect(Self.ask(node, connection, bytes, Self.response("right")) == Self.outcome(1), "\(bytes)")
            #expect(connection.closing == .malformedPacket, "\(bytes)")
        }
        let node = try FieldNode(authenticator: ScriptedAuthenticator())
        let connection = Self.greeted(node)
        #expect(Self.ask(node, connection, Self.response("right")) == Self.outcome(1))
        #expect(connection.closing == .malformedPacket)
    }

    @Test func aWrongProof() throws {
        let node = try FieldNode(authenticator: ScriptedAuthenticator())
        let connection = Self.greeted(node)
        let answer = Self.ask(node, connection, Self.begin("SCRAM-SHA-256", "anna"), Self.response("wrong"))
        #expect(answer == Self.challenge("prove it") + Self.outcome(1, "e=wrong"))
        #expect(connection.closing == .notAuthenticated)
    }

    // MARK: The end of a proof

    /// Beside the engine's own timer, which speaks and listens meanwhile.
    @Test(arguments: [UInt64(500), 25_000, 100_000]) func ends(lifetime: UInt64) throws {
        let node = try FieldNode(authenticator: ScriptedAuthenticator())
        let client = FieldClient(node, opens: false)
        _ = Self.ask(node, client.connection, Self.header)
        _ = Self.ask(
            node, client.connection, Self.begin("SCRAM-SHA-256", "anna:\(lifetime)"), Self.response("right"))
        client.proton.open()
        client.pump()
        var left = lifetime - 1
        while left > 0 {
            node.advance(milliseconds: min(left, 10_000))
            left -= min(left, 10_000)
            client.pump()
            // A client that is not silent.
            node.receive(client.connection, [0, 0, 0, 8, 2, 0, 0, 0])
            client.pump()
        }
        #expect(client.closing == nil)
        node.advance(milliseconds: 1)
        client.pump()
        #expect(client.closing == .proofEnded)
        let condition = ProtonClient.condition(pn_connection_remote_condition(client.proton.connection))
        #expect(condition?.name == "amqp:unauthorized-access")
        #expect(node.router.sessionCount == 0)
    }

    // MARK: Who came before

    /// Whom an upgrade request has let in is who the client is, unless it says so itself.
    @Test func whoCameBefore() throws {
        let node = try FieldNode(authenticator: ScriptedAuthenticator())
        node.prepare = { $0.letIn = Identity(user: "bert") }
        let plain = Self.greeted(node)
        #expect(Self.ask(node, plain, Self.begin("PLAIN", "\0anna\0secret")) == Self.outcome(0))
        #expect(plain.amqp?.identity?.user == "anna")
        let anonymous = Self.greeted(node)
        #expect(Self.ask(node, anonymous, Self.begin("ANONYMOUS", nil)) == Self.outcome(0))
        #expect(anonymous.amqp?.identity?.user == "bert")
        let client = FieldClient(node)
        #expect(client.connection.amqp?.principal?.identity.user == "bert")
    }
}
