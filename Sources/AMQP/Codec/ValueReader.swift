import Core

/// What is wrong with encoded values (§1.6).
enum ValueError: Error {
    case endsEarly
    case unknownType
    case wrongType
    case wrongSize
    case tooManyFields
    case oddMap
    case tooDeep
    case tooMany
    case notUTF8
    case notASCII
    case notBoolean
    case notCharacter
    case wrongKey
    case noSection
    case unknownSection
    case wrongOrder
    case mixedBody
    case tooLong

    /// For the person who looks for the cause.
    var text: String {
        switch self {
        case .endsEarly: "the bytes end within a value"
        case .unknownType: "there is no type with this constructor"
        case .wrongType: "the value has another type than the field"
        case .wrongSize: "the size of a list, map or array is not that of its values"
        case .tooManyFields: "there are more values than fields"
        case .oddMap: "a map has an odd number of keys and values"
        case .tooDeep: "values are nested too deeply"
        case .tooMany: "there are too many values"
        case .notUTF8: "a string is not UTF-8"
        case .notASCII: "a symbol is not ASCII"
        case .notBoolean: "a boolean is neither 0 nor 1"
        case .notCharacter: "a char is no Unicode character"
        case .wrongKey: "a key has another type than the map's keys"
        case .noSection: "a described value is expected"
        case .unknownSection: "there is no section with this descriptor"
        case .wrongOrder: "it is there twice, or behind a later section"
        case .mixedBody: "the body is of one kind"
        case .tooLong: "what is not payload is longer than \(MessageSections.maxHeadBytes) bytes"
        }
    }
}

/// A cursor over encoded values (§1.2). Every length is checked before it is believed; nothing is copied.
struct ValueReader {
    /// The next byte.
    private(set) var cursor: UnsafeRawPointer
    /// The end of the bytes.
    let end: UnsafeRawPointer

    /// `bytes` must stay valid meanwhile.
    @inline(__always)
    init(_ bytes: UnsafeRawBufferPointer) {
        // An empty buffer may have no address; no byte of it is read.
        cursor = bytes.baseAddress ?? UnsafeRawPointer(bitPattern: 16).unsafelyUnwrapped
        end = cursor + bytes.count
    }

    @inline(__always)
    init(_ start: UnsafeRawPointer, end: UnsafeRawPointer) {
        cursor = start
        self.end = end
    }

    /// Whether everything has been read.
    @inline(__always) var isAtEnd: Bool { cursor >= end }

    /// A value; nothing is known of what is in it but its size.
    @inline(__always)
    mutating func next() throws(ValueError) -> Value {
        guard cursor < end else { throw .endsEarly }
        let constructor = cursor.load(as: UInt8.self)
        guard constructor >= 0x40 else { return try described(constructor) }
        cursor += 1
        return try content(of: constructor)
    }

    /// What comes behind a constructor; of an array's element too, which has none of its own.
    @inline(__always)
    mutating func content(of constructor: UInt8) throws(ValueError) -> Value {
        guard ValueType.isKnown(constructor) else { throw .unknownType }
        let left = end - cursor
        let width: Int
        switch constructor >> 4 {
        case 0x4: width = 0
        case 0x5: width = 1
        case 0x6: width = 2
        case 0x7: width = 4
        case 0x8: width = 8
        case 0x9: width = 16
        case 0xA, 0xC, 0xE:
            guard left >= 1 else { throw .endsEarly }
            width = Int(cursor.load(as: UInt8.self))
            cursor += 1
        default:
            guard left >= 4 else { throw .endsEarly }
            width = Int(UInt32(bigEndian: cursor.loadUnaligned(as: UInt32.self)))
            cursor += 4
        }
        guard end - cursor >= width else { throw .endsEarly }
        defer { cursor += width }
        return Value(constructor: constructor, start: cursor, count: width)
    }

