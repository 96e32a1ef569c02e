import Core

/// Looks at encoded values (§1.6). All but ``descriptor(_:at:)`` only at what ``ValueWalker`` has walked: nothing is
/// checked again.
enum Encoded {
    /// The number of a descriptor, whether it is a ulong or one of the symbols that the specification has, and where
    /// what it describes begins. nil when it is neither, or goes on behind the end.
    static func descriptor(_ bytes: UnsafeRawBufferPointer, at place: Int) -> (code: UInt64, end: Int)? {
        guard place < bytes.count else { return nil }
        let left = bytes.count - place - 1
        switch bytes[place] {
        case 0x44: return (0, place + 1)
        case 0x53 where left >= 1: return (UInt64(bytes[place + 1]), place + 2)
        case 0x80 where left >= 8:
            return (UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: place + 1, as: UInt64.self)), place + 9)
        case 0xA3 where left >= 1:
            let end = place + 2 + Int(bytes[place + 1])
            guard end <= bytes.count, let code = code(bytes[(place + 2)..<end]) else { return nil }
            return (code, end)
        case 0xB3 where left >= 4:
            let size = Int(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: place + 1, as: UInt32.self)))
            guard size <= left - 4, let code = code(bytes[(place + 5)..<(place + 5 + size)]) else { return nil }
            return (code, place + 5 + size)
        default: return nil
        }
    }

    /// The numbers of symbolic descriptors.
    private static func code(_ symbol: Slice<UnsafeRawBufferPointer>) -> UInt64? {
        names.first { name in
            name.symbol.utf8CodeUnitCount == symbol.count
                && UnsafeRawBufferPointer(start: name.symbol.utf8Start, count: symbol.count).elementsEqual(symbol)
        }?.code
    }

    private static let names: [(symbol: StaticString, code: UInt64)] = [
        ("amqp:open:list", 0x10), ("amqp:begin:list", 0x11), ("amqp:attach:list", 0x12), ("amqp:flow:list", 0x13),
        ("amqp:transfer:list", 0x14), ("amqp:disposition:list", 0x15), ("amqp:detach:list", 0x16),
        ("amqp:end:list", 0x17), ("amqp:close:list", 0x18), ("amqp:error:list", 0x1D),
        ("amqp:received:list", 0x23), ("amqp:accepted:list", 0x24), ("amqp:rejected:list", 0x25),
        ("amqp:released:list", 0x26), ("amqp:modified:list", 0x27), ("amqp:source:list", 0x28),
        ("amqp:target:list", 0x29), ("amqp:coordinator:list", 0x30), ("amqp:declared:list", 0x33),
        ("amqp:transactional-state:list", 0x34), ("amqp:sasl-mechanisms:list", 0x40), ("amqp:sasl-init:list", 0x41),
        ("amqp:sasl-challenge:list", 0x42), ("amqp:sasl-response:list", 0x43), ("amqp:sasl-outcome:list", 0x44),
    ]

    /// Where the contents of a container or of a text begin, and how many values or bytes they are.
    static func contents(_ bytes: UnsafeRawBufferPointer, at place: Int) -> (start: Int, count: Int) {
        switch bytes[place] >> 4 {
        case 0xA: (place + 2, Int(bytes[place + 1]))
        case 0xB: (place + 5, number(bytes, at: place + 1))
        case 0xC, 0xE: (place + 3, Int(bytes[place + 2]))
        case 0xD, 0xF: (place + 9, number(bytes, at: place + 5))
        default: (place + 1, 0)
        }
    }

    /// Where a described value begins, behind its descriptor; the place itself if it has none.
    static func value(_ bytes: UnsafeRawBufferPointer, at place: Int) -> Int {
        bytes[place] == 0 ? plainEnd(bytes, at: place + 1) : place
    }

    /// Where a value ends.
    static func end(_ bytes: UnsafeRawBufferPointer, at place: Int) -> Int {
        plainEnd(bytes, at: value(bytes, at: place))
    }

    private static func plainEnd(_ bytes: UnsafeRawBufferPointer, at place: Int) -> Int {
        switch bytes[place] >> 4 {
        case 0xA, 0xC, 0xE: place + 2 + Int(bytes[place + 1])
        case 0xB, 0xD, 0xF: place + 5 + number(bytes, at: place + 1)
        default: place + 1 + ValueWalker.width(bytes[place])
        }
    }

    static func uint(_ bytes: UnsafeRawBufferPointer, at place: Int) -> UInt32? {
        switch bytes[place] {
        case 0x43: 0
        case 0x52: UInt32(bytes[place + 1])
        case 0x70: UInt32(truncatingIfNeeded: number(bytes, at: place + 1))
        default: nil
        }
    }

    static func boolean(_ bytes: UnsafeRawBufferPointer, at place: Int) -> Bool? {
        switch bytes[place] {
        case 0x41: true
        case 0x42: false
        case 0x56: bytes[place + 1] > 1 ? nil : bytes[place + 1] == 1
        default: nil
        }
    }

    /// An array whose elements are symbols without descriptors, or that has none.
    static func isArrayOfSymbols(_ bytes: UnsafeRawBufferPointer, at place: Int) -> Bool {
        guard bytes[place] == 0xE0 || bytes[place] == 0xF0 else { return false }
        let (start, count) = contents(bytes, at: place)
        return count == 0 || bytes[start] == 0xA3 || bytes[start] == 0xB3
    }

    private static func number(_ bytes: UnsafeRawBufferPointer, at place: Int) -> Int {
        Int(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: place, as: UInt32.self)))
    }
}
