import TLS
import TestTLS

/// A session of ours.
final class OurEnd: Wired {
    let session: TLSSession
    private(set) var received: [UInt8] = []
    private var said: [UInt8] = []
    private static let room = 1 << 17

    init(_ door: TLSDoor, serverName: String? = nil) throws {
        session = try TLSSession(door, serverName: serverName)
        run { session.start(&$0) }
    }

    private func run(_ body: (inout TLSOutput) -> Void) {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: Self.room, alignment: 16)
        defer { memory.deallocate() }
        var output = TLSOutput(base: memory, capacity: Self.room)
        body(&output)
        said += UnsafeRawBufferPointer(start: memory, count: output.count)
        said += session.kept
        session.dropKept(session.keptCount)
    }

    func send(_ bytes: [UInt8]) -> Int {
        var taken = 0
        run { output in taken = bytes.withUnsafeBytes { session.send($0, &output) } }
        return taken
    }

    func close() { run { session.close(&$0) } }

    func takeOutput() -> [UInt8] {
        defer { said = [] }
        return said
    }

    func take(_ bytes: [UInt8]) {
        var plain = [UInt8](repeating: 0, count: bytes.count + TLSSession.maxRecordBytes)
        var count = 0
        run { output in
            bytes.withUnsafeBytes { sealed in
                plain.withUnsafeMutableBytes { count = session.receive(sealed, into: $0, &output) }
            }
        }
        received += plain[..<count]
    }
}

/// Carries bytes to and fro until nobody has anything to say.
/// - Parameter piece: bytes at once; nil for all there are.
func talk(_ one: some Wired, _ other: some Wired, piece: Int? = nil) {
    func carry(_ bytes: [UInt8], to end: some Wired) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let part = rest.prefix(piece ?? 48_000)
            end.take(Array(part))
            rest = rest.dropFirst(part.count)
        }
    }
    for _ in 0..<10_000 {
        let (forth, back) = (one.takeOutput(), other.takeOutput())
        if forth.isEmpty, back.isEmpty { return }
        carry(forth, to: other)
        carry(back, to: one)
    }
}
