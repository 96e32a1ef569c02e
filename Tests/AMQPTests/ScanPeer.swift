import CProton

/// One end of a connection on libqpid-proton, in memory: what real frames look like, and what the engine makes of
/// frames that the guard lets through. It answers whatever its peer opens and closes.
final class ScanPeer {
    private var driver = pn_connection_driver_t()
    private(set) var errors: [String] = []
    /// Sessions that the peer has begun, in order, and links that it has attached.
    private(set) var begun: [OpaquePointer] = []
    private(set) var received = 0
    private(set) var settled = 0
    /// Messages that it sends on a link whenever it has credit, and their size.
    var messagesToSend = 0
    var messageBytes = 100
    var sendsSettled = false
    private var sent = 0
    private let isServer: Bool

    init(isServer: Bool, maxFrameBytes: UInt32 = 65_536) {
        self.isServer = isServer
        pn_connection_driver_init(&driver, nil, nil)
        if isServer { pn_transport_set_server(driver.transport) }
        pn_transport_set_max_frame(driver.transport, maxFrameBytes)
        pn_transport_set_channel_max(driver.transport, 255)
        pn_connection_set_container(driver.connection, isServer ? "server" : "client")
        pn_connection_set_hostname(driver.connection, "here")
    }

    deinit { pn_connection_driver_destroy(&driver) }

    var connection: OpaquePointer? { driver.connection }

    /// Bytes from the other end.
    func take(_ bytes: [UInt8]) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let room = pn_connection_driver_read_buffer_sized(&driver, rest.count)
            guard room.size > 0, let start = room.start else { return }
            let count = min(room.size, rest.count)
            let target = UnsafeMutableRawBufferPointer(start: start, count: count)
            target.copyBytes(from: rest.prefix(count))
            pn_connection_driver_read_done(&driver, count)
            rest = rest.dropFirst(count)
            handleEvents()
        }
    }

    /// Bytes for the other end.
    func produce() -> [UInt8] {
        handleEvents()
        var all: [UInt8] = []
        while true {
            let bytes = pn_connection_driver_write_buffer(&driver)
            guard bytes.size > 0, let start = bytes.start else { break }
            all += UnsafeRawBufferPointer(start: start, count: bytes.size)
            pn_connection_driver_write_done(&driver, bytes.size)
            handleEvents()
        }
        return all
    }

    func handleEvents() {
        while let event = pn_connection_driver_next_event(&driver) { handle(event) }
    }

    private func handle(_ event: OpaquePointer) {
        switch pn_event_type(event) {
        case PN_CONNECTION_REMOTE_OPEN: pn_connection_open(pn_event_connection(event))
        case PN_CONNECTION_REMOTE_CLOSE: pn_connection_close(pn_event_connection(event))
        case PN_SESSION_REMOTE_OPEN:
            let session = pn_event_session(event)
            if isServer, let session { begun.append(session) }
            pn_session_set_incoming_capacity(session, 0x7FFF_FFFF)
            pn_session_open(session)
        case PN_SESSION_REMOTE_CLOSE:
            let session = pn_event_session(event)
            pn_session_close(session)
            pn_session_free(session)
        case PN_LINK_REMOTE_OPEN: attached(pn_event_link(event))
        case PN_LINK_REMOTE_CLOSE, PN_LINK_REMOTE_DETACH:
            let link = pn_event_link(event)
            pn_link_close(link)
            pn_link_free(link)
        case PN_LINK_FLOW: flow(pn_event_link(event))
        case PN_DELIVERY: delivery(pn_event_delivery(event))
        case PN_TRANSPORT_ERROR:
            let condition = pn_transport_condition(driver.transport)
            let name = pn_condition_get_name(condition).map { String(cString: $0) } ?? ""
            let text = pn_condition_get_description(condition).map { String(cString: $0) } ?? ""
            errors.append("\(name): \(text)")
        default: break
        }
    }

    private func attached(_ link: OpaquePointer?) {
        guard isServer else { return }
        pn_terminus_copy(pn_link_source(link), pn_link_remote_source(link))
        pn_terminus_copy(pn_link_target(link), pn_link_remote_target(link))
        pn_link_open(link)
        if pn_link_is_receiver(link) { pn_link_flow(link, 1_000) }
    }

    private func flow(_ link: OpaquePointer?) {
        guard pn_link_is_sender(link) else { return }
        let message = [CChar](repeating: 65, count: messageBytes)
        while sent < messagesToSend, pn_link_credit(link) > 0 {
            sent += 1
            let tag = "tag\(sent)"
            let delivery = tag.withCString { pn_delivery(link, pn_dtag($0, tag.utf8.count)) }
            pn_link_send(link, message, message.count)
            if sendsSettled { pn_delivery_settle(delivery) }
            pn_link_advance(link)
        }
        if pn_link_get_drain(link) { pn_link_drained(link) }
    }

    private func delivery(_ delivery: OpaquePointer?) {
        let link = pn_delivery_link(delivery)
        if pn_link_is_receiver(link) {
            guard pn_delivery_readable(delivery), !pn_delivery_partial(delivery) || pn_delivery_aborted(delivery) else {
                return
            }
            var room = [CChar](repeating: 0, count: 4_096)
            while pn_link_recv(link, &room, room.count) > 0 {}
            received += 1
            pn_link_advance(link)
            let outcomes = [PN_ACCEPTED, PN_REJECTED, PN_RELEASED, PN_MODIFIED]
            pn_delivery_update(delivery, UInt64(outcomes[received % 4]))
            pn_delivery_settle(delivery)
            pn_link_flow(link, 1)
        } else if pn_delivery_updated(delivery) {
            settled += 1
            pn_delivery_settle(delivery)
        }
    }

    /// Ends a session of which the guard has said so.
    func end(_ session: OpaquePointer) { pn_session_close(session) }
}
