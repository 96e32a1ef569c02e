/// What `/proc` says about a process.
extension Child {
    /// Processor time of all its threads so far, user and system, in nanoseconds.
    func processorTime() -> UInt64 {
        let base = "/proc/\(pid)/task"
        var sum: UInt64 = 0
        for thread in Scratch.entries(of: base) {
            guard let text = Scratch.read("\(base)/\(thread)/schedstat"),
                let first = text.split(separator: " ").first, let value = UInt64(first)
            else { continue }
            sum += value
        }
        return sum
    }

    /// A field of `smaps_rollup` in kB, for example `Rss` or `Anonymous`.
    func memory(_ field: String) -> Int {
        guard let text = Scratch.read("/proc/\(pid)/smaps_rollup") else { return 0 }
        for line in text.split(separator: "\n") where line.hasPrefix(field + ":") {
            let words = line.split(separator: " ")
            if words.count > 1, let value = Int(words[1]) { return value }
        }
        return 0
    }

    /// The number of its open descriptors.
    func descriptors() -> Int {
        Scratch.entries(of: "/proc/\(pid)/fd").count
    }
}
