/// A client id as the mesh counts it: 128 bits that every node computes alike. Two ids with one hash only share an
/// entry at their home; sessions are always asked for by the id itself.
struct ClientHash: Hashable, BitwiseCopyable {
    var high: UInt64, low: UInt64

    init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// Two multiplications for each byte, and a last mix of each half.
    init(_ clientID: String, namespace: String) {
        var (high, low): (UInt64, UInt64) = (0x6A09_E667_F3BC_C908, 0xBB67_AE85_84CA_A73B)
        func add(_ byte: UInt8) {
            high = (high ^ UInt64(byte)) &* 0x9E37_79B9_7F4A_7C15
            high ^= high >> 29
            low = (low &+ UInt64(byte) &+ 1) &* 0xD6E8_FEB8_6659_FD93
            low ^= low >> 32
        }
        for byte in namespace.utf8 { add(byte) }
        add(0)
        for byte in clientID.utf8 { add(byte) }
        self.init(high: Self.mix(high), low: Self.mix(low ^ high))
    }

    static func mix(_ word: UInt64) -> UInt64 {
        var word = (word ^ word >> 30) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ word >> 27) &* 0x94D0_49BB_1331_11EB
        return word ^ word >> 31
    }

    /// How much a node is this id's home; the node with the most is (rendezvous hashing).
    func weight(_ node: NodeID) -> UInt64 { Self.mix(Self.mix(high ^ node.low) &+ (low ^ node.high)) }
}

/// Something for each of many client ids, in an array beside the index, so that it can be gone through in portions and
/// in an order that does not depend on hashing.
struct ClientTable<Value> {
    private var places: [ClientHash: Int32] = [:]
    private(set) var keys: [ClientHash] = []
    private(set) var values: [Value] = []

    var count: Int { keys.count }

    subscript(_ key: ClientHash) -> Value? { places[key].map { values[Int($0)] } }

    mutating func set(_ key: ClientHash, _ value: Value) {
        if let place = places[key] {
            values[Int(place)] = value
        } else {
            places[key] = Int32(keys.count)
            keys.append(key)
            values.append(value)
        }
    }

    /// Changes a value by its place.
    mutating func set(at place: Int, _ value: Value) { values[place] = value }

    /// Removes an entry; the last one takes its place. Whoever goes through the table from its end misses none.
    mutating func remove(_ key: ClientHash) {
        guard let place = places.removeValue(forKey: key).map({ Int($0) }) else { return }
        let (lastKey, lastValue) = (keys.removeLast(), values.removeLast())
        guard place < keys.count else { return }
        keys[place] = lastKey
        values[place] = lastValue
        places[lastKey] = Int32(place)
    }
}
