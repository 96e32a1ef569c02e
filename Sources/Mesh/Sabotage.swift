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
        /// No mistake: the node is of a later version, and says more than this one understands. See ``Later``.
        static let later = Sabotage(rawValue: 1 << 15)
    }

    /// What a later version may say, and what `docs/wire-format.md` lets it: more bytes behind first frames and hellos,
    /// unknown bits, frames of unknown types, unknown extensions.
    enum Later {
        /// Behind what this version knows.
        static let bytes = [UInt8]("what a later version says".utf8)
        /// Types of frames that nobody knows: on control and on data connections, and for nodes further away.
        static let types: [UInt8] = [250, 251, 252]
        /// Its body is too short for any frame with events.
        private static let body: [UInt8] = [1, 2, 3, 4]

        /// An extension that may be ignored, as it is written.
        static let addition: [UInt8] = {
            var writer = WireWriter(.advertisement)
            writer.u16(0x7ABC)
            writer.block(bytes)
            return Array(writer.finish().dropFirst(FrameHeader.size))
        }()

        static func frame(_ type: UInt8, _ frameClass: FrameClass) -> [UInt8] {
            var writer = WireWriter(.hello, frameClass)
            writer.raw(body)
            var frame = writer.finish()
            frame[3] = type
            frame[4] = 0xFF
            return frame
        }

        static func lengthen(_ own: inout Initiation) {
            own.features = .max
            own.rest = bytes
        }

        static func extend(_ advertisement: inout Advertisement) {
            advertisement.head.flags |= 0x7FF0
            advertisement.extensions += addition
        }
    }

    extension MeshNode {
        /// Sends frames of unknown types to a neighbour, and to a node further away if there is one.
        func soundLater(on mesh: MeshLink) {
            send(Later.frame(Later.types[0], .control), on: mesh.number)
            guard mesh.isUp, mesh.data != nil else { return }
            let frameClass = FrameClass.allCases[1 + Int(mesh.helloSequence % 3)]
            Later.frame(Later.types[1], frameClass).withUnsafeBytes { forwarder.append($0, to: mesh, frameClass) }
            let far = Int(mesh.helloSequence) % max(nodes.count, 1)
            if far != NodeTable.own, isReachable(far) {
                route(Later.frame(Later.types[2], .control), to: far, isBulk: mesh.helloSequence % 2 == 0)
            }
        }
    }

    extension ControlPlane {
        /// Mistakes planted in this node.
        var sabotage: Sabotage { (self as? MeshNode)?.host.sabotage ?? [] }
    }
#endif
