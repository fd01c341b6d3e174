// The voice turn: sound in, words and answers out.

import CEdgeGemma
import Dispatch
import Foundation

/// What a voice tells.
public enum VoiceEvent: Sendable, Equatable {
    /// Somebody begins to speak; seconds of sound since the beginning.
    case speech(at: Double)
    /// The words so far; each replaces those before.
    case partial(String)
    /// The speaker is silent, perhaps for good.
    case pause(at: Double)
    /// And goes on.
    case resume(at: Double)
    /// The turn is over: all of its words; "" if there were none, and then there is no answer.
    case words(String)
    /// An event of the chat's answer.
    case answer(ChatEvent)
}

/// What somebody says becomes words, and the words become an answer of a chat.
///
/// ```swift
/// let voice = try Voice(model: model, chat: chat)
/// microphone.start { voice.push($0) }
/// for try await event in voice.events() {
///     if case .words(let text) = event { ... }
/// }
/// ```
///
/// Sound is encoded while it is spoken, and a pause already begins the answer. Somebody who speaks during an answer interrupts it.
/// When a tool was called and its answer is done, give the result with ``result(of:json:)``, and the answer goes on. While the
/// events are read, the chat is the voice's.
public final class Voice: @unchecked Sendable {
    public struct Options: Sendable {
        /// Seconds of silence that end a turn; 0: 0.7.
        public var silence: Float = 0
        /// Seconds that make a pause; 0: 0.25.
        public var pause: Float = 0
        /// The longest turn in seconds; 0: 28.
        public var maxSeconds: Float = 0
        /// Seconds of sound between two partial transcripts; 0: 0.5; negative: none.
        public var partial: Float = 0
        /// What the model is asked about the sound; nil: to transcribe it.
        public var request: String?
        /// The probability of speech in a block of 512 samples, for a detector of your own; nil: a comparison of levels. It is called on
        /// the voice's queue.
        public var detect: (@Sendable (UnsafeBufferPointer<Float>) -> Float)?
        /// How answers are drawn.
        public var sampling = Sampling.recommended

        public init() {}
    }

    private enum Item {
        case sound([Float])
        case finish
        case result(tool: String, json: String)
        case heard(CheckedContinuation<Void, Never>)
    }

    private final class Detector {
        let rate: @Sendable (UnsafeBufferPointer<Float>) -> Float
        init(_ rate: @escaping @Sendable (UnsafeBufferPointer<Float>) -> Float) { self.rate = rate }
    }

    private let raw: OpaquePointer
    private let detector: Detector?
    private let chat: Chat?
    private let queue: DispatchQueue
    private let sampling: Sampling
    private let lock = NSLock()
    // Under the lock:
    private var inbox: [Item] = []
    private var first = 0
    private var works = false
    private var stepAgain = false
    private var continuation: AsyncThrowingStream<VoiceEvent, Error>.Continuation?
    // On the queue:
    private var waiting: [CheckedContinuation<Void, Never>] = []

    /// Opens a voice. Without a chat it tells words alone.
    ///
    /// - Throws: `EdgeGemmaError`: `.unsupported` if the model does not hear.
    public init(model: Model, chat: Chat? = nil, options: Options = Options()) throws {
        var opened: OpaquePointer?
        let detector = options.detect.map(Detector.init)
        try withTexts([options.request]) { texts in
            var params = eg_voice_params()
            params.struct_size = sizeOf(eg_voice_params.self)
            params.chat = chat?.raw
            params.request = texts[0]
            params.silence = options.silence
            params.pause = options.pause
            params.max_seconds = options.maxSeconds
            params.partial = options.partial
            if let detector {
                params.detect_context = Unmanaged.passUnretained(detector).toOpaque()
                params.detect = { context, block in
                    let sound = UnsafeBufferPointer(start: block, count: 512)
                    return Unmanaged<Detector>.fromOpaque(context!).takeUnretainedValue().rate(sound)
                }
            }
            try check { eg_voice_open(model.raw, &params, &opened, $0) }
        }
        raw = opened!
        self.detector = detector
        self.chat = chat
        sampling = options.sampling
        queue = chat?.queue ?? DispatchQueue(label: "edge_gemma.voice", qos: .userInitiated)
    }

    deinit { eg_voice_close(raw) }

