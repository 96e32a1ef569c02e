import CProton

/// A message of libqpid-proton, to compare ours with.
final class ProtonMessage {
    let message = pn_message()

    deinit { pn_message_free(message) }

    init() {}

    /// Reads a message; nil when Proton cannot.
    init?(_ bytes: [UInt8]) {
        let status = bytes.withUnsafeBufferPointer { buffer in
            buffer.withMemoryRebound(to: CChar.self) { pn_message_decode(message, $0.baseAddress, $0.count) }
        }
        guard status == 0 else { return nil }
    }

    /// The message, encoded.
    var bytes: [UInt8] {
        var bytes = [CChar](repeating: 0, count: 1 << 16)
        var count = bytes.count
        let status = pn_message_encode(message, &bytes, &count)
        precondition(status == 0, "Proton could not write it: \(status)")
        return bytes[..<count].map { UInt8(bitPattern: $0) }
    }

    /// Passes a text on as Proton wants bytes.
    static func with<Result>(_ text: String, _ body: (pn_bytes_t) -> Result) -> Result {
        var text = text
        return text.withUTF8 { buffer in
            buffer.withMemoryRebound(to: CChar.self) { body(pn_bytes_t(size: $0.count, start: $0.baseAddress)) }
        }
    }

    /// Appends a map of text keys.
    func putMap(
        _ data: OpaquePointer?, symbols: Bool = false, _ entries: [(String, (OpaquePointer?) -> Void)]
    ) {
        pn_data_put_map(data)
        pn_data_enter(data)
        for (name, put) in entries {
            Self.with(name) { bytes in
                _ = symbols ? pn_data_put_symbol(data, bytes) : pn_data_put_string(data, bytes)
            }
            put(data)
        }
        pn_data_exit(data)
    }

    func putString(_ text: String) -> (OpaquePointer?) -> Void {
        { data in Self.with(text) { bytes in _ = pn_data_put_string(data, bytes) } }
    }

    /// A text that may be missing.
    static func text(_ text: UnsafePointer<CChar>?) -> String? { text.map { String(cString: $0) } }

    /// The strings of a map in order: `a=b`.
    func strings(_ data: OpaquePointer?) -> [String] {
        pn_data_rewind(data)
        guard pn_data_next(data), pn_data_enter(data) else { return [] }
        var found: [String] = []
        while pn_data_next(data) {
            let key = Self.text(pn_data_get_string(data)) ?? Self.text(pn_data_get_symbol(data)) ?? "?"
            guard pn_data_next(data) else { break }
            let value = pn_data_type(data) == PN_BOOL ? "\(pn_data_get_bool(data))" : nil
            found.append("\(key)=\(value ?? Self.text(pn_data_get_string(data)) ?? "?")")
        }
        return found
    }

    static func text(_ bytes: pn_bytes_t) -> String? {
        guard let start = bytes.start else { return nil }
        return String(
            decoding: UnsafeRawBufferPointer(start: start, count: bytes.size), as: UTF8.self)
    }
}
