internal import Glibc

/// Carries plain connections of the load generator on to a server over TLS, so that every scenario can be driven over
/// TLS and the load generator's own part of it is no part of what is measured.
final class TLSWrapper {
    private final class Pair {
        let plain: Int32
        let stream: TLSStream
        /// Bytes for the plain side that it did not take.
        var unsent: [UInt8] = []
        init(_ plain: Int32, _ stream: TLSStream) {
            self.plain = plain
            self.stream = stream
        }
    }

    private static let readSize = 65_536

    private let poll: Poll
    private let listener: Int32
    /// The port it listens on.
    let port: UInt16
    private let target: UInt16
    private let context: TLSStream.Context
    private var pairs: [Int32: Pair] = [:]
    private let buffer = UnsafeMutablePointer<UInt8>.allocate(capacity: TLSWrapper.readSize)

    init(port: UInt16, to target: UInt16) throws {
        poll = try Poll()
        (listener, self.port) = try Socket.listen(port: port)
        self.target = target
        context = try TLSStream.Context()
        try poll.add(listener, Poll.input, token: Int(listener))
    }

    /// Runs until the process is killed.
    func run() throws {
        while true {
            poll.serve(listener, accept: accept, drain: drain, receive: receive)
        }
    }

    private func accept() {
        while let fd = Socket.accept(listener) {
            do {
                let stream = try TLSStream(try Socket.connect(port: target), context, isServer: false)
                let pair = Pair(fd, stream)
                pairs[fd] = pair
                pairs[stream.fd] = pair
                try poll.add(fd, Poll.input, token: Int(fd))
                try poll.add(stream.fd, Poll.input, token: Int(stream.fd))
                fromStream(pair)
            } catch {
                progress("tls wrapper: \(error)")
                close(fd)
            }
        }
    }

    private func receive(_ fd: Int32) {
        guard let pair = pairs[fd] else { return }
        if fd == pair.plain { fromPlain(pair) } else { fromStream(pair) }
    }

    private func fromPlain(_ pair: Pair) {
        let count = recv(pair.plain, buffer, Self.readSize, 0)
        if count < 0, errno == EAGAIN || errno == EINTR { return }
        guard count > 0 else { return ended(pair) }
        pair.stream.write(buffer, count)
        if pair.stream.hasUnsent { watch(pair.stream.fd, true) }
    }

    private func fromStream(_ pair: Pair) {
        repeat {
            guard let count = pair.stream.read(buffer, Self.readSize) else { return ended(pair) }
            guard count > 0 else { return }
            var sent = 0
            if pair.unsent.isEmpty { sent = max(0, send(pair.plain, buffer, count, Int32(MSG_NOSIGNAL))) }
            guard sent < count else { continue }
            pair.unsent.append(contentsOf: UnsafeBufferPointer(start: buffer + sent, count: count - sent))
            watch(pair.plain, true)
        } while pair.stream.hasPending
    }

    private func drain(_ fd: Int32) {
        guard let pair = pairs[fd] else { return }
        guard fd == pair.plain else {
            pair.stream.flush()
            if !pair.stream.hasUnsent { watch(fd, false) }
            return
        }
        let sent = pair.unsent.withUnsafeBytes { send(fd, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
        if sent > 0 { pair.unsent.removeFirst(sent) }
        if pair.unsent.isEmpty { watch(fd, false) }
    }

    private func watch(_ fd: Int32, _ writes: Bool) {
        poll.change(fd, writes ? Poll.input | Poll.output : Poll.input, token: Int(fd))
    }

    private func ended(_ pair: Pair) {
        pairs[pair.plain] = nil
        pairs[pair.stream.fd] = nil
        close(pair.plain)
        close(pair.stream.fd)
    }
}
