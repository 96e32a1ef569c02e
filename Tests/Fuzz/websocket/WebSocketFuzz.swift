import Core
import TestSupport

@testable import Web

/// A WebSocket connection: whatever a peer sends, cut anywhere, the node neither traps nor says what are no frames, and
/// an echo sends back whole messages or a close frame.

/// The first byte chooses what is inside, the second how the bytes are cut.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 2 else { return 0 }
    let bytes = Array(UnsafeBufferPointer(start: start + 2, count: count - 2))
    let kind: WebSocketLink.Kind = [.binary, .text, .any][Int(start[0] % 3)]
    let whole = play(kind, bytes, step: bytes.count, yields: false)
    let pieces = play(kind, bytes, step: Int(start[1] % 32) + 1, yields: start[0] & 128 != 0)
    // A stream may be echoed in other frames; what is said is the same.
    precondition(whole.said == pieces.said, "\(whole.said) \(pieces.said)")
    precondition(whole.control == pieces.control, "\(whole.control) \(pieces.control)")
    return 0
}

private struct Heard {
    var said: [ServerFrame] = []
    var control: [ServerFrame] = []
}

private func play(_ kind: WebSocketLink.Kind, _ bytes: [UInt8], step: Int, yields: Bool) -> Heard {
    let stage = WebSocketStage()
    let limits = WebSocketLimits(messageBytes: 300)
    let connection = stage.open(kind, limits: limits) { EchoConversation(link: $0) }
    connection.yields = yields
    for start in stride(from: 0, to: bytes.count, by: step) {
        connection.receive(Array(bytes[start..<min(start + step, bytes.count)]))
        stage.settle()
    }
    guard let frames = ServerFrame.all(connection.link.takeSent()), let messages = ServerFrame.messages(frames) else {
        preconditionFailure("these are no frames")
    }
    var heard = Heard()
    heard.control = frames.filter { $0.opcode >= 8 }
    heard.said = kind == .binary ? [.binary(ServerFrame.stream(frames))] : messages
    let last = heard.control.last
    precondition((last?.closeCode != nil) == (connection.finishing != nil), "an end has a close frame")
    precondition(frames.last?.opcode == 8 || connection.finishing == nil, "nothing follows a close frame")
    precondition(heard.control.dropLast().allSatisfy { $0.opcode == 10 })
    for message in messages where message.opcode == 1 {
        precondition(String(validating: message.payload, as: UTF8.self) != nil, "text that is no UTF-8")
    }
    return heard
}
