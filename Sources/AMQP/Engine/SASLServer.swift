import Core

/// The server's side of SASL (OASIS AMQP 1.0 part 5.3): what is offered, what the client answers, and the outcome.
/// Who the client is, is for others to decide; so are the messages of a mechanism that has several.
struct SASLServer {
    /// A client's answer.
    struct Initial {
        var mechanism: Mechanism
        /// Who says that he is there; nil when the mechanism does not tell.
        var user: String?
        /// The secret of PLAIN. Never to be logged.
        var password: [UInt8]?
        /// As whom he wants to act; nil for himself.
        var authorizationID: String?
        /// The virtual host that the client means.
        var hostname: String?
        /// What an exchange begins with; nil for nothing.
        var message: [UInt8]?
    }

    /// The mechanisms there are.
    enum Mechanism: String, CaseIterable {
        /// RFC 4422 appendix A: whom the connection itself has authenticated.
        case external = "EXTERNAL"
        /// RFC 7677.
        case scramSHA256 = "SCRAM-SHA-256"
        /// RFC 7628.
        case oauthBearer = "OAUTHBEARER"
        /// RFC 4616.
        case plain = "PLAIN"
        /// RFC 4505.
        case anonymous = "ANONYMOUS"

        /// What others know it as, if it is an exchange of messages.
        var exchange: SASLMechanism? { SASLMechanism(rawValue: rawValue) }
    }

    /// What a client may say in an exchange: the mechanisms there are need two messages.
    static let maxMessages = 4
    /// Bytes of a message: the longest token, and what stands around it. A frame of SASL should have no more than 512
    /// (§2.3.1), but then a token would not fit.
    static let maxMessageBytes = 20_480
    /// Bytes of a frame: such a message, the names of mechanism and host.
    static let maxFrameBytes = maxMessageBytes + 1_024

    /// The outcome of authentication (§5.3.3.6).
    enum Code: UInt8 { case ok = 0, auth = 1, sys = 2, sysPermanent = 3, sysTemporary = 4 }

    /// What is offered, the best one first.
    private let mechanisms: [Mechanism]

    init(mechanisms: [Mechanism]) { self.mechanisms = mechanisms }

    // MARK: Out

    /// Appends the protocol header and the frame `sasl-mechanisms`.
    func writeGreeting(to output: Output) {
        // One array of symbols, even of a single one.
        var symbols: [UInt8] = []
        for mechanism in mechanisms {
            symbols.append(UInt8(mechanism.rawValue.utf8.count))
            symbols += mechanism.rawValue.utf8
        }
        let array = [0xE0, UInt8(symbols.count + 2), UInt8(mechanisms.count), 0xA3] + symbols
        Self.append([0x41, 0x4D, 0x51, 0x50, 3, 1, 0, 0], to: output)
        Self.append(Self.frame(0x40, [array]), to: output)
    }

    /// Appends the frame `sasl-challenge`.
    func writeChallenge(_ challenge: [UInt8], to output: Output) {
        Self.append(Self.frame(0x42, [Self.binary(challenge)]), to: output)
    }

    /// Appends the frame `sasl-outcome`.
    /// - Parameter data: what the mechanism has to say at the end.
    func writeOutcome(_ code: Code, _ data: [UInt8] = [], to output: Output) {
        let code = [0x50, code.rawValue]
        Self.append(Self.frame(0x44, data.isEmpty ? [code] : [code, Self.binary(data)]), to: output)
    }

    private static func binary(_ bytes: [UInt8]) -> [UInt8] {
        (bytes.count < 256 ? [0xA0, UInt8(bytes.count)] : [0xB0] + four(bytes.count)) + bytes
    }

    private static func four(_ count: Int) -> [UInt8] {
        withUnsafeBytes(of: UInt32(clamping: count).bigEndian) { Array($0) }
    }

