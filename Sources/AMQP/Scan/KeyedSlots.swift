import Core

/// Values under numbers that a peer chooses, in memory for as many as there are: a row to search while they are few,
/// with an index when they are many. The place of a value changes when others are removed.
struct KeyedSlots<Value> {
    private(set) var keys: [UInt32] = []
    var values: [Value] = []
    private var index: [UInt32: Int] = [:]

    /// More than these are looked up in the index.
    private static var few: Int { 8 }

    var count: Int { keys.count }

    @inline(__always)
    func has(_ key: UInt32, at place: Int) -> Bool { place < keys.count && keys[place] == key }

    func place(of key: UInt32) -> Int? { keys.count <= Self.few ? keys.firstIndex(of: key) : index[key] }

    /// - Parameter key: one that is not there.
    mutating func add(_ key: UInt32, _ value: Value) {
        keys.append(key)
        values.append(value)
        if keys.count == Self.few + 1 {
            for (place, key) in keys.enumerated() { index[key] = place }
        } else if keys.count > Self.few {
            index[key] = keys.count - 1
        }
    }

    mutating func remove(at place: Int) {
        let last = keys.count - 1
        if keys.count > Self.few + 1 {
            index[keys[place]] = nil
            if place != last { index[keys[last]] = place }
        } else {
            index = [:]
        }
        keys.swapAt(place, last)
        values.swapAt(place, last)
        keys.removeLast()
        values.removeLast()
    }
}
