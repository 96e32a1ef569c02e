import Core

/// Sessions and links: what attach asks for, and what it is given (§2.6.3).
extension AMQPConversation {
    // MARK: Attach

    /// Links that a connection may have: as many as eight full sessions, each of some kilobytes. Those that were
    /// refused count until the client detaches them, because the engine keeps them as long.
    func mostLinks(_ lane: Lane) -> Int { lane.limits.maxAMQPLinks * 8 }

    /// attach has come: answered in any case, with the link or with why not.
    func attached(_ handle: Engine.Link, _ engine: Engine, on lane: Lane) {
        let remote = engine.remoteAttach(handle)
        guardian.attached(
            handle, engine.name(handle), isOutgoing: !engine.isIncoming(handle), in: engine.session(of: handle))
        let refusedBefore = lane.counters.subscriptionsRefused
        do throws(AMQPError) {
            if engine.isIncoming(handle) {
                try attachIncoming(handle, remote, engine, lane)
            } else {
                try attachOutgoing(handle, remote, engine, lane)
            }
        } catch {
            if engine.isIncoming(handle) {
                lane.counters.framesRefused &+= 1
            } else if lane.counters.subscriptionsRefused == refusedBefore {
                // The router counts what it refuses itself.
                lane.counters.subscriptionsRefused &+= 1
            }
            refuse(handle, error, engine)
        }
        touch()
    }

    /// The link is forgotten at once: a client that tries again may use its name before it has answered the detach.
    private func refuse(_ handle: Engine.Link, _ error: AMQPError, _ engine: Engine) {
        engine.refuse(handle, error)
        engine.produce(into: link)
        guardian.refused(engine.name(handle), isOutgoing: !engine.isIncoming(handle), in: engine.session(of: handle))
        engine.free(handle)
    }

    /// A link that the client publishes on.
    private func attachIncoming(
        _ handle: Engine.Link, _ remote: RemoteAttach, _ engine: Engine, _ lane: Lane
    ) throws(AMQPError) {
        if remote.target.kind == .coordinator {
            throw AMQPError(.notImplemented, "transactions are not offered: this node has no coordinator")
        }
        guard remote.target.kind == .target else {
            throw AMQPError(.invalidField, "a link that sends needs a target; without an address it is anonymous")
        }
        var target = remote.target
        if target.isDynamic { target.address = context.dynamicAddress() }
        var topic: [UInt8]?
        var isClaims = false
        let address = try Address(
            target.address,
            capabilities: target.capabilities.filter { !$0.hasPrefix("temporary-") || !target.isDynamic },
            role: .target, context.settings, limits: lane.limits)
        switch address {
        case .topic(let found): topic = found
        case .anonymous: break
        case .claims: isClaims = true
        case .management: throw AMQPError(.notImplemented, "$management is not offered")
        case .queue(let name): throw Self.noQueue(name)
        case .filter: throw AMQPError(.invalidField, "a target is one topic, without wildcards")
        }
        let window = lane.limits.amqpCredit
        incomingLinks[handle] = IncomingLink(handle, engine, topic: topic, isClaims: isClaims, window: window)
        sessionLinks[engine.session(of: handle), default: []].insert(handle)
        target.expiry = .linkDetach
        target.timeout = 0
        target.durability = .none
        incomingLinks[handle]?.isDynamic = target.isDynamic
        engine.attach(
            handle,
            LocalAttach(
                source: remote.source, target: target, senderSettles: remote.senderSettles, receiverSettles: .first,
                maxMessageBytes: UInt64(lane.limits.maxPacketBytes)))
        engine.grant(handle, window)
    }

    private static func noQueue(_ name: String) -> AMQPError {
        AMQPError(.notImplemented, "there are no queues yet: '\(name)' may be a topic, as topic://\(name)")
    }

