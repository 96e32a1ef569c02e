import Core

@testable import Web

/// What HTTP clients send in bodies, header fields and paths, at millions of inputs: no read beyond the end, no trap,
/// and what was read says the same after it has been written and read again.

/// The first byte chooses the parser, the rest is its input.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 0 else { return 0 }
    // A copy of exactly these bytes, so that the sanitizer sees a step beyond them.
    let copy = Array(UnsafeBufferPointer(start: start + 1, count: count - 1))
    copy.withUnsafeBytes { bytes in
        switch start[0] % 8 {
        case 0: scan(bytes)
        case 1: jsonEvent(bytes)
        case 2: cloudEvent(bytes)
        case 3: batch(bytes)
        case 4: headers(bytes)
        case 5: fields(bytes)
        case 6: path(bytes)
        default: base64(bytes)
        }
    }
    return 0
}

private func scan(_ bytes: UnsafeRawBufferPointer) {
    guard let value = try? JSONScanner.value(of: bytes) else {
        precondition((try? JSONScanner.members(of: bytes)) == nil && (try? JSONScanner.elements(of: bytes)) == nil)
        return
    }
    precondition(Topic.isUTF8(bytes) && value.range.upperBound <= bytes.count)
    // A value alone is a text of its own, of the same kind.
    let slice = JSONScanner.slice(value, of: bytes)
    precondition((try? JSONScanner.value(of: slice))?.kind == value.kind)
    switch value.kind {
    case .string:
        guard let text = JSONScanner.bytes(value, in: bytes) else { preconditionFailure("a string without bytes") }
        precondition(text.withUnsafeBytes { Topic.isUTF8($0) })
        var writer = JSONWriter()
        writer.string(text)
        writer.bytes.withUnsafeBytes { written in
            guard let again = try? JSONScanner.value(of: written) else { preconditionFailure("wrote what is no JSON") }
            precondition(JSONScanner.bytes(again, in: written) == text)
        }
    case .object:
        guard let members = try? JSONScanner.members(of: bytes) else { return }
        check(members.map(\.value), in: bytes)
    case .array:
        guard let elements = try? JSONScanner.elements(of: bytes) else { return }
        check(elements, in: bytes)
    case .number:
        guard let number = JSONScanner.integer(value, in: bytes) else { return }
        // Digits, and perhaps a fraction that is none.
        let parts = slice.text.split(separator: ".", omittingEmptySubsequences: false)
        precondition(abs(number) <= JSONScanner.maxInteger && (parts[0] == "\(number)" || parts[0] == "-0"))
        precondition(parts.count == 1 || parts.count == 2 && parts[1].allSatisfy { $0 == "0" })
    case .bool, .null: break
    }
}

/// Values of a top level: in order, apart, and texts of their own.
private func check(_ values: [JSONScanner.Value], in bytes: UnsafeRawBufferPointer) {
    var end = 0
    for value in values {
        precondition(value.range.lowerBound > end && value.range.upperBound < bytes.count)
        precondition((try? JSONScanner.value(of: JSONScanner.slice(value, of: bytes)))?.kind == value.kind)
        end = value.range.upperBound - 1
    }
}

private func owned(_ new: NewEvent) -> Event {
    let (properties, extensionLength) = new.properties.writer.finish()
    precondition(properties.count <= PropertyList.maxBytes)
    return new.topic.withUnsafeBytes { topic in
        properties.withUnsafeBytes { properties in
            new.payload.withUnsafeBytes { payload in
                Event(
                    topic: topic, properties: properties, payload: payload, qos: new.qos, isRetained: new.isRetained,
                    expiresAt: new.ttlMilliseconds ?? 0, extensionLength: extensionLength)
            }
        }
    }
}

private func jsonEvent(_ bytes: UnsafeRawBufferPointer) {
    guard let new = try? JSONEvent.read(bytes) else { return }
    var writer = JSONWriter()
    JSONEvent.write(owned(new), now: 0, to: &writer)
    writer.bytes.withUnsafeBytes { written in
        guard let again = try? JSONEvent.read(written) else { preconditionFailure("wrote what is no event") }
        precondition(again.topic == new.topic && again.payload == new.payload && again.qos == new.qos)
        precondition(again.isRetained == new.isRetained && again.ttlMilliseconds == new.ttlMilliseconds)
        // The partition key has come to the front.
        precondition(names(again.properties).count == names(new.properties).count)
        precondition(Set(names(again.properties)) == Set(names(new.properties)))
    }
}

/// User properties in their order. Trace context is left out: its fields have escapes of their own, so what cannot be
/// in a field does not come back.
private func names(_ list: PropertyList) -> [[UInt8]] {
    let trace = ["traceparent", "tracestate", "baggage"].map { Array($0.utf8) }
    return list.writer.finish().bytes.withUnsafeBytes { bytes in
        EventProperties(bytes).filter { $0.identifier == .userProperty && !trace.contains(Array($0.bytes)) }
            .map { Array($0.bytes) + [0] + Array($0.value) }
    }
}