    /// The events, from the moment of this call; a second call ends the stream of the first. When the task that reads them is
    /// cancelled, the turn is dropped and the answer ends. An error of the engine ends the stream; the voice can be used again.
    public func events() -> AsyncThrowingStream<VoiceEvent, Error> {
        AsyncThrowingStream { made in
            lock.lock()
            let before = continuation
            continuation = made
            lock.unlock()
            before?.finish()
            made.onTermination = { [weak self] reason in
                if case .cancelled = reason { self?.cancel() }
            }
        }
    }

    /// Takes sound: 16 kHz, one channel, in [-1, 1]. Returns at once; the work is done elsewhere, so a microphone's thread may call it.
    public func push(_ samples: [Float]) { put(.sound(samples)) }

    /// Takes sound, and returns when there is nothing left to do with it. For sound that need not wait for time to pass: a file.
    public func hear(_ samples: [Float]) async {
        put(.sound(samples))
        await withCheckedContinuation { put(.heard($0)) }
    }

    /// The sound has ended, and with it an open turn. Returns when its answer is over.
    public func finish() async {
        put(.finish)
        await withCheckedContinuation { put(.heard($0)) }
    }

    /// The result of a tool that the last answer has called: JSON of any type. The answer goes on.
    public func result(of tool: String, json: String) { put(.result(tool: tool, json: json)) }

    /// Drops the turn and ends the answer. From any thread.
    public func cancel() {
        eg_voice_cancel(raw)
        wake { stepAgain = true }  // or the next turn would find the request
    }

    // MARK: The loop

    private func put(_ item: Item) { wake { inbox.append(item) } }

    /// Makes a change under the lock, after which there is work.
    private func wake(_ change: () -> Void) {
        lock.lock()
        change()
        let idle = !works
        works = true
        lock.unlock()
        if idle { queue.async { self.work() } }
    }

    private func take() -> Item? {
        lock.lock()
        defer { lock.unlock() }
        guard first < inbox.count else { return nil }
        defer { first += 1 }
        if first > 64 {
            inbox.removeFirst(first)
            first = 0
        }
        return inbox[first]
    }

    /// One piece of work, and the order for the next. Sound goes first; a wait for the end of the work goes last.
    private func work() {
        do {
            if let item = take() {
                try act(on: item)
            } else if try step() {
                let done = waiting
                waiting = []
                done.forEach { $0.resume() }
                lock.lock()
                works = first < inbox.count || stepAgain
                stepAgain = false
                let goOn = works
                lock.unlock()
                if !goOn { return }
            }
        } catch {
            lock.lock()
            let stream = continuation
            continuation = nil
            lock.unlock()
            stream?.finish(throwing: error)
        }
        queue.async { self.work() }
    }

    private func act(on item: Item) throws {
        switch item {
        case .sound(let samples):
            try samples.withUnsafeBufferPointer { sound in
                try check { eg_voice_push(raw, sound.baseAddress, sound.count, $0) }
            }
        case .finish: try check { eg_voice_finish(raw, $0) }
        case .result(let tool, let json):
            try chat?.addResultNow(of: tool, json: json)
            try check { eg_voice_answer(raw, $0) }
        case .heard(let continuation): waiting.append(continuation)
        }
    }

    /// Whether there was nothing to do.
    private func step() throws -> Bool {
        var options = sampling.raw
        var event = eg_voice_event()
        event.struct_size = sizeOf(eg_voice_event.self)
        try check { eg_voice_step(raw, &options, &event, $0) }
        guard event.kind != .idle else { return true }
        guard let made = VoiceEvent(event) else { return false }
        lock.lock()
        let stream = continuation
        lock.unlock()
        stream?.yield(made)
        return false
    }
}

extension VoiceEvent {
    /// nil: nothing that is told.
    init?(_ event: eg_voice_event) {
        let said = EdgeGemma.text(event.text, event.text_length)
        switch event.kind {
        case .speech: self = .speech(at: event.time)
        case .partial: self = .partial(said)
        case .pause: self = .pause(at: event.time)
        case .resume: self = .resume(at: event.time)
        case .words: self = .words(said)
        case .answer:
            guard let answer = event.answer, let made = ChatEvent(answer.pointee) else { return nil }
            self = .answer(made)
        default: return nil
        }
    }
}
