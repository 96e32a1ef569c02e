/// The topic that the path of a request target names, taken from its bytes: no strings, and nothing copied when there
/// are no escapes.
import Core

enum TopicPath {
    /// Where the topic is.
    enum Outcome: Equatable {
        /// The first so many bytes of what was given.
        case asWritten(Int)
        /// In the array.
        case decoded
    }

    /// Decodes a topic: each segment once, the query cut off.
    /// - Parameters:
    ///   - target: the request target behind the prefix and its slash.
    ///   - topic: emptied and filled when there are escapes; keeps its memory.
    /// - Throws: ``Problem`` 400. Wildcards and lengths are not checked here, see ``Topic``.
    static func decode(_ target: UnsafeRawBufferPointer, into topic: inout [UInt8]) throws(Problem) -> Outcome {
        var end = 0
        var hasEscapes = false
        var isASCII = true
        scan: while end < target.count {
            switch target[end] {
            case UInt8(ascii: "?"): break scan
            case UInt8(ascii: "#"): throw Problem(400, "A request target has no fragment; # in a path is %23.")
            case UInt8(ascii: "%"): hasEscapes = true
            case 0: throw Problem(400, "A topic holds no NUL.")
            case 0x80...: isASCII = false
            default: break
            }
            end += 1
        }
        let path = UnsafeRawBufferPointer(rebasing: target[..<end])
        guard hasEscapes else {
            guard isASCII || Topic.isUTF8(path) else { throw Problem(400, "A topic is UTF-8.") }
            return .asWritten(end)
        }
        topic.removeAll(keepingCapacity: true)
        try unescape(path, into: &topic)
        guard topic.withUnsafeBytes({ Topic.isUTF8($0) }) else { throw Problem(400, "A topic is UTF-8.") }
        return .decoded
    }

    private static func unescape(_ path: UnsafeRawBufferPointer, into topic: inout [UInt8]) throws(Problem) {
        var place = 0
        while place < path.count {
            guard path[place] == UInt8(ascii: "%") else {
                topic.append(path[place])
                place += 1
                continue
            }
            guard path.count - place >= 3, let high = Percent.digit(path[place + 1]),
                let low = Percent.digit(path[place + 2])
            else { throw Problem(400, "In a path, % comes before two hexadecimal digits; itself it is %25.") }
            let byte = high << 4 | low
            guard byte != UInt8(ascii: "/") else {
                throw Problem(400, "A topic's level cannot hold a slash: %2F is refused; write / between levels.")
            }
            guard byte != 0 else { throw Problem(400, "A topic holds no NUL: %00 is refused.") }
            topic.append(byte)
            place += 3
        }
    }
}
