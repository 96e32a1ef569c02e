import Core
import Testing

@testable import Security

@Suite("Tokens", .timeLimit(.minutes(2)))
struct TokenTests {
    private static let all = TokenAlgorithm.allCases.map(\.rawValue)

    private static func kind(_ algorithm: TokenAlgorithm) -> Forge.Kind? {
        switch algorithm.family {
        case .rsaPKCS1, .rsaPSS: .rsa
        case .ecdsa: algorithm == .es256 ? .p256 : .p384
        case .edDSA: .ed25519
        case .hmac: nil
        }
    }

    // MARK: Signatures

    @Test("Tokens of another implementation, in all algorithms, with all keys in one set")
    func foreign() throws {
        let verifier = try verifier(Foreign.keySet, algorithms: Self.all)
        #expect(Foreign.tokens.count == 12)
        for (algorithm, token) in Foreign.tokens {
            let proof = try #require(verifier.proof(token), "\(algorithm): \(verifier.reason(token) ?? "")")
            #expect(proof.user == "anna")
            #expect(proof.groups == ["ops"])
            #expect(proof.endsAt == 2_000_003_630_000)
        }
        // Not asked for by name: shared secrets are not taken.
        let standard = try SecurityTests.verifier(Foreign.keySet)
        for (algorithm, token) in Foreign.tokens where algorithm.hasPrefix("HS") {
            #expect(standard.reason(token) == "algorithm \(algorithm) is not among those of the issuer")
        }
    }

