/// A webhook as the router knows it: a port whose events wait until the target has them.
import Core
import Logging

/// Confined to its lane, as every port. The ``WebhookSchedule`` decides, the ``Courier`` sends; here events come in,
/// wait, and are counted.
final class WebhookInbox: Inbox {
    private(set) var definition: WebhookDefinition
    let filters: [TopicFilter]
    let isConfigured: Bool
    private var schedule: WebhookSchedule
    private var target: Courier.Target
    private let courier: Courier
    /// When the courier is going to wake it; nil for never.
    private var alarmAt: UInt64?
    private var isPresent = true
    private var isFailing = false
    /// Set when the node stops: until when it may go on, in the lane's milliseconds, and who is told that it has ended.
    private var leaving: (until: UInt64, ended: () -> Void)?
    private var hasEnded = false

    private var delivered: UInt64 = 0
    private var retried: UInt64 = 0
    private var rejected: UInt64 = 0
    private var expired: UInt64 = 0
    private var dropped: UInt64 = 0
    private var lastStatus: Int?
    private var lastError: String?

    init(
        _ definition: WebhookDefinition, filters: [TopicFilter], principal: Principal, isConfigured: Bool,
        courier: Courier
    ) {
        self.definition = definition
        self.filters = filters
        self.isConfigured = isConfigured
        self.courier = courier
        schedule = WebhookSchedule(definition.policy)
        target = Courier.Target(definition)
        super.init(principal: principal)
    }

    private var router: Router { principal.router }

    /// Another target or other times for the same events. What is under way still goes to the target before.
    func change(_ definition: WebhookDefinition, on lane: Lane) {
        self.definition = definition
        target = Courier.Target(definition)
        schedule.change(definition.policy)
        lastError = nil
        pump(on: lane)
        noteTarget(on: lane)
    }

    // MARK: Events in

