import Dispatch
import Foundation
import Mesh
import Synchronization

@testable import Simulator

// Plays many seeds of the mesh: `simulate SEEDS [FIRST]`, one seed with its log: `simulate seed NUMBER`, or a file:
// `simulate replay FILE`; one large one: `simulate large NODES`.
// What fails is made smaller and written to replay-SEED.json.

/// Prints at once, also into a file.
func say(_ text: String) {
    print(text)
    fflush(nil)
}

func play(_ scenario: Scenario, isLoud: Bool) -> Outcome {
    Play.mesh(
        scenario, tracing: Int(ProcessInfo.processInfo.environment["MESSAGE"] ?? ""),
        log: isLoud
            ? { time, node, level, line in say("\(time / 1_000) ms \(node) \(level): \(line)") } : nil)
}

func shrink(_ outcome: Outcome) throws {
    guard var shrinking = Shrinking(outcome, play: { Play.mesh($0) }) else { return }
    let least = shrinking.shrink()
    let path = "replay-\(outcome.scenario.seed).json"
    try Replay(scenario: least.scenario, violation: least.violations[0]).encoded().write(
        to: URL(fileURLWithPath: path))
    say("after \(shrinking.runs) runs, in \(path):\n\(least.report)")
}

func swarm(_ count: Int, from first: UInt64) throws -> Bool {
    let started = Date()
    let failures = Mutex<[Outcome]>([])
    let sums = Mutex((happenings: 0, messages: 0, judged: 0, deliveries: 0))
    DispatchQueue.concurrentPerform(iterations: count) { index in
        let outcome = Play.mesh(Scenario(seed: first + UInt64(index)))
        sums.withLock {
            $0.happenings += outcome.happenings
            $0.messages += outcome.messages
            $0.judged += outcome.judged
            $0.deliveries += outcome.deliveries
        }
        guard !outcome.isClean else { return }
        say(outcome.report)
        failures.withLock { $0.append(outcome) }
    }
    let (failed, sum) = (failures.withLock { $0 }, sums.withLock { $0 })
    let seconds = Date().timeIntervalSince(started)
    say(
        "\(count) seeds from \(first) in \(Int(seconds * 10)) tenths of a second: \(failed.count) failed; "
            + "\(sum.happenings) happenings, \(sum.messages) messages, \(sum.deliveries) deliveries, "
            + "\(sum.judged) of them judged as owed")
    let byKind = Dictionary(grouping: failed) { $0.violations[0].invariant }
    for (kind, outcomes) in byKind.sorted(by: { $0.key < $1.key }) {
        say("\(kind): \(outcomes.map(\.scenario.seed).sorted())")
    }
    if ProcessInfo.processInfo.environment["SHRINK"] != "0" {
        for outcomes in byKind.values {
            try shrink(outcomes.min { $0.scenario.seed < $1.scenario.seed } ?? outcomes[0])
        }
    }
    return failed.isEmpty
}

let arguments = CommandLine.arguments.dropFirst()
let isLoud = ProcessInfo.processInfo.environment["QUIET"] == nil
switch arguments.first {
case "seed":
    let outcome = play(Scenario(seed: UInt64(arguments.dropFirst().first ?? "") ?? 0), isLoud: isLoud)
    say(outcome.report)
    exit(outcome.isClean ? 0 : 1)
case "shrink":
    let outcome = play(Scenario(seed: UInt64(arguments.dropFirst().first ?? "") ?? 0), isLoud: false)
    try shrink(outcome)
case "replay":
    let data = try Data(contentsOf: URL(fileURLWithPath: arguments.dropFirst().first ?? ""))
    let outcome = play(try Replay(data).scenario, isLoud: isLoud)
    say(outcome.report)
    exit(outcome.isClean ? 0 : 1)
case "large":
    var size = Scenario.Size()
    let nodes = Int(arguments.dropFirst().first ?? "") ?? 64
    size.nodes = nodes...nodes
    size.active = 3_000...3_000
    size.maxFaults = 4
    size.shapes = [.random]
    var scenario = Scenario(seed: UInt64(arguments.dropFirst(2).first ?? "") ?? 1, size: size)
    scenario.load.publishers = 1
    scenario.load.interval = 1_000
    scenario.load.subscribers = 1
    let began = Date()
    let outcome = play(scenario, isLoud: false)
    say(outcome.report.split(separator: "\n").filter { !$0.hasPrefix("  cable") }.joined(separator: "\n"))
    say("agreement \(outcome.convergence) ms after the heal; \(Int(Date().timeIntervalSince(began))) s")
    exit(outcome.isClean ? 0 : 1)
#if DEBUG
    case "sabotage":
        let wanted = arguments.dropFirst().first ?? ""
        let seeds = UInt64(arguments.dropFirst(2).first ?? "") ?? 10
        for planting in Planting.all where planting.name.contains(wanted) || wanted.isEmpty {
            let outcome = planting.find(1..<seeds + 1)
            let text = outcome.map {
                "seed \($0.scenario.seed), \($0.violations[0].invariant): \($0.violations[0].text)"
            }
            say("\(planting.name): \(text ?? "NOT FOUND")")
        }
#endif
default:
    let count = Int(arguments.first ?? "") ?? 100
    let first = UInt64(arguments.dropFirst().first ?? "") ?? 1
    exit(try swarm(count, from: first) ? 0 : 1)
}
