internal import Glibc

/// RabbitMQ with its plugin for AMQP 1.0 or MQTT, on ports and in directories of its own.
final class RabbitMQ {
    /// What it speaks to its clients.
    enum Plugin: String {
        case amqp = "rabbitmq_amqp1_0"
        case mqtt = "rabbitmq_mqtt"
    }

    static let name = "rabbitmq"
    /// What stands before a topic in its addresses.
    static let prefix = "/topic/"
    let process: Child
    let port: UInt16
    /// Erlang's register of names, which would stay behind as a daemon otherwise.
    let names: Child

    init(script: String, plugin: Plugin = .amqp) throws {
        let own = try Socket.freePort()
        port = plugin == .amqp ? own : try Socket.freePort()
        let distribution = try Socket.freePort()
        let register = try Socket.freePort()
        let plugins = try Scratch.write("[\(plugin.rawValue)].\n", name: "\(plugin.rawValue)-plugins")
        let settings = plugin == .amqp ? "" : "mqtt.listeners.tcp.default = 127.0.0.1:\(port)\n"
        let file = try Scratch.write(settings, name: "rabbitmq-\(own).conf")
        names = try Child.spawn(["epmd", "-port", "\(register)", "-address", "127.0.0.1"])
        try Broker.awaitPort(register, names)
        let home = Scratch.path("rabbitmq")
        mkdir(home, 0o700)
        let variables = [
            "HOME": home,
            "ERL_EPMD_PORT": "\(register)",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            // Makes the script become the server, so that what is killed and charged is the server.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_NODENAME": "bench\(own)@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": "\(own)",
            "RABBITMQ_DIST_PORT": "\(distribution)",
            "RABBITMQ_MNESIA_BASE": "\(home)/mnesia",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": plugins,
            "RABBITMQ_CONFIG_FILE": file,
            "RABBITMQ_ADVANCED_CONFIG_FILE": "\(home)/none.config",
            "RABBITMQ_CONF_ENV_FILE": "\(home)/none.env",
            "RABBITMQ_GENERATED_CONFIG_DIR": "\(home)/config",
            "RABBITMQ_PID_FILE": "\(home)/pid",
        ]
        process = try Child.spawn(["/usr/bin/env"] + variables.map { "\($0.key)=\($0.value)" }.sorted() + [script])
        try Broker.awaitPort(port, process)
        // The port is open before the plugin is there.
        let begin = now()
        while !process.output().contains("Server startup complete") {
            guard process.isRunning, now() - begin < 60_000_000_000 else {
                throw Failure("RabbitMQ did not become ready; it said:\n\(process.output())")
            }
            pause(milliseconds: 20)
        }
    }

    func stop() {
        process.kill()
        names.kill()
    }
}
