import CProton

/// Values between Proton's trees (`pn_data_t`), termini and conditions, and ours. For opens, attaches and errors; never
/// for a message.
extension ProtonEngine {
    // MARK: Texts

    static func text(_ pointer: UnsafePointer<CChar>?) -> String? { pointer.map { String(cString: $0) } }

    private static func text(_ bytes: pn_bytes_t) -> String {
        String(decoding: UnsafeRawBufferPointer(start: bytes.start, count: bytes.size), as: UTF8.self)
    }

    /// The current value, if it is a string or symbol.
    private static func text(_ data: OpaquePointer) -> String? {
        switch pn_data_type(data) {
        case PN_STRING: return text(pn_data_get_string(data))
        case PN_SYMBOL: return text(pn_data_get_symbol(data))
        default: return nil
        }
    }

    private static func put(symbol: String, into data: OpaquePointer) {
        with(symbol) { _ = pn_data_put_symbol(data, $0) }
    }

    private static func put(string: String, into data: OpaquePointer) {
        with(string) { _ = pn_data_put_string(data, $0) }
    }

    private static func with(_ text: String, _ body: (pn_bytes_t) -> Void) {
        var text = text
        text.withUTF8 { utf8 in
            utf8.withMemoryRebound(to: CChar.self) { body(pn_bytes_t(size: $0.count, start: $0.baseAddress)) }
        }
    }

    // MARK: Symbols and maps

    /// A field that may have several symbols: none, one, or an array (§1.4, `multiple`).
    static func symbols(_ data: OpaquePointer?) -> [String] {
        guard let data else { return [] }
        pn_data_rewind(data)
        defer { pn_data_rewind(data) }
        guard pn_data_next(data) else { return [] }
        guard pn_data_type(data) == PN_ARRAY else { return text(data).map { [$0] } ?? [] }
        var symbols: [String] = []
        pn_data_enter(data)
        while pn_data_next(data) {
            if let symbol = text(data) { symbols.append(symbol) }
        }
        return symbols
    }

    static func put(symbols: [String], into data: OpaquePointer?) {
        guard let data else { return }
        pn_data_clear(data)
        pn_data_put_array(data, false, PN_SYMBOL)
        pn_data_enter(data)
        for symbol in symbols { put(symbol: symbol, into: data) }
        pn_data_exit(data)
        pn_data_rewind(data)
    }

    /// The members of a map whose keys and values are texts.
    static func texts(_ data: OpaquePointer?) -> [(name: String, value: String)] {
        guard let data else { return [] }
        pn_data_rewind(data)
        defer { pn_data_rewind(data) }
        guard pn_data_next(data), pn_data_type(data) == PN_MAP else { return [] }
        var texts: [(name: String, value: String)] = []
        pn_data_enter(data)
        while pn_data_next(data) {
            let name = text(data)
            guard pn_data_next(data) else { break }
            if let name, let value = text(data) { texts.append((name, value)) }
        }
        return texts
    }

    /// The member of a map with this name: nil when there is none, -1 when it is no whole number, or below zero.
    static func wholeNumber(_ name: String, in data: OpaquePointer?) -> Int64? {
        guard let data else { return nil }
        pn_data_rewind(data)
        defer { pn_data_rewind(data) }
        guard pn_data_next(data), pn_data_type(data) == PN_MAP else { return nil }
        pn_data_enter(data)
        while pn_data_next(data) {
            let isWanted = text(data) == name
            guard pn_data_next(data) else { break }
            if isWanted { return max(wholeNumber(data) ?? -1, -1) }
        }
        return nil
    }

    /// The current value, if it is of an integer's type.
    private static func wholeNumber(_ data: OpaquePointer) -> Int64? {
        switch pn_data_type(data) {
        case PN_UBYTE: Int64(pn_data_get_ubyte(data))
        case PN_USHORT: Int64(pn_data_get_ushort(data))
        case PN_UINT: Int64(pn_data_get_uint(data))
        case PN_ULONG: Int64(clamping: pn_data_get_ulong(data))
        case PN_BYTE: Int64(pn_data_get_byte(data))
        case PN_SHORT: Int64(pn_data_get_short(data))
        case PN_INT: Int64(pn_data_get_int(data))
        case PN_LONG: pn_data_get_long(data)
        default: nil
        }
    }

    static func put(_ texts: [(name: String, value: String)], into data: OpaquePointer?) {
        guard let data else { return }
        pn_data_clear(data)
        pn_data_put_map(data)
        pn_data_enter(data)
        for (name, value) in texts {
            put(symbol: name, into: data)
            put(string: value, into: data)
        }
        pn_data_exit(data)
        pn_data_rewind(data)
    }

    // MARK: Conditions

    /// A copy of a condition; nil when there is none.
    static func error(_ condition: OpaquePointer?) -> AMQPError? {
        guard let condition, pn_condition_is_set(condition), let name = text(pn_condition_get_name(condition)) else {
            return nil
        }
        var error = AMQPError(AMQPError.Condition(name), text(pn_condition_get_description(condition)) ?? "")
        error.info = texts(pn_condition_info(condition))
        return error
    }

    static func set(_ error: AMQPError?, on condition: OpaquePointer?) {
        guard let condition, let error else { return }
        pn_condition_set_name(condition, error.condition.rawValue)
        pn_condition_set_description(condition, error.text)
        if !error.info.isEmpty { put(error.info, into: pn_condition_info(condition)) }
    }

    // MARK: Termini

