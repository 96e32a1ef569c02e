import Testing

@testable import Bridge

@Suite("Whether a broker's session has gone bad") struct SessionDoubtTests {
    /// What is said to failures at these times, in milliseconds.
    private func verdicts(_ times: [UInt64], _ doubt: inout SessionDoubt) -> [Bool] {
        times.map { doubt.failed($0) }
    }

    /// Of a broker that has refused an event.
    private func refused() -> SessionDoubt {
        var doubt = SessionDoubt()
        doubt.refused()
        return doubt
    }

    @Test("Five failures, and ten seconds between the first and the last")
    func patience() {
        var many = refused()
        #expect(verdicts([1_000, 1_500, 2_000, 2_500, 3_000, 10_999, 11_000], &many) == 6 * [false] + [true])
        var few = refused()
        #expect(verdicts([0, 20_000, 40_000, 60_000, 80_000], &few) == 4 * [false] + [true])
    }

    @Test("An event that the broker takes lets it begin again")
    func acknowledged() {
        var doubt = refused()
        #expect(verdicts([0, 4_000, 8_000, 12_000], &doubt) == 4 * [false])
        doubt.acknowledged()
        doubt.refused()
        #expect(verdicts([16_000, 20_000, 24_000, 25_000, 26_000], &doubt) == 4 * [false] + [true])
    }

    @Test("Connections that end are not enough: the broker has to have refused an event since it took one")
    func sign() {
        var doubt = SessionDoubt()
        #expect(verdicts([0, 4_000, 8_000, 12_000, 16_000, 20_000], &doubt) == 6 * [false])
        doubt.refused()
        #expect(verdicts([24_000, 26_000, 28_000, 30_000, 34_000], &doubt) == 4 * [false] + [true])
        doubt.acknowledged()
        #expect(verdicts([40_000, 44_000, 48_000, 52_000, 56_000], &doubt) == 5 * [false])
    }

    @Test("Another session is not begun twice if it does not help")
    func once() {
        var doubt = refused()
        #expect(verdicts([0, 4_000, 8_000, 12_000, 16_000], &doubt) == 4 * [false] + [true])
        #expect(verdicts([20_000, 24_000, 28_000, 32_000, 60_000, 90_000], &doubt) == 6 * [false])
        doubt.acknowledged()
        doubt.refused()
        #expect(verdicts([100_000, 101_000, 102_000, 103_000, 110_000], &doubt) == 4 * [false] + [true])
    }
}

private func * (count: Int, values: [Bool]) -> [Bool] { (0..<count).flatMap { _ in values } }
