/// The HTTP plane: HTTP/1.1 on SwiftNIO, and what is served by it.
