import EdgeGemma
import Foundation
import XCTest

/// Conversations with the models of the tests, and with the model of the demo.
final class ChatTests: XCTestCase {
    static let root = URL(fileURLWithPath: #filePath).pathComponents.dropLast(5).joined(separator: "/").dropFirst()
    static let random = "\(root)/tests/data/e2b-Q4_0.gguf"  // answers without end
    static let demo = "\(root)/edge_gemma/demo/data/demo.gguf"

    func testErrorsHaveACodeAndASentence() {
        XCTAssertThrowsError(try Model(path: "/nowhere/ü.gguf")) { error in
            let error = error as? EdgeGemmaError
            XCTAssertEqual(error?.code, .file)
            XCTAssert(error!.message.contains("/nowhere/ü.gguf"))
            XCTAssert(error!.localizedDescription.hasSuffix("."))
        }
        let model = try! Model(path: Self.random)
        var options = Chat.Options()
        options.tools = "["
        XCTAssertThrowsError(try Chat(model: model, options: options)) {
            XCTAssertEqual(($0 as? EdgeGemmaError)?.code, .format)
        }
        XCTAssertThrowsError(try Voice(model: model)) { XCTAssertEqual(($0 as? EdgeGemmaError)?.code, .unsupported) }
        XCTAssertThrowsError(try model.setThreads(1000))
    }

    func testAModelTellsWhatItIsAndGivesMemoryBack() throws {
        let model = try Model(path: Self.demo)
        XCTAssertFalse(model.info.hears)
        XCTAssertGreaterThan(model.info.parameters, 0)
        XCTAssertGreaterThan(model.memory.mapped, 0)
        model.trim()
        XCTAssertEqual(model.memory.workspace, 0)
        XCTAssertFalse(Model.version.isEmpty || Model.instructionSet.isEmpty)
        XCTAssertEqual(Sampling.recommended.topK, 64)
    }

    func testTheLogTellsWhatWasChosen() throws {
        final class Lines: @unchecked Sendable { var all: [String] = [] }
        let lines = Lines()
        var options = Model.Options()
        options.threads = 2
        options.log = { lines.all.append($0) }
        _ = try Model(path: Self.random, options: options)
        XCTAssertEqual(lines.all.count, 1)
        XCTAssert(lines.all[0].contains("\(Model.instructionSet) kernels, 2 threads"))
    }

    func testTheSameSeedGivesTheSameAnswer() async throws {
        var options = Chat.Options()
        options.maxTokens = 20
        let chat = try Chat(model: Model(path: Self.random), options: options)
        try await chat.setPriority(-5)
        var answers: [String] = []
        for seed: UInt64 in [7, 7, 8] {
            try await chat.truncate(to: 0)
            await chat.seed(seed)
            for try await event in chat.send("Hello") {
                if case .done(_, let text) = event { answers.append(text) }
            }
        }
        XCTAssertEqual(answers[0], answers[1])
        XCTAssertNotEqual(answers[0], answers[2])
    }

    func testAVoiceWithADetectorAndNoChatTellsWords() async throws {
        final class Count: @unchecked Sendable { var blocks = 0 }
        let count = Count()
        let folder = "\(Self.root)/edge_gemma/demo/data"
        let model = try Model(path: Self.demo, encoders: "\(folder)/demo-mmproj.gguf")
        var options = Voice.Options()
        options.partial = -1
        options.detect = { block in
            count.blocks += 1
            return block.contains { abs($0) > 0.02 } ? 1 : 0
        }
        let voice = try Voice(model: model, options: options)
        let wav = try Data(contentsOf: URL(fileURLWithPath: "\(folder)/utterances/1-en.wav"))
        let sound = wav.dropFirst(44).withUnsafeBytes { $0.bindMemory(to: Int16.self).map { Float($0) / 32768 } }
        let events = voice.events()
        let reader = Task {
            for try await event in events { if case .words(let words) = event { return words } }
            return ""
        }
        voice.cancel()  // with nothing to cancel; the next turn is heard all the same
        for _ in 0..<2 { await voice.hear([Float](repeating: 0, count: 8000)) }
        await voice.hear(sound)
        await voice.finish()
        let words = try await reader.value
        XCTAssertEqual(words.lowercased().split(separator: " ").first, "turn")
        XCTAssertGreaterThan(count.blocks, 20)
    }

    func testAnAnswerComesInPiecesAndStaysInTheHistory() async throws {
        var options = Chat.Options()
        options.maxTokens = 12
        options.context = 256
        let chat = try Chat(model: Model(path: Self.random), options: options)
        var pieces = ""
        var ends: [ChatEvent] = []
        for try await event in chat.send("Hello", sampling: .greedy) {
            if case .text(let piece) = event { pieces += piece }
            if case .done = event { ends.append(event) }
        }
        XCTAssertEqual(ends.count, 1)
        guard case .done(.length, let whole)? = ends.first else { return XCTFail("\(ends)") }
        XCTAssertEqual(pieces.trimmingCharacters(in: .whitespacesAndNewlines), whole)
        let history = await chat.history
        XCTAssertEqual(history.count, 2)
        XCTAssert(history[1].contains("assistant"))
        let copy = try Chat(model: Model(path: Self.random), options: options)
        for message in history { try await copy.addMessage(json: message) }
        let copied = await copy.history
        XCTAssertEqual(copied, history)
        try await copy.truncate(to: 0)
        let left = await copy.history.count
        XCTAssertEqual(left, 0)
    }

    func testReadingNoFurtherEndsTheAnswer() async throws {
        var options = Chat.Options()
        options.context = 512
        let chat = try Chat(model: Model(path: Self.random), options: options)
        for try await event in chat.send("Hello", sampling: .greedy) {
            if case .text = event { break }
        }
        let tokens = await chat.tokens.count  // after the answer has ended, since both are done in order
        XCTAssertLessThan(tokens, 500)
        var after = 0
        for try await event in chat.send("And?", sampling: .greedy) {
            if case .text = event { after += 1 }
            if case .done(let stop, _) = event { XCTAssertEqual(stop, .length) }
        }
        XCTAssertGreaterThan(after, 10)  // the request to cancel was used up
    }

    func testACancelledTaskEndsTheAnswer() async throws {
        let chat = try Chat(model: Model(path: Self.random))
        let reader = Task {
            var n = 0
            for try await event in chat.send("Hello", sampling: .greedy) {
                if case .text = event { n += 1 }
                if n == 3 { withUnsafeCurrentTask { $0?.cancel() } }
            }
            return n
        }
        let read = try await reader.value
        XCTAssertGreaterThanOrEqual(read, 3)
        let tokens = await chat.tokens.count
        XCTAssertLessThan(tokens, 4000)
    }

    func testPicturesAreRefusedByAModelThatDoesNotSee() async throws {
        let chat = try Chat(model: Model(path: Self.random))
        do {
            try await chat.add([.image(rgb: [UInt8](repeating: 9, count: 48 * 48 * 3), width: 48, height: 48)])
            XCTFail("it was taken")
        } catch let error as EdgeGemmaError {
            XCTAssertEqual(error.code, .unsupported)
        }
        let seeing = try Chat(
            model: Model(path: Self.random, encoders: "\(Self.root)/tests/data/vision-e2b.gguf"))
        let rgb = [UInt8](repeating: 9, count: 48 * 48 * 3)
        try await seeing.add([.image(rgb: rgb, width: 48, height: 48, maxTokens: 70), .text("What is this?")])
        do {
            try await seeing.add([.image(rgb: [1, 2, 3], width: 48, height: 48)])
            XCTFail("it was taken")
        } catch let error as EdgeGemmaError {
            XCTAssertEqual(error.code, .argument)
        }
    }

    func testASessionRunsTools() async throws {
        final class Lamp: Tool, @unchecked Sendable {
            var asked: [String] = []
            let name = "set_light"
            let description = "Turns a light on or off"
            let parameters: String? =
                #"{"type":"object","properties":{"room":{"type":"string","description":"The room"},"on":{"type":"boolean","description":"On or off"}},"required":["room","on"]}"#
            func call(arguments: Data) async throws -> String {
                asked.append(String(decoding: arguments, as: UTF8.self))
                return "done"
            }
        }
        let lamp = Lamp()
        let session = try ModelSession(
            model: Model(path: Self.demo), tools: [lamp], instructions: "You run a house.", sampling: .greedy)
        // The model of the demo knows its own tools alone; what it does with another one is its own affair, but it ends.
        let response = try await session.respond(to: "Turn on the kitchen light.")
        XCTAssertEqual(response.calls.filter { $0.name == "set_light" }.count, lamp.asked.count)
        var last = ""
        for try await snapshot in session.streamResponse(to: "Thank you") {
            XCTAssert(snapshot.hasPrefix(last))
            last = snapshot
        }
    }
}
