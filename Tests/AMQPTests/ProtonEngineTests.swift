import CProton
import Testing

@testable import AMQP

@Suite struct ProtonEngineTests {
    // MARK: Connection and sessions

    @Test func opensAndBegins() {
        let stage = EngineStage { transport, connection in
            pn_transport_set_idle_timeout(transport, 20_000)
            pn_connection_set_hostname(connection, "mesh.example")
            let properties = pn_connection_properties(connection)
            pn_data_put_map(properties)
            pn_data_enter(properties)
            for text in ["product", "test"] {
                text.withCString { _ = pn_data_put_symbol(properties, pn_bytes_t(size: text.utf8.count, start: $0)) }
            }
            pn_data_exit(properties)
        }
        let (theirs, _) = stage.open()
        let open = stage.engine.remoteOpen
        #expect(open.containerID == "client")
        #expect(open.hostname == "mesh.example")
        #expect(open.idleMilliseconds == 10_000)
        #expect(open.properties.map(\.name) == ["product"])
        #expect(open.properties.map(\.value) == ["test"])
        #expect(String(cString: pn_connection_remote_container(stage.client.connection)) == "node")
        #expect(pn_transport_get_remote_max_frame(stage.client.transport) == 65_536)
        #expect(pn_transport_get_remote_idle_timeout(stage.client.transport) == 30_000)
        #expect(pn_transport_remote_channel_max(stage.client.transport) == 255)
        #expect(
            ProtonEngine.symbols(pn_connection_remote_offered_capabilities(stage.client.connection)) == [
                "ANONYMOUS-RELAY"
            ])
        #expect(ProtonEngine.texts(pn_connection_remote_properties(stage.client.connection)).map(\.value) == ["Apus"])
        #expect(pn_session_state(theirs) == PN_LOCAL_ACTIVE | PN_REMOTE_ACTIVE)
        #expect(!stage.engine.isClosed)
    }

    /// A window that is counted in bytes would be a few frames only, and cost a flow for every few messages.
    @Test func theWindowIsLarge() throws {
        let stage = EngineStage()
        stage.client.open()
        _ = stage.client.session()
        stage.pump()
        stage.engine.open([], offering: [])
        stage.engine.begin(try #require(stage.takeBegun()))
        stage.produce()
        // begin: channel, next-outgoing-id and the window, as uint.
        let begin = try #require(Search.frame(0x11, in: stage.produced))
        #expect(Search.count([0x70, 0x7F, 0xFF, 0xFF, 0xFF], in: begin) >= 1)
    }

    @Test func endsASession() throws {
        let stage = EngineStage()
        let (theirs, ours) = stage.open()
        var error = AMQPError(.handleInUse, "too much")
        error.info = [("limit", "10")]
        stage.engine.end(ours, error)
        stage.pump()
        let condition = pn_session_remote_condition(theirs)
        #expect(ProtonClient.condition(condition)?.name == "amqp:session:handle-in-use")
        #expect(ProtonClient.condition(condition)?.text == "too much")
        #expect(ProtonEngine.texts(pn_condition_info(condition)).map(\.value) == ["10"])
        pn_session_close(theirs)
        stage.pump()
        guard case .ended(let session, nil)? = stage.events.last else { throw Missing("ended") }
        #expect(session == ours)
        stage.engine.free(ours)
        stage.pump()
        #expect(!stage.engine.isClosed)
    }

    @Test func closesWithACondition() throws {
        let stage = EngineStage()
        _ = stage.open()
        stage.engine.close(AMQPError(.connectionForced, "stopping"))
        stage.pump()
        #expect(ProtonClient.condition(pn_connection_remote_condition(stage.client.connection))?.text == "stopping")
        #expect(!stage.engine.isClosed)
        stage.client.close()
        stage.pump()
        #expect(stage.engine.isClosed)
        stage.feed([1, 2, 3])
        #expect(stage.produce().isEmpty)
    }

    @Test func isToldWhyThePeerCloses() throws {
        let stage = EngineStage()
        _ = stage.open()
        pn_condition_set_name(pn_connection_condition(stage.client.connection), "amqp:not-allowed")
        pn_condition_set_description(pn_connection_condition(stage.client.connection), "enough")
        stage.client.close()
        stage.pump()
        guard case .closed(let error)? = stage.events.first(where: { if case .closed = $0 { true } else { false } })
        else { throw Missing("closed") }
        #expect(error == AMQPError(.notAllowed, "enough"))
        stage.engine.close(nil)
        stage.pump()
        #expect(stage.engine.isClosed)
        #expect(stage.client.count(PN_CONNECTION_REMOTE_CLOSE) == 1)
    }

    // MARK: Failures

    @Test func failsOfGarbage() throws {
        let stage = EngineStage()
        _ = stage.open()
        stage.feed([0, 0, 0, 4, 2, 0, 0, 0, 9, 9])
        let error = try #require(stage.takeFailure())
        #expect(error.condition == .framingError)
        #expect(stage.engine.isClosed)
        stage.produce()
        #expect(
            ProtonClient.condition(pn_connection_remote_condition(stage.client.connection))?.name
                == "amqp:connection:framing-error")
        // The rest is swallowed.
        stage.feed([UInt8](repeating: 7, count: 100_000))
        #expect(stage.produce().isEmpty)
        #expect(stage.takeFailure() == nil)
    }

    /// The transport stops without an error at a performative that it does not know.
    @Test func failsOfAnUnknownPerformative() throws {
        let stage = EngineStage()
        _ = stage.open()
        stage.feed([0, 0, 0, 12, 2, 0, 0, 0, 0x00, 0x53, 0x77, 0x45])
        #expect(try #require(stage.takeFailure()).condition == .framingError)
        stage.produce()
        #expect(stage.client.count(PN_CONNECTION_REMOTE_CLOSE) == 1)
    }

    // MARK: Time

    @Test func givesASilentPeerUp() throws {
        let stage = EngineStage()
        _ = stage.open()
        let deadline = try #require(stage.engine.tick(now: 1_000))
        #expect(deadline == 61_000)
        #expect(stage.engine.tick(now: 60_999) == 61_000)
        #expect(stage.engine.nextEvent() == nil)
        // Whatever the peer sends puts it off.
        stage.feed([0, 0, 0, 8, 2, 0, 0, 0])
        #expect(stage.engine.tick(now: 60_999) == 120_999)
        _ = stage.engine.tick(now: 120_999)
        guard case .failed(let error)? = stage.engine.nextEvent() else { throw Missing("failed") }
        #expect(error.condition == .resourceLimitExceeded)
        #expect(stage.engine.isClosed)
        stage.produce()
        #expect(stage.client.count(PN_CONNECTION_REMOTE_CLOSE) == 1)
    }

    @Test func keepsTheConnectionAlive() throws {
        let stage = EngineStage(
            EngineSettings(containerID: "n", maxFrameBytes: 65_536, channelMax: 1, handleMax: 1, idleMilliseconds: 0)
        ) { transport, _ in pn_transport_set_idle_timeout(transport, 20_000) }
        _ = stage.open()
        // The peer says 10 seconds, half of its own; it is sent something every half of them.
        #expect(stage.engine.tick(now: 0) == 5_001)
        #expect(stage.produce().isEmpty)
        #expect(stage.engine.tick(now: 5_001) == 10_001)
        #expect(stage.produce() == [0, 0, 0, 8, 2, 0, 0, 0])
    }

    @Test func hasNoDeadlineWithoutTimeouts() {
        let stage = EngineStage(
            EngineSettings(containerID: "n", maxFrameBytes: 65_536, channelMax: 1, handleMax: 1, idleMilliseconds: 0))
        _ = stage.open()
        #expect(stage.engine.tick(now: 5) == nil)
    }
}

