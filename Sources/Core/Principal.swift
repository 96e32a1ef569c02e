/// Who acts: an identity with a client id, what the access rules say about it, and its quotas. Every publish and
/// subscribe is made by one. Belongs to the lane of its connection.
public final class Principal {
    /// The proven identity.
    public var identity: Identity { reader.identity }
    /// The client id of the connection.
    public var clientID: String { reader.clientID }
    /// The router of its namespace.
    public let router: Router
    /// Whether it is the node itself, which alone may publish under `$` and is bound by no rules and no quota.
    let isNode: Bool
    /// What of it other lanes may see.
    let reader: Reader
    /// The peer's address, for the records of what is refused; empty when nobody has said.
    public var peer = ""
    /// The protocol, for the same.
    public var protocolName = ""
    /// The rules that can apply to it; nil means everything is allowed.
    private var access: ResolvedAccess?
    /// The version of the rules that ``access`` was resolved from.
    private var accessVersion: UInt64
    /// What has been refused and recorded lately; made when the first is.
    private var refusals: RecentRefusals?
    /// Decisions by the match cache's serial numbers; made when the first rule is asked, nil while there are none.
    private var decisions: UnsafeMutablePointer<UInt64>?
    /// Decisions there is room for, less one; grows for those who publish to many topics.
    private var decisionMask = 63
    private static let maxDecisions = 4_096
    /// Decisions that gave way to others since the room was last made.
    private var collisions = 0
    /// Thousandths of publish tokens left, refilled by the millisecond; only with a rate.
    private var tokens = 0
    private var tokensAt: UInt64 = 0
    /// What the quotas give to it; nil when they say nothing.
    let allowance: Allowance?
    /// Whether ``meter(_:on:)`` has to see what it publishes.
    public let isMetered: Bool
    /// How its conversation slows its client down.
    public var pacing = Pacing.none

    /// Makes a principal and resolves the rules that can apply to it.
    /// - Parameter link: where it comes from, for quotas by address and listener.
    public convenience init(identity: Identity, clientID: String, router: Router, link: Link? = nil) {
        let allowance = router.quotas?.allowance(of: identity, link: link)
        self.init(identity: identity, clientID: clientID, router: router, allowance: allowance)
    }

    private init(identity: Identity, clientID: String, router: Router, allowance: Allowance?) {
        self.allowance = allowance
        isMetered = router.limits.maxPublishRate > 0 || allowance?.limitsPublishing ?? false
        reader = Reader(identity: identity, clientID: clientID)
        self.router = router
        isNode = false
        let (rules, version) = router.accessRules
        access = rules.resolve(for: identity, clientID: clientID)
        accessVersion = version
    }

    /// The same principal for another lane, or for something that outlives its connection: what is remembered of
    /// decisions holds for one lane only.
    public func again() -> Principal {
        let other = Principal(identity: identity, clientID: clientID, router: router, allowance: allowance)
        (other.peer, other.protocolName) = (peer, protocolName)
        return other
    }

    /// The same client whose identity has been proven anew: what it has used up of its quotas stays used up.
    public func renewed(_ identity: Identity) -> Principal {
        let renewed = Principal(identity: identity, clientID: clientID, router: router, allowance: allowance)
        (renewed.tokens, renewed.tokensAt, renewed.pacing) = (tokens, tokensAt, pacing)
        (renewed.peer, renewed.protocolName) = (peer, protocolName)
        return renewed
    }

    /// The proof of who it is has ended, and with it the connection: an operator will want to know.
    public func proofHasEnded() {
        guard let audit = router.audit else { return }
        var record = AuditRecord(.authentication, "expire", reason: "the token or certificate has ended")
        record.user = identity.user
        record.clientID = clientID
        record.peer = peer
        record.protocolName = protocolName
        audit.record(record)
    }

    /// The node itself, in a namespace.
    private init(nodeOf router: Router) {
        reader = Reader(identity: Identity(namespace: router.name, user: nil), clientID: "", isNode: true)
        self.router = router
        isNode = true
        allowance = nil
        isMetered = false
        accessVersion = router.accessRules.version
    }

    /// The principal of what the node publishes about itself.
    public static func node(_ router: Router) -> Principal { Principal(nodeOf: router) }

    deinit { decisions?.deallocate() }

    /// Whether it may publish to a topic.
    /// - Parameters:
    ///   - isRetained: whether the event is to be kept, which needs a right of its own.
    ///   - serial: the match cache's number for the topic, under which the decision is remembered.
    @inline(__always)
    func mayPublish(_ topic: UnsafeRawBufferPointer, isRetained: Bool, serial: UInt64) -> Bool {
        if accessVersion != router.accessVersion { resolveAgain() }
        guard let decisions else {
            // Topics under `$` belong to the node (MQTT 3.1.1 §4.7.2).
            if access == nil { return topic[0] != UInt8(ascii: "$") || isNode }
            return decide(topic, isRetained: isRetained, serial: serial)
        }
        // What is known of this topic: 0 for nothing, 1 for publishing, 3 for retaining as well; more: it is another's.
        let known = decisions[Int(truncatingIfNeeded: serial) & decisionMask] ^ serial << 2
        if known | 2 == 3, !isRetained { return true }
        return known < 4 ? known & (isRetained ? 2 : 1) != 0 : decide(topic, isRetained: isRetained, serial: serial)
    }

