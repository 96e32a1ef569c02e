import Core

/// Finds out what one address names, with an error for whoever wrote it.
struct AddressReader {
    let text: String
    let capabilities: [String]
    let role: Address.Role
    let group: String?
    let settings: AMQPSettings
    let limits: Limits

    func read(_ bytes: UnsafeRawBufferPointer) throws(AMQPError) -> Address {
        guard let form = AddressForm(bytes) else {
            throw wrong("names a host and nothing on it; expected topic://TOPIC, or the topic alone")
        }
        if let node = Self.node(form) { return node }
        let said = kindOfCapabilities
        if said == nil, form.isPath { return try path(form.name) }
        var kind = said ?? form.kind ?? (settings.unprefixedAddress == .topic ? .topic : .queue)
        if form.isOwn || (said == nil && form.kind == nil && Self.hasOptions(form.name)) { kind = .topic }
        guard !form.name.isEmpty else { throw wrong("has no name behind its prefix") }
        switch kind {
        case .queue: return .queue(String(decoding: form.name, as: UTF8.self))
        case .topic where role == .source: return .filter(try filter(Array(form.name), grammar: .either))
        case .topic: return .topic(try topic(Array(form.name)))
        }
    }

    /// What the capabilities say that the name is (§3.5.3).
    private var kindOfCapabilities: AddressForm.Kind? {
        for capability in capabilities {
            switch capability {
            case "topic", "temporary-topic": return .topic
            case "queue", "temporary-queue": return .queue
            default: break
            }
        }
        return nil
    }

    /// Nodes that are neither topics nor queues. An entity may have a management of its own in front.
    private static func node(_ form: AddressForm) -> Address? {
        guard form.kind == nil else { return nil }
        if form.name.elementsEqual("$cbs".utf8) { return .claims }
        let isManagement =
            form.name.elementsEqual("$management".utf8) || form.name.elementsEqual("/management".utf8)
            || form.name.suffix(12).elementsEqual("/$management".utf8)
        return isManagement ? .management : nil
    }

    /// `$share/` and `$local/` are of filters, hence of topics, whatever a name alone is.
    private static func hasOptions(_ name: UnsafeRawBufferPointer) -> Bool {
        name.starts(with: "$share/".utf8) || name.starts(with: "$local/".utf8)
    }

    // MARK: Topics and filters

    private func topic(_ name: [UInt8]) throws(AMQPError) -> [UInt8] {
        let (wildcards, hasOptions, isValid) = name.withUnsafeBytes {
            (Wildcards($0), Self.hasOptions($0), Topic.isValid($0, limits: limits))
        }
        guard !wildcards.areAny else {
            throw wrong("has a wildcard; only receivers can have some, a sender names one topic")
        }
        guard !hasOptions else { throw wrong("cannot be sent to: $share and $local are for receivers") }
        guard isValid else {
            let bounds = "up to \(limits.maxTopicBytes) bytes and \(limits.maxTopicLevels) levels"
            throw wrong("is no topic: it has \(bounds) of UTF-8 without NUL")
        }
        return name
    }

    private func filter(_ name: [UInt8], grammar: TopicFilter.Grammar) throws(AMQPError) -> TopicFilter {
        let filter = try compile(name, grammar)
        let wildcards = filter.bytes.withUnsafeBytes { Wildcards($0) }
        guard !(grammar == .either && wildcards.areMQTT && wildcards.areSMF) else {
            throw wrong("mixes two grammars; a filter has + and # as in MQTT, or * and >")
        }
        guard let group else { return filter }
        guard filter.group == nil else { throw wrong("names a group, and so does the link; one of them is enough") }
        var shared: [UInt8] = filter.isLocalOnly ? Array("$local/".utf8) : []
        shared += Array("$share/".utf8) + Self.encoded(group) + [UInt8(ascii: "/")] + filter.bytes
        return try compile(shared, grammar)
    }

