/// Where an event has been, and the rules that keep it from going in circles: pure functions.
import Core

/// The brokers and meshes that an event has been at, in order: the user property ``propertyName``, names with a space
/// between them. It is kept with the event on every way through the mesh, and given to brokers of MQTT 5.
struct BridgeTrail: Equatable {
    /// The user property's name.
    static let propertyName: StaticString = "apus-bridge"

    /// What a rule says.
    enum Verdict: Equatable {
        case goes
        /// It has been there.
        case returns
        /// It has been at as many places as it may.
        case tooFar
    }

    /// The places. Names that somebody else wrote are bytes like any others.
    private(set) var places: [[UInt8]] = []

    /// Names of a trail beyond any limit of hops are not looked at.
    private static let maxPlaces = BridgeDefinition.maxHopsAllowed + 2

    /// Nowhere yet.
    init() {}

    /// Where an event with these properties has been.
    init(_ properties: UnsafeRawBufferPointer) {
        guard !properties.isEmpty else { return }
        for property in EventProperties(properties) where property.identifier == .userProperty {
            if Self.isTrail(property.bytes) { add(property.value) }
        }
    }

    /// Whether a user property of this name is the trail.
    static func isTrail(_ name: UnsafeRawBufferPointer) -> Bool { name.elementsEqual(nameBytes) }

    /// The user property's name, as bytes.
    static var nameBytes: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: propertyName.utf8Start, count: propertyName.utf8CodeUnitCount)
    }

    /// Adds what a property says.
    mutating func add(_ value: UnsafeRawBufferPointer) {
        for name in value.split(separator: UInt8(ascii: " ")) where places.count < Self.maxPlaces {
            places.append(Array(name))
        }
    }

    /// Adds a place.
    mutating func add(_ place: [UInt8]) { places.append(place) }

    /// The property's value.
    var value: [UInt8] { Array(places.joined(separator: CollectionOfOne(UInt8(ascii: " ")))) }

    /// Whether an event may go from one place to another.
    func verdict(to place: [UInt8], maxHops: Int) -> Verdict {
        if places.contains(place) { return .returns }
        return places.count >= maxHops ? .tooFar : .goes
    }
}
