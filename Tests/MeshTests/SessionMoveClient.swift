import TestSupport
import Testing

@testable import Core
@testable import Mesh

/// A client of MQTT on a stage, of version 3.1.1 or 5.
final class StageClient {
    enum Packet: Equatable {
        case connack(present: Bool, code: UInt8)
        case publish(text: String, qos: UInt8, id: UInt16, dup: Bool)
        case acknowledge(UInt8, UInt16)
        case suback([UInt8])
        case disconnect(UInt8)
        case other(UInt8)
    }

    let stage: Stage
    let node: StageNode
    let connection: StageConnection
    let isVersion5: Bool
    private var unread: [UInt8] = []
    private(set) var packets: [Packet] = []
    /// Events received, in their order.
    private(set) var texts: [String] = []
    /// Whether events are acknowledged as soon as they are seen.
    var acknowledges = true

    /// Packet identifiers of QoS 2 that the client has received and that have not been released: what it keeps from
    /// connection to connection.
    final class Memory { var received: Set<UInt16> = [] }
    let memory: Memory

    /// Sends CONNECT and does not wait.
    init(
        _ stage: Stage, at node: Int, _ clientID: String, memory: Memory = Memory(), clean: Bool = false,
        expiry: UInt32 = 3_600, lane: Int = 0,
        user: String? = nil, version5: Bool = true, will: String? = nil, willDelay: UInt32 = 0
    ) {
        self.stage = stage
        self.memory = memory
        self.node = stage.nodes[node]
        isVersion5 = version5
        connection = self.node.accept(lane: lane)
        var flags: UInt8 = clean ? 2 : 0
        if user != nil { flags |= 0x80 }
        if will != nil { flags |= 4 }
        var body = Self.text("MQTT") + [version5 ? 5 : 4, flags, 0, 0]
        if version5 { body += [5, 0x11] + Self.uint32(expiry) }
        body += Self.text(clientID)
        if let will {
            if version5 { body += [5, 0x18] + Self.uint32(willDelay) }
            body += Self.text("t/will") + Self.text(will)
        }
        if let user { body += Self.text(user) }
        send(0x10, body)
    }

    /// Lets time go on until CONNACK has come, or the connection has ended.
    @discardableResult
    func connected(within milliseconds: Int = 3_000) -> StageClient {
        for _ in 0..<milliseconds {
            read()
            if !packets.isEmpty || connection.closing != nil { return self }
            stage.advance(1)
        }
        return self
    }

    /// What CONNACK said of the session; nil for a refusal, or none.
    var isPresent: Bool? {
        read()
        guard case .connack(let present, 0) = packets.first else { return nil }
        return present
    }

    var closing: CloseReason? { connection.closing }

    func subscribe(_ filter: String, qos: UInt8 = 2, id: Int? = nil) {
        var body: [UInt8] = [0, 1]
        if isVersion5 { body += id.map { [2, 0x0B, UInt8($0)] } ?? [0] }
        send(0x82, body + Self.text(filter) + [qos])
        stage.settle()
    }

    func publish(_ topic: String, _ text: String, qos: UInt8 = 1, id: UInt16 = 1, dup: Bool = false) {
        let first = 0x30 | qos << 1 | (dup ? 8 : 0)
        send(
            first,
            Self.text(topic) + (qos > 0 ? Self.uint16(id) : []) + (isVersion5 ? [0] : []) + Array(text.utf8))
        stage.settle()
    }

    func acknowledge(_ first: UInt8, _ id: UInt16) {
        send(first, Self.uint16(id))
        stage.settle()
    }

    /// Says goodbye.
    func disconnect() {
        send(0xE0, [])
        stage.settle()
    }

    func cut() {
        node.cut(connection)
        stage.settle()
    }

    /// Takes what has come, and acknowledges it.
    func read() {
        unread += connection.link.takeSent()
        while let (packet, length) = Self.parse(unread, isVersion5) {
            unread.removeFirst(length)
            packets.append(packet)
            switch packet {
            case .publish(let text, let qos, let id, _):
                if qos < 2 || memory.received.insert(id).inserted { texts.append(text) }
                if acknowledges, qos > 0 { send(qos == 1 ? 0x40 : 0x50, Self.uint16(id)) }
            case .acknowledge(0x50, let id): if acknowledges { send(0x62, Self.uint16(id)) }
            case .acknowledge(0x62, let id):
                memory.received.remove(id)
                if acknowledges { send(0x70, Self.uint16(id)) }
            default: break
            }
        }
    }

    private func send(_ first: UInt8, _ body: [UInt8]) {
        var length: [UInt8] = []
        var left = body.count
        repeat {
            length.append(UInt8(left % 128) | (left >= 128 ? 0x80 : 0))
            left /= 128
        } while left > 0
        node.receive(connection, [first] + length + body)
    }

    static func uint16(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 0xFF)] }
    static func uint32(_ value: UInt32) -> [UInt8] {
        uint16(UInt16(value >> 16)) + uint16(UInt16(truncatingIfNeeded: value))
    }
    static func text(_ text: String) -> [UInt8] { uint16(UInt16(text.utf8.count)) + Array(text.utf8) }

    private static func parse(_ bytes: [UInt8], _ isVersion5: Bool) -> (Packet, Int)? {
        var (length, shift, header) = (0, 0, 1)
        while true {
            guard header < bytes.count else { return nil }
            length |= Int(bytes[header] & 0x7F) << shift
            header += 1
            shift += 7
            if bytes[header - 1] < 0x80 { break }
        }
        guard bytes.count >= header + length else { return nil }
        let body = Array(bytes[header..<header + length])
        return (packet(bytes[0], body, isVersion5), header + length)
    }

    private static func packet(_ first: UInt8, _ body: [UInt8], _ isVersion5: Bool) -> Packet {
        func number(_ place: Int) -> UInt16 { UInt16(body[place]) << 8 | UInt16(body[place + 1]) }
        switch first & 0xF0 {
        case 0x20: return .connack(present: body[0] == 1, code: body[1])
        case 0x30:
            let qos = first >> 1 & 3
            var place = 2 + Int(number(0))
            let id = qos > 0 ? number(place) : 0
            place += qos > 0 ? 2 : 0
            if isVersion5 { place += 1 + Int(body[place]) }
            return .publish(
                text: String(decoding: body[place...], as: UTF8.self), qos: qos, id: id, dup: first & 8 != 0)
        case 0x40, 0x50, 0x60, 0x70: return .acknowledge(first, number(0))
        case 0x90: return .suback(Array(body.dropFirst(isVersion5 ? 3 : 2)))
        case 0xE0: return .disconnect(body.first ?? 0)
        default: return .other(first)
        }
    }
}
