import CProton
import Core
import Testing

@testable import AMQP

/// A client of a ``FieldNode``: libqpid-proton at the other end of a connection.
final class FieldClient {
    let node: FieldNode
    let connection: FieldConnection
    let proton: ProtonClient
    private(set) var session: OpaquePointer!

    /// Opens a connection with a session. With a user it authenticates by PLAIN, else SASL is skipped.
    init(
        _ node: FieldNode, _ container: String = "c", user: String? = nil, lane: Int = 0, opens: Bool = true,
        _ configure: (OpaquePointer, OpaquePointer) -> Void = { _, _ in }
    ) {
        self.node = node
        connection = node.accept(lane: lane)
        proton = ProtonClient(container: container, configure)
        if let user {
            node.receive(connection, Array("AMQP".utf8) + [3, 1, 0, 0])
            node.receive(connection, Self.plain(user))
            node.settle()
            _ = connection.link.takeSent()
        }
        guard opens else { return }
        proton.open()
        session = proton.session()
        pump()
    }

    /// sasl-init with PLAIN (§5.3.3.2).
    private static func plain(_ user: String) -> [UInt8] {
        let response = [0] + Array(user.utf8) + [0] + Array("right".utf8)
        let fields: [UInt8] = [0xA3, 5] + Array("PLAIN".utf8) + [0xA0, UInt8(response.count)] + response
        let body: [UInt8] = [0x00, 0x53, 0x41, 0xC0, UInt8(fields.count + 1), 2] + fields
        return [0, 0, 0, UInt8(body.count + 8), 2, 1, 0, 0] + body
    }

    /// Why the connection was closed; nil while it is open.
    var closing: CloseReason? { connection.closing }

    // MARK: Bytes

    /// Bytes go to and fro until both ends are silent, and all lanes work.
    func pump() {
        while true {
            let sent = proton.bytes()
            if !sent.isEmpty { node.receive(connection, sent) }
            node.settle()
            let answer = connection.link.takeSent()
            if !answer.isEmpty { proton.take(answer) }
            if sent.isEmpty, answer.isEmpty { return }
        }
    }

    /// Sends what is due in one piece; only this connection's lane works.
    func step() {
        node.receive(connection, proton.bytes())
        hear()
    }

    /// Takes what the node has sent.
    func hear() { proton.take(connection.link.takeSent()) }

    /// The connection is lost without a word.
    func cut() {
        node.cut(connection)
        node.settle()
    }

    // MARK: Links

    func sender(
        _ name: String = "s", to address: String?, _ configure: (OpaquePointer) -> Void = { _ in }
    ) -> OpaquePointer {
        let link = proton.sender(session, name, to: address, configure)
        pump()
        return link
    }

    /// A receiver with some credit; with `keeps` its subscription outlives the link.
    func receiver(
        _ name: String = "r", from address: String?, credit: Int32 = 0, keeps: Bool = false,
        seconds: UInt32 = 0, capabilities: [String] = [], _ configure: (OpaquePointer) -> Void = { _ in }
    ) -> OpaquePointer {
        let link = proton.receiver(session, name, from: address) { link in
            let source = pn_link_source(link)
            if keeps {
                pn_terminus_set_durability(source, PN_DELIVERIES)
                if seconds == 0 { pn_terminus_set_expiry_policy(source, PN_EXPIRE_NEVER) }
            }
            pn_terminus_set_timeout(source, seconds)
            if !capabilities.isEmpty {
                ProtonEngine.put(symbols: capabilities, into: pn_terminus_capabilities(source))
            }
            configure(link)
        }
        if credit > 0 { proton.grant(link, credit) }
        pump()
        return link
    }

    /// Detaches or closes a link and frees it once the node has answered.
    func leave(_ link: OpaquePointer, closes: Bool) {
        if closes { pn_link_close(link) } else { pn_link_detach(link) }
        pump()
        pn_link_free(link)
        pump()
    }

    /// Whether the node refused or ended the link, and why.
    func condition(_ link: OpaquePointer) -> String? {
        ProtonClient.condition(pn_link_remote_condition(link))?.name
    }

    // MARK: Messages

    /// One data section.
    static func message(_ text: String) -> [UInt8] { message(Array(text.utf8)) }

    static func message(_ payload: [UInt8]) -> [UInt8] {
        let count = payload.count
        if count < 256 { return [0x00, 0x53, 0x75, 0xA0, UInt8(count)] + payload }
        return [0x00, 0x53, 0x75, 0xB0] + withUnsafeBytes(of: UInt32(count).bigEndian) { Array($0) } + payload
    }

    /// Sends messages; unsettled ones are returned.
    @discardableResult
    func send(_ texts: [String], on link: OpaquePointer, isSettled: Bool = false) -> [OpaquePointer] {
        texts.compactMap { proton.send(Self.message($0), on: link, isSettled: isSettled) }
    }

    /// Texts that a receiver has got.
    func texts(_ link: OpaquePointer) -> [String] { received(link).map { Self.text($0.bytes) } }

    func received(_ link: OpaquePointer) -> [ProtonClient.Received] { proton.received[link] ?? [] }

    static func text(_ bytes: [UInt8]) -> String {
        bytes.withUnsafeBytes { bytes in
            guard let message = try? IncomingMessage(bytes) else { return "no message" }
            return String(decoding: message.payload, as: UTF8.self)
        }
    }

    /// The count of earlier deliveries that a message's header says (§3.2.1).
    func deliveryCount(_ received: ProtonClient.Received) -> UInt32 {
        let message = pn_message()
        defer { pn_message_free(message) }
        let code = received.bytes.withUnsafeBytes {
            pn_message_decode(message, $0.baseAddress?.assumingMemoryBound(to: CChar.self), $0.count)
        }
        return code == 0 ? pn_message_get_delivery_count(message) : .max
    }

    /// What the node said of a delivery: nil for nothing.
    static func outcome(_ delivery: OpaquePointer) -> Int32? {
        let state = pn_delivery_remote_state(delivery)
        return state == 0 ? nil : Int32(state)
    }
}

/// The outcomes of deliveries, as Proton has them.
let (accepted, rejected, released, modified) =
    (Int32(PN_ACCEPTED), Int32(PN_REJECTED), Int32(PN_RELEASED), Int32(PN_MODIFIED))
