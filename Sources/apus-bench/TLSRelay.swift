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
            poll.serve(listener, accept: accept, drain: drain, receive: receive)
        }
    }

    private func accept() {
        while let fd = Socket.accept(listener) {
            do {
                let peer = Peer(try TLSStream(fd, context, isServer: true))
                peers[fd] = peer
                try poll.add(fd, Poll.input, token: Int(fd))
                // What came along with the end of the handshake is in libssl already.
                receive(fd)
            } catch {
                peers[fd] = nil
                close(fd)
            }
        }
    }

    private func receive(_ fd: Int32) {
        guard let peer = peers[fd] else { return }
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

    private func drain(_ fd: Int32) {
        guard let peer = peers[fd] else { return }
        peer.stream.flush()
        if !peer.stream.hasUnsent { poll.change(fd, Poll.input, token: Int(fd)) }
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
