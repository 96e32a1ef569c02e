// swift-tools-version: 6.2
import PackageDescription

/// Flags of every target of ours: language mode 6, warnings are errors.
let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .treatAllWarnings(as: .error),
]

/// Flags of the rooms on the data path: their borders are inlined in release, and exclusivity is proven by
/// the tests (which run in debug, where it is enforced) instead of being checked at every access.
let hot: [SwiftSetting] =
    strict + [
        .unsafeFlags(
            ["-cross-module-optimization", "-enforce-exclusivity=unchecked"], .when(configuration: .release))
    ]

let package = Package(
    name: "apus",
    platforms: [.macOS(.v26)],
    products: [
        .executable(name: "apus", targets: ["apus"]),
        .executable(name: "apus-bench", targets: ["apus-bench"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    ],
    targets: [
        // System libraries: a module map and a header each, nothing else.
        .systemLibrary(name: "CLinux", path: "Sources/C/CLinux"),
        .systemLibrary(
            name: "COpenSSL", path: "Sources/C/COpenSSL", pkgConfig: "openssl", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(
            name: "CMosquitto", path: "Sources/C/CMosquitto", pkgConfig: "libmosquitto",
            providers: [.apt(["libmosquitto-dev"])]),

        .systemLibrary(
            name: "CProton", path: "Sources/C/CProton",
            providers: [.apt(["libqpid-proton-dev"])]),
        .systemLibrary(
            name: "CYAML", path: "Sources/C/CYAML", pkgConfig: "yaml-0.1", providers: [.apt(["libyaml-dev"])]),

        // Headers only: the library is loaded when a command needs it.
        .systemLibrary(name: "CCurl", path: "Sources/C/CCurl", providers: [.apt(["libcurl4-openssl-dev"])]),

        .target(name: "Core", swiftSettings: hot),
        .target(name: "TLS", dependencies: ["Core", "COpenSSL"], swiftSettings: hot),
        .target(
            name: "Reactor", dependencies: ["Core", "TLS", "CLinux", .product(name: "Logging", package: "swift-log")],
            swiftSettings: hot),
        .target(name: "MQTT", dependencies: ["Core"], swiftSettings: hot),
        .target(name: "AMQP", dependencies: ["Core", "CProton"], swiftSettings: hot),
        .target(name: "Mesh", dependencies: ["Core", "COpenSSL"], swiftSettings: hot),
        .target(
            name: "Web", dependencies: ["Core", "COpenSSL"], resources: [.embedInCode("Console")], swiftSettings: hot),
        .target(
            name: "Admin",
            dependencies: ["Core", "Web", "TLS", "Reactor", .product(name: "Logging", package: "swift-log")],
            resources: [.embedInCode("openapi-admin.yaml")], swiftSettings: strict),
        .target(
            name: "Webhooks",
            dependencies: ["Core", "CCurl", "CLinux", "COpenSSL", .product(name: "Logging", package: "swift-log")],
            swiftSettings: strict),
        .target(
            name: "Bridge",
            dependencies: ["Core", "CMosquitto", "CLinux", .product(name: "Logging", package: "swift-log")],
            swiftSettings: strict),
        .target(name: "Security", dependencies: ["Core", "COpenSSL", "CCurl", "CLinux"], swiftSettings: strict),
        .target(
            name: "Node",
            dependencies: [
                "Core", "TLS", "Reactor", "MQTT", "AMQP", "Mesh", "Web", "Webhooks", "Bridge", "Admin", "Security",
                "CLinux", "CYAML",
                .product(name: "Logging", package: "swift-log"),
            ], swiftSettings: strict),
        .executableTarget(
            name: "apus",
            dependencies: [
                "Core", "Node", "Admin", "Web", "Security", "CMosquitto", "CCurl",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ], swiftSettings: strict),
        .executableTarget(
            name: "apus-bench",
            dependencies: [
                "CLinux", "CProton", "COpenSSL", .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: hot),

        .testTarget(name: "CoreTests", dependencies: ["Core", "TestSupport"], swiftSettings: strict),
        .testTarget(name: "TLSTests", dependencies: ["TLS", "TestTLS", "Core", "COpenSSL"], swiftSettings: strict),
        .testTarget(
            name: "ReactorTests",
            dependencies: [
                "Reactor", "TLS", "TestTLS", "Core", "CLinux", .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: strict),
        .testTarget(name: "MQTTTests", dependencies: ["MQTT", "Core", "TestSupport"], swiftSettings: strict),
        .testTarget(
            name: "AMQPTests", dependencies: ["AMQP", "Core", "MQTT", "CProton", "TestSupport"], swiftSettings: strict),
        .testTarget(name: "MeshTests", dependencies: ["Mesh", "Core", "MQTT", "TestSupport"], swiftSettings: strict),
        // The mesh under virtual time: the world, its oracles, a program that plays many seeds, and the tests.
        .target(
            name: "Simulator", dependencies: ["Mesh", "Core", "TestSupport"], path: "Tests/Simulator",
            swiftSettings: strict),
        .executableTarget(
            name: "simulate", dependencies: ["Simulator"], path: "Tests/Simulate", swiftSettings: strict),
        .testTarget(
            name: "Simulation", dependencies: ["Simulator", "Mesh", "Core"], resources: [.copy("Replays")],
            swiftSettings: strict),
        // What several tests have in common: repeatable randomness, and the reactor's part of a connection.
        .target(name: "TestSupport", dependencies: ["Core"], path: "Tests/TestSupport", swiftSettings: strict),
        // Certificates made on the spot, and libssl's own clients.
        .target(name: "TestTLS", dependencies: ["COpenSSL"], path: "Tests/TestTLS", swiftSettings: strict),
        .target(name: "RawHTTP", path: "Tests/RawHTTP", swiftSettings: strict),
        .testTarget(
            name: "WebTests",
            dependencies: [
                "Web", "RawHTTP", "TestSupport", "Core", "Reactor", "MQTT", "Security",
                .product(name: "Logging", package: "swift-log"),
            ], swiftSettings: strict),
        .testTarget(
            name: "AdminTests",
            dependencies: [
                "Admin", "Web", "RawHTTP", "Core", "Reactor", "MQTT", "Node", "Security",
                .product(name: "Logging", package: "swift-log"),
            ], swiftSettings: strict),
        .testTarget(
            name: "WebhooksTests",
            dependencies: [
                "Webhooks", "TestSupport", "Core", "Reactor", .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: strict),
        .testTarget(
            name: "BridgeTests",
            dependencies: [
                "Bridge", "Core", "Reactor", "TestTLS", "COpenSSL",
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: strict),
        .testTarget(name: "SecurityTests", dependencies: ["Security", "Core", "COpenSSL"], swiftSettings: strict),
        .testTarget(
            name: "NodeTests",
            dependencies: [
                "Node", "Admin", "AMQP", "Core", "Mesh", "Reactor", "Security", "TLS", "Web",
                .product(name: "Logging", package: "swift-log"),
            ], swiftSettings: strict),
        .testTarget(name: "Tidy", swiftSettings: strict),
    ]
)
