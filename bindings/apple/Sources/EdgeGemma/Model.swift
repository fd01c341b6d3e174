// A model: files, threads, memory.

import CEdgeGemma
import Foundation

#if canImport(Darwin)
import Dispatch
#endif

private final class Log {
    let tell: @Sendable (String) -> Void
    init(_ tell: @escaping @Sendable (String) -> Void) { self.tell = tell }
}

/// A model that is open. Any number of chats and voices use it at the same time, from any thread; they keep it alive.
///
/// ```swift
/// let model = try Model(path: url.path, encoders: encoders.path)
/// let chat = try Chat(model: model)
/// for try await event in chat.send("Hello") { ... }
/// ```
public final class Model: @unchecked Sendable {
    /// How a model is opened.
    public struct Options: Sendable {
        /// Threads that compute; 0: one for each fast core.
        public var threads = 0
        /// A sidecar, which makes a token read less; nil: the one beside the model, if there is one.
        public var sidecar: String?
        /// Bytes that the process is to stay within; 0: what the system gives it.
        public var memoryLimit: UInt64 = 0
        /// When the system warns that memory is short, the model gives back what can be read again. On Apple's systems.
        public var trimsOnMemoryWarning = true
        /// Is told, while the model is opened, what was chosen: kernels, threads, sidecar, memory; a line at a time.
        public var log: (@Sendable (String) -> Void)?

        public init() {}
    }

    /// What the model is and can do.
    public struct Info: Sendable {
        public let name: String
        public let contextLength: Int
        public let parameters: UInt64
        public let threads: Int
        /// It was opened with an audio encoder.
        public let hears: Bool
        /// It was opened with a vision encoder.
        public let sees: Bool
    }

    /// What the model holds, in bytes.
    public struct Memory: Sendable {
        /// Of its files in the address space, which the system may drop and read again, and of these in memory now.
        public let mapped, resident: UInt64
        /// Of tables, and of activations.
        public let tables, workspace: UInt64
    }

    let raw: OpaquePointer
    #if canImport(Darwin)
    private var warnings: DispatchSourceMemoryPressure?
    #endif

    /// Opens a GGUF file, and the file of its encoders (mmproj), without which it neither hears nor sees. The files are not read,
    /// only looked at, so this takes some milliseconds.
    ///
    /// - Throws: `EdgeGemmaError`: `.file`, `.format`, `.unsupported`, `.memory`.
    public init(path: String, encoders: String? = nil, options: Options = Options()) throws {
        var opened: OpaquePointer?
        try withTexts([path, encoders, options.sidecar]) { texts in
            var params = eg_model_params()
            params.struct_size = sizeOf(eg_model_params.self)
            params.path = texts[0]
            params.mmproj = texts[1]
            params.sidecar = texts[2]
            params.threads = UInt32(clamping: options.threads)
            params.memory_limit = options.memoryLimit
            try withExtendedLifetime(options.log.map(Log.init)) { log in
                if let log {
                    params.log_context = Unmanaged.passUnretained(log).toOpaque()
                    params.log = { Unmanaged<Log>.fromOpaque($0!).takeUnretainedValue().tell(text($1)) }
                }
                try check { eg_model_open(&params, &opened, $0) }
            }
        }
        raw = opened!
        if options.trimsOnMemoryWarning { watchMemory() }
    }

    deinit {
        #if canImport(Darwin)
        warnings?.cancel()
        #endif
        eg_model_close(raw)
    }

    /// The version of the engine, and the instruction set that was chosen for this processor.
    public static var version: String { text(eg_version()) }
    public static var instructionSet: String { text(eg_isa()) }

    public var info: Info {
        var info = eg_model_info()
        info.struct_size = sizeOf(eg_model_info.self)
        _ = eg_model_get_info(raw, &info, nil)
        let name = withUnsafeBytes(of: &info.name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        return Info(
            name: name, contextLength: Int(info.context_length), parameters: info.parameters, threads: Int(info.threads),
            hears: info.audio, sees: info.vision)
    }

    public var memory: Memory {
        var memory = eg_memory()
        memory.struct_size = sizeOf(eg_memory.self)
        _ = eg_model_get_memory(raw, &memory, nil)
        return Memory(
            mapped: memory.mapped, resident: memory.resident, tables: memory.tables, workspace: memory.workspace)
    }

    /// Gives back all memory that can be read or made again. Calls that run go on, more slowly. Results do not change.
    public func trim() { _ = eg_model_trim(raw, nil) }

    /// From now on so many threads compute; 0: all. For a device that gets hot, and for an application in the background.
    ///
    /// - Throws: `EdgeGemmaError`: `.argument` if the model was opened with fewer.
    public func setThreads(_ threads: Int) throws {
        try check { eg_model_set_threads(raw, UInt32(clamping: threads), $0) }
    }

    private func watchMemory() {
        #if canImport(Darwin)
        let source = DispatchSource.makeMemoryPressureSource(eventMask: [.warning, .critical], queue: .global())
        source.setEventHandler { [weak self] in self?.trim() }
        source.activate()
        warnings = source
        #endif
    }
}
