import Core

/// What the parts of the mesh ask of the node they belong to: ``MeshNode``, or what tests have in its place.
///
/// Every part (link state, interest, streams, retained events, sessions) is a state machine without socket, clock or
/// thread: it is told what happened, and acts by calling these. Nothing here calls back into the part before it
/// returns.
protocol ControlPlane: AnyObject {
    /// Monotonic milliseconds.
    var now: UInt64 { get }
    /// Milliseconds since 1970, for what other nodes compare.
    func wallClock() -> UInt64
    /// Unpredictable bits; seeded in the simulation.
    func random() -> UInt64
    /// The nodes there are.
    var nodes: NodeTable { get }
    /// Links whose control connection is established, in the order of their numbers; not all of them carry events yet.
    var establishedLinks: [LinkNumber] { get }
    /// Who is at the other end of an established link.
    func peer(of link: LinkNumber) -> NodeIndex
    /// Appends a complete frame to a link's control connection. A link that has gone takes nothing.
    func send(_ frame: [UInt8], on link: LinkNumber)
    /// Sends a complete frame to any node, link by link: on control connections, or in class `bulk` on data
    /// connections for what may wait. It may get lost; frames of one kind to one node keep their order while routes
    /// stay as they are.
    /// - Returns: false when there is no route, or too much waits already.
    @discardableResult
    func route(_ frame: [UInt8], to node: NodeIndex, isBulk: Bool) -> Bool
    /// Sends a complete frame to the neighbour at the other end of a link, over that link's data connection and no
    /// other way, in class `bulk`. It may get lost.
    /// - Returns: false when it cannot be sent now.
    func sendBulk(_ frame: [UInt8], on link: LinkNumber) -> Bool
    /// What may cross a link; nil for everything.
    func gate(on link: LinkNumber) -> LinkGate?
    /// Whether there is a route to a node now.
    func isReachable(_ node: NodeIndex) -> Bool
    /// Asks for the part's `tick` at a time, or before.
    func wake(at time: UInt64)
    /// What this node tells others of weights in shared groups is this from now on, in the order of the keys.
    func tellWeights(_ weights: [GroupWeight])
    /// A line of the log that an operator should see.
    func log(_ level: MeshLogLevel, _ message: String)
}

/// How important a line of the log is.
public enum MeshLogLevel: Int, Sendable {
    /// What one wants to see who looks for a mistake.
    case debug
    /// What happens in the ordinary course.
    case info
    /// What happens seldom and changes something.
    case notice
    /// Something is not as it should be; the mesh goes on.
    case warning
    /// Somebody has to do something about it.
    case error
}

extension ControlPlane {
    func sendBulk(_ frame: [UInt8], on link: LinkNumber) -> Bool { route(frame, to: peer(of: link), isBulk: true) }
    func gate(on link: LinkNumber) -> LinkGate? { nil }
    func tellWeights(_ weights: [GroupWeight]) {}
}
