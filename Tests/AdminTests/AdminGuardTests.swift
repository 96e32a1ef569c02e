import Core
import Synchronization
import Testing
import Web

@testable import Admin

/// Who may manage, by password, token or certificate.
@Suite struct AdminGuardTests {
    /// Knows `right` as everybody's password, tokens that are the user's name, and certificates.
    private struct Door: Authenticator {
        var mechanisms: [SASLMechanism] = [.oauthBearer]

        func authenticate(
            _ credentials: Credentials, reply: @escaping @Sendable (AuthenticationResult) -> Void
        ) -> AuthenticationResult? {
            guard credentials.protocolName == "admin" else { return .refused(.anonymousNotAllowed) }
            if let token = credentials.token {
                let name = String(decoding: token, as: UTF8.self)
                if name == "many" { return .refused(.tooManyFailures) }
                return name == "bad" ? .refused(.badCredentials) : .accepted(Identity(user: name))
            }
            if let user = credentials.user {
                let isRight = credentials.password == Array("right".utf8)
                return isRight ? .accepted(Identity(user: user)) : .refused(.badCredentials)
            }
            return credentials.certificateUser.map { .accepted(Identity(user: $0)) } ?? .refused(.anonymousNotAllowed)
        }
    }

    private final class Outcome: Sendable {
        let answer = Mutex<HTTPResponse?>(nil)
    }

    /// What a request is answered; 200 stands for being let pass.
    private static func ask(
        _ authorization: String?, certificate: String? = nil, users: Set<String> = ["anna"], _ door: Door = Door(),
        method: Method = .get, rules: AccessRules = .none, audit: Records? = nil
    ) throws -> HTTPResponse {
        var headers = Headers()
        if let authorization { headers.add("Authorization", authorization) }
        var request = try HTTPRequest(method: method, target: "/v1/node", headers: headers, host: "any.name")
        request.sender.certificateUser = certificate
        let outcome = Outcome()
        let responder = HTTPResponder(execute: { $0() }, answer: { answer in outcome.answer.withLock { $0 = answer } })
        let router = Router(limits: Limits(), accessRules: rules, hashKey: 1)
        AdminGuard(users: users, authenticator: door, router: router, audit: audit).check(request, responder) {
            $0.send(HTTPResponse(status: 200))
        }
        return try #require(outcome.answer.withLock { $0 })
    }

    @Test func whoMay() throws {
        // anna:right, bert:right, anna:wrong, nobody:wrong
        #expect(try Self.ask("Basic YW5uYTpyaWdodA==").status == 200)
        #expect(try Self.ask("Basic YmVydDpyaWdodA==").status == 403)
        let wrong = try ["Basic YW5uYTp3cm9uZw==", "Basic bm9ib2R5Ondyb25n"].map { try Self.ask($0) }
        #expect(wrong[0].status == 401)
        #expect(wrong[0] == wrong[1], "nobody learns who there is")
        #expect(try Self.ask("Bearer anna").status == 200)
        #expect(try Self.ask("Bearer bert").status == 403)
        #expect(try Self.ask("Bearer many").status == 429)
        #expect(try Self.ask(nil, certificate: "anna").status == 200)
        #expect(try Self.ask(nil, certificate: "bert").status == 403)
        #expect(try Self.ask("Bearer bad", certificate: "anna").status == 401)
        #expect(try Self.ask("Digest x", certificate: "anna").status == 401)
    }

    /// What was recorded.
    private final class Records: AuditSink {
        let all = Mutex<[AuditRecord]>([])
        func record(_ record: AuditRecord) { all.withLock { $0.append(record) } }
    }

    @Test("A rule for somebody decides, whatever the list of users says")
    func rules() throws {
        let rules = try AccessRules([
            AccessRule(effect: .deny, action: .admin, topics: [], users: ["anna"]),
            AccessRule(effect: .allow, action: .admin, topics: [], users: ["bert"]),
        ])
        #expect(try Self.ask("Bearer anna", rules: rules).status == 403)
        #expect(try Self.ask("Bearer bert", rules: rules).status == 200)
        #expect(try Self.ask("Bearer carl", rules: rules).status == 403)
        #expect(try Self.ask("Bearer bert", users: [], rules: rules).status == 200)
        #expect(try Self.ask(nil, users: [], rules: rules).status == 401)
    }

    @Test("Refusals and changes are recorded with who it was, and no look that was allowed")
    func records() throws {
        let records = Records()
        _ = try Self.ask("Bearer anna", audit: records)
        #expect(records.all.withLock { $0 }.isEmpty)
        _ = try Self.ask("Bearer anna", method: .delete, audit: records)
        _ = try Self.ask("Bearer bert", audit: records)
        let all = records.all.withLock { $0 }
        #expect(all.map(\.isRefusal) == [false, true])
        #expect(all.map(\.user) == ["anna", nil])
        #expect(all.allSatisfy { $0.kind == .administration && $0.action.hasSuffix("/v1/node") })
    }

    @Test func challenges() throws {
        let basic = #"Basic realm="apus", charset="UTF-8""#
        #expect(try Self.ask(nil).headers.all("WWW-Authenticate") == [basic, #"Bearer realm="apus""#])
        #expect(
            try Self.ask("Bearer bad").headers.all("WWW-Authenticate")
                == [basic, #"Bearer realm="apus", error="invalid_token""#])
        let without = try Self.ask("Bearer anna", Door(mechanisms: []))
        #expect(without.status == 401)
        #expect(without.headers.all("WWW-Authenticate") == [basic])
    }
}
