import Core
import Testing

@testable import AMQP

@Suite struct SASLServerTests {
    let server = SASLServer(mechanisms: [.external, .plain, .anonymous])

    /// The answer to a body of a SASL frame.
    private func take(_ body: [UInt8], type: UInt8 = 1) throws -> SASLServer.Initial {
        try body.withUnsafeBytes {
            try server.take(Frame(length: body.count + 8, type: type, channel: 0, performative: nil, body: $0))
        }
    }

    private func initial(_ mechanism: String, _ response: [UInt8]?, hostname: String? = nil) -> [UInt8] {
        var fields: [UInt8] = [0xA3, UInt8(mechanism.utf8.count)] + mechanism.utf8
        fields += response.map { [0xA0, UInt8($0.count)] + $0 } ?? [0x40]
        if let hostname { fields += [0xA1, UInt8(hostname.utf8.count)] + hostname.utf8 }
        return [0x00, 0x53, 0x41, 0xC0, UInt8(fields.count + 1), hostname == nil ? 2 : 3] + fields
    }

    private func condition(_ body: [UInt8], type: UInt8 = 1) -> AMQPError.Condition? {
        do {
            _ = try take(body, type: type)
            return nil
        } catch let error as AMQPError {
            return error.condition
        } catch {
            return nil
        }
    }

    // MARK: Out

    @Test func greets() {
        let output = KeptOutput()
        SASLServer(mechanisms: [.plain, .anonymous]).writeGreeting(to: output)
        let array: [UInt8] = [0xE0, 18, 2, 0xA3, 5] + Array("PLAIN".utf8) + [9] + Array("ANONYMOUS".utf8)
        let frame: [UInt8] = [0, 0, 0, 34, 2, 1, 0, 0, 0x00, 0x53, 0x40, 0xC0, 21, 1] + array
        #expect(output.takeBytes() == Array("AMQP".utf8) + [3, 1, 0, 0] + frame)
    }

