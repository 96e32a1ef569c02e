import Core
import TLS

/// TLS of one connection, and what there is to remember about it. Confined to the connection's lane.
final class SecuredTransport {
    let session: TLSSession
    /// When the handshake must be over, in the lane's milliseconds; nil afterwards.
    var handshakeDeadline: UInt64?
    /// The deadline that the conversation asked for while the handshake was under way.
    var askedDeadline: UInt64?
    /// The bytes kept by the session that the connection counts among those that wait.
    var countedBytes = 0
    /// Whether the session's failure has been acted on.
    var isFailureSettled = false

    init(_ session: TLSSession) { self.session = session }

    /// Nothing more will be sent.
    func release() {
        session.releaseKept()
        countedBytes = 0
    }
}

/// Memory that all connections with TLS of a lane share: nothing stays in it from one call to the next.
final class SealedBuffers {
    let input = UnsafeMutableRawPointer.allocate(byteCount: ReactorLane.sealedSize, alignment: 4_096)
    let output = UnsafeMutableRawPointer.allocate(byteCount: outputSize, alignment: 4_096)

    /// A whole window, sealed, and what the session has to say besides.
    static let outputSize = TLSSession.sealedBytes(OutputBuffers.largeSize) + 4_096

    deinit {
        input.deallocate()
        output.deallocate()
    }
}
