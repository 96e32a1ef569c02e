public import Core

/// The entry of AMQP 1.0: makes a conversation for each accepted connection.
public final class AMQPAdapter: Adapter {
    /// `amqp`, as in the configuration.
    public let name = "amqp"

    /// Makes the adapter.
    /// - Parameters:
    ///   - routers: the namespaces by name; `default` must be there.
    ///   - nodeName: the container id that clients see.
    ///   - version: the version that clients see.
    ///   - random: makes dynamic addresses unpredictable.
    public init(
        routers: [String: Router], authenticator: any Authenticator, settings: AMQPSettings, nodeName: String,
        version: String, random: @escaping @Sendable () -> UInt64
    ) {}

    /// A conversation for a new connection.
    public func makeConversation(link: Link, on lane: Lane) -> Conversation { Conversation() }
}
