/// The thread that talks to targets: a thin shell around libcurl's multi interface, which keeps connections for the
/// requests to come. What is sent, when, and what an answer means is decided elsewhere.
import CCurl
import Core
import Glibc

/// Everything here is used on the courier's thread only.
final class CourierThread {
    private typealias Handle = UnsafeMutableRawPointer

    /// Requests at once, of all webhooks; further ones wait for their turn.
    static let maxTransfers = 256
    private static let maxPollMilliseconds: UInt64 = 60_000

    private let courier: Courier
    private let curl: apus_curl
    private let functions: apus_curl_multi
    private let multi: Handle
    private var transfers: [Handle: Transfer] = [:]
    private var spare: [Handle] = []
    /// Attempts that wait for a transfer's place; those before `firstPending` have been taken.
    private var pending: [Courier.Delivery] = []
    private var firstPending = 0
    private var alarms: [PortAddress: UInt64] = [:]
    /// When the first alarm is due; 0 when that has to be found out.
    private var nextAlarm: UInt64 = 0
    /// What lanes are to be told, by lane.
    private var reports: [[(PortAddress, Courier.Report)]]

    /// The thread's life.
    static func run(_ courier: Courier) {
        // What libcurl's libraries do to a socket that is gone must not end the process.
        var signals = sigset_t()
        sigfillset(&signals)
        pthread_sigmask(SIG_BLOCK, &signals, nil)
        var curl = apus_curl()
        var functions = apus_curl_multi()
        if let reason = apus_curl_load(&curl) ?? apus_curl_load_multi(&functions) {
            return courier.becomeReady("cannot load libcurl: \(String(cString: reason))")
        }
        guard let multi = apus_curl_multi_init(&functions, maxTransfers) else {
            return courier.becomeReady("libcurl cannot start")
        }
        let thread = CourierThread(courier, curl, functions, multi)
        courier.becomeReady(nil)
        thread.loop()
    }

    private init(_ courier: Courier, _ curl: apus_curl, _ functions: apus_curl_multi, _ multi: Handle) {
        self.courier = courier
        self.curl = curl
        self.functions = functions
        self.multi = multi
        reports = Array(repeating: [], count: courier.lanes.count)
    }

    deinit {
        withUnsafePointer(to: curl) { curl in
            withUnsafePointer(to: functions) { functions in
                for (handle, transfer) in transfers {
                    apus_curl_multi_release(functions, multi, handle)
                    transfer.free(functions)
                    apus_curl_cleanup(curl, handle)
                }
                for handle in spare { apus_curl_cleanup(curl, handle) }
                apus_curl_multi_cleanup(functions, multi)
            }
        }
    }

    // MARK: The loop

    private func loop() {
        while true {
            let orders = courier.takeOrders()
            obey(orders)
            if orders.isStopped {
                _ = finishDone()
                return post()
            }
            let now = Courier.now
            startPending(now)
            var code = withUnsafePointer(to: functions) { apus_curl_multi_perform($0, multi) }
            let hasFinished = finishDone()
            fireAlarms(now)
            post()
            if hasFinished { continue }
            if code == CURLM_OK {
                code = withUnsafePointer(to: functions) {
                    apus_curl_multi_poll($0, multi, courier.descriptor, Int32(wait(from: now)))
                }
            }
            // Out of memory or descriptors: others may give some back.
            if code != CURLM_OK { usleep(10_000) }
        }
    }

    private func obey(_ orders: Courier.Orders) {
        for command in orders.commands {
            switch command {
            case .send(let delivery): pending.append(delivery)
            case .wake(let address, let at):
                alarms[address] = at == 0 ? nil : at
                nextAlarm = 0
            case .cancel(let address): cancel(address)
            }
        }
    }

    private func cancel(_ address: PortAddress) {
        alarms[address] = nil
        nextAlarm = 0
        pending = pending[firstPending...].filter { $0.address != address }
        firstPending = 0
        for (handle, transfer) in transfers where transfer.delivery.address == address { release(handle, transfer) }
    }

