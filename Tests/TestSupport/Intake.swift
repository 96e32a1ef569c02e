public import Core

/// What a conversation has made of bytes that came in.
public struct Intake {
    /// Why it takes no more.
    public enum Stop: Equatable {
        /// It waits for more bytes.
        case waiting
        /// It is to be resumed.
        case paused
        /// Others go first: in the next pass it goes on.
        case yielding
        /// It ends the connection.
        case close(CloseReason)
        /// The connection has ended meanwhile.
        case ended
    }

    /// Bytes that it has not taken.
    public var rest: [UInt8]
    /// Why it takes no more.
    public var stop: Stop
}

extension Conversation {
    /// As in the reactor: receive, route, tell, route what was put off. Bytes are shown in a copy of exactly their size
    /// that is spoilt afterwards: nobody may read beyond it, or later.
    /// - Parameters:
    ///   - isOpen: whether the connection goes on; asked before every turn.
    ///   - yields: whether the lane lets others go first when the conversation wants something routed.
    ///   - taken: sees what it has taken.
    public func take(
        _ bytes: [UInt8], on lane: Lane, isOpen: () -> Bool, yields: () -> Bool = { false },
        taken: (UnsafeRawBufferPointer) -> Void = { _ in }
    ) -> Intake {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
        buffer.copyBytes(from: bytes)
        defer {
            _ = buffer.initializeMemory(as: UInt8.self, repeating: 0xEE)
            buffer.deallocate()
        }
        var offset = 0
        func intake(_ stop: Intake.Stop) -> Intake { Intake(rest: Array(buffer[offset...]), stop: stop) }
        let turn = lane.turn
        turn.beginSlowly()
        while isOpen() {
            let rest = UnsafeRawBufferPointer(rebasing: buffer[offset...])
            let progress = receive(rest, turn, on: lane)
            precondition((0...rest.count).contains(progress.consumed), "took what is not there")
            taken(UnsafeRawBufferPointer(rebasing: rest[..<progress.consumed]))
            offset += progress.consumed
            if !turn.isEmpty {
                turn.principal?.router.route(turn, on: lane)
                routed(turn, on: lane)
                turn.removeAll()
            } else {
                turn.forgetUnused()
            }
            lane.routeDeferred()
            switch progress.verdict {
            case .routeFirst: if yields() { return intake(.yielding) }
            case .waiting: return intake(.waiting)
            case .paused: return intake(.paused)
            case .close(let reason): return intake(.close(reason))
            }
        }
        return intake(.ended)
    }
}
