public import Core

/// What somebody asks for with `PUT /webhooks/<name>`; nil leaves the default.
public struct WebhookDraft: Sendable {
    /// The name out of the path.
    public var name: String
    /// The target.
    public var url = ""
    /// Which events are sent.
    public var filters: [String] = []
    /// The shared group that it is a member of.
    public var group: String?
    /// What it is to have of the group's events, 0…1000.
    public var weight: Int?
    /// The key of the signature.
    public var secret: String?
    /// Requests at once.
    public var parallelism: Int?
    /// Seconds until the second attempt.
    public var retryFirstSeconds: Int?
    /// The most seconds between two attempts.
    public var retryMaxSeconds: Int?
    /// Attempts for one event; 0 for any number.
    public var attempts: Int?
    /// Status codes that mean: never.
    public var rejectedCodes: [Int]?
    /// Seconds for one attempt.
    public var timeoutSeconds: Int?
}

/// What a webhook tells about itself.
public struct WebhookDocument: Sendable {
    /// What was asked for, with all defaults filled in and without the secret.
    public var draft: WebhookDraft
    /// Whether requests are signed.
    public var hasSecret = false
    /// Whose rights it has; nil for an anonymous client.
    public var user: String?
    /// Whether the configuration says it.
    public var isConfigured = false
    /// `closed`, `open` or `half_open`.
    public var circuit = "closed"
    /// Numbers by their names in the document: queued events and bytes, delivered, retried and so on.
    public var counts: [(name: String, value: Int)] = []
    /// The status of the last answer.
    public var lastStatus: Int?
    /// Why the last attempt did not succeed.
    public var lastError: String?

    /// A document of a webhook.
    public init(_ draft: WebhookDraft) { self.draft = draft }
}

extension WebhookDraft {
    /// A draft with a name.
    public init(name: String) { self.name = name }
}

/// What became of a draft: whether the webhook is new, and how it is; or why there is none.
public typealias WebhookPutAnswer = Result<(isNew: Bool, document: WebhookDocument), Problem>

/// Who has the node's webhooks.
public protocol WebhookManaging: Sendable {
    /// Creates or replaces one; the answer is whether it is new, and the problem if there is one.
    func put(_ draft: WebhookDraft, as identity: Identity, answer: @escaping @Sendable (WebhookPutAnswer) -> Void)
    /// Removes one.
    func remove(_ name: String, answer: @escaping @Sendable (Problem?) -> Void)
    /// All of them, or the one with a name.
    func list(_ name: String?, answer: @escaping @Sendable ([WebhookDocument]) -> Void)
}

extension WebSite {
    /// `/webhooks` and `/webhooks/<name>`.
    func manageWebhooks(
        _ name: String?, _ request: HTTPRequest, _ principal: Principal, _ connection: HTTPConversation, _ lane: Lane
    ) throws(Problem) -> RequestVerdict {
        guard let webhooks = context.webhooks else { throw Problem(404, "This node has no webhooks.") }
        let users = context.settings.webhookUsers
        let mayManage =
            users.isEmpty ? connection.link.isLocal : principal.identity.user.map { users.contains($0) } ?? false
        guard mayManage else {
            throw .forbidden(
                users.isEmpty
                    ? "Without http.webhook_users only this machine may manage webhooks."
                    : "Only http.webhook_users may manage webhooks.", principal, context)
        }
        switch (request.method, name) {
        case (.put, let name?):
            let draft = try WebhookDraft(name: name, request)
            let responder = connection.answerLater(on: lane)
            webhooks.put(draft, as: principal.identity) { result in
                switch result {
                case .success(let (isNew, document)):
                    responder.send {
                        HTTPResponse(status: isNew ? 201 : 200, type: "application/json", body: document.json)
                    }
                case .failure(let problem): responder.send(problem)
                }
            }
        case (.delete, let name?):
            let responder = connection.answerLater(on: lane)
            webhooks.remove(name) { problem in responder.send(problem?.response ?? .noContent) }
        case (_, let name):
            let responder = connection.answerLater(on: lane)
            webhooks.list(name) { documents in
                responder.send { Self.response(documents, name) }
            }
        }
        return .later
    }

    private static func response(_ documents: [WebhookDocument], _ name: String?) -> HTTPResponse {
        if name != nil {
            guard let document = documents.first else {
                return Problem(404, "There is no webhook of this name.").response
            }
            return HTTPResponse(type: "application/json", body: document.json)
        }
        var json = JSONWriter()
        json.beginObject()
        json.key("webhooks")
        json.beginArray()
        for document in documents { json.raw(document.json) }
        json.endArray()
        json.endObject()
        return HTTPResponse(type: "application/json", body: json.bytes)
    }
}

