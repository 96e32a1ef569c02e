import Core

/// The statistics of a node as metrics in the text format 0.0.4 of Prometheus. `docs/metrics.md` is the reference.
public enum Metrics {
    /// The metrics of a node. Every reason, protocol and lane is there from the start, so that a rate is never without
    /// its first value.
    public static func prometheus(_ node: NodeStatistics) -> String {
        var text = MetricsText()
        text.gauge(
            "apus_build_info", "The version of the program.", [([("version", node.version), ("node", node.name)], "1")])
        connections(node, &text)
        logins(node.logins, &text)
        traffic(node, &text)
        queues(node, &text)
        lanes(node, &text)
        latency(node.latency, &text)
        if let mesh = node.mesh { self.mesh(mesh, &text) }
        bridges(node.bridges, &text)
        process(node, &text)
        return text.text
    }

    private static func connections(_ node: NodeStatistics, _ text: inout MetricsText) {
        let counters = node.counters
        text.gauge(
            "apus_connections", "Connections now, by protocol.",
            node.traffic.map { ([("protocol", $0.protocolName)], "\($0.connections)") })
        text.counter("apus_connections_accepted_total", "Connections accepted.", counters.accepted)
        text.counter(
            "apus_connections_closed_total", "Connections ended, by reason.",
            CloseReason.allCases.map { ([("reason", label($0))], "\(counters.closed[$0.rawValue])") })
        text.counter(
            "apus_quota_refused_total", "What quotas have refused, by the key that sets the limit.",
            QuotaResource.allCases.map { ([("resource", $0.key)], "\(counters.refused[$0.rawValue])") })
        text.counter(
            "apus_audit_records_total", "Audit records, those that a flood left out of the log included.",
            AuditRecord.Kind.allCases.map { ([("kind", $0.rawValue)], "\(node.auditRecords[$0] ?? 0)") })
        text.counter(
            "apus_connect_requests_total",
            "Requests to connect (MQTT CONNECT, SASL logins of AMQP), whatever the answer.",
            counters.connects)
        text.counter(
            "apus_descriptors_exhausted_total", "Times a connection found no file descriptor left.",
            counters.descriptorsExhausted)
        text.gauge(
            "apus_sessions", "Sessions now, by whether their clients are connected.",
            [
                ([("state", "connected")], "\(node.connectedSessions)"),
                ([("state", "absent")], "\(node.absentSessions)"),
            ])
        text.counter(
            "apus_sessions_expired_total", "Sessions that ended because their clients did not come back in time.",
            counters.sessionsExpired)
        text.gauge("apus_subscriptions", "Subscriptions now; each member of a group counts.", node.subscriptions)
        text.gauge(
            "apus_shared_subscriptions", "Memberships in shared groups among the subscriptions.",
            node.sharedSubscriptions)
        text.counter(
            "apus_subscriptions_refused_total", "Subscriptions refused by rules, limits or for their form.",
            counters.subscriptionsRefused)
        text.counter(
            "apus_frames_refused_total", "Frames and messages that ended a link or session, or were rejected (AMQP).",
            counters.framesRefused)
    }

    private static func logins(_ logins: IdentityCounters, _ text: inout MetricsText) {
        text.counter(
            "apus_login_checks_total", "Passwords hashed, for unknown users too, and tokens verified.",
            [([("kind", "password")], "\(logins.hashes)"), ([("kind", "token")], "\(logins.tokens)")])
        text.counter(
            "apus_login_cache_hits_total", "Logins with credentials that had been verified before.",
            UInt64(clamping: logins.cacheHits))
        text.counter(
            "apus_login_checks_shared_total", "Logins that shared the check of another one with the same credentials.",
            UInt64(clamping: logins.coalesced))
        text.counter(
            "apus_login_checks_failed_total", "Checks that could not be computed, as for lack of memory.",
            UInt64(clamping: logins.failures))
        let others = max(logins.refused - logins.refusedBusy - logins.refusedLimited, 0)
        text.counter(
            "apus_logins_refused_total", "Logins refused, by reason.",
            [
                ([("reason", "busy")], "\(logins.refusedBusy)"),
                ([("reason", "too_many_failures")], "\(logins.refusedLimited)"),
                ([("reason", "other")], "\(others)"),
            ])
        text.gauge("apus_logins_waiting", "Logins that wait for a check now.", logins.waiting)
        text.gauge("apus_login_cache_entries", "Verified passwords and tokens that are remembered now.", logins.cached)
    }

