import Core

/// The user properties of an event, and how a map can hold them, in which a name is there once. Reused; confined to the
/// lane.
struct UserProperties {
    private struct Entry {
        var name: UnsafeRawBufferPointer
        var value: UnsafeRawBufferPointer
        /// Whether it goes into the map: of each name the last, but of an attribute of a CloudEvent the first.
        var isInMap = true
        var isAttribute = false
    }

    private var entries: [Entry] = []
    private var names = NameTable()
    /// The value of the first property `partitionkey`, which is the message's group.
    private(set) var partitionKey: UnsafeRawBufferPointer?
    /// Whether a reader of the map could not tell all properties in their order.
    private(set) var needsList = false

    /// Forgets everything: what it has is borrowed.
    mutating func removeAll() {
        if entries.capacity > 1_024 { entries = [] } else { entries.removeAll(keepingCapacity: true) }
        partitionKey = nil
        needsList = false
    }

    /// Finds the user properties among others.
    mutating func collect(_ properties: UnsafeRawBufferPointer) {
        removeAll()
        for property in EventProperties(properties) where property.identifier == .userProperty {
            entries.append(Entry(name: property.bytes, value: property.value))
        }
        guard !entries.isEmpty else { return }
        names.begin(entries.count)
        for index in entries.indices {
            let name = entries[index].name
            let former = names.exchange(name, index) { entries[$0].name.isEqual(name) }
            if let former {
                entries[former].isInMap = false
                needsList = true
            }
            if CloudEventNames.hasPrefix(name) { needsList = true }
        }
        markAttributes()
        placePartitionKey()
    }

    /// The first property of each name that is an attribute, if they make a CloudEvent.
    private mutating func markAttributes() {
        var (version, id, source, type): (Int?, Int?, Int?, Int?)
        for (index, entry) in entries.enumerated() {
            switch entry.name.count {
            case 11 where version == nil && entry.name.isEqual("specversion"): version = index
            case 2 where id == nil && entry.name.isEqual("id"): id = index
            case 6 where source == nil && entry.name.isEqual("source"): source = index
            case 4 where type == nil && entry.name.isEqual("type"): type = index
            default: break
            }
        }
        guard let version, let id, let source, let type, entries[version].value.isEqual("1.0") else { return }
        guard [id, source, type].allSatisfy({ !entries[$0].value.isEmpty }) else { return }
        names.begin(entries.count)
        for index in entries.indices where CloudEvent.isAttribute(entries[index].name) {
            let name = entries[index].name
            guard names.find(name, { entries[$0].name.isEqual(name) }) == nil else { continue }
            _ = names.exchange(name, index) { _ in false }
            entries[index].isAttribute = true
            entries[index].isInMap = true
        }
    }

    /// The partition key is the message's group. Read back, it comes first: elsewhere it takes the list to tell where.
    private mutating func placePartitionKey() {
        let name = EventProperties.partitionKeyName
        guard let index = entries.firstIndex(where: { $0.name.isEqual(name) }) else { return }
        partitionKey = entries[index].value
        guard !entries[index].isAttribute else { return }
        entries[index].isInMap = false
        if index > 0 { needsList = true }
    }

    /// The application properties (§3.2.5), unless there would be none.
    func writeMap(to writer: ValueWriter) {
        let count = entries.count { $0.isInMap }
        guard count > 0 else { return }
        writer.descriptor(.applicationProperties)
        let start = writer.begin()
        for entry in entries where entry.isInMap {
            if entry.isAttribute {
                let prefix = CloudEventNames.prefix.bytes
                writer.variableSize(0xA1, prefix.count + entry.name.count)
                writer.raw(prefix)
                writer.raw(entry.name)
            } else {
                writer.string(entry.name)
            }
            writer.string(entry.value)
        }
        writer.end(.map, at: start, count: count * 2)
    }

    /// All names and values in turn, as a list of strings.
    func writeList(to writer: ValueWriter) {
        let start = writer.begin()
        for entry in entries {
            writer.string(entry.name)
            writer.string(entry.value)
        }
        writer.end(.list, at: start, count: entries.count * 2)
    }
}

/// Numbers under names. A publisher chooses the names and how many there are, so the table's places are unpredictable.
private struct NameTable {
    /// Entries up to which looking at each is quicker.
    private static let small = 8
    private let key = UInt64.random(in: 0...UInt64.max)
    private var places: [Int32] = []
    private var used = 0
    private var mask = 0
    private var few: [Int32] = []

    /// Forgets all names; at most `count` will come.
    mutating func begin(_ count: Int) {
        few.removeAll(keepingCapacity: true)
        used = 0
        mask = 0
        guard count > Self.small else { return }
        var size = 32
        while size < count * 2 { size *= 2 }
        mask = size - 1
        places.removeAll(keepingCapacity: size <= 4_096)
        places.append(contentsOf: repeatElement(-1, count: size))
    }

    /// The number under a name.
    func find(_ name: UnsafeRawBufferPointer, _ isSame: (Int) -> Bool) -> Int? {
        guard mask > 0 else { return few.last { isSame(Int($0)) }.map { Int($0) } }
        let number = places[place(of: name, isSame)]
        return number < 0 ? nil : Int(number)
    }

    /// Puts a number under a name.
    /// - Returns: the one that was there.
    mutating func exchange(_ name: UnsafeRawBufferPointer, _ number: Int, _ isSame: (Int) -> Bool) -> Int? {
        guard mask > 0 else {
            defer { few.append(Int32(truncatingIfNeeded: number)) }
            return few.last { isSame(Int($0)) }.map { Int($0) }
        }
        let place = place(of: name, isSame)
        defer { places[place] = Int32(truncatingIfNeeded: number) }
        return places[place] < 0 ? nil : Int(places[place])
    }

    /// Where a name is, or where it goes: there is always a free place.
    private func place(of name: UnsafeRawBufferPointer, _ isSame: (Int) -> Bool) -> Int {
        let start = name.baseAddress ?? UnsafeRawPointer(bitPattern: 16).unsafelyUnwrapped
        var place = Int(truncatingIfNeeded: hashBytes(start, name.count, key: key)) & mask
        while places[place] >= 0, !isSame(Int(places[place])) { place = (place + 1) & mask }
        return place
    }
}
