import Core
import TestSupport

@testable import Web

/// The other half of WebSocket, written from RFC 6455 and not from the node's own codec; and connections without
/// sockets, which do with a conversation what the reactor's do.

/// Frames that a client sends.
enum ClientFrame {
    /// A frame. Everything about it can be wrong.
    static func make(
        _ opcode: UInt8, _ payload: [UInt8], isFinal: Bool = true, reserved: UInt8 = 0,
        key: [UInt8]? = [0x37, 0xFA, 0x21, 0x3D], wide: Int? = nil
    ) -> [UInt8] {
        let width = wide ?? (payload.count < 126 ? 0 : payload.count < 65_536 ? 2 : 8)
        var frame = [(isFinal ? 0x80 : 0) | reserved << 4 | opcode]
        let mask: UInt8 = key == nil ? 0 : 0x80
        frame.append(mask | (width == 0 ? UInt8(payload.count) : width == 2 ? 126 : 127))
        for index in (0..<width).reversed() { frame.append(UInt8(truncatingIfNeeded: payload.count >> (index * 8))) }
        guard let key else { return frame + payload }
        return frame + key + payload.enumerated().map { $1 ^ key[$0 % 4] }
    }

    static func text(_ text: String, isFinal: Bool = true) -> [UInt8] { make(1, Array(text.utf8), isFinal: isFinal) }
    static func binary(_ bytes: [UInt8], isFinal: Bool = true) -> [UInt8] { make(2, bytes, isFinal: isFinal) }
    static func more(_ bytes: [UInt8], isFinal: Bool) -> [UInt8] { make(0, bytes, isFinal: isFinal) }
    static func ping(_ bytes: [UInt8] = []) -> [UInt8] { make(9, bytes) }
    static func pong(_ bytes: [UInt8] = []) -> [UInt8] { make(10, bytes) }

    static func close(_ code: UInt16, _ text: [UInt8] = []) -> [UInt8] {
        make(8, [UInt8(code >> 8), UInt8(code & 0xFF)] + text)
    }
}

/// A frame that the node sent.
struct ServerFrame: Equatable {
    var opcode: UInt8
    var isFinal = true
    var payload: [UInt8]

    static func text(_ text: String) -> ServerFrame { ServerFrame(opcode: 1, payload: Array(text.utf8)) }
    static func binary(_ bytes: [UInt8]) -> ServerFrame { ServerFrame(opcode: 2, payload: bytes) }
    static func pong(_ bytes: [UInt8]) -> ServerFrame { ServerFrame(opcode: 10, payload: bytes) }

    /// The code of a close frame; nil when it is none, 1005 without a code.
    var closeCode: Int? {
        guard opcode == 8 else { return nil }
        return payload.count < 2 ? 1_005 : Int(payload[0]) << 8 | Int(payload[1])
    }

    /// Takes frames apart, strictly; nil when the bytes are no frames, or not whole ones.
    static func all(_ bytes: [UInt8]) -> [ServerFrame]? {
        var frames: [ServerFrame] = []
        var rest = bytes[...]
        while let first = rest.popFirst() {
            guard first & 0x70 == 0, let second = rest.popFirst(), second & 0x80 == 0 else { return nil }
            var length = Int(second)
            if second >= 126 {
                let width = second == 126 ? 2 : 8
                guard rest.count >= width else { return nil }
                length = rest.prefix(width).reduce(0) { $0 << 8 | Int($1) }
                rest = rest.dropFirst(width)
                guard length > (width == 2 ? 125 : 65_535) else { return nil }
            }
            guard rest.count >= length else { return nil }
            if first & 8 != 0, length > 125 || first & 0x80 == 0 { return nil }
            frames.append(
                ServerFrame(opcode: first & 15, isFinal: first & 0x80 != 0, payload: Array(rest.prefix(length))))
            rest = rest.dropFirst(length)
        }
        return frames
    }

    /// The payloads of binary frames, in one piece.
    static func stream(_ frames: [ServerFrame]) -> [UInt8] { frames.filter { $0.opcode == 2 }.flatMap(\.payload) }

    /// Messages: fragments put together, control frames left out. Nil when fragments are out of order.
    static func messages(_ frames: [ServerFrame]) -> [ServerFrame]? {
        var messages: [ServerFrame] = []
        var open: ServerFrame?
        for frame in frames where frame.opcode < 8 {
            guard (open == nil) == (frame.opcode != 0) else { return nil }
            var message = open ?? ServerFrame(opcode: frame.opcode, payload: [])
            message.payload += frame.payload
            open = frame.isFinal ? nil : message
            if frame.isFinal { messages.append(message) }
        }
        return open == nil ? messages : nil
    }
}

/// A lane that finds its connections.
final class StageLane: Lane { fileprivate weak var stage: WebSocketStage? }

/// Lanes and what happens on them between two passes.
final class WebSocketStage {
    let lanes: [StageLane]
    var connections: [StageConnection] = []
    private(set) var now: UInt64 = 1_000

    init(lanes count: Int = 1, limits: Limits = Limits()) {
        let shared = Lanes(wakes: (0..<count).map { _ in {} }, limits: limits)
        lanes = (0..<count).map { StageLane(number: $0, lanes: shared) }
        for lane in lanes {
            lane.now = now
            lane.stage = self
        }
    }

    /// A connection whose conversation is made by `make`.
    func connect(lane: Int = 0, _ make: (Link, Lane) -> Conversation) -> StageConnection {
        let connection = StageConnection(self, lanes[lane], number: connections.count)
        connections.append(connection)
        connection.conversation = make(connection.link, lanes[lane])
        return connection
    }

