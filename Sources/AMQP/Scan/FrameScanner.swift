import Core

/// What is at the beginning of some bytes.
enum FrameScan {
    case incomplete
    case frame(Frame)
    /// No frame that can be taken: the connection is to be closed.
    case failure(AMQPError)
}

/// Finds the frame at the beginning of some bytes (§2.3) and checks all that can be known of it alone: its header, the
/// structure of its performative, and the types of the fields that are known. A transfer's payload is not looked at.
/// Stateless; allocates nothing but the text of a failure.
struct FrameScanner {
    /// The largest frame that is taken, header included.
    let maxFrameBytes: Int

    init(maxFrameBytes: Int) { self.maxFrameBytes = maxFrameBytes }

    @inline(__always)
    func scan(_ bytes: UnsafeRawBufferPointer) -> FrameScan {
        guard let base = bytes.baseAddress, bytes.count >= 4 else { return .incomplete }
        let length = Int(UInt32(bigEndian: base.loadUnaligned(as: UInt32.self)))
        guard length >= 8, length <= maxFrameBytes else { return Self.wrongLength(length, most: maxFrameBytes) }
        guard bytes.count >= length else { return .incomplete }
        if let transfer = QuickFrame.transfer(base, length) { return .frame(transfer) }
        return scanOther(UnsafeRawBufferPointer(start: base, count: length))
    }

    /// Any frame, whole.
    @inline(never)
    private func scanOther(_ bytes: UnsafeRawBufferPointer) -> FrameScan {
        if let base = bytes.baseAddress, let disposition = QuickFrame.disposition(base, bytes.count) {
            return .frame(disposition)
        }
        let start = Int(bytes[4]) * 4
        guard start >= 8, start <= bytes.count else {
            return .failure(
                AMQPError(
                    .framingError,
                    "the frame's data offset is \(bytes[4]) words: at least 2, and within its \(bytes.count) bytes"))
        }
        guard bytes[5] <= 1 else {
            return .failure(AMQPError(.framingError, "frame type \(bytes[5]) is neither 0 (AMQP) nor 1 (SASL)"))
        }
        var frame = Frame(
            length: bytes.count, type: bytes[5],
            channel: UInt16(bytes[6]) << 8 | UInt16(bytes[7]), performative: nil,
            body: UnsafeRawBufferPointer(rebasing: bytes[start...]))
        guard !frame.body.isEmpty else { return .frame(frame) }
        do throws(AMQPError) {
            if frame.type == 0 {
                try PerformativeReader.read(&frame)
            } else {
                try PerformativeReader.readSASL(&frame)
            }
        } catch { return .failure(error) }
        return .frame(frame)
    }

    @inline(never)
    private static func wrongLength(_ length: Int, most: Int) -> FrameScan {
        let text =
            length < 8
            ? "the frame says that it has \(length) bytes, which is less than its header"
            : "the frame says that it has \(length) bytes, and \(most) are allowed"
        return .failure(AMQPError(.framingError, text))
    }
}

/// The hot path: transfers and dispositions as clients write them. Whatever is not exactly that is left to the general
/// way, which finds out what is wrong.
enum QuickFrame {
    /// - Parameters:
    ///   - base: where the frame begins.
    ///   - length: its bytes, all there; at least 8.
    /// - Returns: nil when the general way has to look.
    @inline(__always)
    static func transfer(_ base: UnsafeRawPointer, _ length: Int) -> Frame? {
        guard var reader = reader(base, length, descriptor: 0x14), reader.left <= 11 else { return nil }
        var frame = frame(base, length, .transfer, reader)
        return reader.transfer(&frame.fields) ? frame : nil
    }

    @inline(__always)
    static func disposition(_ base: UnsafeRawPointer, _ length: Int) -> Frame? {
        guard var reader = reader(base, length, descriptor: 0x15), reader.left <= 6, reader.end == length else {
            return nil
        }
        var frame = frame(base, length, .disposition, reader)
        return reader.disposition(&frame.fields) ? frame : nil
    }

    @inline(__always)
    private static func frame(
        _ base: UnsafeRawPointer, _ length: Int, _ performative: Frame.Performative, _ reader: FieldReader
    ) -> Frame {
        Frame(
            length: length, type: 0,
            channel: UInt16(bigEndian: base.loadUnaligned(fromByteOffset: 6, as: UInt16.self)),
            performative: performative, body: UnsafeRawBufferPointer(start: base + 8, count: length &- 8),
            performativeLength: reader.end &- 8)
    }

