import Synchronization

/// What one lane sends another: runs of events, receipts, and calls. Events are packed once into blocks of bytes,
/// whatever the number of targets there.
enum Mail {
    case block(MailBlock)
    case call(@Sendable (Lane) -> Void)
}

/// Packed records. Written by one lane, then handed over, then read by the other.
/// SAFETY: a block has one owner at a time; ownership passes through the mailbox's lock.
final class MailBlock: @unchecked Sendable {
    static let size = 1 << 16

    let base: UnsafeMutableRawPointer
    let capacity: Int
    var count = 0
    /// When the pass began whose mail it carries; a block is sealed before that pass ends.
    var passStart: UInt64 = 0

    init(capacity: Int) {
        self.capacity = max(capacity, Self.size)
        base = .allocate(byteCount: self.capacity, alignment: 16)
    }

    deinit { base.deallocate() }
}

/// A lane's letter box: lock, swap, unlock; one wake for each batch. Bounded in bytes by those who write to it.
/// SAFETY: all state is in the mutex or atomic.
final class Mailbox: @unchecked Sendable {
    private struct State: ~Copyable {
        var mail: [Mail] = []
        var spare: [MailBlock] = []
        var isSignalled = false
    }

    private let state = Mutex(State())
    /// Bytes of blocks that have been posted and not been read.
    let pendingBytes = Atomic<Int>(0)

    /// Adds mail in order.
    /// - Returns: whether the lane must be woken.
    func post(_ mail: [Mail], bytes: Int) -> Bool {
        pendingBytes.add(bytes, ordering: .relaxed)
        return state.withLock { state in
            state.mail.append(contentsOf: mail)
            defer { state.isSignalled = true }
            return !state.isSignalled
        }
    }

    /// Takes everything.
    func take() -> [Mail] {
        state.withLock { state in
            state.isSignalled = false
            let mail = state.mail
            state.mail = []
            return mail
        }
    }

    /// A block to write into.
    func makeBlock(_ capacity: Int) -> MailBlock {
        if capacity <= MailBlock.size, let spare = state.withLock({ $0.spare.popLast() }) { return spare }
        return MailBlock(capacity: capacity)
    }

    /// Gives a block back that has been read.
    func recycle(_ block: MailBlock) {
        pendingBytes.subtract(block.count, ordering: .relaxed)
        guard block.capacity == MailBlock.size else { return }
        block.count = 0
        state.withLock { if $0.spare.count < 16 { $0.spare.append(block) } }
    }
}
