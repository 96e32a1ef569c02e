/// Bounds of an HTTP listener.
public struct HTTPLimits: Sendable {
    /// Bytes of the request line and all header fields; then 431.
    public var headerBytes = 32 << 10
    /// Bytes of the request target; then 414.
    public var targetBytes = 16 << 10
    /// Bytes of a request's body; then 413.
    public var bodyBytes = 64 << 10
    /// From a connection's beginning, or a request's first byte, to the end of its header; then 408.
    public var headerSeconds = 10
    /// From there to the end of a body, and a second more for each ``bodyBytesPerSecond``; then 408.
    public var bodySeconds = 30
    /// What a slow client must manage at least.
    public var bodyBytesPerSecond = 64 << 10
    /// In which a handler must answer; then the client is told 503, and a later answer is ignored.
    public var handlerSeconds = 30
    /// How long a connection may be silent between requests.
    public var idleSeconds = 60

    /// The defaults.
    public init() {}
}
