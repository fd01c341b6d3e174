// A session with tools that run by themselves, in the shape of Foundation Models' LanguageModelSession, so that code for one is
// soon code for the other: instructions, tools, respond(to:), streamResponse(to:).

import Foundation

/// What the model may call.
public protocol Tool: Sendable {
    var name: String { get }
    var description: String { get }
    /// A JSON Schema of the arguments, an object; nil: there are none.
    var parameters: String? { get }
    /// Runs the tool. arguments: a JSON object, as the model wrote it. The result is text for the model. An error is told to the model,
    /// which may try again.
    func call(arguments: Data) async throws -> String
}

/// A conversation that runs the tools that the model calls.
///
/// ```swift
/// let session = try ModelSession(model: model, tools: [Lamp()], instructions: "You run a house.")
/// let response = try await session.respond(to: "Light in the hall, please")
/// print(response.content)
/// ```
public actor ModelSession {
    public struct Response: Sendable {
        public let content: String
        /// The calls that were made for it.
        public let calls: [ToolCall]
    }

    public let chat: Chat
    private let tools: [String: any Tool]
    private let sampling: Sampling
    /// Answers to one prompt, at most: a model that calls tools without end is stopped.
    private let rounds = 8

    /// - Throws: `EdgeGemmaError`, as ``Chat/init(model:options:)`` does.
    public init(
        model: Model, tools: [any Tool] = [], instructions: String? = nil, sampling: Sampling = .recommended,
        options: Chat.Options = Chat.Options()
    ) throws {
        var options = options
        options.system = instructions ?? options.system
        if !tools.isEmpty { options.tools = try Self.declarations(of: tools) }
        chat = try Chat(model: model, options: options)
        self.tools = Dictionary(tools.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
        self.sampling = sampling
    }

    /// The whole answer, tools included. When the task is cancelled, the answer ends and `CancellationError` is thrown.
    public func respond(to prompt: String) async throws -> Response {
        try await answer(prompt) { _ in }
    }

    /// The answer so far, again and again, as Foundation Models' snapshots are.
    public nonisolated func streamResponse(to prompt: String) -> AsyncThrowingStream<String, Error> {
        AsyncThrowingStream { continuation in
            let task = Task {
                do {
                    _ = try await self.answer(prompt) { continuation.yield($0) }
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
            continuation.onTermination = { _ in task.cancel() }
        }
    }

    /// tell: is told the text so far.
    private func answer(_ prompt: String, _ tell: @Sendable (String) -> Void) async throws -> Response {
        var made: [ToolCall] = []
        try await chat.add(prompt)
        for _ in 0..<rounds {
            var text = ""
            var asked: [(name: String, run: ToolCall?, problem: String)] = []
            for try await event in chat.answer(sampling: sampling) {
                switch event {
                case .text(let piece):
                    text += piece
                    tell(text)
                case .call(let call): asked.append((call.name, call, ""))
                case .brokenCall(let name, _, let problem): asked.append((name, nil, problem))
                case .done(_, let whole): text = whole
                case .thought: break
                }
            }
            try Task.checkCancellation()
            if asked.isEmpty { return Response(content: text, calls: made) }
            for call in asked {
                let result = await run(call.name, call.run, call.problem)
                try await chat.addResult(of: call.name, json: result)
                if let run = call.run { made.append(run) }
            }
        }
        throw EdgeGemmaError(code: .state, message: "the model has called tools \(rounds) times in a row: ask for less.")
    }

    /// The result as JSON.
    private func run(_ name: String, _ call: ToolCall?, _ problem: String) async -> String {
        guard let call else { return Self.json(["error": problem]) }
        guard let tool = tools[name] else { return Self.json(["error": "There is no tool of the name \(name)."]) }
        do {
            return Self.json(["result": try await tool.call(arguments: Data(call.arguments.utf8))])
        } catch {
            return Self.json(["error": error.localizedDescription])
        }
    }

    private static func json(_ value: [String: String]) -> String {
        guard let data = try? JSONEncoder().encode(value) else { return "{}" }
        return String(decoding: data, as: UTF8.self)
    }

    private static func declarations(of tools: [any Tool]) throws -> String {
        let all = tools.map { tool in
            let described = json(["name": tool.name, "description": tool.description]).dropLast()
            return tool.parameters.map { "\(described),\"parameters\":\($0)}" } ?? "\(described)}"
        }
        return "[\(all.joined(separator: ","))]"
    }
}