    private static func traffic(_ node: NodeStatistics, _ text: inout MetricsText) {
        let counters = node.counters
        let families: [(name: String, help: String, values: KeyPath<TrafficStatistics, [UInt64]>)] = [
            ("apus_events_received_total", "Events taken from clients.", \.eventsIn),
            ("apus_events_sent_total", "Events written to clients.", \.eventsOut),
            ("apus_event_bytes_received_total", "Bytes of the packets that brought events.", \.bytesIn),
            ("apus_event_bytes_sent_total", "Bytes of the packets that carried events.", \.bytesOut),
        ]
        for family in families {
            let samples = node.traffic.flatMap { traffic in
                (0..<3).map { qos -> MetricsText.Sample in
                    (
                        [("protocol", traffic.protocolName), ("qos", "\(qos)")],
                        "\(traffic[keyPath: family.values][qos])"
                    )
                }
            }
            text.counter(family.name, family.help, samples)
        }
        text.counter(
            "apus_control_packets_received_total", "Packets other than events taken from clients.", counters.packetsIn)
        text.counter(
            "apus_control_packets_sent_total", "Packets other than events written to clients.", counters.packetsOut)
        text.counter("apus_received_bytes_total", "Bytes read from sockets.", counters.socketBytesIn)
        text.counter("apus_sent_bytes_total", "Bytes that sockets took.", counters.socketBytesOut)
        text.counter(
            "apus_events_dropped_total", "Events dropped, once for each subscriber that missed one, by reason.",
            DropReason.allCases.map { ([("reason", label($0))], "\(counters.dropped[$0.rawValue])") })
    }

    private static func queues(_ node: NodeStatistics, _ text: inout MetricsText) {
        let counters = node.counters
        text.gauge("apus_queued_events", "Events that wait in sessions.", node.queuedEvents)
        text.gauge("apus_queued_bytes", "What the events that wait in sessions count for.", node.queuedBytes)
        text.gauge("apus_held_runs", "Runs of events whose publishers wait for a full queue.", node.heldRuns)
        text.gauge("apus_retained_events", "Topics with a retained event.", node.retainedEvents)
        text.gauge("apus_retained_bytes", "What all retained events count for.", node.retainedBytes)
        let misses = min(counters.cacheMisses, counters.cacheLookups)
        text.counter(
            "apus_match_cache_lookups_total", "Look-ups of a topic's subscribers; a miss walks the index.",
            [
                ([("result", "hit")], "\(counters.cacheLookups - misses)"), ([("result", "miss")], "\(misses)"),
            ])
        text.gauge(
            "apus_match_cache_entries", "Topics in the match caches of all lanes.",
            node.lanes.reduce(0) { $0 + $1.cacheEntries })
        text.gauge(
            "apus_match_cache_bytes", "Bytes that the match caches remember.",
            node.lanes.reduce(0) { $0 + $1.cacheBytes })
    }

    private static func lanes(_ node: NodeStatistics, _ text: inout MetricsText) {
        func each(_ value: (LaneStatistics) -> String) -> [MetricsText.Sample] {
            node.lanes.map { ([("lane", "\($0.number)")], value($0)) }
        }
        text.gauge("apus_mailbox_bytes", "Bytes of mail that wait for a lane.", each { "\($0.mailboxBytes)" })
        text.counter(
            "apus_lane_busy_seconds_total", "Time a lane spent in passes.",
            each { MetricsText.seconds($0.passes.busyNanoseconds) })
        text.counter(
            "apus_lane_idle_seconds_total", "Time a lane spent waiting.",
            each { MetricsText.seconds($0.passes.idleNanoseconds) })
        text.counter("apus_lane_passes_total", "Passes of a lane.", each { "\($0.passes.count)" })
    }

