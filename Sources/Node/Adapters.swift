import Core
import Logging
import MQTT

/// The one list of adapters. A new protocol is a folder, a target and a line here.
enum Adapters {
    /// The adapter of each protocol that a listener may name.
    static func all(
        routers: [String: Router], authenticator: any Authenticator, mqtt: MQTTSettings
    ) -> [ListenerSettings.ProtocolName: any Adapter] {
        let random: @Sendable () -> UInt64 = { UInt64.random(in: .min ... .max) }
        return [
            .mqtt: MQTTAdapter(
                routers: routers, authenticator: authenticator, random: random, trace: trace(mqtt))
        ]
    }

    /// Traced packets are lines of the log, component `mqtt.trace`.
    private static func trace(_ settings: MQTTSettings) -> TraceSettings {
        let logger = Logger(label: "mqtt.trace")
        var trace = TraceSettings { line in
            var metadata: Logger.Metadata = ["client": "\(line.clientID)"]
            if let direction = line.direction {
                metadata["direction"] = "\(direction.rawValue)"
                metadata["bytes"] = "\(line.bytes)"
            }
            logger.info("\(line.text)", metadata: metadata)
        }
        trace.showsPayload = settings.tracesPayload
        return trace
    }
}
