/// Where audit records go: to the log (component `audit`) and, where access rules say who may read them, to the topics
/// `$SYS/audit/<kind>`. `docs/security.md`.
import Core
import FoundationEssentials
import Glibc
import Logging
import Synchronization

/// Takes records from every thread. A flood is thinned out by kind: what was left out is counted, and said with the
/// next record of the kind.
final class AuditLog: AuditSink, Sendable {
    /// Records at once, and a second, of one kind.
    private static let (burst, rate) = (200.0, 50.0)

    private struct Bucket: Sendable {
        var tokens = AuditLog.burst
        var filledAt = 0.0
        var suppressed = 0
        var total = 0
    }

    /// How records are published; set once the node routes events.
    typealias Publish = @Sendable (_ topic: String, _ payload: [UInt8]) -> Void

    private struct State: Sendable {
        var buckets = [Bucket](repeating: Bucket(), count: AuditRecord.Kind.allCases.count)
        var publish: Publish?
    }

    private let logger = Logger(label: "audit")
    private let state = Mutex(State())

    /// From now on records are published as well.
    func attach(publish: @escaping Publish) { state.withLock { $0.publish = publish } }

    func record(_ record: AuditRecord) {
        let now = Self.seconds()
        let place = AuditRecord.Kind.allCases.firstIndex(of: record.kind) ?? 0
        let (isTaken, leftOut, publish) = state.withLock { state in
            var bucket = state.buckets[place]
            defer { state.buckets[place] = bucket }
            bucket.total += 1
            bucket.tokens = min(Self.burst, bucket.tokens + (now - bucket.filledAt) * Self.rate)
            bucket.filledAt = now
            guard bucket.tokens >= 1 else {
                bucket.suppressed += 1
                return (false, 0, state.publish)
            }
            bucket.tokens -= 1
            defer { bucket.suppressed = 0 }
            return (true, bucket.suppressed, state.publish)
        }
        guard isTaken else { return }
        let fields = Self.fields(record, leftOut: leftOut)
        var metadata: Logger.Metadata = [:]
        for (name, value) in fields { metadata[name] = "\(value)" }
        logger.notice("\(record.isRefusal ? "refused" : "done"): \(Self.text(record.action))", metadata: metadata)
        guard let publish else { return }
        var document = Dictionary(fields, uniquingKeysWith: { first, _ in first })
        document["time"] = Date().formatted(Date.ISO8601FormatStyle(includingFractionalSeconds: true))
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        guard let payload = try? encoder.encode(document) else { return }
        publish("$SYS/audit/\(record.kind.rawValue)", Array(payload))
    }

    /// Records taken by kind, those left out included.
    var counts: [AuditRecord.Kind: Int] {
        state.withLock { state in
            Dictionary(uniqueKeysWithValues: zip(AuditRecord.Kind.allCases, state.buckets.map(\.total)))
        }
    }

    /// No more of what peers write than one wants to read.
    private static func text(_ value: String) -> String {
        String(String.UnicodeScalarView(value.unicodeScalars.prefix(1_024)))
    }

    /// Only what is known.
    private static func fields(_ record: AuditRecord, leftOut: Int) -> [(String, String)] {
        var fields = [
            ("kind", record.kind.rawValue), ("outcome", record.isRefusal ? "refused" : "done"),
            ("action", text(record.action)),
        ]
        func add(_ name: String, _ value: String?) {
            if let value, !value.isEmpty { fields.append((name, text(value))) }
        }
        add("object", record.object)
        add("user", record.user)
        add("client", record.clientID)
        add("peer", record.peer)
        add("protocol", record.protocolName)
        add("reason", record.reason)
        add("left_out", leftOut > 0 ? String(leftOut) : nil)
        return fields
    }

    private static func seconds() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }
}
