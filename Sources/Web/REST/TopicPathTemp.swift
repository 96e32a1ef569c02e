import Core
extension TopicPath {
    static func decode(_ p: UnsafeRawBufferPointer, _ turn: Turn) throws(Problem) -> UnsafeRawBufferPointer {
        let end = p.firstIndex(of: UInt8(ascii: "?")) ?? p.count
        return UnsafeRawBufferPointer(rebasing: p[..<end])
    }
}
extension WebSite {
    func publishWithProperties(
        _ topic: UnsafeRawBufferPointer, _ head: RequestHead, _ body: UnsafeRawBufferPointer, _ principal: Principal,
        _ connection: HTTPConversation, _ turn: Turn, _ lane: Lane
    ) throws(Problem) -> RequestVerdict { throw Problem(501, "later") }
}