private func cloudEvent(_ bytes: UnsafeRawBufferPointer) {
    guard let new = try? CloudEvents.read(bytes, fallback: [UInt8(ascii: "t")]) else { return }
    let event = owned(new)
    precondition(CloudEvent.isOne(event.properties))
    var writer = JSONWriter()
    precondition(CloudEvents.write(properties: event.properties, payload: event.payload, to: &writer))
    writer.bytes.withUnsafeBytes { written in
        guard let again = try? CloudEvents.read(written, fallback: [UInt8(ascii: "t")]) else {
            preconditionFailure("wrote what is no CloudEvent")
        }
        precondition(again.payload == new.payload && again.topic == new.topic)
        precondition(names(again.properties) == names(new.properties))
    }
    // And as fields of a request, unless its data is called a CloudEvent itself: then fields are copies.
    request(EventHeaders.fields(of: event.properties)) { headers in
        guard headers.mode == .binary else { return }
        precondition(headers.isCloudEvent && names(headers.list) == names(new.properties))
    }
}

private func batch(_ bytes: UnsafeRawBufferPointer) {
    for form in [Batch.Form.lines, .cloudEvent, .cloudEvents] {
        guard let batch = try? Batch(bytes, form: form) else { continue }
        var end = 0
        for item in batch.items {
            precondition(item.lowerBound >= end && item.upperBound <= bytes.count)
            end = item.upperBound
            _ = try? batch.event(item, in: bytes)
        }
    }
}

/// The input is lines of header fields.
private func headers(_ bytes: UnsafeRawBufferPointer) {
    let head = Array("POST / HTTP/1.1\r\nHost: x\r\n".utf8) + Array(bytes) + Array("\r\n\r\n".utf8)
    parse(head) { headers in
        let properties = headers.properties.finish().bytes
        precondition(properties.count <= PropertyList.maxBytes)
        properties.withUnsafeBytes { properties in
            request(EventHeaders.fields(of: properties)) { again in
                precondition(names(again.list) == names(headers.list))
                precondition(again.isCloudEvent == CloudEvent.isOne(properties))
            }
        }
    }
}

/// The input is properties, which a publisher of another protocol may have said; each part is at most 255 bytes.
private func fields(_ bytes: UnsafeRawBufferPointer) {
    var writer = EventPropertiesWriter()
    var place = 0
    func take() -> [UInt8] {
        guard place < bytes.count else { return [] }
        let end = min(bytes.count, place + 1 + Int(bytes[place]))
        defer { place = end }
        return Array(bytes[place + 1..<end])
    }
    while place < bytes.count {
        let kinds: [EventProperties.Identifier] = [.contentType, .responseTopic, .correlationData, .messageID]
        let kind = Int(bytes[place]) % 8
        place += 1
        if kind < kinds.count { writer.add(kinds[kind], take()) } else { writer.addUser(take(), take()) }
    }
    writer.finish().bytes.withUnsafeBytes { properties in
        let fields = EventHeaders.fields(of: properties, expiresAt: 1).fields
        let lines = fields.flatMap { Array("\($0.name): \($0.value)\r\n".utf8) }
        let count = EventProperties(properties).count { _ in true } + 1
        precondition(lines.count { $0 == 10 } == count && lines.count { $0 == 13 } == count)
        precondition(lines.allSatisfy { $0 == 10 || $0 == 13 || (0x20..<0x7F).contains($0) })
        parse(Array("POST / HTTP/1.1\r\nHost: x\r\n".utf8) + lines + [13, 10]) { _ in }
    }
}

private func request(_ fields: Headers, _ body: (EventHeaders) -> Void) {
    var head = Array("POST / HTTP/1.1\r\nHost: x\r\n".utf8)
    for field in fields.fields { head += Array("\(field.name): \(field.value)\r\n".utf8) }
    var isRead = false
    parse(head + [13, 10]) { headers in
        isRead = true
        body(headers)
    }
    precondition(isRead, "wrote fields that are not read")
}

private func parse(_ head: [UInt8], _ body: (EventHeaders) -> Void) {
    let storage = RequestHead.Storage()
    // The head borrows the storage without holding it.
    withExtendedLifetime(storage) {
        head.withUnsafeBytes { bytes in
            let outcome = try? RequestHead.parse(bytes, headerBytes: 65_536, targetBytes: 8_192, storage)
            guard case .complete(let head)? = outcome, let headers = try? EventHeaders(head) else { return }
            body(headers)
        }
    }
}

private func path(_ bytes: UnsafeRawBufferPointer) {
    var topic: [UInt8] = []
    switch try? TopicPath.decode(bytes, into: &topic) {
    case .asWritten(let count)?:
        topic = Array(bytes[..<count])
        precondition(!topic.contains(UInt8(ascii: "%")) && !topic.contains(UInt8(ascii: "?")))
    case .decoded?: break
    case nil: return
    }
    precondition(topic.withUnsafeBytes { Topic.isText($0) })
    // Bytes, because a slash and a combining mark are one Character.
    let levels = topic.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
    let encoded = levels.map { Percent.encode(String(decoding: $0, as: UTF8.self)) }.joined(separator: "/")
    var again: [UInt8] = []
    Array(encoded.utf8).withUnsafeBytes { encoded in
        if case .asWritten(let count)? = try? TopicPath.decode(encoded, into: &again) {
            again = Array(encoded[..<count])
        }
    }
    precondition(again == topic)
}

private func base64(_ bytes: UnsafeRawBufferPointer) {
    let text = Base64.encode(bytes)
    precondition(Base64.decode(text) == Array(bytes) && text.count == (bytes.count + 2) / 3 * 4)
    // What is read is written the same: one text for one run of bytes.
    if let data = Base64.decode(bytes) { precondition(Base64.encode(data) == Array(bytes)) }
}
