import Core
import TestSupport
import Testing

/// A client of MQTT 5 without a socket: it sends frames, and reads answers when asked.
final class TestClient5 {
    let node: TestNode
    let connection: TestConnection
    private var unread: [UInt8] = []

    init(_ node: TestNode, lane: Int = 0) {
        self.node = node
        connection = node.accept(lane: lane)
    }

    /// Connects; the CONNACK is kept.
    /// - Parameter expiry: the Session Expiry Interval, in seconds.
    convenience init(
        _ node: TestNode, _ clientID: String, clean: Bool = true, expiry: UInt32? = nil, lane: Int = 0,
        keepAlive: UInt16 = 0, properties: [Property5] = [], will: Frame5.Will? = nil, user: String? = nil
    ) {
        self.init(node, lane: lane)
        let all = (expiry.map { [.sessionExpiry($0)] } ?? []) + properties
        send(
            Frame5.connect(clientID, clean: clean, keepAlive: keepAlive, properties: all, will: will, user: user))
        let answers = answers()
        guard case .connack(let present, 0, let said) = answers.first else {
            Issue.record("\(clientID) was not let in: \(answers)")
            return
        }
        isSessionPresent = present
        connack = said
        returned = Array(answers.dropFirst())
    }

    /// What the CONNACK said.
    private(set) var isSessionPresent = false
    private(set) var connack: [Property5] = []
    /// What came with the CONNACK: events that had waited.
    private(set) var returned: [Answer5] = []

    /// Why the connection was closed; nil while it is open.
    var closing: CloseReason? { connection.closing }

    /// Sends frames in one piece; only this connection's lane works.
    func step(_ frames: [UInt8]...) { node.receive(connection, frames.flatMap { $0 }) }

    /// Sends frames in one piece, and all lanes work until nothing is left to do.
    func send(_ frames: [UInt8]...) {
        node.receive(connection, frames.flatMap { $0 })
        node.settle()
    }

    /// Sends and reads the answers, without their Reason Strings.
    func ask(_ frames: [UInt8]...) -> [Answer5] {
        node.receive(connection, frames.flatMap { $0 })
        node.settle()
        return answers()
    }

    /// Subscribes; the SUBACK is forgotten.
    func subscribe(_ filter: String, qos: UInt8 = 0, id: Int? = nil) {
        _ = ask(Frame5.subscribe(1, [.init(filter, qos: qos)], id.map { [.subscriptionID($0)] } ?? []))
    }

    /// Answers that have arrived since the last call, without their Reason Strings.
    func answers() -> [Answer5] { wholeAnswers().map(\.bare) }

    /// Answers that have arrived since the last call, as they are.
    func wholeAnswers() -> [Answer5] {
        unread += connection.link.takeSent()
        return Answer5.takeAll(&unread)
    }

    /// The bytes that have arrived since the last call.
    func bytes() -> [UInt8] {
        defer { unread = [] }
        return unread + connection.link.takeSent()
    }

    /// Events among the answers that have arrived.
    func events() -> [Answer5.Publish] { Self.events(answers()) }

    /// Events that came with the CONNACK.
    var returnedEvents: [Answer5.Publish] { Self.events(returned) }

    private static func events(_ answers: [Answer5]) -> [Answer5.Publish] {
        answers.compactMap { if case .publish(let event) = $0 { event } else { nil } }
    }

    /// The connection is lost without a word.
    func cut() {
        node.cut(connection)
        node.settle()
    }
}
