/// How the failures of a bridge's thread are told.
import Core
import Logging

extension BridgeThread {
    /// Tells that there is no connection.
    /// - Parameter what: for the log; nil for nothing.
    /// - Returns: when the next attempt is made.
    static func noteFailure(
        _ reason: String, _ failures: Int, of task: Task, what: Logger.Message?
    ) -> UInt64 {
        let wait = task.definition.backoff.delay(after: failures, random: task.settings.random())
        let next = BridgeWire.now + wait
        task.wire.note {
            $0.state = .waiting
            $0.lastError = reason
            $0.nextAttemptAt = next
            $0.counts.failures += 1
        }
        guard let what else { return next }
        task.settings.logger.warning(
            what,
            metadata: [
                "bridge": "\(task.definition.name)", "broker": "\(task.definition.host):\(task.definition.port)",
                "reason": "\(reason)", "next_try_ms": "\(wait)",
            ])
        return next
    }
}
