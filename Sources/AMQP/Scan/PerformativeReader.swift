import Core

/// Reads a performative: first its structure by ``ValueWalker``, then the types of its fields by the tables of
/// ``FrameComposite``, and what ``FrameGuard`` needs of them.
enum PerformativeReader {
    /// An AMQP frame's body (§2.7).
    static func read(_ frame: inout Frame) throws(AMQPError) {
        let body = frame.body
        let (code, list) = try outline(body, "performative")
        guard let performative = UInt8(exactly: code).flatMap(Frame.Performative.init) else {
            throw AMQPError(.framingError, "there is no performative with the descriptor 0x\(hex(code))")
        }
        let name = FrameComposite.of(performative).name
        try demandNumber(body, at: 1, "\(name)", code)
        frame.performative = performative
        frame.performativeLength = try walk(body, performativeName: FrameComposite.of(performative).name)
        guard performative == .transfer || frame.performativeLength == body.count else {
            throw AMQPError(
                .framingError,
                "\(body.count - frame.performativeLength) bytes follow \(FrameComposite.of(performative).name)")
        }
        var fields = FieldNumbers()
        try check(body, list: list, as: FrameComposite.of(performative), &fields, path: nil)
        frame.fields = fields.frameFields(of: performative)
    }

    /// A SASL frame's body (§5.3.3): only its structure, the server of SASL reads the rest.
    static func readSASL(_ frame: inout Frame) throws(AMQPError) {
        let (code, _) = try outline(frame.body, "SASL frame")
        guard (0x40...0x44).contains(code) else {
            throw AMQPError(.framingError, "there is no SASL frame with the descriptor 0x\(hex(code))")
        }
        frame.performativeLength = try walk(frame.body, performativeName: "SASL frame")
        guard frame.performativeLength == frame.body.count else {
            throw AMQPError(.framingError, "bytes follow what the SASL frame says")
        }
    }

    /// The descriptor, and where the list begins.
    private static func outline(
        _ body: UnsafeRawBufferPointer, _ what: StaticString
    ) throws(AMQPError) -> (code: UInt64, list: Int) {
        guard body[0] == 0 else {
            throw AMQPError(
                .framingError, "a frame's body is a described list (\(what)), not \(ValueWalker.name(body[0]))")
        }
        guard let (code, list) = Encoded.descriptor(body, at: 1) else {
            throw AMQPError(.decodeError, "the \(what)'s descriptor is not one that the specification has")
        }
        guard list < body.count, [0x45, 0xC0, 0xD0].contains(body[list]) else {
            throw AMQPError(.decodeError, "the \(what) is not a list")
        }
        return (code, list)
    }

    /// The engine knows descriptors by their numbers alone. It would give the connection up, or take an outcome or a
    /// target for none.
    private static func demandNumber(
        _ bytes: UnsafeRawBufferPointer, at place: Int, _ what: @autoclosure () -> String, _ code: UInt64
    ) throws(AMQPError) {
        guard bytes[place] != 0xA3, bytes[place] != 0xB3 else {
            throw AMQPError(
                .notImplemented, "\(what()) is described by a symbol: only the number 0x\(hex(code)) is understood")
        }
    }

    private static func walk(
        _ body: UnsafeRawBufferPointer, performativeName name: StaticString
    ) throws(AMQPError) -> Int {
        var walker = ValueWalker(body)
        do { return try walker.walk(at: 0) } catch { throw Self.failure(error, name) }
    }

    private static func failure(_ problem: ValueWalker.Problem, _ name: StaticString) -> AMQPError {
        let place = "\(name), byte \(problem.offset)"
        switch problem.kind {
        case .endsEarly: return AMQPError(.decodeError, "\(place): a value goes on behind the end of what holds it")
        case .unknownConstructor(let code):
            return AMQPError(.decodeError, "\(place): there is no type 0x\(hex(UInt64(code)))")
        case .sizeMismatch:
            return AMQPError(.decodeError, "\(place): a container is larger or smaller than the values in it")
        case .countTooLarge: return AMQPError(.decodeError, "\(place): more values are counted than there is room for")
        case .oddMap: return AMQPError(.decodeError, "\(place): a map has a key without a value")
        case .badDescriptor:
            return AMQPError(.decodeError, "\(place): a descriptor is neither a ulong nor a symbol")
        case .nestedDescriptor: return AMQPError(.decodeError, "\(place): a described value describes another")
        case .tooDeep:
            return AMQPError(
                .resourceLimitExceeded, "\(place): more than \(FrameLimits.depth) containers in each other")
        case .tooManyValues:
            return AMQPError(.resourceLimitExceeded, "\(place): more than \(FrameLimits.values) values")
        case .symbolTooLong:
            return AMQPError(.resourceLimitExceeded, "\(place): a symbol of more than \(FrameLimits.symbolBytes) bytes")
        }
    }

