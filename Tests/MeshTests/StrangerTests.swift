import Core
import TestSupport
import Testing

@testable import Mesh

/// Ports that were mixed up: something else answers where a node was dialled, or comes in where nodes do.
@Suite struct StrangerTests {
    /// First bytes, and what they are.
    static let openings: [(String, [UInt8])] = [
        ("HTTP", Array("HTTP/1.1 400 Bad Request\r\n".utf8)), ("HTTP", Array("GET / HTTP/1.1\r\n".utf8)),
        ("HTTP", Array("POST /TOPIC/a HTTP/1.1\r\n".utf8)), ("HTTP", Array("PRI * HTTP/2.0".utf8)),
        // A hello of 254 and one of 512 bytes; an alert.
        ("TLS", [0x16, 3, 1, 1, 0xFE, 1, 0, 1]), ("TLS", [0x16, 3, 1, 2, 0, 1, 0, 1]),
        ("TLS", [0x15, 3, 3, 0, 2, 2, 22]),
        ("MQTT", [0x10, 13, 0, 4] + Array("MQTT".utf8)), ("MQTT", [0x10, 0x90, 1, 0, 4] + Array("MQT".utf8)),
        ("MQTT", [0x10, 13, 0, 6] + Array("MQIs".utf8)), ("MQTT", [0x20, 2, 0, 1 + 1]),
        ("MQTT", [0x20, 3, 0, 0x84, 0]),
        ("AMQP", Array("AMQP".utf8) + [0, 1, 0, 0]), ("SSH", Array("SSH-2.0-".utf8)),
    ]

    @Test(arguments: openings) func theyAreKnownByTheirFirstBytes(_ name: String, _ bytes: [UInt8]) {
        #expect(Stranger(bytes)?.rawValue == name)
        #expect(bytes.withUnsafeBytes { !MeshGreeting.begins($0) })
    }

    @Test func aNodeIsNone() {
        var random = Seeded(seed: 11)
        for _ in 0..<2_000 {
            var first = Initiation()
            first.meshID = String(repeating: "m", count: Int.random(in: 0...64, using: &random))
            first.name = String(repeating: "n", count: Int.random(in: 0...255, using: &random))
            first.linkName = String(repeating: "l", count: Int.random(in: 0...64, using: &random))
            let bye = ByeReason.secret.frame(String(repeating: "t", count: Int.random(in: 0...1_000, using: &random)))
            #expect(Stranger(first.frame()) == nil && Stranger(bye) == nil)
            #expect(first.frame().withUnsafeBytes { MeshGreeting.begins($0) })
            #expect(bye.withUnsafeBytes { !MeshGreeting.begins($0) })
        }
        for count in 0..<MeshGreeting.size {
            #expect(Initiation().frame().prefix(count).withUnsafeBytes { !MeshGreeting.begins($0) })
        }
    }

    @Test(arguments: openings.filter { $0.1.count >= FrameHeader.size })
    func whoComesToTheMeshsPortIsNamed(_ name: String, _ bytes: [UInt8]) {
        let field = MeshField()
        let a = field.start("a:1", links: [])
        let end = a.client { a.node.accepted($0, on: $1) }
        #expect(end.inject(bytes))
        field.run(2)
        #expect(a.lines.contains { $0.hasSuffix("this is the mesh's port, and the peer speaks \(name)") }, "\(a.lines)")
        #expect(end.isOver)
        field.dismantle()
    }

    /// What a link that is not there says of the reason.
    private func problem(_ body: (MeshField.End) -> Void, after milliseconds: Int = 2) -> String {
        let field = MeshField()
        let b = field.start("b:1", links: ["x:7"])
        field.run(10)
        let target = b.node.dials.targets[0]
        let end = b.client { link, _ in
            MeshConversation(node: b.node, link: link, dialling: target.entry, target: target.number, dataOf: nil)
        }
        body(end)
        // It is dialled again soon, and then nobody is there: what is wanted was said in between.
        var found = ""
        for _ in 0..<milliseconds where found.isEmpty {
            field.run(1)
            found = b.lines.first { $0.hasPrefix("no link to x:7: ") && !$0.contains("refused") } ?? ""
        }
        field.dismantle()
        return found
    }

    private static let hint = "; perhaps x:7 is not the mesh's port (mesh.listen of the other node)"

    @Test(arguments: openings) func whatAnswersIsNamed(_ name: String, _ bytes: [UInt8]) {
        let found = problem { end in
            _ = end.inject(bytes)
            // Few bytes may be all that there is.
            if bytes.count < FrameHeader.size { end.endInput() }
        }
        #expect(found.hasPrefix("no link to x:7: what answers speaks \(name)\(Self.hint)"), "\(found)")
    }

    @Test func whatIsUnknownOrSilentIsSaid() {
        #expect(
            problem { _ = $0.inject([UInt8](repeating: 9, count: 20)) }
                .hasPrefix("no link to x:7: the first frame of what answers is none of the mesh" + Self.hint))
        #expect(
            problem { $0.close(.connectionLost) }.hasPrefix("no link to x:7: it was closed without a word" + Self.hint))
        #expect(
            problem { $0.close(.handshakeFailed) }.hasPrefix("no link to x:7: TLS was not agreed on" + Self.hint))
        #expect(
            problem({ _ in }, after: 6_000).hasPrefix("no link to x:7: the handshake took too long" + Self.hint))
    }

    /// A node that has said who it is, or why not, is one.
    @Test func aNodeThatRefusesIsNotSuspected() {
        let field = MeshField()
        field.start("a:1", links: []) { $0.meshID = "other" }
        let b = field.start("b:1", links: ["a:1"])
        field.run(50)
        #expect(b.lines.contains { $0.hasPrefix("no link to a:1: ") })
        #expect(!b.lines.contains { $0.contains("perhaps") }, "\(b.lines)")
        field.dismantle()
    }
}
