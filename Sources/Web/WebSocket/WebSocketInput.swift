/// The bytes of a WebSocket connection that its inside has not taken yet.
import Core

/// Payload without its mask, in one piece: in the lane's memory during a read, and in memory of its own, released as
/// soon as it is empty, between reads. Confined to its lane.
///
/// What the inside has published refers to these bytes until its turn has been routed: until then nothing in front of
/// ``end`` is moved or overwritten.
struct WebSocketInput: ~Copyable {
    /// Where the bytes lie now.
    private(set) var memory: UnsafeMutableRawPointer
    private var capacity: Int
    /// The first byte that has not been taken, and the place behind the last.
    var start = 0
    private(set) var end = 0
    /// Memory of its own.
    private var own: UnsafeMutableRawPointer?
    private var ownCapacity = 0
    private var isShared = false

    init() {
        memory = UnsafeMutableRawPointer(bitPattern: 16).unsafelyUnwrapped
        capacity = 0
    }

    deinit { own?.deallocate() }

    /// Bytes that have not been taken.
    var count: Int { end &- start }

    /// What has not been taken.
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: memory + start, count: end &- start) }

    /// Whether memory of its own is in use.
    var hasOwnMemory: Bool { own != nil }

    /// A call begins; nothing refers to these bytes.
    /// - Parameter isHere: whether the lane's memory still has them.
    @inline(__always)
    mutating func begin(_ shared: UnsafeMutableRawPointer) {
        if isShared {
            if start == end { (start, end) = (0, 0) }
            return
        }
        guard count <= WebSocketLane.maxKept else { return }
        if count > 0 { shared.copyMemory(from: memory + start, byteCount: count) }
        (start, end) = (0, count)
        (memory, capacity) = (shared, WebSocketLane.capacity)
        isShared = true
    }

    /// Room behind the last byte.
    var room: Int { capacity &- end }

    /// The place behind the last byte.
    var place: UnsafeMutableRawPointer { memory + end }

    /// `count` bytes have been written behind the last one.
    mutating func grow(by count: Int) { end &+= count }

    /// Makes room when there is none; nothing refers to these bytes.
    mutating func makeRoom() {
        if start > 0, count <= capacity / 2 {
            memory.copyMemory(from: memory + start, byteCount: count)
            (start, end) = (0, count)
        } else {
            // Doubled, so that a packet of n bytes is copied log n times; never more than twice what has come.
            keep(capacity: max(count * 2, WebSocketLane.capacity))
        }
    }

    /// The call ends and another connection may use the lane's memory: bytes that were not taken go to memory of their
    /// own. They are copied, so what refers to them in the lane's memory still may.
    mutating func leave() {
        guard isShared else { return }
        if start < end { return keep(capacity: max(count, 256)) }
        release()
    }

    /// Puts the bytes in memory of their own, as large as given at least.
    private mutating func keep(capacity wanted: Int) {
        let count = self.count
        if isShared, let own, ownCapacity >= wanted {
            own.copyMemory(from: memory + start, byteCount: count)
            (memory, capacity) = (own, ownCapacity)
        } else {
            let larger = UnsafeMutableRawPointer.allocate(byteCount: wanted, alignment: 16)
            larger.copyMemory(from: memory + start, byteCount: count)
            own?.deallocate()
            (own, ownCapacity) = (larger, wanted)
            (memory, capacity) = (larger, wanted)
        }
        isShared = false
        (start, end) = (0, count)
    }

    /// Nothing refers to these bytes: own memory becomes no larger than what is left needs.
    mutating func compact() {
        guard !isShared, start > 0 else { return }
        if start == end { return release() }
        // While a small part has been taken the rest stays where it is.
        if count <= capacity / 2 { keep(capacity: max(count, 256)) }
    }

    /// Forgets everything.
    mutating func release() {
        own?.deallocate()
        (own, ownCapacity) = (nil, 0)
        (start, end, capacity) = (0, 0, 0)
        isShared = false
    }
}