    /// A SASL frame with a list.
    private static func frame(_ descriptor: UInt8, _ fields: [[UInt8]]) -> [UInt8] {
        let count = fields.reduce(0) { $0 + $1.count }
        var body: [UInt8] = [0x00, 0x53, descriptor]
        if count < 255 {
            body += [0xC0, UInt8(count + 1), UInt8(fields.count)]
        } else {
            body += [0xD0] + four(count + 4) + four(fields.count)
        }
        for field in fields { body += field }
        return four(body.count + 8) + [2, 1, 0, 0] + body
    }

    private static func append(_ bytes: [UInt8], to output: Output) {
        bytes.withUnsafeBytes { bytes in
            if let start = bytes.baseAddress { output.append(start, bytes.count) }
        }
    }

    // MARK: In

    /// Reads `sasl-init`.
    /// - Throws: unauthorized-access when the mechanism is not offered or its answer is none, to be told by an outcome;
    ///   another error when the frame is not a `sasl-init`. No text says anything of what the client sent as a secret.
    func take(_ frame: Frame) throws(AMQPError) -> Initial {
        var fields = try Self.fields(frame, 0x41, "amqp:sasl-init:list", "sasl-init")
        guard let name = try fields.symbol() else { throw AMQPError(.decodeError, "sasl-init names no mechanism") }
        let response = try fields.binary()
        let hostname = try fields.string()
        try fields.end()
        guard let mechanism = mechanisms.first(where: { name.elementsEqual($0.rawValue.utf8) }) else {
            throw AMQPError(.unauthorizedAccess, "the mechanism is not offered")
        }
        var initial = Initial(mechanism: mechanism)
        if let hostname {
            guard let text = String(validating: hostname, as: UTF8.self) else {
                throw AMQPError(.decodeError, "the hostname of sasl-init is not UTF-8")
            }
            initial.hostname = text
        }
        switch mechanism {
        // A trace may come with it, which tells nobody anything.
        case .anonymous: break
        case .plain: try Self.readPlain(response, into: &initial)
        case .external:
            guard let response, !response.isEmpty else { break }
            initial.authorizationID = try Self.text(response)
        case .scramSHA256, .oauthBearer:
            initial.message = try response.map { bytes throws(AMQPError) in try Self.message(bytes) }
        }
        return initial
    }

    /// Reads `sasl-response`.
    /// - Throws: as ``take(_:)``.
    func takeResponse(_ frame: Frame) throws(AMQPError) -> [UInt8] {
        var fields = try Self.fields(frame, 0x43, "amqp:sasl-response:list", "sasl-response")
        guard let response = try fields.binary() else {
            throw AMQPError(.decodeError, "sasl-response has no response")
        }
        try fields.end()
        return try Self.message(response)
    }

    private static func message(_ bytes: UnsafeRawBufferPointer) throws(AMQPError) -> [UInt8] {
        guard bytes.count <= maxMessageBytes else {
            throw AMQPError(.unauthorizedAccess, "a message has at most \(maxMessageBytes) bytes")
        }
        return Array(bytes)
    }

    /// authzid NUL authcid NUL passwd, the first of which may be empty (RFC 4616 §2).
    private static func readPlain(_ response: UnsafeRawBufferPointer?, into initial: inout Initial) throws(AMQPError) {
        guard let response else { throw AMQPError(.unauthorizedAccess, "PLAIN needs an initial response") }
        guard let first = response.firstIndex(of: 0), let second = response[(first + 1)...].firstIndex(of: 0),
            response[(second + 1)...].firstIndex(of: 0) == nil
        else { throw malformedPlain }
        let user = response[(first + 1)..<second]
        let password = response[(second + 1)...]
        guard !user.isEmpty, !password.isEmpty else { throw malformedPlain }
        if first > 0 { initial.authorizationID = try text(UnsafeRawBufferPointer(rebasing: response[..<first])) }
        initial.user = try text(UnsafeRawBufferPointer(rebasing: user))
        // Only to see that it is text: what it is made of is compared as bytes.
        _ = try text(UnsafeRawBufferPointer(rebasing: password))
        initial.password = [UInt8](password)
    }

