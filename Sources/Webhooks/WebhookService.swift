/// Outgoing webhooks: events that match a webhook's filters are sent to its target by HTTP, each at least once while
/// the node lives. What was created over an interface is gone after a restart, and so is every event that waits:
/// webhooks of the configuration begin anew.
public import Core
import Glibc
import Synchronization

/// The webhooks of a node, in one namespace.
///
/// Threading: callable from any thread, never waits but in ``stop(graceMilliseconds:)``. Answers come on a lane or on
/// the courier's thread, or at once; never, when the lanes have been stopped.
public final class WebhookService: Sendable {
    /// What became of a definition.
    public enum PutAnswer: Sendable, Equatable {
        /// The webhook is new.
        case created
        /// There was one of this name. Its events stay if filters, group and identity are the same; otherwise they are
        /// gone, those of a shared group to other members.
        case replaced
        /// A field breaks a rule.
        case invalid(WebhookDefinition.Failure)
        /// The identity may not subscribe to this filter.
        case notAuthorized(filter: String)
        /// There are ``Limits/maxWebhooks``.
        case overLimit
        /// There is one of this name in the configuration: what says it there can be changed there only.
        case configured
        /// Nothing can be sent: libcurl is missing, or the node is stopping.
        case unavailable(String)
    }

    /// What became of a removal.
    public enum RemoveAnswer: Sendable, Equatable {
        /// It is gone with everything that waited in it.
        case removed
        /// There is none of this name.
        case unknown
        /// It is the configuration's.
        case configured
    }

    /// A webhook of the configuration.
    public struct Configured: Sendable {
        /// What it is.
        public var definition: WebhookDefinition
        /// Whose rights it has; see ``WebhookService/identity(ofConfigured:namespace:)``.
        public var identity: Identity

        /// Makes one.
        public init(definition: WebhookDefinition, identity: Identity) {
            self.definition = definition
            self.identity = identity
        }
    }

    private struct Entry {
        var isConfigured: Bool
        /// Changes that its lane has not heard of yet; until then the name is taken, whatever they come to.
        var changes = 0
    }

    private let lanes: Lanes
    private let router: Router
    private let courier: Courier
    /// The names in use. Lanes are called under its lock, so that they hear of changes in the order of the registry's.
    private let registry = Mutex<[String: Entry]>([:])

    /// Makes the service; nothing is started before there is a webhook.
    public init(_ settings: WebhookSettings, lanes: Lanes, router: Router) {
        self.lanes = lanes
        self.router = router
        instanceID = settings.instanceID
        courier = Courier(lanes: lanes, settings: settings)
    }

    /// The node's id in every request's `Apus-Webhook`, in front of a `/` and the webhook's name. A listener refuses
    /// what carries its own node's id (508): the event comes from here.
    public let instanceID: String

    /// The name of the request's field that carries ``instanceID``.
    public static let originField = "Apus-Webhook"

    /// Who a webhook of the configuration is when it names no user: `webhook:<name>`, for access rules to name.
    public static func identity(ofConfigured name: String, namespace: String = "default") -> Identity {
        Identity(namespace: namespace, user: "webhook:\(name)")
    }

    // MARK: Life

    /// Takes the configuration's webhooks.
    /// - Parameter answer: called once for each of them.
    public func start(
        _ configured: [Configured], answer: @escaping @Sendable (_ name: String, PutAnswer) -> Void
    ) {
        for webhook in configured {
            let name = webhook.definition.name
            put(webhook.definition, as: webhook.identity, isConfigured: true) { answer(name, $0) }
        }
    }