    /// Checks the fields of a list whose structure has been walked. What lies in a field is at most three composites
    /// deep (disposition, rejected, error): the tables say so, not the peer.
    private static func check(
        _ bytes: UnsafeRawBufferPointer, list: Int, as composite: FrameComposite, _ numbers: inout FieldNumbers,
        path: StaticString?
    ) throws(AMQPError) {
        var (place, count) = Encoded.contents(bytes, at: list)
        let where_ = FieldPlace(outer: path, composite: composite.name)
        guard count <= composite.fields.count else {
            throw AMQPError(
                .decodeError, "\(where_) has \(composite.fields.count) fields at most, and \(count) were sent")
        }
        for index in 0..<composite.fields.count {
            let field = composite.fields[index]
            let code: UInt8 = index < count ? bytes[place] : 0x40
            if code == 0x40 {
                guard !field.isMandatory else {
                    throw AMQPError(.decodeError, "\(where_) lacks the mandatory field \(field.name)")
                }
            } else {
                try Self.check(bytes, at: place, field, index, &numbers, where_)
            }
            if index < count { place = Encoded.end(bytes, at: place) }
        }
    }

    /// One field that is there.
    private static func check(
        _ bytes: UnsafeRawBufferPointer, at place: Int, _ field: FrameField, _ index: Int,
        _ numbers: inout FieldNumbers, _ where_: FieldPlace
    ) throws(AMQPError) {
        let code = bytes[place]
        var value = 0
        let isRight: Bool
        switch field.kind {
        case .any: isRight = true
        case .boolean:
            let truth = Encoded.boolean(bytes, at: place)
            isRight = truth != nil
            value = truth == true ? 1 : 0
        case .ubyte:
            isRight = code == 0x50
            if isRight { value = Int(bytes[place + 1]) }
        case .ushort:
            isRight = code == 0x60
            if isRight { value = Int(bytes[place + 1]) << 8 | Int(bytes[place + 2]) }
        case .uint:
            let number = Encoded.uint(bytes, at: place)
            isRight = number != nil
            value = Int(number ?? 0)
        case .ulong: isRight = code == 0x44 || code == 0x53 || code == 0x80
        case .string: isRight = code == 0xA1 || code == 0xB1
        case .symbol: isRight = code == 0xA3 || code == 0xB3
        case .binary: isRight = code == 0xA0 || code == 0xB0
        case .map: isRight = code == 0xC1 || code == 0xD1
        case .symbols: isRight = code == 0xA3 || code == 0xB3 || Encoded.isArrayOfSymbols(bytes, at: place)
        case .source, .target, .state, .error:
            let code = try described(bytes, at: place, field, where_)
            if where_.outer == nil { numbers.set(index, Int(truncatingIfNeeded: code)) }
            return
        }
        guard isRight else {
            throw AMQPError(
                .decodeError, "\(where_).\(field.name) is to be \(field.kind.text), not \(ValueWalker.name(code))")
        }
        // The engine's texts are C's: it would take a name for what stands before the NUL.
        if [0xA1, 0xA3, 0xB1, 0xB3].contains(code) {
            let (start, count) = Encoded.contents(bytes, at: place)
            guard !bytes[start..<start + count].contains(0) else {
                throw AMQPError(.invalidField, "\(where_).\(field.name) has a NUL in it")
            }
        }
        switch field.kind {
        case .string, .symbol, .binary:
            let (start, count) = Encoded.contents(bytes, at: place)
            guard field.most == 0 || count <= field.most else {
                throw AMQPError(
                    .resourceLimitExceeded,
                    "\(where_).\(field.name) has \(count) bytes, and \(field.most) are allowed")
            }
            if where_.outer == nil { numbers.set(index, count, start: start) }
        default:
            guard field.most == 0 || value <= field.most else {
                throw AMQPError(.decodeError, "\(where_).\(field.name) is \(value), and at most \(field.most)")
            }
            if where_.outer == nil { numbers.set(index, value) }
        }
    }

    /// A composite in a field.
    /// - Returns: its descriptor's number; 0 for one that the specification does not have.
    private static func described(
        _ bytes: UnsafeRawBufferPointer, at place: Int, _ field: FrameField, _ where_: FieldPlace
    ) throws(AMQPError) -> UInt64 {
        guard bytes[place] == 0 else {
            throw AMQPError(
                .decodeError,
                "\(where_).\(field.name) is to be \(field.kind.text), not \(ValueWalker.name(bytes[place]))")
        }
        let descriptor = Encoded.descriptor(bytes, at: place + 1)
        let list = Encoded.value(bytes, at: place)
        guard [0x45, 0xC0, 0xD0].contains(bytes[list]) else {
            throw AMQPError(
                .decodeError,
                "\(where_).\(field.name) is to be \(field.kind.text), not \(ValueWalker.name(bytes[list]))")
        }
        let composite: FrameComposite?
        switch (field.kind, descriptor?.code) {
        case (.source, 0x28): composite = .source
        case (.target, 0x29): composite = .target
        case (.target, 0x30): composite = .coordinator
        case (.error, 0x1D): composite = .error
        // Others than the specification's are allowed (§3.4).
        case (.state, let code): composite = code.flatMap(FrameComposite.state)
        default:
            throw AMQPError(.decodeError, "\(where_).\(field.name) has a descriptor that is not known")
        }
        guard let composite else { return 0 }
        if field.kind == .state || field.kind == .target {
            try demandNumber(bytes, at: place + 1, "\(where_).\(field.name)", descriptor?.code ?? 0)
        }
        var unused = FieldNumbers()
        try check(bytes, list: list, as: composite, &unused, path: where_.composite)
        return descriptor?.code ?? 0
    }