    private func compile(_ name: [UInt8], _ grammar: TopicFilter.Grammar) throws(AMQPError) -> TopicFilter {
        do throws(TopicFilter.Failure) {
            return try TopicFilter(name, grammar: grammar, limits: limits)
        } catch {
            switch error {
            case .empty: throw wrong("names no topic")
            case .tooLong: throw wrong("is longer than \(limits.maxTopicBytes) bytes")
            case .tooManyLevels: throw wrong("has more than \(limits.maxTopicLevels) levels")
            case .notText: throw wrong("is no text: UTF-8 without NUL")
            case .misplacedWildcard:
                throw wrong("has a wildcard out of place: + and # stand alone in a level, # in the last")
            case .malformedShare:
                throw wrong("is no shared subscription: $share/GROUP/FILTER, the group without + and #")
            }
        }
    }

    /// A group of any name, without what a group cannot hold.
    private static func encoded(_ group: String) -> [UInt8] {
        let digits = Array("0123456789ABCDEF".utf8)
        var bytes: [UInt8] = []
        for byte in group.utf8 {
            switch byte {
            case 0, UInt8(ascii: "/"), UInt8(ascii: "+"), UInt8(ascii: "#"), UInt8(ascii: "%"):
                bytes += [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
            default: bytes.append(byte)
            }
        }
        return bytes
    }

    // MARK: RabbitMQ's paths

    /// `/queues/:queue` and `/exchanges/:exchange/:key`, percent-encoded, and their older forms: `/queue/:queue`,
    /// `/amq/queue/:queue`, `/exchange/:exchange/:key` and `/topic/:key`.
    private func path(_ path: UnsafeRawBufferPointer) throws(AMQPError) -> Address {
        var steps: [[UInt8]] = []
        for step in path.dropFirst().split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false) {
            guard let plain = Self.decoded(step) else {
                throw wrong("has a % without two hexadecimal digits behind it; % itself is %25")
            }
            steps.append(plain)
        }
        let words = steps.map { String(decoding: $0, as: UTF8.self) }
        switch (words[0], words.count) {
        case ("queues", 2), ("queue", 2): return .queue(words[1])
        case ("amq", 3): return .queue(words[2])
        case ("topic", 2): return try exchange("amq.topic", steps[1])
        case ("exchanges", 3), ("exchange", 3): return try exchange(words[1], steps[2])
        case ("exchanges", 2), ("exchange", 2):
            throw wrong(
                "has no routing key; expected \(words[0] == "exchange" ? "/exchange" : "/exchanges")/amq.topic/KEY")
        default:
            throw wrong("has too many steps; words of a key are separated by dots, or write topic://A/B for a topic")
        }
    }

    /// The topics stand where RabbitMQ's MQTT has them: in the exchange `amq.topic`, with `.` for `/` and `*` for `+`.
    private func exchange(_ exchange: String, _ key: [UInt8]) throws(AMQPError) -> Address {
        guard exchange == "amq.topic" else {
            throw AMQPError(.notFound, "there is no exchange '\(shortened(exchange))'; topics are in amq.topic")
        }
        guard !key.contains(UInt8(ascii: "+")) else { throw wrong("has a + in its key; one word is * there") }
        let words = key.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        guard role == .source else {
            return .topic(try topic(Array(words.joined(separator: [UInt8(ascii: "/")]))))
        }
        let levels = words.map { $0.elementsEqual("*".utf8) ? [UInt8(ascii: "+")] : Array($0) }
        return .filter(try filter(Array(levels.joined(separator: [UInt8(ascii: "/")])), grammar: .mqtt))
    }

    private static func decoded(_ step: Slice<UnsafeRawBufferPointer>) -> [UInt8]? {
        func digit(_ byte: UInt8) -> UInt8? {
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
            case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
            case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
            default: nil
            }
        }
        var bytes: [UInt8] = []
        var place = step.startIndex
        while place < step.endIndex {
            guard step[place] == UInt8(ascii: "%") else {
                bytes.append(step[place])
                place += 1
                continue
            }
            guard step.endIndex - place >= 3, let high = digit(step[place + 1]), let low = digit(step[place + 2]) else {
                return nil
            }
            bytes.append(high << 4 | low)
            place += 3
        }
        return bytes
    }

    // MARK: Errors

    private func wrong(_ what: String) -> AMQPError {
        AMQPError(.invalidField, "the address '\(shortened(text))' \(what)")
    }

    /// Enough of a text to recognise it by: an error is not longer than what is wrong.
    private func shortened(_ text: String) -> String { text.utf8.count <= 120 ? text : "\(text.prefix(100))…" }
}