    /// A descriptor and the value behind it, or several of them: one value, whose bytes begin with the descriptor.
    @inline(never)
    private mutating func described(_ constructor: UInt8) throws(ValueError) -> Value {
        guard constructor == 0 else { throw .unknownType }
        let start = cursor + 1
        while cursor < end, cursor.load(as: UInt8.self) == 0 {
            cursor += 1
            _ = try descriptor()
        }
        guard cursor < end else { throw .endsEarly }
        cursor += 1
        _ = try content(of: (cursor - 1).load(as: UInt8.self))
        return Value(constructor: 0, start: start, count: cursor - start)
    }

    /// The descriptor behind a 0: a number or a symbol (§1.5).
    mutating func descriptor() throws(ValueError) -> Value {
        guard cursor < end else { throw .endsEarly }
        cursor += 1
        let value = try content(of: (cursor - 1).load(as: UInt8.self))
        guard value.type == .ulong || value.type == .symbol else { throw .wrongType }
        return value
    }

    /// A value with all that is in it checked.
    /// - Parameter budget: values that may still be read; an attacker cannot claim more of them than bytes were sent.
    @inline(__always)
    mutating func nextChecked(_ budget: inout Int) throws(ValueError) -> Value {
        let value = try next()
        budget &-= 1
        guard budget >= 0 else { throw .tooMany }
        try value.check(&budget)
        return value
    }

    /// Moves on without reading.
    mutating func skip(_ count: Int) throws(ValueError) {
        guard count >= 0, end - cursor >= count else { throw .endsEarly }
        cursor += count
    }
}

/// The type of a value (§1.6), whichever of its encodings it has.
enum ValueType: UInt8 {
    case null, boolean, ubyte, ushort, uint, ulong, byte, short, int, long, float, double, decimal, char, timestamp,
        uuid
    case binary, string, symbol, list, map, array, described

    /// Whether a constructor is one of those of §1.6.
    @inline(__always)
    static func isKnown(_ constructor: UInt8) -> Bool {
        // A bit for each lower half of the constructor.
        let known: UInt16 =
            switch constructor >> 4 {
            case 0x4: 0x003F
            case 0x5: 0x007F
            case 0x6: 0x0003
            case 0x7, 0x8: 0x001F
            case 0x9: 0x0110
            case 0xA, 0xB: 0x000B
            case 0xC, 0xD: 0x0003
            case 0xE, 0xF: 0x0001
            default: 0
            }
        return known >> UInt16(constructor & 0x0F) & 1 == 1
    }

    /// Several types.
    struct Set {
        let bits: UInt32

        /// Not of any number, so that it is a constant.
        @inline(__always)
        init(
            _ a: ValueType, _ b: ValueType? = nil, _ c: ValueType? = nil, _ d: ValueType? = nil, _ e: ValueType? = nil
        ) {
            bits = Self.bit(a) | Self.bit(b) | Self.bit(c) | Self.bit(d) | Self.bit(e)
        }

        @inline(__always)
        private static func bit(_ type: ValueType?) -> UInt32 { type.map { 1 << UInt32($0.rawValue) } ?? 0 }

        @inline(__always)
        func contains(_ type: ValueType) -> Bool { bits >> UInt32(type.rawValue) & 1 == 1 }
    }
}

/// A value where it stands.
struct Value {
    /// The first byte of its encoding; 0 for a described one.
    let constructor: UInt8
    /// What comes behind the constructor and, where the type has one, the size. Of a list, map or array the count and
    /// all that follows; of a described value the descriptor and all that follows.
    let start: UnsafeRawPointer
    let count: Int

