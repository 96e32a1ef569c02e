/// Writes values into memory of its own, which is kept for the next message. Confined to its lane.
final class ValueWriter {
    private var memory: UnsafeMutableRawPointer
    private var capacity: Int
    /// Bytes written.
    private(set) var count = 0

    /// Memory beyond this is given back with the next ``removeAll()``.
    private static let kept = 1 << 18

    init(capacity: Int = 512) {
        self.capacity = capacity
        memory = .allocate(byteCount: capacity, alignment: 16)
    }

    deinit { memory.deallocate() }

    /// What has been written; valid until the next write.
    @inline(__always)
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: memory, count: count) }

    /// Forgets what has been written.
    @inline(__always)
    func removeAll() {
        count = 0
        if capacity > Self.kept { grow(to: 512) }
    }

    /// Forgets what has been written from an offset on.
    func remove(from offset: Int) { count = min(count, offset) }

    @inline(__always)
    private func room(_ more: Int) -> UnsafeMutableRawPointer {
        if capacity - count < more { grow(to: (count + more) * 2) }
        return memory + count
    }

    @inline(never)
    private func grow(to size: Int) {
        let larger = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 16)
        larger.copyMemory(from: memory, byteCount: count)
        memory.deallocate()
        memory = larger
        capacity = size
    }

    // MARK: Values

    /// Bytes as they are.
    @inline(__always)
    func raw(_ bytes: UnsafeRawBufferPointer) {
        guard let base = bytes.baseAddress else { return }
        room(bytes.count).copyMemory(from: base, byteCount: bytes.count)
        count += bytes.count
    }

    @inline(__always)
    func byte(_ value: UInt8) {
        room(1).storeBytes(of: value, as: UInt8.self)
        count += 1
    }

    @inline(__always)
    private func integer<Number: FixedWidthInteger & BitwiseCopyable>(_ value: Number) {
        room(MemoryLayout<Number>.size).storeBytes(of: value.bigEndian, as: Number.self)
        count += MemoryLayout<Number>.size
    }

    func null() { byte(0x40) }

    func boolean(_ value: Bool) { byte(value ? 0x41 : 0x42) }

    func ubyte(_ value: UInt8) {
        byte(0x50)
        byte(value)
    }

    func uint(_ value: UInt32) {
        if value == 0 {
            byte(0x43)
        } else if value < 256 {
            byte(0x52)
            byte(UInt8(value))
        } else {
            byte(0x70)
            integer(value)
        }
    }

    func string(_ text: UnsafeRawBufferPointer) { variable(0xA1, text) }

    func symbol(_ text: UnsafeRawBufferPointer) { variable(0xA3, text) }

    func symbol(_ text: StaticString) {
        variable(0xA3, UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    func binary(_ bytes: UnsafeRawBufferPointer) { variable(0xA0, bytes) }

    /// A constructor of one byte of size, or with four where that is not enough.
    @inline(__always)
    private func variable(_ constructor: UInt8, _ value: UnsafeRawBufferPointer) {
        variableSize(constructor, value.count)
        raw(value)
    }

    /// What stands in front of a binary, string or symbol.
    @inline(__always)
    func variableSize(_ constructor: UInt8, _ size: Int) {
        if size < 256 {
            byte(constructor)
            byte(UInt8(size))
        } else {
            byte(constructor + 0x10)
            integer(UInt32(clamping: size))
        }
    }

    /// The size of a value whose constructor has been written.
    func size(_ size: Int, of constructor: UInt8) {
        switch constructor >> 4 {
        case 0xA: byte(UInt8(truncatingIfNeeded: size))
        case 0xB: integer(UInt32(truncatingIfNeeded: size))
        default: break
        }
    }

    // MARK: Sections, lists and maps

    /// The descriptor of a section.
    func descriptor(_ section: MessageSections.Section) {
        byte(0)
        byte(0x53)
        byte(section.rawValue)
    }

    /// Room for the constructor, size and count of a list or map, which is closed with ``end(_:at:count:)``.
    func begin() -> Int {
        _ = room(9)
        defer { count += 9 }
        return count
    }

    enum Compound: UInt8 { case list = 0xC0, map = 0xC1 }

    /// Closes a list or map of `members` values, in the shorter encoding if it fits.
    func end(_ kind: Compound, at start: Int, count members: Int) {
        let place = memory + start
        let size = count - start - 9
        if size + 1 < 256, members < 256 {
            (place + 3).copyMemory(from: place + 9, byteCount: size)
            place.storeBytes(of: kind.rawValue, as: UInt8.self)
            (place + 1).storeBytes(of: UInt8(size + 1), as: UInt8.self)
            (place + 2).storeBytes(of: UInt8(members), as: UInt8.self)
            count -= 6
        } else {
            place.storeBytes(of: kind.rawValue + 0x10, as: UInt8.self)
            (place + 1).storeBytes(of: UInt32(clamping: size + 4).bigEndian, as: UInt32.self)
            (place + 5).storeBytes(of: UInt32(clamping: members).bigEndian, as: UInt32.self)
        }
    }
}
