/// How events are written for readers over HTTP.
///
/// As Server-Sent Events (WHATWG HTML §9.2) an event is either the payload itself or the JSON form that is used
/// everywhere else:
/// - The payload, when it is text and the topic can be the event's name: `event:` has the topic, `data:` the payload,
///   whose line ends all become LF for the reader. `format=auto` writes it whenever it can.
/// - The JSON form, without `event:`, so that it is what a browser calls a `message` event and one listener is enough
///   for all topics. `format=json` writes nothing else; `format=auto` does for payloads that are no text, and for
///   topics that cannot be names: those with a line end, and `message`, `open`, `error` and `gap`, which mean
///   something else to a browser or to us. So what has a name is always a payload, and what has none always JSON.
///
/// Whether an event came out of the retained store is said in the JSON form only.
import Core

/// What a stream's events look like.
enum StreamFormat: Int, Sendable, CaseIterable {
    /// Payloads as they are, where that is possible.
    case auto
    /// Always JSON.
    case json
}

/// What is written of an event, borrowed.
struct EventParts {
    var topic: UnsafeRawBufferPointer
    var properties: UnsafeRawBufferPointer
    var payload: UnsafeRawBufferPointer
    var qos: UInt8
    /// Whether it came out of the retained store.
    var isRetained = false
    /// In the lane's milliseconds; 0 for never.
    var expiresAt: UInt64

    /// An owned event, which must live meanwhile.
    init(_ event: Event, isRetained: Bool = false) {
        topic = event.topic
        properties = event.properties
        payload = event.payload
        qos = event.qos
        self.isRetained = isRetained
        expiresAt = event.expiresAt
    }

    /// An event of a run.
    init(_ run: UnsafePointer<EventRun>, _ index: Int) {
        let view = run.pointee.events[index]
        topic = run.pointee.topicBytes
        properties = UnsafeRawBufferPointer(start: run.pointee.properties, count: run.pointee.propertiesLength)
        payload = UnsafeRawBufferPointer(start: view.payload, count: Int(view.payloadLength))
        qos = run.pointee.qos
        expiresAt = run.pointee.expiresAt
    }

    /// Whether the payload is text: because it says so, or because it is UTF-8 without NUL.
    var isText: Bool { JSONEvent.isText(payload, properties: properties) }
}

/// Puts streams' bytes together.
enum StreamText {
    /// Writes an event and the empty line that ends it, without its id.
    static func write(_ parts: EventParts, as format: StreamFormat, now: UInt64, to bytes: inout [UInt8]) {
        if format == .auto, isName(parts.topic), parts.isText {
            append("event: ", to: &bytes)
            bytes.append(contentsOf: parts.topic)
            append("\n", to: &bytes)
            writeLines(parts.payload, to: &bytes)
        } else {
            append("data: ", to: &bytes)
            writeJSON(parts, now: now, to: &bytes)
            append("\n", to: &bytes)
        }
        append("\n", to: &bytes)
    }

    /// What tells a reader that something is missing.
    /// - Parameter after: the id that could not be honoured, as the reader gave it.
    static func writeGap(_ reason: Gap, after: some Collection<UInt8>, to bytes: inout [UInt8]) {
        append("event: gap\ndata: ", to: &bytes)
        var writer = JSONWriter(bytes)
        bytes = []
        writer.beginObject()
        writer.key("reason")
        writer.string(reason.rawValue)
        writer.key("after")
        writer.string(after)
        writer.endObject()
        bytes = writer.bytes
        append("\n\n", to: &bytes)
    }

    /// Appends a text.
    static func append(_ text: StaticString, to bytes: inout [UInt8]) {
        bytes.append(contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    /// Appends a number.
    static func append(_ number: UInt64, to bytes: inout [UInt8]) {
        withUnsafeTemporaryAllocation(byteCount: 20, alignment: 1) { room in
            guard let base = room.baseAddress else { return }
            bytes.append(contentsOf: UnsafeRawBufferPointer(start: base, count: Decimal.write(number, to: base)))
        }
    }

    /// Whether a topic can be the name of an event.
    private static func isName(_ topic: UnsafeRawBufferPointer) -> Bool {
        if topic.count <= 7,
            topic.equals("gap") || topic.equals("open") || topic.equals("error") || topic.equals("message")
        {
            return false
        }
        return !topic.contains { $0 == 10 || $0 == 13 }
    }

    /// A `data:` field for each line; lines end with CR LF, LF or CR (§9.2.5).
    private static func writeLines(_ payload: UnsafeRawBufferPointer, to bytes: inout [UInt8]) {
        var start = 0
        while true {
            var end = start
            while end < payload.count, payload[end] != 10, payload[end] != 13 { end += 1 }
            append("data: ", to: &bytes)
            bytes.append(contentsOf: UnsafeRawBufferPointer(rebasing: payload[start..<end]))
            append("\n", to: &bytes)
            guard end < payload.count else { return }
            start = end + (payload[end] == 13 && end + 1 < payload.count && payload[end + 1] == 10 ? 2 : 1)
        }
    }

    /// Writes the JSON form of an event.
    static func writeJSON(_ parts: EventParts, now: UInt64, to bytes: inout [UInt8]) {
        // Moved into the writer and back, so that nothing is copied.
        var writer = JSONWriter(bytes)
        bytes = []
        writer.beginObject()
        JSONEvent.writeMembers(
            topic: parts.topic, payload: parts.payload, properties: parts.properties, qos: parts.qos,
            isRetained: parts.isRetained, expiresAt: parts.expiresAt, now: now, to: &writer)
        writer.endObject()
        swap(&bytes, &writer.bytes)
    }
}

extension UnsafeRawBufferPointer {
    /// Whether the bytes are a word exactly.
    fileprivate func equals(_ word: StaticString) -> Bool {
        elementsEqual(UnsafeRawBufferPointer(start: word.utf8Start, count: word.utf8CodeUnitCount))
    }
}

/// Why an id cannot be honoured wholly.
enum Gap: String, Sendable {
    /// Some of what came after it has left the window.
    case window
    /// Nothing is known of it: another run of the node, another user's, or it has been too long.
    case unknown
    /// It belongs to other filters or another group.
    case filters
}
