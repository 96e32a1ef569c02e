import CProton

/// A client made of libqpid-proton, without socket or clock: bytes in, bytes out.
final class ProtonClient {
    /// What a receiver has got.
    struct Received {
        var bytes: [UInt8]
        var isSettled: Bool
        var delivery: OpaquePointer
    }

    let driver: UnsafeMutablePointer<pn_connection_driver_t>
    var connection: OpaquePointer { driver.pointee.connection }
    var transport: OpaquePointer { driver.pointee.transport }

    /// What has happened, without what the transport says of itself.
    private(set) var events: [pn_event_type_t] = []
    /// Whole messages by receiver, in the order they came.
    private(set) var received: [OpaquePointer: [Received]] = [:]
    /// Bytes of deliveries that are not complete yet.
    private var partial: [OpaquePointer: [UInt8]] = [:]
    private var nextTag: UInt64 = 0

    init(container: String = "client", _ configure: (OpaquePointer, OpaquePointer) -> Void = { _, _ in }) {
        driver = .allocate(capacity: 1)
        precondition(pn_connection_driver_init(driver, nil, nil) == 0)
        pn_connection_set_container(connection, container)
        configure(transport, connection)
        pn_connection_driver_bind(driver)
    }

    deinit {
        pn_connection_driver_destroy(driver)
        driver.deallocate()
    }

    // MARK: Bytes

    /// Everything that is due.
    func bytes() -> [UInt8] {
        var bytes: [UInt8] = []
        var due = pn_connection_driver_write_buffer(driver)
        while due.size > 0 {
            bytes.append(contentsOf: UnsafeRawBufferPointer(start: due.start, count: due.size))
            due = pn_connection_driver_write_done(driver, due.size)
        }
        return bytes
    }

    func take(_ bytes: [UInt8]) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let free = pn_connection_driver_read_buffer(driver)
            guard free.size > 0 else { break }
            let count = min(rest.count, free.size)
            rest.prefix(count).withUnsafeBytes {
                UnsafeMutableRawPointer(free.start).copyMemory(from: $0.baseAddress!, byteCount: count)
            }
            pn_connection_driver_read_done(driver, count)
            rest = rest.dropFirst(count)
        }
        takeEvents()
    }

    private func takeEvents() {
        while let event = pn_connection_driver_next_event(driver) {
            let type = pn_event_type(event)
            if type == PN_TRANSPORT { continue }
            events.append(type)
            guard type == PN_DELIVERY, let delivery = OpaquePointer(pn_event_context(event)),
                let link = pn_delivery_link(delivery), pn_link_is_receiver(link), pn_delivery_readable(delivery)
            else { continue }
            read(delivery, of: link)
        }
    }

    private func read(_ delivery: OpaquePointer, of link: OpaquePointer) {
        let count = pn_delivery_pending(delivery)
        partial[delivery, default: []] += [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            initialized = buffer.withMemoryRebound(to: CChar.self) { max(0, pn_link_recv(link, $0.baseAddress, count)) }
        }
        guard !pn_delivery_partial(delivery) else { return }
        let isSettled = pn_delivery_settled(delivery)
        let bytes = partial.removeValue(forKey: delivery) ?? []
        received[link, default: []].append(Received(bytes: bytes, isSettled: isSettled, delivery: delivery))
        pn_link_advance(link)
        if isSettled { pn_delivery_settle(delivery) }
    }

    /// How often something has happened.
    func count(_ type: pn_event_type_t) -> Int { events.reduce(0) { $0 + ($1 == type ? 1 : 0) } }

    // MARK: Endpoints

    func open() { pn_connection_open(connection) }

    func close() { pn_connection_close(connection) }

    func session() -> OpaquePointer {
        let session = pn_session(connection)!
        pn_session_open(session)
        return session
    }

    func sender(
        _ session: OpaquePointer, _ name: String, to address: String?, _ configure: (OpaquePointer) -> Void = { _ in }
    ) -> OpaquePointer {
        let link = pn_sender(session, name)!
        pn_terminus_set_address(pn_link_target(link), address)
        configure(link)
        pn_link_open(link)
        return link
    }

    func receiver(
        _ session: OpaquePointer, _ name: String, from address: String?,
        _ configure: (OpaquePointer) -> Void = { _ in }
    ) -> OpaquePointer {
        let link = pn_receiver(session, name)!
        pn_terminus_set_address(pn_link_source(link), address)
        configure(link)
        pn_link_open(link)
        return link
    }

    // MARK: Deliveries

    /// Sends a message, or its first part when more is to come.
    @discardableResult
    func send(_ bytes: [UInt8], on link: OpaquePointer, isSettled: Bool = false, hasMore: Bool = false)
        -> OpaquePointer?
    {
        nextTag += 1
        let delivery = withUnsafeBytes(of: nextTag) {
            pn_delivery(link, pn_dtag($0.baseAddress?.assumingMemoryBound(to: CChar.self), $0.count))
        }
        append(bytes, on: link)
        if hasMore { return delivery }
        pn_link_advance(link)
        guard isSettled else { return delivery }
        pn_delivery_settle(delivery)
        return nil
    }

    /// Sends more of the message that was begun last.
    func append(_ bytes: [UInt8], on link: OpaquePointer) {
        bytes.withUnsafeBytes {
            _ = pn_link_send(link, $0.baseAddress?.assumingMemoryBound(to: CChar.self), $0.count)
        }
    }

    func grant(_ link: OpaquePointer, _ count: Int32) { pn_link_flow(link, count) }

    func drain(_ link: OpaquePointer, _ count: Int32) { pn_link_drain(link, count) }

    func settle(_ delivery: OpaquePointer, _ state: Int32?) {
        if let state { pn_delivery_update(delivery, UInt64(state)) }
        pn_delivery_settle(delivery)
    }

    /// The name and text of a condition.
    static func condition(_ condition: OpaquePointer?) -> (name: String, text: String)? {
        guard let condition, pn_condition_is_set(condition) else { return nil }
        let text = pn_condition_get_description(condition).map { String(cString: $0) }
        return (String(cString: pn_condition_get_name(condition)), text ?? "")
    }
}
