import Core
import TestSupport
import Testing

/// A client without a socket: it sends frames, and reads answers when asked.
final class TestClient {
    let node: TestNode
    let connection: TestConnection
    private var unread: [UInt8] = []

    init(_ node: TestNode, lane: Int = 0) {
        self.node = node
        connection = node.accept(lane: lane)
    }

    /// Connects and forgets the CONNACK.
    convenience init(
        _ node: TestNode, _ clientID: String, clean: Bool = true, lane: Int = 0, keepAlive: UInt16 = 0,
        will: Frame.Will? = nil, user: String? = nil
    ) {
        self.init(node, lane: lane)
        send(Frame.connect(clientID, clean: clean, keepAlive: keepAlive, will: will, user: user))
        node.settle()
        let answers = answers()
        guard case .connack(let present, 0) = answers.first else {
            Issue.record("\(clientID) was not let in: \(answers)")
            return
        }
        isSessionPresent = present
        returned = Array(answers.dropFirst())
    }

    /// What the CONNACK said.
    private(set) var isSessionPresent = false
    /// What came with the CONNACK: events that had waited.
    private(set) var returned: [Answer] = []

    /// Why the connection was closed; nil while it is open.
    var closing: CloseReason? { connection.closing }

    /// Sends frames in one piece; only this connection's lane works.
    func step(_ frames: [UInt8]...) { node.receive(connection, frames.flatMap { $0 }) }

    /// Sends frames in one piece, and all lanes work until nothing is left to do.
    func send(_ frames: [UInt8]...) {
        node.receive(connection, frames.flatMap { $0 })
        node.settle()
    }

    /// Sends and reads the answers.
    func ask(_ frames: [UInt8]...) -> [Answer] {
        node.receive(connection, frames.flatMap { $0 })
        node.settle()
        return answers()
    }

    /// Subscribes; the SUBACK is forgotten.
    func subscribe(_ filter: String, qos: UInt8 = 0) { _ = ask(Frame.subscribe(1, [(filter, qos)])) }

    /// Answers that have arrived since the last call.
    func answers() -> [Answer] {
        unread += connection.link.takeSent()
        return Answer.takeAll(&unread)
    }

    /// Bytes of an answer that is not complete.
    var incomplete: [UInt8] { unread }

    /// Events among the answers that have arrived.
    func events() -> [Answer.Publish] {
        answers().compactMap { if case .publish(let event) = $0 { event } else { nil } }
    }

    /// The connection is lost without a word.
    func cut() {
        node.cut(connection)
        node.settle()
    }
}