    private static func latency(_ latency: LatencyStatistics, _ text: inout MetricsText) {
        var sum: UInt64 = 0
        var buckets: [(bound: String, count: UInt64)] = []
        for (index, bound) in LatencyStatistics.bounds.enumerated() {
            sum += latency.counts[index]
            buckets.append((MetricsText.seconds(bound), sum))
        }
        text.histogram(
            "apus_delivery_latency_seconds", "From the read that brought an event to the write that sent it.",
            buckets: buckets, sum: MetricsText.seconds(latency.sumNanoseconds), count: latency.count)
    }

    private static func process(_ node: NodeStatistics, _ text: inout MetricsText) {
        text.gauge(
            "process_start_time_seconds", "Start of the process, in seconds since 1970.", [([], "\(node.startedAt)")])
        guard let process = node.process else { return }
        if let seconds = process.cpuSeconds {
            text.counter("process_cpu_seconds_total", "User and system time.", [([], "\(seconds)")])
        }
        if let bytes = process.residentBytes { text.gauge("process_resident_memory_bytes", "Memory in use.", bytes) }
        if let bytes = process.virtualBytes { text.gauge("process_virtual_memory_bytes", "Address space.", bytes) }
        if let count = process.openDescriptors { text.gauge("process_open_fds", "Open file descriptors.", count) }
        if let count = process.maxDescriptors {
            text.gauge("process_max_fds", "File descriptors that may be open.", count)
        }
    }

    /// A case's name as a label: `badClientID` is `bad_client_id`.
    static func label(_ reason: some Any) -> String {
        var text = ""
        var wasLower = false
        for character in String(describing: reason) {
            if character.isUppercase, wasLower { text += "_" }
            text += character.lowercased()
            wasLower = character.isLowercase
        }
        return text
    }
}

/// Writes metrics, a family at a time.
struct MetricsText {
    typealias Sample = (labels: [(name: String, value: String)], value: String)

    private(set) var text = ""

    mutating func counter(_ name: String, _ help: String, _ value: UInt64) { counter(name, help, [([], "\(value)")]) }
    mutating func counter(_ name: String, _ help: String, _ samples: [Sample]) {
        family(name, help, "counter", samples)
    }
    mutating func gauge(_ name: String, _ help: String, _ value: Int) { gauge(name, help, [([], "\(value)")]) }
    mutating func gauge(_ name: String, _ help: String, _ samples: [Sample]) { family(name, help, "gauge", samples) }

    mutating func histogram(
        _ name: String, _ help: String, buckets: [(bound: String, count: UInt64)], sum: String, count: UInt64
    ) {
        header(name, help, "histogram")
        for bucket in buckets { sample(name + "_bucket", [("le", bucket.bound)], "\(bucket.count)") }
        sample(name + "_bucket", [("le", "+Inf")], "\(count)")
        sample(name + "_sum", [], sum)
        sample(name + "_count", [], "\(count)")
    }

    private mutating func family(_ name: String, _ help: String, _ type: String, _ samples: [Sample]) {
        guard !samples.isEmpty else { return }
        header(name, help, type)
        for sample in samples { self.sample(name, sample.labels, sample.value) }
    }

    private mutating func header(_ name: String, _ help: String, _ type: String) {
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
    }

    private mutating func sample(_ name: String, _ labels: [(name: String, value: String)], _ value: String) {
        text += name
        if !labels.isEmpty {
            text += "{" + labels.map { "\($0.name)=\"\(Self.escaped($0.value))\"" }.joined(separator: ",") + "}"
        }
        text += " \(value)\n"
    }

    private static func escaped(_ value: String) -> String {
        value.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"").replacing("\n", with: "\\n")
    }

    /// Nanoseconds in seconds, exactly, without an exponent.
    static func seconds(_ nanoseconds: UInt64) -> String {
        let part = String(nanoseconds % 1_000_000_000)
        let digits = String(repeating: "0", count: 9 - part.count) + part
        let short = digits.reversed().drop { $0 == "0" }.reversed()
        return "\(nanoseconds / 1_000_000_000)" + (short.isEmpty ? "" : "." + String(short))
    }
}
