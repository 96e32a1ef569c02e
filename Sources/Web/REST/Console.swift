/// The page at `/` and the description of the interface: files that are part of the program.
enum Console {
    /// What a page may do: nothing from elsewhere, nobody around it.
    private static let policy =
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"

    /// The page.
    static var page: HTTPResponse { response("text/html; charset=utf-8", PackageResources.index_html) }

    /// One of the page's files.
    static func file(_ name: String) -> HTTPResponse? {
        let script = "text/javascript; charset=utf-8"
        let document = "text/plain; charset=utf-8"
        return switch name {
        case "console.css": response("text/css; charset=utf-8", PackageResources.console_css)
        case "console.js": response(script, PackageResources.console_js)
        case "publish.js": response(script, PackageResources.publish_js)
        case "rows.js": response(script, PackageResources.rows_js)
        case "stream.js": response(script, PackageResources.stream_js)
        case "text.js": response(script, PackageResources.text_js)
        case "icon.svg": response("image/svg+xml", PackageResources.icon_svg)
        case "rest.md": response(document, PackageResources.rest_md)
        case "websocket.md": response(document, PackageResources.websocket_md)
        default: nil
        }
    }

    /// The node's name and version.
    static func node(_ context: WebContext) -> HTTPResponse {
        var writer = JSONWriter()
        writer.beginObject()
        writer.key("name")
        writer.string(context.nodeName)
        writer.key("version")
        writer.string(context.version)
        writer.endObject()
        return response("application/json", writer.bytes)
    }

    /// The OpenAPI description.
    static func description(isJSON: Bool) -> HTTPResponse {
        isJSON
            ? response("application/json", PackageResources.openapi_json)
            : response("application/yaml", PackageResources.openapi_yaml)
    }

    private static func response(_ type: String, _ body: [UInt8]) -> HTTPResponse {
        var response = HTTPResponse(type: type, body: body)
        response.headers.add("Cache-Control", "no-cache")
        response.headers.add("Content-Security-Policy", policy)
        response.headers.add("X-Content-Type-Options", "nosniff")
        response.headers.add("Referrer-Policy", "no-referrer")
        return response
    }
}
