/// Who acts: an identity with a client id, what the access rules say about it, and its quotas. Every publish and
/// subscribe is made by one. Belongs to the lane of its connection.
public final class Principal {
    /// The proven identity.
    public let identity: Identity
    /// The client id of the connection.
    public let clientID: String
    /// The router of its namespace.
    public let router: Router
    /// Whether it is the node itself, which alone may publish under `$` and is bound by no rules and no quota.
    let isNode: Bool
    /// The rules that can apply to it; nil means everything is allowed.
    private var access: ResolvedAccess?
    /// The version of the rules that ``access`` was resolved from.
    private var accessVersion: UInt64
    /// Decisions by the match cache's serial numbers; made when the first rule is asked.
    private var decisions: UnsafeMutablePointer<UInt64>?
    private static let decisionCount = 64
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
        self.identity = identity
        self.clientID = clientID
        self.router = router
        isNode = false
        let (rules, version) = router.accessRules
        access = rules.resolve(for: identity, clientID: clientID)
        accessVersion = version
    }

    /// The same principal for another lane, or for something that outlives its connection: what is remembered of
    /// decisions holds for one lane only.
    public func again() -> Principal {
        Principal(identity: identity, clientID: clientID, router: router, allowance: allowance)
    }

    /// The same client whose identity has been proven anew: what it has used up of its quotas stays used up.
    public func renewed(_ identity: Identity) -> Principal {
        let renewed = Principal(identity: identity, clientID: clientID, router: router, allowance: allowance)
        (renewed.tokens, renewed.tokensAt, renewed.pacing) = (tokens, tokensAt, pacing)
        return renewed
    }

    /// The node itself, in a namespace.
    private init(nodeOf router: Router) {
        identity = Identity(namespace: router.name, user: nil)
        clientID = ""
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
    /// - Parameter serial: the match cache's number for the topic, under which the decision is remembered.
    @inline(__always)
    func mayPublish(_ topic: UnsafeRawBufferPointer, serial: UInt64) -> Bool {
        if accessVersion != router.accessVersion { resolveAgain() }
        // Topics under `$` belong to the node (MQTT 3.1.1 §4.7.2).
        guard let access else { return topic[0] != UInt8(ascii: "$") || isNode }
        return remembered(access, topic, serial: serial)
    }

    /// The rules have been reloaded.
    @inline(never)
    private func resolveAgain() {
        let (rules, version) = router.accessRules
        access = isNode ? nil : rules.resolve(for: identity, clientID: clientID)
        accessVersion = version
        decisions?.update(repeating: 0, count: Self.decisionCount)
    }

    private func remembered(_ access: ResolvedAccess, _ topic: UnsafeRawBufferPointer, serial: UInt64) -> Bool {
        let decisions = self.decisions ?? makeDecisions()
        let place = Int(serial) & (Self.decisionCount - 1)
        if decisions[place] >> 1 == serial { return decisions[place] & 1 == 1 }
        let allowed = topic[0] != UInt8(ascii: "$") && access.mayPublish(topic)
        decisions[place] = serial << 1 | (allowed ? 1 : 0)
        return allowed
    }

    private func makeDecisions() -> UnsafeMutablePointer<UInt64> {
        let made = UnsafeMutablePointer<UInt64>.allocate(capacity: Self.decisionCount)
        made.initialize(repeating: 0, count: Self.decisionCount)
        decisions = made
        return made
    }

    /// Whether it may subscribe to all that a filter matches.
    func maySubscribe(_ filter: TopicFilter) -> Bool {
        if accessVersion != router.accessVersion { resolveAgain() }
        return access?.maySubscribe(filter) ?? true
    }

    /// Whether it may be given what is published to a topic: the same as a subscription to just this topic.
    func mayRead(_ topic: UnsafeRawBufferPointer) -> Bool {
        if accessVersion != router.accessVersion { resolveAgain() }
        return access?.mayRead(topic) ?? true
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