    private static func hex(_ code: UInt64) -> String { String(code, radix: 16) }
}

/// Where a field is, for messages.
private struct FieldPlace: CustomStringConvertible {
    /// What the composite is a field of; nil for a performative.
    var outer: StaticString?
    var composite: StaticString

    var description: String { outer.map { "\($0): \(composite)" } ?? "\(composite)" }
}

extension FrameField.Kind {
    fileprivate var text: String {
        switch self {
        case .any: "a value"
        case .boolean: "a boolean"
        case .ubyte: "a ubyte"
        case .ushort: "a ushort"
        case .uint: "a uint"
        case .ulong: "a ulong"
        case .string: "a string"
        case .symbol: "a symbol"
        case .binary: "a binary"
        case .map: "a map"
        case .symbols: "a symbol or an array of symbols"
        case .source: "a source"
        case .target: "a target or coordinator"
        case .state: "a delivery state"
        case .error: "an error"
        }
    }
}

/// The numbers of a performative's fields; lengths of texts.
private struct FieldNumbers {
    private var said: UInt16 = 0
    private var values = InlineArray<14, UInt32>(repeating: 0)
    /// Where the first field's text begins.
    private var start: UInt32 = 0

    /// - Parameter value: of a field with at most 32 bits.
    mutating func set(_ index: Int, _ value: Int, start: Int = 0) {
        said |= 1 << UInt16(index)
        values[index] = UInt32(truncatingIfNeeded: value)
        if index == 0 { self.start = UInt32(truncatingIfNeeded: start) }
    }

    private func has(_ index: Int) -> Bool { said & 1 << UInt16(index) != 0 }

    func frameFields(of performative: Frame.Performative) -> Frame.Fields {
        var fields = Frame.Fields()
        switch performative {
        case .open: put(3, in: &fields.limit, .limit, &fields.said)
        case .begin:
            put(0, in: &fields.handle, .remoteChannel, &fields.said)
            put(1, in: &fields.id, .id, &fields.said)
            put(4, in: &fields.limit, .limit, &fields.said)
        case .attach:
            put(1, in: &fields.handle, .handle, &fields.said)
            put(9, in: &fields.id, .id, &fields.said)
            if values[2] != 0 { fields.said.insert(.receiver) }
            if values[8] != 0 { fields.said.insert(.resume) }
            (fields.nameStart, fields.nameLength) = (start, values[0])
        case .flow:
            put(4, in: &fields.handle, .handle, &fields.said)
            put(5, in: &fields.id, .id, &fields.said)
            put(6, in: &fields.limit, .limit, &fields.said)
            if values[9] != 0 { fields.said.insert(.echo) }
        case .transfer:
            put(0, in: &fields.handle, .handle, &fields.said)
            put(1, in: &fields.id, .id, &fields.said)
            if has(2) { fields.said.insert(.tag) }
            if has(4) { fields.said.insert(.settledSaid) }
            if values[4] != 0 { fields.said.insert(.settled) }
            if values[5] != 0 { fields.said.insert(.more) }
            if values[7] == 0x34 { fields.said.insert(.transactional) }
            if values[8] != 0 { fields.said.insert(.resume) }
            if values[9] != 0 { fields.said.insert(.aborted) }
        case .disposition:
            put(1, in: &fields.id, .id, &fields.said)
            if values[0] != 0 { fields.said.insert(.receiver) }
            if values[3] != 0 { fields.said.insert(.settled) }
            if has(4), values[4] != 0x23 { fields.said.insert(.state) }
            if values[4] == 0x34 { fields.said.insert(.transactional) }
            fields.limit = fields.id
            put(2, in: &fields.limit, .limit, &fields.said)
        case .detach: put(0, in: &fields.handle, .handle, &fields.said)
        case .end, .close: break
        }
        return fields
    }

    private func put(_ index: Int, in field: inout UInt32, _ flag: Frame.Said, _ said: inout Frame.Said) {
        guard has(index) else { return }
        field = values[index]
        said.insert(flag)
    }
}
