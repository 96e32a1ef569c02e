/// One login by OAUTHBEARER (RFC 7628): a token in the first message, and for an error a message that the client
/// answers before the login fails.
import Core
import Synchronization

/// Confined to the lane of its connection, but for ``refusal``.
final class BearerExchange: AuthenticationExchange {
    /// The longest message: a token and a header.
    static let maxBytes = Token.maxBytes + 2_048

    private let queue: CheckQueue
    private let who: Credentials
    private var hasBegun = false
    /// What follows after the client has taken note of the error; written by the thread that has found it.
    private let refusal = Refusal()

    private final class Refusal: Sendable {
        let value = Mutex<AuthenticationRefusal?>(nil)
    }

    init(_ queue: CheckQueue, _ who: Credentials) {
        self.queue = queue
        self.who = who
    }

    func respond(
        to message: [UInt8], reply: @escaping @Sendable (AuthenticationStep) -> Void
    ) -> AuthenticationStep? {
        // RFC 7628 §3.2.3: the client's answer to an error is one byte; whatever it is, the login has failed.
        if hasBegun { return .finished(.refused(refusal.value.withLock { $0 } ?? .badCredentials), []) }
        hasBegun = true
        let first: BearerMessage
        do throws(SASLFailure) {
            first = try BearerMessage(parsing: message)
        } catch {
            return Self.step(queue.refuseImpossible("OAUTHBEARER: \(error.reason)", who), "invalid_request", refusal)
        }
        var who = who
        if let name = first.header.authorizationID {
            if let own = who.user, !own.isEmpty, own != name {
                let result = queue.refuseImpossible("OAUTHBEARER: it is about another user than the connection", who)
                return Self.step(result, "invalid_request", refusal)
            }
            who.user = name
        }
        guard !first.token.isEmpty else {
            // RFC 7628 §4.3: a client without a token asks what it would need.
            let answer = LoginAnswer.refused(.badCredentials, "OAUTHBEARER: no token")
            return Self.step(queue.conclude(answer, who), "invalid_token", refusal)
        }
        let refusal = refusal
        let result = queue.check(token: first.token, who) { reply(Self.step($0, "invalid_token", refusal)) }
        return result.map { Self.step($0, "invalid_token", refusal) }
    }

    private static func step(
        _ result: AuthenticationResult, _ status: String, _ memory: Refusal
    ) -> AuthenticationStep {
        switch result {
        case .accepted: return .finished(result, [])
        // Nothing is wrong with the token: it was not looked at.
        case .refused(.busy), .refused(.tooManyFailures): return .finished(result, [])
        case .refused(let refusal):
            memory.value.withLock { $0 = refusal }
            return .challenge(Array("{\"status\":\"\(status)\"}".utf8))
        }
    }
}

/// The client's message: a header, then fields that end with 0x01 each, then another 0x01 (RFC 7628 §3.1).
struct BearerMessage: Equatable {
    let header: SASLHeader
    /// Empty when the client has none.
    let token: [UInt8]

    init(parsing message: [UInt8]) throws(SASLFailure) {
        guard message.count <= BearerExchange.maxBytes else { throw SASLFailure("the message is too long") }
        guard String(validating: message, as: UTF8.self) != nil else { throw SASLFailure("the message is no UTF-8") }
        let (header, rest) = try SASLHeader.take(from: message)
        let fields = rest.split(separator: 1, omittingEmptySubsequences: false)
        // Nothing before the first separator and nothing behind the last two.
        guard fields.count >= 3, fields[0].isEmpty, fields[fields.count - 1].isEmpty,
            fields[fields.count - 2].isEmpty
        else { throw SASLFailure("the message is malformed") }
        var token: [UInt8]?
        for field in fields[1..<(fields.count - 2)] {
            guard let equals = field.firstIndex(of: UInt8(ascii: "=")), equals > field.startIndex else {
                throw SASLFailure("a field is malformed")
            }
            // Host, port and whatever else it says are not needed.
            guard String(decoding: field[..<equals], as: UTF8.self).lowercased() == "auth" else { continue }
            guard token == nil else { throw SASLFailure("there are two tokens") }
            token = try Self.token(field[(equals + 1)...])
        }
        self.header = header
        self.token = token ?? []
    }

    private static func token(_ value: ArraySlice<UInt8>) throws(SASLFailure) -> [UInt8] {
        if value.isEmpty { return [] }
        let scheme = Array("bearer ".utf8)
        guard value.count > scheme.count, zip(value, scheme).allSatisfy({ $0 | 0x20 == $1 }) else {
            throw SASLFailure("the scheme is not Bearer")
        }
        return Array(value.dropFirst(scheme.count).drop { $0 == 0x20 })
    }
}