    private static var malformedPlain: AMQPError {
        AMQPError(.unauthorizedAccess, "the response is not one of PLAIN")
    }

    private static func text(_ bytes: UnsafeRawBufferPointer) throws(AMQPError) -> String {
        guard !bytes.contains(0), let text = String(validating: bytes, as: UTF8.self) else {
            throw AMQPError(.unauthorizedAccess, "the response is not UTF-8")
        }
        return text
    }

    // MARK: The frame

    /// The fields of a frame (§5.3.3), which is all that the body may hold.
    private static func fields(
        _ frame: Frame, _ code: UInt8, _ symbol: StaticString, _ name: StaticString
    ) throws(AMQPError) -> Fields {
        guard frame.type == 1 else { throw AMQPError(.notAllowed, "a SASL frame is expected") }
        var body = Fields(rest: frame.body[...], count: 0)
        guard try body.byte() == 0x00 else { throw AMQPError(.decodeError, "a SASL frame without a descriptor") }
        let isMeant =
            switch try body.byte() {
            case 0x53: try body.byte() == code
            case 0x80: try body.bytes(8).elementsEqual([0, 0, 0, 0, 0, 0, 0, code])
            case 0xA3: try body.bytes(Int(body.byte())).elementsEqual(symbol.description.utf8)
            case 0xB3: try body.bytes(body.length()).elementsEqual(symbol.description.utf8)
            default: false
            }
        guard isMeant else { throw AMQPError(.notAllowed, "\(name) is expected") }
        let size: Int
        switch try body.byte() {
        case 0x45: size = 0
        case 0xC0:
            size = Int(try body.byte()) - 1
            body.count = Int(try body.byte())
        case 0xD0:
            size = try body.length() - 4
            body.count = try body.length()
        default: throw AMQPError(.decodeError, "\(name) is not a list")
        }
        guard size == body.rest.count else { throw AMQPError(.decodeError, "\(name) has a wrong size") }
        return body
    }

    /// Fields that are read one after another.
    private struct Fields {
        var rest: Slice<UnsafeRawBufferPointer>
        /// Fields that are to come.
        var count: Int

        private static var isCutOff: AMQPError { AMQPError(.decodeError, "a SASL frame is cut off") }

        mutating func byte() throws(AMQPError) -> UInt8 {
            guard let byte = rest.popFirst() else { throw Self.isCutOff }
            return byte
        }

        mutating func bytes(_ count: Int) throws(AMQPError) -> UnsafeRawBufferPointer {
            guard count <= rest.count else { throw Self.isCutOff }
            defer { rest = rest.dropFirst(count) }
            return UnsafeRawBufferPointer(rebasing: rest.prefix(count))
        }

        /// A length or count of four bytes.
        mutating func length() throws(AMQPError) -> Int { try bytes(4).reduce(0) { $0 << 8 | Int($1) } }

        mutating func symbol() throws(AMQPError) -> UnsafeRawBufferPointer? { try value(0xA3, 0xB3) }
        mutating func binary() throws(AMQPError) -> UnsafeRawBufferPointer? { try value(0xA0, 0xB0) }
        mutating func string() throws(AMQPError) -> UnsafeRawBufferPointer? { try value(0xA1, 0xB1) }

        /// The next field, of one of two constructors: with a length of one byte, or of four. nil when it is null or
        /// left out.
        private mutating func value(_ short: UInt8, _ long: UInt8) throws(AMQPError) -> UnsafeRawBufferPointer? {
            guard count > 0 else { return nil }
            count -= 1
            switch try byte() {
            case 0x40: return nil
            case short: return try bytes(Int(byte()))
            case long: return try bytes(length())
            default: throw AMQPError(.decodeError, "a field of a SASL frame has a wrong type")
            }
        }

        /// Nothing is left.
        func end() throws(AMQPError) {
            guard count == 0, rest.isEmpty else { throw AMQPError(.decodeError, "a SASL frame has too many fields") }
        }
    }
}
