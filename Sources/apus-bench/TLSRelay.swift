internal import CLinux
internal import Glibc

/// The price of TLS alone: what ``Relay`` does, with libssl on every socket. Bytes of a publisher are decrypted, and
/// encrypted again for every subscriber of its group, as many at once as a pass has brought.
final class TLSRelay {
    private final class Peer {
        let stream: TLSStream
        var group = -1
        init(_ stream: TLSStream) { self.stream = stream }
    }

    private static let readSize = 65_536

    private let poll: Poll
    private let listener: Int32
    /// The port it listens on.
    let port: UInt16
    private let context: TLSStream.Context
    private var peers: [Int32: Peer] = [:]
    private var subscribers: [Int: [Peer]] = [:]
    private let buffer = UnsafeMutablePointer<UInt8>.allocate(capacity: TLSRelay.readSize)

    init(port: UInt16, certificate: String, key: String) throws {
        poll = try Poll()
        (listener, self.port) = try Socket.listen(port: port)
        context = try TLSStream.Context(certificate: certificate, key: key)
        try poll.add(listener, Poll.input, token: Int(listener))
    }

    /// Runs until the process is killed.
    func run() throws {
        while true {
            for index in 0..<poll.wait(milliseconds: -1) {
                let fd = Int32(truncatingIfNeeded: poll.token(index))
                if fd == listener {
                    accept()
                } else if let peer = peers[fd] {
                    if poll.ready(index) & Poll.output != 0 { drain(peer) }
                    if poll.ready(index) & ~Poll.output != 0 { receive(peer) }
                }
            }
        }
    }

    private func accept() {
        while true {
            let fd = accept4(listener, nil, nil, Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue))
            guard fd >= 0 else { return }
            Socket.setNoDelay(fd)
            do {
                let peer = Peer(try TLSStream(fd, context, isServer: true))
                peers[fd] = peer
                try poll.add(fd, Poll.input, token: Int(fd))
                // What came along with the end of the handshake is in libssl already.
                receive(peer)
            } catch {
                peers[fd] = nil
                close(fd)
            }
        }
    }

    private func receive(_ peer: Peer) {
        repeat {
            guard let count = peer.stream.read(buffer, Self.readSize) else { return ended(peer) }
            guard count > 0 else { return }
            guard peer.group >= 0 else {
                greet(peer, count)
                continue
            }
            for output in subscribers[peer.group] ?? [] {
                let wasWaiting = output.stream.hasUnsent
                output.stream.write(buffer, count)
                if output.stream.hasUnsent, !wasWaiting {
                    poll.change(output.stream.fd, Poll.input | Poll.output, token: Int(output.stream.fd))
                }
            }
        } while peer.stream.hasPending
    }

    private func drain(_ peer: Peer) {
        peer.stream.flush()
        if !peer.stream.hasUnsent { poll.change(peer.stream.fd, Poll.input, token: Int(peer.stream.fd)) }
    }

    private func greet(_ peer: Peer, _ count: Int) {
        guard count == Relay.Hello.size, buffer[0] == 0xa9 else { return ended(peer) }
        peer.group = Int(buffer[2]) | Int(buffer[3]) << 8
        if buffer[1] != 1 { subscribers[peer.group, default: []].append(peer) }
        buffer[0] = Relay.Hello.acknowledgement
        peer.stream.write(buffer, 1)
    }

    private func ended(_ peer: Peer) {
        subscribers[peer.group]?.removeAll { $0 === peer }
        peers[peer.stream.fd] = nil
        close(peer.stream.fd)
    }
}

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
            for index in 0..<poll.wait(milliseconds: -1) {
                let fd = Int32(truncatingIfNeeded: poll.token(index))
                if fd == listener {
                    accept()
                } else if let pair = pairs[fd] {
                    if poll.ready(index) & Poll.output != 0 { drain(pair, fd) }
                    if poll.ready(index) & ~Poll.output != 0 {
                        if fd == pair.plain { fromPlain(pair) } else { fromStream(pair) }
                    }
                }
            }
        }
    }

    private func accept() {
        while true {
            let fd = accept4(listener, nil, nil, Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue))
            guard fd >= 0 else { return }
            Socket.setNoDelay(fd)
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

    private func drain(_ pair: Pair, _ fd: Int32) {
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