extension WebhookDraft {
    /// Reads the body of a request.
    fileprivate init(name: String, _ request: HTTPRequest) throws(Problem) {
        let type = Array((request.headers["Content-Type"] ?? "").utf8)
        guard type.withUnsafeBytes({ MediaType.isJSON($0) }) else {
            throw Problem(415, "Content-Type is application/json.")
        }
        self.init(name: name)
        let body = request.body
        let result = body.withUnsafeBytes { bytes in
            Result { () throws(Problem) in try take(bytes) }
        }
        try result.get()
        guard !url.isEmpty else { throw Problem(400, "url: it is missing.") }
    }

    private mutating func take(_ bytes: UnsafeRawBufferPointer) throws(Problem) {
        let members: JSONEvent.Members
        do throws(JSONScanner.Failure) { members = try JSONScanner.members(of: bytes) } catch {
            throw Problem(400, "The body is no JSON object: \(error.text)")
        }
        if let twice = JSONScanner.duplicate(in: members) {
            throw Problem(400, "\(JSONEvent.shown(twice)): it is given twice.")
        }
        for (name, value) in members {
            func text() throws(Problem) -> String {
                guard let text = JSONScanner.string(value, in: bytes) else {
                    throw Problem(400, "\(name): a text is expected.")
                }
                return text
            }
            func number() throws(Problem) -> Int {
                guard let number = JSONScanner.integer(value, in: bytes), number >= 0 else {
                    throw Problem(400, "\(name): a whole number is expected.")
                }
                return number
            }
            switch name {
            case "url": url = try text()
            case "group": group = try text()
            case "weight": weight = try number()
            case "secret": secret = try text()
            case "parallelism": parallelism = try number()
            case "retry_first": retryFirstSeconds = try number()
            case "retry_max": retryMaxSeconds = try number()
            case "attempts": attempts = try number()
            case "timeout": timeoutSeconds = try number()
            case "filters": filters = try Self.list(value, bytes, name) { JSONScanner.string($0, in: $1) }
            case "rejected_codes":
                rejectedCodes = try Self.list(value, bytes, name) { JSONScanner.integer($0, in: $1) }
            default: throw Problem(400, "\(JSONEvent.shown(name)): a webhook has no such member.")
            }
        }
    }

    private static func list<Element>(
        _ value: JSONScanner.Value, _ bytes: UnsafeRawBufferPointer, _ name: String,
        _ read: (JSONScanner.Value, UnsafeRawBufferPointer) -> Element?
    ) throws(Problem) -> [Element] {
        let slice = JSONScanner.slice(value, of: bytes)
        guard value.kind == .array, let elements = try? JSONScanner.elements(of: slice) else {
            throw Problem(400, "\(name): a list is expected.")
        }
        var list: [Element] = []
        for element in elements {
            guard let read = read(element, slice) else { throw Problem(400, "\(name): an element is of another kind.") }
            list.append(read)
        }
        return list
    }
}

extension WebhookDocument {
    /// The document.
    fileprivate var json: [UInt8] {
        var json = JSONWriter()
        json.beginObject()
        json.key("name")
        json.string(draft.name)
        json.key("url")
        json.string(draft.url)
        json.key("filters")
        json.beginArray()
        for filter in draft.filters { json.string(filter) }
        json.endArray()
        if let group = draft.group {
            json.key("group")
            json.string(group)
        }
        if let weight = draft.weight {
            json.key("weight")
            json.number(weight)
        }
        json.key("signed")
        json.bool(hasSecret)
        let numbers = [
            ("parallelism", draft.parallelism), ("retry_first", draft.retryFirstSeconds),
            ("retry_max", draft.retryMaxSeconds), ("attempts", draft.attempts), ("timeout", draft.timeoutSeconds),
        ]
        for case (let name, let number?) in numbers {
            json.key(text: name.utf8)
            json.number(number)
        }
        if let codes = draft.rejectedCodes {
            json.key("rejected_codes")
            json.beginArray()
            for code in codes { json.number(code) }
            json.endArray()
        }
        if let user {
            json.key("user")
            json.string(user)
        }
        json.key("configured")
        json.bool(isConfigured)
        json.key("circuit")
        json.string(circuit)
        for (name, value) in counts {
            json.key(text: name.utf8)
            json.number(value)
        }
        if let lastStatus {
            json.key("last_status")
            json.number(lastStatus)
        }
        if let lastError {
            json.key("last_error")
            json.string(lastError)
        }
        json.endObject()
        return json.bytes
    }
}
