import Node
var arguments = CommandLine.arguments.dropFirst()
let file = arguments.firstIndex(of: "--config").map { arguments[$0 + 1] }
do {
    let configuration = try Configuration.load(file: file)
    try Node.run(configuration) { () throws(ConfigurationError) in try Configuration.load(file: file) }
} catch { print(error) }