    /// The same as a buffer.
    @inline(__always) var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: start, count: count) }
    /// The byte behind the value.
    @inline(__always) var end: UnsafeRawPointer { start + count }

    /// The type.
    var type: ValueType {
        switch constructor {
        case 0x40: .null
        case 0x41, 0x42, 0x56: .boolean
        case 0x50: .ubyte
        case 0x60: .ushort
        case 0x70, 0x52, 0x43: .uint
        case 0x80, 0x53, 0x44: .ulong
        case 0x51: .byte
        case 0x61: .short
        case 0x71, 0x54: .int
        case 0x81, 0x55: .long
        case 0x72: .float
        case 0x82: .double
        case 0x74, 0x84, 0x94: .decimal
        case 0x73: .char
        case 0x83: .timestamp
        case 0x98: .uuid
        case 0xA0, 0xB0: .binary
        case 0xA1, 0xB1: .string
        case 0xA3, 0xB3: .symbol
        case 0x45, 0xC0, 0xD0: .list
        case 0xC1, 0xD1: .map
        case 0xE0, 0xF0: .array
        default: .described
        }
    }

    /// Whether it is a boolean that is true.
    var isTrue: Bool { constructor == 0x41 || constructor == 0x56 && count == 1 && bytes[0] == 1 }

    /// The number of an unsigned type; nil for anything else.
    var unsigned: UInt64? {
        switch constructor {
        case 0x43, 0x44: 0
        case 0x50, 0x52, 0x53: UInt64(bytes[0])
        case 0x60: UInt64(UInt16(bigEndian: start.loadUnaligned(as: UInt16.self)))
        case 0x70: UInt64(UInt32(bigEndian: start.loadUnaligned(as: UInt32.self)))
        case 0x80: UInt64(bigEndian: start.loadUnaligned(as: UInt64.self))
        default: nil
        }
    }

    /// The number of a signed type, or of a timestamp the milliseconds since 1970; nil for anything else.
    var signed: Int64? {
        switch constructor {
        case 0x51, 0x54, 0x55: Int64(Int8(bitPattern: bytes[0]))
        case 0x61: Int64(Int16(bigEndian: start.loadUnaligned(as: Int16.self)))
        case 0x71: Int64(Int32(bigEndian: start.loadUnaligned(as: Int32.self)))
        case 0x81, 0x83: Int64(bigEndian: start.loadUnaligned(as: Int64.self))
        default: nil
        }
    }

    /// How many values a list or map has, and a reader of them.
    @inline(__always)
    func members() throws(ValueError) -> (count: Int, reader: ValueReader) {
        let width = constructor >> 4 == 0xC || constructor >> 4 == 0xE ? 1 : 4
        if constructor == 0x45 { return (0, ValueReader(start, end: end)) }
        guard count >= width else { throw .endsEarly }
        let members =
            width == 1
            ? Int(start.load(as: UInt8.self)) : Int(UInt32(bigEndian: start.loadUnaligned(as: UInt32.self)))
        return (members, ValueReader(start + width, end: end))
    }

    /// Checks what is in the value.
    @inline(__always)
    func check(_ budget: inout Int) throws(ValueError) {
        switch constructor {
        case 0xA1, 0xB1: guard Self.isUTF8(bytes) else { throw .notUTF8 }
        case 0xA3, 0xB3: guard Self.isASCII(bytes) else { throw .notASCII }
        case 0x56: guard bytes[0] <= 1 else { throw .notBoolean }
        case 0x73:
            let code = UInt32(bigEndian: start.loadUnaligned(as: UInt32.self))
            guard Unicode.Scalar(code) != nil else { throw .notCharacter }
        case 0, 0xC0...: try ValueWalk.check(self, &budget)
        default: break
        }
    }

    /// Whether all bytes are below 128.
    @inline(__always)
    static func isASCII(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let base = bytes.baseAddress else { return true }
        var (offset, seen) = (0, UInt64(0))
        while offset &+ 8 <= bytes.count {
            seen |= base.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
            offset &+= 8
        }
        while offset < bytes.count {
            seen |= UInt64(base.load(fromByteOffset: offset, as: UInt8.self))
            offset &+= 1
        }
        return seen & 0x8080_8080_8080_8080 == 0
    }

    /// Whether the bytes are UTF-8; most texts are ASCII, which is seen eight bytes at a time.
    @inline(__always)
    static func isUTF8(_ bytes: UnsafeRawBufferPointer) -> Bool { isASCII(bytes) || Topic.isUTF8(bytes) }
}

