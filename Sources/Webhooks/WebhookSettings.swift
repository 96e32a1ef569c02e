/// What a node's webhooks have in common.
public import Logging

/// Handed in when the service is made.
public struct WebhookSettings: Sendable {
    /// The node's id while it runs, letters and digits: in every request's `Apus-Webhook`, so that a node which
    /// receives its own id knows that an event has come round.
    public var instanceID: String
    /// The program's version, for `User-Agent`.
    public var version: String
    /// The proxy that requests go through, in libcurl's notation; nil for none, whatever the environment says.
    public var proxy: String?
    /// Where circuits that open and close are noted.
    public var logger: Logger
    /// Chance, for the waits between attempts. Called on lanes.
    public var random: @Sendable () -> UInt64

    /// Makes settings.
    public init(instanceID: String, version: String, logger: Logger, random: @escaping @Sendable () -> UInt64) {
        self.instanceID = instanceID
        self.version = version
        self.logger = logger
        self.random = random
    }
}
