import Core
import Synchronization
import Testing

@testable import Node

/// What becomes of audit records.
@Suite("Audit log")
struct AuditLogTests {
    @Test("A record is no longer than one wants to read, whatever the peer has written")
    func length() {
        let payloads = Mutex<[Int]>([])
        let log = AuditLog()
        log.attach { _, payload in payloads.withLock { $0.append(payload.count) } }
        var record = AuditRecord(.administration, "GET /" + String(repeating: "a", count: 100_000))
        // One character, as Swift counts.
        record.user = "a" + String(repeating: "\u{301}", count: 30_000)
        log.record(record)
        #expect(payloads.withLock { $0.count } == 1)
        #expect(payloads.withLock { $0.reduce(0, +) } < 8_192)
    }
}
