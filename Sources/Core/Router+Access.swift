// Access rules at the gate: what is refused is counted and recorded, and subscriptions are judged again when rules
// change or when somebody with other rights takes a port over.

import Synchronization

/// Threading: any lane; ``reload(_:)`` any thread.
extension Router {
    /// Replaces the rules. Every principal's next publish or subscribe is judged by the new ones. From the return on no
    /// event is matched to a subscription whose reader may not read it; subscriptions that the new rules do not allow
    /// any more are then ended by their lanes, in portions.
    public func reload(_ rules: AccessRules) {
        let lanes = replaceRules(rules)
        guard let lanes, !rules.rules.isEmpty else { return }
        for number in 0..<lanes.count {
            lanes.call(number) { [self] lane in review(ports: 1...UInt32.max, on: lane) }
        }
    }

    /// Somebody takes over a port that is there already: what it subscribes to is judged by the rights of the new one.
    /// - Returns: whether these are other rights.
    func replaceReader(of port: Port, _ principal: Principal) -> Bool {
        guard port.number != 0 else { return false }
        let (lanes, isChanged) = indexLock.withLock { _ -> (Lanes?, Bool) in
            guard index.replaceReader(principal.reader, of: port.number) else { return (nil, false) }
            noteChanges(of: port.number)
            return (self.lanes, true)
        }
        let number = port.number
        lanes?.call(port.address.lane) { [self] lane in review(ports: number...number, on: lane) }
        return isChanged
    }

    /// Whether the node itself reads at a port.
    func isNodesOwn(_ port: Port) -> Bool {
        port.number != 0
            && indexLock.withLock { _ in index.ports[port.number].reader?.takeUnretainedValue().isNode ?? false }
    }

    private func review(ports: ClosedRange<UInt32>, on lane: Lane) {
        let review = AccessReview(self, ports)
        review.address = lane.place(review, of: self)
        lane.workLater(review)
    }

    /// Whether somebody may publish to a topic, for those who ask before they publish. A refusal is counted and
    /// recorded.
    public func mayPublish(
        _ topic: UnsafeRawBufferPointer, isRetained: Bool, as principal: Principal, on lane: Lane
    ) -> Bool {
        if principal.mayPublish(topic, isRetained: isRetained) { return true }
        refused(isRetained ? .retain : .publish, topic, 1, as: principal, on: lane)
        return false
    }

    /// Counts and records events that were refused.
    @inline(never)
    func refused(
        _ action: AccessRule.Action, _ topic: UnsafeRawBufferPointer, _ count: Int, as principal: Principal,
        on lane: Lane
    ) {
        lane.counters.drop(.notAuthorized, count)
        let isAboutRetaining = action == .retain && principal.mayPublish(topic, isRetained: false)
        record(isAboutRetaining ? .retain : .publish, topic, as: principal, at: lane.now)
    }

    /// Counts and records a subscription that was refused.
    func refused(_ filter: TopicFilter, as principal: Principal, on lane: Lane) {
        lane.counters.subscriptionsRefused &+= 1
        guard audit != nil else { return }
        let action: AccessRule.Action = filter.group == nil ? .subscribe : .share
        Array(filter.wholeText.utf8).withUnsafeBytes { record(action, $0, as: principal, at: lane.now) }
    }

    private func record(
        _ action: AccessRule.Action, _ object: UnsafeRawBufferPointer, as principal: Principal, at now: UInt64
    ) {
        guard let audit, principal.isNewRefusal(action, object, now: now) else { return }
        var record = AuditRecord(.access, action.rawValue, reason: "the access rules do not allow it")
        record.object = String(decoding: object, as: UTF8.self)
        record.user = principal.identity.user
        record.clientID = principal.clientID
        record.peer = principal.peer
        record.protocolName = principal.protocolName
        audit.record(record)
    }

    // MARK: Judging again

    /// One step of a review: subscriptions that the rules do not allow any more are gone afterwards.
    fileprivate func step(_ review: inout TopicIndex.Review, on lane: Lane) -> TopicIndex.ReviewStep {
        let step = changingInterest {
            let step = index.step(&review, lane: lane.number)
            for filter in step.refused where index.unsubscribe(step.port, filter) { noteLocalChange(filter) }
            return step
        }
        return step
    }

    fileprivate func port(numbered number: UInt32, on lane: Lane) -> Port? {
        let address = indexLock.withLock { _ in index.ports[number].address }
        guard let port = lane.port(at: address), port.number == number else { return nil }
        return port
    }

    fileprivate func revoked(_ filter: TopicFilter, _ reader: Reader?, on lane: Lane) {
        guard let audit else { return }
        var record = AuditRecord(
            .access, filter.group == nil ? "subscribe" : "share",
            reason: "the access rules have changed and do not allow it any more")
        record.object = filter.wholeText
        record.user = reader?.identity.user
        record.clientID = reader?.clientID ?? ""
        audit.record(record)
    }
}

/// Judges the subscriptions of a lane's ports by the rules in force, a portion at a time. Until it has come to a port,
/// the index looks at each topic for that port.
private final class AccessReview: Port {
    private let router: Router
    private let version: UInt64
    private var review: TopicIndex.Review

    init(_ router: Router, _ ports: ClosedRange<UInt32>) {
        self.router = router
        version = router.accessVersion
        review = TopicIndex.Review(port: ports.lowerBound, last: ports.upperBound)
    }

    override func work(_ budget: inout Int, on lane: Lane) -> Bool {
        while budget > 0, version == router.accessVersion {
            let step = router.step(&review, on: lane)
            budget -= max(1, step.cost)
            if step.port != 0, !step.refused.isEmpty || step.finished != 0 {
                let port = router.port(numbered: step.port, on: lane)
                for filter in step.refused {
                    router.revoked(filter, step.reader, on: lane)
                    port?.revoked(filter, on: lane)
                }
                if step.finished != 0 { port?.rightsChanged(on: lane) }
            }
            if step.isFinished { return end(on: lane) }
        }
        // With newer rules another one has begun.
        return version == router.accessVersion || end(on: lane)
    }

    private func end(on lane: Lane) -> Bool {
        lane.displace(address)
        return false
    }
}
