import Core

/// Walks encoded values (OASIS AMQP 1.0 part 1) and checks that they are what they claim: every constructor is known,
/// containers hold as many values as they count and end where they say, and nothing is deeper or more than the limits.
/// Iterative; allocates nothing.
struct ValueWalker {
    /// What is wrong, and where.
    struct Problem: Error, Equatable {
        enum Kind: Equatable {
            /// A value goes on behind the end of what holds it.
            case endsEarly
            case unknownConstructor(UInt8)
            /// A container's size is more or less than its values take.
            case sizeMismatch
            /// More values are counted than there is room for.
            case countTooLarge
            case oddMap
            case tooDeep
            case tooManyValues
            case symbolTooLong
            /// A descriptor that is neither a ulong nor a symbol.
            case badDescriptor
            /// A described value describes another.
            case nestedDescriptor
        }
        var kind: Kind
        /// Bytes from the start of what is walked.
        var offset: Int
    }

    /// One container that is being walked.
    private struct Level {
        var end = 0
        /// Values that are still to come.
        var left: UInt32 = 0
        /// The constructor of an array's elements; 0 when each value has its own.
        var element: UInt8 = 0
    }

    let bytes: UnsafeRawBufferPointer
    /// Values that may still come.
    private var budget = FrameLimits.values
    private var depth = 0
    private var levels = InlineArray<16, Level>(repeating: Level())

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    /// Walks the value at an offset, with all that is in it.
    /// - Returns: where it ends.
    mutating func walk(at start: Int) throws(Problem) -> Int {
        depth = 0
        var offset = start
        try value(at: &offset, end: bytes.count, element: 0)
        while depth > 0 {
            let top = depth - 1
            let level = levels[top]
            guard level.left > 0 else {
                guard offset == level.end else { throw Problem(kind: .sizeMismatch, offset: offset) }
                depth = top
                continue
            }
            levels[top].left = level.left - 1
            try value(at: &offset, end: level.end, element: level.element)
        }
        return offset
    }

    /// One value: its constructor (unless an array has said it for all) and, if it is no container, its bytes. A
    /// container is opened.
    private mutating func value(at offset: inout Int, end: Int, element: UInt8) throws(Problem) {
        guard budget > 0 else { throw Problem(kind: .tooManyValues, offset: offset) }
        budget -= 1
        let code = element != 0 ? element : try constructor(at: &offset, end: end)
        let isWide = code & 0x10 != 0
        switch code >> 4 {
        case 4, 5, 6, 7, 8, 9:
            let width = Self.width(code)
            guard end - offset >= width else { throw Problem(kind: .endsEarly, offset: offset) }
            offset += width
        case 0xA, 0xB:
            let size = try number(at: &offset, end: end, isWide: isWide)
            guard size <= end - offset else { throw Problem(kind: .endsEarly, offset: offset) }
            if code & 0x0F == 3, size > FrameLimits.symbolBytes {
                throw Problem(kind: .symbolTooLong, offset: offset)
            }
            offset += size
        default:
            try open(code, at: &offset, end: end)
        }
    }

    /// The size and count of a container, and the constructor of an array's elements.
    private mutating func open(_ code: UInt8, at offset: inout Int, end: Int) throws(Problem) {
        let isWide = code & 0x10 != 0
        let size = try number(at: &offset, end: end, isWide: isWide)
        guard size <= end - offset else { throw Problem(kind: .endsEarly, offset: offset) }
        guard depth < FrameLimits.depth else { throw Problem(kind: .tooDeep, offset: offset) }
        var level = Level(end: offset + size)
        let count = try number(at: &offset, end: level.end, isWide: isWide)
        guard count <= budget else { throw Problem(kind: .tooManyValues, offset: offset) }
        var width = 1
        if code & 0xE0 == 0xE0 {
            level.element = try constructor(at: &offset, end: level.end)
            // Elements without bytes are bounded by the number of values alone.
            width = Self.width(level.element)
        }
        guard count * width <= level.end - offset else { throw Problem(kind: .countTooLarge, offset: offset) }
        if code & 0xEF == 0xC1, count % 2 != 0 { throw Problem(kind: .oddMap, offset: offset) }
        level.left = UInt32(truncatingIfNeeded: count)
        levels[depth] = level
        depth += 1
    }

