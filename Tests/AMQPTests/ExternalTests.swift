import Core
import Testing

@testable import AMQP

/// SASL EXTERNAL (RFC 4422 appendix A): the transport says who the client is.
@Suite struct ExternalTests {
    /// What the node sends for sasl-init with EXTERNAL.
    private static func answer(_ node: FieldNode, _ authorization: String) -> (greeting: [UInt8], outcome: UInt8?) {
        let connection = node.accept()
        node.receive(connection, Array("AMQP".utf8) + [3, 1, 0, 0])
        node.settle()
        let greeting = connection.link.takeSent()
        let response = Array(authorization.utf8)
        let fields: [UInt8] = [0xA3, 8] + Array("EXTERNAL".utf8) + [0xA0, UInt8(response.count)] + response
        let body: [UInt8] = [0x00, 0x53, 0x41, 0xC0, UInt8(fields.count + 1), 2] + fields
        node.receive(connection, [0, 0, 0, UInt8(body.count + 8), 2, 1, 0, 0] + body)
        node.settle()
        let outcome = connection.link.takeSent()
        #expect(connection.amqp?.identity?.user == (outcome.last == 0 ? node.proves : nil))
        return (greeting, outcome.last)
    }

    @Test(arguments: [("", 0), ("anna", 0), ("bert", 1)] as [(String, UInt8)])
    func whoIsProvenIsLetIn(authorization: String, outcome: UInt8) throws {
        let node = try FieldNode()
        node.proves = "anna"
        let answer = Self.answer(node, authorization)
        #expect(String(decoding: answer.greeting, as: UTF8.self).contains("EXTERNAL"))
        #expect(answer.outcome == outcome)
    }

    @Test func notOfferedToOthers() throws {
        let answer = Self.answer(try FieldNode(), "")
        #expect(!String(decoding: answer.greeting, as: UTF8.self).contains("EXTERNAL"))
        #expect(answer.outcome == 1)
    }

    /// With PLAIN as well nobody acts for another one (RFC 4616 §2).
    @Test(arguments: [("", 0), ("anna", 0), ("root", 1)] as [(String, UInt8)])
    func plainForAnother(authorization: String, outcome: UInt8) throws {
        let node = try FieldNode()
        let connection = node.accept()
        node.receive(connection, Array("AMQP".utf8) + [3, 1, 0, 0])
        node.settle()
        _ = connection.link.takeSent()
        let response = Array(authorization.utf8) + [0] + Array("anna".utf8) + [0] + Array("secret".utf8)
        let fields: [UInt8] = [0xA3, 5] + Array("PLAIN".utf8) + [0xA0, UInt8(response.count)] + response
        let body: [UInt8] = [0x00, 0x53, 0x41, 0xC0, UInt8(fields.count + 1), 2] + fields
        node.receive(connection, [0, 0, 0, UInt8(body.count + 8), 2, 1, 0, 0] + body)
        node.settle()
        #expect(connection.link.takeSent().last == outcome)
        #expect(connection.amqp?.identity?.user == (outcome == 0 ? "anna" : nil))
    }
}
