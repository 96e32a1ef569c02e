import CProton
import Core

@testable import AMQP

/// An output that keeps what is appended.
final class KeptOutput: Output {
    private(set) var bytes: [UInt8] = []

    override func appendSlowly(_ bytes: UnsafeRawPointer, _ count: Int) {
        self.bytes.append(contentsOf: UnsafeRawBufferPointer(start: bytes, count: count))
    }

    func takeBytes() -> [UInt8] {
        defer { bytes.removeAll(keepingCapacity: true) }
        return bytes
    }
}

/// An engine and a client, with what passes between them.
final class EngineStage {
    let engine: ProtonEngine
    let client: ProtonClient
    let output = KeptOutput()
    /// What the engine has told and no test has looked at yet.
    var events: [EngineEvent] = []
    /// What the engine sent last.
    var produced: [UInt8] = []

    static let settings = EngineSettings(
        containerID: "node", maxFrameBytes: 65_536, channelMax: 255, handleMax: 1_023, idleMilliseconds: 60_000)

    init(
        _ settings: EngineSettings = settings, container: String = "client",
        _ configure: (OpaquePointer, OpaquePointer) -> Void = { _, _ in }
    ) {
        engine = ProtonEngine(settings)
        client = ProtonClient(container: container, configure)
    }

    /// Moves bytes until both are silent.
    func pump() {
        while true {
            let sent = client.bytes()
            feed(sent)
            let answer = produce()
            if sent.isEmpty, answer.isEmpty { return }
        }
    }

    func feed(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { engine.take($0) }
        while let event = engine.nextEvent() { events.append(event) }
    }

    @discardableResult
    func produce() -> [UInt8] {
        engine.produce(into: output)
        produced = output.takeBytes()
        client.take(produced)
        while let event = engine.nextEvent() { events.append(event) }
        return produced
    }

    // MARK: What is done in most tests

    /// Opens the connection and a session.
    func open() -> (theirs: OpaquePointer, ours: Engine.Session) {
        client.open()
        let session = client.session()
        pump()
        engine.open([("product", "Apus")], offering: ["ANONYMOUS-RELAY"])
        pump()
        guard let ours = takeBegun() else { preconditionFailure("no session has begun") }
        engine.begin(ours)
        pump()
        events.removeAll()
        return (session, ours)
    }

    /// Answers the attach that has come, granting what it asks for.
    func answerAttach(credit: Int = 0) -> Engine.Link {
        pump()
        guard let link = takeAttached() else { preconditionFailure("nothing has been attached") }
        let remote = engine.remoteAttach(link)
        engine.attach(
            link,
            LocalAttach(
                source: remote.source, target: remote.target, senderSettles: remote.senderSettles,
                receiverSettles: .first, maxMessageBytes: 10_000_000))
        if credit > 0 { engine.grant(link, credit) }
        pump()
        events.removeAll()
        return link
    }

    /// Sends one message of one part.
    @discardableResult
    func send(_ bytes: [UInt8], on link: Engine.Link, isSettled: Bool = false) -> Engine.Delivery? {
        bytes.withUnsafeBytes { engine.send(MessageParts(first: $0), on: link, isSettled: isSettled) }
    }

    // MARK: Looking at events

    func takeBegun() -> Engine.Session? {
        for (index, event) in events.enumerated() {
            if case .begun(let session) = event {
                events.remove(at: index)
                return session
            }
        }
        return nil
    }

    func takeAttached() -> Engine.Link? {
        for (index, event) in events.enumerated() {
            if case .attached(let link) = event {
                events.remove(at: index)
                return link
            }
        }
        return nil
    }

    func takeDeliveries() -> [(delivery: Engine.Delivery, link: Engine.Link)] {
        defer { events.removeAll { if case .delivery = $0 { true } else { false } } }
        return events.compactMap { if case .delivery(let delivery, let link) = $0 { (delivery, link) } else { nil } }
    }

    func takeDetached() -> (link: Engine.Link, isClosing: Bool, error: AMQPError?)? {
        for (index, event) in events.enumerated() {
            if case .detached(let link, let isClosing, let error) = event {
                events.remove(at: index)
                return (link, isClosing, error)
            }
        }
        return nil
    }

    func takeFailure() -> AMQPError? {
        for (index, event) in events.enumerated() {
            if case .failed(let error) = event {
                events.remove(at: index)
                return error
            }
        }
        return nil
    }

    func takeFlows() -> [Engine.Link] {
        defer { events.removeAll { if case .flow = $0 { true } else { false } } }
        return events.compactMap { if case .flow(let link) = $0 { link } else { nil } }
    }

    /// Reads what has arrived of the current delivery of a link.
    func read(_ link: Engine.Link, _ count: Int) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: max(1, count)) { buffer, initialized in
            initialized = engine.read(link, into: UnsafeMutableRawPointer(buffer.baseAddress!), count: count)
        }
    }
}
