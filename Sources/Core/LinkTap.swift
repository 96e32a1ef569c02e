import Synchronization

/// Watching single connections: who is shown their bytes, and which clients are to be watched.

/// Is shown every byte of one connection: those that the conversation took, and those on their way to the peer, each
/// once and in order. Called on the connection's lane; bytes are valid during the call.
open class LinkTap {
    /// For subclasses.
    public init() {}

    /// The conversation has taken these bytes.
    open func received(_ bytes: UnsafeRawBufferPointer, on lane: Lane) {}

    /// These bytes go to the socket, now or as soon as it takes them.
    open func sent(_ bytes: UnsafeRawBufferPointer, on lane: Lane) {}
}

/// The client ids whose connections are watched, also those to come. Few, because each costs its client time.
public final class TracedClients: Sendable {
    /// Clients at once.
    public static let limit = 100

    private let ids = Mutex<Set<[UInt8]>>([])
    private let count = Atomic<Int>(0)

    /// No clients.
    public init() {}

    /// Whether there are none, which most callers find.
    public var isEmpty: Bool { count.load(ordering: .relaxed) == 0 }

    /// Adds a client id.
    /// - Returns: false when there are as many as there may be.
    public func insert(_ clientID: String) -> Bool {
        ids.withLock { ids in
            let id = Array(clientID.utf8)
            guard ids.count < Self.limit || ids.contains(id) else { return false }
            ids.insert(id)
            count.store(ids.count, ordering: .relaxed)
            return true
        }
    }

    /// Removes a client id.
    public func remove(_ clientID: String) {
        ids.withLock { ids in
            ids.remove(Array(clientID.utf8))
            count.store(ids.count, ordering: .relaxed)
        }
    }

    /// Whether a client id is watched.
    public func contains(_ clientID: String) -> Bool { ids.withLock { $0.contains(Array(clientID.utf8)) } }
}