    /// A link that the client receives on.
    private func attachOutgoing(
        _ handle: Engine.Link, _ remote: RemoteAttach, _ engine: Engine, _ lane: Lane
    ) throws(AMQPError) {
        guard let principal else { throw AMQPError(.illegalState, "the connection is not open") }
        let state = context.state(of: lane)
        let key = LinkKey(namespace: principal.router.number, container: principal.clientID, name: engine.name(handle))
        if remote.source.kind == .null { return try attachToKnown(handle, key, remote, engine, state, lane) }
        var wish = try SourceWish(remote.source, key, context, lane.limits)
        if wish.isClaims {
            guard claimsLinks.count < Self.maxClaimsLinks else {
                throw AMQPError(.resourceLimitExceeded, "a connection may have \(Self.maxClaimsLinks) links from $cbs")
            }
            let outgoing = OutgoingLink(handle, engine, self, .settled)
            outgoing.claims = ClaimsOutbox(target: remote.target.address ?? "")
            claimsLinks.append(outgoing)
            note(outgoing, engine)
            return answer(handle, remote, wish.granted, .settled, engine)
        }
        try wish.take(weight: remote.weight)
        let subscriber = try subscriber(for: &wish, key, principal, state, lane)
        let mode = remote.senderSettles
        let outgoing = OutgoingLink(handle, engine, self, mode, maxMessageBytes: remote.maxMessageBytes)
        note(outgoing, engine)
        answer(handle, remote, wish.granted, mode, engine)
        subscriber.begin(outgoing, principal: principal, on: lane)
    }

    private func note(_ outgoing: OutgoingLink, _ engine: Engine) {
        outgoingLinks[outgoing.handle] = outgoing
        sessionLinks[engine.session(of: outgoing.handle), default: []].insert(outgoing.handle)
    }

    private func answer(
        _ handle: Engine.Link, _ remote: RemoteAttach, _ source: Terminus, _ mode: SenderSettleMode, _ engine: Engine
    ) {
        engine.attach(
            handle,
            LocalAttach(
                source: source, target: remote.target, senderSettles: mode, receiverSettles: .first,
                maxMessageBytes: 0))
    }

    /// An attach without a source asks for what the name stands for: so a client finds out about its durable
    /// subscription, or gets hold of it to end it.
    private func attachToKnown(
        _ handle: Engine.Link, _ key: LinkKey, _ remote: RemoteAttach, _ engine: Engine, _ state: AMQPLane, _ lane: Lane
    ) throws(AMQPError) {
        guard let principal, let known = known(key, principal, state) else {
            throw AMQPError(.notFound, "there is no subscription '\(key.name)' of container '\(key.container)'")
        }
        let outgoing = OutgoingLink(
            handle, engine, self, remote.senderSettles, maxMessageBytes: remote.maxMessageBytes)
        note(outgoing, engine)
        answer(handle, remote, known.source, remote.senderSettles, engine)
        known.begin(outgoing, principal: principal, on: lane)
    }

    private func isOwner(_ principal: Principal, of subscriber: Subscriber) -> Bool {
        subscriber.principal.identity.user == principal.identity.user
    }

    /// What a user has under a name: a durable subscription, or that of a link.
    private func known(_ key: LinkKey, _ principal: Principal, _ state: AMQPLane) -> Subscriber? {
        if let durable = state.subscribers[key], isOwner(principal, of: durable) { return durable }
        return state.subscribers[key.ofLinks(principal.identity.user)]
    }

