/// What hashing threads sleep on.
import Glibc

/// A counting semaphore of the C library; the standard library has locks but nothing to wait on.
/// SAFETY: the address is fixed from init to deinit, and sem_post and sem_wait may be called from any thread.
final class Semaphore: @unchecked Sendable {
    private let semaphore: UnsafeMutablePointer<sem_t>

    init() {
        semaphore = .allocate(capacity: 1)
        semaphore.initialize(to: sem_t())
        let result = sem_init(semaphore, 0, 0)
        precondition(result == 0, "sem_init fails only for a bad value, and ours is 0")
    }

    deinit {
        sem_destroy(semaphore)
        semaphore.deallocate()
    }

    func signal() {
        let result = sem_post(semaphore)
        precondition(result == 0, "sem_post fails only beyond SEM_VALUE_MAX, and queues are bounded far below")
    }

    func wait() {
        while sem_wait(semaphore) != 0 {
            precondition(errno == EINTR, "sem_wait on a valid semaphore fails only when interrupted")
        }
    }
}
