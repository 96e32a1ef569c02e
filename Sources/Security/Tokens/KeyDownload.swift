/// One fetch of a key set with libcurl, which is loaded when the first one is due.
import CCurl

/// Confined to the fetcher's thread.
final class KeyDownload {
    /// A fetch is given up after this.
    static let timeoutMilliseconds = 10_000
    private static let errorSize = 512  // libcurl asks for 256

    /// What has come in; libcurl's callbacks get it.
    private final class Answer {
        var bytes: [UInt8] = []
        var isTooLarge = false
        var cacheControl: String?

        func take(_ start: UnsafeRawPointer, _ count: Int) -> Int {
            guard bytes.count + count <= KeySet.maxBytes else {
                isTooLarge = true
                return 0
            }
            bytes += UnsafeRawBufferPointer(start: start, count: count)
            return count
        }

        func takeLine(_ start: UnsafeRawPointer, _ count: Int) {
            let line = String(decoding: UnsafeRawBufferPointer(start: start, count: min(count, 1_024)), as: UTF8.self)
            guard let colon = line.firstIndex(of: ":"), line[..<colon].lowercased() == "cache-control" else { return }
            cacheControl = String(line[line.index(after: colon)...])
        }
    }

    private var curl = apus_curl()
    private var functions = apus_curl_multi()
    /// Why libcurl cannot be used.
    private let problem: String?

    init() {
        if let reason = apus_curl_load(&curl) ?? apus_curl_load_multi(&functions) {
            problem = "cannot load libcurl: \(String(cString: reason))"
        } else {
            problem = nil
        }
    }

    /// Fetches `url`. `isStopped` is asked whenever `descriptor` is readable, and every second.
    func fetch(
        _ url: String, authorities: String?, descriptor: Int32, isStopped: () -> Bool
    ) throws(KeyStore.Failure) -> KeyStore.Delivery {
        if let problem { throw .init(reason: problem) }
        let answer = Answer()
        let error = UnsafeMutablePointer<CChar>.allocate(capacity: Self.errorSize)
        error.initialize(repeating: 0, count: Self.errorSize)
        defer { error.deallocate() }
        // A handle of its own for each fetch: the next one is minutes away, and no connection is kept that long.
        guard let multi = apus_curl_multi_init(&functions, 1) else { throw .init(reason: "libcurl cannot start") }
        defer { apus_curl_multi_cleanup(&functions, multi) }
        guard let handle = apus_curl_init(&curl) else { throw .init(reason: "libcurl: no memory") }
        defer { apus_curl_cleanup(&curl, handle) }
        let code = prepare(handle, url, authorities, answer, error)
        guard code == CURLE_OK else { throw .init(reason: String(cString: apus_curl_strerror(&curl, code))) }
        guard apus_curl_multi_add(&functions, multi, handle) == CURLM_OK else {
            throw .init(reason: "libcurl: no memory")
        }
        defer { apus_curl_multi_release(&functions, multi, handle) }
        let outcome = withExtendedLifetime(answer) { perform(multi, descriptor, isStopped) }
        guard let outcome else { throw .init(reason: "given up because the node stops") }
        if answer.isTooLarge { throw .init(reason: "\(url): larger than \(KeySet.maxBytes) bytes") }
        guard outcome == CURLE_OK else {
            let detail = String(cString: error)
            let reason = detail.isEmpty ? String(cString: apus_curl_strerror(&curl, outcome)) : detail
            throw .init(reason: "\(url): \(reason)")
        }
        var status = 0
        _ = apus_curl_status(&curl, handle, &status)
        guard status == 200 else {
            let hint = (300..<400).contains(status) ? "; redirects are not followed" : ""
            throw .init(reason: "\(url): status \(status)\(hint)")
        }
        return KeyStore.Delivery(
            bytes: answer.bytes, maxAgeSeconds: answer.cacheControl.flatMap(Self.maxAge(cacheControl:)))
    }

    private func perform(
        _ multi: UnsafeMutableRawPointer, _ descriptor: Int32, _ isStopped: () -> Bool
    ) -> CURLcode? {
        while true {
            guard apus_curl_multi_perform(&functions, multi) == CURLM_OK else { return CURLE_OUT_OF_MEMORY }
            var code = CURLE_OK
            if apus_curl_multi_next_done(&functions, multi, &code) != nil { return code }
            guard apus_curl_multi_poll(&functions, multi, descriptor, 1_000) == CURLM_OK else {
                return CURLE_OUT_OF_MEMORY
            }
            if isStopped() { return nil }
        }
    }

    private func prepare(
        _ handle: UnsafeMutableRawPointer, _ url: String, _ authorities: String?, _ answer: Answer,
        _ error: UnsafeMutablePointer<CChar>
    ) -> CURLcode {
        let context = Unmanaged.passUnretained(answer).toOpaque()
        var codes = [
            apus_curl_set_pointer(&curl, handle, CURLOPT_ERRORBUFFER, error),
            apus_curl_set_text(&curl, handle, CURLOPT_URL, url),
            apus_curl_set_web_only(&curl, handle),
            apus_curl_set_quick_exit(&curl, handle),
            // Empty means none, and keeps libcurl from looking into the environment.
            apus_curl_set_text(&curl, handle, CURLOPT_PROXY, ""),
            apus_curl_set_text(&curl, handle, CURLOPT_USERAGENT, "apus"),
            apus_curl_set_long(&curl, handle, CURLOPT_NOSIGNAL, 1),
            apus_curl_set_long(&curl, handle, CURLOPT_FOLLOWLOCATION, 0),
            apus_curl_set_long(&curl, handle, CURLOPT_TIMEOUT_MS, Self.timeoutMilliseconds),
            apus_curl_set_long(&curl, handle, CURLOPT_CONNECTTIMEOUT_MS, Self.timeoutMilliseconds),
            apus_curl_set_write(
                &curl, handle,
                { bytes, size, count, context in
                    guard let bytes, let context else { return 0 }
                    return Unmanaged<Answer>.fromOpaque(context).takeUnretainedValue().take(bytes, size * count)
                }, context),
            apus_curl_set_headers(
                &curl, handle,
                { bytes, size, count, context in
                    if let bytes, let context {
                        Unmanaged<Answer>.fromOpaque(context).takeUnretainedValue().takeLine(bytes, size * count)
                    }
                    return size * count
                }, context),
        ]
        if let authorities {
            codes.append(apus_curl_set_text(&curl, handle, CURLOPT_CAINFO, authorities))
            // Only these, not the system's besides.
            codes.append(apus_curl_set_pointer(&curl, handle, CURLOPT_CAPATH, nil))
        }
        return codes.first { $0 != CURLE_OK } ?? CURLE_OK
    }

    /// The seconds of `max-age` (RFC 9111 §5.2.2.1); 0 where the answer must not be kept; nil where nothing is said.
    static func maxAge(cacheControl: String) -> Int? {
        var age: Int?
        for directive in cacheControl.split(separator: ",") {
            let word = directive.filter { !$0.isWhitespace }.lowercased()
            if word == "no-store" || word == "no-cache" { return 0 }
            if word.hasPrefix("max-age=") {
                age = Int(word.dropFirst("max-age=".utf8.count).filter { $0 != "\"" }).map { min(max($0, 0), 1 << 30) }
            }
        }
        return age
    }
}