    override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
        var refused = 0
        for index in 0..<run.pointee.count {
            // A direct event as well stays until the target has it, once there was room for it.
            let entry = EventQueue.Entry(
                event: run.pointee.event(index), qos: min(run.pointee.qos, 1), isRetained: false, group: lane.group)
            if !take(entry, on: lane), entry.qos > 0 { refused += 1 }
        }
        pump(on: lane)
        return refused
    }

    /// - Returns: false when the event was dropped, which has been counted.
    private func take(_ entry: EventQueue.Entry, on lane: Lane) -> Bool {
        guard !entry.event.isExpired(at: lane.now) else {
            lane.counters.drop(.expired)
            expired += 1
            return false
        }
        if waiting.isEmpty, schedule.hasRoom(maxBytes: lane.limits.maxQueuedBytes) {
            schedule.admit(entry)
            return true
        }
        let before = lane.counters.dropped[DropReason.queueFull.rawValue]
        defer { dropped += lane.counters.dropped[DropReason.queueFull.rawValue] - before }
        return wait(entry, on: lane)
    }

    // MARK: Events out

    /// Sends what may be sent, and asks to be woken when more may.
    private func pump(on lane: Lane) {
        repeat { refill(on: lane) } while sendSome(on: lane)
        let deadline = schedule.deadline(after: lane.now)
        guard deadline != alarmAt else { return }
        alarmAt = deadline
        courier.post(.wake(address, at: deadline ?? 0))
    }

    private func refill(on lane: Lane) {
        let before = lane.counters.dropped[DropReason.expired.rawValue]
        while !waiting.isEmpty, schedule.hasRoom(maxBytes: lane.limits.maxQueuedBytes),
            let entry = nextWaiting(on: lane)
        {
            schedule.admit(entry)
        }
        expired += lane.counters.dropped[DropReason.expired.rawValue] - before
    }

    /// - Returns: whether there is room for events that wait.
    private func sendSome(on lane: Lane) -> Bool {
        var hasLeft = false
        while let step = schedule.next(at: lane.now) {
            switch step {
            case .expired:
                lane.counters.drop(.expired)
                expired += 1
                hasLeft = true
            case .send(let sequence, let event, let attempt):
                if attempt == 1 { lane.counters.eventsOut &+= 1 }
                courier.post(
                    .send(
                        Courier.Delivery(
                            address: address, sequence: sequence, target: target, event: event, attempt: attempt)))
            }
        }
        return hasLeft && !waiting.isEmpty
    }

    /// The courier has something to say.
    func take(_ report: Courier.Report, on lane: Lane) {
        switch report {
        case .alarm: alarmAt = nil
        case .finished(let sequence, let outcome, let failure): finish(sequence, outcome, failure, on: lane)
        }
        pump(on: lane)
        noteTarget(on: lane)
        judgeLeaving(on: lane)
    }

    private func finish(
        _ sequence: UInt64, _ outcome: WebhookSchedule.Outcome, _ failure: String?, on lane: Lane
    ) {
        let verdict = schedule.finish(sequence, outcome, at: lane.now, random: courier.settings.random())
        if case .answered(let status, _) = outcome { lastStatus = status }
        lastError = failure
        switch verdict {
        case .delivered: delivered += 1
        case .retry:
            retried += 1
            giveUpUnreadable(on: lane)
        case .rejected, .abandoned:
            rejected += 1
            lane.counters.drop(.webhookRejected)
        case .stale: break
        }
    }

    // MARK: Access rules

    override func rightsChanged(on lane: Lane) {
        super.rightsChanged(on: lane)
        giveUpUnreadable(on: lane)
        pump(on: lane)
    }

    /// What is to be tried again came under the rules of that time.
    private func giveUpUnreadable(on lane: Lane) {
        for entry in schedule.giveUp(where: { !maySendAgain($0.event, group: $0.group) }) {
            if entry.group == 0 {
                lane.counters.drop(.notReadable)
                dropped += 1
            } else {
                lane.redistributeLater(entry.event, group: entry.group, in: router)
            }
        }
    }

    // MARK: Whether the target is there

    /// While attempts fail other members of the shared group take the events, those that wait already as well. One that
    /// has nothing left to try with counts as present again when its time has come: its next event is the probe.
    private func noteTarget(on lane: Lane) {
        let fails = schedule.circuit != .closed
        if fails != isFailing {
            isFailing = fails
            let logger = courier.settings.logger
            if fails {
                logger.warning(
                    "webhook's target fails",
                    metadata: ["webhook": "\(definition.name)", "error": "\(lastError ?? "-")"])
            } else {
                logger.notice("webhook delivers again", metadata: ["webhook": "\(definition.name)"])
            }
        }
        let isWanted = leaving == nil && schedule.wantsEvents(at: lane.now)
        guard isWanted != isPresent else { return }
        isPresent = isWanted
        router.setPresence(self, isPresent)
        if !isPresent { shareOut(isEnding: false, on: lane) }
    }

    /// Gives events of shared groups to other members; while the webhook lives only those that wait, and only to
    /// members that are present.
    /// - Returns: how many there are that nobody else can take.
    @discardableResult
    private func shareOut(isEnding: Bool, on lane: Lane) -> Int {
        var kept = 0
        let waiting = shareOut(isEnding: isEnding, on: lane) { mayLeave in
            guard isEnding else { return [] }
            let sent = schedule.takeAll()
            let leaving = sent.filter { mayLeave($0.group) }
            kept = sent.count - leaving.count
            return leaving.map { ($0.event, $0.group) }
        }
        return kept + waiting
    }

    // MARK: The end

    /// Removes the webhook: nothing more is sent, what others may take they are given, the rest is forgotten.
    func end(on lane: Lane) { _ = endNow(on: lane) }

    private func endNow(on lane: Lane) -> (shared: Int, left: Int) {
        guard !hasEnded else { return (0, 0) }
        hasEnded = true
        let count = waiting.count + schedule.count
        courier.post(.cancel(address))
        router.unregister(self, on: lane)
        let left = shareOut(isEnding: true, on: lane)
        leaving?.ended()
        leaving = nil
        return (count - left, left)
    }

    /// The node stops: nothing new comes, as far as others can take it. What there is has until `until` to reach the
    /// target; the webhook ends as soon as nothing is left that might.
    /// - Parameter ended: called once, on the lane.
    func leave(by until: UInt64, on lane: Lane, _ ended: @escaping () -> Void) {
        leaving = (until, ended)
        if definition.group == nil {
            // Nobody can take it: rather nobody is asked to.
            for filter in filters { _ = router.unsubscribe(self, filter) }
        } else {
            isPresent = false
            router.setPresence(self, false)
        }
        pump(on: lane)
        judgeLeaving(on: lane)
    }

    private func judgeLeaving(on lane: Lane) {
        guard let leaving, !schedule.isWorthWaiting(until: leaving.until, at: lane.now) else { return }
        endWithNode(on: lane)
    }

    /// The node stops, and the time is over, or nothing more would come of it: others of its group are given what is
    /// left; what nobody else can take is counted.
    func endWithNode(on lane: Lane) {
        let (shared, left) = endNow(on: lane)
        guard shared + left > 0 else { return }
        dropped += UInt64(left)
        lane.counters.drop(.stopping, left)
        courier.settings.logger.log(
            level: left > 0 ? .warning : .notice, "webhook ends with events that its target does not have",
            metadata: [
                "webhook": "\(definition.name)", "to_its_group": "\(shared)", "lost": "\(left)",
                "error": "\(lastError ?? "-")",
            ])
    }

    // MARK: Management

    /// What it tells about itself.
    func describe(on lane: Lane) -> WebhookDescription {
        var shown = definition
        shown.secret = nil
        shown.url = WebhookURL.masked(shown.url)
        let circuit: WebhookDescription.Circuit =
            switch schedule.circuit {
            case .closed: .closed
            case .open: .open
            case .halfOpen: .halfOpen
            }
        return WebhookDescription(
            definition: shown, hasSecret: definition.secret != nil, user: principal.identity.user,
            isConfigured: isConfigured, circuit: circuit, queuedEvents: waiting.count + schedule.count,
            queuedBytes: waiting.bytes + schedule.bytes, underWay: schedule.underWay, delivered: delivered,
            retried: retried, rejected: rejected, expired: expired, dropped: dropped, lastStatus: lastStatus,
            lastError: lastError,
            nextAttemptMilliseconds: schedule.underWay > 0
                ? nil : schedule.deadline(after: lane.now).map { $0 > lane.now ? $0 - lane.now : 0 })
    }
}

extension WebhookDefinition {
    /// The part of it that says when and how often.
    var policy: WebhookSchedule.Policy {
        WebhookSchedule.Policy(
            parallelism: parallelism, backoff: Backoff(first: retryFirstMilliseconds, highest: retryMaxMilliseconds),
            attempts: attempts, rejectedCodes: rejectedCodes)
    }
}
