// A conversation: instructions, tools, messages, answers as streams of events.

import CEdgeGemma
import Dispatch
import Foundation

/// A tool that the model wants to be run.
public struct ToolCall: Sendable, Equatable {
    public let name: String
    /// A JSON object, as the model wrote it: check it before it is acted on.
    public let arguments: String
}

/// A piece of an answer.
public enum ChatEvent: Sendable, Equatable {
    /// A piece of the answer.
    case text(String)
    /// A piece of a thought.
    case thought(String)
    /// A tool is called. Its result is given by ``Chat/addResult(of:json:)``, and the next answer goes on from there.
    case call(ToolCall)
    /// A call that was cut off or cannot be read. It must not be run; its result says so.
    case brokenCall(name: String, text: String, problem: String)
    /// The answer is over; the text is all of it.
    case done(Stop, text: String)

    /// Why an answer has ended.
    public enum Stop: String, Sendable {
        /// The model ended it.
        case model
        /// It waits for results of tools.
        case tools
        /// A stop text came.
        case stopText
        /// `maxTokens`, or the context is full.
        case length
        case cancelled
    }
}

/// A conversation with a model.
///
/// Contents are text, whatever they look like: they never become control tokens. The methods may be called from any task: they are
/// done in the order of the calls, on a queue of the chat's own, so that none of Swift's threads waits for the model.
public final class Chat: @unchecked Sendable {
    public enum Role: String, Sendable {
        case user
        /// For what was said before.
        case assistant
    }

    /// What to do when the prompt does not fit the context.
    public enum Overflow: Sendable {
        /// An error with the code `.context`.
        case fail
        /// The model does not see the oldest turns.
        case forget
    }

    public struct Options: Sendable {
        /// Instructions.
        public var system: String?
        /// JSON: a list of {"name", "description", "parameters"}, or each under "function".
        public var tools: String?
        /// Texts that end an answer and are left out of it.
        public var stops: [String] = []
        /// Tokens of the conversation; 0: 4096, or what the model has if that is less.
        public var context = 0
        /// The most tokens of an answer; 0: as many as there is room for.
        public var maxTokens = 0
        public var overflow = Overflow.forget
        /// The model thinks before it answers.
        public var thinking = false

        public init() {}
    }

    /// A part of a user's message.
    public enum Part: Sendable {
        case text(String)
        /// Rows from the top, three bytes a pixel.
        case image(rgb: [UInt8], width: Int, height: Int, maxTokens: Int = 0)
        /// 16 kHz, one channel, in [-1, 1].
        case sound([Float])
    }

    let raw: OpaquePointer
    let queue = DispatchQueue(label: "edge_gemma.chat", qos: .userInitiated)
    private let lock = NSLock()
    private var current: Stoppable?

    /// Opens a conversation.
    ///
    /// - Throws: `EdgeGemmaError`: `.format` for tools that are no JSON or cannot be shown, `.argument`, `.memory`.
    public init(model: Model, options: Options = Options()) throws {
        var opened: OpaquePointer?
        try withTexts([options.system, options.tools] + options.stops) { texts in
            var params = eg_chat_params()
            params.struct_size = sizeOf(eg_chat_params.self)
            params.system = texts[0]
            params.tools = texts[1]
            params.context = UInt32(clamping: options.context)
            params.max_tokens = UInt32(clamping: options.maxTokens)
            params.overflow = options.overflow == .forget ? .forget : .fail
            params.thinking = options.thinking
            try Array(texts.dropFirst(2)).withUnsafeBufferPointer { stops in
                params.stops = stops.baseAddress
                params.n_stops = stops.count
                try check { eg_chat_open(model.raw, &params, &opened, $0) }
            }
        }
        raw = opened!
    }

    deinit { eg_chat_close(raw) }

    // MARK: Messages

    /// Appends a message of text.
    public func add(_ content: String, as role: Role = .user) async throws {
        try await perform { chat in
            try withTexts([role.rawValue, content]) { texts in
                try check { eg_chat_add_text(chat.raw, texts[0]!, texts[1]!, $0) }
            }
        }
    }

    /// Appends a user's message of text, pictures and sounds, in this order.
    ///
    /// - Throws: `EdgeGemmaError`: `.unsupported` if the model does not see, or does not hear.
    public func add(_ parts: [Part]) async throws {
        try await perform { chat in
            let held = HeldParts(parts)
            try held.structs.withUnsafeBufferPointer { structs in
                guard let first = structs.baseAddress else { return }
                try check { eg_chat_add_parts(chat.raw, first, structs.count, $0) }
            }
        }
    }

