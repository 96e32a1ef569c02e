import CProton
import Core

/// The engine of libqpid-proton: its `pn_connection_driver`, server side.
///
/// Proton counts references: an object that an event names lives until the event has been taken, even when it has been
/// freed or settled meanwhile. So that nobody is told about such an object, links and sessions are marked before they
/// are freed, and deliveries when they are settled; ``nextEvent()`` passes over them.
///
/// What this library (0.37) cannot do: say the greatest handle of a session (it announces none; the frame guard keeps
/// ours), offer capabilities of a link, and read or write a source's default outcome; drain is answered when
/// ``drained(_:)`` is called. Texts with a NUL end there. Flows that answer an echo are written here, see
/// ``answer(_:into:)``.
///
/// Debian builds it with its assertions: a peer that breaks one ends the process. So the frame guard has to refuse a
/// transfer that begins a delivery without a delivery-id, which is one of them, before it gets here.
final class ProtonEngine: AMQPEngine {
    /// A `pn_session_t`.
    struct Session: Hashable { let pointer: OpaquePointer }
    /// A `pn_link_t`.
    struct Link: Hashable { let pointer: OpaquePointer }
    /// A `pn_delivery_t`.
    struct Delivery: Hashable { let pointer: OpaquePointer }

    /// Owns the next three.
    let driver: UnsafeMutablePointer<pn_connection_driver_t>
    let transport: OpaquePointer
    let connection: OpaquePointer

    /// What has been produced.
    var sent = SentFrames()
    /// Whether something may be due since the last ``produce(into:)``.
    var isDue = false
    /// Whether the transport has given up.
    var hasFailed = false
    /// Whether ``fail(_:)`` has been called, of which ``nextEvent()`` may not have told yet.
    var isFailing = false
    /// Whether ``close(_:)`` has been called.
    var isClosing = false

    /// Sessions to which messages have been given that may not have been produced yet. Hardly ever more than one.
    var sendingSessions: [Session] = []
    /// What links that are gone had not sent, by session; nil until it is known. Proton keeps and counts it for as long
    /// as there is the session.
    var leftBehind: [Session: Int?] = [:]
    /// The next delivery tag, unique among the unsettled deliveries of a link.
    var nextTag: UInt32 = 0

    /// Whether links or sessions have been freed, and deliveries marked by their context: until then nothing is asked.
    var hasFreedLinks = false
    var hasFreedSessions = false
    var hasMarkedDeliveries = false

    /// The context of what is not to be named again. No pointer, and no number that a conversation gives.
    static var mark: UnsafeMutableRawPointer? { UnsafeMutableRawPointer(bitPattern: Int.min) }

    init(_ settings: EngineSettings) {
        driver = .allocate(capacity: 1)
        guard pn_connection_driver_init(driver, nil, nil) == 0, let transport = driver.pointee.transport,
            let connection = driver.pointee.connection
        else { preconditionFailure("out of memory") }
        self.transport = transport
        self.connection = connection
        pn_transport_set_server(transport)
        pn_transport_set_max_frame(transport, UInt32(clamping: settings.maxFrameBytes))
        pn_transport_set_channel_max(transport, UInt16(clamping: settings.channelMax))
        pn_transport_set_idle_timeout(transport, UInt32(clamping: settings.idleMilliseconds))
        pn_connection_set_container(connection, settings.containerID)
        pn_connection_driver_bind(driver)
    }

    deinit {
        pn_connection_driver_destroy(driver)
        driver.deallocate()
    }

    // MARK: Bytes

    func take(_ bytes: UnsafeRawBufferPointer) {
        guard var source = bytes.baseAddress else { return }
        var left = bytes.count
        isDue = true
        while left > 0 {
            // Nothing is free when the transport has failed or the peer has closed: the rest is swallowed.
            let free = pn_connection_driver_read_buffer(driver)
            guard free.size > 0, let start = free.start else { return }
            let count = min(left, free.size)
            UnsafeMutableRawPointer(start).copyMemory(from: source, byteCount: count)
            pn_connection_driver_read_done(driver, count)
            source += count
            left -= count
        }
    }

    func produce(into output: Output) {
        guard isDue else { return }
        isDue = false
        var due = pn_connection_driver_write_buffer(driver)
        while due.size > 0, let start = due.start {
            sent.note(UnsafeRawBufferPointer(start: start, count: due.size))
            output.append(start, due.size)
            due = pn_connection_driver_write_done(driver, due.size)
        }
        if !leftBehind.isEmpty { countLeftBehind() }
    }

    /// Has the transport close the connection with an error of ours, as it does with its own.
    func fail(_ error: AMQPError) {
        guard !isFailing, !hasFailed else { return }
        isFailing = true
        isDue = true
        Self.set(error, on: pn_transport_condition(transport))
        pn_transport_close_tail(transport)
    }

    // MARK: Time

    func tick(now: UInt64) -> UInt64? {
        isDue = true
        // 0 is no time for the transport, and says that there is no deadline when it is returned.
        let deadline = pn_transport_tick(transport, max(1, Int64(clamping: now)))
        return deadline > 0 ? UInt64(deadline) : nil
    }

    // MARK: Connection

    var remoteOpen: RemoteOpen {
        var open = RemoteOpen()
        open.containerID = Self.text(pn_connection_remote_container(connection)) ?? ""
        open.hostname = Self.text(pn_connection_remote_hostname(connection)) ?? ""
        open.maxFrameBytes = Int(pn_transport_get_remote_max_frame(transport))
        open.idleMilliseconds = Int(pn_transport_get_remote_idle_timeout(transport))
        open.desiredCapabilities = Self.symbols(pn_connection_remote_desired_capabilities(connection))
        open.properties = Self.texts(pn_connection_remote_properties(connection))
        return open
    }

    func open(_ properties: [(name: String, value: String)], offering capabilities: [String]) {
        isDue = true
        if !properties.isEmpty { Self.put(properties, into: pn_connection_properties(connection)) }
        if !capabilities.isEmpty {
            Self.put(symbols: capabilities, into: pn_connection_offered_capabilities(connection))
        }
        pn_connection_open(connection)
    }

    func close(_ error: AMQPError?) {
        isDue = true
        isClosing = true
        if let error, pn_connection_state(connection) & PN_REMOTE_UNINIT != 0 {
            // Proton keeps a close back until the peer's open has come, but not that of an error of its own.
            return fail(error)
        }
        Self.set(error, on: pn_connection_condition(connection))
        pn_connection_close(connection)
    }

    var isClosed: Bool {
        hasFailed || isClosing && pn_connection_state(connection) & PN_REMOTE_CLOSED != 0
    }

    // MARK: Sessions

    func begin(_ session: Session) {
        isDue = true
        pn_session_open(session.pointer)
    }

    func end(_ session: Session, _ error: AMQPError?) {
        isDue = true
        Self.set(error, on: pn_session_condition(session.pointer))
        pn_session_close(session.pointer)
    }

    func free(_ session: Session) {
        isDue = true
        hasFreedSessions = true
        if let index = sendingSessions.firstIndex(of: session) { sendingSessions.remove(at: index) }
        leftBehind[session] = nil
        pn_session_set_context(session.pointer, Self.mark)
        pn_session_free(session.pointer)
    }
}