    /// Ends all webhooks. Others of their groups are chosen from now on. What waits and what is under way has a while
    /// to reach its target; what is left goes to other members of the groups, and is counted (``DropReason/stopping``)
    /// where there can be none. Call it before the lanes are stopped, and not on one.
    public func stop(graceMilliseconds: UInt64) {
        let until = Courier.now + graceMilliseconds
        guard courier.refuseNew() else { return }
        let left = Left()
        left.count.store(lanes.count, ordering: .relaxed)
        for number in 0..<lanes.count {
            lanes.call(number) { lane in
                WebhookLane.of(lane).leave(by: until, left, on: lane)
                left.count.subtract(1, ordering: .acquiringAndReleasing)
            }
        }
        left.wait(until: until)
        courier.stop()
        let lanesLeft = Left()
        lanesLeft.count.store(lanes.count, ordering: .relaxed)
        for number in 0..<lanes.count {
            lanes.call(number) { lane in
                WebhookLane.of(lane).endWithNode(on: lane)
                lanesLeft.count.subtract(1, ordering: .acquiringAndReleasing)
            }
        }
        lanesLeft.wait(until: Courier.now + Self.lastMilliseconds)
    }

    /// What lanes have to do their last in.
    private static let lastMilliseconds: UInt64 = 500

    /// Things that have not come to their end.
    fileprivate final class Left: Sendable {
        let count = Atomic(0)

        /// Waits until there are none. Not on a lane.
        func wait(until end: UInt64) {
            while count.load(ordering: .acquiring) > 0, Courier.now < end { usleep(1_000) }
        }
    }

    // MARK: Changing

    /// Creates a webhook, or replaces the one of its name.
    /// - Parameter identity: who asks; the webhook has its rights.
    public func put(
        _ definition: WebhookDefinition, as identity: Identity, answer: @escaping @Sendable (PutAnswer) -> Void
    ) {
        put(definition, as: identity, isConfigured: false, answer: answer)
    }

    private func put(
        _ definition: WebhookDefinition, as identity: Identity, isConfigured: Bool,
        answer: @escaping @Sendable (PutAnswer) -> Void
    ) {
        let filters: [TopicFilter]
        do throws(WebhookDefinition.Failure) {
            filters = try definition.check(limits: router.limits)
        } catch { return answer(.invalid(error)) }
        courier.whenReady { [self] failure in
            if let failure { return answer(.unavailable(failure)) }
            let refusal = registry.withLock { registry -> PutAnswer? in
                if let known = registry[definition.name] {
                    if known.isConfigured, !isConfigured { return .configured }
                } else if registry.count >= router.limits.maxWebhooks {
                    return .overLimit
                }
                registry[definition.name, default: Entry(isConfigured: isConfigured)].changes += 1
                lanes.call(laneNumber(of: definition.name)) { [self] lane in
                    let webhooks = WebhookLane.of(lane)
                    let principal = Principal(
                        identity: identity, clientID: "webhook:\(definition.name)", router: router)
                    principal.protocolName = "webhook"
                    let result = webhooks.install(
                        definition, filters, principal,
                        isConfigured: isConfigured, courier: courier, on: lane)
                    settle(definition.name, webhooks.webhook(definition.name))
                    answer(result)
                }
                return nil
            }
            if let refusal { answer(refusal) }
        }
    }

    /// A lane has made a change, or refused to.
    private func settle(_ name: String, _ webhook: WebhookInbox?) {
        let isConfigured = webhook?.isConfigured
        registry.withLock { registry in
            guard var entry = registry[name] else { return }
            entry.changes -= 1
            entry.isConfigured = isConfigured ?? entry.isConfigured
            registry[name] = isConfigured == nil && entry.changes == 0 ? nil : entry
        }
    }

    /// Removes a webhook that was created by ``put(_:as:answer:)``. Events of its shared group go to other members.
    public func remove(_ name: String, answer: @escaping @Sendable (RemoveAnswer) -> Void) {
        let refusal = registry.withLock { registry -> RemoveAnswer? in
            guard let entry = registry[name] else { return .unknown }
            guard !entry.isConfigured else { return .configured }
            registry[name]?.changes += 1
            lanes.call(laneNumber(of: name)) { [self] lane in
                let webhooks = WebhookLane.of(lane)
                let isRemoved = webhooks.remove(name, on: lane)
                settle(name, nil)
                answer(isRemoved ? .removed : .unknown)
            }
            return nil
        }
        if let refusal { answer(refusal) }
    }

