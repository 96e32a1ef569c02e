internal import CProton
internal import Glibc

/// An AMQP client on a socket.
final class AMQPClient {
    let descriptor: Int32
    let proton: AMQPConnection
    /// Whether bytes wait for room in the socket.
    private(set) var isBlocked = false
    private var ownsSocket = true
    private static let readSize = 256 * 1_024

    /// Connects; the rest is up to ``establish(_:_:)``.
    init(port: UInt16, container: String, source: UInt32 = 1) throws {
        descriptor = try Socket.connect(port: port, source: source)
        proton = try AMQPConnection(container: container, .client)
    }

    deinit {
        if ownsSocket { close(descriptor) }
    }

    /// Leaves the connection open and to the caller; what is left of this is the engine.
    func keepSocket() -> Int32 {
        ownsSocket = false
        return descriptor
    }

    /// Gives the socket what the engine has written.
    func flush() throws {
        isBlocked = false
        while case let output = proton.output(), output.size > 0 {
            let sent = Glibc.send(descriptor, output.start, output.size, Int32(MSG_NOSIGNAL))
            if sent > 0 {
                proton.sent(sent)
            } else if errno == EAGAIN {
                isBlocked = true
                return
            } else if errno != EINTR {
                throw Failure.system("send to the broker")
            }
        }
    }

    /// Reads once and hands the bytes to the engine.
    func read() throws {
        let room = proton.room(Self.readSize)
        guard room.size > 0 else { throw Failure("the engine takes no more from the broker") }
        let got = recv(descriptor, room.start, min(room.size, Self.readSize), 0)
        if got > 0 {
            proton.took(got)
        } else if got == 0 {
            // Why is said before.
            while let event = proton.next() {
                if let complaint = AMQPConnection.complaint(event) { throw Failure(complaint) }
            }
            throw Failure("the broker closed an AMQP connection")
        } else if errno != EAGAIN && errno != EINTR {
            throw Failure.system("recv from the broker")
        }
    }

    /// Talks until a condition holds; only for setting up.
    func establish(_ what: String, _ take: (OpaquePointer) throws -> Void, until isDone: () -> Bool) throws {
        let patience = now() + 10_000_000_000
        while true {
            while let event = proton.next() {
                if let complaint = AMQPConnection.complaint(event) { throw Failure("\(what): \(complaint)") }
                try take(event)
            }
            try flush()
            if isDone(), !isBlocked { return }
            guard now() < patience else { throw Failure("\(what): no answer from the broker for 10 s") }
            var entry = pollfd(fd: descriptor, events: Int16(isBlocked ? POLLIN | POLLOUT : POLLIN), revents: 0)
            guard Glibc.poll(&entry, 1, 1_000) > 0 else { continue }
            if entry.revents & Int16(POLLIN | POLLHUP) != 0 { try read() }
        }
    }

    func tick() throws {
        proton.tick()
        try flush()
    }

    /// Waits until the broker has answered the attach of a link.
    func awaitAttach(_ link: OpaquePointer, _ what: String) throws {
        var isOpen = false
        try establish(what, { if pn_event_type($0) == PN_LINK_REMOTE_OPEN { isOpen = true } }, until: { isOpen })
        let terminus = pn_link_is_sender(link) ? pn_link_remote_target(link) : pn_link_remote_source(link)
        // A link that is refused is attached without a terminus first (§2.6.3).
        guard pn_terminus_get_type(terminus) != PN_UNSPECIFIED else {
            try establish(what, { _ in }, until: { false })
            return
        }
    }
}

/// Publishes the messages of a circle, within the credit that it is given.
final class AMQPSender: TrafficSender {
    private let client: AMQPClient
    private let link: OpaquePointer
    private let block: AMQPBlock
    private let isSettled: Bool
    private(set) var sent = 0
    private var accepted = 0

    init(port: UInt16, name: String, address: String, _ block: AMQPBlock, isSettled: Bool) throws {
        self.block = block
        self.isSettled = isSettled
        client = try AMQPClient(port: port, container: name)
        link = try client.proton.attach(.sender, address, name: name, isSettled: isSettled)
        let link = link
        try client.awaitAttach(link, "sender to \(address)")
        try client.establish("credit to \(address)", { _ in }, until: { pn_link_credit(link) > 0 })
        guard !isSettled || pn_link_remote_snd_settle_mode(link) != PN_SND_UNSETTLED else {
            throw Failure("the broker does not take settled messages")
        }
    }

