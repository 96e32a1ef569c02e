internal import Glibc

/// Thousands of connections, opened in bursts: all connect, all say hello, all are answered.
final class Crowd {
    private(set) var descriptors: [Int32] = []
    private let frames: Frames
    /// Connections from one source address.
    private static let perAddress = 9_000

    /// `firstSource` is the last part of the first local address; each further 9,000 connections take the next.
    init(_ broker: Broker, count: Int, firstSource: UInt32) throws {
        frames = broker.frames
        descriptors.reserveCapacity(count)
        for index in 0..<count {
            let source = firstSource + UInt32(index / Self.perAddress)
            descriptors.append(try Socket.connect(port: broker.port, source: source))
        }
        if frames.isWebSocket {
            for fd in descriptors { try Handshake.sendAll(fd, Upgrade.request) }
            for fd in descriptors { try Upgrade.check(try Handshake.head(fd)) }
        }
        for (index, fd) in descriptors.enumerated() {
            try Handshake.send(fd, frames.connect(client: "crowd-\(index)"), frames)
        }
        for fd in descriptors {
            _ = try Welcome(try Handshake.packet(fd, frames), frames.version)
        }
    }

    deinit {
        for fd in descriptors { close(fd) }
    }

    /// One subscription each.
    func subscribe(_ filter: (Int) -> String) throws {
        for (index, fd) in descriptors.enumerated() {
            try Handshake.send(fd, frames.subscribe([filter(index)], qos: 0), frames)
        }
        for fd in descriptors {
            let answer = try Handshake.packet(fd, frames)
            guard answer == frames.granted else { throw Failure("subscription refused: \(answer)") }
        }
    }

    /// Each publishes one event and must get exactly the one it sent.
    func echo(_ topic: (Int) -> String) throws {
        var filler = Seeded(3)
        var sent: [[UInt8]] = []
        for (index, fd) in descriptors.enumerated() {
            let payload = Stamp.payload(sequence: index, source: 0, size: 64, filler: &filler)
            sent.append(frames.publish(topic(index), payload: payload))
            try Handshake.send(fd, sent[index], frames)
        }
        for (index, fd) in descriptors.enumerated() {
            guard try Handshake.packet(fd, frames) == sent[index] else {
                throw Failure("client \(index) got a wrong event")
            }
        }
        Glibc.usleep(20_000)
        for (index, fd) in descriptors.enumerated() {
            var byte: UInt8 = 0
            if recv(fd, &byte, 1, 0) > 0 { throw Failure("client \(index) got more than its event") }
        }
    }

    /// Gives the connections away.
    func handOver() -> [Int32] {
        defer { descriptors = [] }
        return descriptors
    }

    /// Cuts all connections without a word.
    func cut() {
        for fd in descriptors {
            Socket.setHardClose(fd)
            close(fd)
        }
        descriptors = []
    }
}