    /// Webhooks by the lane that a name belongs to: spread, and always the same.
    private func laneNumber(of name: String) -> Int {
        var name = name
        let hash = name.withUTF8 { bytes in
            bytes.baseAddress.map { hashBytes($0, bytes.count, key: router.hashSeed) } ?? 0
        }
        return Int(hash % UInt64(lanes.count))
    }

    // MARK: Looking

    /// What a webhook tells about itself; nil when there is none of this name.
    public func describe(_ name: String, answer: @escaping @Sendable (WebhookDescription?) -> Void) {
        lanes.call(laneNumber(of: name)) { lane in
            answer(WebhookLane.of(lane).webhook(name)?.describe(on: lane))
        }
    }

    /// What all webhooks tell about themselves, by name.
    public func list(answer: @escaping @Sendable ([WebhookDescription]) -> Void) {
        lanes.gather {
            WebhookLane.of($0).describe(on: $0)
        } then: { descriptions in
            answer(descriptions.flatMap { $0 }.sorted { $0.definition.name < $1.definition.name })
        }
    }
}

/// The webhooks of one lane.
private final class WebhookLane {
    private static let name = "webhooks"
    private var webhooks: [String: WebhookInbox] = [:]
    private var isLeaving = false

    static func of(_ lane: Lane) -> WebhookLane {
        if let known = lane.belongings[name] as? WebhookLane { return known }
        let made = WebhookLane()
        lane.belongings[name] = made
        return made
    }

    func webhook(_ name: String) -> WebhookInbox? { webhooks[name] }

    func describe(on lane: Lane) -> [WebhookDescription] { webhooks.values.map { $0.describe(on: lane) } }

    /// The node stops: nobody new, and each ends when it has nothing more to do.
    func leave(by until: UInt64, _ left: WebhookService.Left, on lane: Lane) {
        isLeaving = true
        for (_, webhook) in webhooks.sorted(by: { $0.key < $1.key }) {
            left.count.add(1, ordering: .acquiringAndReleasing)
            webhook.leave(by: until, on: lane) { left.count.subtract(1, ordering: .acquiringAndReleasing) }
        }
    }

    /// The time is over.
    func endWithNode(on lane: Lane) {
        for (_, webhook) in webhooks.sorted(by: { $0.key < $1.key }) { webhook.endWithNode(on: lane) }
    }

    func install(
        _ definition: WebhookDefinition, _ filters: [TopicFilter], _ principal: Principal, isConfigured: Bool,
        courier: Courier, on lane: Lane
    ) -> WebhookService.PutAnswer {
        guard !isLeaving else { return .unavailable(Courier.stopping) }
        let known = webhooks[definition.name]
        // Another identity might not have been given what waits.
        if let known, known.filters == filters, known.principal.identity == principal.identity,
            known.isConfigured == isConfigured
        {
            // The rules may have changed since.
            if let refused = subscribe(known, definition, on: lane) { return .notAuthorized(filter: refused) }
            known.change(definition, on: lane)
            return .replaced
        }
        let inbox = WebhookInbox(
            definition, filters: filters, principal: principal, isConfigured: isConfigured, courier: courier)
        principal.router.register(inbox, on: lane)
        if let refused = subscribe(inbox, definition, on: lane) {
            // What was there before stays.
            principal.router.unregister(inbox, on: lane)
            return .notAuthorized(filter: refused)
        }
        webhooks[definition.name] = inbox
        known?.end(on: lane)
        return known == nil ? .created : .replaced
    }

    /// - Returns: the filter that was refused, if one was.
    private func subscribe(_ inbox: WebhookInbox, _ definition: WebhookDefinition, on lane: Lane) -> String? {
        let weight = definition.weight.flatMap { MemberWeight.parse($0) }
        return inbox.filters.first { filter in
            let subscription = Subscription(filter: filter, options: .qos(1), weight: weight)
            let outcome = inbox.principal.router.subscribe(
                inbox, subscription, as: inbox.principal, on: lane)
            if case .granted = outcome { return false }
            return true
        }?.wholeText
    }

    /// - Returns: whether it was there.
    func remove(_ name: String, on lane: Lane) -> Bool {
        guard let known = webhooks.removeValue(forKey: name) else { return false }
        known.end(on: lane)
        return true
    }
}
