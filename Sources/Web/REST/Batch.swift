/// A body with many events: lines of JSON, or CloudEvents. First it is split, then each event is read by itself, so
/// that one that is wrong harms no other and never all of them are there twice.
import Core

struct Batch {
    /// Events in one body, at most.
    static let maxEvents = 10_000

    /// What the body is.
    enum Form: Equatable {
        /// `application/x-ndjson`: an event as ``JSONEvent`` in each line.
        case lines
        /// `application/cloudevents+json`
        case cloudEvent
        /// `application/cloudevents-batch+json`
        case cloudEvents

        /// - Returns: nil when the type is none of a batch.
        init?(contentType: UnsafeRawBufferPointer) {
            switch CloudEvents.Mode(contentType: contentType) {
            case .structured: self = .cloudEvent
            case .batch: self = .cloudEvents
            case .binary:
                let type = MediaType.essence(contentType)
                guard type.isSame(as: "application/x-ndjson") || type.isSame(as: "application/jsonl") else {
                    return nil
                }
                self = .lines
            }
        }
    }

    /// Where each event is in the body.
    let items: [Range<Int>]
    /// What each is.
    let form: Form

    /// Splits a body.
    /// - Throws: ``Problem`` 400 when there are too many, or when an array is no JSON as a whole.
    init(_ body: UnsafeRawBufferPointer, form: Form) throws(Problem) {
        self.form = form
        switch form {
        case .lines: items = try Self.lines(of: body)
        case .cloudEvent: items = [0..<body.count]
        case .cloudEvents:
            do throws(JSONScanner.Failure) {
                items = try JSONScanner.elements(of: body).map(\.range)
            } catch {
                throw Problem(400, "The batch is no JSON array of at most \(Self.maxEvents) events: \(error.text)")
            }
        }
    }

    /// Reads one event.
    /// - Parameters:
    ///   - body: what was split.
    ///   - fallback: the topic of a CloudEvent that has no `topic`; its `subject` is last.
    /// - Throws: ``Problem`` 400; it names the member and the rule.
    func event(
        _ item: Range<Int>, in body: UnsafeRawBufferPointer, fallback: [UInt8]? = nil
    ) throws(Problem) -> NewEvent {
        let text = UnsafeRawBufferPointer(rebasing: body[item.clamped(to: 0..<body.count)])
        switch form {
        case .lines: return try JSONEvent.read(text)
        case .cloudEvent, .cloudEvents: return try CloudEvents.read(text, fallback: fallback)
        }
    }

    /// The lines that are not blank, without LF or CR LF at their ends; the last needs none.
    static func lines(of body: UnsafeRawBufferPointer) throws(Problem) -> [Range<Int>] {
        var lines: [Range<Int>] = []
        var start = 0
        while start < body.count {
            let end = body[start...].firstIndex(of: 10) ?? body.count
            let text = end > start && body[end - 1] == 13 ? end - 1 : end
            if body[start..<text].contains(where: { $0 != 0x20 && $0 != 9 }) {
                guard lines.count < maxEvents else {
                    throw Problem(400, "A batch has at most \(maxEvents) events.")
                }
                lines.append(start..<text)
            }
            start = end + 1
        }
        return lines
    }
}
