/// What the node has to reach, from the design of its performance: same-run ratios, medians.
struct Target {
    /// How many times cheaper than mosquitto, at least.
    var mosquittoMust: Double?
    var mosquittoAim: Double?
    /// How many times the relay's cost, at most.
    var relayMust: Double?
    var relayAim: Double?

    /// What clients of MQTT 5 may cost, compared with 3.1.1.
    static let version5Must = 1.05

    static let cpu: [String: Target] = [
        "a64": Target(mosquittoMust: 50, relayMust: 4, relayAim: 2.5),
        "c64": Target(mosquittoMust: 50, relayMust: 4, relayAim: 2.5),
        "d64": Target(mosquittoMust: 50, relayMust: 4, relayAim: 2.5),
        "mt64": Target(relayMust: 4.5, relayAim: 3),
        "b64": Target(mosquittoMust: 150, relayMust: 3.5, relayAim: 2.5),
        "b1k": Target(mosquittoMust: 18, relayMust: 2.2, relayAim: 1.5),
        "e64": Target(mosquittoMust: 60),
        "di64": Target(mosquittoMust: 1.5, relayMust: 1.3, relayAim: 1.12),
        "q1d": Target(mosquittoMust: 15, mosquittoAim: 20),
    ]
}

/// A single figure of the node and its limits; `bound` says where the limit comes from.
struct Limit {
    let scenario: String
    let broker: String
    let what: String
    let unit: String
    let value: Double
    var must: Double?
    var aim: Double?

    /// `ok`, `ok, not the aim`, `MISSES` or nothing without limits.
    var verdict: String {
        guard must != nil || aim != nil else { return "" }
        if let must, value > must { return "MISSES" }
        if let aim, value > aim { return "ok, aim missed" }
        return "ok"
    }
}
