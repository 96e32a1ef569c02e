/// Properties of events that are still as an adapter received them. They are taken out for a port of another protocol
/// only, once for all such ports; those of the same protocol pass them on as they are.

/// How an adapter packs properties; there is one for each adapter, and it lives as long as the process.
open class EventPacking {
    /// For subclasses.
    public init() {}

    /// Reads what stands at the properties of a packed run, which are the same for all of its events.
    open func unpack(_ run: UnsafePointer<EventRun>, into properties: inout EventPropertiesWriter) {}
}

/// The run that a lane has unpacked last. Confined to the lane.
final class UnpackedRun {
    private let run = UnsafeMutablePointer<EventRun>.allocate(capacity: 1)
    private var serial: UInt64 = 0
    private var bytes = UnsafeMutableRawPointer.allocate(byteCount: 1_024, alignment: 16)
    private var capacity = 1_024

    deinit {
        run.deallocate()
        bytes.deallocate()
    }

    /// - Parameter serial: the lane's number for the delivery in progress.
    func unpacked(
        _ packed: UnsafePointer<EventRun>, _ packing: Unmanaged<EventPacking>, serial: UInt64
    ) -> UnsafePointer<EventRun> {
        if self.serial != serial {
            self.serial = serial
            unpack(packed, packing)
        }
        return UnsafePointer(run)
    }

    private func unpack(_ packed: UnsafePointer<EventRun>, _ packing: Unmanaged<EventPacking>) {
        var writer = EventPropertiesWriter()
        packing._withUnsafeGuaranteedRef { $0.unpack(packed, into: &writer) }
        let (properties, extensionLength) = writer.finish()
        if properties.count > capacity {
            bytes.deallocate()
            capacity = properties.count * 2
            bytes = .allocate(byteCount: capacity, alignment: 16)
        }
        properties.withUnsafeBytes {
            if let base = $0.baseAddress { bytes.copyMemory(from: base, byteCount: $0.count) }
        }
        run.initialize(to: packed.pointee)
        run.pointee.packing = nil
        run.pointee.layout = .none
        run.pointee.properties = UnsafeRawPointer(bytes)
        run.pointee.propertiesLength = properties.count
        run.pointee.extensionLength = extensionLength
    }
}
