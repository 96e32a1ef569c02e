/// Reads a stream of Server-Sent Events as a browser does (WHATWG HTML §9.2.6), byte by byte.
struct EventSourceReader {
    struct Message: Equatable {
        /// `message` when the stream gave no name.
        var name: String
        var data: String
        var id: String
    }

    /// Status and header lines, once they are there.
    private(set) var head: String?
    private(set) var messages: [Message] = []
    private(set) var comments: [String] = []
    private(set) var retry: Int?
    /// What a browser says when it comes back.
    private(set) var lastID = ""

    private var line: [UInt8] = []
    private var afterCR = false
    private var start: [UInt8] = []
    private var name = ""
    private var data = ""
    private var id = ""

    /// Goes on after an interruption: an event that is not complete is lost.
    mutating func reconnect() {
        let kept = (messages, lastID)
        self = EventSourceReader()
        (messages, lastID) = kept
        id = lastID
    }

    /// What was read before, on another connection.
    mutating func prepend(_ earlier: [Message]) { messages = earlier + messages }

    mutating func take(_ bytes: some Sequence<UInt8>) {
        for byte in bytes { take(byte) }
    }

    private mutating func take(_ byte: UInt8) {
        guard head != nil else {
            start.append(byte)
            if start.suffix(4).elementsEqual("\r\n\r\n".utf8) { head = String(decoding: start, as: UTF8.self) }
            return
        }
        if byte == 10, afterCR {
            afterCR = false
            return
        }
        afterCR = byte == 13
        guard byte == 10 || byte == 13 else { return line.append(byte) }
        let text = String(decoding: line, as: UTF8.self)
        line = []
        takeLine(text)
    }

    private mutating func takeLine(_ text: String) {
        if text.isEmpty { return dispatch() }
        if text.utf8.first == UInt8(ascii: ":") { return comments.append(String(text.dropFirst())) }
        let bytes = Array(text.utf8)
        let colon = bytes.firstIndex(of: UInt8(ascii: ":")) ?? bytes.count
        var value = bytes[min(colon + 1, bytes.count)...]
        if value.first == 0x20 { value = value.dropFirst() }
        let text = String(decoding: value, as: UTF8.self)
        switch String(decoding: bytes[..<colon], as: UTF8.self) {
        case "event": name = text
        case "data": data += text + "\n"
        case "id": if !value.contains(0) { id = text }
        case "retry": retry = Int(text)
        default: break
        }
    }

    private mutating func dispatch() {
        lastID = id
        defer { (name, data) = ("", "") }
        guard !data.isEmpty else { return }
        messages.append(Message(name: name.isEmpty ? "message" : name, data: String(data.dropLast()), id: lastID))
    }
}
