// The microphone of an iPhone, iPad or Mac as the engine takes sound. Not compiled where the project is tested: AVFoundation is
// Apple's alone.

import AVFoundation

/// Sound of the microphone: 16 kHz, one channel, in pieces of about 20 ms.
final class Microphone {
    private let engine = AVAudioEngine()

    /// Asks for permission, and begins. `take` is called on the audio thread, so it must not wait.
    func start(_ take: @escaping @Sendable ([Float]) -> Void) async throws {
        guard await AVCaptureDevice.requestAccess(for: .audio) else { throw CocoaError(.userCancelled) }
        #if os(iOS)
        let session = AVAudioSession.sharedInstance()
        try session.setCategory(.playAndRecord, mode: .voiceChat, options: [.defaultToSpeaker, .allowBluetooth])
        try session.setActive(true)
        #endif
        let input = engine.inputNode
        let from = input.outputFormat(forBus: 0)
        guard
            let to = AVAudioFormat(commonFormat: .pcmFormatFloat32, sampleRate: 16000, channels: 1, interleaved: false),
            let converter = AVAudioConverter(from: from, to: to)
        else { throw CocoaError(.featureUnsupported) }
        input.installTap(onBus: 0, bufferSize: AVAudioFrameCount(from.sampleRate / 50), format: from) { buffer, _ in
            let capacity = AVAudioFrameCount(Double(buffer.frameLength) * 16000 / from.sampleRate) + 16
            guard let out = AVAudioPCMBuffer(pcmFormat: to, frameCapacity: capacity) else { return }
            var given = false
            converter.convert(to: out, error: nil) { _, status in
                status.pointee = given ? .noDataNow : .haveData
                given = true
                return buffer
            }
            if let channel = out.floatChannelData?[0], out.frameLength > 0 {
                take(Array(UnsafeBufferPointer(start: channel, count: Int(out.frameLength))))
            }
        }
        engine.prepare()
        try engine.start()
    }

    func stop() {
        engine.inputNode.removeTap(onBus: 0)
        engine.stop()
    }
}
