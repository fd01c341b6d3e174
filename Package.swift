// swift-tools-version:5.9
// The Swift package: the engine as a C module, and the classes of bindings/apple over it. It stands here because a package that is
// named by its address has its manifest in the root. See docs/ios.md.
import PackageDescription

let package = Package(
    name: "edge_gemma",
    platforms: [.iOS(.v15), .macOS(.v12)],
    products: [
        .library(name: "EdgeGemma", targets: ["EdgeGemma"]),
        .executable(name: "voice-turn", targets: ["VoiceTurn"]),
    ],
    targets: [
        // What -ffp-contract=off says elsewhere is in base/exact.h: a package may not pass such an option to those who use it.
        .target(
            name: "CEdgeGemma",
            path: "csrc",
            exclude: ["CMakeLists.txt", "sources.txt"],
            publicHeadersPath: ".",
            linkerSettings: [.linkedLibrary("m", .when(platforms: [.linux]))]
        ),
        .target(name: "EdgeGemma", dependencies: ["CEdgeGemma"], path: "bindings/apple/Sources/EdgeGemma"),
        .executableTarget(name: "VoiceTurn", dependencies: ["EdgeGemma"], path: "bindings/apple/Sources/VoiceTurn"),
        .testTarget(name: "EdgeGemmaTests", dependencies: ["EdgeGemma"], path: "bindings/apple/Tests/EdgeGemmaTests"),
    ],
    cLanguageStandard: .c11
)
