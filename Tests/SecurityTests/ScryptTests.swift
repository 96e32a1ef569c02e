import Security
import Testing

private let cheap = ScryptCost.least

@Suite("Password hashes")
struct ScryptTests {
    @Test("A hash survives its text, knows its password and no other")
    func roundTrip() throws {
        for password in ["", "x", "correct horse battery staple", String(repeating: "ü", count: 500)] {
            let hash = try ScryptHash(password: Array(password.utf8), cost: cheap)
            let again = try ScryptHash(parsing: hash.encoded)
            #expect(again == hash)
            #expect(try again.matches(Array(password.utf8)))
            #expect(try !again.matches(Array((password + "!").utf8)))
        }
    }

    @Test("Any bytes are a password, zeros too")
    func binaryPasswords() throws {
        let hash = try ScryptHash(password: [1, 0, 2], cost: cheap)
        #expect(try hash.matches([1, 0, 2]))
        #expect(try !hash.matches([1, 0, 3]))
        #expect(try !hash.matches([1]))
    }

    @Test("The standard cost is the documented one")
    func standardCost() throws {
        let hash = try ScryptHash(password: Array("secret".utf8))
        #expect(hash.encoded.hasPrefix("$scrypt$ln=14,r=8,p=1$"))
        #expect(try hash.matches(Array("secret".utf8)))
    }

    @Test("A vector of another implementation (RFC 7914, section 12)")
    func knownVector() throws {
        // N=16384, r=8, p=1, salt "SodiumChloride", password "pleaseletmein", 64 bytes.
        let hash = try ScryptHash(
            parsing: "$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU$"
                + "cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofLVQylVYT8Pz2LUlwUkKpr55h6F3A1lHkDfzwF7RVdYhw")
        #expect(try hash.matches(Array("pleaseletmein".utf8)))
    }

    @Test(
        "Malformed and excessive hashes are refused",
        arguments: [
            "", "$", "secret", "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaA",
            "$scrypt$ln=14,r=8$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
            "$scrypt$ln=14,r=8,p=1,x=2$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
            "$scrypt$ln=x,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
            "$scrypt$ln=30,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
            "$scrypt$ln=17,r=16,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
            "$scrypt$ln=-1,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
            "$scrypt$ln=2,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
            "$scrypt$ln=99999999999999999999,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
            "$scrypt$ln=14,r=8,p=1$AAAA$AAAAAAAAAAAAAAAAAAAAAA",
            "$scrypt$ln=14,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAA",
            "$scrypt$ln=14,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAA",
            "$scrypt$ln=14,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAB$AAAAAAAAAAAAAAAAAAAAAA",
            "$scrypt$ln=14,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA$",
            "$scrypt$ln=14,r=8,p=1$AAAA AAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
        ])
    func malformed(text: String) {
        #expect(throws: ScryptError.self) { try ScryptHash(parsing: text) }
    }

    @Test("A description shows neither salt nor key")
    func description() throws {
        let hash = try ScryptHash(password: Array("secret".utf8), cost: cheap)
        #expect("\(hash)" == "ScryptHash(ln=10,r=8,p=1)")
        #expect(!String(reflecting: hash).contains("secret"))
    }
}
