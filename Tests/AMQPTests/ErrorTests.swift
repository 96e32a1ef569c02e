import Testing

@testable import AMQP

@Suite struct ErrorTests {
    @Test func errorsAreEqualByConditionAndText() {
        #expect(AMQPError(.notFound, "a") == AMQPError(.notFound, "a"))
        #expect(AMQPError(.notFound, "a") != AMQPError(.notAllowed, "a"))
    }
}
