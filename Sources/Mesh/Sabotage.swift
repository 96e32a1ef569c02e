/// Mistakes for the simulation to find: a test of the tests.

#if DEBUG
    /// Mistakes that can be planted in a node, to see whether the simulation's oracles find them. Debug builds only.
    struct Sabotage: OptionSet, Sendable {
        let rawValue: UInt32

        /// Every node breaks ties between paths in its own way.
        static let tieOfItsOwn = Sabotage(rawValue: 1 << 0)
        /// Advertisements are compared by their sequence alone.
        static let epochIgnored = Sabotage(rawValue: 1 << 1)
        /// A frame keeps its time to live.
        static let timeToLiveKept = Sabotage(rawValue: 1 << 2)
        /// A frame goes to all its destinations on each of its next links.
        static let destinationsNotSplit = Sabotage(rawValue: 1 << 3)
        /// Direct frames that come late or twice are delivered.
        static let lateDelivered = Sabotage(rawValue: 1 << 4)
        /// Events of streams are delivered again when they come again.
        static let streamDoubled = Sabotage(rawValue: 1 << 5)
        /// What was sent of a stream and lost is not sent again.
        static let streamForgotten = Sabotage(rawValue: 1 << 6)
        /// For a new life of a destination a stream goes on with the numbers of the old one.
        static let streamNotRenumbered = Sabotage(rawValue: 1 << 7)
        /// A share of a group goes to the groups of the node like an ordinary event.
        static let sharesForAll = Sabotage(rawValue: 1 << 8)
        /// Interest that differs is not repaired.
        static let interestNotRepaired = Sabotage(rawValue: 1 << 9)
        /// Interest of a node that cannot be reached is forgotten at once.
        static let interestForgotten = Sabotage(rawValue: 1 << 10)
        /// Retained events are not compared with neighbours.
        static let retainedNotCompared = Sabotage(rawValue: 1 << 11)
        /// The process starts with the epoch it had before; planted in the host.
        static let epochKept = Sabotage(rawValue: 1 << 12)
        /// Deletions of retained events are not remembered; planted in the limits.
        static let tombstonesDropped = Sabotage(rawValue: 1 << 13)
        /// One change of interest in four is not told.
        static let deltasLost = Sabotage(rawValue: 1 << 14)
    }

    extension ControlPlane {
        /// Mistakes planted in this node.
        var sabotage: Sabotage { (self as? MeshNode)?.host.sabotage ?? [] }
    }
#endif
