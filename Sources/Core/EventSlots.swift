/// The owned events of the retained store by number: 8 bytes each, in blocks that are never copied.

/// Numbered places for events. Numbers of removed events are used again. Number 0 means none.
///
/// SAFETY of the references: a place that is in use owns one reference to its event, taken in `store` and given back
/// in `take` or at the end.
struct EventSlots: ~Copyable {
    /// A place in use holds the address of the event's storage, which is even; a free one the number of the next free
    /// one, shifted left, with the lowest bit set.
    private var places = Arena<UInt>()
    private var firstFree: UInt32 = 0

    /// Events stored.
    private(set) var count = 0
    /// The highest number that was ever given out.
    var highest: UInt32 { places.highest }

    deinit {
        var number: UInt32 = 1
        while number <= places.highest {
            Self.storage(places[number])?.release()
            number += 1
        }
    }

    /// The event of a number; nil when it is free.
    @inline(__always)
    subscript(number: UInt32) -> Event? {
        Self.storage(places[number]).map { Event(storage: $0.takeUnretainedValue()) }
    }

    /// When the event of a number in use expires; 0 for never.
    @inline(__always)
    func expiresAt(_ number: UInt32) -> UInt64 {
        Self.storage(places[number])?.takeUnretainedValue().header.expiresAt ?? 0
    }

    /// Keeps an event.
    /// - Returns: its number.
    mutating func store(_ event: Event) -> UInt32 {
        let place = Self.place(event)
        count += 1
        guard firstFree != 0 else { return places.allocate(place) }
        let number = firstFree
        firstFree = UInt32(truncatingIfNeeded: places[number] >> 1)
        places[number] = place
        return number
    }

    /// Puts another event in the place of one that is stored, and returns that.
    mutating func replace(_ number: UInt32, by event: Event) -> Event? {
        let old = Self.storage(places[number]).map { Event(storage: $0.takeRetainedValue()) }
        places[number] = Self.place(event)
        return old
    }

    /// Removes the event of a number in use.
    mutating func take(_ number: UInt32) -> Event? {
        let old = Self.storage(places[number]).map { Event(storage: $0.takeRetainedValue()) }
        places[number] = UInt(firstFree) << 1 | 1
        firstFree = number
        count -= 1
        return old
    }

    private static func place(_ event: Event) -> UInt {
        UInt(bitPattern: Unmanaged.passRetained(event.storage).toOpaque())
    }

    @inline(__always)
    private static func storage(_ place: UInt) -> Unmanaged<EventStorage>? {
        guard place & 1 == 0, let address = UnsafeRawPointer(bitPattern: place) else { return nil }
        return Unmanaged.fromOpaque(address)
    }
}
