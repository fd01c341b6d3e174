// A voice turn from a file: partial words, a tool call, its result, what to say; then the same sound again, and the task that reads
// the events ends in the middle of the answer.
//
//     voice-turn MODEL ENCODERS TOOLS.json INSTRUCTIONS SAMPLES        samples: 32-bit floats, 16 kHz, one channel

import EdgeGemma
import Foundation

let arguments = CommandLine.arguments
guard arguments.count == 6 else { fatalError("voice-turn MODEL ENCODERS TOOLS.json INSTRUCTIONS SAMPLES") }
let bytes = try Data(contentsOf: URL(fileURLWithPath: arguments[5]))
let sound = bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }

let model = try Model(path: arguments[1], encoders: arguments[2])
var chatOptions = Chat.Options()
chatOptions.context = 2048
chatOptions.tools = try String(contentsOfFile: arguments[3], encoding: .utf8)
chatOptions.system = arguments[4]
let chat = try Chat(model: model, options: chatOptions)
var voiceOptions = Voice.Options()
voiceOptions.sampling = .greedy
let voice = try Voice(model: model, chat: chat, options: voiceOptions)

func speak() async {
    for start in stride(from: 0, to: sound.count, by: 320) {  // 20 ms, as a microphone gives them
        await voice.hear(Array(sound[start..<min(start + 320, sound.count)]))
    }
    await voice.finish()
}

/// Reads events until the answer is done that calls no tool. cancel: reads no further than the first text.
@Sendable func listen(to events: AsyncThrowingStream<VoiceEvent, Error>, cancel: Bool) async throws {
    var called: ToolCall?
    for try await event in events {
        switch event {
        case .speech: print("speech")
        case .partial(let words): print("partial", words)
        case .pause: print("pause")
        case .resume: break
        case .words(let words): print("words", words)
        case .answer(.text(let piece)): if cancel { return print("stopped at", piece) }
        case .answer(.call(let call)):
            print("call", call.name, call.arguments)
            called = call
        case .answer(.done(let stop, let reply)):
            print("done", stop.rawValue, reply)
            guard let call = called else { return }
            voice.result(of: call.name, json: "\"done\"")
            called = nil
        case .answer: break
        }
    }
}

for cancel in [false, true] {
    try await chat.truncate(to: 0)  // each turn is a conversation of its own
    let events = voice.events()
    async let end: Void = listen(to: events, cancel: cancel)
    await speak()
    try await end
    if !cancel { print("tokens", (await chat.tokens).map(String.init).joined(separator: " ")) }
}
await voice.finish()
print("messages", (await chat.history).count)
