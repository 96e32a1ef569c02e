public import Core

/// A connection's output that collects bytes. Its window is small, so that packets cross its end all the time.
open class CollectingLink: Link {
    private var window: UnsafeMutableRawPointer
    private var collected: [UInt8] = []

    /// Makes a link that has sent nothing.
    public init(windowBytes: Int = 64) {
        window = .allocate(byteCount: windowBytes, alignment: 1)
        super.init()
        cursor = window
        end = window + windowBytes
    }

    deinit { window.deallocate() }

    /// Takes what has been sent since the last call.
    public final func takeSent() -> [UInt8] {
        collect()
        defer { collected = [] }
        return collected
    }

    /// Empties the window.
    public final func collect() {
        take(UnsafeRawBufferPointer(start: window, count: cursor - window))
        cursor = window
    }

    private func take(_ bytes: UnsafeRawBufferPointer) {
        willSend(bytes)
        collected += bytes
    }

    /// These bytes are next.
    open func willSend(_ bytes: UnsafeRawBufferPointer) {}

    override public final func appendSlowly(_ bytes: UnsafeRawPointer, _ count: Int) {
        collect()
        take(UnsafeRawBufferPointer(start: bytes, count: count))
    }

    override public final func makeRoom(_ count: Int) {
        collect()
        guard end - window < count else { return }
        window.deallocate()
        window = .allocate(byteCount: count, alignment: 1)
        cursor = window
        end = window + count
    }
}