    /// The subscription of a name: the one that is there if it is the same, else a new one.
    private func subscriber(
        for wish: inout SourceWish, _ key: LinkKey, _ principal: Principal, _ state: AMQPLane, _ lane: Lane
    ) throws(AMQPError) -> Subscriber {
        if wish.keepSeconds > 0, let other = state.subscribers[key], !isOwner(principal, of: other) {
            throw AMQPError(.resourceLocked, "the subscription '\(key.name)' belongs to another user")
        }
        if let known = known(key, principal, state) {
            if known.filter == wish.filter, known.isNoLocal == wish.isNoLocal, known.isDurable, wish.keepSeconds > 0 {
                // Attaching is subscribing again: the rules may have changed since.
                guard principal.router.mayShare(known.filter, as: principal, on: lane) else {
                    throw Self.mayNotSubscribe(known.filter)
                }
                known.setWeight(wish.weight, as: principal, on: lane)
                return known
            }
            // Another topic under the same name ends what was there, as JMS wants it.
            known.outgoing?.steal()
            known.end(on: lane)
        }
        guard let filter = wish.filter else { throw AMQPError(.invalidField, "the source names no topic") }
        let own = wish.keepSeconds > 0 ? key : key.ofLinks(principal.identity.user)
        let made = Subscriber(
            own, filter, isNoLocal: wish.isNoLocal, keepSeconds: wish.keepSeconds, weight: wish.weight,
            source: wish.granted, principal: principal, state: state)
        let router = principal.router
        router.register(made, on: lane)
        guard made.claimName(key.sessionName, on: lane) else {
            router.unregister(made, on: lane)
            throw AMQPError(.resourceLimitExceeded, "there are as many subscriptions of links as there may be")
        }
        let asker = wish.isDynamic || isOwnTarget(filter) ? Principal.node(router) : principal
        let subscription = Subscription(filter: filter, options: .qos(1), weight: made.weight)
        switch router.subscribe(made, subscription, as: asker, on: lane) {
        case .granted: break
        case .notAuthorized:
            made.end(on: lane)
            throw Self.mayNotSubscribe(filter)
        case .overLimit, .overQuota:
            made.end(on: lane)
            throw AMQPError(.resourceLimitExceeded, "too many subscriptions")
        }
        state.subscribers[own] = made
        if filter.group == nil, !wish.isDynamic { made.startRetained(on: lane) }
        return made
    }

    /// Whether a filter is the address of a dynamic target of this connection: its client may listen there as at a
    /// dynamic source, which is what JMS does at its temporary destinations.
    private func isOwnTarget(_ filter: TopicFilter) -> Bool {
        guard filter.group == nil, filter.bytes.starts(with: "apus/reply/".utf8) else { return false }
        return incomingLinks.values.contains { $0.isDynamic && $0.topic?.elementsEqual(filter.bytes) == true }
    }

    private static func mayNotSubscribe(_ filter: TopicFilter) -> AMQPError {
        AMQPError(.unauthorizedAccess, "subscribing to '\(filter.wholeText)' is not allowed")
    }

    // MARK: Detach and end

    /// detach has come (§2.6.5–2.6.6).
    func detached(_ handle: Engine.Link, isClosing: Bool, _ engine: Engine, on lane: Lane) {
        forget(handle, isClosing: isClosing, lane)
        sessionLinks[engine.session(of: handle)]?.remove(handle)
        engine.detach(handle, isClosing: isClosing, nil)
        engine.produce(into: link)
        engine.free(handle)
        touch()
    }

    private func forget(_ handle: Engine.Link, isClosing: Bool, _ lane: Lane) {
        if let incoming = incomingLinks.removeValue(forKey: handle) {
            incoming.forgetPartial(self)
            incoming.isGone = true
            incoming.release()
        }
        if let outgoing = outgoingLinks.removeValue(forKey: handle) {
            if outgoing.claims != nil { claimsLinks.removeAll { $0 === outgoing } }
            forgetWaiting(outgoing)
            outgoing.detach(isClosing: isClosing, on: lane)
            outgoing.release()
        }
    }

    /// end has come: all its links go with it (§2.5.4).
    func sessionEnded(_ session: Engine.Session, _ engine: Engine, on lane: Lane) {
        forgetLinks(of: session, lane)
        engine.end(session, nil)
        engine.produce(into: link)
        engine.free(session)
        touch()
    }

    /// Ends a session because of what the client did on it.
    func endSession(_ session: Engine.Session, _ error: AMQPError, on lane: Lane) {
        guard let engine else { return }
        forgetLinks(of: session, lane)
        engine.end(session, error)
        touch()
    }

