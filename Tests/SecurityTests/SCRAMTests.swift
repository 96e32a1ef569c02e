import COpenSSL
import Core
import Testing

@testable import Security

/// The client's side, written from the RFC and not from the server's code.
private struct SCRAMClient {
    var user: String
    var password: String
    var header = "n,,"
    var nonce = "fyko+d2lbbFgONRv9qkxdawL"

    var first: String { "\(header)n=\(user),r=\(nonce)" }

    /// The last message, and the signature that the server must show.
    func final(_ challenge: String) throws -> (message: String, signature: String) {
        let fields = challenge.split(separator: ",")
        let salt = try #require(Base64.decode(fields[1].dropFirst(2), .padded))
        let rounds = try #require(Int32(fields[2].dropFirst(2)))
        var salted = [UInt8](repeating: 0, count: 32)
        let text = Array(password.utf8CString)
        #expect(
            PKCS5_PBKDF2_HMAC(
                text, Int32(text.count - 1), salt, Int32(salt.count), rounds, EVP_sha256(), 32, &salted) == 1)
        let binding = Base64.encode(Array(header.utf8), .padded)
        let bare = "c=\(binding),\(fields[0])"
        let message = Array("n=\(user),r=\(nonce),\(challenge),\(bare)".utf8)
        let clientKey = try Digest.sha256.hmac(key: salted, Array("Client Key".utf8))
        let signature = try Digest.sha256.hmac(key: Digest.sha256(clientKey), message)
        let proof = zip(clientKey, signature).map { $0 ^ $1 }
        let serverKey = try Digest.sha256.hmac(key: salted, Array("Server Key".utf8))
        return (
            "\(bare),p=\(Base64.encode(proof, .padded))",
            "v=" + Base64.encode(try Digest.sha256.hmac(key: serverKey, message), .padded)
        )
    }
}

private func text(_ step: AuthenticationStep?) -> String? {
    switch step {
    case .challenge(let bytes), .finished(_, let bytes): String(decoding: bytes, as: UTF8.self)
    case nil: nil
    }
}

/// Logs in; the steps are kept.
private func log(
    in client: SCRAMClient, _ authenticator: NodeAuthenticator, peer: String = "192.0.2.1:5"
) throws -> (challenge: String?, end: AuthenticationStep?, signature: String?) {
    let exchange = try #require(authenticator.begin(.scramSHA256, credentials(nil, nil, peer: peer)))
    let first = exchange.step(client.first)
    guard case .challenge = first, let challenge = text(first) else { return (nil, first, nil) }
    let final = try client.final(challenge)
    return (challenge, exchange.step(final.message), final.signature)
}

@Suite("SCRAM-SHA-256", .timeLimit(.minutes(1)))
struct SCRAMTests {
    @Test("The exchange of RFC 7677, section 3")
    func vector() throws {
        let verifier = try SCRAMVerifier(
            password: Array("pencil".utf8), salt: #require(Base64.decode("W22ZaJ0SNY7soEsUEjb6gQ==", .padded)),
            iterations: 4_096)
        let first = try SCRAMClientFirst(parsing: Array("n,,n=user,r=rOprNGfwEbeRWgbNEkqO".utf8))
        #expect(first.user == "user")
        let server = SCRAMServer(first, verifier, nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
        #expect(
            server.challenge
                == "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
        let final = try SCRAMClientFinal(
            parsing: Array(
                ("c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
                    + "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").utf8))
        #expect(try server.signature(for: final) == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
        #expect(try SCRAMVerifier(parsing: verifier.encoded) == verifier)
        #expect("\(verifier)" == "SCRAMVerifier(i=4096)")
    }

    @Test("The right password lets in, with groups; the server proves itself, too")
    func right() throws {
        let authenticator = try make([user("anna", "s3cret", groups: ["ops"], scram: true)])
        #expect(authenticator.mechanisms == [.scramSHA256])
        for header in ["n,,", "y,,", "n,a=anna,"] {
            let result = try log(in: SCRAMClient(user: "anna", password: "s3cret", header: header), authenticator)
            let signature = try #require(result.signature)
            #expect(
                result.end
                    == .finished(.accepted(Identity(user: "anna", groups: ["ops"])), Array(signature.utf8)), "\(header)"
            )
        }
        #expect(authenticator.counters.hashes == 0)
        #expect(authenticator.counters.refused == 0)
    }

    @Test("Names with commas, equals signs and letters beyond ASCII; any password of UTF-8")
    func names() throws {
        let authenticator = try make([user("a,b=c ä", "pä ss", scram: true)])
        let result = try log(in: SCRAMClient(user: "a=2Cb=3Dc ä", password: "pä ss"), authenticator)
        #expect(result.end.map { if case .finished(.accepted, _) = $0 { true } else { false } } == true)
        #expect(throws: ScryptError.self) { try SCRAMVerifier(password: Array("a\nb".utf8)) }
        #expect(throws: ScryptError.self) { try SCRAMVerifier(password: [0xFF, 0xFE]) }
        #expect(throws: ScryptError.self) { try SCRAMVerifier(password: []) }
        #expect(throws: ScryptError.self) { try SCRAMVerifier(password: [0x61], iterations: 4_095) }
    }

