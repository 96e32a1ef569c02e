import COpenSSL
import TLS
import TestTLS

/// A server's session and a client that libssl drives: what the client says arrives whole, in pieces, changed, cut or
/// mixed with whatever bytes, before the handshake, in the middle of it and after it. The session must not trap, must
/// say why it ended, and must be silent from then on; what it takes for data is what the client has said.

/// What libFuzzer calls with each input.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let start, count > 1, let ground = Ground.shared else { return 0 }
    var play = TLSPlay(Array(UnsafeBufferPointer(start: start, count: count)), ground)
    play.run()
    return 0
}

/// Certificates and doors, made once.
private struct Ground {
    let doors: [TLSDoor]
    let device: TestCertificates.Certificate
    // SAFETY: libFuzzer calls on one thread.
    nonisolated(unsafe) static let shared = try? Ground()

    init() throws {
        let files = try TestCertificates()
        let authority = try files.makeAuthority("Root")
        let server = try files.make("server", issuer: authority)
        device = try files.make("device", issuer: authority) { $0.names = "DNS:a.example,email:a@b.example" }
        var settings = TLSSettings(
            name: "fuzz",
            certificates: [
                TLSSettings.Pair(
                    certificate: try files.write("s.pem", server.pem), key: try files.write("s.key", server.keyPEM()))
            ])
        settings.peerAuthorities = try files.write("ca.pem", authority.pem)
        settings.user = "${cert.cn}"
        doors = try [TLSSettings.ClientCertificate.none, .optional, .required].map {
            settings.clientCertificate = $0
            return try TLSDoor(settings, role: .server, protocols: ["mqtt"])
        }
    }
}

private struct TLSPlay {
    private let input: [UInt8]
    private var place = 1
    private let server: OurEnd
    private let client: LibsslClient
    /// What the client has said as data.
    private var said = 0

    init(_ input: [UInt8], _ ground: Ground) {
        self.input = input
        let mode = input[0]
        guard let server = try? OurEnd(ground.doors[Int(mode >> 1 & 3) % 3]) else { fatalError("no session") }
        self.server = server
        let version = mode & 1 == 0 ? TLS1_3_VERSION : TLS1_2_VERSION
        client = LibsslClient(
            .init(certificate: mode & 8 == 0 ? nil : ground.device, versions: version...version, protocols: ["mqtt"]))
        if mode & 16 != 0 { talk(client, server) }
    }

    private mutating func byte() -> UInt8 {
        guard place < input.count else { return 0 }
        defer { place += 1 }
        return input[place]
    }

    private mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in byte() } }

    mutating func run() {
        var held: [UInt8] = []
        while place < input.count {
            held += client.takeOutput()
            switch byte() % 10 {
            case 0:
                give(held)
                held = []
            case 1:
                let part = Int(byte())
                give(Array(held.prefix(part)))
                held.removeFirst(min(part, held.count))
            case 2:
                let (where_, what) = (Int(byte()) << 8 | Int(byte()), byte())
                if !held.isEmpty { held[where_ % held.count] ^= what | 1 }
            case 3: give(bytes(Int(byte() & 63)))
            case 4:
                let count = Int(byte()) * 64 + 1
                if client.isOpen {
                    client.send([UInt8](repeating: 7, count: count))
                    said += count
                }
            case 5: if client.isOpen { SSL_key_update(client.ssl, Int32(byte() & 1)) }
            case 6: if client.isOpen { SSL_renegotiate(client.ssl) }
            case 7: client.close()
            case 8: _ = server.send([UInt8](repeating: 9, count: Int(byte()) * 300 + 1))
            default: client.take(server.takeOutput())
            }
        }
        give(held)
        check()
    }

    private func give(_ bytes: [UInt8]) {
        server.take(bytes)
        check()
    }

    private func check() {
        precondition(server.received.count <= said, "more data than the client has said")
        precondition(server.received.allSatisfy { $0 == 7 }, "data that nobody has said")
        guard let failure = server.session.failure else { return }
        precondition(!failure.isEmpty && !server.session.isHandshaking)
        precondition(server.send([1]) == 0, "silent after a failure")
    }
}
