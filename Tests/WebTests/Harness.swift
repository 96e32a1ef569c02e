import Core
import Synchronization
import Web
import TestSupport

/// Drives HTTP conversations without sockets, clocks and threads: the lane, the router and the adapter are the real
/// ones, the reactor is replaced by the same loop over byte arrays. Time stands still until a test moves it.

/// What an answer says.
struct Answer: Equatable {
    var status = 0
    /// Lines behind the status line, as sent.
    var lines: [String] = []
    var body: [UInt8] = []

    var text: String { String(decoding: body, as: UTF8.self) }

    /// The value of a field, given with its spelling.
    func value(_ name: String) -> String? {
        lines.first { $0.hasPrefix(name + ": ") }.map { String($0.dropFirst(name.count + 2)) }
    }

    /// Takes complete answers off the bytes.
    /// - Parameter isHead: for each, whether its request was a HEAD; those behind the last are not.
    static func takeAll(_ bytes: inout [UInt8], isHead: [Bool] = []) -> [Answer] {
        var answers: [Answer] = []
        while let end = bytes.firstRange(of: Array("\r\n\r\n".utf8)) {
            var answer = Answer()
            answer.lines = String(decoding: bytes[..<end.lowerBound], as: UTF8.self).components("\r\n")
            let words = answer.lines.removeFirst().components(" ")
            guard words.count >= 3, words[0] == "HTTP/1.1", let status = Int(words[1]) else { break }
            answer.status = status
            var length = Int(answer.value("Content-Length") ?? "0") ?? 0
            if answers.count < isHead.count, isHead[answers.count] { length = 0 }
            guard bytes.count >= end.upperBound + length else { break }
            answer.body = Array(bytes[end.upperBound..<end.upperBound + length])
            answers.append(answer)
            bytes.removeFirst(end.upperBound + length)
        }
        return answers
    }
}

extension String {
    fileprivate func components(_ separator: String) -> [String] {
        var parts: [String] = [""]
        var rest = self[...]
        while let found = rest.firstRange(of: separator) {
            parts[parts.count - 1] = String(rest[..<found.lowerBound])
            parts.append("")
            rest = rest[found.upperBound...]
        }
        parts[parts.count - 1] = String(rest)
        return parts
    }
}

/// A connection's output, with what the reactor does around it.
final class FakeLink: CollectingLink {
    fileprivate(set) var finishing: CloseReason?
    fileprivate(set) var closing: CloseReason?
    fileprivate(set) var isPaused = false
    fileprivate(set) var deadline: UInt64?
    fileprivate var mustResume = false
    fileprivate unowned let stage: FakeStage
    fileprivate let number: Int

    fileprivate init(_ stage: FakeStage, _ number: Int) {
        self.stage = stage
        self.number = number
        super.init()
    }

    override var peer: String { "fake" }
    /// Whom a certificate proves the client to be.
    var proven: String?
    override var provenUser: String? { proven }

    override func close(_ reason: CloseReason) { if closing == nil { closing = reason } }

    override func finish(_ reason: CloseReason) { if closing == nil, finishing == nil { finishing = reason } }

    override func resume() {
        guard isPaused, closing == nil, finishing == nil else { return }
        isPaused = false
        mustResume = true
    }

    override func callback<Answer: Sendable>(
        _ body: @escaping @Sendable (Conversation, Answer, Lane) -> Void
    ) -> @Sendable (Answer) -> Void {
        let (lanes, number) = (stage.lane.lanes, number)
        return { answer in
            lanes.call(0) { lane in
                guard let connection = FakeStage.of(lane)?.connections[number], connection.link.closing == nil
                else { return }
                body(connection.conversation, answer, lane)
            }
        }
    }

    override func tick(at time: UInt64) { if finishing == nil { deadline = time } }
}

/// A connection: a conversation, its bytes not yet taken.
final class FakeConnection {
    let link: FakeLink
    fileprivate(set) var conversation: Conversation!
    fileprivate var carry: [UInt8] = []
    private unowned let stage: FakeStage

    fileprivate init(_ stage: FakeStage, _ number: Int) {
        self.stage = stage
        link = FakeLink(stage, number)
    }

    /// Everything sent and not yet looked at.
    private(set) var output: [UInt8] = []

    /// Bytes arrive, and the lane makes its pass.
    func send(_ bytes: [UInt8]) {
        receive(bytes)
        stage.settle()
    }