    /// The same, not remembered.
    func mayPublish(_ topic: UnsafeRawBufferPointer, isRetained: Bool) -> Bool {
        if accessVersion != router.accessVersion { resolveAgain() }
        if topic.first == UInt8(ascii: "$") { return isNode }
        guard let access else { return true }
        return isRetained ? access.mayRetain(topic) : access.mayPublish(topic)
    }

    /// The rules have been reloaded.
    @inline(never)
    private func resolveAgain() {
        let (rules, version) = router.accessRules
        access = isNode ? nil : rules.resolve(for: identity, clientID: clientID)
        accessVersion = version
        guard access == nil else {
            decisions?.update(repeating: 0, count: decisionMask + 1)
            return
        }
        decisions?.deallocate()
        (decisions, decisionMask) = (nil, 63)
    }

    /// Asks the rules about a topic, and remembers the answer.
    @inline(never)
    private func decide(_ topic: UnsafeRawBufferPointer, isRetained: Bool, serial: UInt64) -> Bool {
        let decisions = roomForDecision(serial)
        let mayPublish = mayPublish(topic, isRetained: false)
        let answer: UInt64 = !mayPublish ? 0 : self.mayPublish(topic, isRetained: true) ? 3 : 1
        decisions[Int(truncatingIfNeeded: serial) & decisionMask] = serial << 2 | answer
        return answer & (isRetained ? 2 : 1) != 0
    }

    private func roomForDecision(_ serial: UInt64) -> UnsafeMutablePointer<UInt64> {
        if let decisions {
            if decisions[Int(truncatingIfNeeded: serial) & decisionMask] == 0 { return decisions }
            collisions += 1
            if collisions <= decisionMask || decisionMask + 1 == Self.maxDecisions { return decisions }
            decisions.deallocate()
            decisionMask = decisionMask * 4 + 3
        }
        collisions = 0
        let made = UnsafeMutablePointer<UInt64>.allocate(capacity: decisionMask + 1)
        made.initialize(repeating: 0, count: decisionMask + 1)
        decisions = made
        return made
    }

    /// How much of what a filter matches it may subscribe to, and the version of the rules that say so: 0 when there
    /// are none, nil for one whom none bind.
    func reach(_ filter: TopicFilter) -> (reach: AccessReach, version: UInt32?) {
        if accessVersion != router.accessVersion { resolveAgain() }
        guard let access else { return (.everything, isNode ? nil : 0) }
        return (access.reach(filter), UInt32(truncatingIfNeeded: accessVersion))
    }

    /// Whether it may be given what is published to a topic: the same as a subscription to just this topic.
    func mayRead(_ topic: UnsafeRawBufferPointer) -> Bool {
        if accessVersion != router.accessVersion { resolveAgain() }
        return access?.mayRead(topic) ?? true
    }

    /// Whether a refusal is to be recorded: the same one once in ten seconds.
    func isNewRefusal(_ action: AccessRule.Action, _ object: UnsafeRawBufferPointer, now: UInt64) -> Bool {
        let known = refusals ?? RecentRefusals(key: router.hashKey)
        refusals = known
        return known.isNew(action, object, now: now)
    }

    // MARK: Rate of one connection

    /// Takes `count` publish tokens of the limit for each connection. A run is taken whole while a token is left and
    /// may leave a debt, so that the rate holds whatever the size of the runs; but not of more than ten seconds.
    /// - Parameter now: the lane's time in milliseconds.
    /// - Returns: whether there was a token. If there was none, tokens are taken only where the client is slowed down.
    func takeOwn(_ count: Int, rate: Int, now: UInt64, inAnyCase: Bool) -> Bool {
        guard rate > 0 else { return true }
        refill(rate, now)
        let hadOne = tokens >= 1_000
        guard hadOne || inAnyCase else { return false }
        tokens = max(tokens - count * 1_000, min(tokens, -rate * Self.maxDebt))
        return hadOne
    }

    /// Tokens left of this limit.
    func ownTokens(rate: Int, now: UInt64) -> Int {
        refill(rate, now)
        return max(tokens / 1_000, 0)
    }

    /// Milliseconds until a hundredth of a second's tokens are there, at least one.
    func ownWait(rate: Int, now: UInt64) -> UInt64 {
        refill(rate, now)
        let missing = max(rate * 10, 1_000) - tokens
        return missing <= 0 ? 0 : UInt64((missing + rate - 1) / rate)
    }

    /// Milliseconds' worth of tokens that may be owed.
    private static let maxDebt = 10_000

    private func refill(_ rate: Int, _ now: UInt64) {
        let elapsed = Int(min(now &- tokensAt, 1 << 20))
        // A second's worth is the burst; a principal seen for the first time has it.
        tokens = tokensAt == 0 ? rate * 1_000 : min(rate * 1_000, tokens + rate * elapsed)
        tokensAt = now
    }
}