    @Test func greetsWithOneMechanism() {
        let output = KeptOutput()
        SASLServer(mechanisms: [.plain]).writeGreeting(to: output)
        let array: [UInt8] = [0xE0, 8, 1, 0xA3, 5] + Array("PLAIN".utf8)
        #expect(
            Array(output.takeBytes().dropFirst(8)) == [0, 0, 0, 24, 2, 1, 0, 0, 0, 0x53, 0x40, 0xC0, 11, 1] + array)
    }

    @Test(arguments: [SASLServer.Code.ok, .auth, .sys, .sysPermanent, .sysTemporary])
    func writesAnOutcome(_ code: SASLServer.Code) {
        let output = KeptOutput()
        server.writeOutcome(code, to: output)
        #expect(output.takeBytes() == [0, 0, 0, 16, 2, 1, 0, 0, 0, 0x53, 0x44, 0xC0, 3, 1, 0x50, code.rawValue])
    }

    // MARK: In

    @Test func readsPlain() throws {
        let initial = try take(initial("PLAIN", Array("\0ada\0se cret".utf8), hostname: "mesh"))
        #expect(initial.mechanism == .plain)
        #expect(initial.user == "ada")
        #expect(initial.password == Array("se cret".utf8))
        #expect(initial.authorizationID == nil)
        #expect(initial.hostname == "mesh")
        let other = try take(self.initial("PLAIN", Array("grace\0adä\0ß".utf8)))
        #expect(other.authorizationID == "grace")
        #expect(other.user == "adä")
        #expect(other.password == Array("ß".utf8))
        #expect(other.hostname == nil)
    }

    @Test func readsAnonymousAndExternal() throws {
        for response in [nil, [], Array("me@here".utf8), [0xFF, 0]] as [[UInt8]?] {
            let initial = try take(initial("ANONYMOUS", response))
            #expect(initial.mechanism == .anonymous)
            #expect(initial.user == nil && initial.password == nil && initial.authorizationID == nil)
        }
        #expect(try take(initial("EXTERNAL", nil)).authorizationID == nil)
        #expect(try take(initial("EXTERNAL", [])).authorizationID == nil)
        let external = try take(initial("EXTERNAL", Array("ada".utf8)))
        #expect(external.mechanism == .external)
        #expect(external.authorizationID == "ada")
        #expect(external.user == nil)
    }

    @Test func readsEveryEncoding() throws {
        let name: [UInt8] = [0xB3, 0, 0, 0, 5] + Array("PLAIN".utf8)
        let response: [UInt8] = [0xB0, 0, 0, 0, 4] + [0, 97, 0, 98]
        let host: [UInt8] = [0xB1, 0, 0, 0, 1, 104]
        let list: [UInt8] = [0xD0, 0, 0, 0, 29, 0, 0, 0, 3] + name + response + host
        let symbol = Array("amqp:sasl-init:list".utf8)
        for descriptor in [
            [0x53, 0x41], [0x80, 0, 0, 0, 0, 0, 0, 0, 0x41], [0xA3, 19] + symbol, [0xB3, 0, 0, 0, 19] + symbol,
        ] as [[UInt8]] {
            let initial = try take([0x00] + descriptor + list)
            #expect(initial.user == "a")
            #expect(initial.password == [98])
            #expect(initial.hostname == "h")
        }
    }

    /// A mechanism that is not offered, and responses that are none.
    @Test func refusesWhatIsNoAnswer() throws {
        for (mechanism, response) in [
            ("SCRAM-SHA-256", []), ("plain", Array("\0a\0b".utf8)), ("PLAI", nil), ("", nil), ("PLAIN", nil),
            ("PLAIN", []),
            ("PLAIN", Array("a".utf8)), ("PLAIN", Array("\0a".utf8)), ("PLAIN", Array("\0\0b".utf8)),
            ("PLAIN", Array("\0a\0".utf8)), ("PLAIN", Array("\0a\0b\0c".utf8)), ("PLAIN", Array("\0a\0b\0".utf8)),
            ("PLAIN", [0, 0xFF, 0, 98]), ("PLAIN", [0, 97, 0, 0xC3]), ("PLAIN", [0xFE, 0, 97, 0, 98]),
            ("EXTERNAL", [0xFF]), ("EXTERNAL", [97, 0, 98]),
        ] as [(String, [UInt8]?)] {
            #expect(condition(initial(mechanism, response)) == .unauthorizedAccess, "\(mechanism) \(response ?? [])")
        }
        let onlyPlain = SASLServer(mechanisms: [.plain])
        let body = initial("ANONYMOUS", nil)
        #expect(throws: AMQPError.self) {
            try body.withUnsafeBytes {
                try onlyPlain.take(Frame(length: 8, type: 1, channel: 0, performative: nil, body: $0))
            }
        }
    }

    @Test func refusesWhatIsNoInit() {
        let good = initial("PLAIN", Array("\0ada\0secret".utf8), hostname: "mesh")
        #expect(condition(good, type: 0) == .notAllowed)
        for length in 0..<good.count { #expect(condition(Array(good.prefix(length))) != nil, "\(length)") }
        #expect(condition(good + [0x40]) == .decodeError)
        // sasl-outcome, and a number that does not fit.
        #expect(condition([0x00, 0x53, 0x44, 0xC0, 3, 1, 0x50, 0]) == .notAllowed)
        #expect(condition([0x00, 0x80, 1, 0, 0, 0, 0, 0, 0, 0x41, 0x45]) == .notAllowed)
        // No list, an empty one, and no mechanism.
        #expect(condition([0x00, 0x53, 0x41, 0xA1, 0]) == .decodeError)
        #expect(condition([0x00, 0x53, 0x41, 0x45]) == .decodeError)
        #expect(condition([0x00, 0x53, 0x41, 0xC0, 1, 0]) == .decodeError)
        #expect(condition([0x00, 0x53, 0x41, 0xC0, 2, 1, 0x40]) == .decodeError)
        // Counts and sizes that are not there.
        #expect(condition([0x00, 0x53, 0x41, 0xC0, 0, 0]) == .decodeError)
        #expect(condition([0x00, 0x53, 0x41, 0xC0, 2, 2, 0x40]) == .decodeError)
        #expect(condition([0x00, 0x53, 0x41, 0xD0, 0, 0, 0, 0, 0, 0, 0, 0]) == .decodeError)
        #expect(condition([0x00, 0x53, 0x41, 0xD0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]) == .decodeError)
        #expect(condition([0x00, 0x53, 0x41, 0xC0, 6, 1, 0xB3, 0xFF, 0xFF, 0xFF, 0xFF]) == .decodeError)
        // Fields of other types, and more of them than there are.
        #expect(condition([0x00, 0x53, 0x41, 0xC0, 3, 1, 0xA1, 0]) == .decodeError)
        #expect(condition([0x00, 0x53, 0x41, 0xC0, 5, 2, 0xA3, 0, 0xA3, 0]) == .decodeError)
        #expect(condition([0x00, 0x53, 0x41, 0xC0, 7, 4, 0xA3, 0, 0x40, 0x40, 0x40, 0x40]) == .decodeError)
        // A hostname that is no text.
        #expect(
            condition([0x00, 0x53, 0x41, 0xC0, 16, 3, 0xA3, 9] + Array("ANONYMOUS".utf8) + [0x40, 0xA1, 1, 0xFF])
                == .decodeError)
    }

    // MARK: Exchanges

    private static let exchanging = SASLServer(mechanisms: SASLServer.Mechanism.allCases)

    private func response(_ body: [UInt8], type: UInt8 = 1) throws -> [UInt8] {
        try body.withUnsafeBytes {
            try server.takeResponse(Frame(length: body.count + 8, type: type, channel: 0, performative: nil, body: $0))
        }
    }

    @Test func readsTheFirstMessage() throws {
        for (name, mechanism) in [("SCRAM-SHA-256", SASLMechanism.scramSHA256), ("OAUTHBEARER", .oauthBearer)] {
            for message in [nil, [], [0, 1, 0xFF]] as [[UInt8]?] {
                let body = initial(name, message)
                let initial = try body.withUnsafeBytes {
                    try Self.exchanging.take(
                        Frame(length: body.count + 8, type: 1, channel: 0, performative: nil, body: $0))
                }
                #expect(initial.mechanism.exchange == mechanism)
                #expect(initial.message == message)
                #expect(initial.user == nil && initial.password == nil)
            }
        }
    }

    @Test func readsResponses() throws {
        let symbol = Array("amqp:sasl-response:list".utf8)
        for descriptor in [
            [0x53, 0x43], [0x80, 0, 0, 0, 0, 0, 0, 0, 0x43], [0xA3, 23] + symbol, [0xB3, 0, 0, 0, 23] + symbol,
        ] as [[UInt8]] {
            #expect(try response([0x00] + descriptor + [0xC0, 6, 1, 0xA0, 3, 0, 1, 0xFF]) == [0, 1, 0xFF])
            #expect(try response([0x00] + descriptor + [0xD0, 0, 0, 0, 9, 0, 0, 0, 1, 0xB0, 0, 0, 0, 0]) == [])
        }
        let good: [UInt8] = [0x00, 0x53, 0x43, 0xC0, 6, 1, 0xA0, 3, 0, 1, 0xFF]
        for length in 0..<good.count { #expect(throws: AMQPError.self) { try response(Array(good.prefix(length))) } }
        #expect(throws: AMQPError.self) { try response(good, type: 0) }
        for body in [
            good + [0x40], [0x00, 0x53, 0x43, 0x45], [0x00, 0x53, 0x43, 0xC0, 2, 1, 0x40],
            [0x00, 0x53, 0x41, 0xC0, 6, 1, 0xA0, 3, 0, 1, 0xFF], [0x00, 0x53, 0x43, 0xC0, 3, 1, 0xA1, 0],
            [0x00, 0x53, 0x43, 0xC0, 6, 1, 0xB0, 0xFF, 0xFF, 0xFF, 0xFF],
        ] as [[UInt8]] {
            #expect(throws: AMQPError.self, "\(body)") { try response(body) }
        }
    }

    @Test func tellsNoSecret() throws {
        for response in ["\0ada\0hunter2\0", "ada\0hunter2", "\0hunter2\0"] {
            do {
                _ = try take(initial("PLAIN", Array(response.utf8)))
                Issue.record("taken")
            } catch let error as AMQPError {
                #expect(!error.text.contains("hunter2") && !error.text.contains("ada"))
                #expect(error.info.isEmpty)
            }
        }
    }
}