    /// Bytes arrive; answers of other threads wait.
    func receive(_ bytes: [UInt8]) {
        guard link.closing == nil, link.finishing == nil else { return }
        carry += bytes
        if !link.isPaused { consume() }
    }

    /// A text in which a newline stands for CR LF.
    func send(_ text: String) { send(wire(text)) }

    /// The peer will send no more.
    func endInput() {
        guard link.closing == nil, link.finishing == nil, !link.isPaused else { return }
        if !conversation.inputEnded(on: stage.lane) { link.close(.connectionLost) }
        stage.settle()
    }

    /// What waited has been read by the peer.
    func drainOutput() {
        link.isCongested = false
        if link.closing == nil, link.finishing == nil { conversation.outputDrained(on: stage.lane) }
        stage.settle()
    }

    /// The node stops.
    func drain() {
        guard link.finishing == nil, link.closing == nil else { return }
        if !conversation.drain(on: stage.lane) { link.close(.shutdown) }
        stage.settle()
    }

    /// The connection ends.
    func cut() {
        link.close(.connectionLost)
        conversation.close(.connectionLost, on: stage.lane)
        stage.settle()
    }

    /// Answers that came since the last call; what is no answer stays.
    func answers(isHead: [Bool] = []) -> [Answer] {
        collect()
        return Answer.takeAll(&output, isHead: isHead)
    }

    /// Bytes that came since the last call.
    func bytes() -> [UInt8] {
        collect()
        defer { output = [] }
        return output
    }

    private func collect() {
        conversation?.produce(on: stage.lane)
        output += link.takeSent()
    }

    fileprivate func consume() {
        let intake = conversation.take(
            carry, on: stage.lane, isOpen: { link.closing == nil && link.finishing == nil })
        switch intake.stop {
        case .paused: link.isPaused = true
        case .close(let reason): link.close(reason)
        case .waiting, .yielding, .ended: break
        }
        carry = link.finishing == nil ? intake.rest : []
    }

    fileprivate func resume() {
        link.mustResume = false
        if link.closing == nil, link.finishing == nil, !carry.isEmpty { consume() }
    }

    fileprivate func tick() {
        guard link.closing == nil, link.finishing == nil, let due = link.deadline, due <= stage.lane.now else { return }
        link.deadline = nil
        switch conversation.tick(on: stage.lane) {
        case .success(let next): if let next { link.tick(at: next) }
        case .failure(let reason): link.close(reason)
        }
    }
}

/// A lane with an HTTP site, whose loop is a function.
final class FakeStage {
    private final class Bell: Sendable { let isRung = Atomic<Bool>(false) }
    /// Lets the lane's calls find the stage.
    private final class Place {
        weak var stage: FakeStage?
    }

    let lane: Lane
    fileprivate var connections: [Int: FakeConnection] = [:]
    private var made = 0
    private let bell: Bell
    private let adapter: HTTPAdapter

    init(_ site: any HTTPSite) {
        let bell = Bell()
        self.bell = bell
        lane = Lane(
            number: 0, lanes: Lanes(wakes: [{ bell.isRung.store(true, ordering: .relaxed) }], limits: Limits()))
        lane.now = 1_000_000
        adapter = HTTPAdapter(site: site) { 784_111_777 }
        let place = Place()
        place.stage = self
        lane.belongings["fake.stage"] = place
    }

    deinit { for connection in connections.values { connection.conversation = nil } }

    static func of(_ lane: Lane) -> FakeStage? { (lane.belongings["fake.stage"] as? Place)?.stage }

    func connect() -> FakeConnection {
        let connection = FakeConnection(self, made)
        connections[made] = connection
        made += 1
        connection.conversation = adapter.makeConversation(link: connection.link, on: lane)
        return connection
    }

    /// Reads mail and goes on with who was resumed, until there is nothing left to do.
    func settle() {
        var isBusy = true
        while isBusy {
            isBusy = false
            while bell.isRung.exchange(false, ordering: .relaxed) {
                lane.readMail()
                isBusy = true
            }
            for connection in connections.values where connection.link.mustResume {
                connection.resume()
                isBusy = true
            }
        }
    }

    /// Time goes on.
    func advance(_ milliseconds: Int) {
        lane.now += UInt64(milliseconds)
        for connection in connections.values { connection.tick() }
        settle()
    }
}

/// The bytes of a text in which a newline stands for CR LF.
func wire(_ text: String) -> [UInt8] {
    var bytes: [UInt8] = []
    for byte in text.utf8 {
        if byte == 10 { bytes.append(13) }
        bytes.append(byte)
    }
    return bytes
}