    /// Appends the result of a tool that the last answer has called: JSON of any type. One for each call, in their order.
    public func addResult(of tool: String, json: String) async throws {
        try await perform { chat in try chat.addResultNow(of: tool, json: json) }
    }

    func addResultNow(of tool: String, json: String) throws {
        try withTexts([tool, json]) { texts in try check { eg_chat_add_result(raw, texts[0]!, texts[1]!, $0) } }
    }

    /// Appends a message as JSON, as `history` has it: how a conversation is restored.
    public func addMessage(json: String) async throws {
        try await perform { chat in
            try withTexts([json]) { texts in try check { eg_chat_add_json(chat.raw, texts[0]!, $0) } }
        }
    }

    /// The messages as JSON.
    public var history: [String] {
        get async {
            await ask { chat in (0..<eg_chat_count(chat.raw)).map { text(eg_chat_get(chat.raw, $0)) } }
        }
    }

    /// Shortens the history to its first messages: to take back a turn, or, with 0, to begin anew.
    public func truncate(to count: Int) async throws {
        try await perform { chat in try check { eg_chat_truncate(chat.raw, count, $0) } }
    }

    /// Replaces the instructions. The next answer reads the whole conversation again.
    public func setSystem(_ instructions: String?) async throws {
        try await perform { chat in
            try withTexts([instructions]) { texts in try check { eg_chat_set_system(chat.raw, texts[0], $0) } }
        }
    }

    /// Starts the random sequence anew: the same seed, messages and sampling give the same answer on every machine.
    public func seed(_ seed: UInt64) async { await ask { chat in eg_session_seed(eg_chat_session(chat.raw), seed) } }

    /// Who goes first when several chats and voices of a model compute at the same time: the higher one, from -1000 to 1000. 0 at first.
    public func setPriority(_ priority: Int) async throws {
        try await perform { chat in
            try check { eg_session_set_priority(eg_chat_session(chat.raw), Int32(clamping: priority), $0) }
        }
    }

    /// The tokens that the model has seen and said; -1 for those of pictures and sounds.
    public var tokens: [Int32] {
        get async {
            await ask { chat in
                let session = eg_chat_session(chat.raw)
                var ids = [Int32](repeating: 0, count: eg_session_position(session))
                let n = eg_session_get_tokens(session, 0, &ids, ids.count)
                return Array(ids.prefix(n))
            }
        }
    }

    // MARK: Answers

    /// Appends a user's message and answers it; see ``answer(sampling:)``.
    public func send(_ content: String, sampling: Sampling = .recommended) -> AsyncThrowingStream<ChatEvent, Error> {
        stream(sampling) { chat in
            try withTexts(["user", content]) { texts in
                try check { eg_chat_add_text(chat.raw, texts[0]!, texts[1]!, $0) }
            }
        }
    }

    /// The answer to the last message, event by event, from the moment of this call. When the task that reads it is cancelled, or
    /// reads no further, the answer ends within one layer; what was said until then is in the history.
    ///
    /// The stream throws `EdgeGemmaError`: `.state` if there is no message to answer, `.context` as the options say.
    public func answer(sampling: Sampling = .recommended) -> AsyncThrowingStream<ChatEvent, Error> {
        stream(sampling) { _ in }
    }

    /// Ends the answer that runs. Its stream tells `.done(.cancelled, ...)`.
    public func cancel() {
        lock.lock()
        let running = current
        lock.unlock()
        running?.stop()
    }

