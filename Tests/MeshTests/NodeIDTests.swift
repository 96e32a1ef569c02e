import Testing

@testable import Mesh

@Suite struct NodeIDTests {
    @Test func anIDIsThirtyTwoHexadecimalDigits() {
        let id = NodeID(high: 0xAB, low: 7)
        #expect(NodeID(id.description) == id)
        #expect(id.description.utf8.count == 32)
        #expect(NodeID("00") == nil)
        #expect(NodeID(String(repeating: "g", count: 32)) == nil)
    }
}
