import Core
import Testing

@testable import Node

/// The doors of a node, without what stands behind them.
@Suite("Doors")
struct DoorsTests {
    @Test("Doors of a node that does not start can be let go")
    func neverWatched() async {
        await #expect(processExitsWith: .success) {
            _ = try Doors(Configuration(name: "test"), audit: AuditLog())
        }
    }
}
