/// The topics of a world: a tree of five levels, whose leaves are published to after Zipf's law, and a few for
/// retained events, so that writers meet.
enum Topics {
    private static let words = [["a", "b"], ["1", "2", "3"], ["x", "y"], ["on", "off", "io"], ["p", "q", "r"]]
    static let live: [String] = words.reduce([""]) { heads, level in
        heads.flatMap { head in level.map { head.isEmpty ? $0 : head + "/" + $0 } }
    }
    static let retained = (0..<12).map { "kept/\($0 % 3)/\($0)" }
    /// All of them; a topic's number is its place.
    static let all = live + retained

    /// A topic to publish to.
    static func any(_ randomness: inout Randomness) -> Int { (randomness.zipf(live.count) * 37) % live.count }
    static func anyRetained(_ randomness: inout Randomness) -> Int { live.count + randomness.zipf(retained.count) }

    /// A filter somebody may have.
    static func filter(_ randomness: inout Randomness, wildcards: Int, retained: Int) -> String {
        let isRetained = retained > 0 && randomness.below(100) < 25
        let topic = all[isRetained ? anyRetained(&randomness) : any(&randomness)]
        guard randomness.below(100) < wildcards else { return topic }
        var levels = topic.split(separator: "/").map(String.init)
        if randomness.chance(0.02) { return "#" }
        if randomness.chance(0.5) {
            levels[randomness.below(levels.count)] = "+"
            if randomness.chance(0.3) { levels[randomness.below(levels.count)] = "+" }
        } else {
            levels = levels.prefix(randomness.between(1...levels.count - 1)) + ["#"]
        }
        return levels.joined(separator: "/")
    }
}
