public import Core

/// The entry of the mesh: neighbours come in here.
public final class MeshAdapter: Adapter {
    /// `mesh`, as in the configuration.
    public static let name = "mesh"
    /// What its connections count for.
    public let name: String = MeshAdapter.name
    /// All of the mesh lives on one lane.
    public let homeLane: Int? = 0
    /// They do.
    public let isMesh = true

    /// Makes the adapter; the lane must have its ``MeshNode`` before the first connection.
    public init() {}

    /// A conversation for a new connection.
    public func makeConversation(link: Link, on lane: Lane) -> Conversation {
        MeshNode.of(lane)?.accepted(link, on: lane) ?? RefusingConversation(link)
    }
}

/// What a connection meets when there is no mesh on its lane: the end.
private final class RefusingConversation: Conversation {
    init(_ link: Link) {
        super.init()
        link.close(.shutdown)
    }
}
