internal import CLinux
internal import CProton
internal import Glibc

/// The price of the engine: libqpid-proton in memory, without sockets and without anything of a router.
///
/// Of every message two sides are measured: that of a server that takes it (bytes in, event, read, settled) and that of
/// a server that sends it on (delivery, bytes out, and what the receiver says to it). The clients at both ends run in
/// between, while the clock stands. Input comes in pieces of 64 KiB, and each piece is taken and sent on as a whole.
final class AMQPEngineAlone {
    private let block: AMQPBlock
    private let isSettled: Bool
    private let publisher: AMQPConnection
    private let inbound: AMQPConnection
    private let outbound: AMQPConnection
    private let subscriber: AMQPConnection
    private let publishing: OpaquePointer
    private let subscribing: OpaquePointer
    /// The servers' links.
    private var incoming: OpaquePointer?
    private var outgoing: OpaquePointer?
    /// Messages since the start: given to the publisher's engine, read by the server, read by the subscriber.
    private var published = 0
    private var routed = 0
    private var received = 0
    /// Unsettled: accepted deliveries that the publisher has heard of, and the server of the subscriber's.
    private var accepted = 0
    private var done = 0
    /// What of the credit has been used up and not been granted again.
    private var usedIncoming = 0
    private var usedSubscribing = 0
    private let wire: UnsafeMutableRawBufferPointer
    private let arena: UnsafeMutablePointer<UInt8>
    private var sizes: [Int] = []
    private var clock = StopWatch()

    private static let piece = 64 * 1_024
    private static let credit = 1_000

    init(payload: Int, isSettled: Bool) throws {
        block = AMQPBlock(payload: payload)
        self.isSettled = isSettled
        publisher = try AMQPConnection(container: "publisher", .plainClient)
        inbound = try AMQPConnection(container: "inbound", .server)
        outbound = try AMQPConnection(container: "outbound", .server)
        subscriber = try AMQPConnection(container: "subscriber", .plainClient)
        publishing = try publisher.attach(.sender, "bench", name: "publish", isSettled: isSettled)
        subscribing = try subscriber.attach(.receiver, "bench", name: "subscribe", isSettled: isSettled)
        wire = .allocate(byteCount: 4 * Self.piece, alignment: 16)
        arena = .allocate(capacity: 2 * Self.piece)
        sizes.reserveCapacity(Self.piece / 64)
        pn_link_flow(subscribing, Int32(Self.credit))
        for _ in 0..<10 {
            try publisherTurn(0)
            try exchange(publisher, inbound)
            try inboundEvents()
            try exchange(inbound, publisher)
            try subscriberTurn()
            try exchange(subscriber, outbound)
            try outboundEvents()
            try exchange(outbound, subscriber)
        }
        guard let outgoing, incoming != nil, pn_link_credit(publishing) > 0, pn_link_credit(outgoing) > 0 else {
            throw Failure("engines in memory do not come together")
        }
    }

    deinit {
        wire.deallocate()
        arena.deallocate()
        block.bytes.deallocate()
    }

    /// Sends so many messages through.
    /// - Returns: nanoseconds of processor time of the two measured sides.
    func run(count: Int) throws -> UInt64 {
        clock.reset()
        let goal = published + count
        while received < goal || !isSettled && (accepted < goal || done < goal) {
            let before = (received, accepted, done)
            try pass(min(goal - published, Self.piece / (block.messageBytes + 32)))
            guard before != (received, accepted, done) else {
                throw Failure("engines in memory stand still after \(received) messages, \(goal) were due")
            }
        }
        return clock.nanoseconds
    }

    private func pass(_ count: Int) throws {
        try publisherTurn(count)
        let input = try copyOutput(of: publisher)
        clock.start()
        try inbound.take(input)
        try inboundEvents()
        try sendOn()
        clock.stop()
        try measuredExchange(outbound, subscriber)
        try measuredExchange(inbound, publisher)
        try subscriberTurn()
        let answers = try copyOutput(of: subscriber)
        clock.start()
        try outbound.take(answers)
        try outboundEvents()
        clock.stop()
    }
}

/// What is measured.
extension AMQPEngineAlone {
    /// Reads and settles what has come, and grants new credit.
    private func inboundEvents() throws {
        var at = arena
        sizes.removeAll(keepingCapacity: true)
        while let event = inbound.next() {
            switch pn_event_type(event) {
            case PN_DELIVERY:
                guard let delivery = pn_event_delivery(event), let link = incoming else { continue }
                guard pn_delivery_readable(delivery), !pn_delivery_partial(delivery) else { continue }
                let size = pn_delivery_pending(delivery)
                guard at + size <= arena + 2 * Self.piece else { throw Failure("too much in one piece") }
                let read = at.withMemoryRebound(to: CChar.self, capacity: size) {
                    pn_link_recv(link, $0, size)
                }
                guard read == size else { throw Failure("the engine gave \(read) of \(size) bytes") }
                at += size
                sizes.append(size)
                pn_link_advance(link)
                if !isSettled { pn_delivery_update(delivery, UInt64(PN_ACCEPTED)) }
                pn_delivery_settle(delivery)
            default:
                try welcome(event)
            }
        }
        guard let link = incoming else { return }
        usedIncoming += sizes.count
        routed += sizes.count
        if usedIncoming >= Self.credit / 2 {
            pn_link_flow(link, Int32(usedIncoming))
            usedIncoming = 0
        }
    }

