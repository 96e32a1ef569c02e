/// The signature by which a target knows that a request comes from a node that has the secret, and when it was made.
import COpenSSL

/// HMAC-SHA256 (RFC 2104) over time and body.
enum WebhookSignature {
    /// The value of `Apus-Signature`: `t=<seconds>,v1=<hex of the HMAC of "<seconds>.<body>">`.
    /// - Returns: nil when libcrypto refuses.
    static func value(secret: [UInt8], seconds: Int, body: UnsafeRawBufferPointer) -> [UInt8]? {
        let time = Array(String(seconds).utf8)
        var input = time
        input.reserveCapacity(time.count + 1 + body.count)
        input.append(UInt8(ascii: "."))
        input.append(contentsOf: body)
        var output = [UInt8](repeating: 0, count: 32)
        var length = 0
        let done = EVP_Q_mac(
            nil, "HMAC", nil, "SHA256", nil, secret, secret.count, input, input.count, &output, output.count, &length)
        guard done != nil, length == output.count else {
            ERR_clear_error()
            return nil
        }
        let digits = Array("0123456789abcdef".utf8)
        var value = Array("t=".utf8) + time + Array(",v1=".utf8)
        for byte in output {
            value.append(digits[Int(byte >> 4)])
            value.append(digits[Int(byte & 15)])
        }
        return value
    }
}
