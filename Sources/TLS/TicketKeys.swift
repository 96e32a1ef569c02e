import COpenSSL
import Glibc
import Synchronization

/// What seals the tickets with which sessions are resumed (RFC 8446 section 4.6.1, RFC 5077). One pair of keys after
/// another, each for a while and then for as long again to open what it sealed, so that who gets hold of the process
/// cannot open what was said long ago. The same for all contexts of a door, whenever they were read.
final class TicketKeys: Sendable {
    /// A pair of keys, with the name that goes in front of its tickets.
    struct Pair: Sendable, Equatable {
        var name: [UInt8]
        var cipher: [UInt8]
        var code: [UInt8]

        static let nameBytes = 16

        init?() {
            var random = [UInt8](repeating: 0, count: Self.nameBytes + 64)
            guard RAND_bytes(&random, Int32(random.count)) == 1 else { return nil }
            name = Array(random[..<Self.nameBytes])
            cipher = Array(random[Self.nameBytes..<(Self.nameBytes + 32)])
            code = Array(random[(Self.nameBytes + 32)...])
        }
    }

    private struct State: Sendable {
        var current: Pair
        var previous: Pair?
        /// Since when the current one is used, in seconds.
        var since: Int
    }

    /// For how long a pair seals, in seconds: for as long as a session may be resumed.
    static let seconds = 7_200

    private let state: Mutex<State>

    init(now: Int = time(nil)) throws(TLSFailure) {
        guard let pair = Pair() else { throw .openSSL("keys for tickets") }
        state = Mutex(State(current: pair, previous: nil, since: now))
    }

    /// The pair that seals now, and the one before it.
    func pairs(now: Int = time(nil)) -> (current: Pair, previous: Pair?) {
        state.withLock { state in
            let age = now - state.since
            // A clock that was set back must not make a pair last for ever.
            if age >= Self.seconds || age < 0, let pair = Pair() {
                state.previous = age < 2 * Self.seconds && age >= 0 ? state.current : nil
                state.current = pair
                state.since = now
            }
            return (state.current, state.previous)
        }
    }

    /// Prepares libssl for one ticket.
    /// - Returns: what libssl wants to hear: 1 for yes, 2 for yes and another ticket, 0 for no, -1 for an error.
    func prepare(
        name: UnsafeMutablePointer<UInt8>, vector: UnsafeMutablePointer<UInt8>, cipher: OpaquePointer,
        code: OpaquePointer, isSealing: Bool
    ) -> Int32 {
        let (current, previous) = pairs()
        let named = Array(UnsafeBufferPointer(start: name, count: Pair.nameBytes))
        guard let pair = isSealing || named == current.name ? current : named == previous?.name ? previous : nil
        else { return 0 }
        if isSealing {
            name.update(from: pair.name, count: Pair.nameBytes)
            guard RAND_bytes(vector, EVP_CIPHER_get_iv_length(EVP_aes_256_cbc())) == 1,
                EVP_EncryptInit_ex(cipher, EVP_aes_256_cbc(), nil, pair.cipher, vector) == 1
            else { return -1 }
        } else if EVP_DecryptInit_ex(cipher, EVP_aes_256_cbc(), nil, pair.cipher, vector) != 1 {
            return -1
        }
        var key = pair.code
        guard apus_mac_sha256_key(code, &key, key.count) == 1 else { return -1 }
        return isSealing || pair == current ? 1 : 2
    }
}
