// How tokens are drawn.

import CEdgeGemma

/// How a token is drawn.
public struct Sampling: Sendable {
    /// 0: the most likely token, always.
    public var temperature: Float = 0
    /// Only so many of the likeliest tokens; 0: all.
    public var topK = 0
    /// Only the likeliest tokens that reach this probability together; 0 and 1: all.
    public var topP: Float = 0
    /// Only tokens of at least this probability, relative to the likeliest.
    public var minP: Float = 0
    /// Divides the logits of recent tokens; 0 and 1: off.
    public var repetitionPenalty: Float = 0

    /// The most likely token, always: the same answer each time.
    public static let greedy = Sampling()
    /// What Gemma is recommended with.
    public static let recommended: Sampling = {
        var raw = eg_sampling()
        raw.struct_size = sizeOf(eg_sampling.self)
        eg_sampling_default(&raw)
        return Sampling(temperature: raw.temperature, topK: Int(raw.top_k), topP: raw.top_p)
    }()

    public init(
        temperature: Float = 0, topK: Int = 0, topP: Float = 0, minP: Float = 0, repetitionPenalty: Float = 0
    ) {
        self.temperature = temperature
        self.topK = topK
        self.topP = topP
        self.minP = minP
        self.repetitionPenalty = repetitionPenalty
    }

    var raw: eg_sampling {
        var raw = eg_sampling()
        raw.struct_size = sizeOf(eg_sampling.self)
        raw.temperature = temperature
        raw.top_k = UInt32(clamping: topK)
        raw.top_p = topP
        raw.min_p = minP
        raw.repetition_penalty = repetitionPenalty
        return raw
    }
}