    /// A WebSocket connection.
    func open(
        _ kind: WebSocketLink.Kind, limits: WebSocketLimits = WebSocketLimits(), lane: Int = 0,
        _ makeInside: (WebSocketLink) -> Conversation
    ) -> StageConnection {
        connect(lane: lane) { link, lane in
            WebSocketConversation(on: link, kind: kind, limits: limits, lane: lane, makeInside: makeInside)
        }
    }

    func open(echo limits: WebSocketLimits = WebSocketLimits()) -> StageConnection {
        open(.any, limits: limits) { EchoConversation(link: $0) }
    }

    /// Mail, ends and output of all lanes, until nothing is left to do.
    func settle() {
        for _ in 0..<10 {
            for lane in lanes {
                lane.readMail()
                lane.routeDeferred()
                lane.doWork()
            }
            for connection in connections { connection.finishPass() }
            for lane in lanes {
                lane.routeDeferred()
                lane.postMail()
            }
        }
        for connection in connections { connection.flush() }
    }

    /// Time goes on; timers that are due run.
    func advance(milliseconds: UInt64) {
        now += milliseconds
        for lane in lanes { lane.now = now }
        for connection in connections { connection.tick() }
        settle()
    }
}

/// What the reactor's connection is, without a socket.
final class StageConnection {
    private unowned let stage: WebSocketStage
    fileprivate(set) var lane: StageLane
    let number: Int
    private(set) var link: StageLink!
    fileprivate(set) var conversation: Conversation!
    /// Whether a conversation that wants its turn routed first has to let others go before it goes on.
    var yields = false
    /// Bytes received and not yet taken.
    private(set) var carry: [UInt8] = []
    private(set) var closing: CloseReason?
    private(set) var finishing: CloseReason?
    private(set) var hasEnded = false
    private(set) var isPaused = false
    private var isYielding = false
    private var isResumed = false
    fileprivate var deadline: UInt64?
    fileprivate var move: (lane: Int, arrived: @Sendable (Conversation, Lane) -> Void)?

    fileprivate init(_ stage: WebSocketStage, _ lane: StageLane, number: Int) {
        self.stage = stage
        self.lane = lane
        self.number = number
        link = StageLink(self)
    }

    /// Bytes arrive, in a read of their own.
    func receive(_ bytes: [UInt8]) {
        guard closing == nil, finishing == nil else { return }
        carry += bytes
        if !isPaused { consume() }
        flush()
    }

    /// Bytes arrive, all that they cause is done, and what is sent is taken apart.
    func ask(_ bytes: [UInt8]) -> [ServerFrame]? {
        receive(bytes)
        stage.settle()
        return ServerFrame.all(link.takeSent())
    }

    private func consume() {
        let intake = conversation.take(
            carry, on: lane, isOpen: { closing == nil && finishing == nil }, yields: { yields })
        switch intake.stop {
        case .paused: isPaused = true
        case .yielding: (isPaused, isYielding) = (true, true)
        case .close(let reason): close(reason)
        case .waiting, .ended: break
        }
        carry = finishing == nil ? intake.rest : []
    }

    fileprivate func resume() {
        guard isPaused, closing == nil else { return }
        isPaused = false
        isResumed = true
    }

    /// The end of a pass: those that yielded or were resumed go on, those that end are told, those that move leave.
    fileprivate func finishPass() {
        if isYielding {
            isYielding = false
            resume()
        }
        if isResumed {
            isResumed = false
            // As in the reactor: without a byte that waits there is nothing to go on with.
            if closing == nil, finishing == nil, !carry.isEmpty { consume() }
        }
        if let closing, !hasEnded {
            hasEnded = true
            conversation.close(closing, on: lane)
            flush()
        }
        guard let move, closing == nil else { return }
        self.move = nil
        deadline = nil
        flush()
        lane = stage.lanes[move.lane]
        move.arrived(conversation, lane)
    }

    fileprivate func flush() {
        conversation.produce(on: lane)
        link.collect()
    }

    fileprivate func tick() {
        guard let due = deadline, due <= lane.now, closing == nil, finishing == nil else { return }
        deadline = nil
        switch conversation.tick(on: lane) {
        case .success(let next): deadline = next
        case .failure(let reason): close(reason)
        }
    }

    /// The peer has gone, or the node closes.
    func close(_ reason: CloseReason) { if closing == nil { closing = reason } }

    /// The node is stopping.
    func drain() { if finishing == nil, !conversation.drain(on: lane) { close(.shutdown) } }

    fileprivate func finish(_ reason: CloseReason) { if closing == nil, finishing == nil { finishing = reason } }
}

/// The link of such a connection.
final class StageLink: CollectingLink {
    private unowned let connection: StageConnection

    fileprivate init(_ connection: StageConnection) {
        self.connection = connection
        super.init()
    }

    override func close(_ reason: CloseReason) { connection.close(reason) }
    override func finish(_ reason: CloseReason) { connection.finish(reason) }
    override func resume() { connection.resume() }
    override func tick(at deadline: UInt64) { connection.deadline = deadline }

    override func move(to lane: Int, arrived: @escaping @Sendable (Conversation, Lane) -> Void) {
        connection.move = (lane, arrived)
    }

    override func callback<Answer: Sendable>(
        _ body: @escaping @Sendable (Conversation, Answer, Lane) -> Void
    ) -> @Sendable (Answer) -> Void {
        let lanes = connection.lane.lanes
        let number = connection.lane.number
        let index = connection.number
        return { answer in
            lanes.call(number) { lane in
                guard let connection = (lane as? StageLane)?.stage?.connections[index], connection.closing == nil
                else { return }
                body(connection.conversation, answer, lane)
            }
        }
    }
}
