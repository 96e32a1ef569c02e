import Core
struct SASLServer {
    struct Initial {
        var mechanism: Mechanism; var user: String?; var password: [UInt8]?; var authorizationID: String?;
        var hostname: String?
    }
    enum Mechanism: String, CaseIterable { case anonymous = "ANONYMOUS", plain = "PLAIN", external = "EXTERNAL" }
    init(mechanisms: [Mechanism]) {}
    func writeGreeting(to output: Output) {}
    func take(_ frame: Frame) throws(AMQPError) -> Initial { Initial(mechanism: .plain) }
    enum Code: UInt8 { case ok = 0, auth = 1, sys = 2, sysPermanent = 3, sysTemporary = 4 }
    func writeOutcome(_ code: Code, to output: Output) {}
}
extension WireLayout { static let amqp = WireLayout(rawValue: 3) }
struct IncomingMessage {
    init(_ bytes: UnsafeRawBufferPointer) throws(AMQPError) {
        head = bytes
        payload = bytes
        var at = 0
        while bytes.count - at > 4 {
            guard bytes[at] == 0, bytes[at + 1] == 0x53 else { break }
            let code = bytes[at + 2]
            let type = bytes[at + 3]
            var size = 0
            var header = 4
            switch type {
            case 0x45, 0x40: size = 0
            case 0xA0, 0xA1, 0xC0, 0xC1: (size, header) = (Int(bytes[at + 4]), 5)
            default:
                (size, header) = (
                    Int(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: at + 4, as: UInt32.self))), 8
                )
            }
            guard size <= bytes.count - at - header else { break }
            if code == 0x75 || code == 0x77 {
                head = UnsafeRawBufferPointer(rebasing: bytes[..<(at + header)])
                payload = UnsafeRawBufferPointer(rebasing: bytes[(at + header)..<(at + header + size)])
                return
            }
            at += header + size
        }
        throw AMQPError(.decodeError, "no message")
    }
    var head: UnsafeRawBufferPointer
    var payload: UnsafeRawBufferPointer
    var isPlain = true
    var to: UnsafeRawBufferPointer?
    var ttlMilliseconds: UInt64?
    var absoluteExpiryTime: UInt64?
    var isRetained = false
    func unpack(into properties: inout EventPropertiesWriter) -> [UInt8] { [] }
}
final class AMQPPacking: EventPacking {
    nonisolated(unsafe) static let unmanaged = Unmanaged<EventPacking>.passUnretained(AMQPPacking.keep)
    nonisolated(unsafe) private static let keep = AMQPPacking()
}
final class OutgoingMessages {
    init(usesTopicPrefix: Bool) {}
    private var scratch = [UInt8]()
    private func wrap(_ p: UnsafeRawBufferPointer) -> MessageParts {
        scratch = [0, 0x53, 0x75, 0xB0] + withUnsafeBytes(of: UInt32(p.count).bigEndian) { Array($0) }
        scratch.reserveCapacity(64)
        return scratch.withUnsafeBytes { MessageParts(first: $0, second: p) }
    }
    func message(_ run: UnsafePointer<EventRun>, _ index: Int, _ options: MessageOptions, on lane: Lane) -> MessageParts
    {
        let v = run.pointee.events[index]
        if run.pointee.packing != nil {
            return MessageParts(
                first: UnsafeRawBufferPointer(
                    start: v.payload - run.pointee.propertiesLength,
                    count: run.pointee.propertiesLength + Int(v.payloadLength)))
        }
        return wrap(UnsafeRawBufferPointer(start: v.payload, count: Int(v.payloadLength)))
    }
    func message(_ event: Event, _ options: MessageOptions, on lane: Lane) -> MessageParts { wrap(event.payload) }
}
struct MessageOptions { var needsTopic = false; var deliveryCount: UInt32 = 0; var isRetained = false }