    /// Milliseconds until something must be done, whatever the transfers do: of them libcurl knows.
    private func wait(from now: UInt64) -> UInt64 {
        if nextAlarm == 0 { nextAlarm = alarms.values.min() ?? .max }
        return nextAlarm > now ? min(nextAlarm - now, Self.maxPollMilliseconds) : 0
    }

    private func fireAlarms(_ now: UInt64) {
        if nextAlarm == 0 { nextAlarm = alarms.values.min() ?? .max }
        guard nextAlarm <= now else { return }
        nextAlarm = 0
        for (address, at) in alarms where at <= now {
            alarms[address] = nil
            report(address, .alarm)
        }
    }

    private func report(_ address: PortAddress, _ report: Courier.Report) {
        reports[address.lane].append((address, report))
    }

    private func post() {
        for lane in reports.indices where !reports[lane].isEmpty {
            let batch = reports[lane]
            reports[lane] = []
            courier.lanes.call(lane) { lane in
                for (address, report) in batch {
                    // One that has been removed meanwhile no longer fits its address.
                    (lane.port(at: address) as? WebhookInbox)?.take(report, on: lane)
                }
            }
        }
    }

    // MARK: Transfers

    private func startPending(_ now: UInt64) {
        while firstPending < pending.count, transfers.count < Self.maxTransfers {
            let delivery = pending[firstPending]
            firstPending += 1
            start(delivery, now)
        }
        if firstPending == pending.count || firstPending >= 1_024 {
            pending.removeFirst(firstPending)
            firstPending = 0
        }
    }

    private func start(_ delivery: Courier.Delivery, _ now: UInt64) {
        let settings = courier.settings
        var signature: [UInt8]?
        if let secret = delivery.target.secret {
            signature = WebhookSignature.value(secret: secret, seconds: time(nil), body: delivery.event.payload)
            guard signature != nil else { return failed(delivery, .failed, "libcrypto cannot sign") }
        }
        let request = WebhookRequest(
            delivery.event, attempt: delivery.attempt, now: now,
            origin: "\(settings.instanceID)/\(delivery.target.name)", signature: signature)
        guard !request.isTooLarge else {
            return failed(
                delivery, .unsendable, "the event's properties are larger than \(WebhookRequest.maxBytes) bytes")
        }
        let handle = spare.popLast() ?? withUnsafePointer(to: curl) { apus_curl_init($0) }
        guard let handle else { return failed(delivery, .failed, "libcurl: no memory") }
        let transfer = Transfer(delivery)
        let failure = withUnsafePointer(to: curl) { curl in
            withUnsafePointer(to: functions) { functions in
                transfer.prepare(handle, request, settings, curl, functions)
                    ?? transfer.begin(handle, in: multi, functions)
            }
        }
        transfers[handle] = transfer
        if let failure {
            release(handle, transfer)
            failed(delivery, .failed, failure)
        }
    }

    private func failed(_ delivery: Courier.Delivery, _ outcome: WebhookSchedule.Outcome, _ failure: String) {
        report(delivery.address, .finished(sequence: delivery.sequence, outcome, failure: failure))
    }

    /// - Returns: whether a transfer has come to its end.
    private func finishDone() -> Bool {
        var hasFinished = false
        while true {
            var code = CURLE_OK
            let done = withUnsafePointer(to: functions) { apus_curl_multi_next_done($0, multi, &code) }
            guard let done, let transfer = transfers[done] else { return hasFinished }
            hasFinished = true
            let (outcome, failure) = withUnsafePointer(to: curl) { transfer.outcome(done, code, $0) }
            report(
                transfer.delivery.address,
                .finished(sequence: transfer.delivery.sequence, outcome, failure: failure))
            release(done, transfer)
        }
    }

    private func release(_ handle: Handle, _ transfer: Transfer) {
        transfers[handle] = nil
        withUnsafePointer(to: functions) { functions in
            apus_curl_multi_release(functions, multi, handle)
            transfer.free(functions)
        }
        spare.append(handle)
    }
}