    private func stream(
        _ sampling: Sampling, _ prepare: @escaping @Sendable (Chat) throws -> Void
    ) -> AsyncThrowingStream<ChatEvent, Error> {
        let pointer = raw
        let stoppable = Stoppable { eg_chat_cancel(pointer) }
        return AsyncThrowingStream { continuation in
            continuation.onTermination = { _ in stoppable.stop() }
            queue.async { [self] in
                do {
                    try prepare(self)
                    try run(stoppable, sampling) { continuation.yield($0) }
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
        }
    }

    private func run(_ stoppable: Stoppable, _ sampling: Sampling, _ tell: (ChatEvent) -> Void) throws {
        guard begin(stoppable) else { return tell(.done(.cancelled, text: "")) }
        defer { end(stoppable) }
        do {
            try check { eg_chat_begin(raw, $0) }
        } catch let error as EdgeGemmaError where error.code == .cancelled {
            return tell(.done(.cancelled, text: ""))
        }
        var options = sampling.raw
        var event = eg_reply_event()
        event.struct_size = sizeOf(eg_reply_event.self)
        repeat {
            try check { eg_chat_next(raw, &options, &event, $0) }
            if let made = ChatEvent(event) { tell(made) }
        } while event.kind != .done
    }

    private func begin(_ stoppable: Stoppable) -> Bool {
        lock.lock()
        current = stoppable
        lock.unlock()
        return stoppable.begin()
    }

    private func end(_ stoppable: Stoppable) {
        stoppable.end()
        dropRequests()
        lock.lock()
        current = nil
        lock.unlock()
    }

    /// A request to cancel that came after the last call would end the next answer.
    func dropRequests() { _ = eg_session_feed_tokens(eg_chat_session(raw), nil, 0, nil) }

    // MARK: The queue

    private func perform(_ work: @escaping @Sendable (Chat) throws -> Void) async throws {
        try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, Error>) in
            queue.async { continuation.resume(with: Result { try work(self) }) }
        }
    }

    private func ask<R: Sendable>(_ work: @escaping @Sendable (Chat) -> R) async -> R {
        await withCheckedContinuation { continuation in queue.async { continuation.resume(returning: work(self)) } }
    }
}

extension ChatEvent {
    /// nil: nothing that is told.
    init?(_ event: eg_reply_event) {
        switch event.kind {
        case .text: self = .text(said(event))
        case .thought: self = .thought(said(event))
        case .call: self = .call(ToolCall(name: EdgeGemma.text(event.name), arguments: EdgeGemma.text(event.arguments)))
        case .brokenCall: self = .brokenCall(name: EdgeGemma.text(event.name), text: said(event), problem: EdgeGemma.text(event.problem))
        case .done: self = .done(Stop(event.stop), text: said(event))
        default: return nil
        }
    }
}

private func said(_ event: eg_reply_event) -> String { text(event.text, event.text_length) }

extension ChatEvent.Stop {
    init(_ stop: eg_chat_stop) {
        switch stop {
        case .toolResponse: self = .tools
        case .text: self = .stopText
        case .length: self = .length
        case .cancelled: self = .cancelled
        default: self = .model
        }
    }
}

/// Parts as C has them, with memory of their own.
private final class HeldParts {
    private(set) var structs: [eg_chat_part] = []
    private var images: [UnsafeMutablePointer<eg_image>] = []
    private var memory: [UnsafeMutableRawPointer] = []

    init(_ parts: [Chat.Part]) {
        for part in parts {
            var made = eg_chat_part()
            made.struct_size = sizeOf(eg_chat_part.self)
            switch part {
            case .text(let content):
                made.text = UnsafePointer(copy(Array(content.utf8CString)).assumingMemoryBound(to: CChar.self))
            case .sound(let samples):
                made.samples = UnsafePointer(copy(samples).assumingMemoryBound(to: Float.self))
                made.n_samples = samples.count
            case .image(let rgb, let width, let height, let maxTokens):
                let image = UnsafeMutablePointer<eg_image>.allocate(capacity: 1)
                image.initialize(to: eg_image())
                image.pointee.struct_size = sizeOf(eg_image.self)
                // Fewer bytes than the picture has are no picture: the engine refuses it.
                if width >= 0, height >= 0, rgb.count / 3 >= width.multipliedReportingOverflow(by: height).partialValue {
                    image.pointee.rgb = UnsafePointer(copy(rgb).assumingMemoryBound(to: UInt8.self))
                }
                image.pointee.width = UInt32(clamping: width)
                image.pointee.height = UInt32(clamping: height)
                image.pointee.max_tokens = UInt32(clamping: maxTokens)
                images.append(image)
                made.image = UnsafePointer(image)
            }
            structs.append(made)
        }
    }

    deinit {
        images.forEach { $0.deallocate() }
        memory.forEach { $0.deallocate() }
    }

    private func copy<T>(_ values: [T]) -> UnsafeMutableRawPointer {
        let bytes = values.count * MemoryLayout<T>.stride
        let made = UnsafeMutableRawPointer.allocate(byteCount: max(bytes, 16), alignment: 16)
        values.withUnsafeBytes { if let from = $0.baseAddress { made.copyMemory(from: from, byteCount: bytes) } }
        memory.append(made)
        return made
    }
}
