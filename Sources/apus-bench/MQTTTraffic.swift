internal import CLinux
internal import Glibc

/// Publishes the messages of a circle over MQTT.
final class MQTTSender: TrafficSender {
    let descriptor: Int32
    private let block: Block
    private let qos: Int
    private(set) var sent = 0
    private var offset = 0
    private var due = 0
    private var acknowledged = 0
    private(set) var isBlocked = false
    private var carried: [UInt8] = []
    private var buffer = [UInt8](repeating: 0, count: 65_536)

    init(_ broker: Broker, name: String, _ block: Block, qos: Int) throws {
        self.block = block
        self.qos = qos
        descriptor = try Handshake.open(broker, client: name)
    }

    deinit { close(descriptor) }

    var confirmed: Int { qos == 0 ? sent : acknowledged }

    func send(_ count: Int) throws {
        due = sent + count
        try writable()
    }

    func writable() throws {
        isBlocked = false
        while sent < due {
            let position = sent % block.frames
            let bytes = min(due - sent, block.frames - position) * block.frameSize - offset
            let start = block.bytes + position * block.frameSize + offset
            let got = Glibc.send(descriptor, start, bytes, Int32(MSG_NOSIGNAL))
            if got < 0, errno != EAGAIN, errno != EINTR { throw Failure.system("send to the broker") }
            let total = offset + max(0, got)
            sent += total / block.frameSize
            offset = total % block.frameSize
            if got < bytes {
                isBlocked = true
                return
            }
        }
    }

    func readable() throws {
        let got = recv(descriptor, &buffer, buffer.count, 0)
        guard got > 0 else {
            if got < 0, errno == EAGAIN || errno == EINTR { return }
            throw Failure("the broker closed the connection of the MQTT publisher")
        }
        carried += buffer[..<got]
        var at = 0
        while carried.count - at >= 4 {
            let number = acknowledged % block.frames + 1
            guard qos > 0, carried[at] == 0x40, carried[at + 1] == 2,
                Int(carried[at + 2]) << 8 | Int(carried[at + 3]) == number
            else { throw Failure("the MQTT publisher got \(carried[at..<at + 4]) where PUBACK of \(number) was due") }
            acknowledged += 1
            at += 4
        }
        carried.removeFirst(at)
    }

    func tick() {}
}

/// Takes the messages of a circle over MQTT, in order.
final class MQTTReceiver: TrafficReceiver {
    let descriptor: Int32
    private let block: Block
    private let qos: Int
    private(set) var received = 0
    private var next = 0
    private let buffer: UnsafeMutablePointer<UInt8>
    private var carried = 0
    private var acks: [UInt8] = []
    private static let readSize = 256 * 1_024

    init(_ broker: Broker, name: String, topic: String, _ block: Block, qos: Int) throws {
        self.block = block
        self.qos = qos
        buffer = .allocate(capacity: Self.readSize + block.frameSize)
        descriptor = try Handshake.open(broker, client: name)
        try Handshake.subscribe(descriptor, [topic], qos: qos, broker.frames)
    }

    deinit {
        close(descriptor)
        buffer.deallocate()
    }

    var isBlocked: Bool { !acks.isEmpty }

    func readable() throws {
        let got = recv(descriptor, buffer + carried, Self.readSize, 0)
        guard got > 0 else {
            if got < 0, errno == EAGAIN || errno == EINTR { return }
            throw Failure("the broker closed the connection of the MQTT subscriber")
        }
        let count = carried + got
        var at = 0
        while count - at >= block.frameSize {
            try take(buffer + at)
            at += block.frameSize
        }
        memmove(buffer, buffer + at, count - at)
        carried = count - at
        try writable()
    }

    @inline(__always)
    private func take(_ frame: UnsafeMutablePointer<UInt8>) throws {
        let due = block.bytes + next * block.frameSize
        let size = block.frameSize - block.payloadOffset
        guard UnsafeRawPointer(frame).loadUnaligned(as: UInt32.self) & block.headerMask == block.header,
            memcmp(frame + block.payloadOffset, due + block.payloadOffset, size) == 0
        else {
            throw Failure(
                "lost, doubled, reordered or foreign event: after \(received) events came another than number \(next) "
                    + "(numbers go round at \(block.frames))")
        }
        if qos > 0 { acks += [0x40, 2, frame[block.payloadOffset - 2], frame[block.payloadOffset - 1]] }
        received += 1
        next = next + 1 == block.frames ? 0 : next + 1
    }

    func writable() throws {
        guard !acks.isEmpty else { return }
        let sent = Glibc.send(descriptor, acks, acks.count, Int32(MSG_NOSIGNAL))
        if sent < 0, errno != EAGAIN, errno != EINTR { throw Failure.system("send to the broker") }
        acks.removeFirst(max(0, sent))
    }

    func tick() {}
}