    var descriptor: Int32 { client.descriptor }
    var isBlocked: Bool { client.isBlocked }
    var confirmed: Int { isSettled ? sent : accepted }

    func send(_ count: Int) throws {
        let allowed = min(count, max(0, Int(pn_link_credit(link))))
        guard allowed > 0 else { return }
        for _ in 0..<allowed {
            AMQPConnection.send(block, sent, on: link, tag: sent, isSettled: isSettled)
            sent += 1
        }
        try client.flush()
    }

    func writable() throws { try client.flush() }

    func readable() throws {
        try client.read()
        while let event = client.proton.next() {
            if pn_event_type(event) == PN_DELIVERY, let delivery = pn_event_delivery(event) {
                guard pn_delivery_updated(delivery) else { continue }
                let state = pn_delivery_remote_state(delivery)
                guard !isSettled, state == UInt64(PN_ACCEPTED), pn_delivery_settled(delivery) else {
                    throw Failure("message \(accepted) was answered with 0x\(String(state, radix: 16))")
                }
                pn_delivery_settle(delivery)
                accepted += 1
            } else if let complaint = AMQPConnection.complaint(event) {
                throw Failure("sender: \(complaint)")
            }
        }
        try client.flush()
    }

    func tick() throws { try client.tick() }
}

/// Takes the messages of a circle, in order, and accepts those that are not settled.
final class AMQPReceiver: TrafficReceiver {
    private let client: AMQPClient
    private let link: OpaquePointer
    private let block: AMQPBlock
    private let isSettled: Bool
    /// At most so many messages may be under way; half of it is granted again at a time.
    private let credit: Int
    private var used = 0
    private(set) var received = 0
    private var next = 0
    private let message: UnsafeMutablePointer<UInt8>
    private static let room = 64 * 1_024

    init(port: UInt16, name: String, address: String, _ block: AMQPBlock, isSettled: Bool, credit: Int) throws {
        self.block = block
        self.isSettled = isSettled
        self.credit = credit
        message = .allocate(capacity: Self.room)
        client = try AMQPClient(port: port, container: name)
        link = try client.proton.attach(.receiver, address, name: name, isSettled: isSettled)
        pn_link_flow(link, Int32(credit))
        try client.awaitAttach(link, "receiver from \(address)")
    }

    deinit { message.deallocate() }

    var descriptor: Int32 { client.descriptor }
    var isBlocked: Bool { client.isBlocked }

    func writable() throws { try client.flush() }

    func readable() throws {
        try client.read()
        while let event = client.proton.next() {
            if pn_event_type(event) == PN_DELIVERY, let delivery = pn_event_delivery(event) {
                if pn_delivery_readable(delivery), !pn_delivery_partial(delivery) { try take(delivery) }
            } else if let complaint = AMQPConnection.complaint(event) {
                throw Failure("receiver: \(complaint)")
            }
        }
        if used >= credit / 2 {
            pn_link_flow(link, Int32(used))
            used = 0
        }
        try client.flush()
    }

    private func take(_ delivery: OpaquePointer) throws {
        let size = message.withMemoryRebound(to: CChar.self, capacity: Self.room) {
            pn_link_recv(link, $0, Self.room)
        }
        guard size > 0, block.isEnd(of: message, size, number: next) else {
            let number = size > 0 ? block.number(message, size) : .max
            let isAnother = number != .max && Int(number) != next
            let what = isAnother ? "number \(number)" : "other bytes (\(size))"
            throw Failure(
                "lost, doubled, reordered or foreign message: after \(received) messages came \(what), number "
                    + "\(next) was due (numbers go round at \(block.count))")
        }
        guard pn_delivery_settled(delivery) == isSettled else {
            throw Failure("message \(received) came \(isSettled ? "un" : "")settled")
        }
        received += 1
        used += 1
        next = next + 1 == block.count ? 0 : next + 1
        pn_link_advance(link)
        if !isSettled { pn_delivery_update(delivery, UInt64(PN_ACCEPTED)) }
        pn_delivery_settle(delivery)
    }

    func tick() throws { try client.tick() }
}
