/// The words of subscribing: where events go, and with which options.

/// Where a port lives: its lane, its place there, and which tenant of the place is meant. A stale address is harmless:
/// the generation no longer fits.
public struct PortAddress: Sendable, Hashable, BitwiseCopyable {
    /// The lane's number in the upper byte, the place in the lower three.
    public var place: UInt32
    /// Counts the tenants of the place.
    public var generation: UInt32

    /// Makes an address; lanes number at most 256, places of a lane 16 million.
    @inlinable
    public init(lane: Int, slot: Int, generation: UInt32) {
        place = UInt32(truncatingIfNeeded: lane) << 24 | UInt32(truncatingIfNeeded: slot) & 0xFF_FFFF
        self.generation = generation
    }

    @inlinable
    init(packed: UInt64) {
        place = UInt32(truncatingIfNeeded: packed >> 32)
        generation = UInt32(truncatingIfNeeded: packed)
    }

    /// The address of nobody: no port has generation 0.
    public static let none = PortAddress(lane: 0, slot: 0, generation: 0)

    /// The lane's number.
    @inlinable public var lane: Int { Int(place >> 24) }
    /// The place on the lane.
    @inlinable public var slot: Int { Int(place & 0xFF_FFFF) }
    /// One word that sorts by lane, then place.
    @inlinable var packed: UInt64 { UInt64(place) << 32 | UInt64(generation) }
}

/// How a subscription wants its events. The lower two bits are the highest quality of service.
public struct DeliveryOptions: OptionSet, Sendable, Hashable, BitwiseCopyable {
    /// The bits.
    public let rawValue: UInt8
    /// Makes options from bits.
    @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// Not to the publisher itself.
    public static let noLocal = DeliveryOptions(rawValue: 4)
    /// Keep the retain flag of live events as published.
    public static let retainAsPublished = DeliveryOptions(rawValue: 8)

    /// Some of what the filter matches may not be read: each topic is looked at when it is matched. Set by the router
    /// alone, and never part of a ``Target``.
    static let filtered = DeliveryOptions(rawValue: 16)
    /// A member of a shared group on another node, where nobody is there to take events now.
    public static let absentMember = DeliveryOptions(rawValue: 32)
    /// What every other node asks for.
    static let remote = DeliveryOptions.qos(2).union(.retainAsPublished)
    /// To the mesh's port only: to all nodes, whoever subscribes, because all keep the topic's last value.
    public static let everywhere = DeliveryOptions(rawValue: 64)
    /// To the mesh's port only: whether other nodes want it is not known yet, see ``Router/meshTakesAll``.
    public static let unmatched = DeliveryOptions(rawValue: 128)

    /// Options with a highest quality of service of 0, 1 or 2.
    @inlinable public static func qos(_ level: UInt8) -> DeliveryOptions { DeliveryOptions(rawValue: level & 3) }
    /// The highest quality of service.
    @inlinable public var qos: UInt8 { rawValue & 3 }
}

/// One port that an event goes to. 16 bytes.
public struct Target: Sendable, BitwiseCopyable {
    /// Where the port lives.
    public var address: PortAddress
    /// The strongest of what its matching subscriptions ask for.
    public var options: DeliveryOptions
    /// How many subscription identifiers follow from ``identifierStart``.
    public var identifierCount: UInt16 = 0
    /// First of its identifiers in the match's list.
    public var identifierStart: UInt32 = 0

    /// Makes a target.
    @inlinable
    public init(address: PortAddress, options: DeliveryOptions) {
        self.address = address
        self.options = options
    }
}

/// A subscription as a port asks for it.
public struct Subscription: Sendable {
    /// What is subscribed to.
    public var filter: TopicFilter
    /// How events are to be delivered.
    public var options: DeliveryOptions
    /// The subscriber's own number for it (MQTT 5 §3.8.2.1.2); 0 for none.
    public var identifier: UInt32
    /// What a member of a shared group has said of how much it is to have (``MemberWeight``); nil for nothing.
    public var weight: UInt16?

    /// Makes a subscription.
    public init(filter: TopicFilter, options: DeliveryOptions, identifier: UInt32 = 0, weight: UInt16? = nil) {
        self.filter = filter
        self.options = options
        self.identifier = identifier
        self.weight = weight
    }
}
