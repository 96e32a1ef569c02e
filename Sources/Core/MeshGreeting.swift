/// How the first frame of a mesh's connection begins, `docs/wire-format.md`: listeners of other protocols know by it
/// that somebody's link goes to the wrong port.
public enum MeshGreeting {
    /// Bytes that must be there.
    public static let size = 12
    /// The type of the frame, in the fourth byte.
    private static let type: UInt8 = 1

    /// Whether bytes that came first on a connection are a node's that dials another one.
    public static func begins(_ bytes: UnsafeRawBufferPointer) -> Bool {
        bytes.count >= size && bytes[3] == type && bytes[8..<size].elementsEqual("apus".utf8)
    }
}
