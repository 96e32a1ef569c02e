import Core

/// An event as the answer to a request: its payload as the body, its properties as header fields.
enum EventAnswer {
    /// 200 with an event.
    static func response(_ payload: UnsafeRawBufferPointer, _ properties: UnsafeRawBufferPointer) -> HTTPResponse {
        var response = HTTPResponse(status: 200, body: Array(payload))
        var type: String?
        var isText = false
        for property in EventProperties(properties) {
            switch property.identifier {
            case .contentType: type = property.bytes.text
            case .payloadFormat: isText = property.bytes.first == 1
            case .correlationData: response.headers.add("Apus-Correlation-Id", property.bytes.text)
            case .responseTopic: response.headers.add("Apus-Reply-To", property.bytes.text)
            case .messageID: response.headers.add("Apus-Message-Id", property.bytes.text)
            case .priority: response.headers.add("Apus-Priority", String(property.bytes.first ?? 4))
            case .userProperty:
                let name = property.bytes
                guard !name.isEmpty, name.allSatisfy(Token.contains) else { continue }
                response.headers.add("Apus-Property-\(name.text)", property.value.text)
            }
        }
        response.headers.add("Content-Type", type ?? (isText ? "text/plain; charset=utf-8" : "application/octet-stream"))
        return response
    }
}