    private func sendOn() throws {
        guard let link = outgoing else { return }
        var at = arena
        var tag = routed - sizes.count
        guard Int(pn_link_credit(link)) >= sizes.count else { throw Failure("the subscriber grants too little") }
        for size in sizes {
            AMQPConnection.send(at, size, on: link, tag, isSettled)
            at += size
            tag += 1
        }
    }

    /// Settles what the subscriber has settled.
    private func outboundEvents() throws {
        while let event = outbound.next() {
            switch pn_event_type(event) {
            case PN_DELIVERY:
                guard let delivery = pn_event_delivery(event), pn_delivery_updated(delivery) else { continue }
                pn_delivery_settle(delivery)
                done += 1
            default:
                try welcome(event)
            }
        }
    }

    /// Lets a server write; the clock stands while the client takes what was written.
    private func measuredExchange(_ server: AMQPConnection, _ client: AMQPConnection) throws {
        while true {
            clock.start()
            var output = server.output()
            // The engine's buffer grows when it is asked again while it is full; afterwards all fits into it.
            while output.size > 0, case let more = server.output(), more.size > output.size { output = more }
            clock.stop()
            guard output.size > 0 else { return }
            try client.take(UnsafeRawBufferPointer(start: output.start, count: output.size))
            clock.start()
            server.sent(output.size)
            clock.stop()
        }
    }

    private func welcome(_ event: OpaquePointer) throws {
        guard let link = try AMQPConnection.welcome(event, credit: Self.credit) else { return }
        if pn_link_is_receiver(link) { incoming = link } else { outgoing = link }
    }
}

/// The clients at both ends.
extension AMQPEngineAlone {
    private func publisherTurn(_ count: Int) throws {
        while let event = publisher.next() {
            if pn_event_type(event) == PN_DELIVERY, let delivery = pn_event_delivery(event) {
                guard pn_delivery_updated(delivery), pn_delivery_remote_state(delivery) == UInt64(PN_ACCEPTED) else {
                    throw Failure("a message was not accepted in memory")
                }
                pn_delivery_settle(delivery)
                accepted += 1
            }
            if let complaint = AMQPConnection.complaint(event) { throw Failure("publisher in memory: \(complaint)") }
        }
        for _ in 0..<min(count, Int(pn_link_credit(publishing))) {
            AMQPConnection.send(block, published, on: publishing, tag: published, isSettled: isSettled)
            published += 1
        }
    }

    private func subscriberTurn() throws {
        let room = arena + Self.piece
        while let event = subscriber.next() {
            if pn_event_type(event) == PN_DELIVERY, let delivery = pn_event_delivery(event),
                pn_delivery_readable(delivery), !pn_delivery_partial(delivery)
            {
                let size = room.withMemoryRebound(to: CChar.self, capacity: Self.piece) {
                    pn_link_recv(subscribing, $0, Self.piece)
                }
                guard block.isEnd(of: room, size, number: received % block.count) else {
                    throw Failure("a wrong message in memory, number \(received)")
                }
                received += 1
                usedSubscribing += 1
                pn_link_advance(subscribing)
                if !isSettled { pn_delivery_update(delivery, UInt64(PN_ACCEPTED)) }
                pn_delivery_settle(delivery)
            }
            if let complaint = AMQPConnection.complaint(event) { throw Failure("subscriber in memory: \(complaint)") }
        }
        // A whole piece may come next.
        if usedSubscribing > 0 {
            pn_link_flow(subscribing, Int32(usedSubscribing))
            usedSubscribing = 0
        }
    }

    /// All that a client has to say.
    private func copyOutput(of client: AMQPConnection) throws -> UnsafeRawBufferPointer {
        var count = 0
        while case let output = client.output(), output.size > 0, let start = output.start {
            guard count + output.size <= wire.count, let base = wire.baseAddress else {
                throw Failure("a client says too much at once")
            }
            memcpy(base + count, start, output.size)
            count += output.size
            client.sent(output.size)
        }
        return UnsafeRawBufferPointer(rebasing: wire[..<count])
    }

    private func exchange(_ from: AMQPConnection, _ to: AMQPConnection) throws {
        try to.take(try copyOutput(of: from))
    }
}

/// Processor time of this thread, in parts.
struct StopWatch {
    private var begin: UInt64 = 0
    private var sum: UInt64 = 0
    private var parts: UInt64 = 0
    /// What measuring nothing costs; it is no part of what is measured.
    private var empty = UInt64.max

    init() {
        for _ in 0..<1_000 {
            reset()
            start()
            stop()
            empty = min(empty, sum)
        }
    }

    mutating func reset() { (sum, parts) = (0, 0) }

    @inline(__always)
    mutating func start() { begin = Self.now() }

    @inline(__always)
    mutating func stop() {
        sum += Self.now() - begin
        parts += 1
    }

    var nanoseconds: UInt64 { sum - min(sum, parts * empty) }

    @inline(__always)
    private static func now() -> UInt64 {
        apus_clock_ns(CLOCK_THREAD_CPUTIME_ID)
    }
}
