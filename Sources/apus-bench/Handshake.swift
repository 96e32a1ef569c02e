internal import CLinux
internal import Glibc

/// Opening connections, one at a time and waiting for every answer: speed does not matter here.
enum Handshake {
    /// An MQTT connection that has its CONNACK.
    static func open(_ broker: Broker, client: String) throws -> Int32 {
        try connect(broker, client: client).descriptor
    }

    /// The same, with what the broker said.
    static func connect(_ broker: Broker, client: String) throws -> (descriptor: Int32, welcome: Welcome) {
        let fd = try Socket.connect(port: broker.port)
        let frames = broker.frames
        if frames.isWebSocket {
            try sendAll(fd, Upgrade.request)
            try Upgrade.check(try head(fd))
        }
        try send(fd, frames.connect(client: client), frames)
        return (fd, try Welcome(try packet(fd, frames), frames.version))
    }

    /// Subscribes and checks every return code.
    static func subscribe(_ fd: Int32, _ filters: [String], qos: Int, _ frames: Frames) throws {
        var start = 0
        while start < filters.count {
            let part = Array(filters[start..<min(start + 500, filters.count)])
            try send(fd, frames.subscribe(part, qos: qos), frames)
            let answer = try packet(fd, frames)
            let codes = answer.suffix(part.count)
            guard answer.first == 0x90, answer.count >= part.count + 4, codes.allSatisfy({ $0 == UInt8(qos) }) else {
                throw Failure("subscription refused, the first filter was \(part.first ?? "")")
            }
            start += part.count
        }
    }

    /// A connection to the relay that takes part in a group.
    static func join(port: UInt16, publisher: Bool, group: Int) throws -> Int32 {
        let fd = try Socket.connect(port: port)
        try sendAll(fd, Relay.Hello.encode(publisher: publisher, group: group))
        guard try bytes(fd, 1) == [Relay.Hello.acknowledgement] else { throw Failure("the relay refused") }
        return fd
    }

    /// Sends all, waiting for room when the socket is full.
    static func sendAll(_ fd: Int32, _ bytes: [UInt8]) throws {
        var start = 0
        while start < bytes.count {
            let sent = bytes.withUnsafeBytes { raw in
                raw.baseAddress.map {
                    Glibc.send(fd, $0 + start, bytes.count - start, Int32(MSG_NOSIGNAL))
                } ?? 0
            }
            if sent > 0 {
                start += sent
            } else if errno == EAGAIN {
                try wait(fd, Int16(POLLOUT))
            } else if errno != EINTR {
                throw Failure.system("send")
            }
        }
    }

    /// Sends packets the way the clients of a broker do.
    static func send(_ fd: Int32, _ packets: [UInt8], _ frames: Frames) throws {
        try sendAll(fd, frames.wrapped(packets))
    }

    /// The next whole packet. Over WebSocket it must be alone in its frame, as it is when nothing else was asked for.
    static func packet(_ fd: Int32, _ frames: Frames) throws -> [UInt8] {
        guard frames.isWebSocket else { return try packet(fd) }
        let header = try bytes(fd, 2)
        guard header[0] == FrameReader.binary, header[1] < 127 else { throw Failure("a strange frame: \(header)") }
        var length = Int(header[1])
        if length == 126 { length = try bytes(fd, 2).reduce(0) { $0 << 8 | Int($1) } }
        return try bytes(fd, length)
    }

    /// The head of an answer of HTTP, with the empty line. Nothing behind it is taken out of the socket.
    static func head(_ fd: Int32) throws -> String {
        var head: [UInt8] = []
        while !head.suffix(4).elementsEqual([13, 10, 13, 10]) {
            guard head.count < 16_384 else { throw Failure("the answer's head does not end") }
            head += try bytes(fd, 1)
        }
        return String(decoding: head, as: UTF8.self)
    }

    /// The next whole packet.
    static func packet(_ fd: Int32) throws -> [UInt8] {
        var packet = try bytes(fd, 2)
        var length = Int(packet[1] & 0x7f)
        var shift = 7
        while let last = packet.last, last & 0x80 != 0, packet.count < 5 {
            let more = try bytes(fd, 1)
            length |= Int(more[0] & 0x7f) << shift
            shift += 7
            packet += more
        }
        return length == 0 ? packet : packet + (try bytes(fd, length))
    }

    static func bytes(_ fd: Int32, _ count: Int) throws -> [UInt8] {
        var all = [UInt8](repeating: 0, count: count)
        var filled = 0
        while filled < count {
            let got = all.withUnsafeMutableBytes { raw in
                raw.baseAddress.map { recv(fd, $0 + filled, count - filled, 0) } ?? 0
            }
            if got > 0 {
                filled += got
            } else if got == 0 {
                throw Failure("the broker closed a connection while it was set up")
            } else if errno == EAGAIN {
                try wait(fd, Int16(POLLIN))
            } else if errno != EINTR {
                throw Failure.system("recv")
            }
        }
        return all
    }

    private static func wait(_ fd: Int32, _ events: Int16) throws {
        var entry = pollfd(fd: fd, events: events, revents: 0)
        guard Glibc.poll(&entry, 1, 60_000) > 0 else { throw Failure("no answer from the broker for 60 s") }
    }
}
