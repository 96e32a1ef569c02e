import Core

/// Writes the sections of messages for receivers, up to the body. Confined to the lane.
final class MessageEncoder {
    private let usesTopicPrefix: Bool
    private var users = UserProperties()
    private static let topicPrefix: StaticString = "topic://"

    init(usesTopicPrefix: Bool) { self.usesTopicPrefix = usesTopicPrefix }

    // MARK: Messages as received

    /// Of a message that was received: nothing, if it can go on as it is, or else its header and annotations anew.
    func encode(
        _ sections: MessageSections, _ source: MessageSource, _ options: MessageOptions,
        into encoded: EncodedMessage
    ) {
        encoded.start.removeAll()
        let ttl = source.timeToLive
        let isSame =
            !options.needsTopic && !options.isRetained && options.deliveryCount == 0 && sections.deliveryCount == 0
            && !sections.isFirstAcquirer && !sections.hasDeliveryAnnotations && !sections.hasHopAnnotations
            && (ttl == nil || ttl.map { UInt64($0) } == sections.ttlMilliseconds)
        encoded.isRewritten = !isSame
        encoded.body = .message(isSame ? 0 : sections.bareStart)
        guard !isSame else { return }
        writeHeader(
            isDurable: sections.isDurable, priority: sections.priority, ttl: ttl, options, to: encoded.start)
        let annotations = UnsafeRawBufferPointer(rebasing: sections.bytes[sections.annotations])
        writeAnnotations(annotations, source.topic, options, userList: nil, to: encoded.start)
    }

    // MARK: Events

    /// Of an event: everything in front of the body.
    func encode(_ source: MessageSource, _ options: MessageOptions, into encoded: EncodedMessage) {
        let writer = encoded.start
        writer.removeAll()
        encoded.isRewritten = true
        var priority: UInt8?
        var foreign: ForeignMessage?
        let extras = EventProperties(source.properties.from(source.properties.count - source.extensionLength))
        for property in extras {
            switch property.identifier {
            case .priority: priority = property.bytes.first
            case .foreign where property.value.first == WireLayout.amqp.rawValue:
                foreign = ForeignMessage(property.bytes)
            default: break
            }
        }
        if let foreign {
            writeHeader(isDurable: foreign.isDurable, priority: priority, ttl: source.timeToLive, options, to: writer)
            writeAnnotations(foreign.annotations, source.topic, options, userList: nil, to: writer)
            encoded.bare = foreign.bare
            encoded.footer = foreign.footer
            encoded.body =
                switch foreign.form {
                case .plain: .plain(foreign.body)
                case .encoded: .encoded
                case .pieces: .pieces(foreign)
                }
            return
        }
        encoded.bare = UnsafeRawBufferPointer(start: nil, count: 0)
        encoded.footer = encoded.bare
        encoded.body = .data
        writeHeader(isDurable: source.isDurable, priority: priority, ttl: source.timeToLive, options, to: writer)
        users.collect(source.properties)
        let none = UnsafeRawBufferPointer(start: nil, count: 0)
        writeAnnotations(none, source.topic, options, userList: users.needsList ? users : nil, to: writer)
        writeProperties(source, to: writer)
        users.writeMap(to: writer)
        users.removeAll()
    }

    // MARK: Sections

    /// The header (§3.2.1), unless it would say nothing.
    private func writeHeader(
        isDurable: Bool, priority: UInt8?, ttl: UInt32?, _ options: MessageOptions, to writer: ValueWriter
    ) {
        let count =
            options.deliveryCount > 0 ? 5 : ttl != nil ? 3 : priority != nil ? 2 : isDurable ? 1 : 0
        guard count > 0 else { return }
        writer.descriptor(.header)
        let start = writer.begin()
        writer.boolean(isDurable)
        if count > 1 { if let priority { writer.ubyte(priority) } else { writer.null() } }
        if count > 2 { if let ttl { writer.uint(ttl) } else { writer.null() } }
        if count > 3 {
            writer.null()
            writer.uint(options.deliveryCount)
        }
        writer.end(.list, at: start, count: count)
    }