/// A walk over all values within a value, without recursion.
enum ValueWalk {
    /// Lists, maps, arrays and descriptors within each other, at most.
    static let maxDepth = 16

    /// A list, map, array or described value that is being read.
    private struct Level {
        var end: UnsafeRawPointer
        /// Values still to come.
        var left: Int
        /// The constructor of all elements of an array; 0 where each value has its own.
        var element: UInt8 = 0
        /// Whether the values must end where this level ends; not that behind a descriptor.
        var hasSize = true
    }

    /// Checks everything within a list, map, array or described value.
    @inline(never)
    static func check(_ value: Value, _ budget: inout Int) throws(ValueError) {
        var levels = InlineArray<16, Level>(repeating: Level(end: value.end, left: 0))
        var depth = 0
        var reader = ValueReader(value.start, end: value.end)
        try enter(value, &reader, &levels, &depth, &budget)
        while depth > 0 {
            let top = depth - 1
            guard levels[top].left > 0 else {
                guard !levels[top].hasSize || reader.cursor == levels[top].end else { throw .wrongSize }
                depth -= 1
                // Behind an inner value the outer one goes on, up to its own end.
                if depth > 0 { reader = ValueReader(reader.cursor, end: levels[depth - 1].end) }
                continue
            }
            levels[top].left -= 1
            budget &-= 1
            guard budget >= 0 else { throw .tooMany }
            let element = levels[top].element
            let inner = element == 0 ? try reader.next() : try reader.content(of: element)
            if inner.constructor == 0 || inner.constructor >= 0xC0 {
                reader = ValueReader(inner.start, end: inner.end)
                try enter(inner, &reader, &levels, &depth, &budget)
            } else {
                try inner.check(&budget)
            }
        }
    }

    /// Begins with the first value in a list, map, array or described value; `reader` is at its start.
    private static func enter(
        _ value: Value, _ reader: inout ValueReader, _ levels: inout InlineArray<16, Level>, _ depth: inout Int,
        _ budget: inout Int
    ) throws(ValueError) {
        guard depth < maxDepth else { throw .tooDeep }
        var level = Level(end: value.end, left: 1)
        if value.constructor == 0 {
            try reader.descriptor().check(&budget)
            level.hasSize = false
        } else {
            let (count, members) = try value.members()
            reader = members
            level.left = count
            if value.type == .map, count & 1 == 1 { throw .oddMap }
            if value.type == .array { try readElement(&reader, &level, &budget) }
        }
        levels[depth] = level
        depth += 1
    }

    /// The constructor in front of an array's elements (§1.6.24), which may have a descriptor.
    private static func readElement(
        _ reader: inout ValueReader, _ level: inout Level, _ budget: inout Int
    ) throws(ValueError) {
        guard !reader.isAtEnd else { throw .endsEarly }
        var constructor = reader.cursor.load(as: UInt8.self)
        try reader.skip(1)
        if constructor == 0 {
            try reader.descriptor().check(&budget)
            guard !reader.isAtEnd else { throw .endsEarly }
            constructor = reader.cursor.load(as: UInt8.self)
            try reader.skip(1)
        }
        guard ValueType.isKnown(constructor) else { throw .unknownType }
        let width =
            switch constructor >> 4 {
            case 0x4: 0
            case 0x5, 0xA, 0xC, 0xE: 1
            case 0x6: 2
            case 0x8: 8
            case 0x9: 16
            default: 4
            }
        level.element = constructor
        guard width == 0 else {
            guard level.left <= (reader.end - reader.cursor) / width else { throw .endsEarly }
            return
        }
        // Elements of no width: nothing bounds their number but the budget, and there is nothing to be read.
        budget &-= level.left
        guard budget >= 0 else { throw .tooMany }
        level.left = 0
    }
}
