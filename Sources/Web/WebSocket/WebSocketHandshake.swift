/// The opening handshake of WebSocket (RFC 6455 §4.2): values in, the fields of the answer or a problem out.
import COpenSSL

/// A handshake that can be answered.
struct WebSocketHandshake {
    /// The subprotocol both sides speak from here on; nil when none was asked for.
    let subprotocol: String?
    /// The fields of the 101 answer, without `Connection` and `Upgrade`.
    let fields: [(name: String, value: String)]

    /// Checks a request against what its path offers.
    ///
    /// Who may connect, also from which pages, is for the caller to say: a browser sends what it knows of the user
    /// along, whatever page asks for it.
    /// - Parameters:
    ///   - offered: subprotocols of the path. The client's first that is among them is taken.
    ///   - isSubprotocolOptional: whether a client need not ask for one.
    init(
        _ head: RequestHead, offered: [String], isSubprotocolOptional: Bool = false
    ) throws(Problem) {
        try Self.checkUpgrade(head)
        let accept = try Self.accept(Self.key(head))
        subprotocol = try Self.choose(head, offered, isSubprotocolOptional)
        var fields = [(name: "Sec-WebSocket-Accept", value: accept)]
        if let subprotocol { fields.append((name: "Sec-WebSocket-Protocol", value: subprotocol)) }
        self.fields = fields
    }

    private static func checkUpgrade(_ head: RequestHead) throws(Problem) {
        guard head.method.elementsEqual("GET".utf8) else {
            var allow = Headers()
            allow.add("Allow", "GET")
            throw Problem(405, "A WebSocket connection begins with GET.", headers: allow)
        }
        guard !head.isVersion1_0 else { throw Problem(400, "A WebSocket connection begins with HTTP/1.1.") }
        guard words(head, "upgrade").contains(where: { $0.lowercased() == "websocket" }) else {
            throw upgradeRequired("This path is for WebSocket: Upgrade: websocket is missing.")
        }
        guard head.wantsUpgrade else { throw Problem(400, "Connection: Upgrade is missing.") }
        guard head.contentLength ?? 0 == 0, !head.isChunked else {
            throw Problem(400, "A request for WebSocket has no body.")
        }
        guard head.count("sec-websocket-version") <= 1 else {
            throw Problem(400, "A request has one Sec-WebSocket-Version.")
        }
        guard let version = head.value("sec-websocket-version") else {
            throw Problem(400, "Sec-WebSocket-Version is missing.")
        }
        guard version.elementsEqual("13".utf8) else { throw upgradeRequired("Sec-WebSocket-Version is 13 here.") }
    }

    private static func upgradeRequired(_ detail: String) -> Problem {
        var headers = Headers()
        headers.add("Upgrade", "websocket")
        headers.add("Sec-WebSocket-Version", "13")
        return Problem(426, detail, headers: headers)
    }

    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    /// 16 bytes in base64 make 22 characters and two paddings; of the last one's six bits two are used.
    private static func key(_ head: RequestHead) throws(Problem) -> UnsafeRawBufferPointer {
        guard head.count("sec-websocket-key") == 1, let key = head.value("sec-websocket-key") else {
            throw Problem(400, "A request for WebSocket has one Sec-WebSocket-Key.")
        }
        let isKey =
            key.count == 24 && key[22] == UInt8(ascii: "=") && key[23] == UInt8(ascii: "=")
            && key[..<22].allSatisfy { alphabet.contains($0) }
        guard isKey else { throw Problem(400, "Sec-WebSocket-Key is 16 bytes in base64.") }
        return key
    }

    private static func choose(
        _ head: RequestHead, _ offered: [String], _ isOptional: Bool
    ) throws(Problem) -> String? {
        let asked = words(head, "sec-websocket-protocol")
        for name in asked {
            guard name.utf8.allSatisfy({ Token.contains($0) }) else {
                throw Problem(400, "Sec-WebSocket-Protocol is a list of tokens.")
            }
        }
        if let match = asked.first(where: { offered.contains($0) }) { return match }
        guard isOptional || offered.isEmpty else {
            throw Problem(400, "Sec-WebSocket-Protocol must name one of: \(offered.joined(separator: ", ")).")
        }
        // Without a match the answer names none, and the client may go away.
        return nil
    }

    /// The members of a list that may be spread over several fields.
    private static func words(_ head: RequestHead, _ name: StaticString) -> [String] {
        var words: [String] = []
        for index in 0..<head.fieldCount {
            let field = head.field(index)
            guard field.name.isSame(as: name) else { continue }
            for part in field.value.split(separator: UInt8(ascii: ",")) {
                let word = UnsafeRawBufferPointer(rebasing: part).trimmed
                if !word.isEmpty { words.append(word.text) }
            }
        }
        return words
    }

    // MARK: The answer to the key

    /// SHA-1 of the key and a fixed text, in base64 (§4.2.2).
    private static func accept(_ key: UnsafeRawBufferPointer) throws(Problem) -> String {
        let bytes = Array(key) + Array("258EAFA5-E914-47DA-95CA-C5AB0DC85B11".utf8)
        var digest = [UInt8](repeating: 0, count: 20)
        guard EVP_Digest(bytes, bytes.count, &digest, nil, EVP_sha1(), nil) == 1 else {
            throw Problem(500, "SHA-1 is not available.")
        }
        return String(decoding: Base64.encode(digest), as: UTF8.self)
    }
}