    /// The message annotations: those of the publisher that are not ours, and ours.
    private func writeAnnotations(
        _ section: UnsafeRawBufferPointer, _ topic: UnsafeRawBufferPointer, _ options: MessageOptions,
        userList: UserProperties?, to writer: ValueWriter
    ) {
        let begin = writer.count
        writer.descriptor(.messageAnnotations)
        let start = writer.begin()
        var (count, isSame) = (0, !section.isEmpty)
        var reader = ValueReader(section)
        if !section.isEmpty, (try? MessageSections.Section.next(&reader)) != nil, let map = try? reader.next(),
            var (_, members) = try? map.members()
        {
            while !members.isAtEnd {
                let place = members.cursor
                guard let key = try? members.next(), (try? members.next()) != nil else { break }
                if Annotation(key)?.isOfHop ?? false {
                    isSame = false
                } else {
                    writer.raw(UnsafeRawBufferPointer(start: place, count: members.cursor - place))
                    count += 2
                }
            }
        }
        if isSame, !options.isRetained, !options.needsTopic {
            writer.remove(from: begin)
            return writer.raw(section)
        }
        if options.isRetained {
            writer.symbol(Annotation.retainName)
            writer.boolean(true)
            count += 2
        }
        if options.needsTopic {
            writer.symbol(Annotation.topicName)
            writer.string(topic)
            count += 2
        }
        if let userList {
            writer.symbol(Annotation.userPropertiesName)
            userList.writeList(to: writer)
            count += 2
        }
        guard count > 0 else { return writer.remove(from: begin) }
        writer.end(.map, at: start, count: count)
    }

    /// The properties (§3.2.4) of an event of another protocol.
    private func writeProperties(_ source: MessageSource, to writer: ValueWriter) {
        var (messageID, replyTo, correlation):
            (UnsafeRawBufferPointer?, UnsafeRawBufferPointer?, UnsafeRawBufferPointer?)
        var contentType: UnsafeRawBufferPointer?
        var isText = false
        for property in EventProperties(source.properties) {
            switch property.identifier {
            case .messageID: messageID = property.bytes
            case .responseTopic: replyTo = property.bytes
            case .correlationData: correlation = property.bytes
            case .contentType: contentType = property.bytes
            case .payloadFormat: isText = property.bytes.first == 1
            case .userProperty, .priority, .foreign: break
            }
        }
        // A symbol is ASCII; there is no other way to say a content type.
        if let type = contentType, !Value.isASCII(type) { contentType = nil }
        if contentType == nil, isText { contentType = Self.textType.bytes }
        let group = users.partitionKey
        writer.descriptor(.properties)
        let start = writer.begin()
        let count = group != nil ? 11 : contentType != nil ? 7 : correlation != nil ? 6 : replyTo != nil ? 5 : 3
        for index in 0..<count {
            switch index {
            case 0: writeName(messageID, to: writer)
            case 2: writeAddress(source.topic, to: writer)
            case 4: writeAddress(replyTo, to: writer)
            case 5: writeName(correlation, to: writer)
            case 6: if let contentType { writer.symbol(contentType) } else { writer.null() }
            case 10: if let group { writer.string(group) }
            default: writer.null()
            }
        }
        writer.end(.list, at: start, count: count)
    }

    /// The content type of text whose publisher has not said one.
    private static let textType: StaticString = "text/plain; charset=utf-8"

    private func writeAddress(_ topic: UnsafeRawBufferPointer?, to writer: ValueWriter) {
        guard let topic else { return writer.null() }
        guard usesTopicPrefix else { return writer.string(topic) }
        let prefix = Self.topicPrefix.bytes
        writer.variableSize(0xA1, prefix.count + topic.count)
        writer.raw(prefix)
        writer.raw(topic)
    }

    /// A message id or correlation id: a string if it is text that can be read, else binary.
    private func writeName(_ name: UnsafeRawBufferPointer?, to writer: ValueWriter) {
        guard let name else { return writer.null() }
        if Value.isUTF8(name), !name.contains(where: { $0 < 0x20 || $0 == 0x7F }) {
            writer.string(name)
        } else {
            writer.binary(name)
        }
    }
}
