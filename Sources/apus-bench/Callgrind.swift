internal import Glibc

/// Scenario callgrind: user instructions per message. Unlike time it does not depend on the machine's load.
extension Campaign {
    func callgrind(_ scenario: String) {
        for kind in rawBrokers where kind != .relay {
            attempt(scenario, kind) {
                let few = 20_000
                let many = 120_000
                let base = try instructions(kind, messages: few)
                let more = try instructions(kind, messages: many)
                let each = (more - base) / Double(many - few)
                guard each > 0 else { throw Failure("more messages took no more instructions") }
                let isNode = kind.isNode
                figure(
                    scenario, kind.rawValue, "instructions/message", "", each, must: isNode ? 400 : nil,
                    aim: isNode ? 262 : nil)
            }
        }
    }

    /// All user instructions of a broker's life with this many messages of a64.
    private func instructions(_ kind: BrokerKind, messages: Int) throws -> Double {
        guard let plan = Plans.named("a64") else { throw Failure("no scenario a64") }
        var how = options.start
        how.wrapper = [
            // A broker that gives up its rights could write neither a profile nor the debugger's pipes.
            "valgrind", "--tool=callgrind", "--instr-atstart=yes", "--vgdb=no", "--callgrind-out-file=/dev/null",
        ]
        // This valgrind stumbles over the compiler's debug information, which counting does not need.
        let stripped = try strippedCopy(of: how.apus)
        defer { unlink(stripped) }
        how.apus = stripped
        let session = try Session(plan, try Broker.start(kind, how))
        _ = try session.run(count: messages)
        session.broker.process.terminate(patienceMilliseconds: 60_000)
        for line in session.broker.process.output().split(separator: "\n") where line.contains("Collected :") {
            if let value = line.split(separator: " ").last.flatMap({ Double($0) }) { return value }
        }
        throw Failure("valgrind printed no count:\n\(session.broker.process.output())")
    }

    private func strippedCopy(of path: String) throws -> String {
        let copy = "/tmp/apus-bench-stripped-\(getpid())"
        let child = try Child.spawn(["strip", "--strip-debug", "-o", copy, path])
        for _ in 0..<500 where child.isRunning { pause(milliseconds: 20) }
        guard access(copy, X_OK) == 0 else { throw Failure("strip made no copy of \(path)") }
        return copy
    }
}
