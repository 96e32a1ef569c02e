import AMQP
import Core
import Glibc
import Logging
import MQTT
import Web
import Webhooks

/// The one list of adapters. A new protocol is a folder, a target and a line here.
enum Adapters {
    /// The adapter of each protocol that a listener may name.
    static func all(
        routers: [String: Router], authenticator: any Authenticator, webhooks: WebhookManager,
        _ configuration: Configuration
    ) -> [ListenerSettings.ProtocolName: any Adapter] {
        let random: @Sendable () -> UInt64 = { UInt64.random(in: .min ... .max) }
        let mqtt = MQTTAdapter(
            routers: routers, authenticator: authenticator, random: random, trace: trace(configuration.mqtt))
        let amqp = AMQPAdapter(
            routers: routers, authenticator: authenticator, settings: configuration.amqp,
            nodeName: configuration.name, version: Node.version, random: random, wallClock: { milliseconds() })
        let site = WebSite(
            configuration.http, routers: routers, authenticator: authenticator, nodeName: configuration.name,
            version: Node.version, instance: webhooks.service.instanceID,
            adapters: ["mqtt": mqtt, "mqttv3.1": mqtt, "amqp": amqp, "AMQPWSB10": amqp], webhooks: webhooks,
            limits: configuration.limits,
            random: random,
            wallClock: { milliseconds() })
        return [.mqtt: mqtt, .amqp: amqp, .http: HTTPAdapter(site: site, wallClock: { Int(milliseconds() / 1_000) })]
    }

    /// Milliseconds since 1970.
    private static func milliseconds() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(time.tv_sec) * 1_000 + UInt64(time.tv_nsec) / 1_000_000
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
