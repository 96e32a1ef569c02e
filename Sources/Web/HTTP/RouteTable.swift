/// Which handler a request goes to, by method and path.

/// Answers a request: at once or later, by calling the responder once. Called on the connection's loop, so it must not
/// block.
public typealias HTTPHandler = @Sendable (HTTPRequest, HTTPResponder) -> Void

/// Patterns and their handlers. A pattern is `/v1/clients/{id}/trace`: words, parameters that stand for one segment,
/// and at the end perhaps `{name...}`, which stands for all that is left, at least one segment, joined by slashes.
/// Where several patterns match, a word wins over a parameter and that over the rest, from left to right.
public struct RouteTable: Sendable {
    /// One method of one pattern.
    public struct Route: Sendable, Hashable {
        /// The method.
        public let method: Method
        /// The pattern as it was added.
        public let pattern: String
    }

    private enum Step: Sendable, Equatable {
        case word(String)
        case parameter(String)
        case rest(String)

        /// The lower wins.
        var rank: Int {
            switch self {
            case .word: 0
            case .parameter: 1
            case .rest: 2
            }
        }
    }

    private struct Entry: Sendable {
        let pattern: String
        let steps: [Step]
        var handlers: [Method: HTTPHandler]
    }

    private var entries: [Entry] = []

    /// An empty table.
    public init() {}

    /// Every route there is, in the order of matching.
    public var routes: [Route] {
        entries.flatMap { entry in
            Method.allCases.filter { entry.handlers[$0] != nil }.map { Route(method: $0, pattern: entry.pattern) }
        }
    }

    /// Adds a handler. HEAD is served by GET's, and OPTIONS by the table itself.
    public mutating func add(_ method: Method, _ pattern: String, _ handler: @escaping HTTPHandler) {
        if let known = entries.firstIndex(where: { $0.pattern == pattern }) {
            entries[known].handlers[method] = handler
            return
        }
        let steps = pattern.dropFirst().split(separator: "/", omittingEmptySubsequences: false).map(Self.step)
        let entry = Entry(pattern: pattern, steps: steps, handlers: [method: handler])
        let ranks = steps.map(\.rank)
        let place = entries.firstIndex { ranks.lexicographicallyPrecedes($0.steps.map(\.rank)) } ?? entries.count
        entries.insert(entry, at: place)
    }

    private static func step(_ text: Substring) -> Step {
        guard text.hasPrefix("{"), text.hasSuffix("}") else { return .word(String(text)) }
        let name = text.dropFirst().dropLast()
        return name.hasSuffix("...") ? .rest(String(name.dropLast(3))) : .parameter(String(name))
    }

    /// Sends a request to its handler, or answers with 404 or 405.
    public func handle(_ request: HTTPRequest, _ responder: HTTPResponder) {
        var request = request
        for entry in entries {
            guard let parameters = Self.match(entry.steps, request.segments) else { continue }
            request.parameters = parameters
            let method = request.method == .head ? .get : request.method
            if let handler = entry.handlers[method] { return handler(request, responder) }
            var allow = Headers()
            allow.add("Allow", Self.allowed(entry))
            if method == .options {
                responder.send(HTTPResponse(status: 204, headers: allow))
            } else {
                let detail = "\(request.method.rawValue) is not possible here; the header Allow lists what is."
                responder.send(Problem(405, detail, headers: allow))
            }
            return
        }
        if request.method == .options, request.path == "*" {
            responder.send(.noContent)
        } else {
            responder.send(Problem(404, "There is nothing at this path."))
        }
    }

    private static func allowed(_ entry: Entry) -> String {
        var methods = Method.allCases.filter { entry.handlers[$0] != nil }
        if methods.contains(.get), !methods.contains(.head) { methods.insert(.head, at: 1) }
        if !methods.contains(.options) { methods.append(.options) }
        return methods.map(\.rawValue).joined(separator: ", ")
    }

    private static func match(_ steps: [Step], _ segments: [String]) -> [String: String]? {
        var parameters: [String: String] = [:]
        for (index, step) in steps.enumerated() {
            guard index < segments.count else { return nil }
            switch step {
            case .word(let word): guard segments[index] == word else { return nil }
            case .parameter(let name):
                guard !segments[index].isEmpty else { return nil }
                parameters[name] = segments[index]
            case .rest(let name):
                let rest = segments[index...].joined(separator: "/")
                guard !rest.isEmpty else { return nil }
                parameters[name] = rest
                return parameters
            }
        }
        return steps.count == segments.count ? parameters : nil
    }
}
