/// One request on its way: what libcurl is told about it, and what it says in the end.
import CCurl
import Core

/// Confined to the courier's thread. libcurl holds pointers into it, and into the event's payload, until its handle has
/// been released; then ``free(_:)`` is called.
final class Transfer {
    /// Bytes of an answer's body that are read, and thrown away; at more the connection is given up.
    static let maxAnswerBytes = 64 << 10
    /// A server that asks for more quiet than an hour is asked again after an hour.
    private static let maxRetryAfterSeconds = 3_600
    private static let errorSize = 512  // libcurl asks for 256

    let delivery: Courier.Delivery
    private var lines: UnsafeMutablePointer<curl_slist>?
    private let error: UnsafeMutablePointer<CChar>
    private var received = 0
    private var isAnswerTooLong = false

    init(_ delivery: Courier.Delivery) {
        self.delivery = delivery
        error = .allocate(capacity: Self.errorSize)
        error.initialize(repeating: 0, count: Self.errorSize)
    }

    deinit { error.deallocate() }

    func free(_ functions: UnsafePointer<apus_curl_multi>) {
        apus_curl_list_free(functions, lines)
        lines = nil
    }

    /// Tells libcurl all about the request.
    /// - Returns: what went wrong.
    func prepare(
        _ handle: UnsafeMutableRawPointer, _ request: WebhookRequest, _ settings: WebhookSettings,
        _ curl: UnsafePointer<apus_curl>, _ functions: UnsafePointer<apus_curl_multi>
    ) -> String? {
        guard makeLines(request, functions) else { return "libcurl: no memory" }
        let payload = delivery.event.payload
        let timeout = Int(delivery.target.timeoutMilliseconds)
        let codes = [
            apus_curl_set_pointer(curl, handle, CURLOPT_ERRORBUFFER, error),
            apus_curl_set_text(curl, handle, CURLOPT_URL, delivery.target.url),
            apus_curl_set_web_only(curl, handle),
            apus_curl_set_quick_exit(curl, handle),
            // Empty means none, and keeps libcurl from looking into the environment.
            apus_curl_set_text(curl, handle, CURLOPT_PROXY, settings.proxy ?? ""),
            apus_curl_set_text(curl, handle, CURLOPT_USERAGENT, "apus/\(settings.version)"),
            apus_curl_set_long(curl, handle, CURLOPT_PATH_AS_IS, 1),
            apus_curl_set_long(curl, handle, CURLOPT_NOSIGNAL, 1),
            apus_curl_set_long(curl, handle, CURLOPT_FOLLOWLOCATION, 0),
            apus_curl_set_long(curl, handle, CURLOPT_TIMEOUT_MS, timeout),
            apus_curl_set_long(curl, handle, CURLOPT_CONNECTTIMEOUT_MS, timeout),
            apus_curl_set_long(curl, handle, CURLOPT_POST, 1),
            apus_curl_set_size(curl, handle, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(payload.count)),
            // Not copied: the event lives as long as the transfer. Never nil, which would mean a read callback.
            apus_curl_set_pointer(curl, handle, CURLOPT_POSTFIELDS, payload.baseAddress ?? UnsafeRawPointer(error)),
            apus_curl_set_pointer(curl, handle, CURLOPT_HTTPHEADER, lines),
            apus_curl_set_write(
                curl, handle,
                { bytes, size, count, context in
                    guard let context else { return 0 }
                    return Unmanaged<Transfer>.fromOpaque(context).takeUnretainedValue().take(size * count)
                }, Unmanaged.passUnretained(self).toOpaque()),
        ]
        return codes.first { $0 != CURLE_OK }.map { String(cString: apus_curl_strerror(curl, $0)) }
    }

    /// Lets libcurl begin.
    /// - Returns: what went wrong.
    func begin(
        _ handle: UnsafeMutableRawPointer, in multi: UnsafeMutableRawPointer,
        _ functions: UnsafePointer<apus_curl_multi>
    ) -> String? {
        let code = apus_curl_multi_add(functions, multi, handle)
        return code == CURLM_OK ? nil : String(cString: apus_curl_multi_strerror(functions, code))
    }

    private func makeLines(_ request: WebhookRequest, _ functions: UnsafePointer<apus_curl_multi>) -> Bool {
        // libcurl would ask before it sends a large body, and wait a second for servers that do not answer that.
        var all: [[UInt8]] = [Array("Expect:".utf8)]
        for field in request.fields {
            // This is how libcurl is told of a field without a value.
            all.append(field.name + (field.value.isEmpty ? Array(";".utf8) : Array(": ".utf8) + field.value))
        }
        for line in all {
            let text = line.map { CChar(bitPattern: $0) } + [0]
            guard let longer = apus_curl_list_append(functions, lines, text) else { return false }
            lines = longer
        }
        return true
    }

    /// - Returns: how many bytes of the answer's body were taken; fewer than there are end the transfer.
    private func take(_ count: Int) -> Int {
        received += count
        isAnswerTooLong = received > Self.maxAnswerBytes
        return isAnswerTooLong ? 0 : count
    }

    /// What the attempt has come to, and why it failed if it did.
    func outcome(
        _ handle: UnsafeMutableRawPointer, _ code: CURLcode, _ curl: UnsafePointer<apus_curl>
    ) -> (WebhookSchedule.Outcome, String?) {
        // A long answer is no reason to doubt its status; one that breaks off is.
        guard code == CURLE_OK || code == CURLE_WRITE_ERROR && isAnswerTooLong else {
            let detail = String(cString: error)
            return (.failed, detail.isEmpty ? String(cString: apus_curl_strerror(curl, code)) : detail)
        }
        var status = 0
        _ = apus_curl_status(curl, handle, &status)
        let seconds = min(max(0, Int(apus_curl_retry_after(curl, handle))), Self.maxRetryAfterSeconds)
        let outcome = WebhookSchedule.Outcome.answered(
            status: status, retryAfterMilliseconds: UInt64(seconds) * 1_000)
        switch status {
        case 200..<300: return (outcome, nil)
        case 300..<400: return (outcome, "status \(status); redirects are not followed")
        case 508: return (outcome, "status 508: the target leads back to a node that the event comes from")
        default: return (outcome, "status \(status)")
        }
    }
}
