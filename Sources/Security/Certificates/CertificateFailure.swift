/// Why certificates could not be made, read or trusted, and what the rooms of libcrypto hand around meanwhile.
import COpenSSL

/// Why something with a certificate could not be done. Never holds a key or a passphrase.
public struct CertificateFailure: Error, Equatable, CustomStringConvertible {
    /// What is wrong, and what would be right.
    public let description: String

    /// Makes a failure.
    public init(_ description: String) { self.description = description }

    /// A refusal of libcrypto, with the reason it gives; empties its list of errors.
    static func library(_ what: String) -> CertificateFailure {
        let code = ERR_peek_last_error()
        ERR_clear_error()
        guard code != 0, let reason = ERR_reason_error_string(code) else { return CertificateFailure(what) }
        return CertificateFailure("\(what): \(String(cString: reason))")
    }
}

/// A buffer of libcrypto in memory, as PEM is written to and read from.
final class MemoryBuffer {
    let pointer: OpaquePointer

    /// An empty one, to write to.
    init() throws(CertificateFailure) {
        guard let pointer = BIO_new(BIO_s_mem()) else { throw .library("no memory") }
        self.pointer = pointer
    }

    /// One with `bytes`, to read from.
    convenience init(_ bytes: [UInt8]) throws(CertificateFailure) {
        try self.init()
        guard bytes.isEmpty || BIO_write(pointer, bytes, Int32(clamping: bytes.count)) == Int32(clamping: bytes.count)
        else { throw .library("no memory") }
    }

    deinit { BIO_free(pointer) }

    /// Takes all that has been written.
    func take() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: BIO_ctrl_pending(pointer))
        let count = BIO_read(pointer, &bytes, Int32(clamping: bytes.count))
        return Array(bytes.prefix(max(0, Int(count))))
    }

    /// Takes all that has been written, as text.
    func takeText() -> String { String(decoding: take(), as: UTF8.self) }
}

/// Asks nobody: without it libcrypto would prompt for a passphrase on the terminal. The context is a `[UInt8]`, or nil.
func givePassphrase(
    _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int32, _ writing: Int32, _ context: UnsafeMutableRawPointer?
) -> Int32 {
    guard let buffer, let passphrase = context?.assumingMemoryBound(to: [UInt8].self).pointee,
        passphrase.count <= Int(size)
    else { return -1 }
    for (index, byte) in passphrase.enumerated() { buffer[index] = CChar(bitPattern: byte) }
    return Int32(passphrase.count)
}

/// Bytes that libcrypto encodes with one of its `i2d` functions.
func encoded(_ body: (UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>?) -> Int32) throws(CertificateFailure)
    -> [UInt8]
{
    let count = Int(body(nil))
    guard count > 0 else { throw .library("cannot be encoded") }
    var bytes = [UInt8](repeating: 0, count: count)
    let written = bytes.withUnsafeMutableBufferPointer { buffer in
        // libcrypto moves the pointer that it is given.
        var cursor = buffer.baseAddress
        return Int(body(&cursor))
    }
    guard written == count else { throw .library("cannot be encoded") }
    return bytes
}

/// `count` bytes from libcrypto's generator.
func randomBytes(_ count: Int) throws(CertificateFailure) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    guard RAND_bytes(&bytes, Int32(count)) == 1 else { throw .library("no random numbers") }
    return bytes
}
