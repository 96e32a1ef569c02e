import Core
import Synchronization

/// Offers exchanges that go as a test has written them down.
final class ScriptedAuthenticator: Authenticator {
    /// What is answered to the messages of an exchange, the last of which is new; nil means later, by ``step(_:)``.
    typealias Script = @Sendable (_ messages: [[UInt8]]) -> AuthenticationStep?
    let mechanisms: [SASLMechanism]
    private let script: Script
    private let steps = Mutex<[@Sendable (AuthenticationStep) -> Void]>([])

    init(
        _ mechanisms: [SASLMechanism] = SASLMechanism.allCases,
        _ script: @escaping Script = ScriptedAuthenticator.twoMessages
    ) {
        self.mechanisms = mechanisms
        self.script = script
    }

    /// The user with a colon and a lifetime, then `right`.
    static let twoMessages: Script = { messages in
        guard messages.count > 1 else { return .challenge(Array("prove it".utf8)) }
        guard messages[1].elementsEqual("right".utf8) else {
            return .finished(.refused(.badCredentials), Array("e=wrong".utf8))
        }
        let parts = String(decoding: messages[0], as: UTF8.self).split(separator: ":").map(String.init)
        var identity = Identity(user: parts.first)
        identity.lifetimeMilliseconds = parts.count > 1 ? UInt64(parts[1]) : nil
        return .finished(.accepted(identity), Array("v=proven".utf8))
    }

    /// Answers the oldest message that waits.
    func step(_ step: AuthenticationStep) {
        let reply = steps.withLock { $0.isEmpty ? nil : $0.removeFirst() }
        reply?(step)
    }

    func authenticate(
        _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
    ) -> AuthenticationResult? {
        if let user = credentials.user ?? credentials.provenUser { return .accepted(Identity(user: user)) }
        return .refused(.anonymousNotAllowed)
    }

    func begin(_ mechanism: SASLMechanism, _ credentials: Credentials) -> (any AuthenticationExchange)? {
        mechanisms.contains(mechanism) ? Exchange(self) : nil
    }

    private final class Exchange: AuthenticationExchange {
        private let authenticator: ScriptedAuthenticator
        private var messages: [[UInt8]] = []

        init(_ authenticator: ScriptedAuthenticator) { self.authenticator = authenticator }

        func respond(
            to message: [UInt8], reply: @escaping @Sendable (AuthenticationStep) -> Void
        ) -> AuthenticationStep? {
            messages.append(message)
            if let step = authenticator.script(messages) { return step }
            authenticator.steps.withLock { $0.append(reply) }
            return nil
        }
    }
}
