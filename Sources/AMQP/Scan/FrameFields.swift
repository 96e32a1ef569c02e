import Core

/// A field of a performative or of what lies in it (§2.7, §2.8, §3.4, §3.5): its type, and whether it must be there.
struct FrameField {
    /// What may stand in a field.
    enum Kind: UInt8 {
        case any
        case boolean
        case ubyte
        case ushort
        case uint
        case ulong
        case string
        case symbol
        case binary
        case map
        /// A symbol, or an array of symbols (`multiple`, §1.4).
        case symbols
        case source
        case target
        case state
        case error
    }

    let name: StaticString
    let kind: Kind
    let isMandatory: Bool
    /// The most bytes of a string, symbol or binary, or the highest value of a number; 0 for any.
    let most: Int

    init(_ name: StaticString, _ kind: Kind, isMandatory: Bool = false, most: Int = 0) {
        (self.name, self.kind, self.isMandatory, self.most) = (name, kind, isMandatory, most)
    }
}

/// A composite type: its name and its fields in their order.
struct FrameComposite {
    let name: StaticString
    let fields: [FrameField]

    private init(_ name: StaticString, _ fields: [FrameField]) { (self.name, self.fields) = (name, fields) }

    static func of(_ performative: Frame.Performative) -> FrameComposite {
        switch performative {
        case .open: open
        case .begin: begin
        case .attach: attach
        case .flow: flow
        case .transfer: transfer
        case .disposition: disposition
        case .detach: detach
        case .end: end
        case .close: close
        }
    }

    /// A delivery state that the specification has; nil for others, whose fields are not known.
    static func state(_ descriptor: UInt64) -> FrameComposite? {
        switch descriptor {
        case 0x23: received
        case 0x24: accepted
        case 0x25: rejected
        case 0x26: released
        case 0x27: modified
        case 0x33: declared
        case 0x34: transactional
        default: nil
        }
    }

    static let open = FrameComposite(
        "open",
        [
            FrameField("container-id", .string, isMandatory: true, most: FrameLimits.nameBytes),
            FrameField("hostname", .string, most: FrameLimits.nameBytes),
            FrameField("max-frame-size", .uint), FrameField("channel-max", .ushort), FrameField("idle-time-out", .uint),
            FrameField("outgoing-locales", .symbols), FrameField("incoming-locales", .symbols),
            FrameField("offered-capabilities", .symbols), FrameField("desired-capabilities", .symbols),
            FrameField("properties", .map),
        ])
    static let begin = FrameComposite(
        "begin",
        [
            FrameField("remote-channel", .ushort), FrameField("next-outgoing-id", .uint, isMandatory: true),
            FrameField("incoming-window", .uint, isMandatory: true),
            FrameField("outgoing-window", .uint, isMandatory: true), FrameField("handle-max", .uint),
            FrameField("offered-capabilities", .symbols), FrameField("desired-capabilities", .symbols),
            FrameField("properties", .map),
        ])
    static let attach = FrameComposite(
        "attach",
        [
            FrameField("name", .string, isMandatory: true, most: FrameLimits.nameBytes),
            FrameField("handle", .uint, isMandatory: true), FrameField("role", .boolean, isMandatory: true),
            FrameField("snd-settle-mode", .ubyte, most: 2), FrameField("rcv-settle-mode", .ubyte, most: 1),
            FrameField("source", .source), FrameField("target", .target), FrameField("unsettled", .map),
            FrameField("incomplete-unsettled", .boolean), FrameField("initial-delivery-count", .uint),
            FrameField("max-message-size", .ulong), FrameField("offered-capabilities", .symbols),
            FrameField("desired-capabilities", .symbols), FrameField("properties", .map),
        ])
    static let flow = FrameComposite(
        "flow",
        [
            FrameField("next-incoming-id", .uint), FrameField("incoming-window", .uint, isMandatory: true),
            FrameField("next-outgoing-id", .uint, isMandatory: true),
            FrameField("outgoing-window", .uint, isMandatory: true), FrameField("handle", .uint),
            FrameField("delivery-count", .uint), FrameField("link-credit", .uint), FrameField("available", .uint),
            FrameField("drain", .boolean), FrameField("echo", .boolean), FrameField("properties", .map),
        ])
    static let transfer = FrameComposite(
        "transfer",
        [
            FrameField("handle", .uint, isMandatory: true), FrameField("delivery-id", .uint),
            FrameField("delivery-tag", .binary, most: FrameLimits.tagBytes), FrameField("message-format", .uint),
            FrameField("settled", .boolean), FrameField("more", .boolean),
            FrameField("rcv-settle-mode", .ubyte, most: 1), FrameField("state", .state),
            FrameField("resume", .boolean), FrameField("aborted", .boolean), FrameField("batchable", .boolean),
        ])
    static let disposition = FrameComposite(
        "disposition",
        [
            FrameField("role", .boolean, isMandatory: true), FrameField("first", .uint, isMandatory: true),
            FrameField("last", .uint), FrameField("settled", .boolean), FrameField("state", .state),
            FrameField("batchable", .boolean),
        ])
    static let detach = FrameComposite(
        "detach",
        [
            FrameField("handle", .uint, isMandatory: true), FrameField("closed", .boolean),
            FrameField("error", .error),
        ])
    static let end = FrameComposite("end", [FrameField("error", .error)])
    static let close = FrameComposite("close", [FrameField("error", .error)])

    static let error = FrameComposite(
        "error",
        [
            FrameField("condition", .symbol, isMandatory: true), FrameField("description", .string),
            FrameField("info", .map),
        ])
    static let source = FrameComposite(
        "source",
        [
            FrameField("address", .string, most: FrameLimits.addressBytes), FrameField("durable", .uint, most: 2),
            FrameField("expiry-policy", .symbol), FrameField("timeout", .uint), FrameField("dynamic", .boolean),
            FrameField("dynamic-node-properties", .map), FrameField("distribution-mode", .symbol),
            FrameField("filter", .map), FrameField("default-outcome", .any), FrameField("outcomes", .symbols),
            FrameField("capabilities", .symbols),
        ])
    static let target = FrameComposite(
        "target",
        [
            FrameField("address", .string, most: FrameLimits.addressBytes), FrameField("durable", .uint, most: 2),
            FrameField("expiry-policy", .symbol), FrameField("timeout", .uint), FrameField("dynamic", .boolean),
            FrameField("dynamic-node-properties", .map), FrameField("capabilities", .symbols),
        ])
    static let coordinator = FrameComposite("coordinator", [FrameField("capabilities", .symbols)])

    private static let received = FrameComposite(
        "received",
        [
            FrameField("section-number", .uint, isMandatory: true),
            FrameField("section-offset", .ulong, isMandatory: true),
        ])
    private static let accepted = FrameComposite("accepted", [])
    private static let rejected = FrameComposite("rejected", [FrameField("error", .error)])
    private static let released = FrameComposite("released", [])
    private static let modified = FrameComposite(
        "modified",
        [
            FrameField("delivery-failed", .boolean), FrameField("undeliverable-here", .boolean),
            FrameField("message-annotations", .map),
        ])
    private static let declared = FrameComposite("declared", [FrameField("txn-id", .binary, isMandatory: true)])
    private static let transactional = FrameComposite(
        "transactional-state", [FrameField("txn-id", .binary, isMandatory: true), FrameField("outcome", .any)])
}