    private func forgetLinks(of session: Engine.Session, _ lane: Lane) {
        guard let handles = sessionLinks.removeValue(forKey: session) else { return }
        for handle in handles { forget(handle, isClosing: false, lane) }
    }
}

/// What a receiving link asks for with its source (§3.5.3), and what of it is granted.
struct SourceWish {
    /// nil for `$cbs`.
    private(set) var filter: TopicFilter?
    private(set) var isNoLocal = false
    private(set) var isDynamic = false
    private(set) var isClaims = false
    /// Seconds that the subscription outlives its link.
    private(set) var keepSeconds = 0
    /// Of a member of a shared group; nil when none was said.
    private(set) var weight: UInt16?
    /// The source of the answer: filters that are not applied are left out (§3.5.8).
    private(set) var granted: Terminus

    /// - Throws: what cannot be given, and what could.
    init(_ source: Terminus, _ key: LinkKey, _ context: AMQPContext, _ limits: Limits) throws(AMQPError) {
        granted = source
        granted.filters = []
        if source.distributionMode == "copy" {
            throw AMQPError(.notImplemented, "browsing is not offered: distribution mode copy")
        }
        try takeFilters(source)
        if source.isDynamic {
            isDynamic = true
            let address = context.dynamicAddress()
            granted.address = address
            filter = try? TopicFilter(
                String(address.dropFirst(context.topicPrefix.count)), grammar: .mqtt, limits: limits)
            return
        }
        let address = try Address(
            source.address, capabilities: source.capabilities, role: .source, group: try Self.group(source, key),
            context.settings, limits: limits)
        switch address {
        case .filter(let found): filter = found
        case .topic, .anonymous: throw AMQPError(.invalidField, "a source needs an address")
        case .claims: isClaims = true
        case .management: throw AMQPError(.notImplemented, "$management is not offered")
        case .queue(let name):
            throw AMQPError(.notImplemented, "there are no queues yet: '\(name)' may be a topic, as topic://\(name)")
        }
        keepSeconds = Self.keepSeconds(source, limits)
    }

    /// Takes what the link's properties say of its weight.
    mutating func take(weight: Int64?) throws(AMQPError) {
        guard let weight else { return }
        guard let weight = MemberWeight.parse(weight) else {
            throw AMQPError(.invalidField, "\(RemoteAttach.weightName) is a whole number from 0 to 1000")
        }
        guard filter?.group != nil else {
            throw AMQPError(.invalidField, "\(RemoteAttach.weightName) is for members of a shared subscription")
        }
        self.weight = weight
    }

    private mutating func takeFilters(_ source: Terminus) throws(AMQPError) {
        for filter in source.filters {
            switch (filter.symbol ?? filter.name, filter.code) {
            case ("apache.org:no-local-filter:list", _), (_, 0x0000_468C_0000_0003), ("no-local", _):
                isNoLocal = true
                granted.filters.append(filter)
            case ("apache.org:selector-filter:string", _), (_, 0x0000_468C_0000_0004), ("jms-selector", _):
                throw AMQPError(.notImplemented, "selectors are not offered; subscribe to narrower topics instead")
            default: break
            }
        }
    }

    /// The group of a shared subscription: the link's name up to `|`, which numbers the members, and the container's
    /// unless the group is global (as Qpid JMS has it).
    private static func group(_ source: Terminus, _ key: LinkKey) throws(AMQPError) -> String? {
        guard source.capabilities.contains("shared") else { return nil }
        let name = key.name.prefix { $0 != "|" }
        guard !name.isEmpty else {
            throw AMQPError(.invalidField, "a shared subscription is named by its link's name, up to `|`")
        }
        return source.capabilities.contains("global") ? String(name) : "\(key.container)|\(name)"
    }

    private static func keepSeconds(_ source: Terminus, _ limits: Limits) -> Int {
        guard source.expiry != .never else { return limits.sessionExpirySeconds }
        return min(Int(source.timeout), limits.sessionExpirySeconds)
    }
}
