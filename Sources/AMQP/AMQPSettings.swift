/// What the configuration says about AMQP, the same for all of its listeners.
public struct AMQPSettings: Sendable, Equatable {
    /// What an address is that says neither `topic://` nor `queue://`.
    public enum Unprefixed: String, Sendable, CaseIterable { case topic, queue }

    /// What an address is that says neither.
    public var unprefixedAddress = Unprefixed.topic
    /// Whether a client that skips SASL is served, as an anonymous one.
    public var allowsNoSASL = true
    /// Whether PLAIN is offered to clients that are not on this machine, where passwords can be read on the way.
    public var allowsRemotePlain = true
    /// Milliseconds after which a silent client is given up; 0 for never.
    public var idleMilliseconds = 60_000

    /// The defaults.
    public init() {}
}