    @Test("Wrong, unknown and without a verifier: the same steps, words and shapes")
    func equalSteps() throws {
        let records = Records()
        var bounds = IdentityBounds()
        bounds.addressFailures.burst = 100
        let authenticator = try make(
            [user("anna", "one", scram: true), user("bob", "two")], bounds: bounds, audit: records)
        var shapes: Set<[Int]> = []
        for name in ["anna", "bob", "nobody"] {
            let result = try log(in: SCRAMClient(user: name, password: "wrong"), authenticator)
            #expect(result.end == .finished(.refused(.badCredentials), Array("e=invalid-proof".utf8)), "\(name)")
            let challenge = try #require(result.challenge)
            #expect(challenge.hasSuffix(",i=4096"))
            shapes.insert(challenge.split(separator: ",").map(\.count))
        }
        #expect(shapes.count == 1, "nonce, salt and rounds look the same")
        #expect(records.reasons == Array(repeating: "the password is wrong or the user unknown", count: 3))
        // Not even the password that bob has elsewhere.
        let bob = try log(in: SCRAMClient(user: "bob", password: "two"), authenticator)
        #expect(bob.end == .finished(.refused(.badCredentials), Array("e=invalid-proof".utf8)))
    }

    @Test("A fake salt is the same whenever somebody asks, and another one for another name")
    func fakeSalts() throws {
        var settings = IdentitySettings(users: [try user("anna", "one", scram: true)])
        settings.fakeSaltKey = Array(repeating: 7, count: 32)
        let salts = try (0..<2).map { _ in
            let authenticator = try make(settings)
            return try ["x", "y", "x"].map { name in
                let result = try log(in: SCRAMClient(user: name, password: "p"), authenticator)
                return try #require(result.challenge).split(separator: ",")[1]
            }
        }
        #expect(salts[0] == salts[1], "a restart changes nothing")
        #expect(salts[0][0] == salts[0][2])
        #expect(salts[0][0] != salts[0][1])
        // Nonces are never the same.
        let authenticator = try make(settings)
        let challenges = try (0..<50).map { _ in
            try #require(try log(in: SCRAMClient(user: "anna", password: "one"), authenticator).challenge)
        }
        #expect(Set(challenges).count == 50)
        #expect(try #require(challenges[0].split(separator: ",").first).utf8.count >= 2 + 24 + 24)
    }

    @Test("Names that look the same and are other bytes do not tell who exists")
    func fakesOfLookalikes() throws {
        // To Swift these are the same text: the Kelvin sign and K, e with an accent in one scalar and in two.
        let names = [("Kevin", "\u{212A}evin"), ("ren\u{E9}", "rene\u{301}")]
        let authenticator = try make([user("Kevin", "one", scram: true), user("ren\u{E9}", "two", scram: true)])
        for (name, lookalike) in names {
            let salts = try [name, lookalike].map { name in
                let result = try log(in: SCRAMClient(user: name, password: "p"), authenticator)
                return try #require(result.challenge).split(separator: ",")[1]
            }
            #expect(salts[0] != salts[1], "as of two users that do not exist")
        }
        let other = try log(in: SCRAMClient(user: "\u{212A}evin", password: "one"), authenticator)
        #expect(other.end == .finished(.refused(.badCredentials), Array("e=invalid-proof".utf8)))
    }

    @Test("Without any verifier the mechanism is not offered")
    func notOffered() throws {
        let authenticator = try make([user("anna", "one")])
        #expect(authenticator.mechanisms.isEmpty)
        #expect(authenticator.begin(.scramSHA256, credentials(nil, nil)) == nil)
        #expect(authenticator.begin(.oauthBearer, credentials(nil, nil)) == nil)
        try authenticator.reload(IdentitySettings(users: [user("anna", "one", scram: true)]))
        #expect(authenticator.begin(.scramSHA256, credentials(nil, nil)) != nil)
    }

