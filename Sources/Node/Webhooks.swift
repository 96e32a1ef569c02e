/// The node's webhooks, as the HTTP listener and the configuration manage them.
import Core
import Dispatch
import Logging
import Security
import Web
import Webhooks

/// Translates between the documents of the listener and the service.
struct WebhookManager: WebhookManaging {
    let service: WebhookService

    func put(
        _ draft: WebhookDraft, as identity: Identity, answer: @escaping @Sendable (WebhookPutAnswer) -> Void
    ) {
        let definition = WebhookDefinition(draft)
        let service = service
        service.put(definition, as: identity) { outcome in
            if let problem = Problem(outcome) { return answer(.failure(problem)) }
            service.describe(draft.name) { description in
                guard let description else { return answer(.failure(Problem(409, "Somebody removed it meanwhile."))) }
                answer(.success((outcome == .created, WebhookDocument(description))))
            }
        }
    }

    func remove(_ name: String, answer: @escaping @Sendable (Problem?) -> Void) {
        service.remove(name) { outcome in
            switch outcome {
            case .removed: answer(nil)
            case .unknown: answer(Problem(404, "There is no webhook of this name."))
            case .configured: answer(.configured)
            }
        }
    }

    func list(_ name: String?, answer: @escaping @Sendable ([WebhookDocument]) -> Void) {
        if let name {
            service.describe(name) { answer($0.map { [WebhookDocument($0)] } ?? []) }
        } else {
            service.list { answer($0.map { WebhookDocument($0) }) }
        }
    }

    /// Starts those of the configuration, before anybody can publish: an event that is acknowledged reaches them.
    /// What cannot be is an error in the log, the node runs nevertheless. Returns once all have subscribed, after two
    /// seconds at the latest.
    func start(_ webhooks: [WebhookEntry], users: [User]) {
        let logger = Logger(label: "webhooks")
        let configured = webhooks.map { entry in
            let identity = entry.user.map { name in
                Identity(user: name, groups: users.first { $0.name == name }?.groups ?? [])
            }
            return WebhookService.Configured(
                definition: entry.definition,
                identity: identity ?? WebhookService.identity(ofConfigured: entry.definition.name))
        }
        let starting = DispatchGroup()
        for _ in configured { starting.enter() }
        service.start(configured) { name, outcome in
            defer { starting.leave() }
            guard let problem = Problem(outcome) else { return }
            logger.error("webhook not started", metadata: ["webhook": "\(name)", "problem": "\(problem.detail)"])
        }
        guard starting.wait(timeout: .now() + 2) == .timedOut else { return }
        logger.warning("webhooks are slow to start: what is published until then does not reach them")
    }
}

extension Problem {
    fileprivate static let configured = Problem(
        409, "A webhook of this name is in the configuration, and can be changed there only.")

    /// What somebody is told who did not get a webhook.
    fileprivate init?(_ outcome: WebhookService.PutAnswer) {
        switch outcome {
        case .created, .replaced: return nil
        case .invalid(let failure): self.init(400, "\(failure.field): \(failure.rule).")
        case .notAuthorized(let filter): self.init(403, "Subscribing to \(filter) is not allowed.")
        case .overLimit:
            self.init(429, "There are as many webhooks as there may be.")
            headers.add("Retry-After", "60")
        case .configured: self = .configured
        case .unavailable(let reason): self.init(503, reason)
        }
    }
}

extension WebhookDefinition {
    fileprivate init(_ draft: WebhookDraft) {
        self.init(name: draft.name, url: draft.url, filters: draft.filters)
        group = draft.group
        weight = draft.weight
        secret = draft.secret
        // Beyond any limit is refused by the check that follows; here it must only not overflow.
        func milliseconds(_ seconds: Int) -> UInt64 { UInt64(min(max(seconds, 0), 1 << 40)) * 1_000 }
        if let number = draft.parallelism { parallelism = number }
        if let seconds = draft.retryFirstSeconds { retryFirstMilliseconds = milliseconds(seconds) }
        if let seconds = draft.retryMaxSeconds {
            // At least the first wait; but nothing is not a wait.
            retryMaxMilliseconds = seconds > 0 ? max(milliseconds(seconds), retryFirstMilliseconds) : 0
        } else {
            retryMaxMilliseconds = max(retryMaxMilliseconds, retryFirstMilliseconds)
        }
        if let number = draft.attempts { attempts = number }
        if let codes = draft.rejectedCodes { rejectedCodes = Set(codes) }
        if let seconds = draft.timeoutSeconds { timeoutMilliseconds = milliseconds(seconds) }
    }
}

extension WebhookDocument {
    fileprivate init(_ description: WebhookDescription) {
        let definition = description.definition
        var draft = WebhookDraft(name: definition.name)
        draft.url = definition.url
        draft.filters = definition.filters
        draft.group = definition.group
        draft.weight = definition.weight
        draft.parallelism = definition.parallelism
        draft.retryFirstSeconds = Int(clamping: definition.retryFirstMilliseconds / 1_000)
        draft.retryMaxSeconds = Int(clamping: definition.retryMaxMilliseconds / 1_000)
        draft.attempts = definition.attempts
        draft.rejectedCodes = definition.rejectedCodes.sorted()
        draft.timeoutSeconds = Int(clamping: definition.timeoutMilliseconds / 1_000)
        self.init(draft)
        hasSecret = description.hasSecret
        user = description.user
        isConfigured = description.isConfigured
        circuit = description.circuit.rawValue
        counts = [
            ("queued_events", description.queuedEvents), ("queued_bytes", description.queuedBytes),
            ("under_way", description.underWay), ("delivered", Int(clamping: description.delivered)),
            ("retried", Int(clamping: description.retried)), ("rejected", Int(clamping: description.rejected)),
            ("expired", Int(clamping: description.expired)), ("dropped", Int(clamping: description.dropped)),
        ]
        lastStatus = description.lastStatus
        lastError = description.lastError
    }
}
