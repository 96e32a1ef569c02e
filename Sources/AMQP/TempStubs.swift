import Core
struct SASLServer {
    struct Initial {
        var mechanism: Mechanism; var user: String?; var password: [UInt8]?; var authorizationID: String?;
        var hostname: String?
    }
    enum Mechanism: String, CaseIterable { case anonymous = "ANONYMOUS", plain = "PLAIN", external = "EXTERNAL" }
    init(mechanisms: [Mechanism]) {}
    func writeGreeting(to output: Output) {}
    func take(_ frame: Frame) throws(AMQPError) -> Initial { Initial(mechanism: .plain) }
    enum Code: UInt8 { case ok = 0, auth = 1, sys = 2, sysPermanent = 3, sysTemporary = 4 }
    func writeOutcome(_ code: Code, to output: Output) {}
}
