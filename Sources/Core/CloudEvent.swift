/// CloudEvents 1.0 as properties of an event: attributes are user properties of the same names, which is how MQTT 5
/// carries them (MQTT binding §3.1.3), and `datacontenttype` is the content type. So every protocol's binary mode
/// becomes every other's.

/// What makes properties those of a CloudEvent.
public enum CloudEvent {
    /// Whether a name may be that of an attribute: lower-case letters and digits (CloudEvents §3.1). `data` is not one,
    /// and the content type is elsewhere.
    public static func isAttribute(_ name: UnsafeRawBufferPointer) -> Bool {
        guard !name.isEmpty, !equal(name, "data"), !equal(name, "datacontenttype") else { return false }
        return name.allSatisfy { $0 &- UInt8(ascii: "a") < 26 || $0 &- UInt8(ascii: "0") < 10 }
    }

    /// Whether properties are those of a CloudEvent: version 1.0, and what every event must have. The first of each
    /// name counts.
    public static func isOne(_ properties: UnsafeRawBufferPointer) -> Bool {
        var required = Required()
        for property in EventProperties(properties) where property.identifier == .userProperty {
            required.note(property.bytes, property.value)
        }
        return required.isComplete
    }

    /// The attributes that every CloudEvent has (CloudEvents §3.2.1): nil until one was there, then whether its value
    /// will do. The first of each name counts.
    public struct Required {
        /// `specversion` is 1.0.
        public private(set) var version: Bool?
        /// `id` is not empty.
        public private(set) var id: Bool?
        /// `source` is not empty.
        public private(set) var source: Bool?
        /// `type` is not empty.
        public private(set) var type: Bool?

        /// None was there yet.
        public init() {}

        /// Whether they make an event.
        public var isComplete: Bool { version == true && id == true && source == true && type == true }

        /// Looks at a user property, whatever its name.
        public mutating func note(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
            switch name.count {
            case 2 where id == nil && equal(name, "id"): id = !value.isEmpty
            case 4 where type == nil && equal(name, "type"): type = !value.isEmpty
            case 6 where source == nil && equal(name, "source"): source = !value.isEmpty
            case 11 where version == nil && equal(name, "specversion"): version = equal(value, "1.0")
            default: break
            }
        }
    }

    private static func equal(_ bytes: UnsafeRawBufferPointer, _ word: StaticString) -> Bool {
        bytes.elementsEqual(UnsafeRawBufferPointer(start: word.utf8Start, count: word.utf8CodeUnitCount))
    }
}
