import Core

/// An event as the answer to a request: its payload as the body, its properties as header fields.
enum EventAnswer {
    /// 200 with an event. What says nothing of its type is bytes.
    static func response(
        _ payload: UnsafeRawBufferPointer, _ properties: UnsafeRawBufferPointer, expiresAt: UInt64 = 0, now: UInt64 = 0
    ) -> HTTPResponse {
        var headers = EventHeaders.fields(of: properties, expiresAt: expiresAt, now: now)
        if headers["Content-Type"] == nil { headers.add("Content-Type", "application/octet-stream") }
        return HTTPResponse(status: 200, headers: headers, body: Array(payload))
    }
}
