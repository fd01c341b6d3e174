// A whole screen: hold a conversation by voice, with one tool. Not compiled where the project is tested: SwiftUI is Apple's alone.
//
// Info.plist needs NSMicrophoneUsageDescription. The model's files are in the application's bundle, or were downloaded before.

import EdgeGemma
import SwiftUI

@MainActor
final class Talk: ObservableObject {
    struct Line: Identifiable {
        let id = UUID()
        let isUser: Bool
        var text: String
    }

    @Published private(set) var lines: [Line] = []
    /// What is being said.
    @Published private(set) var partial = ""
    @Published private(set) var state = "Opening the model"
    @Published private(set) var brightness = 0

    private let microphone = Microphone()
    private var voice: Voice?
    private var reader: Task<Void, Never>?

    private nonisolated static let tools = #"""
        [{"name": "set_brightness", "description": "Sets the brightness of the lamp",
          "parameters": {"type": "object", "properties": {"percent": {"type": "integer", "description": "0 to 100"}},
                         "required": ["percent"]}}]
        """#

    func start() {
        guard reader == nil else { return }
        reader = Task {
            do {
                try await run()
            } catch is CancellationError {
            } catch {
                state = error.localizedDescription
            }
            microphone.stop()
            reader = nil
        }
    }

    /// Leaving the screen: the task ends, and with it the answer that runs.
    func stop() { reader?.cancel() }

    private func run() async throws {
        guard
            let file = Bundle.main.path(forResource: "model", ofType: "gguf"),
            let encoders = Bundle.main.path(forResource: "mmproj", ofType: "gguf")
        else { throw EdgeGemmaError(code: .file, message: "model.gguf and mmproj.gguf are not in the bundle.") }
        let (voice, events) = try await Task.detached {
            let model = try Model(path: file, encoders: encoders)
            var options = Chat.Options()
            options.system = "You are a lamp. Answer in one sentence."
            options.tools = Self.tools
            let voice = try Voice(model: model, chat: Chat(model: model, options: options))
            return (voice, voice.events())
        }.value
        self.voice = voice
        try await microphone.start { voice.push($0) }
        state = "Listening"
        var called: [ToolCall] = []
        for try await event in events {
            switch event {
            case .speech: state = "Hearing"
            case .partial(let words): partial = words
            case .pause, .resume: break
            case .words(let words):
                partial = ""
                state = words.isEmpty ? "Listening" : "Thinking"
                if !words.isEmpty { lines += [Line(isUser: true, text: words), Line(isUser: false, text: "")] }
            case .answer(.text(let piece)): lines[lines.count - 1].text += piece
            case .answer(.call(let call)): called.append(call)
            case .answer(.done):
                state = "Listening"
                for call in called { voice.result(of: call.name, json: act(on: call)) }
                called = []
            case .answer: break
            }
        }
    }

    /// Runs a tool; its result as JSON. The model's arguments are checked first.
    private func act(on call: ToolCall) -> String {
        struct Arguments: Decodable { let percent: Int }
        guard
            call.name == "set_brightness",
            let arguments = try? JSONDecoder().decode(Arguments.self, from: Data(call.arguments.utf8)),
            (0...100).contains(arguments.percent)
        else { return #"{"error": "percent must be a number from 0 to 100"}"# }
        brightness = arguments.percent
        return #"{"ok": true}"#
    }
}

struct TalkView: View {
    @StateObject private var talk = Talk()

    var body: some View {
        VStack(alignment: .leading) {
            Text(talk.state).font(.caption).foregroundStyle(.secondary)
            ScrollView {
                ForEach(talk.lines) { line in
                    Text(line.text)
                        .frame(maxWidth: .infinity, alignment: line.isUser ? .trailing : .leading)
                        .padding(4)
                }
            }
            Text(talk.partial).italic()
            ProgressView(value: Double(talk.brightness), total: 100)
        }
        .padding()
        .onAppear { talk.start() }
        .onDisappear { talk.stop() }
    }
}
