internal import CProton
internal import Glibc

/// One AMQP connection of libqpid-proton without a socket: bytes in, events and bytes out.
final class AMQPConnection {
    private let driver: UnsafeMutablePointer<pn_connection_driver_t>
    let connection: OpaquePointer

    /// The role of an end while a connection is opened.
    enum Role {
        /// Speaks SASL ANONYMOUS first, as clients do.
        case client
        /// Goes without SASL.
        case plainClient
        case server
    }

    init(container: String, _ role: Role) throws {
        driver = .allocate(capacity: 1)
        driver.initialize(to: pn_connection_driver_t())
        guard pn_connection_driver_init(driver, nil, nil) == 0, let connection = driver.pointee.connection,
            let transport = driver.pointee.transport
        else { throw Failure("Proton gives no connection") }
        self.connection = connection
        switch role {
        case .client: pn_sasl_allowed_mechs(pn_sasl(transport), "ANONYMOUS")
        case .plainClient: break
        case .server: pn_transport_set_server(transport)
        }
        pn_connection_set_container(connection, container)
    }

    deinit {
        pn_connection_driver_destroy(driver)
        driver.deallocate()
    }

    /// The next thing that happened; valid until the next call.
    @inline(__always)
    func next() -> OpaquePointer? { pn_connection_driver_next_event(driver) }

    /// Room for at least so many bytes from the peer; nothing when the connection has ended.
    @inline(__always)
    func room(_ count: Int) -> pn_rwbytes_t { pn_connection_driver_read_buffer_sized(driver, count) }

    /// So many bytes have been put into the room.
    @inline(__always)
    func took(_ count: Int) { pn_connection_driver_read_done(driver, count) }

    /// Copies bytes from the peer.
    @inline(__always)
    func take(_ bytes: UnsafeRawBufferPointer) throws {
        var at = 0
        while at < bytes.count {
            let room = room(bytes.count - at)
            guard room.size > 0, let start = room.start, let base = bytes.baseAddress else {
                throw Failure("the engine takes no more: \(trouble)")
            }
            let part = min(room.size, bytes.count - at)
            memcpy(start, base + at, part)
            took(part)
            at += part
        }
    }

    /// Bytes for the peer, until the next call of anything.
    @inline(__always)
    func output() -> pn_bytes_t { pn_connection_driver_write_buffer(driver) }

    /// So many bytes of the output are on their way.
    @inline(__always)
    func sent(_ count: Int) { _ = pn_connection_driver_write_done(driver, count) }

    /// Says that this end is alive if the peer has to hear it.
    func tick() { _ = pn_transport_tick(driver.pointee.transport, Int64(now() / 1_000_000)) }

    /// A link of this end's own, on a session of its own.
    func attach(_ direction: AMQPLink, _ address: String, name: String, isSettled: Bool) throws -> OpaquePointer {
        pn_connection_open(connection)
        guard let session = pn_session(connection) else { throw Failure("Proton gives no session") }
        pn_session_open(session)
        return try Self.attach(direction, address, name: name, isSettled: isSettled, on: session)
    }

    static func attach(
        _ direction: AMQPLink, _ address: String, name: String, isSettled: Bool, on session: OpaquePointer
    ) throws -> OpaquePointer {
        guard let link = direction == .sender ? pn_sender(session, name) : pn_receiver(session, name) else {
            throw Failure("Proton gives no link")
        }
        pn_terminus_set_address(direction == .sender ? pn_link_target(link) : pn_link_source(link), address)
        pn_link_set_snd_settle_mode(link, isSettled ? PN_SND_SETTLED : PN_SND_UNSETTLED)
        pn_link_set_rcv_settle_mode(link, PN_RCV_FIRST)
        pn_link_open(link)
        return link
    }

    /// A server opens what a client opens, and grants credit to those who send.
    /// - Returns: the link, if it was one.
    static func welcome(_ event: OpaquePointer, credit: Int) throws -> OpaquePointer? {
        switch pn_event_type(event) {
        case PN_CONNECTION_REMOTE_OPEN: pn_connection_open(pn_event_connection(event))
        case PN_SESSION_REMOTE_OPEN: pn_session_open(pn_event_session(event))
        case PN_LINK_REMOTE_OPEN:
            let link = pn_event_link(event)
            pn_terminus_copy(pn_link_source(link), pn_link_remote_source(link))
            pn_terminus_copy(pn_link_target(link), pn_link_remote_target(link))
            pn_link_open(link)
            if pn_link_is_receiver(link) { pn_link_flow(link, Int32(credit)) }
            return link
        default:
            if let complaint = complaint(event) { throw Failure("in memory: \(complaint)") }
        }
        return nil
    }

