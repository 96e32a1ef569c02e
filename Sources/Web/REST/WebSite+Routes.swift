import Core

/// What is asked for other than by publishing one event.
extension WebSite {
    /// Serves a request.
    func serve(
        _ head: RequestHead, _ body: UnsafeRawBufferPointer, _ principal: Principal, _ connection: HTTPConversation,
        _ lane: Lane
    ) throws(Problem) -> RequestVerdict {
        let request = try HTTPRequest(head, body: body, link: connection.link)
        throw Problem(404, "There is nothing at \(request.path).")
    }
}