    /// The list's fields: of a frame of AMQP with a data offset of 2 and a small ulong as its descriptor.
    @inline(__always)
    private static func reader(_ base: UnsafeRawPointer, _ length: Int, descriptor: UInt32) -> FieldReader? {
        guard length >= 16, base.load(fromByteOffset: 4, as: UInt8.self) == 2,
            base.load(fromByteOffset: 5, as: UInt8.self) == 0,
            base.loadUnaligned(fromByteOffset: 8, as: UInt32.self) & UInt32(bigEndian: 0xFFFF_FF00)
                == UInt32(bigEndian: 0x0053_0000 | descriptor << 8)
        else { return nil }
        let code = base.load(fromByteOffset: 11, as: UInt8.self)
        if code == 0xC0 {
            let end = 13 + Int(base.load(fromByteOffset: 12, as: UInt8.self))
            guard end <= length, end >= 14 else { return nil }
            return FieldReader(
                base: base, place: 14, end: end, left: Int(base.load(fromByteOffset: 13, as: UInt8.self)))
        }
        guard code == 0xD0, length >= 20 else { return nil }
        let size = Int(UInt32(bigEndian: base.loadUnaligned(fromByteOffset: 12, as: UInt32.self)))
        let count = Int(UInt32(bigEndian: base.loadUnaligned(fromByteOffset: 16, as: UInt32.self)))
        guard size >= 4, size <= length - 16 else { return nil }
        return FieldReader(base: base, place: 20, end: 16 + size, left: count)
    }

    /// Reads fields one by one; what it does not know makes it give up.
    private struct FieldReader {
        let base: UnsafeRawPointer
        var place: Int
        let end: Int
        /// Fields that are still to come.
        var left: Int

        /// All fields of a transfer (§2.7.5). False to give up.
        @inline(__always)
        mutating func transfer(_ fields: inout Frame.Fields) -> Bool {
            guard left >= 1, let handle = uint(), let handle else { return false }
            fields.handle = handle
            fields.said = .handle
            guard let id = uint() else { return false }
            if let id {
                fields.id = id
                fields.said.insert(.id)
            }
            guard tag(&fields.said), uint() != nil, boolean(.settled, &fields.said, there: .settledSaid),
                boolean(.more, &fields.said), nothing(), nothing(), boolean(.resume, &fields.said),
                boolean(.aborted, &fields.said), boolean([], &fields.said)
            else { return false }
            return left == 0 && place == end
        }

        /// All fields of a disposition (§2.7.6) with an outcome that has no fields, or none. False to give up.
        @inline(__always)
        mutating func disposition(_ fields: inout Frame.Fields) -> Bool {
            // The role is mandatory: null is left to the general way.
            guard left >= 2, place < end, base.load(fromByteOffset: place, as: UInt8.self) != 0x40,
                boolean(.receiver, &fields.said), let first = uint(), let first, let last = uint()
            else { return false }
            fields.id = first
            fields.limit = last ?? first
            fields.said.formUnion(last == nil ? .id : [.id, .limit])
            guard boolean(.settled, &fields.said), outcome(&fields.said), boolean([], &fields.said) else {
                return false
            }
            return left == 0 && place == end
        }

        /// Accepted or released without fields, or null.
        @inline(__always)
        private mutating func outcome(_ said: inout Frame.Said) -> Bool {
            guard let code = code() else { return false }
            if code == 0x40 { return true }
            guard code == 0, end &- place >= 3, base.load(fromByteOffset: place, as: UInt8.self) == 0x53 else {
                return false
            }
            let descriptor = base.load(fromByteOffset: place &+ 1, as: UInt8.self)
            guard descriptor == 0x24 || descriptor == 0x26,
                base.load(fromByteOffset: place &+ 2, as: UInt8.self) == 0x45
            else { return false }
            said.insert(.state)
            place &+= 3
            return true
        }

        /// A field's constructor; null when there are no further fields. Nothing to give up.
        @inline(__always)
        private mutating func code() -> UInt8? {
            guard left > 0 else { return 0x40 }
            guard place < end else { return nil }
            left &-= 1
            let code = base.load(fromByteOffset: place, as: UInt8.self)
            place &+= 1
            return code
        }

        /// - Returns: nil to give up; a nil inside for null.
        @inline(__always)
        private mutating func uint() -> UInt32?? {
            guard let code = code() else { return nil }
            switch code {
            case 0x43: return .some(0)
            case 0x52:
                guard place < end else { return nil }
                defer { place &+= 1 }
                return .some(UInt32(base.load(fromByteOffset: place, as: UInt8.self)))
            case 0x70:
                guard end &- place >= 4 else { return nil }
                defer { place &+= 4 }
                return .some(UInt32(bigEndian: base.loadUnaligned(fromByteOffset: place, as: UInt32.self)))
            case 0x40: return .some(nil)
            default: return nil
            }
        }

        @inline(__always)
        private mutating func tag(_ said: inout Frame.Said) -> Bool {
            guard let code = code() else { return false }
            if code == 0x40 { return true }
            guard code == 0xA0, place < end else { return false }
            let size = Int(base.load(fromByteOffset: place, as: UInt8.self))
            guard size <= FrameLimits.tagBytes, size < end &- place else { return false }
            place &+= 1 &+ size
            said.insert(.tag)
            return true
        }

        @inline(__always)
        private mutating func boolean(
            _ flag: Frame.Said, _ said: inout Frame.Said, there: Frame.Said = []
        ) -> Bool {
            guard let code = code() else { return false }
            switch code {
            case 0x40: return true
            case 0x41: said.formUnion(flag.union(there))
            case 0x42: said.formUnion(there)
            default: return false
            }
            return true
        }

        /// A field that is rarely there.
        @inline(__always)
        private mutating func nothing() -> Bool { code() == 0x40 }
    }
}