/// Something that should have been there.
struct Missing: Error {
    let what: String
    init(_ what: String) { self.what = what }
}

/// Looking for bytes.
enum Search {
    /// The first frame with a performative.
    static func frame(_ performative: UInt8, in bytes: [UInt8]) -> [UInt8]? {
        range(performative, in: bytes).map { Array(bytes[$0]) }
    }

    /// Where the first frame with a performative is.
    static func range(_ performative: UInt8, in bytes: [UInt8]) -> Range<Int>? {
        var at = bytes.starts(with: Array("AMQP".utf8)) ? 8 : 0
        while at + 8 <= bytes.count {
            let size = bytes[at..<at + 4].reduce(0) { $0 << 8 | Int($1) }
            guard size >= 8, at + size <= bytes.count else { return nil }
            if size > 10, bytes[at + 8] == 0, bytes[at + 9] == 0x53, bytes[at + 10] == performative {
                return at..<at + size
            }
            at += size
        }
        return nil
    }

    static func positions(_ wanted: [UInt8], in bytes: [UInt8]) -> [Int] {
        guard bytes.count >= wanted.count else { return [] }
        return (0...bytes.count - wanted.count).filter { bytes[$0...].starts(with: wanted) }
    }

    static func count(_ wanted: [UInt8], in bytes: [UInt8]) -> Int { positions(wanted, in: bytes).count }
}