    /// What an event says about the end of a link, a session or the connection; nil for all others.
    static func complaint(_ event: OpaquePointer) -> String? {
        let condition: OpaquePointer?
        let what: String
        switch pn_event_type(event) {
        case PN_LINK_REMOTE_CLOSE, PN_LINK_REMOTE_DETACH:
            let link = pn_event_link(event)
            (what, condition) = ("the link was detached", pn_link_remote_condition(link))
            // The answer to this end's own detach.
            if pn_link_state(link) & PN_LOCAL_CLOSED != 0, !pn_condition_is_set(condition) { return nil }
        case PN_SESSION_REMOTE_CLOSE:
            (what, condition) = ("the session was ended", pn_session_remote_condition(pn_event_session(event)))
        case PN_CONNECTION_REMOTE_CLOSE:
            let connection = pn_event_connection(event)
            (what, condition) = ("the connection was closed", pn_connection_remote_condition(connection))
        case PN_TRANSPORT_ERROR:
            let transport = pn_event_transport(event)
            (what, condition) = ("the transport failed", pn_transport_condition(transport))
        default: return nil
        }
        return what + text(condition)
    }

    private var trouble: String { Self.text(pn_transport_condition(driver.pointee.transport)) }

    private static func text(_ condition: OpaquePointer?) -> String {
        guard let condition, pn_condition_is_set(condition), let name = pn_condition_get_name(condition) else {
            return ""
        }
        let description = pn_condition_get_description(condition).map { ", \(String(cString: $0))" } ?? ""
        return ": \(String(cString: name))\(description)"
    }
}

/// The direction of a link, seen from its own end.
enum AMQPLink { case sender, receiver }

/// Messages of one length, encoded, sent again and again in a circle: a data section and nothing else.
struct AMQPBlock {
    let bytes: UnsafeMutablePointer<UInt8>
    let count: Int
    let messageBytes: Int
    /// Where the payload begins in a message.
    let payloadOffset: Int

    init(payload: Int, count: Int = 2_048) {
        self.count = count
        // Described by 0x75, a data section; then binary with a length of one byte or four (§3.2.6, §1.6.19).
        let head: [UInt8] =
            payload < 256
            ? [0, 0x53, 0x75, 0xa0, UInt8(payload)]
            : [0, 0x53, 0x75, 0xb0] + (0..<4).map { UInt8(truncatingIfNeeded: payload >> (24 - 8 * $0)) }
        payloadOffset = head.count
        messageBytes = head.count + payload
        bytes = .allocate(capacity: count * messageBytes)
        // The payloads of ``Block``, for paths that begin with one protocol and end with the other.
        var filler = Seeded(77)
        for index in 0..<count {
            let message = head + Stamp.payload(sequence: index, source: 0, size: payload, filler: &filler)
            (bytes + index * messageBytes).initialize(from: message, count: messageBytes)
        }
    }

    /// Whether a message ends with the data section of the n-th of the circle.
    @inline(__always)
    func isEnd(of message: UnsafePointer<UInt8>, _ size: Int, number: Int) -> Bool {
        size >= messageBytes
            && memcmp(message + (size - messageBytes), bytes + number * messageBytes, messageBytes) == 0
    }

    /// The number that a message carries if it has the right length, for whoever has to find out what went wrong.
    func number(_ message: UnsafePointer<UInt8>, _ size: Int) -> UInt32 {
        guard size >= messageBytes else { return .max }
        return UnsafeRawPointer(message + (size - messageBytes + payloadOffset)).loadUnaligned(as: UInt32.self)
    }
}

extension AMQPConnection {
    /// Sends the n-th message of a circle on a link that has credit.
    @inline(__always)
    static func send(_ block: AMQPBlock, _ number: Int, on link: OpaquePointer, tag: Int, isSettled: Bool) {
        send(block.bytes + number % block.count * block.messageBytes, block.messageBytes, on: link, tag, isSettled)
    }

    @inline(__always)
    static func send(
        _ message: UnsafePointer<UInt8>, _ size: Int, on link: OpaquePointer, _ tag: Int, _ isSettled: Bool
    ) {
        var tag = UInt32(truncatingIfNeeded: tag)
        let delivery = withUnsafeBytes(of: &tag) {
            pn_delivery(link, pn_bytes(4, $0.baseAddress?.assumingMemoryBound(to: CChar.self)))
        }
        message.withMemoryRebound(to: CChar.self, capacity: size) { _ = pn_link_send(link, $0, size) }
        pn_link_advance(link)
        if isSettled { pn_delivery_settle(delivery) }
    }
}