    static func terminus(_ remote: OpaquePointer?) -> Terminus {
        var terminus = Terminus()
        guard let remote else { return terminus }
        switch pn_terminus_get_type(remote) {
        case PN_SOURCE: terminus.kind = .source
        case PN_TARGET: terminus.kind = .target
        case PN_COORDINATOR: terminus.kind = .coordinator
        default: return terminus
        }
        terminus.address = text(pn_terminus_get_address(remote))
        terminus.durability = Terminus.Durability(rawValue: Int(pn_terminus_get_durability(remote).rawValue)) ?? .none
        terminus.expiry =
            switch pn_terminus_get_expiry_policy(remote) {
            case PN_EXPIRE_WITH_LINK: .linkDetach
            case PN_EXPIRE_WITH_CONNECTION: .connectionClose
            case PN_EXPIRE_NEVER: .never
            default: .sessionEnd
            }
        terminus.timeout = pn_terminus_get_timeout(remote)
        terminus.isDynamic = pn_terminus_is_dynamic(remote)
        terminus.distributionMode =
            switch pn_terminus_get_distribution_mode(remote) {
            case PN_DIST_MODE_COPY: "copy"
            case PN_DIST_MODE_MOVE: "move"
            default: nil
            }
        terminus.capabilities = symbols(pn_terminus_capabilities(remote))
        terminus.filters = filters(pn_terminus_filter(remote))
        return terminus
    }

    static func set(_ terminus: Terminus, on local: OpaquePointer?) {
        switch terminus.kind {
        case .null:
            pn_terminus_set_type(local, PN_UNSPECIFIED)
            return
        case .source: pn_terminus_set_type(local, PN_SOURCE)
        case .target: pn_terminus_set_type(local, PN_TARGET)
        case .coordinator: pn_terminus_set_type(local, PN_COORDINATOR)
        }
        if let address = terminus.address { pn_terminus_set_address(local, address) }
        pn_terminus_set_durability(local, pn_durability_t(UInt32(terminus.durability.rawValue)))
        switch terminus.expiry {
        // The default, which needs no words.
        case .sessionEnd: break
        case .linkDetach: pn_terminus_set_expiry_policy(local, PN_EXPIRE_WITH_LINK)
        case .connectionClose: pn_terminus_set_expiry_policy(local, PN_EXPIRE_WITH_CONNECTION)
        case .never: pn_terminus_set_expiry_policy(local, PN_EXPIRE_NEVER)
        }
        pn_terminus_set_timeout(local, terminus.timeout)
        pn_terminus_set_dynamic(local, terminus.isDynamic)
        switch terminus.distributionMode {
        case "copy": pn_terminus_set_distribution_mode(local, PN_DIST_MODE_COPY)
        case "move": pn_terminus_set_distribution_mode(local, PN_DIST_MODE_MOVE)
        default: break
        }
        if !terminus.capabilities.isEmpty { put(symbols: terminus.capabilities, into: pn_terminus_capabilities(local)) }
        if !terminus.filters.isEmpty { put(terminus.filters, into: pn_terminus_filter(local)) }
    }

    // MARK: Filters

    private static func filters(_ data: OpaquePointer?) -> [Terminus.Filter] {
        guard let data else { return [] }
        pn_data_rewind(data)
        defer { pn_data_rewind(data) }
        guard pn_data_next(data), pn_data_type(data) == PN_MAP else { return [] }
        var filters: [Terminus.Filter] = []
        pn_data_enter(data)
        while pn_data_next(data) {
            var filter = Terminus.Filter(name: text(data) ?? "", value: encodedNext(data))
            guard pn_data_next(data) else { break }
            if pn_data_is_described(data) {
                pn_data_enter(data)
                pn_data_next(data)
                filter.symbol = text(data)
                if pn_data_type(data) == PN_ULONG { filter.code = pn_data_get_ulong(data) }
                filter.value = encodedNext(data)
                if pn_data_next(data) { filter.text = text(data) }
                pn_data_exit(data)
            } else {
                filter.text = text(data)
            }
            filters.append(filter)
        }
        return filters
    }

    /// The value after the current one, encoded; empty when there is none.
    private static func encodedNext(_ data: OpaquePointer) -> [UInt8] {
        let value = pn_data(0)
        defer { pn_data_free(value) }
        // Narrowed, the tree begins behind the current value.
        pn_data_narrow(data)
        pn_data_appendn(value, data, 1)
        pn_data_widen(data)
        let size = pn_data_encoded_size(value)
        guard size > 0 else { return [] }
        return [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            let start = UnsafeMutableRawPointer(buffer.baseAddress)?.assumingMemoryBound(to: CChar.self)
            count = max(0, pn_data_encode(value, start, size))
        }
    }

    private static func put(_ filters: [Terminus.Filter], into data: OpaquePointer?) {
        guard let data else { return }
        pn_data_clear(data)
        pn_data_put_map(data)
        pn_data_enter(data)
        for filter in filters {
            put(symbol: filter.name, into: data)
            if filter.symbol != nil || filter.code != nil {
                pn_data_put_described(data)
                pn_data_enter(data)
                if let symbol = filter.symbol {
                    put(symbol: symbol, into: data)
                } else {
                    pn_data_put_ulong(data, filter.code ?? 0)
                }
                put(encoded: filter.value, into: data)
                pn_data_exit(data)
            } else {
                put(encoded: filter.value, into: data)
            }
        }
        pn_data_exit(data)
        pn_data_rewind(data)
    }

    /// Appends a value that is encoded; null when it is not one.
    private static func put(encoded: [UInt8], into data: OpaquePointer) {
        let value = pn_data(0)
        defer { pn_data_free(value) }
        let count = encoded.withUnsafeBytes {
            pn_data_decode(value, $0.baseAddress?.assumingMemoryBound(to: CChar.self), $0.count)
        }
        if count > 0 {
            pn_data_append(data, value)
        } else {
            pn_data_put_null(data)
        }
    }
}