    @Test("Signatures of RFC 7515 A.1 and A.3, and RFC 8037 A.4")
    func vectors() throws {
        let joe =
            "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
        let vectors: [(key: String, TokenAlgorithm, input: String, signature: String)] = [
            (
                #"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Y"#
                    + #"j0iPS4hcgUuTwjAzZr1Z9CAow"}"#,
                .hs256,
                "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9." + joe,
                "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
            ),
            (
                #"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","#
                    + #""y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
                .es256,
                "eyJhbGciOiJFUzI1NiJ9." + joe,
                "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
            ),
            (
                #"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#, .edDSA,
                "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
                "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
            ),
        ]
        for (key, algorithm, input, signature) in vectors {
            let members = try #require(try StrictJSON(Array(key.utf8)[...]).members)
            let signature = try #require(Base64.decode(signature, .url))
            #expect(
                try SigningKey(members).verifies(signature, of: Array(input.utf8), algorithm), "\(algorithm.rawValue)")
        }
    }

    @Test("Every bit flip of a token is refused", arguments: [TokenAlgorithm.rs256, .ps256, .es256, .edDSA, .hs256])
    func bitFlips(algorithm: TokenAlgorithm) throws {
        let keys: String
        let token: String
        if let kind = Self.kind(algorithm) {
            let forge = try Forge(kind)
            keys = keySet(forge.jwk())
            token = forge.token(algorithm, claims())
        } else {
            let secret = [UInt8](repeating: 0x5A, count: 32)
            keys = keySet("{\"kty\":\"oct\",\"k\":\"\(Base64.encode(secret, .url))\"}")
            token = try Forge.token(secret: secret, algorithm, claims())
        }
        let verifier = try verifier(keys, algorithms: Self.all)
        #expect(verifier.proof(token)?.user == "anna")
        var bytes = Array(token.utf8)
        for bit in 0..<bytes.count * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8)
            if case .proven = verifier.verify(bytes, wall: TestTime.start, monotonic: 2) {
                Issue.record("bit \(bit) does not matter")
            }
            bytes[bit / 8] ^= 1 << (bit % 8)
        }
        // Nor may anything be added or left out.
        for changed in [token + "A", token + "=", token + ".", " " + token, token + "\n", String(token.dropLast())] {
            #expect(verifier.proof(changed) == nil, "\(changed.suffix(5))")
        }
    }

    @Test("A public key is no shared secret, in whatever form (HS/RS confusion)")
    func confusion() throws {
        for kind in [Forge.Kind.rsa, .p256, .ed25519] {
            let forge = try Forge(kind)
            let verifier = try verifier(keySet(forge.jwk(["kid": "k"]), forge.jwk()), algorithms: Self.all)
            let n = Array((forge.members["n"] ?? forge.members["x"] ?? "").utf8)
            let raw = try #require(Base64.decode(n[...], .url))
            for secret in [forge.pem, Array(forge.pem.dropLast()), n, raw, Array(forge.jwk().utf8)] {
                for algorithm in [TokenAlgorithm.hs256, .hs384, .hs512] {
                    let token = try Forge.token(secret: secret, algorithm, claims())
                    #expect(verifier.reason(token) == "no key of the issuer fits \(algorithm.rawValue)")
                }
            }
            let named = Forge.token(header: #"{"alg":"HS256","kid":"k"}"#, claims(), signature: [1])
            #expect(verifier.reason(named) == "the key 'k' is not for HS256")
        }
    }

    @Test("Algorithm none, in all spellings, with and without a signature")
    func none() throws {
        let forge = try Forge(.rsa)
        let verifier = try verifier(keySet(forge.jwk()), algorithms: Self.all)
        for bits in 0..<16 {
            let word = String(
                "none".enumerated().map { bits >> $0.offset & 1 == 1 ? Character($0.element.uppercased()) : $0.element }
            )
            for signature in [[], [0], [UInt8](repeating: 0, count: 256)] {
                let token = Forge.token(header: "{\"alg\":\"\(word)\"}", claims(), signature: signature)
                #expect(verifier.reason(token) == "algorithm none is never accepted")
            }
        }
        for header in [
            #"{"alg":"none "}"#, #"{"alg":""}"#, #"{"alg":null}"#, #"{"alg":["RS256"]}"#, "{}", #"{"alg":"rs256"}"#,
            #"{"alg":"RS256\u0000"}"#, #"{"alg":"HS1"}"#, #"{"alg":true}"#,
        ] {
            let input = Forge.input(header, claims())
            let signature = forge.sign(Array(input.utf8), .rs256)
            let token = Forge.token(header: header, claims(), signature: signature)
            #expect(verifier.proof(token) == nil, "\(header)")
        }
        #expect(throws: TokenIssuer.Failure.self) { try issuer("/x", algorithms: ["none"]) }
    }

    @Test("The key's type, curve, algorithm and use must fit; a named key is not replaced by another")
    func fitting() throws {
        let rsa = try Forge(.rsa)
        let other = try Forge(.rsa)
        let p256 = try Forge(.p256)
        let token = rsa.token(.rs256, claims(), kid: "a")
        #expect(try verifier(keySet(rsa.jwk(["kid": "a"]))).proof(token) != nil)
        #expect(try verifier(keySet(rsa.jwk(["kid": "a", "use": "sig", "alg": "RS256"]))).proof(token) != nil)
        let wrong = [
            keySet(rsa.jwk(["kid": "a", "alg": "PS256"])), keySet(rsa.jwk(["kid": "b"])), keySet(rsa.jwk()),
            keySet(other.jwk(["kid": "a"]), rsa.jwk(["kid": "b"]), rsa.jwk()), keySet(p256.jwk(["kid": "a"])),
            keySet(rsa.jwk(["kid": "a", "use": "enc"]), other.jwk()),
        ]
        for keys in wrong { #expect(try verifier(keys).proof(token) == nil, "\(keys.prefix(40))") }
        #expect(try verifier(keySet(rsa.jwk(["kid": "a"])), algorithms: ["PS256"]).proof(token) == nil)
        // ES384 with a key of P-256 is none of RFC 7518.
        let es = p256.token(.es256, claims(), header: #"{"alg":"ES384"}"#)
        #expect(try verifier(keySet(p256.jwk())).proof(es) == nil)
        // Without a name all that fit are tried, up to eight.
        let unnamed = rsa.token(.rs256, claims())
        #expect(try verifier(keySet(other.jwk(["kid": "x"]), p256.jwk(), rsa.jwk(["kid": "y"]))).proof(unnamed) != nil)
        let many = (0..<8).map { _ in other.jwk() } + [rsa.jwk()]
        #expect(try verifier("{\"keys\":[\(many.joined(separator: ","))]}").proof(unnamed) == nil)
    }

    @Test("Two issuers are told apart by what the token says, and each has its own keys")
    func issuers() throws {
        let (a, b) = (try Forge(.p256), try Forge(.p256))
        var verifier = try verifier(keySet(a.jwk()))
        let second = try TokenIssuer(issuer: "https://b.example", audience: "apus", keys: "/b")
        let store = KeyStore(second.keys, authorities: nil)
        _ = store.end(.success(.init(bytes: Array(keySet(b.jwk()).utf8), maxAgeSeconds: nil)), now: 1)
        verifier.entries.append(.init(issuer: second, store: store))
        let other = claims(["iss": "\"https://b.example\""])
        #expect(verifier.proof(a.token(.es256, claims())) != nil)
        #expect(verifier.proof(b.token(.es256, other)) != nil)
        #expect(verifier.reason(a.token(.es256, other)) == "its signature is wrong")
        #expect(verifier.reason(b.token(.es256, claims())) == "its signature is wrong")
        for wrong in ["\"https://c.example\"", "null", "[\"https://idp.example\"]", nil] as [String?] {
            #expect(
                verifier.reason(a.token(.es256, claims(["iss": wrong]))) == "it is of an issuer that is not configured")
        }
    }

    // MARK: Claims

    @Test(
        "Claims that prove nothing",
        arguments: [
            ("aud", "\"other\"", "it is for another audience than 'apus'"),
            ("aud", "[\"x\",\"y\"]", "it is for another audience than 'apus'"),
            ("aud", "[\"apus\",1]", "it is for another audience than 'apus'"),
            ("aud", nil, "it is for another audience than 'apus'"),
            ("aud", "\"APUS\"", "it is for another audience than 'apus'"),
            ("exp", nil, "it has no end ('exp')"), ("exp", "\"2000000600\"", "the claim 'exp' is no date"),
            ("exp", "1e400", "the claim 'exp' is no date"), ("exp", "-1", "the claim 'exp' is no date"),
            ("exp", "9007199254740993", "the claim 'exp' is no date"), ("exp", "null", "the claim 'exp' is no date"),
            ("exp", "1999999958", "expired 42 s ago"), ("exp", "1999999970", "expired 30 s ago"),
            ("nbf", "2000000042", "not valid before 42 s from now"), ("nbf", "\"x\"", "the claim 'nbf' is no date"),
            ("iat", "2000000099", "issued 99 s in the future"),
            ("sub", nil, "the claim 'sub' with the user's name is missing or no text"),
            ("sub", "17", "the claim 'sub' with the user's name is missing or no text"),
            ("sub", "\"\"", "the user name is empty"),
            ("sub", "\"a\\u0000b\"", "the user name contains control characters"),
            ("sub", "\"anonymous\"", "the user name 'anonymous' stands for clients without a name"),
            ("groups", "17", "the claim 'groups' is no list of at most 256 texts"),
            ("groups", "[1]", "the claim 'groups' is no list of at most 256 texts"),
            ("groups", "[\"\"]", "a group in the claim 'groups' is empty or too long"),
        ])
    func badClaims(name: String, value: String?, reason: String) throws {
        let forge = try Forge(.ed25519)
        let verifier = try verifier(keySet(forge.jwk()))
        #expect(verifier.reason(forge.token(.edDSA, claims([name: value]))) == reason)
    }

    @Test("The clocks may differ by the leeway")
    func leeway() throws {
        let forge = try Forge(.ed25519)
        let verifier = try verifier(keySet(forge.jwk()))
        #expect(verifier.proof(forge.token(.edDSA, claims(["exp": "1999999971"])))?.endsAt == 2_000_000_001_000)
        #expect(verifier.proof(forge.token(.edDSA, claims(["nbf": "2000000030", "iat": "2000000030"]))) != nil)
        #expect(verifier.proof(forge.token(.edDSA, claims(["exp": "2000000600.5"])))?.endsAt == 2_000_000_630_500)
    }

    @Test("What a token says becomes attributes: texts, numbers, truth values, lists of texts")
    func attributes() throws {
        let forge = try Forge(.ed25519)
        let verifier = try verifier(keySet(forge.jwk()), userClaim: "email")
        let token = forge.token(
            .edDSA,
            claims([
                "email": "\"a@x\"", "level": "5.0", "share": "0.5", "admin": "true", "rooms": "[\"a\",\"b\"]",
                "mixed": "[\"a\",1]", "nested": "{\"a\":1}", "nothing": "null", "groups": "\"ops\"", "big": "1e300",
            ]))
        let proof = try #require(verifier.proof(token))
        #expect(proof.user == "a@x")
        #expect(proof.groups == ["ops"])
        #expect(
            proof.attributes == [
                "claim.iss": ["https://idp.example"], "claim.aud": ["apus"], "claim.sub": ["anna"],
                "claim.exp": ["2000000600"], "claim.email": ["a@x"], "claim.level": ["5"], "claim.share": ["0.5"],
                "claim.admin": ["true"], "claim.rooms": ["a", "b"], "claim.groups": ["ops"], "claim.big": ["1e300"],
            ])
    }

    @Test("A name has one spelling: who is called like another one in other bytes is nobody")
    func lookalikes() throws {
        let forge = try Forge(.ed25519)
        let verifier = try verifier(keySet(forge.jwk()))
        func user(_ name: String) -> String? {
            verifier.proof(forge.token(.edDSA, claims(["sub": "\"\(name)\""])))?.user
        }
        // The Kelvin sign is K, the Greek question mark is a semicolon, to whoever compares texts.
        for name in ["\u{212A}evin", "\\u212Aevin", "a\u{37E}b", "rene\u{301}", "\u{1112}\u{1161}\u{11AB}"] {
            #expect(user(name) == nil, "\(name)")
        }
        for name in ["Kevin", "a;b", "ren\u{E9}", "\u{D55C}", "\u{1F469}\u{200D}\u{1F680}", "x\u{301}"] {
            #expect(user(name) == name, "\(name)")
        }
    }

    @Test("Huge claims, many claims, deep nesting, names twice, names of 64 KiB")
    func excessive() throws {
        let forge = try Forge(.ed25519)
        let verifier = try verifier(keySet(forge.jwk()))
        func reason(_ changes: [String: String?]) -> String? { verifier.reason(forge.token(.edDSA, claims(changes))) }
        let kilobyte = String(repeating: "x", count: 1_024)
        #expect(reason(["c": "\"\(kilobyte)\""]) == nil)
        #expect(reason(["c": "\"\(kilobyte)x\""]) == "the claim 'c' is larger than 1024 bytes")
        #expect(reason(["c": "[\"\(kilobyte)x\"]"]) == "the claim 'c' is larger than 1024 bytes")
        #expect(reason([kilobyte + "x": "1"])?.hasSuffix("is larger than 1024 bytes") == true)
        #expect(reason(["sub": "\"\(kilobyte)\""]) == "the user name is longer than 256 bytes")
        let many = Dictionary(uniqueKeysWithValues: (0..<60).map { ("c\($0)", "1" as String?) })
        #expect(reason(many) == nil)
        #expect(reason(many.merging(["x": "1"]) { $1 }) == "it has more than 64 claims")
        func nested(_ depth: Int) -> String {
            String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
        }
        #expect(reason(["c": nested(7)]) == nil)
        #expect(reason(["c": nested(8)]) == "its claims: the JSON is nested more than 8 deep")
        #expect(
            reason(["c": String(repeating: "[", count: 5_000)]) == "its claims: the JSON is nested more than 8 deep")
        let groups = (0..<257).map { "\"\($0)\"" }.joined(separator: ",")
        #expect(reason(["groups": "[\(groups)]"]) == "the claim 'groups' is no list of at most 256 texts")
        #expect(reason(["sub": "\"\(String(repeating: "x", count: 65_536))\""]) == "it is larger than 16384 bytes")
        let twice = claims().dropLast() + ",\"sub\":\"bob\"}"
        #expect(
            verifier.reason(forge.token(.edDSA, String(twice))) == "its claims: a name is in the same JSON object twice"
        )
    }

    @Test("What is no token, or one for something else")
    func malformed() throws {
        let forge = try Forge(.ed25519)
        let verifier = try verifier(keySet(forge.jwk()))
        func reason(header: String) -> String? { verifier.reason(forge.token(.edDSA, claims(), header: header)) }
        #expect(
            reason(header: #"{"alg":"EdDSA","crit":["b64"],"b64":false}"#) == "its header asks for extensions ('crit')")
        for type in ["logout+jwt", "secevent+jwt", "JWE", ""] {
            #expect(
                reason(header: "{\"alg\":\"EdDSA\",\"typ\":\"\(type)\"}") == "it is of another type than JWT or at+jwt")
        }
        for type in ["JWT", "jwt", "at+jwt", "application/at+JWT"] {
            #expect(reason(header: "{\"alg\":\"EdDSA\",\"typ\":\"\(type)\"}") == nil)
        }
        // Where a header says that its key is, nobody looks.
        let own = "{\"alg\":\"EdDSA\",\"jwk\":\(try Forge(.ed25519).jwk()),\"jku\":\"http://127.0.0.1:1/\"}"
        #expect(reason(header: own) == nil)
        for text in [
            "", "a", "a.b", "a.b.c", "...", "..", "eyJ.eyJ.x", "a.b.c.d.e", "eyJhbGciOiJub25lIn0..", "\0.\0.\0",
        ] {
            #expect(verifier.proof(text) == nil)
        }
        for object in [
            "[]", "1", "\"x\"", "null", "{\"a\":1} {}", "\u{FEFF}{}", "{\"a\":\"\\ud800\"}", "{'a':1}", "{\"a\":01}",
        ] {
            #expect(verifier.reason(forge.token(.edDSA, object))?.hasPrefix("its claims") == true, "\(object)")
        }
        #expect(Token.isLike(Array("eyJh.eyJ.x".utf8)))
        for password in ["eyJ", "secret", "a.b.c", "eyJ.", "eyJ...", ""] {
            #expect(!Token.isLike(Array(password.utf8)))
        }
    }

    @Test("Shared secrets are taken only by name, and only when they are long enough")
    func secrets() throws {
        let secret = [UInt8](repeating: 7, count: 32)
        let keys = keySet("{\"kty\":\"oct\",\"k\":\"\(Base64.encode(secret, .url))\"}")
        let token = try Forge.token(secret: secret, .hs256, claims())
        #expect(try verifier(keys, algorithms: ["HS256"]).proof(token) != nil)
        #expect(try verifier(keys).reason(token) == "algorithm HS256 is not among those of the issuer")
        let longer = try Forge.token(secret: secret, .hs512, claims())
        #expect(try verifier(keys, algorithms: Self.all).reason(longer) == "no key of the issuer fits HS512")
        let short = "{\"keys\":[{\"kty\":\"oct\",\"k\":\"\(Base64.encode(Array(secret.dropLast()), .url))\"}]}"
        #expect(throws: StrictJSON.Failure.self) { try KeySet(parsing: Array(short.utf8)) }
    }

    // MARK: Key sets

    @Test("Key sets: what cannot be used is left out; nothing usable is a failure")
    func keySets() throws {
        let rsa = try Forge(.rsa)
        let good = rsa.jwk(["kid": "g"])
        let useless = [
            (#"{"kty":"XYZ"}"#, "unknown"), (#"{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}"#, "P-256"),
            (#"{"kty":"OKP","crv":"X25519","x":"AA"}"#, "Ed25519"), ("{}", "'kty' is missing"),
            (#"{"kty":"RSA","e":"AQAB"}"#, "'n' is missing"), (#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, "modulus must"),
            (rsa.jwk(["e": "AQ"]), "exponent"), (rsa.jwk(["e": "Ag"]), "exponent"),
            (rsa.jwk(["e": "AQAAAAE"]), "exponent"), (rsa.jwk(["e": "AQAB="]), "base64url"),
            (rsa.jwk(["d": "AQAB"]), "private"), (rsa.jwk(["use": "enc"]), "use"),
            (#"{"kty":"RSA","key_ops":["sign"],"n":"AQAB","e":"AQAB"}"#, "key_ops"),
            (#"{"kty":"RSA","kid":5,"n":"AQAB","e":"AQAB"}"#, "'kid' is no text"),
            (try Forge(.p256).jwk(["y": Base64.encode([UInt8](repeating: 1, count: 32), .url)]), "curve"),
            (try Forge(.p256).jwk(["x": "AA"]), "32 bytes"), (try Forge(.ed25519).jwk(["x": "AA"]), "32 bytes"),
        ]
        for (key, reason) in useless {
            let set = try KeySet(parsing: Array(keySet(key, good).utf8))
            #expect(set.keys.map(\.identifier) == ["g"], "\(key)")
            #expect(set.omissions.count == 1 && set.omissions[0].contains(reason), "\(set.omissions) \(reason)")
            #expect(throws: StrictJSON.Failure.self) { try KeySet(parsing: Array(keySet(key).utf8)) }
        }
        let many = (0..<65).map { _ in good }.joined(separator: ",")
        for text in ["", "{}", "[]", "{\"keys\":{}}", "{\"keys\":[]}", "{\"keys\":[1]}", "{\"keys\":[\(many)]}"] {
            #expect(throws: StrictJSON.Failure.self) { try KeySet(parsing: Array(text.utf8)) }
        }
        let large = keySet(good).dropLast() + ",\"x\":\"\(String(repeating: "x", count: 256 << 10))\"}"
        #expect(throws: StrictJSON.Failure.self) { try KeySet(parsing: Array(large.utf8)) }
    }

    @Test("Where keys may come from")
    func locations() throws {
        for good in [
            "https://idp.example/keys", "https://idp.example:8443/k?x=1", "http://127.0.0.1:8080/k", "http://[::1]/k",
            "http://localhost/k", "http://LOCALHOST:1/k",
        ] {
            #expect(try issuer(good).keys == .url(good))
        }
        #expect(try issuer("keys.json").keys == .file("keys.json"))
        #expect(try issuer("file:/etc/keys.json").keys == .file("/etc/keys.json"))
        #expect(try issuer("file:///etc/keys.json").keys == .file("/etc/keys.json"))
        for bad in [
            "", "http://idp.example/keys", "http://127.0.0.1@evil.example/", "http://127.0.0.1.evil.example/",
            "http://localhost\\@evil.example/", "ftp://127.0.0.1/", "https://", "https:///x", "https://a b/",
            "https://user:secret@idp.example/", "https://x/\u{7F}", "http://[::2]/",
            "https://x/" + String(repeating: "y", count: 2_048),
        ] {
            #expect(throws: TokenIssuer.Failure.self, "\(bad)") { try issuer(bad) }
        }
        #expect(throws: TokenIssuer.Failure.self) { try issuer("/x", leeway: 601) }
        #expect(throws: TokenIssuer.Failure.self) { try issuer("/x", algorithms: []) }
        #expect(throws: TokenIssuer.Failure.self) { try TokenIssuer(issuer: "x", audience: "", keys: "/x") }
    }
}
