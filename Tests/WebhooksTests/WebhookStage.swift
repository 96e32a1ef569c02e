import Core
import Foundation
import Logging
import Reactor
import Synchronization
import Testing

@testable import Webhooks

/// Lanes, a router and webhooks, for as long as a test needs them.
final class WebhookStage {
    let reactor: Reactor
    let router: Router
    let service: WebhookService

    struct Unanswered: Error {}

    init(lanes: Int = 2, limits: Limits = Limits(), rules: AccessRules = .none) throws {
        let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        router = Router(limits: limits, accessRules: rules, hashKey: 42)
        reactor = try Reactor(lanes: lanes, limits: limits, logger: logger)
        service = WebhookService(
            WebhookSettings(instanceID: "c0ffee", version: "9.9", logger: logger, random: { 0 }), lanes: reactor.lanes,
            router: router)
    }

    deinit {
        service.stop(graceMilliseconds: 0)
        reactor.stop(drainMilliseconds: 0)
    }

    /// Waits for what comes by a callback.
    static func answer<Answer: Sendable>(
        _ ask: (@escaping @Sendable (Answer) -> Void) -> Void
    ) throws -> Answer {
        let given = Mutex<Answer?>(nil)
        let box = Box(given)
        let semaphore = DispatchSemaphore(value: 0)
        ask { answer in
            box.value.withLock { $0 = answer }
            semaphore.signal()
        }
        guard semaphore.wait(timeout: .now() + 20) == .success, let answer = box.value.withLock({ $0 }) else {
            throw Unanswered()
        }
        return answer
    }

    private final class Box<Answer: Sendable>: Sendable {
        let value: Mutex<Answer?>
        init(_ value: consuming sending Mutex<Answer?>) { self.value = value }
    }

    // MARK: Webhooks

    /// A webhook that is quick to try again.
    static func definition(_ name: String = "hook", _ url: String, _ filters: [String] = ["#"]) -> WebhookDefinition {
        var definition = WebhookDefinition(name: name, url: url, filters: filters)
        definition.retryFirstMilliseconds = 20
        definition.retryMaxMilliseconds = 100
        return definition
    }

    func put(
        _ definition: WebhookDefinition, as user: String? = nil
    ) throws -> WebhookService.PutAnswer {
        try Self.answer { service.put(definition, as: Identity(user: user), answer: $0) }
    }

    func remove(_ name: String) throws -> WebhookService.RemoveAnswer {
        try Self.answer { service.remove(name, answer: $0) }
    }

    func describe(_ name: String = "hook") throws -> WebhookDescription? {
        try Self.answer { service.describe(name, answer: $0) }
    }

    /// Looks again until it holds or ten seconds are over.
    func eventually(_ name: String = "hook", _ condition: (WebhookDescription) -> Bool) throws -> WebhookDescription? {
        for _ in 0..<2_000 {
            if let description = try describe(name), condition(description) { return description }
            usleep(5_000)
        }
        return try describe(name)
    }

    // MARK: Events

    /// Publishes in order and waits until all are routed.
    @discardableResult
    func publish(
        _ payloads: [String], to topic: String = "a/b", qos: UInt8 = 1, ttl: UInt64 = 0, lane: Int = 0,
        properties: EventPropertiesWriter = EventPropertiesWriter()
    ) throws -> Int {
        let router = router
        let (bytes, extensionLength) = properties.finish()
        return try Self.answer { answer in
            reactor.lanes.call(lane) { lane in
                let principal = Principal(identity: Identity(), clientID: "publisher", router: router)
                var matched = 0
                for payload in payloads {
                    let event = Self.event(
                        topic, Array(payload.utf8), bytes, qos: qos, expiresAt: ttl == 0 ? 0 : lane.now + ttl,
                        extensionLength)
                    matched += Int(router.publish(event, as: principal, on: lane).matched)
                }
                answer(matched)
            }
        }
    }

    static func event(
        _ topic: String, _ payload: [UInt8] = [], _ properties: [UInt8] = [], qos: UInt8 = 1, expiresAt: UInt64 = 0,
        _ extensionLength: UInt16 = 0
    ) -> Event {
        Array(topic.utf8).withUnsafeBytes { topic in
            payload.withUnsafeBytes { payload in
                properties.withUnsafeBytes { properties in
                    Event(
                        topic: topic, properties: properties, payload: payload, qos: qos, isRetained: false,
                        expiresAt: expiresAt, extensionLength: extensionLength)
                }
            }
        }
    }

    /// Somebody else who subscribes, on the first lane.
    final class Other: Sendable {
        private let texts = Mutex<[String]>([])

        fileprivate func add(_ text: String) { texts.withLock { $0.append(text) } }

        /// What it has got, once that is so many or ten seconds are over.
        func wait(for count: Int) -> [String] {
            for _ in 0..<2_000 {
                let all = texts.withLock { $0 }
                if all.count >= count { return all }
                usleep(5_000)
            }
            return texts.withLock { $0 }
        }
    }

    private final class OtherPort: Core.Port {
        private let other: Other

        init(_ other: Other) {
            self.other = other
            super.init()
        }

        override func deliver(_ run: UnsafePointer<EventRun>, _ target: UnsafePointer<Target>, on lane: Lane) -> Int {
            for index in 0..<run.pointee.count {
                other.add(String(decoding: run.pointee.event(index).payload, as: UTF8.self))
            }
            return 0
        }
    }

    func join(_ filter: String) throws -> Other {
        let (router, other) = (router, Other())
        let filter = try TopicFilter(filter, grammar: .mqtt, limits: router.limits)
        let isGranted = try Self.answer { answer in
            reactor.lanes.call(0) { lane in
                let port = OtherPort(other)
                router.register(port, on: lane)
                let principal = Principal(identity: Identity(), clientID: "other", router: router)
                let outcome = router.subscribe(
                    port, Subscription(filter: filter, options: .qos(1)), as: principal, on: lane)
                answer(outcome == .granted(isNew: true))
            }
        }
        #expect(isGranted)
        return other
    }

    func dropped(_ reason: DropReason) -> UInt64 { reactor.counters().dropped[reason.rawValue] }
}