    /// A constructor, behind the descriptor if there is one.
    private mutating func constructor(at offset: inout Int, end: Int) throws(Problem) -> UInt8 {
        var code = try byte(at: &offset, end: end)
        if code == 0 {
            try descriptor(at: &offset, end: end)
            code = try byte(at: &offset, end: end)
            guard code != 0 else { throw Problem(kind: .nestedDescriptor, offset: offset - 1) }
        }
        guard Self.isKnown(code) else { throw Problem(kind: .unknownConstructor(code), offset: offset - 1) }
        return code
    }

    private mutating func descriptor(at offset: inout Int, end: Int) throws(Problem) {
        guard budget > 0 else { throw Problem(kind: .tooManyValues, offset: offset) }
        budget -= 1
        let code = try byte(at: &offset, end: end)
        let size: Int
        switch code {
        case 0x44, 0x53, 0x80: size = Self.width(code)
        case 0xA3, 0xB3:
            size = try number(at: &offset, end: end, isWide: code == 0xB3)
            if size > FrameLimits.symbolBytes { throw Problem(kind: .symbolTooLong, offset: offset) }
        default: throw Problem(kind: .badDescriptor, offset: offset - 1)
        }
        guard size <= end - offset else { throw Problem(kind: .endsEarly, offset: offset) }
        offset += size
    }

    private func byte(at offset: inout Int, end: Int) throws(Problem) -> UInt8 {
        guard offset < end else { throw Problem(kind: .endsEarly, offset: offset) }
        defer { offset += 1 }
        return bytes[offset]
    }

    /// A size or count: a byte, or four.
    private func number(at offset: inout Int, end: Int, isWide: Bool) throws(Problem) -> Int {
        guard end - offset >= (isWide ? 4 : 1) else { throw Problem(kind: .endsEarly, offset: offset) }
        defer { offset += isWide ? 4 : 1 }
        return isWide
            ? Int(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
            : Int(bytes[offset])
    }

    // MARK: Constructors (§1.6)

    /// Bytes of a value of a fixed width; of others the least that they take.
    @inline(__always) static func width(_ code: UInt8) -> Int {
        switch code >> 4 {
        case 4: 0
        case 5: 1
        case 6: 2
        case 7: 4
        case 8: 8
        case 9: 16
        case 0xA: 1
        case 0xB: 4
        case 0xC: 2
        case 0xD: 8
        case 0xE: 3
        default: 9
        }
    }

    /// Whether the specification has a type for a constructor.
    static func isKnown(_ code: UInt8) -> Bool {
        // A bit for each low half.
        let codes: UInt16 =
            switch code >> 4 {
            case 4: 0b0011_1111
            case 5: 0b0111_1111
            case 6: 0b0000_0011
            case 7: 0b0001_1111
            case 8: 0b0001_1111
            case 9: 0b1_0001_0000
            case 0xA, 0xB: 0b0000_1011
            case 0xC, 0xD: 0b0000_0011
            case 0xE, 0xF: 0b0000_0001
            default: 0
            }
        return codes >> UInt16(code & 0x0F) & 1 != 0
    }

    /// What a constructor makes, for messages.
    static func name(_ code: UInt8) -> String {
        switch code {
        case 0x00: "a described value"
        case 0x40: "null"
        case 0x41, 0x42, 0x56: "a boolean"
        case 0x43, 0x52, 0x70: "a uint"
        case 0x44, 0x53, 0x80: "a ulong"
        case 0x45, 0xC0, 0xD0: "a list"
        case 0x50: "a ubyte"
        case 0x51: "a byte"
        case 0x54, 0x71: "an int"
        case 0x55, 0x81: "a long"
        case 0x60: "a ushort"
        case 0x61: "a short"
        case 0x72, 0x82: "a float"
        case 0x73: "a char"
        case 0x83: "a timestamp"
        case 0x98: "a uuid"
        case 0x74, 0x84, 0x94: "a decimal"
        case 0xA0, 0xB0: "a binary"
        case 0xA1, 0xB1: "a string"
        case 0xA3, 0xB3: "a symbol"
        case 0xC1, 0xD1: "a map"
        case 0xE0, 0xF0: "an array"
        default: "an unknown type"
        }
    }
}