    @Test(
        "Malformed first messages end it at once",
        arguments: [
            ("", "e=invalid-encoding"), ("n,", "e=invalid-encoding"), ("n=anna,r=x", "e=invalid-encoding"),
            ("p=tls-unique,,n=anna,r=x", "e=channel-binding-not-supported"), ("x,,n=anna,r=x", "e=invalid-encoding"),
            ("n,b=x,n=anna,r=x", "e=invalid-encoding"), ("n,a=bob,n=anna,r=x", "e=other-error"),
            ("n,,m=x,n=anna,r=x", "e=extensions-not-supported"), ("n,,r=x,n=anna", "e=other-error"),
            ("n,,n=,r=x", "e=other-error"), ("n,,n=anna", "e=other-error"), ("n,,n=anna,r=", "e=other-error"),
            ("n,,n=anna,r=a b", "e=other-error"), ("n,,n=an=na,r=x", "e=other-error"),
            ("n,,n=an=2Xna,r=x", "e=other-error"), ("n,,n=anna=,r=x", "e=other-error"),
            ("n,,n=anna,r=\(String(repeating: "x", count: 257))", "e=other-error"),
            ("n,,n=\(String(repeating: "x", count: 65_536)),r=x", "e=invalid-encoding"),
            ("n,,n=an\0na,r=x", "e=invalid-encoding"), ("n,,\u{301}n=anna,r=x", "e=other-error"),
            ("n,,n=anna,\u{301}r=x", "e=other-error"), ("n,,n=a=\u{301}x,r=x", "e=other-error"),
        ])
    func malformedFirst(message: String, word: String) throws {
        let records = Records()
        let authenticator = try make([user("anna", "one", scram: true)], audit: records)
        let exchange = try #require(authenticator.begin(.scramSHA256, credentials(nil, nil)))
        #expect(exchange.step(message) == .finished(.refused(.badCredentials), Array(word.utf8)))
        #expect(exchange.step("n,,n=anna,r=x") == .finished(.refused(.badCredentials), Array("e=other-error".utf8)))
        #expect(records.take().count == 2)
    }

    @Test("Every change of the last message is refused; a right one does not come twice")
    func changedFinal() throws {
        var bounds = IdentityBounds()
        bounds.addressFailures.burst = 10_000
        bounds.nameAndAddressFailures.burst = 10_000
        bounds.nameFailures.burst = 10_000
        let authenticator = try make([user("anna", "one", scram: true)], bounds: bounds)
        let client = SCRAMClient(user: "anna", password: "one")
        func begin() throws -> (any AuthenticationExchange, String) {
            let exchange = try #require(authenticator.begin(.scramSHA256, credentials(nil, nil)))
            return (exchange, try client.final(#require(text(exchange.step(client.first)))).message)
        }
        let length = try begin().1.utf8.count
        for bit in 0..<length * 8 {
            let (exchange, message) = try begin()
            var bytes = Array(message.utf8)
            bytes[bit / 8] ^= 1 << (bit % 8)
            guard case .finished(.refused(.badCredentials), _) = exchange.step(bytes) else {
                Issue.record("bit \(bit) of \(message) does not matter")
                break
            }
        }
        let (exchange, message) = try begin()
        for wrong in [message + ",x=y", String(message.dropLast()), "c=biws,\(message)"] {
            let (other, _) = try begin()
            guard case .finished(.refused, _) = other.step(wrong) else { Issue.record("\(wrong)"); return }
        }
        guard case .finished(.accepted, _) = exchange.step(message) else { Issue.record("not let in"); return }
        guard case .finished(.refused, _) = exchange.step(message) else { Issue.record("let in twice"); return }
    }

    @Test("A reload during the exchange: the new table decides")
    func reload() throws {
        let authenticator = try make([user("anna", "one", scram: true)])
        let client = SCRAMClient(user: "anna", password: "one")
        let exchange = try #require(authenticator.begin(.scramSHA256, credentials(nil, nil)))
        let final = try client.final(#require(text(exchange.step(client.first))))
        try authenticator.reload(IdentitySettings(users: [user("anna", "two", scram: true)]))
        #expect(exchange.step(final.message) == .finished(.refused(.badCredentials), Array("e=invalid-proof".utf8)))
    }

    @Test("A connection that has a name already cannot prove another one")
    func otherName() throws {
        let authenticator = try make([user("anna", "one", scram: true), user("bob", "b", scram: true)])
        let exchange = try #require(authenticator.begin(.scramSHA256, credentials("bob", nil)))
        #expect(
            exchange.step(SCRAMClient(user: "anna", password: "one").first)
                == .finished(.refused(.badCredentials), Array("e=other-error".utf8)))
    }

    @Test("Guessing by SCRAM is limited, exchanges begun before included")
    func limits() throws {
        let time = TestTime()
        let authenticator = try make([user("anna", "one", scram: true)], time: time)
        let wrong = SCRAMClient(user: "anna", password: "wrong")
        var open: [any AuthenticationExchange] = []
        var finals: [String] = []
        for _ in 0..<30 {
            let exchange = try #require(authenticator.begin(.scramSHA256, credentials(nil, nil)))
            finals.append(try wrong.final(#require(text(exchange.step(wrong.first)))).message)
            open.append(exchange)
        }
        var refusals: [AuthenticationRefusal] = []
        for (exchange, final) in zip(open, finals) {
            guard case .finished(.refused(let refusal), _) = exchange.step(final) else { continue }
            refusals.append(refusal)
        }
        #expect(refusals.count == 30)
        #expect(refusals.prefix(10).allSatisfy { $0 == .badCredentials })
        #expect(refusals.dropFirst(10).allSatisfy { $0 == .tooManyFailures })
        let right = SCRAMClient(user: "anna", password: "one")
        #expect(try log(in: right, authenticator).end == .finished(.refused(.tooManyFailures), []))
        time.pass(seconds: 10)
        guard case .finished(.accepted, _) = try log(in: right, authenticator).end else {
            Issue.record("still kept out")
            return
        }
    }
}
