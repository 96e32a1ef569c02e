import Core
import MQTT

/// The one list of adapters. A new protocol is a folder, a target and a line here.
enum Adapters {
    /// The adapter of each protocol that a listener may name.
    static func all(
        routers: [String: Router], authenticator: any Authenticator
    ) -> [ListenerSettings.ProtocolName: any Adapter] {
        let random: @Sendable () -> UInt64 = { UInt64.random(in: .min ... .max) }
        return [
            .mqtt: MQTTAdapter(routers: routers, authenticator: authenticator, random: random)
        ]
    }
}
