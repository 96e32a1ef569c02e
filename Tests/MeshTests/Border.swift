import MQTT
import Testing

@testable import Core
@testable import Mesh

/// Three nodes in a line, a border between the first two that topics below `de` must not cross in either direction, and
/// somebody who looks at every byte there.
final class Border {
    static let topic = "de/hidden"
    static let payload = "not-for-abroad"

    let field = MeshField()
    private(set) var a, b, c: MeshField.Station!
    /// What was seen of the topic or the payload at the border.
    private(set) var leaks: [String] = []
    /// The last bytes of each direction, in case something is cut in two.
    private var tails: [String: [UInt8]] = [:]
    private(set) var bytesSeen = 0

    init(
        a changeA: @escaping (inout MeshSettings) -> Void = Border.closed("b:1"),
        b changeB: @escaping (inout MeshSettings) -> Void = Border.closed("a:1")
    ) {
        a = field.start("a:1", links: [], changeA)
        b = field.start("b:1", links: ["a:1"], changeB)
        c = field.start("c:1", links: ["b:1"])
        field.onBytes = { [weak self] from, to, bytes in self?.look(from.address, to.address, bytes) }
        field.run(1_500)
    }

    /// Keeps what is below `de` from leaving to a neighbour.
    static func closed(_ peer: String) -> (inout MeshSettings) -> Void {
        { settings in
            var policy = LinkPolicy(peers: [peer])
            policy.export.deny = filters("de/>")
            settings.policies = [policy]
        }
    }

    static func filters(_ texts: String...) -> [TopicFilter] {
        texts.compactMap { try? TopicFilter($0, grammar: .either) }
    }

    private func look(_ from: String, _ to: String, _ bytes: [UInt8]) {
        guard [from, to].contains("a:1"), [from, to].contains("b:1") else { return }
        bytesSeen += bytes.count
        let seen = tails[from, default: []] + bytes
        for word in [Self.topic, Self.payload] where seen.firstRange(of: Array(word.utf8)) != nil {
            leaks.append("\(word), from \(from) to \(to)")
        }
        tails[from] = Array(seen.suffix(Self.payload.utf8.count - 1))
    }

    /// Breaks the border's link; it is there again a moment later.
    func cut() { field.cut(a, b) }

    /// Keeps the border's nodes apart until ``heal()``.
    func part() {
        field.kill(b)
        field.run(600)
    }

    func heal() {
        b = field.start("b:1", links: ["a:1"], Self.closed("a:1"))
        field.run(8_000)
    }

    /// What a node retains of a topic.
    func retained(_ topic: String, at station: MeshField.Station) -> String? {
        Array(topic.utf8).withUnsafeBytes { station.router.retained($0, now: station.lane.now) }
            .map { String(decoding: $0.payload, as: UTF8.self) }
    }

    /// Events that a node has kept back.
    func kept(_ station: MeshField.Station) -> UInt64 {
        station.lane.counters.dropped[DropReason.linkPolicy.rawValue]
    }
}

/// As much of a client of MQTT 3.1.1 as it takes to have a session.
final class BorderClient {
    private let end: MeshField.End
    private var out: [UInt8] = []

    init(_ station: MeshField.Station, _ clientID: String) {
        let adapter = MQTTAdapter(
            routers: ["default": station.router], authenticator: StageAuthenticator(), random: { 4 })
        station.kept.append(adapter)
        end = station.client { adapter.makeConversation(link: $0, on: $1) }
        end.onSend = { [weak self] in self?.out += $0 }
        let id = Array(clientID.utf8)
        send(0x10, [0, 4] + Array("MQTT".utf8) + [4, 0, 0, 0, 0, UInt8(id.count)] + id)
    }

    private func send(_ first: UInt8, _ body: [UInt8]) { _ = end.inject([first, UInt8(body.count)] + body) }

    func subscribe(_ filter: String) {
        send(0x82, [0, 1, 0, UInt8(filter.utf8.count)] + Array(filter.utf8) + [1])
    }

    func disconnect() { send(0xE0, []) }

    /// Whether CONNACK has come, and what it says of the session.
    var isPresent: Bool? { out.count >= 4 && out[0] == 0x20 ? out[2] == 1 : nil }

    func hasHeard(_ text: String) -> Bool { out.firstRange(of: Array(text.utf8)) != nil }
}
